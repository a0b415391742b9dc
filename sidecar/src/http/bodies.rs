//! Bytes of request bodies: how many are held at once, as bytes and as the values in them.
//!
//! Small bodies have a budget of their own, so that they never wait for large ones. Who finds a
//! budget empty hurries those whose bodies take long, waits a little, and is refused with a 503.

use std::sync::Arc;
use std::time::Duration;

use plimsoll_planner::host::{LARGE_BODIES_BYTES, SMALL_BODIES_BYTES};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::error::ApiError;
use super::places::Places;

/// Bytes that count as small: an ordinary chat, or its values.
const SMALL: usize = 256 << 10;
/// How long a body waits for room.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often it hurries others meanwhile.
const HURRY_EVERY: Duration = Duration::from_millis(100);

/// The two budgets.
#[derive(Clone, Debug)]
pub struct Bodies {
    small: Arc<Semaphore>,
    large: Arc<Semaphore>,
    /// Bytes of the larger budget.
    most: usize,
}

/// Bytes of a budget, given back when dropped.
#[derive(Debug, Default)]
pub struct Held(Vec<OwnedSemaphorePermit>);

impl Bodies {
    /// Room for at least one body of `largest` bytes and its values.
    pub fn new(largest: usize) -> Bodies {
        let most = (LARGE_BODIES_BYTES as usize)
            .max(largest.saturating_mul(3))
            .min(u32::MAX as usize);
        Bodies {
            small: Arc::new(Semaphore::new(SMALL_BODIES_BYTES as usize)),
            large: Arc::new(Semaphore::new(most)),
            most,
        }
    }

    /// Takes `bytes`; `places`: whose bodies are hurried meanwhile.
    ///
    /// # Errors
    /// 503 when nothing came free in time, 413 for more than there is.
    pub async fn take(
        &self,
        held: &mut Held,
        bytes: usize,
        places: Option<&Places>,
    ) -> Result<(), ApiError> {
        if bytes > self.most {
            return Err(ApiError::too_many_values(bytes, self.most));
        }
        let budget = if bytes <= SMALL {
            &self.small
        } else {
            &self.large
        };
        let count = u32::try_from(bytes).unwrap_or(u32::MAX);
        let permit = Arc::clone(budget).acquire_many_owned(count);
        tokio::pin!(permit);
        let deadline = Instant::now() + PATIENCE;
        loop {
            tokio::select! {
                biased;
                permit = permit.as_mut() => {
                    // The semaphore is never closed.
                    held.0.extend(permit.ok());
                    return Ok(());
                }
                () = tokio::time::sleep(HURRY_EVERY) => {}
            }
            if Instant::now() >= deadline {
                return Err(ApiError::busy(
                    "other requests' bodies fill the memory for them",
                ));
            }
            if let Some(places) = places {
                places.hurry();
            }
        }
    }
}

/// An upper bound on the bytes that the JSON of `body` takes once it is parsed: its text, and for
/// each value and each field what the standard library's lists and maps take.
pub fn parsed_bytes(body: &[u8]) -> usize {
    /// A value in a list that doubled when it was full.
    const VALUE: usize = 64;
    /// A field: its share of a map's node that may be half empty, and its name.
    const FIELD: usize = 160;
    /// The first node of a map.
    const OBJECT: usize = 700;
    let (mut bytes, mut quoted, mut escaped) = (body.len(), false, false);
    for byte in body {
        match (quoted, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => quoted = !quoted,
            (false, b',' | b'[') => bytes += VALUE,
            (false, b':') => bytes += FIELD,
            (false, b'{') => bytes += OBJECT,
            _ => {}
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_and_text_is_not_mistaken_for_them() {
        let text = r#"{"prompt": "a, b: [c] {d} \" , \\"}"#;
        assert_eq!(parsed_bytes(text.as_bytes()), text.len() + 700 + 160);
        let ids = format!("[{}]", vec!["1"; 1000].join(","));
        assert_eq!(parsed_bytes(ids.as_bytes()), ids.len() + 1000 * 64);
        // Three bytes that become a map of its own.
        let maps = format!("[{}]", vec!["{}"; 1000].join(","));
        assert!(parsed_bytes(maps.as_bytes()) > 700_000);
    }

    #[tokio::test]
    async fn small_bodies_do_not_wait_for_large_ones_and_large_ones_wait_a_little() {
        let bodies = Bodies::new(1 << 20);
        let mut all = Held::default();
        bodies.take(&mut all, 24 << 20, None).await.unwrap();
        let mut small = Held::default();
        bodies.take(&mut small, SMALL, None).await.unwrap();
        let began = Instant::now();
        let mut none = Held::default();
        let error = bodies.take(&mut none, SMALL + 1, None).await.unwrap_err();
        assert_eq!((error.status.as_u16(), error.code), (503, Some("busy")));
        assert!(error.retry_after.is_some() && began.elapsed() >= PATIENCE);
        drop(all);
        bodies.take(&mut none, SMALL + 1, None).await.unwrap();
        let error = bodies.take(&mut none, 25 << 20, None).await.unwrap_err();
        assert_eq!(error.status.as_u16(), 413);
    }
}
