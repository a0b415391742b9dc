//! Adapters that are read for a target, each on a thread of its own: one whose volume hangs keeps no other
//! from being loaded. What has begun is waited for and not begun again, so threads that hang are bounded.

use std::sync::Arc;
use std::time::{Duration, Instant};

use plimsoll_crds::v1alpha1::boot::BootAdapter;
use tokio::task::JoinHandle;

use super::app::Loaded;
use crate::adapters::{AdapterPath, Dynamic};
use crate::model::ModelError;

/// Reads that there may be at once.
const AT_ONCE_MAX: usize = 8;
/// A read that takes no longer is waited for; others go on beside whatever comes next.
const AT_ONCE: Duration = Duration::from_millis(100);
/// What was read longer ago than this is read again.
const FRESH: Duration = Duration::from_secs(5);
/// A read that takes longer is told of.
const HANGS: Duration = Duration::from_secs(30);

#[derive(Debug)]
struct Read {
    adapter: BootAdapter,
    began: Instant,
    /// And when it ended.
    opened: JoinHandle<(Result<Dynamic, ModelError>, Instant)>,
}

/// See the head of the file.
#[derive(Debug, Default)]
pub(super) struct Reads(Vec<Read>);

impl Reads {
    /// Begins to read an adapter or goes on with that; None where it is not read yet.
    ///
    /// # Errors
    /// Why it is not what it should be, or is not read.
    pub(super) async fn read(
        &mut self,
        loaded: &Loaded,
        adapter: &BootAdapter,
        now: Instant,
    ) -> Result<Option<Dynamic>, String> {
        let at = match self.0.iter().position(|read| read.adapter == *adapter) {
            Some(at) => at,
            None => self.begin(loaded, adapter, now)?,
        };
        let read = &mut self.0[at];
        let Ok(opened) = tokio::time::timeout(AT_ONCE, &mut read.opened).await else {
            return Ok(None);
        };
        self.0.swap_remove(at);
        match opened {
            // Asked for again after a while, by a newer target or an engine that slept: files change.
            Ok((_, ended)) if now.saturating_duration_since(ended) > FRESH => {
                self.begin(loaded, adapter, now).map(|_| None)
            }
            Ok((Ok(opened), _)) => Ok(Some(opened)),
            Ok((Err(error), _)) => Err(format!("nothing was changed: {error}")),
            Err(panic) => Err(format!("adapter `{}`: {panic}", adapter.name)),
        }
    }

    fn begin(
        &mut self,
        loaded: &Loaded,
        adapter: &BootAdapter,
        now: Instant,
    ) -> Result<usize, String> {
        if self.0.len() >= AT_ONCE_MAX {
            // What nobody waits for any more.
            self.0.retain(|read| !read.opened.is_finished());
        }
        if self.0.len() >= AT_ONCE_MAX {
            let first = &self.0[0].adapter;
            return Err(format!(
                "adapter `{}`: {} others are still being read, `{}` ({}) first of them: their volume hangs, \
                 or is slow",
                adapter.name,
                self.0.len(),
                first.name,
                first.path
            ));
        }
        let engine = Arc::clone(&loaded.engine);
        let at = AdapterPath {
            name: adapter.name.clone(),
            path: adapter.path.clone().into(),
            scale: adapter.scale,
        };
        self.0.push(Read {
            adapter: adapter.clone(),
            began: now,
            opened: tokio::task::spawn_blocking(move || (engine.open_adapter(&at), Instant::now())),
        });
        Ok(self.0.len() - 1)
    }

    /// What is told of an adapter that is not read after so long.
    pub(super) fn hangs(&self, adapter: &BootAdapter, now: Instant) -> Option<String> {
        let read = self.0.iter().find(|read| read.adapter == *adapter)?;
        let is_long = now.saturating_duration_since(read.began) >= HANGS;
        is_long.then(|| {
            format!(
                "adapter `{}`: {} is still being read after {} s: its volume hangs, or is slow; others are \
                 loaded meanwhile, and it is once it is read",
                adapter.name,
                adapter.path,
                HANGS.as_secs()
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use plimsoll_crds::v1alpha1::adapters::AdapterScale;

    use super::*;
    use crate::http::testing::{Script, app};

    fn adapter(name: &str) -> BootAdapter {
        BootAdapter {
            name: name.to_owned(),
            path: format!("/adapters/{name}"),
            scale: AdapterScale::ONE,
        }
    }

    #[tokio::test]
    async fn reads_that_hang_are_begun_once_bounded_and_told_of() {
        let (app, engine) = app(Script::Say("x"));
        let loaded = app.peek().unwrap();
        let (mut reads, now) = (Reads::default(), Instant::now());
        let hanging: Vec<BootAdapter> = (0..AT_ONCE_MAX)
            .map(|at| adapter(&format!("hangs-{at}")))
            .collect();
        for of in hanging.iter().chain(&hanging) {
            assert!(matches!(reads.read(&loaded, of, now).await, Ok(None)));
        }
        let why = reads.read(&loaded, &adapter("sql"), now).await.unwrap_err();
        assert!(
            why.contains("8 others are still being read, `hangs-0`"),
            "{why}"
        );
        let first = &hanging[0];
        assert_eq!(reads.hangs(first, now + HANGS / 2), None);
        let told = reads.hangs(first, now + HANGS).unwrap();
        assert!(
            told.contains("/adapters/hangs-0 is still being read after 30 s"),
            "{told}"
        );
        // What ends is what it is, and makes room.
        engine.let_go();
        let ended = loop {
            match reads.read(&loaded, first, now).await {
                Ok(None) => {}
                ended => break ended,
            }
        };
        assert!(ended.unwrap_err().contains("nothing was changed"));
        // What nobody fetched for a while is not what its files are now: it is read again.
        let second = &hanging[1];
        let later = loop {
            if reads
                .0
                .iter()
                .any(|it| it.adapter == *second && it.opened.is_finished())
            {
                break Instant::now() + FRESH * 2;
            }
            tokio::task::yield_now().await;
        };
        assert!(matches!(reads.read(&loaded, second, later).await, Ok(None)));
        let again = reads.0.iter().find(|it| it.adapter == *second);
        assert!(again.is_some_and(|it| it.began == later));
        let missing = reads.read(&loaded, &adapter("sql"), now).await;
        assert!(missing.unwrap_err().contains("adapter `sql`"));
    }
}
