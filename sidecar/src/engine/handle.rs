//! The engine's front door: everything other threads may ask of it.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::time::Duration;

use plimsoll_kernels::linear::Products;
use tokio::sync::watch;

use super::clock::IdlePolicy;
use super::control::{COMMANDS_MAX, Command, Commands, ControlError, RETRY_AFTER};
use super::dynamic::AdaptersInSlots;
use super::inbox::{Inbox, NotQueued};
use super::request::{GenerateRequest, Refused};
use super::rest::RestView;
use super::stats::EngineStats;
use super::weights::WeightsInForce;
use crate::adapters::{AdapterPath, Dynamic, Validation, Verdict};
use crate::memory::ledger::Ledger;
use crate::memory::snapshot::LedgerSnapshot;
use crate::model::{Model, ModelError, Pushable, Replacement};

/// A state of the engine. `Failed` is final: the process should end. What each means to probes,
/// clients and reports is a table in ARCHITECTURE.md.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineState {
    /// Weights are read; see [`EngineHandle::progress`].
    Loading,
    Serving,
    /// Nothing is computed; requests are taken and held.
    Paused,
    /// On the way to `Asleep`: requests are taken and held.
    Sleeping,
    /// Memory is given back; a new request wakes the engine where it may, and is refused elsewhere.
    Asleep,
    /// Memory is being taken again and proved: requests are taken and held.
    Waking,
    /// The KV cache gets another size: requests are taken, and computed in a moment.
    Resizing,
    /// Running requests end, new ones are refused.
    Draining,
    /// Drained: nothing is left to do.
    Drained,
    Failed {
        message: String,
    },
}

impl EngineState {
    /// Why nothing is carried out in this state (any more).
    pub(crate) fn why_not(&self) -> ControlError {
        match self {
            EngineState::Failed { message } => ControlError::Failed {
                message: message.clone(),
            },
            EngineState::Loading => ControlError::Loading,
            EngineState::Serving
            | EngineState::Paused
            | EngineState::Sleeping
            | EngineState::Asleep
            | EngineState::Waking
            | EngineState::Resizing
            | EngineState::Draining
            | EngineState::Drained => ControlError::Ended,
        }
    }
}

/// How far loading is, all ranks together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// What is done now: `Reserving`, `LoadingWeights`, `Verifying`, `Ready`.
    pub stage: &'static str,
    pub done_bytes: u64,
    pub total_bytes: u64,
}

/// What does not change while an engine lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineFacts {
    pub ranks: u32,
    pub max_model_len: u32,
    pub vocabulary: u32,
    /// The instruction set in use, by name.
    pub isa: String,
    /// Of weights in blocks.
    pub products: Products,
    pub threads_per_rank: usize,
    /// The longest that a check of the weights may take, and the steps before it.
    pub check_patience: Duration,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) facts: EngineFacts,
    pub(crate) inbox: Inbox,
    pub(crate) state: watch::Sender<EngineState>,
    pub(crate) progress: Mutex<Progress>,
    pub(crate) rest: Mutex<RestView>,
    pub(crate) weights: Mutex<WeightsInForce>,
    pub(crate) validation: Validation,
    /// What helps where rounding loses an adapter.
    pub(crate) remedies: String,
    /// By what share inputs of products, and keys and values, are rounded.
    pub(crate) inputs_rounding: f64,
    /// What became of the adapters of the weights in force.
    pub(crate) adapters: Mutex<Verdict>,
    /// What requests choose.
    pub(crate) dynamic: Mutex<AdaptersInSlots>,
    pub(crate) pushable: Pushable,
    /// As it was loaded first.
    pub(crate) model: Arc<Model>,
    #[cfg(test)]
    pub(crate) sabotage: super::sabotage::Sabotage,
    pub(crate) stats: Mutex<EngineStats>,
    pub(crate) ledger: Arc<Ledger>,
}

