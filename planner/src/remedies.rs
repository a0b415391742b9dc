//! Changes that make a refused request fit. Each is applied and solved again before it is named.

use crate::bytes::Bytes;
use crate::check::fits;
use crate::holdings::whole_model;
use crate::model::{Dtype, KvDtype};
use crate::refusal::{RankRefusal, Reason};
use crate::remedy::{Remedy, other_size};
use crate::request::{AdapterSlots, Backend, Bound, KvLayout, Limits, Request, Utilization};
use crate::shard::Shard;
use crate::split::{Problem, fewest_blocks, largest, smallest};
use crate::stored::Quantization;
use crate::weights;

/// Remedies that a refusal names at most.
pub(crate) const MOST_REMEDIES: usize = 4;
/// Quotas and sizes are raised to a multiple of this, so that they are easy to write.
pub(crate) const STEP: Bytes = Bytes(1 << 20);
/// Ranks whose quota is tried alone: those that lack the most.
const RANKS_TRIED: usize = 4;

/// Up to [`MOST_REMEDIES`] remedies: the nearest first, one of them more memory where that helps.
pub(crate) fn remedies(request: &Request, reason: &Reason, ranks: &[RankRefusal]) -> Vec<Remedy> {
    let mut found = Vec::new();
    match reason {
        Reason::Invalid { .. } => return found,
        Reason::KvCacheTooSmall => found.extend(kv_cache_size(request, ranks)),
        Reason::ContextTooLong => found.extend(max_model_len(request, ranks)),
        Reason::QuotaTooSmall | Reason::MemoryTooSmall | Reason::HostMemoryTooSmall { .. } => {}
    }
    // What `kvCache.size` bounds is not let go by more memory.
    if *reason != Reason::KvCacheTooSmall || found.is_empty() {
        found.extend(more_memory(request, ranks));
    }
    let others = [
        fewer_adapters,
        smaller_numbers,
        cpu_offload,
        other_limits,
        other_ranks,
        integers,
    ];
    for remedy in others {
        if found.len() < MOST_REMEDIES {
            found.extend(remedy(request));
        }
    }
    found.truncate(MOST_REMEDIES);
    found
}

fn budgets(ranks: &[RankRefusal]) -> Vec<u64> {
    ranks.iter().map(|rank| rank.budget.bytes.get()).collect()
}

fn max_model_len(request: &Request, ranks: &[RankRefusal]) -> Option<Remedy> {
    // A derived context has the same costs as a written one of as many tokens.
    let limits = Limits {
        max_model_len: None,
        ..request.limits
    };
    let derived = Request {
        limits,
        ..request.clone()
    };
    let problem = Problem::new(&derived, Vec::new());
    let asked = fewest_blocks(request);
    let blocks = largest(1..=asked.saturating_sub(1), |b| {
        problem.fits_within(&budgets(ranks), b)
    })?;
    let tokens = blocks * u64::from(request.kv.block_size);
    let tokens = u32::try_from(tokens).ok()?.min(request.shape.context);
    Some(Remedy::MaxModelLen { tokens }).filter(|remedy| holds(remedy, request))
}

fn kv_cache_size(request: &Request, ranks: &[RankRefusal]) -> Option<Remedy> {
    let needed = |size: Bytes| {
        let kv = KvLayout {
            size: Some(size),
            ..request.kv
        };
        let larger = Request {
            kv,
            ..request.clone()
        };
        Problem::new(&larger, Vec::new()).fits_within(&budgets(ranks), fewest_blocks(request))
    };
    let most = whole_model(request, fewest_blocks(request)).get() / STEP.get() + 1;
    let steps = smallest(1..=most, |steps| needed(STEP.saturating_mul(steps)))?;
    let remedy = Remedy::KvCacheSize {
        bytes: STEP.saturating_mul(steps),
    };
    Some(remedy).filter(|remedy| holds(remedy, request))
}

