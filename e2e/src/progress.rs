//! What is going on and for how long: a line when a step starts, a sign of life while it lasts, and
//! a table of where the time went.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

/// A step that takes longer than this shows that it is still at it.
const FIRST_SIGN: Duration = Duration::from_secs(2);
const RAREST_SIGN: Duration = Duration::from_secs(30);

/// The clock of one run of the program.
#[derive(Debug)]
pub(crate) struct Progress {
    started: Instant,
    steps: Arc<Mutex<Vec<Step>>>,
    /// How many steps are open, here.
    depth: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Step {
    name: String,
    depth: usize,
    took: Duration,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
            steps: Arc::default(),
            depth: Arc::default(),
        }
    }

    /// The same clock and table for what runs beside others: its steps lie in those that are open now.
    pub(crate) fn beside(&self) -> Self {
        Self {
            started: self.started,
            steps: Arc::clone(&self.steps),
            depth: Arc::new(AtomicUsize::new(self.depth.load(Ordering::SeqCst))),
        }
    }

    /// Runs one step and remembers how long it took. Steps may hold steps.
    pub(crate) fn step<T>(&self, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let index = self.open(name);
        let began = Instant::now();
        let (done, watch) = mpsc::channel::<()>();
        let label = name.to_owned();
        let (depth, own) = (Arc::clone(&self.depth), self.depth.load(Ordering::SeqCst));
        let sign = thread::spawn(move || {
            let mut wait = FIRST_SIGN;
            while watch.recv_timeout(wait) == Err(RecvTimeoutError::Timeout) {
                // A step inside this one speaks for both.
                if depth.load(Ordering::SeqCst) == own {
                    println!("           … {label} ({} s)", began.elapsed().as_secs());
                }
                wait = (wait * 2).min(RAREST_SIGN);
            }
        });
        let result = work();
        drop(done);
        let _ = sign.join();
        self.close(index, began.elapsed());
        result
    }

    /// One line with the time since the start.
    pub(crate) fn say(&self, line: &str) {
        println!("[{:6.1} s] {line}", self.started.elapsed().as_secs_f64());
    }

    /// The whole time so far.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Prints where the time went.
    pub(crate) fn table(&self) {
        println!("\nwhere the time went");
        for step in self
            .steps
            .lock()
            .unwrap_or_else(|held| held.into_inner())
            .iter()
        {
            println!(
                "  {:>7.1} s  {}{}",
                step.took.as_secs_f64(),
                "  ".repeat(step.depth),
                step.name
            );
        }
        println!("  {:>7.1} s  in all", self.elapsed().as_secs_f64());
    }

    fn open(&self, name: &str) -> usize {
        self.say(name);
        let depth = self.depth.fetch_add(1, Ordering::SeqCst);
        let mut steps = self.steps.lock().unwrap_or_else(|held| held.into_inner());
        steps.push(Step {
            name: name.to_owned(),
            depth,
            took: Duration::ZERO,
        });
        steps.len() - 1
    }

    fn close(&self, index: usize, took: Duration) {
        self.depth.fetch_sub(1, Ordering::SeqCst);
        let mut steps = self.steps.lock().unwrap_or_else(|held| held.into_inner());
        if let Some(step) = steps.get_mut(index) {
            step.took = took;
        }
    }
}
