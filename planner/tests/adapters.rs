//! Slots for adapters: to the byte, on whole models and on shards, and as a part of plans.

mod samples;

use plimsoll_planner::adapters::{AdapterLayout, Projection, layout, total};
use plimsoll_planner::{
    Account, AdapterSlots, Backend, Limits, Remedy, Request, Shard, plan, plan_within,
};
use samples::{MIB, on_cpu, request, smollm2};

const LIMITS: Limits = Limits {
    max_model_len: None,
    max_num_seqs: 64,
    max_num_batched_tokens: 2048,
};

fn slots(slots: u32, rank: u32) -> AdapterSlots {
    AdapterSlots { slots, rank }
}

fn of(shard: &Shard, asked: AdapterSlots) -> AdapterLayout {
    layout(&smollm2(), shard, &LIMITS, asked)
}

#[test]
fn a_slot_has_both_factors_of_seven_matrices_of_every_layer() {
    let layout = of(&Shard::whole(&smollm2()), slots(3, 16));
    // q, k, v, o, gate, up, down: inputs and outputs.
    let widths = (576 + 576) + 2 * (576 + 192) + (576 + 576) + 2 * (576 + 1536) + (1536 + 576);
    let slot = 30 * widths * 16 * 4;
    assert_eq!(layout.slot(0).bytes, slot);
    assert_eq!(layout.slot(2).offset, 2 * slot);
    let scratch = 2048 * (4 + 4 + 3 * 16 * 4);
    assert_eq!(layout.total().get(), 3 * slot + scratch);
    assert_eq!(layout.places().len(), 30 * 7);
    for asked in [slots(3, 16), slots(1, 1), slots(2, 7), slots(0, 9)] {
        let whole = Shard::whole(&smollm2());
        let bytes = total(&smollm2(), &whole, &LIMITS, asked);
        assert_eq!(bytes, of(&whole, asked).total(), "{asked:?}");
    }
    let mut end = 0;
    for place in layout.places() {
        for (region, width) in [(place.a, place.inputs), (place.b, place.outputs)] {
            assert_eq!((region.offset, region.bytes), (end, width * 16 * 4));
            end += region.bytes.next_multiple_of(64);
        }
    }
    assert_eq!(end, slot);
}

/// What is cut is cut; A of the inputs and B of the outputs are on every rank.
#[test]
fn a_rank_without_a_share_keeps_what_is_whole_and_shards_divide_the_rest() {
    let shape = smollm2();
    let shard = |kv: [u32; 2], columns: [u32; 2]| Shard {
        kv_heads: kv[0]..kv[1],
        query_heads: 3 * kv[0]..3 * kv[1],
        mlp_columns: columns[0]..columns[1],
        vocab_rows: 0..0,
    };
    let sizes = |shard: &Shard, of: Projection| of.sizes(&shape, shard);
    let none = shard([0, 0], [0, 0]);
    assert_eq!(sizes(&none, Projection::Key), (576, 0));
    assert_eq!(sizes(&none, Projection::Down), (0, 576));
    let uneven = [shard([0, 1], [0, 1000]), shard([1, 3], [1000, 1536])];
    let query = uneven.each_ref().map(|of| sizes(of, Projection::Query));
    assert_eq!(query, [(576, 192), (576, 384)]);
    // Columns of a share are padded to 16.
    let down = uneven.each_ref().map(|of| sizes(of, Projection::Down).0);
    assert_eq!(down, [1008, 544]);
}

#[test]
fn without_slots_plans_are_what_they_were_and_with_them_only_the_cache_pays() {
    let without = request(smollm2(), Backend::Cpu, &[600 * MIB, 700 * MIB]);
    let none = Request {
        adapters: slots(0, 64),
        ..without.clone()
    };
    assert_eq!(plan(&none), plan(&without));
    let with = Request {
        adapters: slots(2, 16),
        ..without.clone()
    };
    let (with_plan, without) = (plan(&with).unwrap(), plan(&without).unwrap());
    assert!(with_plan.kv_tokens < without.kv_tokens);
    for rank in &with_plan.ranks {
        let planned = layout(&with.shape, &rank.shard, &with.limits, with.adapters).total();
        let page = 4096;
        assert_eq!(
            rank.bytes(Account::Adapters).get(),
            planned.get().next_multiple_of(page)
        );
        assert!(rank.total() <= rank.budget);
    }
    assert_eq!(without.ranks[0].bytes(Account::Adapters).get(), 0);
}

#[test]
fn a_refusal_for_slots_names_fewer_slots_and_a_smaller_rank_that_hold() {
    let asked = Request {
        adapters: slots(40, 64),
        ..request(smollm2(), Backend::Cpu, &[800 * MIB])
    };
    let refusal = plan(&asked).unwrap_err();
    let message = refusal.message();
    let [_, fewer, smaller] = refusal.remedies.as_slice() else {
        panic!("{message}");
    };
    for (remedy, says) in [
        (fewer, "spec.limits.maxAdapters at most "),
        (smaller, "spec.limits.maxAdapterRank at most "),
    ] {
        assert!(message.contains(says), "{message}");
        assert!(plan(&remedy.apply(&asked)).is_ok(), "{remedy}");
    }
    let Remedy::Adapters { slots: most } = *fewer else {
        panic!("{fewer}");
    };
    let more = Request {
        adapters: slots(most + 1, 64),
        ..asked
    };
    assert!(plan(&more).is_err(), "{most} are the most");
}

#[test]
fn numbers_out_of_range_are_refused_by_field() {
    for (asked, says) in [
        (slots(257, 16), "maxAdapters: 257 is not between 1 and 256"),
        (slots(1, 0), "maxAdapterRank: 0 is not between 1 and 4096"),
        (slots(1, 4097), "maxAdapterRank: 4097"),
    ] {
        let asked = Request {
            adapters: asked,
            ..request(smollm2(), Backend::Cpu, &[800 * MIB])
        };
        let message = plan(&asked).unwrap_err().message();
        assert!(message.contains(says), "{message}");
    }
}

/// Without a limit a container takes what its slots take, too.
#[test]
fn a_free_plan_makes_room_for_slots() {
    let free = on_cpu(&[None]);
    let with = Request {
        adapters: slots(4, 32),
        ..free.clone()
    };
    let (_, with_plan) = plan_within(&with, None).unwrap();
    let (_, plan) = plan_within(&free, None).unwrap();
    assert_eq!(with_plan.kv_blocks, plan.kv_blocks);
}
