//! A split that stands under new budgets: the laws of `refit`, and what a restart would gain.

mod samples;

use plimsoll_planner::refusal::Reason;
use plimsoll_planner::{
    Account, Backend, Bytes, MOST_CHARACTERS, Plan, RankCapacity, Refusal, Remedy, Request, Shard,
    plan, plan_within, refit, refit_within, restart_gain,
};
use proptest::prelude::*;
use samples::MIB;
use samples::random::requests;

fn shards(plan: &Plan) -> Vec<Shard> {
    plan.ranks.iter().map(|rank| rank.shard.clone()).collect()
}

/// Budgets moved by so many MiB, quotas and totals alike; at least one byte stays.
fn moved(request: &Request, mib: &[i64]) -> Request {
    let mut moved = request.clone();
    for (rank, mib) in moved.ranks.iter_mut().zip(mib) {
        let by = Bytes::measured(mib.unsigned_abs() * MIB);
        let shift = |bytes: Bytes| match *mib < 0 {
            true => bytes.saturating_sub(by).max(Bytes::measured(1)),
            false => bytes + by,
        };
        *rank = RankCapacity {
            quota: rank.quota.map(shift),
            total: rank.total.map(shift),
        };
    }
    moved
}

fn check_refusal(
    request: &Request,
    refusal: &Refusal,
    (shards, context): (&[Shard], u32),
) -> Result<(), TestCaseError> {
    let message = refusal.message();
    prop_assert!(message.len() <= MOST_CHARACTERS && message.is_ascii());
    prop_assert_eq!(refusal.ranks.len(), shards.len());
    for (index, rank) in refusal.ranks.iter().enumerate() {
        prop_assert_eq!(Some(rank.budget), request.budget(index));
        prop_assert_eq!(rank.needed, rank.floor_total() + rank.smallest_unit);
        prop_assert_eq!(
            rank.shortfall,
            rank.needed.saturating_sub(rank.budget.bytes)
        );
        prop_assert!(rank.floor.iter().all(|(of, _)| *of != Account::KvCache));
    }
    let shortfalls = refusal.ranks.iter().map(|rank| rank.shortfall);
    let worst = shortfalls.max().unwrap_or(Bytes::ZERO);
    if worst > Bytes::ZERO {
        let short = format!("short by {worst}");
        prop_assert!(message.contains(&short), "{message}");
    }
    // What bounds the cache whatever memory there is, is told without the ranks' numbers.
    let says = match refusal.reason == Reason::KvCacheTooSmall {
        true => "is too small for one request of the longest, which takes",
        false => "for its shard (Weights",
    };
    prop_assert!(message.contains(says), "{message}");
    prop_assert!((1..=4).contains(&refusal.remedies.len()), "{message}");
    for remedy in &refusal.remedies {
        prop_assert!(message.contains(&remedy.to_string()), "{remedy}: {message}");
        let remedied = refit(&remedy.apply(request), shards, context);
        prop_assert!(remedied.is_ok(), "{remedy} does not hold: {request:?}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_plan_that_stands_under_its_own_budgets_is_that_plan(request in requests()) {
        let Ok(planned) = plan(&request) else { return Ok(()) };
        let again = refit(&request, &shards(&planned), planned.max_model_len);
        prop_assert_eq!(again, Ok(planned));
    }

    #[test]
    fn other_budgets_move_the_cache_or_are_refused_with_what_would_do(
        request in requests(),
        mib in prop::collection::vec(-200i64..=200, 5),
        size in prop::option::weighted(0.3, 1u64..=64),
    ) {
        let Ok(before) = plan(&request) else { return Ok(()) };
        let (stands, context) = (shards(&before), before.max_model_len);
        let mut other = moved(&request, &mib);
        other.kv.size = size.map(|mib| Bytes::measured(mib * MIB));
        match refit(&other, &stands, context) {
            Err(refusal) => check_refusal(&other, &refusal, (&stands, context))?,
            Ok(after) => {
                prop_assert_eq!(shards(&after), stands);
                prop_assert_eq!(after.max_model_len, context);
                prop_assert!(after.kv_tokens >= u64::from(context));
                for (index, (after, before)) in after.ranks.iter().zip(&before.ranks).enumerate() {
                    prop_assert_eq!(Some(after.budget), other.budget(index).map(|it| it.bytes));
                    prop_assert!(after.total() <= after.budget);
                    // What a running engine has carved does not move; its cache does.
                    for account in Account::ALL {
                        if account != Account::KvCache {
                            prop_assert_eq!(after.bytes(account), before.bytes(account));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn more_memory_never_holds_fewer_tokens(
        request in requests(),
        first in prop::collection::vec(-60i64..=60, 5),
        more in prop::collection::vec(0i64..=60, 5),
    ) {
        let Ok(before) = plan(&request) else { return Ok(()) };
        let stands = shards(&before);
        let smaller = moved(&request, &first);
        let Ok(smaller_plan) = refit(&smaller, &stands, before.max_model_len) else { return Ok(()) };
        let larger = refit(&moved(&smaller, &more), &stands, before.max_model_len);
        prop_assert!(larger.is_ok_and(|larger| larger.kv_tokens >= smaller_plan.kv_tokens));
    }
}

/// A request of the CPU backend as it is before its totals are known: some ranks have no quota.
fn opened(request: &Request, open: &[bool]) -> Request {
    let mut opened = Request {
        backend: Backend::Cpu,
        ..request.clone()
    };
    for (rank, open) in opened.ranks.iter_mut().zip(open) {
        rank.total = None;
        rank.quota = rank.quota.filter(|_| !open);
    }
    opened
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn in_a_container_a_plan_that_stands_is_that_plan_and_what_would_help_another_one_holds(
        request in requests(),
        open in prop::collection::vec(any::<bool>(), 5),
        limit in prop::option::weighted(0.6, 1000u64..=4000),
        other in prop::option::weighted(0.8, 600u64..=4000),
        mib in prop::collection::vec(-100i64..=100, 5),
    ) {
        let request = opened(&request, &open);
        let limit = limit.map(|mib| Bytes::measured(mib * MIB));
        let Ok((filled, planned)) = plan_within(&request, limit) else { return Ok(()) };
        let (stands, context) = (shards(&planned), planned.max_model_len);
        let again = refit_within(&request, limit, &stands, context);
        prop_assert_eq!(again, Ok((filled, planned)));
        // A limit that is written stays written; one that is not follows.
        let other = limit.and(other).map(|mib| Bytes::measured(mib * MIB)).or(limit);
        let changed = moved(&request, &mib);
        let Err(refusal) = refit_within(&changed, other, &stands, context) else { return Ok(()) };
        prop_assert!(refusal.message().len() <= MOST_CHARACTERS);
        if !refusal.shards_given {
            return Ok(());
        }
        for remedy in &refusal.remedies {
            let (changed, limit) = taken(remedy, &changed, other);
            let holds = refit_within(&changed, limit, &stands, context);
            prop_assert!(holds.is_ok(), "{remedy} does not hold");
        }
    }
}

/// What who takes a remedy writes: the request and the container's limit.
fn taken(remedy: &Remedy, request: &Request, limit: Option<Bytes>) -> (Request, Option<Bytes>) {
    match remedy {
        Remedy::MemoryLimit { bytes } => (request.clone(), Some(*bytes)),
        Remedy::All(all) => all
            .iter()
            .fold((request.clone(), limit), |(request, limit), remedy| {
                taken(remedy, &request, limit)
            }),
        one => (one.apply(request), limit),
    }
}

#[test]
fn a_container_whose_limit_falls_keeps_its_split_and_says_which_limit_would_hold_it() {
    let request = samples::on_cpu(&[None, None]);
    let limit = |mib: u64| Some(Bytes::measured(mib * MIB));
    let (_, planned) = plan_within(&request, limit(2000)).unwrap();
    let (stands, context) = (shards(&planned), planned.max_model_len);
    let (filled, smaller) = refit_within(&request, limit(1500), &stands, context).unwrap();
    assert!(smaller.kv_tokens < planned.kv_tokens);
    let gain = restart_gain(&filled, Some(&smaller)).unwrap();
    assert_eq!(gain.kept_tokens, smaller.kv_tokens);
    // Less than one sequence at its longest: a free plan may shrink the context, a refit does not.
    let tight = (400..1500).step_by(20).find_map(|mib| {
        let refusal = refit_within(&request, limit(mib), &stands, context).err()?;
        refusal.shards_given.then_some((mib, refusal))
    });
    let (_, refusal) = tight.expect("some limit is between the two");
    let [Remedy::MemoryLimit { bytes }, ..] = refusal.remedies.as_slice() else {
        panic!("{refusal}")
    };
    assert!(refit_within(&request, Some(*bytes), &stands, context).is_ok());
}

fn two_ranks(quotas: [u64; 2]) -> Request {
    let bytes = quotas.map(|mib| mib * MIB);
    samples::request(samples::llama_3_2_3b(), Backend::Cpu, &bytes)
}

#[test]
fn quotas_that_a_split_cannot_follow_are_refused_with_its_numbers_and_a_restart_may_do() {
    let request = two_ranks([3000, 10_000]);
    let planned = plan(&request).unwrap();
    let swapped = two_ranks([10_000, 3000]);
    let context = planned.max_model_len;
    let refusal = refit(&swapped, &shards(&planned), context).unwrap_err();
    assert_eq!(refusal.reason, Reason::QuotaTooSmall);
    let [first, second] = refusal.ranks.as_slice() else {
        panic!("{refusal}")
    };
    assert_eq!(first.shortfall, Bytes::ZERO);
    assert!(second.shortfall > Bytes::ZERO);
    let message = refusal.message();
    assert!(
        message.contains("rank 1 needs") && message.contains("gpuQuotas[rank=1].limit at least"),
        "{message}"
    );
    let gain = restart_gain(&swapped, None).unwrap();
    assert_eq!(gain.kept_tokens, 0);
    assert_eq!(
        gain.tokens(),
        planned.kv_tokens,
        "mirrored, it holds as many"
    );
    let gain = restart_gain(&request, Some(&planned)).unwrap();
    assert_eq!(gain.tokens(), 0);
    let hopeless = restart_gain(&two_ranks([100, 100]), None).unwrap_err();
    assert_eq!(hopeless.reason, Reason::QuotaTooSmall);
}

#[test]
fn shards_and_contexts_that_are_not_the_requests_are_refused_by_name() {
    let request = two_ranks([3000, 10_000]);
    let planned = plan(&request).unwrap();
    let good = shards(&planned);
    let context = planned.max_model_len;
    let refused = |shards: &[Shard], context: u32, request: &Request| {
        let refusal = refit(request, shards, context).unwrap_err();
        assert!(
            matches!(refusal.reason, Reason::Invalid { .. }),
            "{refusal}"
        );
        refusal.message()
    };
    let with = |change: &dyn Fn(&mut Vec<Shard>)| {
        let mut shards = good.clone();
        change(&mut shards);
        refused(&shards, context, &request)
    };
    let message = with(&|shards| shards.truncate(1));
    assert!(message.contains("1 shards for 2 ranks"), "{message}");
    let message = with(&|shards| shards[1].vocab_rows.start += 64);
    assert!(message.contains("vocabRows of rank 1"), "{message}");
    let message = with(&|shards| shards[1].mlp_columns.end += 128);
    assert!(message.contains("mlpColumns of rank 1"), "{message}");
    let message = with(&|shards| shards[1].mlp_columns.end -= 128);
    assert!(message.contains("mlpColumns end at"), "{message}");
    #[expect(clippy::reversed_empty_ranges, reason = "a document may say so")]
    let message = with(&|shards| shards[0].query_heads = 9..3);
    assert!(message.contains("queryHeads of rank 0"), "{message}");
    let message = with(&|shards| shards[0].kv_heads.end += 1);
    assert!(message.contains("kvHeads"), "{message}");
    let mut written = request.clone();
    written.limits.max_model_len = Some(512);
    let message = refused(&good, 1024, &written);
    assert!(message.contains("512 is not the 1024"), "{message}");
    for context in [0, u32::MAX] {
        let message = refused(&good, context, &request);
        assert!(message.contains("spec.limits.maxModelLen"), "{message}");
    }
}

#[test]
fn a_shrunk_context_stays_and_its_plan_is_found_again_where_longer_tables_outweigh_blocks() {
    let mut request = samples::request(samples::smollm2(), Backend::Cpu, &[0]);
    request.limits.max_num_seqs = 1 << 14;
    request.limits.max_num_batched_tokens = 64;
    request.shape.layers = 1;
    request.ranks[0].quota = Some(Bytes::measured(1));
    let least = plan(&request).unwrap_err().ranks[0].needed;
    let shrunk = (0..64).filter_map(|pages: u64| {
        request.ranks[0].quota = Some(least + Bytes::measured(pages * 4096));
        let planned = plan(&request).ok()?;
        let again = refit(&request, &shards(&planned), planned.max_model_len);
        assert_eq!(again.as_ref(), Ok(&planned), "{pages} pages");
        // Room that only the tables of a longer context would take.
        let block = planned.ranks[0].bytes(Account::KvCache).get() / u64::from(planned.kv_blocks);
        let free = planned.ranks[0].budget.get() - planned.ranks[0].total().get();
        (planned.max_model_len < request.shape.context).then_some(free > block)
    });
    let shrunk: Vec<bool> = shrunk.collect();
    assert!(
        shrunk.iter().any(|room| *room),
        "{} plans were shrunk, and none has the room",
        shrunk.len()
    );
}
