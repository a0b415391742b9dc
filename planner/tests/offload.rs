//! Weights in host memory: which layers, how many bytes on either side, and what is refused.

mod samples;

use std::collections::BTreeSet;

use plimsoll_planner::weights::{self, Tensor, TensorPlace};
use plimsoll_planner::{
    Account, Backend, BlockFormat, Bytes, Dtype, LayerBlocks, Plan, Reason, Remedy, Request, Shard,
    host_reserve, plan, refit, table,
};
use proptest::prelude::*;
use samples::random::{percent_of_matrices, requests, sensible};
use samples::{MIB, llama_3_1_8b, request, smollm2};

const GB: u64 = 1_000_000_000;

/// One layer of SmolLM2 on one rank: qkv, output, gate, up and down.
const LAYER: u64 = 2 * (960 * 576 + 576 * 576 + 3 * 576 * 1536);

fn with(request: &Request, bytes: u64) -> Request {
    Request {
        cpu_offload: Some(Bytes::measured(bytes)),
        ..request.clone()
    }
}

/// Bytes that a rank may offload; then layers that it offloads, and tokens that it gains.
const GOLDEN: [(u64, u32, u64); 5] = [
    (21 * MIB, 3, LAYER),
    (40 * MIB, 5, 3 * LAYER),
    (100 * MIB, 14, 12 * LAYER),
    (30 * LAYER, 30, 28 * LAYER),
    (4096 * MIB, 30, 28 * LAYER),
];

#[test]
fn as_many_layers_as_fit_are_offloaded_and_all_but_the_ring_is_cache() {
    let resident = request(smollm2(), Backend::Cpu, &[900 * MIB]);
    let before = plan(&resident).unwrap();
    for (bytes, layers, gained) in GOLDEN {
        let request = with(&resident, bytes);
        let planned = plan(&request).unwrap();
        let [offload] = &planned.offload(&request)[..] else {
            panic!("{planned:?}")
        };
        assert_eq!((offload.layers, offload.of), (layers, 30), "{bytes}");
        let rank = &planned.ranks[0];
        let held = |account| rank.bytes(account).get();
        assert_eq!(held(Account::Offload), u64::from(layers) * LAYER);
        assert_eq!(
            held(Account::Weights),
            before.ranks[0].bytes(Account::Weights).get() - gained
        );
        // A token takes 23,040 bytes; the cache is whole blocks of 16.
        let tokens = planned.kv_tokens - before.kv_tokens;
        assert!(tokens.abs_diff(gained / 23_040) <= 16, "{bytes}: {tokens}");
        assert!(rank.total() <= rank.budget);
    }
}

#[test]
fn less_than_gains_anything_is_refused_with_the_least_that_does() {
    let resident = request(smollm2(), Backend::Cpu, &[400 * MIB]);
    for bytes in [MIB, 13 * MIB, 21 * MIB - 4096 * 192 - 1] {
        let refusal = plan(&with(&resident, bytes)).unwrap_err();
        let Reason::Invalid { field, .. } = &refusal.reason else {
            panic!("{refusal}")
        };
        assert_eq!(field, "spec.memory.cpuOffload");
        for part in ["6.75 MiB", "2 layers wait", "write at least 21Mi"] {
            assert!(refusal.message().contains(part), "no {part} in {refusal}");
        }
        let given = plan(&resident).unwrap().ranks[0].shard.clone();
        assert!(refit(&with(&resident, bytes), &[given], 8192).is_err());
    }
    let mut shallow = resident.clone();
    shallow.shape.layers = 2;
    let refusal = plan(&with(&shallow, 4096 * MIB)).unwrap_err();
    let message = refusal.message();
    assert!(message.contains("a model of 2 layers"), "{message}");
    assert!(message.contains("leave it out"), "{message}");
    shallow.shape.layers = 3;
    assert!(plan(&with(&shallow, 4096 * MIB)).is_ok());
}

