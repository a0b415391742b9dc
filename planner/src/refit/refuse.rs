//! The numbers of budgets that a given split does not fit, and what would help without a restart.

use super::Given;
use crate::account::Account;
use crate::bytes::Bytes;
use crate::check::check;
use crate::holdings::{of, total};
use crate::refusal::{RankRefusal, Reason, Refusal};
use crate::remedies::{MOST_REMEDIES, STEP};
use crate::remedy::Remedy;
use crate::request::{Bound, Budget, Request, Utilization};
use crate::split::smallest;

pub(super) fn refuse(given: &Given<'_>, budgets: &[Budget]) -> Refusal {
    let blocks = given.fewest_blocks();
    let rank = |(rank, budget): (usize, &Budget)| {
        let mut floor = given.accounts(rank, blocks);
        let needed = total(&floor);
        let cache = of(&floor, Account::KvCache);
        floor.retain(|(account, _)| *account != Account::KvCache && account.on_device());
        RankRefusal {
            rank: u32::try_from(rank).unwrap_or(u32::MAX),
            budget: *budget,
            floor,
            smallest_unit: cache,
            needed,
            shortfall: needed.saturating_sub(budget.bytes),
        }
    };
    let ranks: Vec<RankRefusal> = budgets.iter().enumerate().map(rank).collect();
    let mut short = ranks.iter().filter(|rank| rank.shortfall > Bytes::ZERO);
    let reason = match short.clone().next() {
        None => Reason::KvCacheTooSmall,
        Some(_) if short.any(|rank| rank.budget.bound == Bound::Quota) => Reason::QuotaTooSmall,
        Some(_) => Reason::MemoryTooSmall,
    };
    Refusal {
        remedies: remedies(given, &ranks),
        reason,
        shards_given: true,
        ranks,
    }
}

/// The least changes of budgets and `kvCache.size` with which these shards fit; the nearest first.
fn remedies(given: &Given<'_>, ranks: &[RankRefusal]) -> Vec<Remedy> {
    let request = given.request;
    let holds = |remedy: &Remedy| {
        let request = &remedy.apply(request);
        let changed = Given { request, ..*given };
        check(request).is_ok_and(|budgets| changed.most_blocks(&budgets).is_some())
    };
    let short: Vec<&RankRefusal> = ranks
        .iter()
        .filter(|rank| rank.shortfall > Bytes::ZERO)
        .collect();
    let bytes: Vec<Bytes> = ranks
        .iter()
        .map(|rank| rank.needed.max(rank.budget.bytes).round_up(STEP))
        .collect();
    let caches = ranks.iter().map(|rank| rank.smallest_unit);
    let size = Remedy::KvCacheSize {
        bytes: caches.max().unwrap_or(Bytes::ZERO).round_up(STEP),
    };
    let memory = match short.as_slice() {
        [] => None,
        [one] if one.budget.bound == Bound::Quota => Some(Remedy::Quota {
            rank: one.rank,
            bytes: one.needed.round_up(STEP),
        }),
        _ if ranks.iter().all(|rank| rank.budget.bound == Bound::Quota) => {
            let bytes = bytes.clone();
            Some(Remedy::Quotas { bytes })
        }
        _ => utilization(request, holds),
    };
    let budgets = Remedy::Budgets { bytes };
    let mut found: Vec<Remedy> = [Some(size.clone()), memory.clone()]
        .into_iter()
        .flatten()
        .filter(holds)
        .collect();
    if found.is_empty() {
        let both = memory.map(|memory| Remedy::All(vec![size.clone(), memory]));
        let wide = [budgets.clone(), Remedy::All(vec![size, budgets])];
        found.extend(both.into_iter().chain(wide).find(holds));
    }
    found.truncate(MOST_REMEDIES);
    found
}

fn utilization(request: &Request, holds: impl Fn(&Remedy) -> bool) -> Option<Remedy> {
    let with = |thousandths: u64| Remedy::Utilization {
        utilization: Utilization(u32::try_from(thousandths).unwrap_or(1000)),
    };
    let now = u64::from(request.utilization.0);
    let least = smallest(now + 1..=1000, |thousandths| holds(&with(thousandths)))?;
    Some(with(least.next_multiple_of(10).min(1000)))
}
