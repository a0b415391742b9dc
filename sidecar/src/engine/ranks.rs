//! All ranks as the engine sees them: started together, asked together, failing together.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use plimsoll_kernels::comm;
use plimsoll_kernels::isa::Isa;
use plimsoll_planner::{Plan, Request};

use super::handle::Shared;
use super::rank::{self, Answer, Ask, RankStart};
use crate::forward::input::StepInput;
use crate::forward::{StepOutput, WeightCheck};
use crate::model::Model;

/// The longest that one rank waits for the others in one exchange. Ranks do equal work between
/// two exchanges; this only bounds how long a rank that hangs stays unnoticed.
const EXCHANGE_LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Ranks {
    asks: Vec<SyncSender<Ask>>,
    answers: Receiver<Answer>,
    pub(super) input: Arc<RwLock<StepInput>>,
    /// Kept between steps, so that steps do not allocate.
    outputs: Vec<StepOutput>,
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
        threads: usize,
        isa: Isa,
    ) -> std::io::Result<Ranks> {
        let count = plan.ranks.len();
        // Each rank has at most one answer and one last word under way.
        let (answers_in, answers) = sync_channel(2 * count);
        let input = Arc::new(RwLock::new(StepInput::default()));
        let mut asks = Vec::with_capacity(count);
        for rank in 0..count {
            let (ask, from_engine) = sync_channel(1);
            asks.push(ask);
            rank::spawn(RankStart {
                rank,
                threads,
                isa,
                request: Arc::clone(request),
                plan: Arc::clone(plan),
                model: Arc::clone(model),
                input: Arc::clone(&input),
                shared: Arc::clone(shared),
                asks: from_engine,
                answers: answers_in.clone(),
            })?;
        }
        Ok(Ranks {
            asks,
            answers,
            input,
            outputs: Vec::new(),
        })
    }

    fn hear(&self) -> Result<Answer, Failure> {
        match self.answers.recv() {
            Ok(Answer::Failed { rank, message }) => {
                Err(Failure(format!("rank {rank} failed: {message}")))
            }
            // Others may have loaded and wait to be asked: they would be waited for in vain.
            Ok(Answer::Left) => Err(Failure("a rank left while loading".to_owned())),
            Ok(answer) => Ok(answer),
            Err(_) => Err(Failure("all rank threads are gone".to_owned())),
        }
    }

    fn ask(&self, rank: usize, ask: Ask) -> Result<(), Failure> {
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
        self.outputs.resize_with(count, StepOutput::default);
        Ok(())
    }

    /// Fills the step's input while no rank reads it.
    pub(super) fn fill(&self, fill: impl FnOnce(&mut StepInput)) {
        fill(&mut self.input.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Runs the filled input on every rank; the outputs in rank order.
    pub(super) fn step(&mut self) -> Result<&[StepOutput], Failure> {
        for rank in 0..self.asks.len() {
            let output = std::mem::take(&mut self.outputs[rank]);
            self.ask(rank, Ask::Step { output })?;
        }
        for _ in 0..self.asks.len() {
            if let Answer::Stepped { rank, output } = self.hear()? {
                self.outputs[rank] = output;
            }
        }
        Ok(&self.outputs)
    }

    /// Has every rank compare its weights with what it loaded; in rank order.
    pub(super) fn check_weights(&mut self) -> Result<Vec<WeightCheck>, Failure> {
        let count = self.asks.len();
        for rank in 0..count {
            self.ask(rank, Ask::CheckWeights)?;
        }
        let mut checks: Vec<_> = (0..count).map(|_| None).collect();
        for _ in 0..count {
            if let Answer::Checked { rank, check } = self.hear()? {
                checks[rank] = Some(check);
            }
        }
        Ok(checks.into_iter().flatten().collect())
    }
}
