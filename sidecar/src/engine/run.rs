//! The loop: receive, schedule, forward, process. One thread; asleep when there is nothing to do.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::handle::{EngineState, Shared, lock};
use super::inbox::{Mail, Submitted};
use super::live::Live;
use super::outbox::Outbox;
use super::rank::panic_text;
use super::ranks::{Failure, Ranks};
use super::request::FinishReason;
use super::stats::EngineStats;
use super::step;
use crate::scheduler::{Batch, NewSequence, Scheduler};

#[derive(Debug)]
pub(super) struct Loop {
    pub(super) shared: Arc<Shared>,
    pub(super) ranks: Ranks,
    pub(super) scheduler: Scheduler,
    pub(super) batch: Batch,
    pub(super) live: HashMap<u64, Live>,
    /// Requests that ended in this step, and why.
    pub(super) ended: Vec<(u64, FinishReason)>,
    /// What readers are told once the figures are published.
    pub(super) outbox: Outbox,
    pub(super) stats: EngineStats,
}

impl Loop {
    pub(super) fn new(shared: Arc<Shared>, ranks: Ranks, scheduler: Scheduler) -> Loop {
        Loop {
            shared,
            ranks,
            scheduler,
            batch: Batch::default(),
            live: HashMap::new(),
            ended: Vec::new(),
            outbox: Outbox::default(),
            stats: EngineStats::default(),
        }
    }

