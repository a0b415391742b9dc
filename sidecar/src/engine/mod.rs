//! The engine: one loop that turns requests into tokens, one thread per rank that computes.
//!
//! Other threads hold an [`handle::EngineHandle`]; what they ask goes through a bounded inbox. The
//! loop (`run`) asks the scheduler for a batch, describes it to the ranks (`step`), and hands their
//! tokens to each request's channel; between two steps it carries out commands (`control`,
//! `commands`). Ranks (`rank`, `ranks`) fail together and never hang.

pub mod clock;
pub mod config;
pub mod control;
pub mod dynamic;
pub mod handle;
pub mod request;
pub mod rest;
pub mod size;
pub mod stats;
pub mod weights;

mod begin;
mod commands;
mod figures;
mod holdings;
mod idle;
pub(crate) mod inbox;
mod live;
mod loading;
mod merging;
mod outbox;
mod pause;
mod probe;
mod push;
mod pushed;
mod rank;
mod ranks;
mod resize;
mod run;
#[cfg(test)]
mod offloaded;
#[cfg(test)]
pub(crate) mod sabotage;
mod sleep;
mod step;
mod update;

use std::sync::{Arc, Mutex};
use std::thread;

use plimsoll_kernels::isa::{self, Isa};
use plimsoll_kernels::pool::available_cpus;
use plimsoll_kernels::sampling::SHARD_ROWS_MAX;
use plimsoll_planner::{Account, Plan, Request, kv_cache};
use tokio::sync::watch;

use crate::adapters::Validation;
use crate::forward::products;
use crate::memory::ledger::Ledger;
use crate::model::{Model, Pushable};
use crate::scheduler::{Scheduler, SchedulerConfig};
use config::{EngineConfig, EngineError};
use dynamic::Slots;
use handle::{EngineFacts, EngineHandle, EngineState, Progress, Shared, lock};
use inbox::Inbox;
use ranks::Ranks;
use rest::RestView;
use run::Loop;
use size::Size;
use stats::EngineStats;
use weights::WeightsInForce;

/// Starts engines.
#[derive(Debug)]
pub struct Engine;

