//! What the HTTP layer needs of an engine, and how it tells clients that the engine refused. The
//! engine's own handle is the one in production; tests script another.

use std::path::Path;
use std::time::Duration;

use axum::http::StatusCode;
use tokio::sync::watch;

use super::error::ApiError;
use crate::adapters::{AdapterPath, Dynamic, Verdict};
use crate::engine::clock::IdlePolicy;
use crate::engine::control::{Commands, ControlError};
use crate::engine::dynamic::{AdapterRefused, AdaptersInSlots};
use crate::engine::handle::{EngineFacts, EngineHandle, EngineState, Progress};
use crate::engine::request::{GenerateRequest, Refused};
use crate::engine::rest::RestView;
use crate::engine::stats::EngineStats;
use crate::engine::weights::WeightsInForce;
use crate::memory::snapshot::LedgerSnapshot;
use crate::model::{ModelError, Pushable, Replacement};

/// The engine's front door; see [`EngineHandle`] for the contract of each call.
pub trait Generator: Commands + std::fmt::Debug + Send + Sync {
    /// # Errors
    /// [`Refused`]: nothing was queued and no event will be sent.
    fn submit(&self, request: GenerateRequest) -> Result<(), Refused>;
    fn cancel(&self, id: u64);
    fn drain(&self);
    fn stop(&self);
    fn facts(&self) -> EngineFacts;
    fn subscribe(&self) -> watch::Receiver<EngineState>;
    fn progress(&self) -> Progress;
    fn stats(&self) -> EngineStats;
    /// May read `/proc`: not for the threads that answer requests.
    fn memory(&self) -> LedgerSnapshot;
    /// Ends these requests, or all; how many were alive.
    fn abort(&self, ids: Option<&[u64]>) -> usize;
    fn rest(&self) -> RestView;
    /// What it does about sleep by itself from now on.
    fn follow(&self, policy: IdlePolicy);
    /// A request is about to come that cannot be queued yet.
    fn rouse(&self);
    fn weights(&self) -> WeightsInForce;
    /// What became of the adapters in them.
    fn adapters(&self) -> Verdict;
    /// What requests may choose.
    fn dynamic(&self) -> AdaptersInSlots;
    /// Reads all of an adapter: not for the threads that answer requests.
    ///
    /// # Errors
    /// Why it cannot be served beside the model.
    fn open_adapter(&self, at: &AdapterPath) -> Result<Dynamic, ModelError>;
    /// The tensors that may be pushed.
    fn pushable(&self) -> &Pushable;
    /// Reads headers of files: not for the threads that answer requests.
    ///
    /// # Errors
    /// Why these weights cannot replace those in force.
    fn open_weights(&self, path: &Path) -> Result<Replacement, ModelError>;
}

impl dyn Generator {
    /// Neither failed nor about to end: whoever aborted a request meant that request.
    pub fn lives_on(&self) -> bool {
        let state = self.subscribe().borrow().clone();
        match state {
            EngineState::Serving
            | EngineState::Paused
            | EngineState::Sleeping
            | EngineState::Asleep
            | EngineState::Waking
            | EngineState::Resizing => true,
            EngineState::Loading
            | EngineState::Draining
            | EngineState::Drained
            | EngineState::Failed { .. } => false,
        }
    }
}

impl Generator for EngineHandle {
    fn submit(&self, request: GenerateRequest) -> Result<(), Refused> {
        EngineHandle::submit(self, request)
    }

    fn cancel(&self, id: u64) {
        EngineHandle::cancel(self, id);
    }

    fn drain(&self) {
        EngineHandle::drain(self);
    }

    fn stop(&self) {
        EngineHandle::stop(self);
    }

    fn facts(&self) -> EngineFacts {
        EngineHandle::facts(self).clone()
    }

    fn subscribe(&self) -> watch::Receiver<EngineState> {
        EngineHandle::subscribe(self)
    }

    fn progress(&self) -> Progress {
        EngineHandle::progress(self)
    }

    fn stats(&self) -> EngineStats {
        EngineHandle::stats(self)
    }

    fn memory(&self) -> LedgerSnapshot {
        EngineHandle::memory(self)
    }

    fn abort(&self, ids: Option<&[u64]>) -> usize {
        EngineHandle::abort(self, ids)
    }

    fn rest(&self) -> RestView {
        EngineHandle::rest(self)
    }

    fn follow(&self, policy: IdlePolicy) {
        EngineHandle::follow(self, policy);
    }

    fn rouse(&self) {
        EngineHandle::rouse(self);
    }

    fn weights(&self) -> WeightsInForce {
        EngineHandle::weights(self)
    }

    fn adapters(&self) -> Verdict {
        EngineHandle::adapters(self)
    }

    fn dynamic(&self) -> AdaptersInSlots {
        EngineHandle::dynamic(self)
    }

    fn open_adapter(&self, at: &AdapterPath) -> Result<Dynamic, ModelError> {
        EngineHandle::open_adapter(self, at)
    }

    fn pushable(&self) -> &Pushable {
        EngineHandle::pushable(self)
    }