/// The smallest raise of one quota, and the smallest equal raise of all; or, where devices bound
/// the ranks, more of what the devices have.
fn more_memory(request: &Request, ranks: &[RankRefusal]) -> Vec<Remedy> {
    let quotas = ranks.iter().all(|rank| rank.budget.bound == Bound::Quota);
    let mut found: Vec<Remedy> = match quotas {
        true => one_quota(request, ranks)
            .into_iter()
            .chain(all_quotas(ranks))
            .collect(),
        false => utilization(request).into_iter().collect(),
    };
    found.retain(|remedy| holds(remedy, request));
    if found.is_empty() {
        let exact = needed(ranks);
        // Where heads are searched first, a split that fits to the byte may not be found again.
        let ample = exact
            .iter()
            .map(|bytes| (*bytes + Bytes(bytes.get() / 64)).round_up(STEP));
        let ample = ample.collect();
        found.extend(
            [exact, ample]
                .into_iter()
                .find_map(|b| budgets_and_size(request, b)),
        );
    }
    found
}

/// Raises whatever bounds any rank, for requests that more than one bound stops.
fn budgets_and_size(request: &Request, bytes: Vec<Bytes>) -> Option<Remedy> {
    let most = bytes.iter().max()?.get() / STEP.get();
    let budgets = Remedy::Budgets { bytes };
    if request.kv.size.is_none() || holds(&budgets, request) {
        return Some(budgets).filter(|remedy| holds(remedy, request));
    }
    let with = |steps: u64| {
        let bytes = STEP.saturating_mul(steps);
        Remedy::All(vec![Remedy::KvCacheSize { bytes }, budgets.clone()])
    };
    smallest(1..=most, |steps| holds(&with(steps), request)).map(with)
}

/// What each rank needs, or has where that is more.
fn needed(ranks: &[RankRefusal]) -> Vec<Bytes> {
    ranks
        .iter()
        .map(|rank| rank.needed.max(rank.budget.bytes).round_up(STEP))
        .collect()
}

fn one_quota(request: &Request, ranks: &[RankRefusal]) -> Option<Remedy> {
    let problem = Problem::new(request, Vec::new());
    let blocks = fewest_blocks(request);
    let most = whole_model(request, blocks).get() / STEP.get() + 1;
    let mut worst: Vec<usize> = (0..ranks.len()).collect();
    worst.sort_by_key(|rank| std::cmp::Reverse(ranks[*rank].shortfall));
    let raise = |rank: usize| {
        let now = ranks[rank].budget.bytes.get() / STEP.get();
        let with = |steps: u64| {
            let mut budgets = budgets(ranks);
            budgets[rank] = steps * STEP.get();
            budgets
        };
        let fits = |steps: u64| problem.fits_within(&with(steps), blocks);
        let steps = smallest(now + 1..=now.max(most) + 1, fits)?;
        Some((steps - now, rank, STEP.saturating_mul(steps)))
    };
    let least = worst
        .into_iter()
        .take(RANKS_TRIED)
        .filter_map(raise)
        .min()?;
    let (_, rank, bytes) = least;
    let remedy = Remedy::Quota {
        rank: u32::try_from(rank).ok()?,
        bytes,
    };
    holds(&remedy, request).then_some(remedy)
}

fn all_quotas(ranks: &[RankRefusal]) -> Option<Remedy> {
    (ranks.len() > 1).then(|| Remedy::Quotas {
        bytes: needed(ranks),
    })
}

fn utilization(request: &Request) -> Option<Remedy> {
    let with = |thousandths: u64| Remedy::Utilization {
        utilization: Utilization(u32::try_from(thousandths).unwrap_or(1000)),
    };
    let now = u64::from(request.utilization.0);
    let least = smallest(now + 1..=1000, |thousandths| {
        holds(&with(thousandths), request)
    })?;
    // Two decimals read better; the third is kept only where rounding up would pass 1.
    Some(with(least.next_multiple_of(10).min(1000)))
}

fn smaller_numbers(request: &Request) -> Vec<Remedy> {
    let mut remedies = Vec::new();
    if request.kv.dtype == KvDtype::Float32 {
        remedies.push(Remedy::KvDtype {
            dtype: KvDtype::BFloat16,
        });
    }
    if request.dtype == Dtype::Float32 {
        remedies.push(Remedy::ModelDtype {
            dtype: Dtype::BFloat16,
        });
    }
    remedies.retain(|remedy| holds(remedy, request));
    remedies.extend(fewer_bits(request));
    remedies
}

