//! What is heard of the engine; and first, where it sleeps, the wait for its wake, in bounded time.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::Generation;
use crate::engine::handle::EngineState;
use crate::engine::request::{FinishReason, TokenEvent};
use crate::http::error::ApiError;
use crate::http::generator::{Generator, still_waking};

/// Whether a request waits for memory now.
fn sleeps(engine: &dyn Generator, state: &EngineState) -> bool {
    match state {
        EngineState::Asleep | EngineState::Waking => true,
        // One that is put to sleep by hand holds what comes meanwhile for as long as it sleeps.
        EngineState::Sleeping => engine.rest().reachable,
        EngineState::Loading
        | EngineState::Serving
        | EngineState::Paused
        | EngineState::Resizing
        | EngineState::Draining
        | EngineState::Drained
        | EngineState::Failed { .. } => false,
    }
}

impl Generation {
    /// Waits while the engine is asleep or wakes up, so that who cannot be answered hears it before
    /// an answer has begun. Dropped meanwhile, the request leaves the queue.
    ///
    /// # Errors
    /// 503 when the engine did not wake, or not within `patience`.
    pub async fn awake(&mut self, patience: Duration) -> Result<(), ApiError> {
        let engine = Arc::clone(&self.loaded.engine);
        let mut state = engine.subscribe();
        if !sleeps(&*engine, &state.borrow().clone()) {
            return Ok(());
        }
        let heard = tokio::select! {
            biased;
            heard = self.event() => heard,
            _ = state.wait_for(|state| !sleeps(&*engine, state)) => return Ok(()),
            () = tokio::time::sleep(patience) => return Err(still_waking(patience)),
        };
        match heard {
            (at, Some(TokenEvent::Finished(end))) if end.reason == FinishReason::NotWoken => {
                self.take(at, Some(TokenEvent::Finished(end))).map(drop)
            }
            heard => {
                self.early = Some(heard);
                Ok(())
            }
        }
    }

    /// The next event of any sequence.
    pub(super) async fn event(&mut self) -> (usize, Option<TokenEvent>) {
        match self.early.take() {
            Some(early) => early,
            None => std::future::poll_fn(|context| self.poll_event(context)).await,
        }
    }

    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<(usize, Option<TokenEvent>)> {
        let count = self.sequences.len();
        for step in 0..count {
            let at = (self.turn + step) % count;
            let sequence = &mut self.sequences[at];
            if sequence.done {
                continue;
            }
            if let Poll::Ready(event) = sequence.events.poll_recv(context) {
                self.turn = (at + 1) % count;
                return Poll::Ready((at, event));
            }
        }
        Poll::Pending
    }
}
