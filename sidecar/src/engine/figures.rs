//! The figures that the loop shows: of each step, and of what the engine holds.

use std::time::{Duration, Instant};

use super::handle::lock;
use super::run::{Flight, Loop};

impl Loop {
    /// A step's time begins when it was planned, or when the one before it came back.
    pub(super) fn count_step(&mut self, flight: &Flight, computing: Duration) {
        let now = Instant::now();
        let began = flight.sent.unwrap_or(now).max(self.landed);
        self.landed = now;
        self.stats
            .count_step(flight.tokens as u64, now - began, computing);
    }

    /// Makes the step's figures visible to readers, before the events that tell of it leave.
    pub(super) fn publish(&mut self) {
        let Loop {
            scheduler,
            stats,
            shared,
            size,
            ..
        } = self;
        let pool = scheduler.pool();
        let used = pool.used();
        let wasted = scheduler.slots_wasted();
        shared.ledger.set_kv(used, pool.cached(), wasted);
        shared.inbox.set_waiting(scheduler.waiting_first_turn());
        let counters = scheduler.counters();
        stats.running = scheduler.running().len();
        stats.waiting = scheduler.waiting();
        stats.kv_usage = f64::from(used) / f64::from(size.plan.kv_blocks.max(2) - 1);
        let slots = f64::from(used.max(1)) * f64::from(shared.ledger.block_size());
        #[expect(clippy::cast_precision_loss, reason = "a gauge between 0 and 1")]
        let waste = wasted as f64 / slots;
        stats.kv_waste = waste;
        stats.preemptions = counters.preemptions;
        stats.prefix_queries = counters.prefix_queries;
        stats.prefix_hits = counters.prefix_hits;
        stats.prompt_tokens = counters.prompt_tokens;
        self.count_adapted();
        lock(&self.shared.stats).clone_from(&self.stats);
    }

    /// Who runs and who waits, by the slot of their adapter.
    fn count_adapted(&mut self) {
        let counts = &mut self.stats.adapted;
        counts.clear();
        counts.resize(self.slots.len(), [0; 2]);
        if counts.is_empty() {
            return;
        }
        for live in self.live.values() {
            let slot = live.adapter.and_then(|slot| counts.get_mut(slot as usize));
            if let Some(count) = slot {
                count[usize::from(live.first_turn.is_none())] += 1;
            }
        }
    }
}
