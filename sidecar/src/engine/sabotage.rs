//! Planted faults of ranks, for tests: proof that the proof of a wake can fail.
//!
//! A fault lies in a rank's way and happens once, at its moment.

use std::sync::{Mutex, PoisonError};

use crate::forward::Forward;
use crate::forward::cpu::CpuRank;

/// When a fault happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// Memory is back and filled.
    Restored,
    /// Before the next step: checksums are taken already.
    Step,
}

/// What goes wrong on which rank.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) rank: usize,
    pub(crate) moment: Moment,
    /// The tensor of which a byte flips; None: the restore is refused.
    pub(crate) tensor: Option<&'static str>,
}

#[derive(Debug, Default)]
pub(crate) struct Sabotage(Mutex<Option<Fault>>);

impl Sabotage {
    pub(crate) fn plan(&self, fault: Fault) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
    }

    /// Lets the planned fault happen, if it is one of this rank and moment.
    pub(super) fn strike(
        &self,
        rank: usize,
        moment: Moment,
        forward: &mut Forward<CpuRank>,
    ) -> Result<(), String> {
        let mut planned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = planned.take_if(|fault| (fault.rank, fault.moment) == (rank, moment));
        match due.map(|fault| fault.tensor) {
            Some(Some(tensor)) => {
                forward.flip(tensor);
                Ok(())
            }
            Some(None) => Err("the memory is taken by somebody else".to_owned()),
            None => Ok(()),
        }
    }
}

mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use clap::Parser;
    use plimsoll_planner::Account;

    use super::*;
    use crate::args::{Cli, Command};
    use crate::config::{Planned, plan_flags};
    use crate::engine::Engine;
    use crate::engine::config::EngineConfig;
    use crate::engine::control::{Commands, ControlError, Woken};
    use crate::engine::handle::{EngineHandle, EngineState};
    use crate::engine::rest::{PauseMode, SleepLevel, Tags};
    use crate::http::testing::fixture;
    use crate::model::ModelFolder;
    const AWAKE: Result<Woken, ControlError> = Ok(Woken { asleep: false });

    /// The tiny model on two ranks, serving.
    fn engine() -> EngineHandle {
        let model = ModelFolder::open(&fixture()).unwrap();
        let line = "x plan m --max-num-seqs 2 --max-num-batched-tokens 32 \
            --kv-cache-size 1Mi --tensor-parallel-size 2";
        let Command::Plan(args) = Cli::parse_from(line.split_whitespace()).command else {
            panic!("not a plan")
        };
        let Planned { request, plan } = plan_flags(&args.memory, &model).unwrap();
        let config = EngineConfig {
            threads_per_rank: Some(1),
            ..EngineConfig::new(request)
        };
        let handle = Engine::start(config, Arc::new(model), plan).unwrap();
        let mut state = handle.subscribe();
        let mut waits = tokio::runtime::Builder::new_current_thread();
        waits.enable_time();
        let serving = async {
            let is_serving = |state: &EngineState| *state == EngineState::Serving;
            let limit = Duration::from_secs(20);
            tokio::time::timeout(limit, state.wait_for(is_serving))
                .await
                .map(|seen| seen.is_ok())
        };
        let seen = waits.build().unwrap().block_on(serving);
        assert_eq!(seen, Ok(true), "{:?}", handle.state());
        handle
    }

    fn not_woken(handle: &EngineHandle) -> String {
        let Err(ControlError::NotWoken { message }) = handle.wake(Tags::ALL).wait() else {
            panic!("it woke: {:?}", handle.rest());
        };
        assert_eq!(handle.state(), EngineState::Asleep);
        assert_eq!(handle.rest().trouble, message);
        message
    }

    fn reserved(handle: &EngineHandle) -> u64 {
        let ranks = handle.memory().ranks;
        let rows = ranks.iter().flat_map(|rank| &rank.accounts);
        rows.filter(|row| row.account != Account::Weights)
            .map(|row| row.reserved.get())
            .sum()
    }

    #[test]
    fn a_byte_that_flips_keeps_the_engine_out_of_service_until_it_is_whole_again() {
        let handle = engine();
        for (level, rank, tensor) in [
            (SleepLevel::One, 1, "GateUp { layer: 1 }"),
            (SleepLevel::One, 0, "rope_cos"),
            (SleepLevel::Two, 0, "Output { layer: 0 }"),
        ] {
            handle.sabotage().plan(Fault {
                rank,
                moment: Moment::Restored,
                tensor: Some(tensor),
            });
            assert_eq!(handle.sleep(level, PauseMode::Abort).wait(), Ok(()));
            let message = not_woken(&handle);
            assert!(message.contains(&format!("rank {rank}")), "{message}");
            assert!(message.contains(tensor), "{message}");
            assert_eq!(handle.rest().weights_verified, Some(false));
            // Proved again, and still wrong.
            assert_eq!(not_woken(&handle), message);
            assert_eq!(
                handle.sleep(SleepLevel::Two, PauseMode::Abort).wait(),
                Ok(())
            );
            assert_eq!(handle.wake(Tags::ALL).wait(), AWAKE, "after {tensor}");
            assert_eq!(handle.rest().weights_verified, Some(true));
        }
    }

    /// New weights are no cure, and a broken table is never the measure of what follows.
    #[test]
    fn a_broken_table_is_not_served_with_other_weights_either() {
        let handle = engine();
        handle.sabotage().plan(Fault {
            rank: 0,
            moment: Moment::Restored,
            tensor: Some("rope_cos"),
        });
        let slept = handle.sleep(SleepLevel::One, PauseMode::Keep).wait();
        assert_eq!(slept, Ok(()));
        not_woken(&handle);
        let update = || {
            let weights = Arc::new(handle.open_weights(&handle.weights().path).unwrap());
            handle.update(weights, None, PauseMode::Keep).wait()
        };
        let Err(ControlError::NotUpdated { message }) = update() else {
            panic!("it took them: {:?}", handle.rest());
        };
        assert!(message.contains("rank 0: rope_cos"), "{message}");
        assert_eq!(handle.state(), EngineState::Asleep);
        let slept = handle.sleep(SleepLevel::One, PauseMode::Keep).wait();
        assert_eq!(slept, Ok(()));
        assert_eq!(handle.wake(Tags::ALL).wait(), AWAKE);
        assert!(update().is_ok());
        let slept = handle.sleep(SleepLevel::Two, PauseMode::Keep).wait();
        assert_eq!(slept, Ok(()));
        assert_eq!(handle.wake(Tags::ALL).wait(), AWAKE);
    }

    #[test]
    fn what_checksums_do_not_see_the_probe_does() {
        let handle = engine();
        handle.sabotage().plan(Fault {
            rank: 0,
            moment: Moment::Step,
            tensor: Some("InputNorm { layer: 0 }"),
        });
        assert_eq!(
            handle.sleep(SleepLevel::One, PauseMode::Keep).wait(),
            Ok(())
        );
        let message = not_woken(&handle);
        assert!(message.contains("probe"), "{message}");
        assert_eq!(
            handle.sleep(SleepLevel::Two, PauseMode::Keep).wait(),
            Ok(())
        );
        assert_eq!(handle.wake(Tags::ALL).wait(), AWAKE);
    }

    #[test]
    fn memory_that_is_taken_by_somebody_else_leaves_all_ranks_as_they_slept() {
        let handle = engine();
        assert_eq!(
            handle.sleep(SleepLevel::One, PauseMode::Keep).wait(),
            Ok(())
        );
        handle.sabotage().plan(Fault {
            rank: 1,
            moment: Moment::Restored,
            tensor: None,
        });
        let message = not_woken(&handle);
        assert!(message.contains("rank 1: the memory is taken"), "{message}");
        assert_eq!(reserved(&handle), 0, "rank 0 gave back what it took");
        assert_eq!(handle.wake(Tags::ALL).wait(), AWAKE);
    }
}
