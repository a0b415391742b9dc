//! Measures a running engine in process, without HTTP: prefill, single stream, batches.
//!
//! The cases are those of llama.cpp's own bench programs, so that two engines can be set side by
//! side: `prefill N` is N prompt tokens to the first token; `decode N` is N tokens after a prompt
//! of one; `batch B` is the rate of B sequences while all of them decode.

mod lora;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::adapters::Dynamic;
use crate::args::BenchArgs;
use crate::config;
use crate::engine::Engine;
use crate::engine::config::EngineConfig;
use crate::engine::handle::{EngineHandle, EngineState};
use crate::engine::request::{FinishReason, GenerateRequest, Refused, SamplingParams, TokenEvent};
use crate::model::Model;
pub use lora::lora;

/// Where what is drawn begins.
const SEED: u64 = 0x9E37_79B9_7F4A_7C15;

/// What to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// Time of `tokens` prompt tokens.
    Prefill { tokens: u32 },
    /// Rate of `tokens` tokens of one sequence.
    Decode { tokens: u32 },
    /// Rate of `sequences` sequences of `prompt` + `tokens` tokens while all of them decode.
    Batch {
        sequences: u32,
        prompt: u32,
        tokens: u32,
    },
}

impl Case {
    /// The name in tables and JSON.
    pub fn name(self) -> String {
        match self {
            Case::Prefill { tokens } => format!("prefill-{tokens}"),
            Case::Decode { tokens } => format!("decode-{tokens}"),
            Case::Batch { sequences, .. } => format!("batch-{sequences}"),
        }
    }
}

/// Tokens per second of each counted run of one case.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    pub case: Case,
    pub runs: Vec<f64>,
}

