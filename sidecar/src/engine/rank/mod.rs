//! One thread per rank: it owns the rank's memory, threads and place in the group.
//!
//! A rank speaks in messages only. Whatever ends its thread early, an error, a panic or a bug,
//! the group is poisoned (so no other rank waits for it) and the engine is told.

mod residents;
mod restore;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread;

use plimsoll_kernels::comm::{Collective, Exchange, Member};
use plimsoll_kernels::device::Cpu;
use plimsoll_kernels::isa::Isa;
use plimsoll_kernels::pool::Pool;
use plimsoll_planner::{Account, Bytes, Plan, Request};

use crate::adapters::{Beside, Dynamic};
use crate::engine::handle::{Shared, lock};
use crate::forward::cpu::{CpuRank, Host};
use crate::forward::input::StepInput;
use crate::forward::resize::NewCache;
use crate::forward::{Forward, StepOutput, WeightCheck};
use crate::model::{Model, Replacement};
use crate::weights::piece::Piece;
use residents::Residents;
use restore::{resize, restore};

/// What the engine asks of a rank.
#[derive(Debug)]
pub(in crate::engine) enum Ask {
    /// Join the group, then read the weights.
    Load(Member),
    /// Run the step whose input lies in `slot`; `output` comes back with the answer.
    Step { slot: usize, output: StepOutput },
    /// Compare the weights with what was loaded.
    CheckWeights,
    /// Write these weights over those there are.
    Overwrite(Arc<Replacement>),
    /// Write some rows of a tensor over those there are.
    Write(Arc<Piece>),
    /// The weights there are are the measure from now on, and a restore reads these; None: nothing has
    /// them, and no restore reads.
    Adopt(Option<Arc<Replacement>>),
    /// Give back the memory of these accounts; what is given back already stays so.
    Release(Arc<[Account]>),
    /// Take the memory of these accounts again, all or nothing, and fill it: weights where `reads`.
    Restore {
        accounts: Arc<[Account]>,
        reads: bool,
    },
    /// Write an adapter into a slot, or empty it.
    PutAdapter {
        slot: usize,
        adapter: Option<Arc<Dynamic>>,
    },
    /// Add these adapters to every row of the next steps; None: no more.
    LayBeside(Option<Arc<Beside>>),
    /// Take or give back the end of the KV cache.
    Resize(Arc<NewCache>),
}

/// What moved on one rank, account by account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::engine) struct Moved(pub(in crate::engine) Vec<(Account, Bytes)>);

impl Moved {
    pub(in crate::engine) fn total(ranks: &[Moved]) -> u64 {
        let of = |moved: &Moved| moved.0.iter().map(|(_, bytes)| bytes.get()).sum::<u64>();
        ranks.iter().map(of).sum()
    }

    /// `rank 0: Weights 12, KVCache 7; rank 1: …`, in bytes.
    pub(in crate::engine) fn shown(ranks: &[Moved]) -> String {
        let rank = |(rank, moved): (usize, &Moved)| {
            let told = moved.0.iter();
            let told = told.filter(|row| **row != (Account::Offload, Bytes::ZERO));
            let accounts: Vec<String> = told
                .map(|(account, bytes)| format!("{} {}", account.name(), bytes.get()))
                .collect();
            format!("rank {rank}: {}", accounts.join(", "))
        };
        let ranks: Vec<String> = ranks.iter().enumerate().map(rank).collect();
        ranks.join("; ")
    }
}

