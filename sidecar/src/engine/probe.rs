//! The proof of a wake: checksums of everything that lasts, then a short greedy run of fixed tokens
//! whose logits must be, bit for bit, those of the run after the load.

use std::collections::HashMap;
use std::sync::mpsc::{self, Receiver};

use plimsoll_kernels::checksum;

use super::handle::EngineFacts;
use super::live::Live;
use super::outbox::Outbox;
use super::ranks::Failure;
use super::run::Loop;
use super::step::{self, Drawn};
use crate::scheduler::{Batch, NewSequence, Scheduler, SchedulerConfig};

/// Tokens of the prompt, and drawn after it, where the context has room for both.
const PROMPT: usize = 8;
const DRAWN: usize = 4;
/// Names of changed tensors that are shown of a rank.
const NAMES_SHOWN: usize = 4;

/// What a run of the probe came to.
pub(super) struct Probe {
    pub(super) drawn: Drawn,
    /// All logits were numbers.
    pub(super) finite: bool,
    /// Those that the first token was drawn from.
    pub(super) logits: Vec<f32>,
}

/// What is said of weights whose logits are none.
pub(super) const NOT_NUMBERS: &str = "a probe of fixed tokens has logits that are not numbers";

/// The first tokens of the probe, spread over the vocabulary, the same every time; at most so many.
pub(super) fn prompt(facts: &EngineFacts, most: usize) -> Vec<u32> {
    let ids = (1..).map(|at: u32| at.wrapping_mul(7919) % facts.vocabulary.max(1));
    ids.take(PROMPT.min(most)).collect()
}

impl Loop {
    /// Whether what the ranks hold is what they loaded, and answers as it did. No step may be under
    /// way, and nobody may hold KV blocks. The inner error says what differs.
    pub(super) fn prove(&mut self) -> Result<Result<(), String>, Failure> {
        let checks = self.ranks.check_weights()?;
        let changed: Vec<String> = (0..)
            .zip(&checks)
            .filter(|(_, check)| !check.changed.is_empty())
            .map(|(rank, check)| {
                let named = |tensor: &String| self.slots.shown(tensor);
                let names: Vec<String> = check.changed.iter().map(named).collect();
                let shown = names[..names.len().min(NAMES_SHOWN)].join(", ");
                let more = names.len().saturating_sub(NAMES_SHOWN);
                let more = if more > 0 {
                    format!(" and {more} more")
                } else {
                    String::new()
                };
                format!("rank {rank}: {shown}{more}: not as loaded")
            })
            .collect();
        if !changed.is_empty() {
            return Ok(Err(changed.join("; ")));
        }
        if !self.probes {
            return Ok(Ok(()));
        }
        let Probe { drawn, finite, .. } = self.probe()?;
        let Some(expected) = self.probed.clone() else {
            // Weights that were written while there was no cache to answer with.
            if !finite {
                return Ok(Err(NOT_NUMBERS.to_owned()));
            }
            self.probed = Some(drawn);
            return Ok(Ok(()));
        };
        let differs = expected.iter().zip(&drawn).position(|(a, b)| a != b);
        Ok(match differs {
            Some(at) => Err(format!(
                "checksums are those of the load, and a probe of fixed tokens is answered otherwise \
                 from token {at} on"
            )),
            None => Ok(()),
        })
    }

    /// Runs the probe on the first KV blocks, past the scheduler: its own pool hands them out.
    pub(super) fn probe(&mut self) -> Result<Probe, Failure> {
        self.probe_drawing(DRAWN)
    }

    /// The same, which ends with the first token.
    pub(super) fn probe_first(&mut self) -> Result<Probe, Failure> {
        self.probe_drawing(1)
    }

    fn probe_drawing(&mut self, drawn: usize) -> Result<Probe, Failure> {
        let pool = self.scheduler.pool();
        assert_eq!(
            pool.used() + pool.cached(),
            0,
            "the probe would overwrite blocks"
        );
        let facts = &self.shared.facts;
        let total = (PROMPT + DRAWN).min(facts.max_model_len as usize);
        let prompt = PROMPT.min(total.saturating_sub(1)).max(1);
        let config = self.scheduler.config();
        let blocks = u32::try_from(total.div_ceil(config.block_size) + 1).unwrap_or(u32::MAX);
        let mut scheduler = Scheduler::new(SchedulerConfig {
            kv_blocks: config.kv_blocks.min(blocks),
            prefix_cache: false,
            ..config
        });
        scheduler.add(NewSequence {
            id: 0,
            prompt: self::prompt(facts, prompt),
            max_len: total.min(prompt + drawn),
            cache_salt: String::new(),
            adapter: None,
            scores: false,
        });
        let (sink, logits) = mpsc::channel();
        let live = HashMap::from([(0, Live::probe(sink))]);
        let drawn = self.run_probe(&mut scheduler, live, &logits);
        // Its logits are the only ones that are kept without being asked for.
        self.ranks.forget_logits();
        drawn
    }

    fn run_probe(
        &mut self,
        scheduler: &mut Scheduler,
        mut live: HashMap<u64, Live>,
        logits: &Receiver<Vec<f32>>,
    ) -> Result<Probe, Failure> {
        let (mut batch, mut drawn) = (Batch::default(), Drawn::new());
        let (mut ended, mut outbox) = (Vec::new(), Outbox::default());
        let (mut finite, mut first) = (true, Vec::new());
        // Each step computes a token or more; when none is left the batch is empty.
        for _ in 0..=PROMPT + DRAWN {
            scheduler.schedule(&mut batch);
            if batch.chunks.is_empty() {
                break;
            }
            self.ranks
                .submit(|input| step::fill(input, &batch, scheduler, &mut live))?;
            scheduler.sent(&batch);
            let outputs = self.ranks.collect()?;
            let token = outputs.first().and_then(|output| output.sampled.first());
            finite &= token.is_none_or(|sampled| sampled.finite);
            let token = token.map(|sampled| sampled.id);
            step::process(
                outputs,
                &batch,
                scheduler,
                &mut live,
                &mut ended,
                &mut outbox,
            );
            let bits = logits.try_recv().ok().map(|row| {
                // A token is drawn as long as one logit is a number.
                finite &= row.iter().all(|logit| logit.is_finite());
                let bytes: Vec<u8> = row.iter().flat_map(|x| x.to_le_bytes()).collect();
                if first.is_empty() {
                    first = row;
                }
                checksum::run(&bytes)
            });
            drawn.extend(token.zip(bits));
        }
        Ok(Probe {
            drawn,
            finite,
            logits: first,
        })
    }
}