    /// Loads, serves, and ends: drained, stopped or failed. Whatever ends it, a bug included,
    /// nobody is left waiting, and a state says why.
    pub(super) fn run(mut self) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.live())) {
            let message = format!("the engine's own thread panicked: {}", panic_text(&*panic));
            // What is left may be broken, too; then requests end with their channels, unsaid.
            let told = catch_unwind(AssertUnwindSafe(|| self.fail(&message)));
            if told.is_err() {
                tracing::error!("not every request could be told");
            }
        }
        self.shared.inbox.close();
    }

    fn live(&mut self) {
        let loaded = self.load();
        match loaded.and_then(|()| self.serve()) {
            Ok(()) => {}
            // Told to end while loading: the ranks left, nothing failed.
            Err(_)
                if *self.shared.state.borrow() == EngineState::Loading
                    && self.shared.inbox.is_ending() =>
            {
                self.set_state(EngineState::Drained);
            }
            Err(Failure(message)) => self.fail(&message),
        }
    }

    fn load(&mut self) -> Result<(), Failure> {
        let shared = Arc::clone(&self.shared);
        self.ranks
            .load(|| lock(&shared.progress).stage = "LoadingWeights")?;
        lock(&self.shared.progress).stage = "Ready";
        self.shared.state.send_replace(EngineState::Serving);
        Ok(())
    }

    fn serve(&mut self) -> Result<(), Failure> {
        loop {
            let mut mail = self.shared.inbox.take(self.scheduler.is_empty());
            let check = mail.check.take();
            if mail.draining {
                self.set_state(EngineState::Draining);
            }
            if self.receive(mail) {
                return Ok(());
            }
            if let Some(asker) = check {
                // Whoever asked may be gone.
                let _ = asker.send(self.ranks.check_weights()?);
            }
            let started = Instant::now();
            self.scheduler.schedule(&mut self.batch);
            if !self.batch.chunks.is_empty() {
                let computing = self.forward()?;
                self.count_step(started, computing);
            }
            self.publish();
            self.outbox.send();
        }
    }

    fn set_state(&self, state: EngineState) {
        self.shared.state.send_if_modified(|current| {
            let changed = *current != state;
            *current = state;
            changed
        });
    }

    /// Takes the mail in. True when there is nothing left to do, ever.
    fn receive(&mut self, mail: Mail) -> bool {
        let Mail {
            submitted,
            cancelled,
            check: _,
            draining,
            stopping,
        } = mail;
        submitted
            .into_iter()
            .for_each(|submitted| self.admit(submitted));
        self.ended
            .extend(cancelled.into_iter().map(|id| (id, FinishReason::Abort)));
        if stopping {
            self.ended
                .extend(self.live.keys().map(|id| (*id, FinishReason::Abort)));
        }
        self.end_requests(None);
        let over = stopping || (draining && self.scheduler.is_empty());
        // Readers of ended requests need not wait for the step that follows.
        if over || !self.outbox.is_empty() {
            self.publish();
            self.outbox.send();
        }
        if over {
            self.set_state(EngineState::Drained);
        }
        over
    }

    fn admit(&mut self, submitted: Submitted) {
        let Submitted {
            request,
            at,
            logits,
        } = submitted;
        let room = self.shared.facts.max_model_len as usize;
        let max_len = request
            .prompt
            .len()
            .saturating_add(request.max_tokens.max(1) as usize);
        self.live.insert(
            request.id,
            Live {
                sampling: request.sampling,
                eos: request.eos,
                events: request.events,
                logits,
                submitted: at,
                first_turn: None,
                first_token: None,
                last_token: None,
                generated: 0,
            },
        );
        self.scheduler.add(NewSequence {
            id: request.id,
            prompt: request.prompt,
            max_len: max_len.min(room),
            cache_salt: request.cache_salt.unwrap_or_default(),
        });
    }

    /// Runs the batch on the ranks; returns how long they computed.
    fn forward(&mut self) -> Result<Duration, Failure> {
        let now = Instant::now();
        for id in &self.batch.admitted {
            if let Some(live) = self.live.get_mut(id) {
                live.first_turn.get_or_insert(now);
            }
        }
        let Loop {
            scheduler,
            batch,
            live,
            ranks,
            ..
        } = self;
        ranks.fill(|input| step::fill(input, batch, scheduler, live));
        let started = Instant::now();
        let outputs = self.ranks.step()?;
        let computing = started.elapsed();
        step::process(
            outputs,
            &self.batch,
            &mut self.scheduler,
            &mut self.live,
            &mut self.ended,
            &mut self.outbox,
        );
        self.end_requests(Some("the model's logits are not numbers"));
        Ok(computing)
    }

    /// Takes ended requests out of the scheduler and says why; `error` explains an `Error`.
    fn end_requests(&mut self, error: Option<&str>) {
        for (id, reason) in std::mem::take(&mut self.ended) {
            let Some(live) = self.live.remove(&id) else {
                continue;
            };
            let Some(sequence) = self.scheduler.remove(id) else {
                continue;
            };
            let stats = &mut self.stats;
            match reason {
                FinishReason::Stop => stats.finished_stop += 1,
                FinishReason::Length => stats.finished_length += 1,
                FinishReason::Abort => stats.finished_abort += 1,
                FinishReason::Error => stats.finished_error += 1,
            }
            let message = error
                .filter(|_| reason == FinishReason::Error)
                .map(str::to_owned);
            let service = live.finish(&sequence, reason, message, &mut self.outbox);
            self.shared.inbox.finished(id, service);
        }
    }

    fn count_step(&mut self, started: Instant, computing: Duration) {
        let chunks = &self.batch.chunks;
        let tokens: usize = chunks.iter().map(|chunk| chunk.count).sum();
        let generated = chunks.iter().filter(|chunk| chunk.samples).count();
        self.stats.generation_tokens += generated as u64;
        self.stats
            .count_step(tokens as u64, started.elapsed(), computing);
    }

    /// Makes the step's figures visible to readers, before the events that tell of it leave.
    fn publish(&mut self) {
        let Loop {
            scheduler,
            stats,
            shared,
            ..
        } = self;
        let pool = scheduler.pool();
        let (used, total) = (pool.used(), pool.total());
        let wasted = scheduler.slots_wasted();
        shared.ledger.set_kv(used, pool.cached(), wasted);
        shared.inbox.set_waiting(scheduler.waiting_first_turn());
        let counters = scheduler.counters();
        stats.running = scheduler.running().len();
        stats.waiting = scheduler.waiting();
        stats.kv_usage = f64::from(used) / f64::from(total.max(1));
        let slots = f64::from(used.max(1)) * f64::from(shared.ledger.block_size());
        #[expect(clippy::cast_precision_loss, reason = "a gauge between 0 and 1")]
        let waste = wasted as f64 / slots;
        stats.kv_waste = waste;
        stats.preemptions = counters.preemptions;
        stats.prefix_queries = counters.prefix_queries;
        stats.prefix_hits = counters.prefix_hits;
        stats.prompt_tokens = counters.prompt_tokens;
        lock(&shared.stats).clone_from(stats);
    }

    /// A failed rank fails everything: loudly, once, for good.
    fn fail(&mut self, message: &str) {
        tracing::error!(message, "the engine failed");
        self.set_state(EngineState::Failed {
            message: message.to_owned(),
        });
        self.shared.inbox.stop();
        // Requests that came before the state changed are still in the inbox.
        let mail = self.shared.inbox.take(false);
        mail.submitted
            .into_iter()
            .for_each(|submitted| self.admit(submitted));
        self.ended.clear();
        self.ended
            .extend(self.live.keys().map(|id| (*id, FinishReason::Error)));
        self.end_requests(Some(message));
        self.publish();
        self.outbox.send();
    }
}