/// What a rank answers.
#[derive(Debug)]
pub(in crate::engine) enum Answer {
    Reserved {
        rank: usize,
        exchange: Exchange,
    },
    Loaded,
    Stepped {
        rank: usize,
        slot: usize,
        output: StepOutput,
    },
    Checked {
        rank: usize,
        check: WeightCheck,
    },
    /// Weights were written, whole or in part.
    Overwritten {
        rank: usize,
        /// Or why not all of them are.
        written: Result<(), String>,
    },
    Adopted {
        rank: usize,
    },
    Released {
        rank: usize,
        moved: Moved,
    },
    Restored {
        rank: usize,
        /// Or why not; then nothing is taken.
        taken: Result<Moved, String>,
    },
    Resized {
        rank: usize,
        /// Or why it could not grow; then it is as before.
        moved: Result<Moved, String>,
    },
    PutAdapter {
        rank: usize,
        /// Or why the slot is empty.
        put: Result<(), String>,
    },
    LaidBeside {
        rank: usize,
        /// Or why those before were not read to their end.
        read: Result<(), String>,
    },
    /// It stopped loading and left, because the engine is told to end.
    Left,
    Failed {
        rank: usize,
        message: String,
    },
}

/// The inputs of the steps under way, each filled while no rank reads it.
pub(in crate::engine) type Inputs = [RwLock<StepInput>; STEPS_UNDER_WAY_MAX];

/// Steps that ranks may have before them: one that they compute, one that they go on with.
pub(in crate::engine) const STEPS_UNDER_WAY_MAX: usize = 2;

/// Why a read ends before its end.
pub(in crate::engine) const ENDING: &str = "the engine is told to end";

/// What a rank thread is started with.
#[derive(Debug)]
pub(in crate::engine) struct RankStart {
    pub(in crate::engine) rank: usize,
    /// Threads, and blocks of the KV cache that are taken before the weights are read.
    pub(in crate::engine) sizes: (usize, u32),
    pub(in crate::engine) isa: Isa,
    pub(in crate::engine) request: Arc<Request>,
    pub(in crate::engine) plan: Arc<Plan>,
    pub(in crate::engine) model: Arc<Model>,
    pub(in crate::engine) inputs: Arc<Inputs>,
    pub(in crate::engine) shared: Arc<Shared>,
    pub(in crate::engine) asks: Receiver<Ask>,
    pub(in crate::engine) answers: SyncSender<Answer>,
}

/// Tells the engine when the thread ends without having said why.
struct LastWord {
    rank: usize,
    answers: SyncSender<Answer>,
    said: bool,
}

impl LastWord {
    fn say(&mut self, message: String) {
        self.said = true;
        // A closed channel: the engine is gone and nobody waits.
        let _ = self.answers.send(Answer::Failed {
            rank: self.rank,
            message,
        });
    }
}

impl Drop for LastWord {
    fn drop(&mut self) {
        if !self.said {
            self.say("its thread ended unexpectedly".to_owned());
        }
    }
}

/// # Errors
/// When the machine refuses a thread.
pub(in crate::engine) fn spawn(start: RankStart) -> std::io::Result<()> {
    thread::Builder::new()
        .name(format!("rank-{}", start.rank))
        .spawn(move || live(start))?;
    Ok(())
}

fn live(start: RankStart) {
    let (rank, answers) = (start.rank, start.answers.clone());
    let mut last_word = LastWord {
        rank,
        answers,
        said: false,
    };
    let mut member = None;
    let ended = catch_unwind(AssertUnwindSafe(|| serve(&start, &mut member)));
    let message = match ended {
        Ok(Ok(())) => {
            last_word.said = true;
            return;
        }
        Ok(Err(message)) => message,
        Err(panic) => format!("it panicked: {}", panic_text(&*panic)),
    };
    if let Some(member) = &member {
        member.fail(&message);
    }
    last_word.say(message);
}

/// What a panic says.
pub(in crate::engine) fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message")
}

