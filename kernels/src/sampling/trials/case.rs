//! Cases, and what the CPU makes of them.

use std::time::Duration;

use plimsoll_planner::Bytes;

use crate::comm::{self, Member, group};
use crate::device::{Cpu, Device, Pages};
use crate::gpu::trial::{self, Failure};
use crate::sampling::{
    self, Counts, Params, Row, SCRATCH_WORDS, Sampled, Sampler, VocabShard, row::Work, weight,
};
use crate::testing::Random;

/// One sequence's logits, history and parameters.
#[derive(Clone, Debug, Default)]
pub(super) struct Case {
    pub(super) params: Params,
    pub(super) prompt: Vec<u32>,
    pub(super) output: Vec<u32>,
    pub(super) bias: Vec<(u32, f32)>,
    pub(super) target: Option<u32>,
    pub(super) logits: Vec<f32>,
    pub(super) position: u32,
}

impl Case {
    pub(super) fn new(logits: Vec<f32>, params: Params) -> Case {
        Case {
            params,
            logits,
            ..Case::default()
        }
    }

    fn counts(&self) -> Counts {
        let tokens = [&self.prompt[..], &self.output].concat();
        let mut counts = Counts::default();
        counts.follow(&tokens, self.prompt.len());
        counts
    }

    fn row<'a>(&'a self, counts: &'a Counts) -> Row<'a> {
        Row {
            params: &self.params,
            seen: counts.all(),
            drawn: None,
            bias: &self.bias,
            target: self.target,
            position: self.position,
        }
    }
}

/// What is known of a row once it is drawn.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Drawn {
    pub(super) sampled: Sampled,
    /// Bits of the winner's time; None for greedy rows.
    pub(super) time: Option<u64>,
    /// Of drawn rows, every token's key.
    pub(super) keys: Vec<u32>,
    /// Of drawn rows, the tokens that may be drawn.
    pub(super) kept: Vec<u32>,
    /// Sum of the weights of the model's own logits; 0 where nobody asks.
    pub(super) own_sum: u64,
}

/// The tokens with keys above `key`, and the first `ties` of those with that very key.
pub(super) fn kept(keys: &[u32], key: u32, ties: u64) -> Vec<u32> {
    let mut left = ties;
    let mut stays = |found: u32| {
        let tie = found == key && left > 0;
        left -= u64::from(tie);
        tie || found > key
    };
    let with_ids = (0..).zip(keys);
    with_ids
        .filter(|(_, key)| stays(**key))
        .map(|(id, _)| id)
        .collect()
}

pub(super) fn members(ranks: usize) -> Result<Vec<Member>, Failure> {
    let buffer = |_| {
        let mut buffer = Cpu.reserve(Bytes::measured(4096), Pages::Small)?;
        buffer.commit_all()?;
        Ok(comm::Exchange::new(buffer))
    };
    let buffers: Result<Vec<_>, crate::device::DeviceError> = (0..ranks).map(buffer).collect();
    let buffers = buffers.map_err(|error| Failure::Wrong(error.to_string()))?;
    Ok(group(buffers, Duration::from_secs(60)))
}

/// The shards of a vocabulary that is cut at `cuts`.
pub(super) fn shards(vocabulary: usize, cuts: &[usize]) -> Vec<VocabShard> {
    let edges: Vec<u32> = std::iter::once(0)
        .chain(cuts.iter().copied())
        .chain([vocabulary])
        .map(|edge| u32::try_from(edge).unwrap_or(u32::MAX))
        .collect();
    let shard = |edges: &[u32]| VocabShard {
        first: edges[0],
        rows: edges[1] - edges[0],
    };
    edges.windows(2).map(shard).collect()
}

/// A shard's logits of every case.
pub(super) fn logits_of(cases: &[Case], shard: VocabShard) -> Vec<f32> {
    let (first, rows) = (shard.first as usize, shard.rows as usize);
    let parts = cases.iter().map(|case| &case.logits[first..][..rows]);
    parts.flatten().copied().collect()
}

/// What the CPU's own entry point draws, on as many ranks as there are shards.
pub(super) fn tokens_of_cpu(cases: &[Case], cuts: &[usize]) -> Result<Vec<Sampled>, Failure> {
    let shards = shards(cases[0].logits.len(), cuts);
    let mut members = members(shards.len())?;
    let drawn: Vec<Result<Vec<Sampled>, String>> = std::thread::scope(|scope| {
        let ranks: Vec<_> = members
            .iter_mut()
            .zip(shards)
            .map(|(member, shard)| {
                scope.spawn(move || {
                    let counts: Vec<Counts> = cases.iter().map(Case::counts).collect();
                    let rows = cases.iter().zip(&counts);
                    let rows: Vec<Row<'_>> = rows.map(|(case, counts)| case.row(counts)).collect();
                    let mut logits = logits_of(cases, shard);
                    let mut scratch = vec![u64::MAX; rows.len() * SCRATCH_WORDS];
                    let mut out = Vec::new();
                    let (pool, mut sampler) = (trial::pool(), Sampler::default());
                    let (logits, scratch) = (&mut logits, &mut scratch);
                    sampling::run(
                        &pool,
                        member,
                        &mut sampler,
                        shard,
                        &rows,
                        logits,
                        scratch,
                        &mut out,
                    )
                    .map(|()| out)
                    .map_err(|error| error.to_string())
                })
            })
            .collect();
        let join = |rank: std::thread::ScopedJoinHandle<'_, _>| {
            rank.join()
                .unwrap_or_else(|_| Err("a rank panicked".to_owned()))
        };
        ranks.into_iter().map(join).collect()
    });
    let drawn: Result<Vec<_>, String> = drawn.into_iter().collect();
    drawn
        .map_err(Failure::Wrong)
        .map(|mut drawn| drawn.swap_remove(0))
}

