//! What holds for every plan and every refusal, over random models, limits and quotas.

mod samples;

use plimsoll_planner::{Bytes, MOST_CHARACTERS, Plan, RankCapacity, Request, Shard, plan};
use proptest::prelude::*;
use samples::MIB;
use samples::random::requests;

/// The ranges follow one another from 0 to `all`.
fn partition(plan: &Plan, all: u32, range: fn(&Shard) -> &std::ops::Range<u32>) -> bool {
    let mut end = 0;
    let follows = plan.ranks.iter().all(|rank| {
        let range = range(&rank.shard);
        let follows = range.start == end && range.start <= range.end;
        end = range.end;
        follows
    });
    follows && end == all
}

fn check_plan(request: &Request, plan: &Plan) -> Result<(), TestCaseError> {
    let shape = &request.shape;
    prop_assert!(
        partition(plan, shape.query_heads, |shard| &shard.query_heads),
        "{plan:?}"
    );
    prop_assert!(
        partition(plan, shape.ffn, |shard| &shard.mlp_columns),
        "{plan:?}"
    );
    prop_assert!(
        partition(plan, shape.vocab, |shard| &shard.vocab_rows),
        "{plan:?}"
    );
    for (index, rank) in plan.ranks.iter().enumerate() {
        let budget = request.budget(index).map(|budget| budget.bytes);
        prop_assert_eq!(Some(rank.budget), budget);
        prop_assert!(rank.total() <= rank.budget, "{rank:?}");
        // Each query head finds its KV head on its own rank, and every rank has one ratio.
        let Shard {
            kv_heads,
            query_heads,
            ..
        } = &rank.shard;
        for head in query_heads.clone() {
            prop_assert!(kv_heads.contains(&(head / shape.group())), "{rank:?}");
        }
        let (kv, queries) = (rank.shard.kv_head_count(), rank.shard.query_head_count());
        prop_assert!(queries == kv * shape.group() || kv == 1, "{rank:?}");
        prop_assert!((kv == 0) == (queries == 0), "{rank:?}");
    }
    let blocks = u64::from(plan.kv_blocks) - 1;
    prop_assert_eq!(plan.kv_tokens, blocks * u64::from(request.kv.block_size));
    prop_assert!(u64::from(plan.max_model_len) <= plan.kv_tokens, "{plan:?}");
    match request.limits.max_model_len {
        Some(tokens) => prop_assert_eq!(plan.max_model_len, tokens),
        None => prop_assert!(plan.max_model_len >= shape.context.min(256), "{plan:?}"),
    }
    Ok(())
}

/// Do two plans cut heads in the same way (copied or not, all ranks or not)?
fn same_family(one: &Plan, other: &Plan) -> bool {
    let family = |plan: &Plan| {
        let copies: u32 = plan
            .ranks
            .iter()
            .map(|rank| rank.shard.kv_head_count())
            .sum();
        (
            copies,
            plan.ranks
                .iter()
                .any(|rank| rank.shard.kv_head_count() == 0),
        )
    };
    family(one) == family(other)
}

fn tokens_counted(request: &Request, plan: &Plan) -> u64 {
    let context = request
        .limits
        .max_model_len
        .unwrap_or(request.shape.context);
    let wanted = u64::from(context) * u64::from(request.limits.max_num_seqs);
    plan.kv_tokens
        .min(wanted.next_multiple_of(request.kv.block_size.into()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn plans_keep_their_promises_and_refusals_their_remedies(request in requests()) {
        let planned = plan(&request);
        prop_assert_eq!(&planned, &plan(&request), "equal requests, equal answers");
        match planned {
            Ok(planned) => check_plan(&request, &planned)?,
            Err(refusal) => {
                let message = refusal.message();
                prop_assert!(message.len() <= MOST_CHARACTERS, "{} characters", message.len());
                prop_assert!(message.is_ascii());
                prop_assert!(message.contains("spec."), "{message}");
                prop_assert!(!refusal.remedies.is_empty(), "{message}");
                prop_assert!(refusal.remedies.len() <= 4, "{message}");
                for remedy in &refusal.remedies {
                    prop_assert!(message.contains(&remedy.to_string()), "no {remedy} in {message}");
                    let remedied = plan(&remedy.apply(&request));
                    prop_assert!(remedied.is_ok(), "{remedy} does not hold: {request:?}");
                }
            }
        }
    }

    #[test]
    fn a_larger_quota_never_holds_fewer_tokens(
        request in requests(),
        rank in any::<prop::sample::Index>(),
        more in 1u64..=64,
    ) {
        let Ok(before) = plan(&request) else { return Ok(()) };
        let mut larger = request.clone();
        let capacity = &mut larger.ranks[rank.index(request.ranks.len())];
        let raise = |bytes: Bytes| bytes + Bytes::measured(more * MIB);
        *capacity =
            RankCapacity { quota: capacity.quota.map(raise), total: capacity.total.map(raise) };
        let after = plan(&larger);
        let after = after.map_err(|refusal| TestCaseError::fail(refusal.message()))?;
        if same_family(&before, &after) {
            let (least, tokens) =
                (tokens_counted(&request, &before), tokens_counted(&request, &after));
            prop_assert!(tokens >= least, "{least} tokens, then {tokens}");
        }
    }
}