    fn open_weights(&self, path: &Path) -> Result<Replacement, ModelError> {
        EngineHandle::open_weights(self, path)
    }
}

/// What a request hears that the engine gave up.
pub fn aborted() -> ApiError {
    ApiError::unavailable(
        "aborted",
        "the request was aborted before it was complete; retry",
    )
}

/// What a client hears of a refusal; `field` is what its prompt is called.
pub fn refusal(refused: Refused, field: &str) -> ApiError {
    match refused {
        Refused::QueueFull {
            waiting,
            retry_after,
            ..
        } => {
            let seconds = u32::try_from(retry_after.as_secs())
                .unwrap_or(u32::MAX)
                .max(1);
            ApiError::queue_full(waiting, seconds)
        }
        Refused::TooLong { prompt, limit } => ApiError::context_length(field, limit, prompt, 1),
        Refused::EmptyPrompt | Refused::TokenOutOfRange { .. } => {
            ApiError::invalid(Some(field), format!("{field}: {refused}"))
        }
        Refused::Loading => ApiError::unavailable("model_loading", "the model is loading"),
        Refused::Draining => draining(),
        Refused::Asleep => asleep(),
        Refused::NotWoken { again_after, .. } => not_woken(refused.to_string(), Some(again_after)),
        Refused::NoAdapter { name } => ApiError::no_adapter(&name),
        Refused::DuplicateId { .. } => ApiError::engine(refused.to_string()),
        Refused::Failed { .. } => ApiError::unavailable("engine_failed", refused.to_string()),
    }
}

/// Its memory is not all there yet: no service leads to it.
pub fn memory_pending() -> ApiError {
    ApiError::unavailable(
        "memory_pending",
        "requests are computed, and the rest of the KV cache is still being taken",
    )
}

/// What every new request hears at the end.
pub fn draining() -> ApiError {
    ApiError::unavailable(
        "draining",
        "this replica is shutting down; retry on another",
    )
}

/// What every new request hears while memory is given back.
pub fn asleep() -> ApiError {
    ApiError::unavailable(
        "engine_asleep",
        "the engine is asleep: its memory is given back; wake it (POST /wake_up on the admin port, or here \
         with --control-api loopback), or retry on another replica",
    )
}

/// What a request hears that came to an engine that sleeps and does not wake.
pub fn not_woken(message: String, again_after: Option<Duration>) -> ApiError {
    let error = ApiError::unavailable("engine_asleep", message);
    let seconds = again_after.and_then(|rest| u32::try_from(rest.as_secs()).ok());
    ApiError {
        retry_after: seconds.or(error.retry_after),
        ..error
    }
}

/// What a request hears that waited long enough for an engine to wake up.
pub fn still_waking(waited: Duration) -> ApiError {
    let seconds = waited.as_secs();
    ApiError::unavailable(
        "engine_waking",
        format!("the engine is waking up, and was not awake after {seconds} s; retry"),
    )
}

/// What somebody hears whose adapter was not loaded or unloaded, in vLLM's words where it has some.
fn adapter_refused(refused: &AdapterRefused) -> ApiError {
    let invalid = |message: String| ApiError::invalid(Some("lora_name"), message);
    match refused {
        AdapterRefused::Loaded { name } => invalid(format!(
            "The lora adapter '{name}' has already been loaded. If you want to load the adapter in \
             place, set 'load_inplace' to True."
        ))
        .with_code("adapter_loaded"),
        AdapterRefused::Unknown { name } => ApiError {
            status: StatusCode::NOT_FOUND,
            ..invalid(format!("The lora adapter '{name}' cannot be found."))
                .with_code("adapter_not_found")
        },
        AdapterRefused::NoSlot { .. } => ApiError {
            status: StatusCode::CONFLICT,
            ..invalid(refused.to_string()).with_code("no_adapter_slot")
        },
        AdapterRefused::Unfit(why) => {
            invalid(format!("nothing was changed: {why}")).with_code("adapter_refused")
        }
    }
}

/// What somebody hears whose command was not carried out.
pub fn uncontrolled(error: &ControlError) -> ApiError {
    let message = error.to_string();
    match error {
        ControlError::Loading => ApiError::unavailable("model_loading", message),
        ControlError::Draining => draining(),
        ControlError::Ended => ApiError::unavailable("engine_ended", message),
        ControlError::WrongState { .. } => ApiError {
            status: StatusCode::CONFLICT,
            retry_after: None,
            ..ApiError::invalid(None, message).with_code("wrong_state")
        },
        ControlError::NotWoken { .. } => ApiError::unavailable("engine_asleep", message),
        ControlError::NotUpdated { .. } => ApiError::unavailable("weights_not_updated", message),
        ControlError::NotResized { .. } => ApiError::unavailable("not_resized", message),
        ControlError::Failed { .. } => ApiError::unavailable("engine_failed", message),
        ControlError::Adapter(refused) => adapter_refused(refused),
        ControlError::QueueFull { retry_after, .. } => ApiError {
            status: StatusCode::TOO_MANY_REQUESTS,
            retry_after: u32::try_from(retry_after.as_secs()).ok(),
            ..ApiError::unavailable("control_queue_full", message)
        },
    }
}