/// Plain data under these locks: a panic elsewhere leaves it readable.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Cheap to clone; every method may be called from any thread, async ones included (none blocks
/// longer than a short lock, except [`EngineHandle::memory`], which may read `/proc`).
#[derive(Clone, Debug)]
pub struct EngineHandle {
    shared: Arc<Shared>,
    /// Ends the engine with the last handle; the engine's own threads hold only `shared`.
    _last: Arc<StopOnDrop>,
}

#[derive(Debug)]
struct StopOnDrop(Arc<Shared>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.inbox.stop();
    }
}

impl EngineHandle {
    pub(crate) fn new(shared: Arc<Shared>) -> EngineHandle {
        EngineHandle {
            _last: Arc::new(StopOnDrop(Arc::clone(&shared))),
            shared,
        }
    }

    /// Queues a request.
    ///
    /// # Errors
    /// [`Refused`] says why; nothing was queued and no event will be sent.
    pub fn submit(&self, request: GenerateRequest) -> Result<(), Refused> {
        self.submit_inner(request, None)
    }

    /// As [`EngineHandle::submit`]; before each token its logits over the whole vocabulary, as the
    /// model gave them, go to `logits`. For tests and for validating a loaded model: it costs a
    /// copy of the logits of every row in the batch.
    ///
    /// # Errors
    /// As [`EngineHandle::submit`].
    pub fn submit_with_logits(
        &self,
        request: GenerateRequest,
        logits: mpsc::Sender<Vec<f32>>,
    ) -> Result<(), Refused> {
        self.submit_inner(request, Some(logits))
    }

    fn submit_inner(
        &self,
        request: GenerateRequest,
        logits: Option<mpsc::Sender<Vec<f32>>>,
    ) -> Result<(), Refused> {
        match &*self.shared.state.borrow() {
            EngineState::Serving
            | EngineState::Paused
            | EngineState::Sleeping
            | EngineState::Waking
            | EngineState::Resizing => {}
            EngineState::Asleep => self.rest().admits()?,
            EngineState::Loading => return Err(Refused::Loading),
            EngineState::Draining | EngineState::Drained => return Err(Refused::Draining),
            EngineState::Failed { message } => {
                return Err(Refused::Failed {
                    message: message.clone(),
                });
            }
        }
        let EngineFacts {
            max_model_len,
            vocabulary,
            ..
        } = self.shared.facts;
        if request.prompt.is_empty() {
            return Err(Refused::EmptyPrompt);
        }
        let least = request.prompt.len() + request.max_tokens.min(1) as usize;
        if least > max_model_len as usize {
            return Err(Refused::TooLong {
                prompt: request.prompt.len(),
                limit: max_model_len,
            });
        }
        if let Some(index) = request.prompt.iter().position(|id| *id >= vocabulary) {
            return Err(Refused::TokenOutOfRange {
                index,
                id: request.prompt[index],
                vocabulary,
            });
        }
        if let Some(name) = &request.adapter
            && !lock(&self.shared.dynamic).serves(name)
        {
            return Err(Refused::NoAdapter {
                name: name.to_string(),
            });
        }
        self.shared.inbox.submit(request, logits)
    }

    /// Ends a request: its blocks are free before the next step. Unknown ids are ignored.
    pub fn cancel(&self, id: u64) {
        self.shared.inbox.cancel(id);
    }

    /// Opens weights that can replace those in force, or are their own files again. It reads headers:
    /// not for threads that must not block.
    ///
    /// # Errors
    /// As [`Replacement::open`], and [`Pushable::check_places`].
    pub fn open_weights(&self, path: &Path) -> Result<Replacement, ModelError> {
        let opened = Replacement::open(path, &self.shared.model)?;
        self.shared.pushable.check_places(&*opened.tensors)?;
        Ok(opened)
    }

    /// The tensors that may be sent.
    pub fn pushable(&self) -> &Pushable {
        &self.shared.pushable
    }

