//! The threads behind a pool, and the protocol by which they join, share and leave a job.
//!
//! One word, `state`, holds the job's number, whether it is open, and how many workers are in it.
//! A worker joins an open job by adding itself in one compare-and-swap; the caller closes the job
//! when no chunk is left and waits until the count of joined workers is zero. So a worker that
//! wakes late finds the job closed and touches nothing of it.

use std::any::Any;
use std::cell::UnsafeCell;
use std::fmt;
use std::hint;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long an idle worker spins: longer than the gaps between the ops of one forward pass.
const IDLE_SPIN: Duration = Duration::from_micros(50);
/// How long the caller spins for workers that are in their last chunk.
const LEAVE_SPIN: Duration = Duration::from_micros(50);
/// Bounds a wait whose wake-up was missed; none is known to be.
const PARK: Duration = Duration::from_millis(100);

const JOINED: u64 = 0xFFFF;
const OPEN: u64 = 1 << 16;
const STOP: u64 = 1 << 17;
const JOB: u64 = 1 << 32;

type Work<'a> = dyn Fn(usize) + Sync + 'a;

#[derive(Clone, Copy)]
struct Job {
    work: *const Work<'static>,
    chunks: usize,
}

struct Shared {
    state: AtomicU64,
    next: AtomicUsize,
    job: UnsafeCell<Option<Job>>,
    panicked: Mutex<Option<Box<dyn Any + Send>>>,
    /// Workers that are parked or about to be.
    parked: AtomicUsize,
    idle: Mutex<()>,
    wake: Condvar,
    caller_parked: AtomicBool,
    leave: Mutex<()>,
    left: Condvar,
}

// SAFETY: `job` is written by the caller only while the job is closed and no worker is joined,
// and read by workers only while they are joined; `state` orders the two. The closure behind the
// pointer is Sync.
unsafe impl Sync for Shared {}
// SAFETY: as above; nothing in it is tied to a thread.
unsafe impl Send for Shared {}

pub(super) struct Crew {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl fmt::Debug for Crew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Crew")
            .field("workers", &self.workers.len())
            .finish_non_exhaustive()
    }
}

impl Crew {
    pub(super) fn start(workers: usize) -> io::Result<Crew> {
        assert!((workers as u64) < JOINED, "{workers} workers");
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            next: AtomicUsize::new(0),
            job: UnsafeCell::new(None),
            panicked: Mutex::new(None),
            parked: AtomicUsize::new(0),
            idle: Mutex::new(()),
            wake: Condvar::new(),
            caller_parked: AtomicBool::new(false),
            leave: Mutex::new(()),
            left: Condvar::new(),
        });
        let mut crew = Crew {
            shared,
            workers: Vec::with_capacity(workers),
        };
        for worker in 1..=workers {
            let shared = Arc::clone(&crew.shared);
            let name = format!("rank-worker-{worker}");
            let handle = thread::Builder::new()
                .name(name)
                .spawn(move || shared.serve())?;
            crew.workers.push(handle);
        }
        Ok(crew)
    }

    /// Runs all chunks; returns when no thread is in the job any more.
    pub(super) fn run(&self, chunks: usize, work: &Work<'_>) {
        let shared = &*self.shared;
        // SAFETY: only the lifetime is changed. `Closing` below waits, also when a chunk panics,
        // until no worker is joined, so no worker holds the pointer once `work`'s borrow ends.
        let work_forever =
            unsafe { std::mem::transmute::<*const Work<'_>, *const Work<'static>>(work) };
        shared.next.store(0, Ordering::Relaxed);
        // SAFETY: the last job was closed and left by all before `run` returned, and a pool is
        // not Sync, so nobody reads or writes `job` now.
        unsafe {
            *shared.job.get() = Some(Job {
                work: work_forever,
                chunks,
            })
        };
        let closed = shared.state.load(Ordering::Relaxed);
        shared
            .state
            .store(closed.wrapping_add(JOB) | OPEN, Ordering::SeqCst);
        if shared.parked.load(Ordering::SeqCst) > 0 {
            drop(shared.idle.lock().unwrap_or_else(PoisonError::into_inner));
            shared.wake.notify_all();
        }
        let closing = Closing { shared };
        shared.claim(chunks, work);
        drop(closing);
        let panicked = shared
            .panicked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(cause) = panicked {
            panic::resume_unwind(cause);
        }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.shared.state.fetch_or(STOP, Ordering::SeqCst);
        drop(
            self.shared
                .idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // A worker catches the panics of chunks, so it ends without one.
            let _ = worker.join();
        }
    }
}

