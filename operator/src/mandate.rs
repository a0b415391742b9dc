//! The right to write: it lasts until a moment that each renewal of the Lease moves, so that a
//! process that was cut off, or stood still, writes nothing after another may have taken over.
//! Checked under every client call that is no read, where no writer can forget it.

use std::sync::{Arc, Mutex, PoisonError};

use hyper::{Method, Request};
use kube::client::Body;
use tokio::time::Instant;
use tower::BoxError;
use tower::filter::FilterLayer;

/// Until when this process may write. Clones are the same right.
#[derive(Clone, Debug)]
pub(crate) struct Mandate(Arc<Mutex<Until>>);

#[derive(Clone, Copy, Debug)]
enum Until {
    /// Nobody else is there.
    Forever,
    /// None: not yet, or no longer.
    Moment(Option<Instant>),
}

/// Why a write was not sent.
#[derive(Debug, thiserror::Error)]
#[error("this process does not hold the Lease: nothing is written")]
pub(crate) struct NoMandate;

impl Mandate {
    /// Of a process without an election.
    pub(crate) fn forever() -> Mandate {
        Mandate(Arc::new(Mutex::new(Until::Forever)))
    }

    /// Of a process that has not been elected.
    pub(crate) fn none() -> Mandate {
        Mandate(Arc::new(Mutex::new(Until::Moment(None))))
    }

    pub(crate) fn extend(&self, until: Instant) {
        self.set(Until::Moment(Some(until)));
    }

    pub(crate) fn end(&self) {
        self.set(Until::Moment(None));
    }

    fn set(&self, until: Until) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    /// When it ends, if it is bounded.
    pub(crate) fn ends(&self) -> Option<Instant> {
        match *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Until::Forever | Until::Moment(None) => None,
            Until::Moment(until) => until,
        }
    }

    pub(crate) fn holds(&self) -> bool {
        self.holds_at(Instant::now())
    }

    fn holds_at(&self, now: Instant) -> bool {
        match *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Until::Forever => true,
            Until::Moment(until) => until.is_some_and(|until| now < until),
        }
    }

    /// What a client is built with, so that it sends no write without the mandate.
    pub(crate) fn layer(
        &self,
    ) -> FilterLayer<impl FnMut(Request<Body>) -> Result<Request<Body>, BoxError> + Clone + use<>>
    {
        let mandate = self.clone();
        FilterLayer::new(move |request: Request<Body>| {
            let reads = [Method::GET, Method::HEAD].contains(request.method());
            match reads || mandate.holds() {
                true => Ok(request),
                false => Err(BoxError::from(NoMandate)),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_mandate_ends_by_itself_unless_it_is_extended() {
        let now = Instant::now();
        let after = |seconds| now + Duration::from_secs(seconds);
        let mandate = Mandate::none();
        assert!(!mandate.holds());
        mandate.extend(after(18));
        assert!(mandate.holds() && mandate.holds_at(after(17)));
        assert!(
            !mandate.holds_at(after(18)),
            "the process stood still, or was cut off"
        );
        mandate.extend(after(35));
        assert!(mandate.holds_at(after(34)) && !mandate.holds_at(after(35)));
        mandate.end();
        assert!(!mandate.holds());
        assert!(Mandate::forever().holds_at(after(1_000_000)));
    }
}
