//! Places for connections: a bounded number of them, and who makes way when all are taken.
//!
//! ```text
//! idle      between two requests, or before the first has its head: makes way at any time
//! reading   the body of a request arrives: makes way after GRACE, with an answer that says so
//! working   a request is whole or its answer on its way: never makes way
//! leaving   was told to
//! ```
//! Whoever has been in such a state longest makes way first, so that sockets which do nothing cost
//! those who ask nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::Notify;
use tokio::time::Instant;

/// A body may take this long even while others wait for its place or its bytes.
pub const GRACE: Duration = Duration::from_secs(2);
/// How often those who wait look for somebody whose grace is over.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Reading,
    Working,
    Leaving,
}

#[derive(Debug)]
struct Guest {
    state: State,
    since: Instant,
    calls: Arc<Calls>,
}

/// What a guest is told.
#[derive(Debug, Default)]
struct Calls {
    /// Close the connection: nothing is lost.
    close: Notify,
    /// Give the body up and answer.
    give_up: Notify,
}

/// The places of one port.
#[derive(Debug)]
pub struct Places {
    limit: usize,
    guests: Mutex<Guests>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Guests {
    next: u64,
    present: HashMap<u64, Guest>,
}

impl Places {
    pub fn new(limit: usize) -> Arc<Places> {
        Arc::new(Places {
            limit,
            guests: Mutex::default(),
            changed: Notify::new(),
        })
    }

    /// A place, once there is one.
    pub async fn enter(self: &Arc<Self>) -> Arc<Place> {
        loop {
            if let Some(place) = self.try_enter() {
                return place;
            }
            self.make_way(true);
            // Somebody leaves or falls idle, or a grace is over.
            let _ = tokio::time::timeout(LOOK_AGAIN, self.changed.notified()).await;
        }
    }

    fn try_enter(self: &Arc<Self>) -> Option<Arc<Place>> {
        let mut guests = self.lock();
        if guests.present.len() >= self.limit {
            return None;
        }
        let id = guests.next;
        guests.next += 1;
        let calls = Arc::new(Calls::default());
        let guest = Guest {
            state: State::Idle,
            since: Instant::now(),
            calls: Arc::clone(&calls),
        };
        guests.present.insert(id, guest);
        Some(Arc::new(Place {
            places: Arc::clone(self),
            id,
            calls,
        }))
    }

    /// Tells the one whose body has taken longest, and longer than [`GRACE`], to give up.
    pub fn hurry(&self) {
        self.make_way(false);
    }

    /// `idle`: somebody who does nothing may go instead of a body.
    fn make_way(&self, idle: bool) {
        let mut guests = self.lock();
        if idle && guests.present.values().any(|g| g.state == State::Leaving) {
            return;
        }
        let now = Instant::now();
        let may_go = |guest: &&mut Guest| match guest.state {
            State::Idle => idle,
            State::Reading => now - guest.since >= GRACE,
            State::Working | State::Leaving => false,
        };
        // Idle ones first: they lose nothing.
        let longest = |guest: &&mut Guest| (guest.state == State::Reading, guest.since);
        let Some(guest) = guests
            .present
            .values_mut()
            .filter(may_go)
            .min_by_key(longest)
        else {
            return;
        };
        let was = std::mem::replace(&mut guest.state, State::Leaving);
        match was {
            State::Reading => guest.calls.give_up.notify_one(),
            _ => guest.calls.close.notify_one(),
        }
    }

    /// Returns once nobody is left.
    pub async fn emptied(&self) {
        loop {
            let changed = self.changed.notified();
            if self.lock().present.is_empty() {
                return;
            }
            changed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Guests> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection's place; dropping the last handle gives it back.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    id: u64,
    calls: Arc<Calls>,
}

impl Place {
    pub fn places(&self) -> &Places {
        &self.places
    }

    fn set(&self, state: State) {
        let mut guests = self.places.lock();
        if let Some(guest) = guests.present.get_mut(&self.id) {
            guest.state = state;
            guest.since = Instant::now();
        }
        drop(guests);
        if state == State::Idle {
            self.places.changed.notify_one();
        }
    }

    /// A request came; the place is idle again once this is dropped.
    pub fn working(self: &Arc<Self>) -> Working {
        self.set(State::Working);
        Working(Arc::clone(self))
    }

    /// Its body begins to arrive; the place works again once this is dropped.
    pub fn reading(self: &Arc<Self>) -> Reading {
        // A call that came when the body before this one had just ended was not for this one.
        let _ = self.calls.give_up.notified().now_or_never();
        self.set(State::Reading);
        Reading(Arc::clone(self))
    }

    /// Closes the connection whatever it does: what it would still be sent has no room any more.
    pub fn expel(&self) {
        self.set(State::Leaving);
        self.calls.close.notify_one();
    }

    /// The connection is to close: it does nothing, or what it holds is needed, and others wait.
    pub async fn told_to_close(&self) {
        loop {
            self.calls.close.notified().await;
            // A request may have come at the same moment: then somebody else is told.
            let guests = self.places.lock();
            let state = guests.present.get(&self.id).map(|guest| guest.state);
            if state == Some(State::Leaving) {
                return;
            }
        }
    }

    /// The body is to be given up: it takes long, and others wait.
    pub async fn told_to_give_up(&self) {
        self.calls.give_up.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.lock().present.remove(&self.id);
        self.places.changed.notify_one();
    }
}

/// From the head of a request to the end of its answer.
#[derive(Debug)]
pub struct Working(Arc<Place>);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.set(State::Idle);
    }
}

/// While a body arrives.
#[derive(Debug)]
pub struct Reading(Arc<Place>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.set(State::Working);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn settled() {
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn the_one_idle_longest_makes_way_and_who_works_never_does() {
        let places = Places::new(2);
        let (old, working) = (places.enter().await, places.enter().await);
        let work = working.working();
        let waits = tokio::spawn({
            let places = Arc::clone(&places);
            async move { places.enter().await }
        });
        old.told_to_close().await;
        assert!(!waits.is_finished());
        drop(old);
        let new = waits.await.unwrap();
        let work_of_new = new.working();
        let mut waits = Box::pin(places.enter());
        assert!((&mut waits).now_or_never().is_none());
        tokio::time::sleep(3 * LOOK_AGAIN).await;
        assert!((&mut waits).now_or_never().is_none(), "both work");
        drop(work);
        assert!((&mut waits).now_or_never().is_none());
        working.told_to_close().await;
        drop(working);
        settled().await;
        assert!(waits.now_or_never().is_some());
        drop(work_of_new);
    }

    #[tokio::test]
    async fn a_body_makes_way_after_its_grace_and_not_before() {
        let places = Places::new(1);
        let slow = places.enter().await;
        let work = slow.working();
        let reading = slow.reading();
        let began = Instant::now();
        let waits = tokio::spawn({
            let places = Arc::clone(&places);
            async move { places.enter().await }
        });
        slow.told_to_give_up().await;
        assert!(began.elapsed() >= GRACE);
        drop((reading, work, slow));
        waits.await.unwrap();
    }
}