/// Closes the job and waits for the joined workers, however the caller leaves.
struct Closing<'a> {
    shared: &'a Shared,
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        let shared = self.shared;
        // No chunk starts any more if the caller is unwinding.
        shared.next.store(usize::MAX / 2, Ordering::Relaxed);
        shared.state.fetch_and(!OPEN, Ordering::AcqRel);
        let is_left = || shared.state.load(Ordering::Acquire) & JOINED == 0;
        if spin_until(LEAVE_SPIN, is_left) {
            return;
        }
        let mut guard = shared.leave.lock().unwrap_or_else(PoisonError::into_inner);
        shared.caller_parked.store(true, Ordering::SeqCst);
        while shared.state.load(Ordering::SeqCst) & JOINED != 0 {
            guard = match shared.left.wait_timeout(guard, PARK) {
                Ok((guard, _)) => guard,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        shared.caller_parked.store(false, Ordering::SeqCst);
    }
}

impl Shared {
    fn claim(&self, chunks: usize, work: &Work<'_>) {
        loop {
            let chunk = self.next.fetch_add(1, Ordering::Relaxed);
            if chunk >= chunks {
                return;
            }
            work(chunk);
        }
    }

    /// A worker's life.
    fn serve(&self) {
        let mut done = 0;
        loop {
            let state = self.await_job(done);
            if state & STOP != 0 {
                return;
            }
            done = state / JOB;
            if self.join(done) {
                self.work();
                self.leave();
            }
        }
    }

    /// Waits for a job after number `done`, or for the end.
    fn await_job(&self, done: u64) -> u64 {
        let is_news = |state: u64| state & STOP != 0 || (state & OPEN != 0 && state / JOB != done);
        if spin_until(IDLE_SPIN, || is_news(self.state.load(Ordering::Acquire))) {
            return self.state.load(Ordering::Acquire);
        }
        let mut guard = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        self.parked.fetch_add(1, Ordering::SeqCst);
        let mut state = self.state.load(Ordering::SeqCst);
        while !is_news(state) {
            guard = self
                .wake
                .wait(guard)
                .unwrap_or_else(PoisonError::into_inner);
            state = self.state.load(Ordering::SeqCst);
        }
        self.parked.fetch_sub(1, Ordering::SeqCst);
        state
    }

    /// Adds this worker to job `number` if that is still open.
    fn join(&self, number: u64) -> bool {
        let add = |state: u64| (state & OPEN != 0 && state / JOB == number).then(|| state + 1);
        self.state
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, add)
            .is_ok()
    }

    fn work(&self) {
        // SAFETY: this worker is joined, so the caller neither changes `job` nor returns.
        let Some(job) = (unsafe { *self.job.get() }) else {
            return;
        };
        // SAFETY: as above: the closure is borrowed by the caller, which waits for this worker.
        let work = unsafe { &*job.work };
        if let Err(cause) = panic::catch_unwind(AssertUnwindSafe(|| self.claim(job.chunks, work))) {
            *self.panicked.lock().unwrap_or_else(PoisonError::into_inner) = Some(cause);
        }
    }

    fn leave(&self) {
        let before = self.state.fetch_sub(1, Ordering::SeqCst);
        if before & JOINED == 1 && self.caller_parked.load(Ordering::SeqCst) {
            drop(self.leave.lock().unwrap_or_else(PoisonError::into_inner));
            self.left.notify_all();
        }
    }
}

/// Spins for at most `limit`; true as soon as `is_done`.
fn spin_until(limit: Duration, is_done: impl Fn() -> bool) -> bool {
    const SPINS_PER_LOOK: u32 = 32;
    if is_done() {
        return true;
    }
    let start = Instant::now();
    loop {
        for _ in 0..SPINS_PER_LOOK {
            hint::spin_loop();
            if is_done() {
                return true;
            }
        }
        if start.elapsed() >= limit {
            return false;
        }
    }
}