/// All that the CPU knows of the cases, on one rank.
pub(super) fn on_cpu(cases: &[Case]) -> Result<Vec<Drawn>, Failure> {
    let tokens = tokens_of_cpu(cases, &[])?;
    let each = cases.iter().zip(tokens);
    Ok(each.map(|(case, sampled)| inside(case, sampled)).collect())
}

/// Goes through the CPU's steps again, to look at what they leave.
fn inside(case: &Case, sampled: Sampled) -> Drawn {
    let shard = shards(case.logits.len(), &[])[0];
    let (mut logits, mut scratch) = (case.logits.clone(), vec![u64::MAX; SCRATCH_WORDS]);
    let (mut before, counts) = (Vec::new(), case.counts());
    let isa = trial::pool().isa();
    let (own_logits, own_scratch) = (&mut logits, &mut scratch);
    let mut work = Work::new(
        case.row(&counts),
        isa,
        shard,
        own_logits,
        own_scratch,
        &mut before,
    );
    work.penalise_and_find_largest();
    work.weigh();
    work.search_alone();
    work.draw();
    let (draws, threshold, own_sum) = (work.draws(), work.kept(), work.own_sum);
    let time = work.winner.map(|winner| winner.time.to_bits());
    let keys: Vec<u32> = match draws {
        true => logits.iter().map(|key| key.to_bits()).collect(),
        false => Vec::new(),
    };
    Drawn {
        sampled,
        time,
        kept: threshold.map_or(Vec::new(), |found| kept(&keys, found.key, found.ties)),
        keys,
        own_sum,
    }
}

/// Logits of which some are equal.
pub(super) fn logits(random: &mut Random, vocabulary: usize) -> Vec<f32> {
    let coarse = random.below(2) == 0;
    (0..vocabulary)
        .map(|_| random.value() * 12.0)
        .map(|x| if coarse { (x * 2.0).round() / 4.0 } else { x })
        .collect()
}

/// A row with something of everything.
pub(super) fn any_case(random: &mut Random, vocabulary: usize) -> Case {
    fn pick<T: Copy>(random: &mut Random, values: &[T]) -> T {
        values[random.below(values.len())]
    }
    let params = Params {
        temperature: pick(random, &[0.0, 0.3, 0.7, 1.0, 1.0, 2.5]),
        top_k: pick(random, &[0, 0, 1, 5, 40, 5000]),
        top_p: pick(random, &[1.0, 0.95, 0.5, 0.01]),
        min_p: pick(random, &[0.0, 0.0, 0.05, 0.9]),
        repetition_penalty: pick(random, &[1.0, 1.3]),
        presence_penalty: pick(random, &[0.0, 0.5, -0.5]),
        frequency_penalty: pick(random, &[0.0, 0.13]),
        seed: random.word(),
        stream: pick(random, &[0, 1, 7]),
        logprobs: pick(random, &[None, None, Some(0), Some(5), Some(20)]),
    };
    let mut tokens = |most: usize, below: usize| -> Vec<u32> {
        let count = random.below(most);
        let id = |_| u32::try_from(random.below(below)).unwrap_or(0);
        (0..count).map(id).collect()
    };
    let (prompt, output) = (tokens(40, vocabulary), tokens(40, 30));
    // Ids below 30 are often in the output, too.
    let (mut biased, often) = (tokens(12, vocabulary), tokens(3, 30));
    biased.extend(often);
    biased.sort_unstable();
    biased.dedup();
    if random.below(2) == 0 {
        biased.clear();
    }
    let bias = |id: &u32| (*id, pick(random, &[-100.0, 1.5, 0.3, f32::NEG_INFINITY]));
    let bias = biased.iter().map(bias).collect();
    let position = 5 + random.below(1000);
    Case {
        params,
        prompt,
        output,
        bias,
        target: None,
        logits: logits(random, vocabulary),
        position: u32::try_from(position).unwrap_or(0),
    }
}

/// A logit below 0 whose weight is just short of where the next digit begins, at any exponent.
pub(super) fn at_the_top_of_a_bin(largest: f32) -> f32 {
    (1..4_000_000u32)
        .map(|step| -2.0 - step as f32 * 1e-6)
        .find(|x| weight::key(x - largest) & 0x7_FFFF > 0x7_FFF0)
        .unwrap_or(f32::NAN)
}
