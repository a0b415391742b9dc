//! The loop's other half: carrying out the commands of the control queue between two steps.

use plimsoll_planner::Account;

use super::control::{Asker, Command, ControlError};
use super::handle::EngineState;
use super::ranks::Failure;
use super::run::Loop;
use crate::forward::WeightCheck;

impl Loop {
    /// Carries out one command.
    pub(super) fn obey(&mut self, command: Command) -> Result<(), Failure> {
        let draining = *self.shared.state.borrow() == EngineState::Draining;
        if draining && !command.fits_drain() {
            command.refuse(ControlError::Draining);
            return Ok(());
        }
        match command {
            Command::CheckWeights(asker) => self.check_weights(asker),
            Command::Pause {
                mode,
                clear_cache,
                asker,
            } => self.pause(mode, clear_cache, asker),
            Command::Resume(asker) => {
                self.resume(asker);
                Ok(())
            }
            Command::ResetPrefixCache { running, asker } => self.reset_prefix_cache(running, asker),
            Command::Sleep {
                level,
                mode,
                cause,
                asker,
            } => self.sleep(level, (mode, cause), asker),
            Command::ReleaseKvCache(asker) => self.release_kv_cache(asker),
            Command::Wake { tags, cause, asker } => self.wake(tags, cause, asker),
            Command::Update {
                weights,
                version,
                mode,
                asker,
            } => self.update(weights, version, mode, asker),
            Command::OpenPush { whole, mode, asker } => self.open_push(whole, mode, asker),
            Command::WritePush { piece, asker } => self.write_push(&piece, asker),
            Command::ClosePush { version, asker } => self.close_push(version, asker),
            Command::AbandonPush { why, asker } => self.end_push(&why, asker),
            Command::NameWeights { version, asker } => {
                self.name_weights(version);
                asker.answer(Ok(()));
                Ok(())
            }
            Command::LoadAdapter {
                adapter,
                in_place,
                asker,
            } => self.load_adapter(adapter, in_place, asker),
            Command::UnloadAdapter { name, asker } => self.unload_adapter(&name, asker),
            Command::Resize { size, asker } => self.resize(size, asker),
        }
    }

    fn check_weights(&mut self, asker: Asker<Vec<WeightCheck>>) -> Result<(), Failure> {
        if let Err(failure) = self.land_all() {
            return settle(asker, Err(failure));
        }
        // Whoever asked may be gone; before the check it is not made, after it nobody hears.
        if asker.is_gone() {
            return Ok(());
        }
        if self.rest.out.contains(&Account::Weights) {
            let message =
                "the weights are given back: wake the engine before its weights are checked";
            asker.answer(Err(ControlError::WrongState {
                message: message.to_owned(),
            }));
            return Ok(());
        }
        settle(asker, self.ranks.check_weights())
    }
}

/// Answers with what came of it; a failure of the engine is passed on.
pub(super) fn settle<T>(asker: Asker<T>, outcome: Result<T, Failure>) -> Result<(), Failure> {
    match outcome {
        Ok(value) => {
            asker.answer(Ok(value));
            Ok(())
        }
        Err(Failure(message)) => {
            asker.answer(Err(ControlError::Failed {
                message: message.clone(),
            }));
            Err(Failure(message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asked_hears_of_the_failure_and_so_does_the_loop() {
        let (asker, reply) = Asker::<()>::pair();
        let failure = Failure("rank 1 failed".to_owned());
        assert_eq!(settle(asker, Err(failure.clone())), Err(failure));
        let message = "rank 1 failed".to_owned();
        assert_eq!(reply.wait(), Err(ControlError::Failed { message }));
    }
}
