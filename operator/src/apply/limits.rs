//! Memory limits of pods that run, through `pods/resize`. What the API server says no to (a quota or a
//! range of the namespace, an admission policy, an old version) is an answer, which status tells, and
//! is asked again after a while; everything else goes on without it.

use std::time::Duration;

use tokio::time::Instant;

use super::{Writer, Written};
use crate::desire::{PodLimit, soonest};
use crate::error::Error;
use crate::facts::Facts;
use crate::memory::{LimitAsked, Memory};

/// After a refusal status is told at once what became of it.
const SOON: Duration = Duration::from_millis(50);

/// Asks for limits.
///
/// # Errors
/// The API server did not answer, or has trouble of its own.
pub(super) async fn ask(
    writer: &Writer<'_>,
    facts: &Facts,
    limits: &[PodLimit],
    (memory, written): (&mut Memory, &mut Written),
) -> Result<(), Error> {
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
            Err(error) if says_no(&error) => {
                written.look_again = soonest(written.look_again, Some(SOON));
                Some(error.to_string())
            }
            Err(error) => return Err(error),
        };
        let asked = LimitAsked {
            bytes: *bytes,
            at: Instant::now(),
            refused,
        };
        memory.limits.insert(uid.clone(), asked);
    }
    Ok(())
}

fn says_no(error: &Error) -> bool {
    matches!(error.code(), Some(400 | 403 | 404 | 405 | 422))
}
