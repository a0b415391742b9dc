//! All ranks as the engine sees them: started together, asked together, failing together.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use plimsoll_kernels::comm;
use plimsoll_kernels::isa::Isa;
use plimsoll_planner::{Account, Plan, RankPlan, Request};

use super::handle::Shared;
use super::rank::{self, Answer, Ask, Inputs, RankStart, STEPS_UNDER_WAY_MAX};
use crate::forward::input::StepInput;
use crate::forward::{StepOutput, WeightCheck};
use crate::model::Model;

/// The longest that one rank waits for the others in one exchange. Ranks do equal work between
/// two exchanges; this only bounds how long a rank that hangs stays unnoticed.
const EXCHANGE_LIMIT: Duration = Duration::from_secs(60);

/// A rank that reads its weights more slowly than this does not read them, it hangs.
const CHECKED_PER_SECOND: u64 = 64 << 20;

/// The longest that a check of the weights may take, ranks side by side. As in an exchange, it only
/// bounds how long a rank that hangs stays unnoticed: there is no exchange in which others would
/// notice it.
fn check_limit(plan: &Plan) -> Duration {
    let weights = |rank: &RankPlan| rank.bytes(Account::Weights) + rank.bytes(Account::Offload);
    let weights = plan.ranks.iter().map(weights);
    let most = weights.max().unwrap_or_default().get();
    EXCHANGE_LIMIT + Duration::from_secs(most / CHECKED_PER_SECOND)
}

/// A rank that takes memory and reads weights more slowly than this does not, it hangs.
const TAKEN_PER_SECOND: u64 = 16 << 20;

/// The longest that ranks may take to give back or take again all that they hold.
pub(super) fn move_limit(plan: &Plan) -> Duration {
    let most = plan.ranks.iter().map(RankPlan::everywhere).max();
    EXCHANGE_LIMIT + Duration::from_secs(most.unwrap_or_default().get() / TAKEN_PER_SECOND)
}

/// The longest that a step may take: as if every rank came last to each of its exchanges. A rank
/// alone has no exchange in which others would notice that it hangs.
fn step_limit(request: &Request) -> Duration {
    const AROUND_LAYERS: u32 = 3;
    EXCHANGE_LIMIT.saturating_mul(2 * request.shape.layers + AROUND_LAYERS)
}

/// The longest from asking for a check to its answer: the steps under way end first.
pub(super) fn check_patience(plan: &Plan) -> Duration {
    check_limit(plan) + EXCHANGE_LIMIT
}

#[derive(Debug)]
pub(super) struct Ranks {
    pub(super) asks: Vec<SyncSender<Ask>>,
    answers: Receiver<Answer>,
    inputs: Arc<Inputs>,
    /// Per slot and rank. Kept between steps, so that steps do not allocate.
    outputs: [Vec<StepOutput>; STEPS_UNDER_WAY_MAX],
    /// Per slot: ranks that have answered.
    answered: [usize; STEPS_UNDER_WAY_MAX],
    /// The slot of the next step to be submitted, and steps under way.
    next: usize,
    under_way: usize,
    pub(super) check_limit: Duration,
    step_limit: Duration,
    pub(super) move_limit: Duration,
}

/// A rank failed; the message names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure(pub(super) String);

impl Ranks {
    /// Starts the threads; each reserves its memory at once.
    pub(super) fn start(
        request: &Arc<Request>,
        plan: &Arc<Plan>,
        model: &Arc<Model>,
        shared: &Arc<Shared>,
        sizes: (usize, u32),
        isa: Isa,
    ) -> std::io::Result<Ranks> {
        let count = plan.ranks.len();
        // Each rank has at most an answer per step and one last word under way.
        let (answers_in, answers) = sync_channel((STEPS_UNDER_WAY_MAX + 1) * count);
        let inputs = Arc::new(Inputs::default());
        let mut asks = Vec::with_capacity(count);
        for rank in 0..count {
            let (ask, from_engine) = sync_channel(STEPS_UNDER_WAY_MAX);
            asks.push(ask);
            rank::spawn(RankStart {
                rank,
                sizes,
                isa,
                request: Arc::clone(request),
                plan: Arc::clone(plan),
                model: Arc::clone(model),
                inputs: Arc::clone(&inputs),
                shared: Arc::clone(shared),
                asks: from_engine,
                answers: answers_in.clone(),
            })?;
        }
        Ok(Ranks {
            asks,
            answers,
            inputs,
            outputs: Default::default(),
            answered: Default::default(),
            next: 0,
            under_way: 0,
            check_limit: check_limit(plan),
            step_limit: step_limit(request),
            move_limit: move_limit(plan),
        })
    }

    pub(super) fn hear(&self) -> Result<Answer, Failure> {
        Ranks::understand(self.answers.recv().ok())
    }

    /// None once it is `end`.
    pub(super) fn hear_until(&self, end: Instant) -> Result<Option<Answer>, Failure> {
        match self
            .answers
            .recv_timeout(end.saturating_duration_since(Instant::now()))
        {
            Ok(answer) => Ranks::understand(Some(answer)).map(Some),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Ranks::understand(None).map(Some),
        }
    }

