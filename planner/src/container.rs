//! A plan inside a container: quotas and the container's memory limit are solved together, so that
//! one refusal tells of both, and what it recommends holds with both in force. The same with a split
//! that stands.

use crate::bytes::Bytes;
use crate::capacity::cpu_capacity;
use crate::check::fits;
use crate::holdings::whole_model;
use crate::host::host_reserve;
use crate::kv_cache::blocks_for;
use crate::plan::{Plan, plan};
use crate::refit::refit;
use crate::refusal::{Reason, Refusal};
use crate::remedies::{MOST_REMEDIES, STEP};
use crate::remedy::Remedy;
use crate::request::{RankCapacity, Request};
use crate::shard::Shard;
use crate::split::{fewest_blocks, smallest};

/// Solves a request of the CPU backend, whose `ranks` carry the quotas and no totals, in a container
/// with this memory limit (none: as much as it takes). With the plan comes the request with its
/// totals.
///
/// # Errors
/// A [`Refusal`] with all that stands in the way, and remedies that were solved with the limit in
/// force, or together with a larger one.
pub fn plan_within(
    request: &Request,
    limit: Option<Bytes>,
) -> Result<(Request, Plan), Box<Refusal>> {
    let refusal = match filled(request, limit) {
        Ok(filled) => match plan(&filled) {
            Ok(plan) => return Ok((filled, plan)),
            Err(refusal) => refusal,
        },
        Err(refusal) => refusal,
    };
    match limit {
        None => Err(refusal),
        Some(limit) => {
            let any_split = Inside {
                fits: &fits,
                blocks: &fewest_blocks,
            };
            Err(Box::new(with_limit(any_split, request, limit, *refusal)))
        }
    }
}

/// The same for an engine that runs, see [`refit`]: its shards and its longest sequence stay. Ranks
/// without a quota may use what they may in a free plan of the request, so the shards of a plan, with
/// its request and limit, give that plan.
///
/// # Errors
/// As [`plan_within`] where the budgets do not follow at all; otherwise a [`Refusal`] with each rank's
/// numbers, and remedies that hold with these shards and the limit in force, or a larger one.
pub fn refit_within(
    request: &Request,
    limit: Option<Bytes>,
    shards: &[Shard],
    max_model_len: u32,
) -> Result<(Request, Plan), Box<Refusal>> {
    let filled = match filled(request, limit) {
        Ok(filled) => filled,
        Err(refusal) => return Err(plan_within(request, limit).err().unwrap_or(refusal)),
    };
    let refusal = match refit(&filled, shards, max_model_len) {
        Ok(plan) => return Ok((filled, plan)),
        Err(refusal) => refusal,
    };
    let standing = Inside {
        fits: &|request| refit(request, shards, max_model_len).is_ok(),
        blocks: &|request| blocks_for(max_model_len.into(), request.kv.block_size),
    };
    Err(Box::new(match limit {
        Some(limit) => with_limit(standing, request, limit, *refusal),
        None => without_limit(standing, request, *refusal),
    }))
}

/// What it takes for a request, its totals filled in, to fit: with any split, or with one that stands.
#[derive(Clone, Copy)]
struct Inside<'a> {
    fits: &'a dyn Fn(&Request) -> bool,
    /// The fewest blocks that are worth anything, null block not counted.
    blocks: &'a dyn Fn(&Request) -> u64,
}

/// The refusal with those remedies that still hold once totals follow from what they change.
fn without_limit(inside: Inside<'_>, request: &Request, mut refusal: Refusal) -> Refusal {
    refusal.remedies.retain(|remedy| {
        let changed = changed(request, remedy);
        changed.is_some_and(|it| filled(&it, None).is_ok_and(|filled| (inside.fits)(&filled)))
    });
    refusal
}

fn filled(request: &Request, limit: Option<Bytes>) -> Result<Request, Box<Refusal>> {
    Ok(Request {
        ranks: cpu_capacity(request, limit)?,
        ..request.clone()
    })
}

/// The refusal with remedies that hold in a container of this `limit`.
fn with_limit(inside: Inside<'_>, request: &Request, limit: Bytes, refusal: Refusal) -> Refusal {
    let Refusal {
        reason,
        shards_given,
        mut ranks,
        mut remedies,
    } = refusal;
    let alone = match reason {
        Reason::Invalid { .. } => None,
        _ => least_limit(inside, request, limit),
    };
    if let (Reason::HostMemoryTooSmall { .. }, None) = (&reason, &alone) {
        // No limit would do: the quotas are too small as well, and are told with their numbers.
        if let Err(quotas) = plan_within(request, None) {
            if let Reason::Invalid { .. } = quotas.reason {
                return *quotas;
            }
            (ranks, remedies) = (quotas.ranks, quotas.remedies);
        }
    }
    let together = remedies.iter().filter_map(|remedy| {
        let changed = changed(request, remedy)?;
        match works(inside, &changed, limit) {
            true => Some(remedy.clone()),
            // Where a larger limit does by itself, more with it is no remedy.
            false if alone.is_some() => None,
            false => Some(joined(
                remedy.clone(),
                least_limit(inside, &changed, limit)?,
            )),
        }
    });
    let limit = alone.map(|bytes| Remedy::MemoryLimit { bytes });
    Refusal {
        remedies: limit
            .into_iter()
            .chain(together)
            .take(MOST_REMEDIES)
            .collect(),
        reason,
        shards_given,
        ranks,
    }
}

fn works(inside: Inside<'_>, request: &Request, limit: Bytes) -> bool {
    filled(request, Some(limit)).is_ok_and(|filled| (inside.fits)(&filled))
}

/// The smallest limit above `limit`, easy to write, in which the request fits.
fn least_limit(inside: Inside<'_>, request: &Request, limit: Bytes) -> Option<Bytes> {
    let quotas: Bytes = request.ranks.iter().filter_map(|rank| rank.quota).sum();
    let reserve = host_reserve(request, quotas).total();
    let whole = request.unshare(whole_model(request, (inside.blocks)(request)));
    let most = quotas + reserve + whole.saturating_mul(request.rank_count().into());
    // Twice that, should the reserve grow with what it is the reserve of.
    let most = most.saturating_mul(2).get() / STEP.get() + 1;
    let now = limit.get() / STEP.get();
    let steps = smallest(now + 1..=most.max(now + 1), |steps| {
        works(inside, request, STEP.saturating_mul(steps))
    })?;
    Some(STEP.saturating_mul(steps))
}

/// The request with a remedy's change made, its totals left open: the limit decides them.
fn changed(request: &Request, remedy: &Remedy) -> Option<Request> {
    let Remedy::TensorParallelSize { ranks } = remedy else {
        return Some(remedy.apply(request));
    };
    let open = RankCapacity {
        quota: None,
        total: None,
    };
    let without = request.ranks.iter().all(|rank| rank.quota.is_none());
    without.then(|| Request {
        ranks: vec![open; *ranks as usize],
        ..request.clone()
    })
}

fn joined(remedy: Remedy, limit: Bytes) -> Remedy {
    let limit = Remedy::MemoryLimit { bytes: limit };
    match remedy {
        Remedy::All(mut all) => {
            all.push(limit);
            Remedy::All(all)
        }
        one => Remedy::All(vec![one, limit]),
    }
}