/// As many bits of weights as fit.
fn fewer_bits(request: &Request) -> Option<Remedy> {
    let fewer: &[Quantization] = match (request.backend, request.quantization) {
        (Backend::Cpu, Quantization::Auto) => &[
            Quantization::Int8,
            Quantization::Int4,
            Quantization::Int4By128,
        ],
        (Backend::Cpu, Quantization::Int8) => &[Quantization::Int4, Quantization::Int4By128],
        (Backend::Cpu, Quantization::Int4) => &[Quantization::Int4By128],
        // Who expands weights that are in blocks wants floats.
        (Backend::Cpu, Quantization::None | Quantization::Int4By128) | (Backend::Cuda, _) => &[],
    };
    let mut fewer = fewer
        .iter()
        .map(|mode| Remedy::Quantization { mode: *mode });
    fewer.find(|remedy| holds(remedy, request))
}

/// A KV cache of integers, which round more than half-size floats do: what is tried last.
fn integers(request: &Request) -> Vec<Remedy> {
    let dtype = KvDtype::Int8;
    let remedy = (request.kv.dtype != dtype).then_some(Remedy::KvDtype { dtype });
    let holding = remedy.filter(|remedy| holds(remedy, request));
    holding.into_iter().collect()
}

/// The most slots that fit, or the largest half of the rank.
fn fewer_adapters(request: &Request) -> Vec<Remedy> {
    let AdapterSlots { slots, rank } = request.adapters;
    let with = |slots: u64| Remedy::Adapters {
        slots: u32::try_from(slots).unwrap_or(u32::MAX),
    };
    let fewer = u64::from(slots).saturating_sub(1);
    let most = largest(1..=fewer, |slots| holds(&with(slots), request));
    let halves = std::iter::successors(Some(rank / 2), |rank| Some(rank / 2));
    let smaller = halves
        .take_while(|rank| *rank > 0 && slots > 0)
        .map(|rank| Remedy::AdapterRank { rank })
        .find(|remedy| holds(remedy, request));
    most.map(with).into_iter().chain(smaller).collect()
}

/// The fewest bytes of weights in host memory with which the rest fits.
fn cpu_offload(request: &Request) -> Vec<Remedy> {
    let with = |steps: u64| Remedy::CpuOffload {
        bytes: STEP.saturating_mul(steps),
    };
    let shape = &request.shape;
    let layer = weights::layer_bytes(shape, &Shard::whole(shape), request.kept());
    let most = layer.saturating_mul(shape.layers.into()).get() / STEP.get() + 1;
    let now = request.cpu_offload.unwrap_or_default().get() / STEP.get();
    let least = smallest(now + 1..=most, |steps| holds(&with(steps), request));
    least.map(with).into_iter().collect()
}

/// Halves, because a limit is a round number: the largest that fits.
fn other_limits(request: &Request) -> Vec<Remedy> {
    const LEAST_TOKENS: u32 = 64;
    let halves = |start: u32, least: u32| {
        std::iter::successors(Some(start / 2), |n| Some(n / 2)).take_while(move |n| *n >= least)
    };
    let tokens = halves(request.limits.max_num_batched_tokens, LEAST_TOKENS)
        .map(|tokens| Remedy::BatchedTokens { tokens })
        .find(|remedy| holds(remedy, request));
    let sequences = halves(request.limits.max_num_seqs, 1)
        .map(|sequences| Remedy::Sequences { sequences })
        .find(|remedy| holds(remedy, request));
    tokens.into_iter().chain(sequences).collect()
}

fn other_ranks(request: &Request) -> Vec<Remedy> {
    let now = request.rank_count();
    let candidates: Vec<u32> = match request.backend {
        // More devices of the same kind.
        Backend::Cuda => (now + 1..=16).collect(),
        // The same memory in fewer parts: every part has a floor of its own.
        Backend::Cpu => (1..now).rev().collect(),
    };
    candidates
        .into_iter()
        .filter(|ranks| other_size(request, *ranks).is_some())
        .map(|ranks| Remedy::TensorParallelSize { ranks })
        .find(|remedy| holds(remedy, request))
        .into_iter()
        .collect()
}

fn holds(remedy: &Remedy, request: &Request) -> bool {
    fits(&remedy.apply(request))
}