impl Engine {
    /// Starts the threads of an engine and returns at once, in the state `Loading`: memory is
    /// reserved and weights are read in the background. The engine ends when the last handle is
    /// dropped.
    ///
    /// # Errors
    /// When the plan is not one for this model and request, or a thread is refused. Everything
    /// later is the state `Failed`.
    pub fn start(
        config: EngineConfig,
        model: Arc<Model>,
        plan: Plan,
    ) -> Result<EngineHandle, EngineError> {
        let EngineConfig {
            request,
            max_waiting,
            threads_per_rank,
            isa,
            prefix_cache,
            steps_under_way,
            probe,
            validation,
            weight_version,
            first_kv_blocks,
            adapters,
        } = config;
        check(&request, &model, &plan)?;
        let slots = Slots::new(request.adapters, adapters).map_err(EngineError::Plan)?;
        let isa = match isa {
            Some(name) => isa::parse(&name).map_err(|error| EngineError::Isa(error.to_string()))?,
            None => Isa::detect(),
        };
        let count = plan.ranks.len();
        let threads = threads_per_rank
            .unwrap_or_else(|| available_cpus() / count)
            .max(1);
        let products = products::of(request.compute, request.dtype, isa);
        let facts = EngineFacts {
            ranks: request.rank_count(),
            max_model_len: plan.max_model_len,
            vocabulary: request.shape.vocab,
            isa: isa.name().to_owned(),
            products,
            threads_per_rank: threads,
            check_patience: ranks::check_patience(&plan),
        };
        let block_bytes: Vec<_> = plan
            .ranks
            .iter()
            .map(|rank| kv_cache::block_bytes(&request.shape, &rank.shard, &request.kv))
            .collect();
        let ledger = Ledger::new(&plan, &request.ranks, request.kv.block_size, &block_bytes);
        let ledger = Arc::new(ledger.offloading(&request, &plan));
        let largest = block_bytes.iter().copied().max().unwrap_or_default();
        let first_blocks =
            begin::first_blocks(first_kv_blocks, plan.kv_blocks, &request.kv, largest);
        let total = plan
            .ranks
            .iter()
            .zip(plan.offload(&request))
            .map(|(rank, offload)| {
                let resident = rank.bytes(Account::Weights).saturating_sub(offload.ring());
                (resident + rank.bytes(Account::Offload)).get()
            })
            .sum();
        if validation != Validation::Off {
            // Without a probe there is nothing that the base alone would be asked.
            model.gate.begin(probe && !model.adapters.is_empty());
        }
        let shared = Arc::new(Shared {
            facts,
            inbox: Inbox::new(max_waiting, request.limits.max_num_seqs as usize),
            state: watch::Sender::new(EngineState::Loading),
            progress: Mutex::new(Progress {
                stage: "Reserving",
                done_bytes: 0,
                total_bytes: total,
            }),
            rest: Mutex::new(RestView::default()),
            weights: Mutex::new(WeightsInForce {
                source_version: weight_version.clone(),
                version: weight_version,
                unnamed: WeightsInForce::unnamed(&model.adapters, &model.digest),
                path: model.path.clone(),
                writes: 0,
                pushed: false,
            }),
            validation,
            remedies: merging::remedies(&request, validation),
            inputs_rounding: merging::inputs_rounding(&request, products),
            adapters: Mutex::default(),
            dynamic: Mutex::new(slots.view(&request, &plan)),
            pushable: Pushable::of(&model, request.kept()),
            model: Arc::clone(&model),
            #[cfg(test)]
            sabotage: sabotage::Sabotage::default(),
            stats: Mutex::new(EngineStats::default()),
            ledger,
        });
        let mut scheduler = Scheduler::new(SchedulerConfig {
            max_num_seqs: request.limits.max_num_seqs as usize,
            max_num_batched_tokens: request.limits.max_num_batched_tokens as usize,
            block_size: request.kv.block_size as usize,
            kv_blocks: first_blocks,
            prefix_cache,
        });
        scheduler.use_weights(&lock(&shared.weights).key());
        let size = Size {
            plan: plan.clone(),
            capacities: request.ranks.clone(),
        };
        let (request, plan) = (Arc::new(request), Arc::new(plan));
        let sizes = (threads, first_blocks);
        let ranks = Ranks::start(&request, &plan, &model, &shared, sizes, isa)?;
        let engine = Loop::new(
            Arc::clone(&shared),
            ranks,
            scheduler,
            size,
            steps_under_way,
            (probe, slots),
            (largest, first_blocks),
        );
        thread::Builder::new()
            .name("engine".to_owned())
            .spawn(move || engine.run())?;
        Ok(EngineHandle::new(shared))
    }
}

/// What the arenas and the sampler rely on.
fn check(request: &Request, model: &Model, plan: &Plan) -> Result<(), EngineError> {
    let refuse = |message: String| Err(EngineError::Plan(message));
    if request.shape != model.shape {
        return refuse(format!(
            "it is for {:?}, the model is {:?}",
            request.shape, model.shape
        ));
    }
    if plan.ranks.len() != request.ranks.len() || plan.ranks.is_empty() {
        let (ranks, asked) = (plan.ranks.len(), request.ranks.len());
        return refuse(format!("it has {ranks} ranks, {asked} are asked for"));
    }
    if u64::from(plan.max_model_len) > plan.kv_tokens {
        let (len, tokens) = (plan.max_model_len, plan.kv_tokens);
        return refuse(format!(
            "a context of {len} tokens and a KV cache of {tokens}"
        ));
    }
    let mut end = 0;
    for rank in &plan.ranks {
        let rows = &rank.shard.vocab_rows;
        if rows.start != end || rows.len() > SHARD_ROWS_MAX {
            return refuse(format!(
                "rank {} has vocabulary rows {rows:?}; they must follow {end} and be at most \
                 {SHARD_ROWS_MAX}, use more ranks",
                rank.rank
            ));
        }
        end = rows.end;
    }
    if end != request.shape.vocab {
        return refuse(format!(
            "{end} of {} vocabulary rows are placed",
            request.shape.vocab
        ));
    }
    Ok(())
}
