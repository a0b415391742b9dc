//! Events on their way to readers. They wait here until the figures of their step are published,
//! so that a client that has its answer never reads older figures.

use super::request::{Events, TokenEvent};

/// At most one token and one end per live request; empty between two steps.
#[derive(Debug, Default)]
pub(super) struct Outbox(Vec<(Events, TokenEvent)>);

impl Outbox {
    pub(super) fn push(&mut self, reader: Events, event: TokenEvent) {
        self.0.push((reader, event));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sends everything in order. A reader that is gone or has no room sees its channel close.
    pub(super) fn send(&mut self) {
        for (reader, event) in self.0.drain(..) {
            let _ = reader.send(event);
        }
    }
}
