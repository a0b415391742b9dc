//! Prometheus metrics: vLLM's names, which dashboards and endpoint pickers read, and `plimsoll_*`
//! bytes per rank and account.
//!
//! Requests are counted where they end (`requests`); everything the engine and the ledger know is
//! read at scrape (`engine`, `bytes`), so a figure exists once.

mod adapters;
mod bytes;
mod engine;
mod histogram;
mod lora;
mod offload;
mod requests;
mod sleep;
mod steps;
mod updates;

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use plimsoll_crds::v1alpha1::MemoryReport;
use prometheus::core::Collector;
use prometheus::{Opts, Registry, TextEncoder};

use crate::engine::dynamic::AdaptersInSlots;
use crate::engine::rest::RestView;
use crate::engine::stats::EngineStats;
use crate::memory::snapshot::KvUsage;

pub use requests::Sequence;
pub use updates::{Phase, Under};

/// What a scrape shows of the engine.
#[derive(Clone, Debug)]
pub struct Scrape {
    pub report: MemoryReport,
    /// None while there is no engine.
    pub engine: Option<EngineFigures>,
}

/// What the engine says of itself.
#[derive(Clone, Debug, Default)]
pub struct EngineFigures {
    pub stats: EngineStats,
    pub kv: KvUsage,
    pub rest: RestView,
    /// Adapters that requests choose.
    pub dynamic: AdaptersInSlots,
}

#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: requests::Requests,
    updates: updates::Updates,
    /// Locked for a whole scrape: its figures belong together.
    scraped: Mutex<Scraped>,
}

#[derive(Debug)]
struct Scraped {
    engine: engine::Engine,
    steps: steps::StepSizes,
    sleep: sleep::Sleep,
    bytes: bytes::Bytes,
    offload: offload::Offload,
    adapters: adapters::Adapters,
    lora: lora::Lora,
}

impl Metrics {
    /// `model` is the first served name; it is a label of every metric.
    pub fn new(model: &str) -> Metrics {
        let mut maker = Maker {
            registry: Registry::new(),
            model: model.to_owned(),
        };
        let requests = requests::Requests::new(&mut maker);
        let updates = updates::Updates::new(&mut maker);
        let engine = engine::Engine::new(&mut maker);
        let steps = steps::StepSizes::new(&mut maker);
        let sleep = sleep::Sleep::new(&mut maker);
        let bytes = bytes::Bytes::new(&mut maker);
        let offload = offload::Offload::new(&mut maker);
        let adapters = adapters::Adapters::new(&mut maker);
        let lora = lora::Lora::new(&mut maker);
        Metrics {
            registry: maker.registry,
            requests,
            updates,
            scraped: Mutex::new(Scraped {
                engine,
                steps,
                sleep,
                bytes,
                offload,
                adapters,
                lora,
            }),
        }
    }

    /// A request became sequences.
    pub fn accepted(&self, n: u32, max_tokens: Option<u32>) {
        self.requests.accepted(n, max_tokens);
    }

    /// Time between two tokens of a sequence.
    pub fn inter_token(&self, time: Duration) {
        self.requests.inter_token(time);
    }

    /// A sequence ended and the engine said how.
    pub fn finished(&self, sequence: &Sequence) {
        self.requests.finished(sequence);
    }

    /// A sequence ended because nobody listened any more.
    pub fn lost(&self) {
        self.requests.lost();
    }

    /// A request was answered with an error status.
    pub fn refused(&self, status: &str) {
        self.requests.refused(status);
    }

    /// A phase of a pushed update begins; it ends when the answer is dropped.
    pub fn updating(&self, phase: Phase) -> Under {
        self.updates.begin(phase)
    }

    /// The text format, version 0.0.4.
    pub fn render(&self, scrape: &Scrape) -> String {
        let scraped = self
            .scraped
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(EngineFigures {
            stats,
            kv,
            rest,
            dynamic,
        }) = &scrape.engine
        {
            scraped.lora.set(stats, dynamic);
            scraped.engine.set(stats, kv);
            scraped.steps.set(stats);
            scraped.sleep.set(stats, rest, scrape.report.state);
        }
        scraped.bytes.set(&scrape.report);
        scraped.offload.set(&scrape.report);
        scraped.adapters.set(&scrape.report);
        TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .unwrap_or_default()
    }
}

/// Makes and registers metrics with the labels they all carry.
#[derive(Debug)]
struct Maker {
    registry: Registry,
    model: String,
}

impl Maker {
    /// vLLM's: labels `model_name` and `engine` (its index; we have one).
    fn vllm(&self, name: &str, help: &str) -> Opts {
        let labels = [("model_name", self.model.as_str()), ("engine", "0")];
        Opts::new(format!("vllm:{name}"), help).const_labels(owned(&labels))
    }

    fn plimsoll(&self, name: &str, help: &str) -> Opts {
        let labels = [("model_name", self.model.as_str())];
        Opts::new(format!("plimsoll_{name}"), help).const_labels(owned(&labels))
    }

    /// Names are constants of this module and a test renders them all: a failure is our mistake.
    #[expect(
        clippy::expect_used,
        reason = "names are constants, rendered by a test"
    )]
    fn add<M: Collector + Clone + 'static>(&mut self, metric: prometheus::Result<M>) -> M {
        let metric = metric.expect("metric names and labels are valid");
        self.registry
            .register(Box::new(metric.clone()))
            .expect("metric names are unique");
        metric
    }
}

fn owned(labels: &[(&str, &str)]) -> HashMap<String, String> {
    labels
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

#[cfg(test)]
mod tests;
