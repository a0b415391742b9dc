//! How the scripted engine takes commands, and what they were in words, as tests compare them.

use std::time::Duration;

use plimsoll_planner::Account;

use super::{Inner, Scripted};
use crate::engine::control::{Command, Commands, ControlError, Woken};
use crate::engine::dynamic::{AdapterInSlot, AdapterRefused};
use crate::engine::handle::EngineState;
use crate::engine::size::Resized;
use crate::engine::weights::{Abandoned, Updated};
use crate::forward::WeightCheck;

fn said(command: &Command) -> String {
    match command {
        Command::Pause {
            mode, clear_cache, ..
        } => format!("pause {} {clear_cache}", mode.name()),
        Command::Sleep { level, mode, .. } => {
            format!("sleep {} {}", level.number(), mode.name())
        }
        Command::Wake { tags, .. } => format!("wake {} {}", tags.weights, tags.kv_cache),
        Command::ResetPrefixCache { running, .. } => format!("reset {running}"),
        Command::Resume(_) => "resume".to_owned(),
        Command::ReleaseKvCache(_) => "release".to_owned(),
        Command::CheckWeights(_) => "check".to_owned(),
        Command::Update { version, mode, .. } => {
            let version = version.as_deref().unwrap_or("-");
            format!("update {version} {}", mode.name())
        }
        Command::OpenPush { whole, mode, .. } => {
            format!("open {whole} {}", mode.name())
        }
        Command::WritePush { piece, .. } => {
            format!("write {} {:?}", piece.tensor().name, piece.rows())
        }
        Command::ClosePush { version, .. } => {
            format!("close {}", version.as_deref().unwrap_or("-"))
        }
        Command::AbandonPush { why, .. } => format!("abandon: {why}"),
        Command::NameWeights { version, .. } => format!("name {version}"),
        Command::LoadAdapter {
            adapter, in_place, ..
        } => format!("load {} {in_place}", adapter.at.name),
        Command::UnloadAdapter { name, .. } => format!("unload {name}"),
        Command::Resize { size, .. } => format!("resize {}", size.plan.kv_blocks),
    }
}

impl Inner {
    /// Keeps what others see of pauses and sleeps, as the engine would.
    fn rest(&mut self, command: Command) {
        let rest = &mut self.rest;
        self.obeyed.push(said(&command));
        match command {
            Command::Pause { asker, .. } => {
                rest.paused = true;
                asker.answer(Ok(()));
            }
            Command::Resume(asker) => {
                rest.paused = false;
                asker.answer(Ok(()));
            }
            Command::Sleep { level, asker, .. } => {
                rest.level = Some(level);
                rest.out = [Account::KvCache, Account::Weights].to_vec();
                rest.out.retain(|account| level.tags().holds(*account));
                asker.answer(Ok(()));
            }
            Command::ReleaseKvCache(asker) if rest.paused => asker.answer(Ok(())),
            Command::ReleaseKvCache(asker) => {
                let message = "not paused".to_owned();
                asker.answer(Err(ControlError::WrongState { message }));
            }
            Command::Wake { asker, .. } if self.bad_wakes > 0 => {
                self.bad_wakes -= 1;
                let message = "the memory is taken".to_owned();
                asker.answer(Err(ControlError::NotWoken { message }));
            }
            Command::Wake { asker, .. } if rest.updating && !rest.out.is_empty() => {
                let message = "an update is open".to_owned();
                asker.answer(Err(ControlError::WrongState { message }));
            }
            Command::Wake { tags, asker, .. } => {
                rest.out.retain(|account| !tags.holds(*account));
                rest.level = rest.level.filter(|_| !rest.out.is_empty());
                let asleep = rest.is_sleeping();
                asker.answer(Ok(Woken { asleep }));
            }
            Command::ResetPrefixCache { asker, .. } => asker.answer(Ok(())),
            Command::Update { version, asker, .. } => {
                self.weights.version = version.unwrap_or(self.weights.version.clone());
                let version = self.weights.version.clone();
                self.weights.source_version.clone_from(&version);
                asker.answer(Ok(Updated { version, held: 3 }));
            }
            Command::OpenPush { asker, .. } => {
                rest.updating = true;
                asker.answer(Ok(()));
            }
            Command::WritePush { asker, .. } => asker.answer(Ok(())),
            Command::ClosePush { version, asker } => {
                rest.updating = false;
                let version = version.unwrap_or_default();
                asker.answer(Ok(Updated { version, held: 0 }));
            }
            Command::AbandonPush { asker, .. } if self.full > 0 => {
                self.full -= 1;
                asker.answer(Err(ControlError::QueueFull {
                    limit: 16,
                    retry_after: Duration::from_millis(1),
                }));
            }
            Command::AbandonPush { asker, .. } => {
                rest.updating = false;
                asker.answer(Ok(Abandoned::OutOfService));
            }
            Command::NameWeights { version, asker } => {
                self.weights.source_version.clone_from(&version);
                self.weights.version = version;
                asker.answer(Ok(()));
            }
            Command::LoadAdapter {
                adapter,
                in_place,
                asker,
            } => {
                let name = adapter.at.name.clone();
                let loaded = self.dynamic.serves(&name);
                self.dynamic.adapters.retain(|of| of.name != name);
                self.dynamic.adapters.push(AdapterInSlot {
                    path: adapter.at.path.clone(),
                    scale: adapter.at.scale,
                    digest: adapter.digest.clone(),
                    rank: adapter.rank,
                    matrices: adapter.matrices,
                    slot: 0,
                    load: 1,
                    leaving: false,
                    answers_change: Some(0.5),
                    name: name.clone(),
                });
                asker.answer(match loaded && !in_place {
                    true => Err(AdapterRefused::Loaded { name }.into()),
                    false => Ok(()),
                });
            }
            Command::UnloadAdapter { name, asker } => {
                let loaded = self.dynamic.serves(&name);
                self.dynamic.adapters.retain(|of| of.name != name);
                asker.answer(match loaded {
                    true => Ok(()),
                    false => Err(AdapterRefused::Unknown { name }.into()),
                });
            }
            Command::Resize { size, asker } => asker.answer(Ok(Resized {
                kv_blocks: size.plan.kv_blocks,
                moved: 0,
                preempted: 0,
            })),
            Command::CheckWeights(asker) => asker.answer(Ok(Vec::new())),
        }
    }
}

impl Commands for Scripted {
    /// A check finds that rank 1 has lost something.
    fn command(&self, command: Command) {
        let rank = |changed: &[&str]| WeightCheck {
            tensors: 3,
            bytes: 700,
            checksum: 0xab,
            sums: vec![("Head".to_owned(), 0xab), ("Embedding".to_owned(), 0xcd)],
            changed: changed.iter().map(|name| (*name).to_owned()).collect(),
            changed_tables: Vec::new(),
        };
        match (&*self.state.borrow(), command) {
            (EngineState::Loading, command) => command.refuse(ControlError::Loading),
            (EngineState::Draining, command) => self.lock().commands.push(command),
            (EngineState::Drained | EngineState::Failed { .. }, command) => drop(command),
            (_, Command::CheckWeights(asker)) => {
                asker.answer(Ok(vec![rank(&[]), rank(&["Head"; 20])]));
            }
            (_, command) => self.lock().rest(command),
        }
    }
}