/// Answers until the engine hangs up.
fn serve(start: &RankStart, member: &mut Option<Member>) -> Result<(), String> {
    let RankStart {
        rank,
        sizes: (threads, first_blocks),
        isa,
        request,
        plan,
        model,
        inputs,
        shared,
        asks,
        answers,
    } = start;
    let rank = *rank;
    let tell = |answer| {
        answers
            .send(answer)
            .map_err(|_| "the engine is gone".to_owned())
    };
    let pool = Pool::new(*threads, *isa).map_err(|error| format!("worker threads: {error}"))?;
    let on = Host { device: &Cpu, pool };
    let asked = (&**request, &**plan, *first_blocks);
    let begun = Forward::<CpuRank>::begin(on, &shared.ledger, asked, rank, &model.params);
    let (mut forward, exchange) = begun.map_err(|error| with_sources(&error))?;
    tell(Answer::Reserved { rank, exchange })?;
    let mut adopted: Option<Arc<Replacement>> = None;
    let mut residents = Residents::new(forward.slots());
    while let Ok(ask) = asks.recv() {
        match ask {
            Ask::Load(joined) => {
                *member = Some(joined);
                let progress = |bytes| {
                    lock(&shared.progress).done_bytes += bytes;
                    !shared.inbox.is_ending()
                };
                let whole = forward
                    .load(&*model.tensors, progress)
                    .map_err(|e| with_sources(&e))?;
                if !whole {
                    return tell(Answer::Left);
                }
                tell(Answer::Loaded)?;
            }
            Ask::Step { slot, mut output } => {
                let Some(member) = member else {
                    return Err("a step before the load".into());
                };
                #[cfg(test)]
                shared.sabotage.strike(
                    rank,
                    crate::engine::sabotage::Moment::Step,
                    &mut forward,
                )?;
                let input = inputs[slot].read().unwrap_or_else(PoisonError::into_inner);
                let stepped = forward.step(member, &input, &mut output);
                stepped.map_err(|error| error.to_string())?;
                drop(input);
                shared.ledger.count_streamed(rank, &output.streamed);
                tell(Answer::Stepped { rank, slot, output })?;
            }
            Ask::CheckWeights => {
                let check = forward.check_weights();
                tell(Answer::Checked { rank, check })?;
            }
            #[cfg(test)]
            Ask::Overwrite(_) if shared.sabotage.skips_merge(rank) => {
                let written = Ok(());
                tell(Answer::Overwritten { rank, written })?;
            }
            Ask::Overwrite(weights) => {
                let goes_on = |_| !shared.inbox.is_ending();
                let written = match forward.overwrite(&*weights.tensors, goes_on) {
                    Ok(true) => Ok(()),
                    Ok(false) => Err(ENDING.to_owned()),
                    Err(error) => Err(with_sources(&error)),
                };
                tell(Answer::Overwritten { rank, written })?;
            }
            Ask::Write(piece) => {
                let written = forward.write(&piece);
                let written = written.map_err(|error| with_sources(&error));
                tell(Answer::Overwritten { rank, written })?;
            }
            Ask::Adopt(weights) => {
                forward.adopt();
                adopted = weights.or(adopted);
                tell(Answer::Adopted { rank })?;
            }
            Ask::Release(accounts) => {
                let moved = forward
                    .release(&shared.ledger, &accounts)
                    .map_err(|error| with_sources(&error))?;
                let moved = Moved(moved);
                tell(Answer::Released { rank, moved })?;
            }
            Ask::Restore { accounts, reads } => {
                let source = match &adopted {
                    Some(weights) => &*weights.tensors,
                    None => &*model.tensors,
                };
                let source = reads.then_some(source);
                let taken = restore(&mut forward, start, (source, residents.now()), &accounts);
                tell(Answer::Restored { rank, taken })?;
            }
            Ask::PutAdapter { slot, adapter } => {
                let put = residents.put(&mut forward, slot, adapter);
                let put = put.map_err(|error| with_sources(&error));
                tell(Answer::PutAdapter { rank, put })?;
            }
            Ask::LayBeside(adapters) => {
                let read = forward.lay_beside(adapters.as_ref());
                let read = read.map_err(|error| with_sources(&error));
                tell(Answer::LaidBeside { rank, read })?;
            }
            Ask::Resize(to) => {
                let moved = resize(&mut forward, start, &to)?;
                tell(Answer::Resized { rank, moved })?;
            }
        }
    }
    Ok(())
}

/// An error and what it came from, in one line.
pub(in crate::engine) fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