    /// The weights in force.
    pub fn weights(&self) -> WeightsInForce {
        lock(&self.shared.weights).clone()
    }

    /// Opens an adapter for the model as it was loaded. It reads all of its numbers: not for threads that
    /// must not block.
    ///
    /// # Errors
    /// As [`Model::open_adapter`].
    pub fn open_adapter(&self, at: &AdapterPath) -> Result<Dynamic, ModelError> {
        self.shared.model.open_adapter(at)
    }

    /// What requests may choose, and what there is room for.
    pub fn dynamic(&self) -> AdaptersInSlots {
        lock(&self.shared.dynamic).clone()
    }

    /// What became of the adapters in them.
    pub fn adapters(&self) -> Verdict {
        lock(&self.shared.adapters).clone()
    }

    /// Ends these requests, or all, with `FinishReason::Abort`; how many were alive. It does not wait
    /// behind commands, so that it ends what a pause waits for.
    pub fn abort(&self, ids: Option<&[u64]>) -> usize {
        self.shared.inbox.abort(ids)
    }

    /// What the engine does about sleep by itself from now on.
    pub fn follow(&self, policy: IdlePolicy) {
        self.shared.inbox.follow(policy);
    }

    /// A request is about to come that cannot be queued yet: the clock that the engine falls asleep by
    /// begins anew, and one that a request would wake wakes up.
    pub fn rouse(&self) {
        self.shared.inbox.rouse();
    }

    /// Lets the clock that it falls asleep by run ahead, so that tests need not wait.
    pub fn skip(&self, time: Duration) {
        self.shared.inbox.skip(time);
    }

    /// Whether the engine is paused, and what of it sleeps.
    pub fn rest(&self) -> RestView {
        lock(&self.shared.rest).clone()
    }

    #[cfg(test)]
    pub(crate) fn sabotage(&self) -> &super::sabotage::Sabotage {
        &self.shared.sabotage
    }

    /// Refuses new requests from now on; the state becomes `Drained` when the last one is done.
    pub fn drain(&self) {
        self.shared.inbox.drain();
    }

    /// Aborts what runs and ends the engine's threads.
    pub fn stop(&self) {
        self.shared.inbox.stop();
    }

    pub fn facts(&self) -> &EngineFacts {
        &self.shared.facts
    }

    pub fn state(&self) -> EngineState {
        self.shared.state.borrow().clone()
    }

    /// Changes of the state; the current one is there at once.
    pub fn subscribe(&self) -> watch::Receiver<EngineState> {
        self.shared.state.subscribe()
    }

    pub fn progress(&self) -> Progress {
        lock(&self.shared.progress).clone()
    }

    pub fn stats(&self) -> EngineStats {
        let mut stats = lock(&self.shared.stats).clone();
        stats.waiting = stats.waiting.max(self.shared.inbox.waiting());
        stats
    }

    /// The ledger with the kernel's own figures, which are read at most once a second.
    pub fn memory(&self) -> LedgerSnapshot {
        self.shared.ledger.snapshot()
    }
}

impl Commands for EngineHandle {
    fn command(&self, command: Command) {
        match self.state() {
            EngineState::Serving
            | EngineState::Paused
            | EngineState::Sleeping
            | EngineState::Asleep
            | EngineState::Waking
            | EngineState::Resizing
            | EngineState::Draining => {}
            state @ (EngineState::Loading | EngineState::Drained | EngineState::Failed { .. }) => {
                return command.refuse(state.why_not());
            }
        }
        match self.shared.inbox.command(command) {
            Ok(()) => {}
            Err(NotQueued::Full(command)) => command.refuse(ControlError::QueueFull {
                limit: COMMANDS_MAX,
                retry_after: RETRY_AFTER,
            }),
            Err(NotQueued::Closed(command)) => command.refuse(self.state().why_not()),
        }
    }
}
