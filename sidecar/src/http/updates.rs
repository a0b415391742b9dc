//! Which update of pushed weights is open, who works on it, and how long nobody did.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::StatusCode;
use tokio::time::Instant;

use super::error::ApiError;
use crate::engine::rest::PauseMode;

/// What a body hears whose update was ended beside it.
pub(super) const ENDED: &str = "this update was ended by somebody else";

/// How an update is to be made.
#[derive(Clone, Debug)]
pub struct How {
    pub version: Option<String>,
    pub mode: PauseMode,
    /// Every tensor must come.
    pub whole: bool,
    /// How long it may stand with nobody at work.
    pub patience: Duration,
}

#[derive(Debug)]
struct Open {
    id: u64,
    how: How,
    last: Instant,
    at_work: bool,
    /// The engine knows of it.
    told: bool,
}

#[derive(Debug, Default)]
struct Registry {
    ids: u64,
    open: Option<Open>,
}

/// At most one update is open, and one caller works on it.
#[derive(Debug, Default)]
pub struct Updates(Mutex<Registry>);

/// Whether an update has stood too long.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Overdue {
    /// It was ended otherwise.
    Gone,
    /// Look again then.
    In(Duration),
    /// It is ended by this.
    Now { told: bool, after: Duration },
}

impl Updates {
    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens an update. `engine`: whether one is open there; one that is not there any more is over.
    ///
    /// # Errors
    /// 409 while another one is open.
    pub(in crate::http) fn begin(&self, how: How, engine: bool) -> Result<u64, ApiError> {
        let mut registry = self.lock();
        let stands = |open: &Open| open.at_work || !open.told || engine;
        if let Some(open) = registry.open.as_ref().filter(|open| stands(open)) {
            return Err(conflict(format!(
                "the update {} is open: finish it (POST /finish_weight_update), end it (POST \
                 /abort_weight_update), or wait: with nobody at work it is ended after {} s",
                open.id,
                open.how.patience.as_secs()
            )));
        }
        registry.ids += 1;
        let id = registry.ids;
        registry.open = Some(Open {
            id,
            how,
            last: Instant::now(),
            at_work: false,
            told: false,
        });
        Ok(id)
    }

    /// Begins to work on the update; `id`: where the caller named one.
    ///
    /// # Errors
    /// 409 where none is open, another one is, or somebody else is at work.
    pub(super) fn work(self: &Arc<Self>, id: Option<&str>) -> Result<AtWork, ApiError> {
        let mut registry = self.lock();
        let open = registry.named(id)?;
        if open.at_work {
            let message = format!("somebody else is at work on the update {}", open.id);
            return Err(conflict(message));
        }
        open.at_work = true;
        Ok(AtWork {
            updates: Arc::clone(self),
            id: open.id,
            how: open.how.clone(),
            told: open.told,
        })
    }

    /// Ends the update, whoever is at work on it; whether the engine knows of it.
    ///
    /// # Errors
    /// 409 where none is open, or another one is.
    pub(super) fn end(&self, id: Option<&str>) -> Result<bool, ApiError> {
        let mut registry = self.lock();
        let told = registry.named(id)?.told;
        registry.open = None;
        Ok(told)
    }

    pub(super) fn overdue(&self, id: u64) -> Overdue {
        let mut registry = self.lock();
        let Some(open) = registry.open.as_ref().filter(|open| open.id == id) else {
            return Overdue::Gone;
        };
        let after = open.how.patience;
        let stood = match open.at_work {
            true => Duration::ZERO,
            false => open.last.elapsed(),
        };
        if stood < after {
            return Overdue::In(after - stood);
        }
        let told = open.told;
        registry.open = None;
        Overdue::Now { told, after }
    }

    /// Asks the engine about an update that is over here, unless it has a newer one; none is opened
    /// meanwhile.
    pub(super) fn orphaned<T>(&self, ask: impl FnOnce() -> T) -> Option<T> {
        let registry = self.lock();
        let newer = registry.open.as_ref().is_some_and(|open| open.told);
        (!newer).then(ask)
    }

    fn with(&self, id: u64, change: impl FnOnce(&mut Open)) {
        if let Some(open) = self.lock().open.as_mut().filter(|open| open.id == id) {
            change(open);
        }
    }
}

impl Registry {
    fn named(&mut self, id: Option<&str>) -> Result<&mut Open, ApiError> {
        let Some(open) = &mut self.open else {
            let message = "no update is open, or not any more: begin one with POST \
                           /start_weight_update";
            return Err(conflict(message.to_owned()));
        };
        if id.is_some_and(|id| id != open.id.to_string()) {
            let message = format!("another update, {}, is open now", open.id);
            return Err(conflict(message));
        }
        Ok(open)
    }
}

/// Work on an update, until it is dropped.
#[derive(Debug)]
pub(super) struct AtWork {
    updates: Arc<Updates>,
    id: u64,
    pub(super) how: How,
    pub(super) told: bool,
}

impl AtWork {
    /// Asks the engine for a part of it, which knows of it from now on. Until it is asked nothing newer
    /// is opened.
    ///
    /// # Errors
    /// 409 where it was ended meanwhile; nothing is asked then.
    pub(super) fn ask<T>(&mut self, ask: impl FnOnce() -> T) -> Result<T, ApiError> {
        let mut registry = self.updates.lock();
        let open = registry.open.as_mut().filter(|open| open.id == self.id);
        open.ok_or_else(|| conflict(ENDED.to_owned()))?.told = true;
        self.told = true;
        Ok(ask())
    }

    /// The engine did not open it.
    pub(super) fn untell(&mut self) {
        self.told = false;
        self.updates.with(self.id, |open| open.told = false);
    }

    /// Whether nobody else ended it.
    pub(super) fn stands(&self) -> bool {
        let registry = self.updates.lock();
        registry
            .open
            .as_ref()
            .is_some_and(|open| open.id == self.id)
    }

    /// It is over; false where somebody else had ended it.
    pub(super) fn close(&self) -> bool {
        let mut registry = self.updates.lock();
        registry.open.take_if(|open| open.id == self.id).is_some()
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.updates.with(self.id, |open| {
            open.at_work = false;
            open.last = Instant::now();
        });
    }
}

pub(super) fn conflict(message: String) -> ApiError {
    ApiError {
        status: StatusCode::CONFLICT,
        ..ApiError::invalid(None, message).with_code("wrong_state")
    }
}
