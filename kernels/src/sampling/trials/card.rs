//! What a card makes of the cases: every rank's stages in turn, on one device.

use super::case::{self, Case, Drawn};
use crate::gpu::trial::{Bench, Failure};
use crate::gpu::{Card, GpuError, Kind, Memory};
use crate::sampling::cuda::{
    self, Batch, Buffers, CHUNK_WORDS, Place, Plan, RECORD_WORDS, SEARCH_WORDS, Segment,
};
use crate::sampling::{VocabShard, weight};

/// How ranks come to know of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exchange {
    /// One buffer for all.
    Shared,
    /// A buffer each; exactly the segments that a stage names are copied after it.
    Copied,
}

struct Rank {
    shard: VocabShard,
    logits: Memory,
    scratch: Memory,
}

/// The cases of a call as the launcher wants them.
pub(super) fn batch(cases: &[Case]) -> Result<(Batch, Vec<u32>), GpuError> {
    // A history begins behind something that is none of its business.
    let mut tokens = vec![0, 1, 2];
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let mut rows = Vec::new();
    for case in cases {
        let start = number(tokens.len());
        tokens.extend(&case.prompt);
        let output = number(tokens.len());
        tokens.extend(&case.output);
        let end = number(tokens.len());
        tokens.extend([7, 8]);
        let bias = number(tokens.len());
        let words = case.bias.iter().map(|(id, bias)| [*id, bias.to_bits()]);
        tokens.extend(words.flatten());
        rows.push(cuda::Row {
            params: &case.params,
            history: [start, output, end],
            bias: [bias, number(tokens.len())],
            target: case.target,
            position: case.position,
        });
        tokens.push(3);
    }
    Ok((Batch::new(&rows)?, tokens))
}

/// The card, cut for as if it had four multiprocessors: then these cases have chunks of every size,
/// wherever they run.
pub(super) fn small_card(bench: &Bench<'_>) -> Card {
    Card {
        multiprocessors: 4,
        ..bench.gpu.card().clone()
    }
}

pub(super) fn on_card(
    bench: &Bench<'_>,
    cases: &[Case],
    cuts: &[usize],
    exchange: Exchange,
) -> Result<Vec<Drawn>, Failure> {
    let shards = case::shards(cases[0].logits.len(), cuts);
    let (batch, tokens) = batch(cases)?;
    let (words, tokens) = (bench.put_raw(batch.words())?, bench.put_raw(&tokens)?);
    let ranks = shards.len();
    let card = &small_card(bench);
    let mut members = Vec::new();
    for shard in shards {
        let scratch = cuda::scratch_words(card, &batch, shard.rows);
        members.push(Rank {
            shard,
            logits: bench.put_raw(&case::logits_of(cases, shard))?,
            scratch: bench.put_raw(&vec![u64::MAX; scratch])?,
        });
    }
    let room = vec![u64::MAX; cuda::exchange_words(cases.len(), ranks)];
    let buffers = if exchange == Exchange::Shared {
        1
    } else {
        ranks
    };
    let mut exchanges = Vec::new();
    for _ in 0..buffers {
        exchanges.push(bench.put_raw(&room)?);
    }
    let mut stage = 0;
    loop {
        let mut segment = None;
        for (rank, member) in members.iter_mut().enumerate() {
            let place = Place {
                shard: member.shard,
                rank,
                ranks,
            };
            let plan = Plan::new(card, &batch, place)?;
            let buffers = Buffers {
                logits: member.logits.view_mut(Kind::F32),
                rows: words.view(Kind::U32),
                tokens: tokens.view(Kind::U32),
                scratch: member.scratch.view_mut(Kind::U64),
                exchange: exchanges[rank % buffers].view_mut(Kind::U64),
            };
            if stage < plan.stages() {
                plan.run(bench.gpu, stage, &buffers)?;
                segment = Some(plan.exchanged(stage));
            }
        }
        match segment {
            Some(segment) if exchange == Exchange::Copied => gather(&mut exchanges, segment)?,
            Some(_) => {}
            None => break,
        }
        stage += 1;
    }
    let mut records = Vec::new();
    for exchange in &exchanges {
        records.push(exchange.download::<u64>(ranks * cases.len() * RECORD_WORDS)?);
    }
    if records.iter().any(|other| other != &records[0]) {
        return Err(Failure::Wrong("ranks have different records".to_owned()));
    }
    possible(cases, &records[0])?;
    collect(bench, cases, &batch, &members, &records[0])
}