    /// None: nobody is left who could answer.
    fn understand(answer: Option<Answer>) -> Result<Answer, Failure> {
        match answer {
            Some(Answer::Failed { rank, message }) => {
                Err(Failure(format!("rank {rank} failed: {message}")))
            }
            // Others may have loaded and wait to be asked: they would be waited for in vain.
            Some(Answer::Left) => Err(Failure("a rank left while loading".to_owned())),
            Some(answer) => Ok(answer),
            None => Err(Failure("all rank threads are gone".to_owned())),
        }
    }

    pub(super) fn ask(&self, rank: usize, ask: Ask) -> Result<(), Failure> {
        let Err(_) = self.asks[rank].send(ask) else {
            return Ok(());
        };
        // A rank that hung up has left its last word in the answers, behind those of others.
        loop {
            self.hear()?;
        }
    }

    /// Waits for the memory, makes the group, and has the weights read.
    pub(super) fn load(&mut self, mut reserved: impl FnMut()) -> Result<(), Failure> {
        let count = self.asks.len();
        let mut buffers: Vec<_> = (0..count).map(|_| None).collect();
        for _ in 0..count {
            if let Answer::Reserved { rank, exchange } = self.hear()? {
                buffers[rank] = Some(exchange);
            }
        }
        reserved();
        let buffers = buffers.into_iter().flatten().collect();
        let members = comm::group(buffers, EXCHANGE_LIMIT);
        for (rank, member) in members.into_iter().enumerate() {
            self.ask(rank, Ask::Load(member))?;
        }
        for _ in 0..count {
            self.hear()?;
        }
        for outputs in &mut self.outputs {
            outputs.resize_with(count, StepOutput::default);
        }
        Ok(())
    }

    /// Fills a step's input and sends it off: every rank goes on with it when it is done with the
    /// step before.
    pub(super) fn submit(&mut self, fill: impl FnOnce(&mut StepInput)) -> Result<(), Failure> {
        assert!(
            self.under_way < STEPS_UNDER_WAY_MAX,
            "{} steps are under way",
            self.under_way
        );
        let slot = self.next;
        // Its last step was collected, so every rank has let go of it.
        let input = &self.inputs[slot];
        fill(&mut input.write().unwrap_or_else(PoisonError::into_inner));
        self.next = (slot + 1) % STEPS_UNDER_WAY_MAX;
        self.under_way += 1;
        self.answered[slot] = 0;
        for rank in 0..self.asks.len() {
            let output = std::mem::take(&mut self.outputs[slot][rank]);
            self.ask(rank, Ask::Step { slot, output })?;
        }
        Ok(())
    }

    /// Waits for the oldest step under way; the outputs in rank order.
    pub(super) fn collect(&mut self) -> Result<&[StepOutput], Failure> {
        assert!(self.under_way > 0, "no step is under way");
        let slot = (self.next + STEPS_UNDER_WAY_MAX - self.under_way) % STEPS_UNDER_WAY_MAX;
        let end = Instant::now() + self.step_limit;
        while self.answered[slot] < self.asks.len() {
            match self.hear_until(end)? {
                // A rank that is ahead may have answered the step after this one, too.
                Some(Answer::Stepped { rank, slot, output }) => {
                    self.outputs[slot][rank] = output;
                    self.answered[slot] += 1;
                }
                Some(_) => {}
                None => {
                    return Err(Failure(format!(
                        "{} of {} ranks did not end a step within {} s: they hang",
                        self.asks.len() - self.answered[slot],
                        self.asks.len(),
                        self.step_limit.as_secs_f64()
                    )));
                }
            }
        }
        self.under_way -= 1;
        Ok(&self.outputs[slot])
    }

    /// Has every rank compare its weights with what it loaded; in rank order. No step may be under
    /// way. A rank that does not answer in time hangs, and fails the group.
    pub(super) fn check_weights(&mut self) -> Result<Vec<WeightCheck>, Failure> {
        let ask = || Ask::CheckWeights;
        self.all(
            "check of the weights",
            self.check_limit,
            ask,
            |answer| match answer {
                Answer::Checked { rank, check } => Some((rank, check)),
                _ => None,
            },
        )
    }

    /// Asks every rank and waits for every answer, at most so long; in rank order.
    pub(super) fn all<T>(
        &mut self,
        what: &str,
        limit: Duration,
        ask: impl Fn() -> Ask,
        understand: impl Fn(Answer) -> Option<(usize, T)>,
    ) -> Result<Vec<T>, Failure> {
        assert_eq!(self.under_way, 0, "steps are under way");
        let count = self.asks.len();
        for rank in 0..count {
            self.ask(rank, ask())?;
        }
        let mut answers: Vec<Option<T>> = (0..count).map(|_| None).collect();
        let end = Instant::now() + limit;
        for _ in 0..count {
            let Some(answer) = self.hear_until(end)? else {
                return Err(hangs(what, limit, &answers));
            };
            if let Some((rank, answer)) = understand(answer) {
                answers[rank] = Some(answer);
            }
        }
        Ok(answers.into_iter().flatten().collect())
    }

