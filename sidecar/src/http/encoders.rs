//! The threads that turn text into ids and ids into text: what takes long, and takes many times
//! its size in memory meanwhile.
//!
//! A job owns what it works on and its share of the budget for texts until it has ended, whoever
//! still waits for it. One whose client has left is not begun. Nothing else runs on these threads,
//! and they wait for nothing else, so that metrics and reports never stand behind a text.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use plimsoll_planner::host::{QUEUED_TEXT_BYTES, SMALL_TEXT_BYTES};
use tokio::sync::{Semaphore, oneshot};

use super::error::ApiError;

/// Two, so that a short text does not wait for a long one.
const THREADS: usize = 2;
/// Jobs that wait; their texts are bounded by bytes besides.
const MOST_WAITING: usize = 512;
/// How long a text waits for room among those that wait.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long one that has room waits for a thread.
const TURN: Duration = Duration::from_secs(10);

type Job = Box<dyn FnOnce() + Send>;

/// The threads, and the way to them. They end with it.
#[derive(Debug)]
pub struct Encoders {
    jobs: SyncSender<Job>,
    texts: Arc<Semaphore>,
    /// Held by the one job whose text is large.
    large: Arc<Mutex<()>>,
    turn: Duration,
}

/// What a job may ask while it works.
#[derive(Debug)]
pub struct Task<'a, T> {
    reply: &'a oneshot::Sender<Result<T, ApiError>>,
    large: &'a Mutex<()>,
}

impl<T> Task<'_, T> {
    /// Nobody waits for the rest: the job may end here.
    pub fn abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    /// Runs `work` on a text of `bytes`; large ones one at a time, on both threads together.
    pub fn on_text<R>(&self, bytes: usize, work: impl FnOnce() -> R) -> R {
        let is_large = bytes as u64 > SMALL_TEXT_BYTES;
        let _alone = is_large.then(|| self.large.lock().unwrap_or_else(PoisonError::into_inner));
        work()
    }
}

impl Encoders {
    /// # Errors
    /// When the system gives no thread.
    pub fn start() -> io::Result<Encoders> {
        let (jobs, waiting) = sync_channel(MOST_WAITING);
        let waiting = Arc::new(Mutex::new(waiting));
        for thread in 0..THREADS {
            let waiting = Arc::clone(&waiting);
            std::thread::Builder::new()
                .name(format!("text-{thread}"))
                .spawn(move || {
                    while let Some(job) = next(&waiting) {
                        job();
                    }
                })?;
        }
        Ok(Encoders {
            jobs,
            texts: Arc::new(Semaphore::new(QUEUED_TEXT_BYTES as usize)),
            large: Arc::default(),
            turn: TURN,
        })
    }

    /// Runs `work`, which owns `bytes` of text, when its turn has come.
    ///
    /// # Errors
    /// 503 when too much waits already, or its turn does not come in time; what `work` answers.
    pub async fn run<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce(&Task<'_, T>) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let full = || ApiError::busy("other requests' texts and chats wait to be tokenized");
        let count = bytes.min(QUEUED_TEXT_BYTES as usize);
        let count = u32::try_from(count).unwrap_or(QUEUED_TEXT_BYTES);
        let room = Arc::clone(&self.texts).acquire_many_owned(count);
        let room = tokio::time::timeout(PATIENCE, room)
            .await
            .map_err(|_| full())?;
        let (reply, answer) = oneshot::channel();
        let (begin, begun) = oneshot::channel();
        let large = Arc::clone(&self.large);
        let job: Job = Box::new(move || {
            let task = Task {
                reply: &reply,
                large: &large,
            };
            // A text is foreign input to a foreign library: its panic is this request's alone.
            let done = match task.abandoned() {
                true => return,
                false => {
                    // Who no longer waits for the beginning closed `reply`, too.
                    let _ = begin.send(());
                    catch_unwind(AssertUnwindSafe(|| work(&task)))
                }
            };
            drop(room);
            if let Ok(done) = done {
                // Nobody may be left to hear it.
                let _ = reply.send(done);
            }
        });
        match self.jobs.try_send(job) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err(full()),
            Err(TrySendError::Disconnected(_)) => {
                return Err(ApiError::engine("no thread tokenizes any more"));
            }
        }
        // One that is given up is not begun.
        if tokio::time::timeout(self.turn, begun).await.is_err() {
            return Err(full());
        }
        answer
            .await
            .unwrap_or_else(|_| Err(ApiError::engine("the request could not be prepared")))
    }
}