#[test]
fn an_8b_that_is_refused_on_3_and_10_gb_fits_with_weights_in_host_memory() {
    let request = request(llama_3_1_8b(), Backend::Cuda, &[3 * GB, 10 * GB]);
    let refusal = plan(&request).unwrap_err();
    let offload = refusal.remedies.iter().find_map(|remedy| match remedy {
        Remedy::CpuOffload { bytes } => Some(*bytes),
        _ => None,
    });
    let Some(bytes) = offload else {
        panic!("{:?}", refusal.remedies)
    };
    assert!(
        refusal
            .message()
            .contains("spec.memory.cpuOffload at least")
    );
    let fits = with(&request, bytes.get());
    let planned = plan(&fits).unwrap();
    assert!(
        plan(&with(&request, bytes.get() - MIB)).is_err(),
        "{bytes} is the least"
    );
    let streamed: Vec<u32> = planned.offload(&fits).iter().map(|o| o.layers).collect();
    assert!(streamed.iter().all(|layers| *layers > 2), "{streamed:?}");
    let text = table(&fits, &planned);
    assert!(text.contains("OFFLOAD"), "{text}");
    assert!(
        text.contains("streamed in a step, at 20 GB/s: rank 0: "),
        "{text}"
    );
    assert!(text.contains("of 32 layers"), "{text}");
}

#[test]
fn offloaded_layers_lie_one_after_the_other_and_the_rest_as_ever() {
    let request = with(&request(smollm2(), Backend::Cpu, &[400 * MIB]), 40 * MIB);
    let shard = Shard::whole(&request.shape);
    let offload = plimsoll_planner::offload::of(&request, &shard);
    let layout = plimsoll_planner::offload::layout(&request, &shard, 0);
    let all = weights::layout(&request.shape, &shard, request.kept(), 0);
    assert_eq!(layout.total() + offload.bytes(), all.total());
    let (mut resident, mut host) = (0, 0);
    for place in layout.places() {
        let streamed = place
            .tensor
            .matrix_of()
            .and_then(|layer| offload.index(layer));
        let end = match (place.account, streamed) {
            (Account::Offload, Some(index)) => {
                let slot = u64::from(index) * LAYER..u64::from(index + 1) * LAYER;
                assert!(slot.contains(&place.offset), "{place:?}");
                &mut host
            }
            (Account::Weights, None) => &mut resident,
            wrong => panic!("{place:?} {wrong:?}"),
        };
        assert_eq!(place.offset, *end, "{place:?}");
        *end += place.bytes.next_multiple_of(64);
    }
    assert_eq!(host, 5 * LAYER);
    let norm = layout.get(Tensor::InputNorm { layer: 5 }).unwrap();
    assert_eq!(norm.account, Account::Weights);
}

#[test]
fn layers_that_are_stored_differently_go_with_their_own_bytes() {
    let mut shape = smollm2();
    // Q4_K_M as of a model of 576 columns: every third layer has its down matrix in more bits.
    shape.blocks.layers = (0..shape.layers)
        .map(|layer| LayerBlocks {
            down: Some(match layer % 3 {
                0 => BlockFormat::Q8_0,
                _ => BlockFormat::Q4_0,
            }),
            ..LayerBlocks::uniform(Some(BlockFormat::Q4_0))
        })
        .collect();
    let all = request(shape, Backend::Cpu, &[400 * MIB]);
    let without = plan(&all).unwrap();
    let mut before = 0;
    for mib in [10, 20, 30, 40, 80] {
        let request = with(&all, mib * MIB);
        let planned = plan(&request).unwrap();
        let offload = &planned.offload(&request)[0];
        let layout = plimsoll_planner::offload::layout(&request, &planned.ranks[0].shard, 0);
        let mut end = 0;
        for (layer, part) in offload.parts() {
            assert_eq!(part.offset, end);
            end += part.bytes;
            let of = |place: &&TensorPlace| place.tensor.matrix_of() == Some(*layer);
            let places = layout.places().iter().filter(of);
            let lie = |place: &TensorPlace| (part.offset..end).contains(&place.offset);
            assert!(
                places
                    .clone()
                    .all(|place| place.account == Account::Offload && lie(place))
            );
            let bytes: u64 = places.map(|place| place.bytes.next_multiple_of(64)).sum();
            assert_eq!(part.bytes, bytes, "layer {layer}");
        }
        assert_eq!(offload.bytes().get(), end);
        assert!(
            end <= mib * MIB && offload.layers > before,
            "{mib}: {offload:?}"
        );
        let sizes: BTreeSet<u64> = offload.parts().iter().map(|part| part.1.bytes).collect();
        assert_eq!(sizes.len(), 2, "both kinds go");
        assert_eq!(
            offload.slot().get(),
            sizes.last().unwrap().next_multiple_of(4096)
        );
        let gained = planned.kv_tokens - without.kv_tokens;
        let left = end - offload.ring().get();
        assert!(gained.abs_diff(left / 23_040) <= 16, "{mib}: {gained}");
        before = offload.layers;
    }
    assert_eq!(before, 30, "all of them in the end");
}

