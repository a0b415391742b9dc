//! Requests for an adapter that the target lists and that is not loaded yet: they wait for it, in bounded
//! time, and wake an engine that sleeps as requests for what it has would. What waits is counted.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::app::{App, WAITING_MOST};
use super::error::ApiError;
use super::loaded::Loaded;
use crate::target::adapters::Standing;

/// How often the engine is told that they are still there.
const EVERY: Duration = Duration::from_millis(500);

/// Returns once the engine has the adapter. Dropped meanwhile, nothing waits any more.
///
/// # Errors
/// 404 where nobody lists it, or it cannot be loaded; 503 where the engine is or goes where requests are
/// refused, or after the time that a wake may take; 429 where too many wait already.
pub async fn settled(app: &App, loaded: &Arc<Loaded>, name: &str) -> Result<(), ApiError> {
    let engine = &loaded.engine;
    let Some(held) = app.identity.target.get() else {
        return app.check_slots(name);
    };
    if engine.dynamic().serves(name) {
        return Ok(());
    }
    let Ok(_place) = app.awaiting.try_acquire() else {
        return Err(ApiError::queue_full(WAITING_MOST, 1));
    };
    let patience = app.limits.wake_timeout;
    let end = Instant::now() + patience;
    let mut state = engine.subscribe();
    let mut moves = held.adapters_move();
    loop {
        // Looked at from now on: what changes after these looks ends the wait below.
        state.borrow_and_update();
        moves.borrow_and_update();
        if engine.dynamic().serves(name) {
            return Ok(());
        }
        match app.standing(name) {
            Some(Standing::Loading) => {}
            Some(Standing::Refused(why)) => return Err(ApiError::adapter_not_loaded(name, &why)),
            // Loaded, and unloaded by hand since.
            Some(Standing::Loaded) | None => return app.check_slots(name),
        }
        app.ready()?;
        engine.rouse();
        held.hurry(name);
        let now = Instant::now();
        if now >= end {
            return Err(ApiError::adapter_loading(name, patience));
        }
        tokio::select! {
            _ = state.changed() => {}
            _ = moves.changed() => {}
            () = tokio::time::sleep(EVERY.min(end - now)) => {}
        }
    }
}
