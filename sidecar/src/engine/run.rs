//! The loop: receive, schedule, forward, process. One thread; asleep when there is nothing to do.
//!
//! The next step is sent off before the last one's tokens are known (a rank fills them in, see
//! `forward::input::Carried`), so that ranks go on computing while tokens are handed out and the
//! step after that is planned. A sequence that turns out to have ended meanwhile has computed one
//! row in vain; nobody sees it.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use plimsoll_kernels::sampling::Counts;
use plimsoll_planner::Bytes;

use super::clock::Idle;
use super::control::{Command, ControlError};
use super::dynamic::{Slots, UNLOADED};
use super::handle::{EngineState, Shared};
use super::inbox::{Mail, Submitted};
use super::live::{self, Live};
use super::outbox::Outbox;
use super::pushed::Sent;
use super::rank::{STEPS_UNDER_WAY_MAX, panic_text};
use super::ranks::{Failure, Ranks};
use super::request::FinishReason;
use super::rest::RestView;
use super::size::Size;
use super::stats::EngineStats;
use super::step::{self, Drawn};
use crate::scheduler::{Batch, NewSequence, Scheduler};

/// A step of more tokens takes so long that nothing is gained by planning the next one beside it,
/// while requests that come meanwhile would have to wait for that one, too.
const AHEAD_OF_TOKENS_MAX: usize = 256;