#[test]
fn offloaded_bytes_are_the_hosts_and_no_ranks() {
    let resident = request(smollm2(), Backend::Cpu, &[300 * MIB, 700 * MIB]);
    let budgets = Bytes::measured(1000 * MIB);
    let more = host_reserve(&with(&resident, 40 * MIB), budgets);
    assert_eq!(more.offload, Bytes::measured(80 * MIB));
    let tables = Bytes::measured(80 * MIB / 512);
    let before = host_reserve(&resident, budgets).total();
    assert_eq!(more.total(), before + more.offload + tables);
    // No more than there is, whatever is asked for.
    let all = host_reserve(&with(&resident, 1 << 40), budgets).offload;
    assert!(all.get() < 30 * LAYER * 5 / 4, "{all}");
}

/// Copies of KV heads, and whether all ranks have some.
fn family(plan: &Plan) -> (u32, bool) {
    let heads = |shard: &Shard| shard.kv_head_count();
    let copies = plan.ranks.iter().map(|rank| heads(&rank.shard)).sum();
    (
        copies,
        plan.ranks.iter().any(|rank| heads(&rank.shard) == 0),
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn what_ranks_offload_is_within_what_they_may_and_what_the_host_reserves(
        request in requests()
    ) {
        let Ok(planned) = plan(&request) else { return Ok(()) };
        let most = request.cpu_offload.unwrap_or_default();
        let mut host = Bytes::ZERO;
        for (rank, offload) in planned.ranks.iter().zip(planned.offload(&request)) {
            prop_assert!(rank.total() <= rank.budget, "{rank:?}");
            let held = rank.bytes(Account::Offload);
            prop_assert_eq!(held, offload.host());
            prop_assert!(held <= most, "{held} of {most}: {rank:?}");
            prop_assert!(offload.bytes() > offload.ring() || offload.layers == 0);
            host += held;
        }
        let budgets = planned.ranks.iter().map(|rank| rank.budget).sum();
        let reserved = host_reserve(&request, budgets).offload;
        prop_assert!(host <= reserved, "{host} of {reserved}: {request:?}");
    }

    #[test]
    fn more_offload_never_holds_fewer_tokens(request in requests(), percent in 1u64..=110) {
        let without = Request { cpu_offload: None, ..request.clone() };
        let bytes = percent_of_matrices(&request.shape, request.kept(), percent);
        let other = sensible(with(&without, bytes.get()));
        let (less, more) = match other.cpu_offload <= request.cpu_offload {
            true => (other, request),
            false => (request, other),
        };
        let Ok(before) = plan(&less) else { return Ok(()) };
        let shards: Vec<Shard> = before.ranks.iter().map(|rank| rank.shard.clone()).collect();
        let same = refit(&more, &shards, before.max_model_len);
        prop_assert!(same.is_ok_and(|same| same.kv_tokens >= before.kv_tokens));
        let after = plan(&more).map_err(|refusal| TestCaseError::fail(refusal.message()))?;
        if family(&before) == family(&after) && less.ranks.len() == 1 {
            prop_assert!(after.kv_tokens >= before.kv_tokens, "{before:?} {after:?}");
        }
    }
}

#[test]
fn a_wider_type_offloads_fewer_layers_of_as_many_bytes() {
    let narrow = with(&request(smollm2(), Backend::Cpu, &[900 * MIB]), 100 * MIB);
    let wide = Request {
        dtype: Dtype::Float32,
        ..narrow.clone()
    };
    let layers = |request: &Request| plan(request).unwrap().offload(request)[0].layers;
    assert_eq!((layers(&narrow), layers(&wide)), (14, 7));
}