impl Measured {
    /// The middle run.
    pub fn median(&self) -> f64 {
        let mut sorted = self.runs.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

/// Why a case could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error("the engine refused a request of the bench: {0}")]
    Refused(#[from] Refused),
    #[error("a request of the bench ended early ({0})")]
    Ended(String),
}

/// Loads the model as `serve` would with the same flags and measures every case, telling each
/// result as it comes.
///
/// # Errors
/// Whatever keeps the engine from starting, or a case from running.
pub fn run(args: &BenchArgs, mut tell: impl FnMut(&Measured)) -> anyhow::Result<()> {
    let (engine, vocabulary) = start(args, None, |_| Ok(None))?;
    let mut bench = Bench::new(&engine, vocabulary);
    for case in [prefill(args, &engine)].into_iter().chain(decoding(args)) {
        tell(&bench.measure(case, args.repetitions)?);
    }
    engine.stop();
    Ok(())
}

/// A case that was measured in two ways, in turn: with one step under way and with two, with rows of the
/// base and with rows of an adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct Both {
    pub one: Measured,
    pub two: Measured,
}

impl Both {
    /// How much faster the second is: the middle of the ratios of runs that followed each other, so that
    /// a machine that is slow for a while is so for both.
    pub fn ratio(&self) -> f64 {
        let pairs = self.two.runs.iter().zip(&self.one.runs);
        let runs = pairs.map(|(two, one)| two / one).collect();
        let case = self.one.case;
        Measured { case, runs }.median()
    }
}

/// Measures the decoding cases on two engines that differ in the steps under way, in turn.
///
/// # Errors
/// As [`run`]; there must be memory for both engines.
pub fn overlap(args: &BenchArgs, mut tell: impl FnMut(&Both)) -> anyhow::Result<()> {
    let (one, vocabulary) = start(args, Some(1), |_| Ok(None))?;
    let (two, _) = start(args, Some(2), |_| Ok(None))?;
    let mut benches = [&one, &two].map(|engine| Bench::new(engine, vocabulary));
    for case in decoding(args) {
        tell(&in_turn(&mut benches, case, args.repetitions)?);
    }
    one.stop();
    two.stop();
    Ok(())
}

/// One run of each that is not counted, then as many as are asked for.
fn in_turn(benches: &mut [Bench<'_>; 2], case: Case, repetitions: u32) -> Result<Both, BenchError> {
    let mut runs = [Vec::new(), Vec::new()];
    for counted in (0..=repetitions).map(|run| run > 0) {
        for (bench, runs) in benches.iter_mut().zip(&mut runs) {
            let rate = bench.once(case)?;
            runs.extend(counted.then_some(rate));
        }
    }
    let [one, two] = runs.map(|runs| Measured { case, runs });
    Ok(Both { one, two })
}

/// Tokens of a prompt that nobody gave the length of.
const PREFILL: u32 = 512;

/// The case in which steps are large ones.
fn prefill(args: &BenchArgs, engine: &EngineHandle) -> Case {
    // One place is the first token's.
    let room = engine.facts().max_model_len.saturating_sub(1);
    Case::Prefill {
        tokens: args.prefill.unwrap_or(PREFILL.min(room)),
    }
}

/// The cases in which every step is a small one.
fn decoding(args: &BenchArgs) -> [Case; 2] {
    [
        Case::Decode {
            tokens: args.decode,
        },
        Case::Batch {
            sequences: args.batch,
            prompt: args.batch_prompt,
            tokens: args.batch_generate,
        },
    ]
}

/// An engine that has loaded, with the adapter that `adapter` opens, and the size of its vocabulary.
fn start(
    args: &BenchArgs,
    steps_under_way: Option<usize>,
    adapter: impl FnOnce(&Model) -> anyhow::Result<Option<Arc<Dynamic>>>,
) -> anyhow::Result<(EngineHandle, u32)> {
    let model = Arc::new(crate::model::ModelFolder::open(&args.model)?);
    let adapters: Vec<Arc<Dynamic>> = adapter(&model)?.into_iter().collect();
    let planned = config::plan_flags_with(&args.memory, &model, &adapters)?;
    let vocabulary = model.shape.vocab;
    let defaults = EngineConfig::new(planned.request);
    let config = EngineConfig {
        threads_per_rank: args.engine.threads.map(usize::from),
        isa: args.engine.isa.map(|isa| isa.name().to_owned()),
        prefix_cache: !args.engine.no_prefix_cache,
        max_waiting: args.engine.max_waiting,
        steps_under_way: steps_under_way.unwrap_or(defaults.steps_under_way),
        // Nothing is taken beside what is measured.
        first_kv_blocks: Some(u32::MAX),
        adapters,
        ..defaults
    };
    let engine = Engine::start(config, model, planned.plan)?;
    let mut states = engine.subscribe();
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(states.wait_for(|state| *state != EngineState::Loading))?;
    if let EngineState::Failed { message } = engine.state() {
        anyhow::bail!("{message}");
    }
    let facts = engine.facts();
    tracing::info!(
        isa = facts.isa,
        threads_per_rank = facts.threads_per_rank,
        "loaded"
    );
    Ok((engine, vocabulary))
}

/// A source of requests that share no prefix.
#[derive(Debug)]
pub struct Bench<'a> {
    engine: &'a EngineHandle,
    vocabulary: u32,
    next_id: u64,
    random: u64,
    /// That requests ask for.
    adapter: Option<Arc<str>>,
}

impl<'a> Bench<'a> {
    /// `vocabulary`: prompts are drawn from ids below it.
    pub fn new(engine: &'a EngineHandle, vocabulary: u32) -> Bench<'a> {
        Bench {
            engine,
            vocabulary: vocabulary.max(1),
            next_id: 1,
            random: SEED,
            adapter: None,
        }
    }

    /// One run that is not counted, then `repetitions` that are.
    ///
    /// # Errors
    /// A refused or aborted request: the limits are too small for the case.
    pub fn measure(&mut self, case: Case, repetitions: u32) -> Result<Measured, BenchError> {
        self.once(case)?;
        let runs = (0..repetitions)
            .map(|_| self.once(case))
            .collect::<Result<_, _>>()?;
        Ok(Measured { case, runs })
    }

    fn once(&mut self, case: Case) -> Result<f64, BenchError> {
        let began = Instant::now();
        match case {
            Case::Prefill { tokens } => {
                let times = self.generate(1, tokens, 1)?;
                let first = times[0][0];
                Ok(f64::from(tokens) / (first - began).as_secs_f64())
            }
            Case::Decode { tokens } => {
                let times = self.generate(1, 1, tokens.saturating_add(1))?;
                Ok(rate(&times))
            }
            Case::Batch {
                sequences,
                prompt,
                tokens,
            } => Ok(rate(&self.generate(sequences, prompt, tokens)?)),
        }
    }

    /// When each token of each sequence came.
    fn generate(
        &mut self,
        sequences: u32,
        prompt: u32,
        tokens: u32,
    ) -> Result<Vec<Vec<Instant>>, BenchError> {
        let mut readers = Vec::new();
        for _ in 0..sequences {
            let (events, reader) = mpsc::channel(tokens as usize + 2);
            let request = GenerateRequest {
                id: self.next_id,
                prompt: (0..prompt).map(|_| self.token()).collect(),
                sampling: SamplingParams::default(),
                eos: Vec::new(),
                min_tokens: 0,
                bias: Vec::new(),
                prompt_logprobs: None,
                max_tokens: tokens,
                adapter: self.adapter.clone(),
                cache_salt: None,
                events: events.into(),
            };
            self.next_id += 1;
            self.engine.submit(request)?;
            readers.push(reader);
        }
        let collectors: Vec<_> = readers
            .into_iter()
            .map(|reader| std::thread::spawn(move || collect(reader)))
            .collect();
        collectors
            .into_iter()
            .map(|collector| match collector.join() {
                Ok(times) => times,
                Err(_) => Err(BenchError::Ended("its reader failed".into())),
            })
            .collect()
    }

    /// Prompts only have to differ from each other.
    fn token(&mut self) -> u32 {
        let high = draw(&mut self.random) >> 33;
        u32::try_from(high % u64::from(self.vocabulary)).unwrap_or(0)
    }
}

/// xorshift64*.
fn draw(random: &mut u64) -> u64 {
    *random ^= *random >> 12;
    *random ^= *random << 25;
    *random ^= *random >> 27;
    random.wrapping_mul(0x2545_F491_4F6C_DD1D)
}

fn collect(mut reader: mpsc::Receiver<TokenEvent>) -> Result<Vec<Instant>, BenchError> {
    let mut times = Vec::new();
    while let Some(event) = reader.blocking_recv() {
        match event {
            TokenEvent::Token { .. } => times.push(Instant::now()),
            TokenEvent::Prompt(_) => {}
            TokenEvent::Finished(end) if end.reason == FinishReason::Length => return Ok(times),
            TokenEvent::Finished(end) => {
                let why = end.message.unwrap_or_else(|| format!("{:?}", end.reason));
                return Err(BenchError::Ended(why));
            }
        }
    }
    Err(BenchError::Ended("its events stopped".into()))
}

/// Tokens per second over the window in which every sequence decodes: from the last first token
/// to the first last token.
fn rate(times: &[Vec<Instant>]) -> f64 {
    let start = times.iter().filter_map(|t| t.first()).max();
    let end = times.iter().filter_map(|t| t.last()).min();
    let (Some(start), Some(end)) = (start, end) else {
        return f64::NAN;
    };
    let span = end.saturating_duration_since(*start);
    if span == Duration::ZERO {
        return f64::NAN;
    }
    let tokens = times
        .iter()
        .flatten()
        .filter(|t| **t > *start && **t <= *end);
    #[expect(
        clippy::cast_precision_loss,
        reason = "a count of tokens of one bench run"
    )]
    let tokens = tokens.count() as f64;
    tokens / span.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_counts_only_the_window_in_which_all_decode() {
        let base = Instant::now();
        let at = |ms: u64| base + Duration::from_millis(ms);
        // The second sequence starts 100 ms late and ends 100 ms later.
        let first = vec![at(0), at(100), at(200), at(300)];
        let second = vec![at(100), at(200), at(300), at(400)];
        // Window 100..300 ms: two tokens of each sequence.
        assert!((rate(&[first, second]) - 20.0).abs() < 1e-9);
    }

    #[test]
    fn a_rate_of_nothing_is_not_a_number() {
        assert!(rate(&[]).is_nan());
        assert!(rate(&[vec![Instant::now()]]).is_nan());
    }

    #[test]
    fn a_ratio_is_of_runs_that_followed_each_other() {
        let case = Case::Decode { tokens: 1 };
        let measured = |runs: &[f64]| Measured {
            case,
            runs: runs.to_vec(),
        };
        // The machine was four times as slow in the second pair.
        let (one, two) = (
            measured(&[100.0, 25.0, 80.0]),
            measured(&[110.0, 30.0, 80.0]),
        );
        assert!((Both { one, two }.ratio() - 1.1).abs() < 1e-9);
    }
}