/// Whether drawn rows' winners have keys that exist: the host's half takes that for granted.
fn possible(cases: &[Case], records: &[u64]) -> Result<(), Failure> {
    let largest = u64::from(weight::least_key(weight::WEIGHT_ONE));
    for (at, record) in records.chunks(RECORD_WORDS).enumerate() {
        let (row, key) = (at % cases.len(), record[3] >> 32);
        if !cases[row].params.greedy() && record[4] == 1 && key > largest {
            return Err(Failure::Wrong(format!(
                "row {row}: a winner's key is {key:#x}"
            )));
        }
    }
    Ok(())
}

/// What a group of cards would do between two stages.
fn gather(exchanges: &mut [Memory], segment: Segment) -> Result<(), GpuError> {
    let Segment {
        first,
        words_per_rank: count,
    } = segment;
    let mut all = Vec::new();
    for exchange in &*exchanges {
        all.push(exchange.download::<u64>(exchange.bytes() / 8)?);
    }
    for at in 0..all.len() {
        let mut own = all[at].clone();
        for (rank, other) in all.iter().enumerate() {
            let part = first + rank * count..first + (rank + 1) * count;
            own[part.clone()].copy_from_slice(&other[part]);
        }
        exchanges[at].upload(&own)?;
    }
    Ok(())
}

/// Tokens, and what the ranks' memory shows of the way to them.
fn collect(
    bench: &Bench<'_>,
    cases: &[Case],
    batch: &Batch,
    members: &[Rank],
    records: &[u64],
) -> Result<Vec<Drawn>, Failure> {
    let mut drawn: Vec<Drawn> = batch
        .sampled(records)
        .into_iter()
        .zip(cases)
        .enumerate()
        .map(|(row, (sampled, case))| {
            let of_ranks = records.chunks(cases.len() * RECORD_WORDS);
            let of_ranks = of_ranks.map(|all| &all[row * RECORD_WORDS..]);
            let times = of_ranks.clone().map(|record| record[2]);
            let draws = !case.params.greedy();
            Drawn {
                sampled,
                time: times.min().filter(|time| draws && *time < u64::MAX),
                keys: Vec::new(),
                kept: Vec::new(),
                own_sum: match case.params.logprobs {
                    Some(_) => of_ranks.map(|record| record[5]).sum(),
                    None => 0,
                },
            }
        })
        .collect();
    for member in members {
        let width = member.shard.rows as usize;
        let keys: Vec<f32> = member.logits.download(cases.len() * width)?;
        let scratch: Vec<u64> = member.scratch.download(member.scratch.bytes() / 8)?;
        let chunk = cuda::chunk(&small_card(bench), cases.len(), member.shard.rows);
        let chunks = member.shard.rows.div_ceil(chunk) as usize;
        let searches = &scratch[cases.len() * chunks * CHUNK_WORDS..];
        for (row, (case, drawn)) in cases.iter().zip(&mut drawn).enumerate() {
            if case.params.greedy() {
                continue;
            }
            let keys = &keys[row * width..][..width];
            let keys: Vec<u32> = keys.iter().map(|key| key.to_bits()).collect();
            let search = &searches[row * SEARCH_WORDS..][..SEARCH_WORDS];
            let (key, ties) = threshold(case, search);
            let kept = case::kept(&keys, key, ties);
            drawn
                .kept
                .extend(kept.iter().map(|at| at + member.shard.first));
            drawn.keys.extend(keys);
        }
    }
    Ok(drawn)
}

/// A row's threshold on one rank: the key, and how many with that very key stay.
fn threshold(case: &Case, search: &[u64]) -> (u32, u64) {
    const CUT: u64 = 2;
    if case.params.top_k == 0 && case.params.top_p >= 1.0 {
        let part = weight::part_of(weight::WEIGHT_ONE, case.params.min_p);
        return (weight::least_key(part).max(1), u64::MAX);
    }
    let key = u32::try_from(search[4] & u64::from(u32::MAX)).unwrap_or(0);
    let is_cut = search[3] >> 32 & CUT != 0;
    (key, if is_cut { search[4] >> 32 } else { u64::MAX })
}