/// A step that ranks compute, or will when they are done with the one before.
#[derive(Debug, Default)]
pub(super) struct Flight {
    batch: Batch,
    pub(super) tokens: usize,
    pub(super) sent: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct Loop {
    pub(super) shared: Arc<Shared>,
    pub(super) ranks: Ranks,
    pub(super) scheduler: Scheduler,
    /// In force.
    pub(super) size: Arc<Size>,
    /// Of one block, on the rank where it is largest.
    pub(super) block_bytes: Bytes,
    /// Blocks that the cache began with: as many at most come at once.
    pub(super) first_blocks: u32,
    /// Oldest first; at most `steps_under_way`.
    flying: VecDeque<Flight>,
    steps_under_way: usize,
    /// Kept between steps, so that steps do not allocate.
    spare: Vec<Flight>,
    /// When the last step came back.
    pub(super) landed: Instant,
    pub(super) live: HashMap<u64, Live>,
    /// Requests that ended in this step, and why.
    pub(super) ended: Vec<(u64, FinishReason)>,
    /// What readers are told once the figures are published.
    pub(super) outbox: Outbox,
    pub(super) stats: EngineStats,
    /// A command that waits until the requests before it have ended; the others wait behind it.
    pub(super) pending: Option<Command>,
    /// The pending command is carried out now.
    pub(super) waited: bool,
    /// What others see of a pause or sleep.
    pub(super) rest: RestView,
    pub(super) sent: Sent,
    pub(super) idle: Idle,
    /// Adapters that requests choose.
    pub(super) slots: Slots,
    pub(super) probes: bool,
    /// What the probe drew after the load or the last update; None where there is none, or when the
    /// next wake is to draw it.
    pub(super) probed: Option<Drawn>,
}

impl Loop {
    /// `steps_under_way`: 1 or 2, see `EngineConfig`.
    pub(super) fn new(
        shared: Arc<Shared>,
        ranks: Ranks,
        scheduler: Scheduler,
        size: Size,
        steps_under_way: usize,
        (probes, slots): (bool, Slots),
        (block_bytes, first_blocks): (Bytes, u32),
    ) -> Loop {
        Loop {
            idle: Idle::new(shared.inbox.now()),
            shared,
            ranks,
            scheduler,
            size: Arc::new(size),
            block_bytes,
            first_blocks,
            flying: VecDeque::new(),
            steps_under_way: steps_under_way.clamp(1, STEPS_UNDER_WAY_MAX),
            spare: Vec::new(),
            landed: Instant::now(),
            live: HashMap::new(),
            ended: Vec::new(),
            outbox: Outbox::default(),
            stats: EngineStats::default(),
            pending: None,
            waited: false,
            rest: RestView::default(),
            sent: Sent::default(),
            slots,
            probes,
            probed: None,
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
        let left = self.shared.inbox.close();
        let why = self.shared.state.borrow().why_not();
        left.into_iter()
            .for_each(|command| command.refuse(why.clone()));
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

    fn serve(&mut self) -> Result<(), Failure> {
        loop {
            self.empty_slots()?;
            let (idle, obeys, alarm) = (self.is_idle(), self.pending.is_none(), self.alarm());
            let mut mail = self.shared.inbox.take(idle, obeys, alarm);
            let (heard, command) = (self.heed(&mut mail), mail.command.take());
            if mail.draining && *self.shared.state.borrow() != EngineState::Draining {
                self.leave_rest();
            }
            if self.receive(mail) {
                // What is left under way is for nobody; ranks are let go of between two steps.
                self.land_all()?;
                self.set_state(EngineState::Drained);
                return Ok(());
            }
            if let Some(command) = command {
                self.obey(command)?;
            }
            self.go_on_pausing()?;
            self.mind_sleep(heard)?;
            self.fill_cache()?;
            let launched = self.computes() && self.may_launch() && self.launch()?;
            if !launched || self.flying.len() >= self.steps_under_way {
                self.land()?;
            }
        }
    }

    /// Nothing is under way, and nothing can be.
    fn is_idle(&self) -> bool {
        let waits = self.computes() && self.scheduler.has_turns() || self.is_filling();
        self.flying.is_empty() && self.pending.is_none() && !waits
    }

    /// Whether a step may be planned beside the one under way.
    fn may_launch(&self) -> bool {
        let ahead = |flight: &Flight| flight.tokens <= AHEAD_OF_TOKENS_MAX;
        self.flying.len() < self.steps_under_way && self.flying.iter().all(ahead)
    }

    pub(super) fn set_state(&self, state: EngineState) {
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
            command: _,
            policy: _,
            roused: _,
            draining,
            stopping,
        } = mail;
        submitted
            .into_iter()
            .for_each(|submitted| self.admit(submitted));
        self.ended
            .extend(cancelled.into_iter().map(|id| (id, FinishReason::Abort)));
        // Nothing can be computed where memory is away, and nobody wakes an engine that ends.
        if stopping || draining && self.rest.is_idle() {
            self.abort_all();
        }
        self.end_requests(None);
        let over = stopping || (draining && self.scheduler.is_empty());
        // Readers of ended requests need not wait for the step that follows.
        if over || !self.outbox.is_empty() {
            self.publish();
            self.outbox.send();
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
            .saturating_add(request.max_tokens as usize);
        let scores = request.prompt_logprobs.is_some();
        let adapter = request.adapter.as_ref().map(|name| self.slots.find(name));
        if adapter == Some(None) {
            self.ended.push((request.id, FinishReason::NoAdapter));
        }
        let adapter = adapter.flatten();
        let identity = adapter.and_then(|slot| self.slots.identity(slot));
        self.live.insert(
            request.id,
            Live {
                sampling: request.sampling,
                counts: Counts::default(),
                adapter,
                masked: live::masked(&request.bias, &request.eos),
                bias: request.bias,
                min_tokens: request.min_tokens,
                prompt_logprobs: request.prompt_logprobs,
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
            adapter: identity,
            scores,
        });
    }

    /// Plans a step and sends it to the ranks. False when there is nothing to compute now.
    fn launch(&mut self) -> Result<bool, Failure> {
        let mut flight = self.spare.pop().unwrap_or_default();
        let now = Instant::now();
        self.scheduler.schedule(&mut flight.batch);
        if flight.batch.chunks.is_empty() {
            self.spare.push(flight);
            return Ok(false);
        }
        flight.sent = Some(now);
        flight.tokens = flight.batch.chunks.iter().map(|chunk| chunk.count).sum();
        for id in &flight.batch.admitted {
            if let Some(live) = self.live.get_mut(id) {
                live.first_turn.get_or_insert(now);
            }
        }
        let (scheduler, live) = (&self.scheduler, &mut self.live);
        self.ranks
            .submit(|input| step::fill(input, &flight.batch, scheduler, live))?;
        self.scheduler.sent(&flight.batch);
        self.flying.push_back(flight);
        Ok(true)
    }

    /// Waits for the oldest step under way, if there is one, and hands out its tokens.
    fn land(&mut self) -> Result<(), Failure> {
        if let Some(flight) = self.flying.pop_front() {
            let outputs = self.ranks.collect()?;
            let computing = outputs.iter().map(|output| output.computing).max();
            let generated = step::process(
                outputs,
                &flight.batch,
                &mut self.scheduler,
                &mut self.live,
                &mut self.ended,
                &mut self.outbox,
            );
            self.end_requests(Some("the model's logits are not numbers"));
            self.stats.generation_tokens += generated;
            self.count_step(&flight, computing.unwrap_or_default());
            self.spare.push(flight);
        }
        self.publish();
        self.outbox.send();
        Ok(())
    }

    pub(super) fn land_all(&mut self) -> Result<(), Failure> {
        while !self.flying.is_empty() {
            self.land()?;
        }
        Ok(())
    }

    /// Takes ended requests out of the scheduler and says why; `error` explains a failure.
    pub(super) fn end_requests(&mut self, error: Option<&str>) {
        for (id, reason) in std::mem::take(&mut self.ended) {
            let removed = self.live.remove(&id).zip(self.scheduler.remove(id));
            let Some((live, sequence)) = removed else {
                continue;
            };
            let stats = &mut self.stats;
            match reason {
                FinishReason::Stop => stats.finished_stop += 1,
                FinishReason::Length => stats.finished_length += 1,
                FinishReason::Abort | FinishReason::NotWoken | FinishReason::NoAdapter => {
                    stats.finished_abort += 1;
                }
                FinishReason::Error => stats.finished_error += 1,
            }
            let message = match reason {
                FinishReason::Error | FinishReason::NotWoken => error,
                FinishReason::NoAdapter => Some(UNLOADED),
                FinishReason::Stop | FinishReason::Length | FinishReason::Abort => None,
            };
            let message = message.map(str::to_owned);
            let service = live.finish(&sequence, reason, message, &mut self.outbox);
            self.shared.inbox.finished(id, service);
        }
    }

    /// A failed rank fails everything: loudly, once, for good.
    fn fail(&mut self, message: &str) {
        tracing::error!(error = message, "the engine failed");
        self.set_state(EngineState::Failed {
            message: message.to_owned(),
        });
        if let Some(command) = self.pending.take() {
            let message = message.to_owned();
            command.refuse(ControlError::Failed { message });
        }
        self.shared.inbox.stop();
        // Requests that came before the state changed are still in the inbox.
        let came = self.shared.inbox.take(false, false, None).submitted;
        came.into_iter().for_each(|submitted| self.admit(submitted));
        self.ended.clear();
        self.ended
            .extend(self.live.keys().map(|id| (*id, FinishReason::Error)));
        self.end_requests(Some(message));
        self.publish();
        self.outbox.send();
    }
}