    /// Lets go of the memory of logits that were kept.
    pub(super) fn forget_logits(&mut self) {
        let outputs = self.outputs.iter_mut().flatten();
        outputs.for_each(|output| output.logits = Vec::new());
    }
}

fn hangs<T>(what: &str, limit: Duration, answers: &[Option<T>]) -> Failure {
    let silent = answers.iter().enumerate().filter(|(_, a)| a.is_none());
    let silent: Vec<String> = silent.map(|(rank, _)| format!("rank {rank}")).collect();
    Failure(format!(
        "{} did not end a {what} within {} s: it hangs",
        silent.join(", "),
        limit.as_secs_f64()
    ))
}

#[cfg(test)]
pub(super) mod tests {
    use plimsoll_planner::Bytes;

    use super::super::rank::Moved;
    use super::*;

    pub(in super::super) type Ends = (SyncSender<Answer>, Vec<Receiver<Ask>>);

    /// Ranks that the test plays; a check and a step may take 50 ms.
    pub(in super::super) fn played(count: usize) -> (Ranks, Ends) {
        let (answers_in, answers) = sync_channel(8);
        let (asks, heard): (Vec<_>, Vec<_>) = (0..count).map(|_| sync_channel(2)).unzip();
        let outputs = || (0..count).map(|_| StepOutput::default()).collect();
        let ranks = Ranks {
            asks,
            answers,
            inputs: Arc::default(),
            outputs: [outputs(), outputs()],
            answered: Default::default(),
            next: 0,
            under_way: 0,
            check_limit: Duration::from_millis(50),
            step_limit: Duration::from_millis(50),
            move_limit: Duration::from_millis(50),
        };
        (ranks, (answers_in, heard))
    }

    #[test]
    fn a_rank_that_hangs_in_a_step_fails_the_group_though_it_is_alone() {
        let (mut ranks, (answers, _heard)) = played(1);
        ranks.submit(|_| {}).unwrap();
        let output = StepOutput::default();
        let stepped = Answer::Stepped {
            rank: 0,
            slot: 0,
            output,
        };
        answers.send(stepped).unwrap();
        assert!(ranks.collect().is_ok());
        ranks.submit(|_| {}).unwrap();
        let Failure(message) = ranks.collect().unwrap_err();
        assert_eq!(
            message,
            "1 of 1 ranks did not end a step within 0.05 s: they hang"
        );
    }

    #[test]
    fn a_rank_that_cannot_take_its_memory_makes_the_others_give_theirs_back() {
        let (mut ranks, (answers, heard)) = played(2);
        let moved = Moved(vec![(Account::Weights, Bytes::measured(7))]);
        let restored = |rank, taken| Answer::Restored { rank, taken };
        answers
            .send(restored(1, Err("no memory".to_owned())))
            .unwrap();
        answers.send(restored(0, Ok(moved.clone()))).unwrap();
        for rank in [0, 1] {
            let moved = Moved::default();
            answers.send(Answer::Released { rank, moved }).unwrap();
        }
        let taken = ranks.restore(&[Account::Weights], true).unwrap();
        assert_eq!(taken, Err("rank 1: no memory".to_owned()));
        for asked in &heard {
            let asked: Vec<Ask> = asked.try_iter().collect();
            assert!(
                matches!(&asked[..], [Ask::Restore { .. }, Ask::Release(of)] if **of == [Account::Weights]),
                "{asked:?}"
            );
        }
        for rank in [0, 1] {
            answers.send(restored(rank, Ok(moved.clone()))).unwrap();
        }
        let taken = ranks.restore(&[Account::Weights], true).unwrap();
        assert_eq!(taken, Ok(vec![moved.clone(), moved]));
        answers.send(restored(0, Ok(Moved::default()))).unwrap();
        let Failure(message) = ranks.restore(&[Account::Weights], true).unwrap_err();
        assert_eq!(
            message,
            "rank 1 did not end a restore of memory within 0.05 s: it hangs"
        );
    }

    #[test]
    fn a_rank_that_hangs_in_a_check_fails_the_group_by_name() {
        let (mut ranks, (answers_in, heard)) = played(3);
        let check = WeightCheck {
            tensors: 1,
            bytes: 1,
            checksum: 1,
            ..WeightCheck::default()
        };
        for rank in [2, 0] {
            let check = check.clone();
            answers_in.send(Answer::Checked { rank, check }).unwrap();
        }
        let Failure(message) = ranks.check_weights().unwrap_err();
        assert_eq!(
            message,
            "rank 1 did not end a check of the weights within 0.05 s: it hangs"
        );
        assert!(heard.iter().all(|asked| asked.try_recv().is_ok()));
        for rank in [1, 2, 0] {
            let check = check.clone();
            answers_in.send(Answer::Checked { rank, check }).unwrap();
        }
        assert_eq!(ranks.check_weights(), Ok(vec![check; 3]));
    }
}