/// The next job; None once nobody can send one.
fn next(waiting: &Mutex<Receiver<Job>>) -> Option<Job> {
    let waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
    waiting.recv().ok()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn an_abandoned_text_keeps_its_room_until_its_work_ends_and_waiting_ones_never_begin() {
        let encoders = Encoders::start().unwrap();
        let all = QUEUED_TEXT_BYTES as usize;
        let (go, gate) = std::sync::mpsc::channel::<()>();
        let begun = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&begun);
        let first = encoders.run(all, move |task: &Task<'_, ()>| {
            count.fetch_add(1, Ordering::SeqCst);
            gate.recv().unwrap();
            assert!(task.abandoned());
            Ok(())
        });
        // The client of the first leaves while its text is worked on.
        let left = tokio::time::timeout(Duration::from_millis(200), first).await;
        assert!(left.is_err());
        assert_eq!(begun.load(Ordering::SeqCst), 1);
        assert_eq!(encoders.texts.available_permits(), 0, "the work goes on");
        let second = encoders.run(1, |_: &Task<'_, ()>| Ok(()));
        let refused = second.await.unwrap_err();
        assert_eq!((refused.status.as_u16(), refused.code), (503, Some("busy")));
        go.send(()).unwrap();
        encoders.run(all, |_: &Task<'_, ()>| Ok(())).await.unwrap();
    }

    #[tokio::test]
    async fn a_text_whose_turn_does_not_come_in_time_is_refused_and_never_begins() {
        let mut encoders = Encoders::start().unwrap();
        encoders.turn = Duration::from_millis(200);
        let encoders = Arc::new(encoders);
        let (go, gate) = std::sync::mpsc::channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        let (starts, mut started) = tokio::sync::mpsc::unbounded_channel();
        let slow: Vec<_> = (0..THREADS)
            .map(|_| {
                let (encoders, gate) = (Arc::clone(&encoders), Arc::clone(&gate));
                let starts = starts.clone();
                tokio::spawn(async move {
                    let work = move |_: &Task<'_, ()>| {
                        starts.send(()).unwrap();
                        gate.lock().unwrap().recv().unwrap();
                        Ok(())
                    };
                    encoders.run(1, work).await
                })
            })
            .collect();
        for _ in 0..THREADS {
            started.recv().await.unwrap();
        }
        let begun = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&begun);
        let late = encoders.run(1, move |_: &Task<'_, ()>| {
            count.fetch_add(1, Ordering::SeqCst);
            Ok(())
        });
        let refused = late.await.unwrap_err();
        assert_eq!((refused.status.as_u16(), refused.code), (503, Some("busy")));
        assert!(refused.retry_after.is_some());
        for _ in 0..THREADS {
            go.send(()).unwrap();
        }
        for one in slow {
            one.await.unwrap().unwrap();
        }
        encoders.run(1, |_: &Task<'_, ()>| Ok(())).await.unwrap();
        assert_eq!(begun.load(Ordering::SeqCst), 0);
    }

    #[tokio::test]
    async fn a_text_that_breaks_the_library_is_the_end_of_its_request_alone() {
        let encoders = Encoders::start().unwrap();
        for _ in 0..2 * THREADS {
            let broken = encoders.run(1, |_: &Task<'_, ()>| panic!("a hole in the library"));
            assert_eq!(broken.await.unwrap_err().status.as_u16(), 500);
        }
        assert_eq!(encoders.run(1, |_| Ok(7)).await.unwrap(), 7);
    }
}
