//! Memory limits of pods that run, through `pods/resize`. What the API server says no to (a quota or a
//! range of the namespace, an admission policy, an old version) is an answer, which status tells, and
//! is asked again after a while, and so is what it failed at; everything else goes on without it.

use std::time::Duration;

use tokio::time::Instant;

use super::{Writer, Written};
use crate::desire::{PodLimit, soonest};
use crate::facts::Facts;
use crate::memory::{LimitAsked, Memory};

/// After a refusal status is told at once what became of it.
const SOON: Duration = Duration::from_millis(50);

/// Asks for limits.
pub(super) async fn ask(
    writer: &Writer<'_>,
    facts: &Facts,
    limits: &[PodLimit],
    (memory, written): (&mut Memory, &mut Written),
) {
    for PodLimit {
        uid,
        bytes,
        requests,
    } in limits
    {
        let Some(pod) = facts.pods.iter().find(|pod| pod.uid == *uid) else {
            continue;
        };
        let refused = match writer.resize(pod, (*bytes, *requests)).await {
            Ok(()) => None,
            // It went, or another has its name: the watch will say so.
            Err(error) if error.code() == Some(409) => continue,
            Err(error) => Some(error),
        };
        let silent = refused.as_ref().is_some_and(|error| error.code().is_none());
        if refused.is_some() {
            written.look_again = soonest(written.look_again, Some(SOON));
        }
        let asked = LimitAsked {
            bytes: *bytes,
            at: Instant::now(),
            refused: refused.map(|error| error.to_string()),
        };
        memory.limits.insert(uid.clone(), asked);
        if silent {
            // The others are asked in the next pass: one that waits for each would take for ever.
            break;
        }
    }
}
