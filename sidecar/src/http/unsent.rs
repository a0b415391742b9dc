//! Bytes of answers that exist and are not sent yet: tokens that nobody has taken from the engine's
//! channel, and whole answers from their first token to their last byte on the socket.
//!
//! One budget for all requests, each with a share that grows with its answer and is given back as it
//! is sent. The engine does not wait: a token for which there is no room ends its request. So that
//! this is not the next honest one, the request that holds most is told to go once three quarters
//! are taken: what is half made ends with a 503, what is being sent loses its connection.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::choice::Scored;
use super::error::ApiError;
use super::places::Place;
use crate::engine::request::{ALLOCATION_BYTES, Room, TokenLogprobs};

/// The budget.
#[derive(Debug)]
pub struct Unsent {
    most: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    held: usize,
    shares: HashMap<u64, Held>,
}

/// What one request holds.
#[derive(Debug)]
struct Held {
    bytes: usize,
    /// There was no room for more of it: its engine has ended it.
    refused: bool,
    /// It makes way, and gets no more.
    told: bool,
    call: Arc<Notify>,
    /// The connection that its answer is on.
    sent_on: Option<Arc<Place>>,
}

/// One request's part; what it holds is free again once this is dropped.
#[derive(Debug)]
pub struct Share {
    of: Arc<Unsent>,
    id: u64,
    call: Arc<Notify>,
}

/// What a token takes from here to the end of its answer: its place in a list that doubles when it
/// is full, and the list of its likely neighbours.
pub fn scored_bytes(logprobs: Option<&TokenLogprobs>) -> usize {
    let own = 2 * size_of::<Scored>();
    logprobs.map_or(own, |logprobs| own + logprobs.top_bytes())
}

impl Unsent {
    pub fn new(most: usize) -> Arc<Unsent> {
        Arc::new(Unsent {
            most,
            state: Mutex::default(),
        })
    }

    /// A share, with nothing in it.
    pub fn share(self: &Arc<Self>) -> Arc<Share> {
        let call = Arc::new(Notify::new());
        let mut state = self.lock();
        let id = state.next;
        state.next += 1;
        let held = Held {
            bytes: 0,
            refused: false,
            told: false,
            call: Arc::clone(&call),
            sent_on: None,
        };
        state.shares.insert(id, held);
        drop(state);
        Arc::new(Share {
            of: Arc::clone(self),
            id,
            call,
        })
    }

    /// Bytes that are held now.
    pub fn held(&self) -> usize {
        self.lock().held
    }

    /// Counters only are behind the lock: a panic elsewhere leaves them readable.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Tells the request that holds most to make way, unless one is on its way already.
    fn call_the_largest(&mut self) {
        if self.shares.values().any(|held| held.told) {
            return;
        }
        let Some(held) = self.shares.values_mut().max_by_key(|held| held.bytes) else {
            return;
        };
        held.told = true;
        held.call.notify_one();
        if let Some(place) = &held.sent_on {
            place.expel();
        }
    }
}

impl Share {
    /// Gives `bytes` back.
    pub fn give(&self, bytes: usize) {
        let mut state = self.of.lock();
        if let Some(held) = state.shares.get_mut(&self.id) {
            let given = bytes.min(held.bytes);
            held.bytes -= given;
            state.held -= given;
        }
    }

    /// From now on so many bytes, no more than before, are all that is held.
    pub fn settle(&self, bytes: usize) {
        let mut state = self.of.lock();
        if let Some(held) = state.shares.get_mut(&self.id) {
            let given = held.bytes.saturating_sub(bytes);
            held.bytes -= given;
            state.held -= given;
        }
    }

    /// The answer goes out on this connection from now on, and would be lost with it.
    pub fn sent_on(&self, place: &Arc<Place>) {
        let mut state = self.of.lock();
        if let Some(held) = state.shares.get_mut(&self.id) {
            held.sent_on = Some(Arc::clone(place));
            if held.told {
                place.expel();
            }
        }
    }

    /// Resolves, for one waiter, when this request has to make way.
    pub async fn told(&self) {
        self.call.notified().await;
    }

    /// This request got no room, or was told to make way.
    pub fn is_told(&self) -> bool {
        let state = self.of.lock();
        let told = |held: &Held| held.told || held.refused;
        state.shares.get(&self.id).is_some_and(told)
    }

    /// What its client hears then.
    pub fn no_room(&self) -> ApiError {
        let state = self.of.lock();
        let own = state.shares.get(&self.id).map_or(0, |held| held.bytes);
        ApiError::busy(&format!(
            "answers that are not sent yet fill the {} bytes of memory for them, this one's {own} \
             among them: stream it and read it as it comes, or ask for less at a time (logprobs, \
             top_logprobs, n, prompts with echo, max_tokens)",
            self.of.most
        ))
    }
}

impl Room for Share {
    fn take(&self, bytes: usize) -> bool {
        let mut state = self.of.lock();
        let most = self.of.most;
        let fits = state.held.saturating_add(bytes) <= most;
        let Some(held) = state.shares.get_mut(&self.id) else {
            return false;
        };
        if held.told {
            return false;
        }
        if fits {
            held.bytes += bytes;
            state.held += bytes;
        } else {
            held.refused = true;
        }
        if !fits || state.held > most / 4 * 3 {
            state.call_the_largest();
        }
        fits
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut state = self.of.lock();
        let held = state.shares.remove(&self.id);
        state.held -= held.as_ref().map_or(0, |held| held.bytes);
        drop(state);
        // A place that is let go of takes a lock of its own.
        drop(held);
    }
}

/// A text that grows by doubling.
pub fn text_bytes(bytes: usize) -> usize {
    2 * bytes
}

/// What an echoed prompt takes: its ids, its text, and for each token that is scored its place in
/// the engine's list, in the choice's and among the offsets.
pub fn echo_bytes(tokens: usize, text: usize, scored: bool) -> usize {
    const ID: usize = 4;
    let each = match scored {
        false => ID,
        true => ID + size_of::<usize>() + 2 * size_of::<TokenLogprobs>() + scored_bytes(None),
    };
    tokens * each + text_bytes(text) + ALLOCATION_BYTES
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn the_largest_makes_way_before_the_next_who_asks_has_to() {
        let unsent = Unsent::new(1000);
        let [hog, small, asker] = [(); 3].map(|()| unsent.share());
        assert!(hog.take(500) && small.take(100) && asker.take(100));
        assert!(hog.told().now_or_never().is_none());
        assert!(asker.take(100), "there is room");
        assert!(hog.told().now_or_never().is_some() && hog.is_told());
        assert!(!hog.take(1), "who is told gets no more");
        assert!(!small.is_told() && !asker.is_told());
        // It has not left yet: the last quarter is for those who asked little.
        assert!(asker.take(200) && !asker.take(1));
        assert!(asker.is_told() && !small.is_told());
        assert_eq!(unsent.held(), 1000);
        drop(hog);
        assert_eq!(unsent.held(), 500);
        small.give(70);
        drop(asker);
        assert_eq!(unsent.held(), 30);
        small.give(1000);
        assert_eq!(unsent.held(), 0, "no more than it has");
    }

    #[test]
    fn an_error_names_the_numbers_and_the_way_out() {
        let unsent = Unsent::new(1000);
        let share = unsent.share();
        assert!(share.take(10) && !share.take(1000));
        let error = share.no_room();
        assert_eq!((error.status.as_u16(), error.code), (503, Some("busy")));
        for part in ["1000 bytes", "10 among", "top_logprobs", "stream"] {
            assert!(error.message.contains(part), "{error}");
        }
    }
}
