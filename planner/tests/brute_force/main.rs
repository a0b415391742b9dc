//! The planner against an oracle that tries every split: up to 3 ranks, 8 KV-head groups.

mod oracle;
#[path = "../samples/mod.rs"]
mod samples;
mod sizes;

use std::cell::Cell;

use oracle::{best, blocks_wanted, fits, score};
use plimsoll_planner::{
    Architecture, Backend, BlockCompute, Bytes, Dtype, KvDtype, KvLayout, Limits, ModelBlocks,
    ModelShape, Plan, Quantization, RankCapacity, Request, Shard, Utilization, plan, refit,
    scratch,
};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use samples::random::{in_blocks, percent_of_matrices, sensible, slots};

fn check(request: &Request) -> Result<Option<Plan>, TestCaseError> {
    let expected = best(request);
    let planned = plan(request);
    let Some(expected) = expected else {
        prop_assert!(planned.is_err(), "no split fits, yet {planned:?}");
        return Ok(None);
    };
    let planned = planned.map_err(|refusal| {
        TestCaseError::fail(format!(
            "a split fits ({expected:?}), yet {}",
            refusal.message()
        ))
    })?;
    let shards: Vec<Shard> = planned
        .ranks
        .iter()
        .map(|rank| rank.shard.clone())
        .collect();
    let blocks = u64::from(planned.kv_blocks) - 1;
    prop_assert!(fits(request, &shards, blocks), "does not fit: {planned:?}");
    prop_assert!(
        !fits(request, &shards, blocks + 1),
        "leaves room: {planned:?}"
    );
    let counted = blocks.min(blocks_wanted(request));
    let score = score(request, &shards, counted);
    prop_assert_eq!(score.blocks, expected.blocks, "{:?}", &planned);
    let least = expected.step_bytes;
    prop_assert!(
        (least..=least + least / 128).contains(&score.step_bytes),
        "{planned:?}"
    );
    prop_assert_eq!(score.even, expected.even, "{:?}", &planned);
    let steps = planned
        .step_bytes(request)
        .into_iter()
        .map(Bytes::get)
        .max();
    prop_assert_eq!(steps, Some(score.step_bytes));
    Ok(Some(planned))
}

/// Of some pages; of a card some granules beside what its driver takes.
fn quota(backend: Backend, ranks: usize, pages: u64) -> Bytes {
    Bytes::measured(match backend {
        Backend::Cpu => pages * sizes::granule(backend),
        Backend::Cuda => {
            sizes::driver(backend, ranks as u64) * 10 / 9 + pages / 8 * sizes::granule(backend)
        }
    })
}

prop_compose! {
    fn requests()(
        ranks in 1usize..=3,
        (kv_heads, group) in (1u32..=8, 1u32..=4),
        (layers, hidden) in (
            prop_oneof![3 => 1u32..=2, 1 => 3u32..=6],
            prop::sample::select(vec![40u32, 64, 96, 256]),
        ),
        (ffn, head_dim) in (
            prop::sample::select(vec![100u32, 128, 256, 300, 384, 512]),
            prop::sample::select(vec![8u32, 8, 32]),
        ),
        vocab in prop::sample::select(vec![50u32, 64, 100, 192, 250]),
        (flags, stored) in (any::<[bool; 6]>(), prop::option::weighted(0.4, any::<u64>())),
        (float32, on_card) in (any::<bool>(), prop::bool::weighted(0.25)),
        max_model_len in prop::option::of(1u32..=300),
        max_num_seqs in 1u32..=3,
        size in prop::option::weighted(0.2, 1u64..60),
        pages in prop::collection::vec(20u64..220, 3),
        (offload, adapters) in (
            prop::option::weighted(0.7, 1u64..=110),
            prop::option::weighted(0.3, (1u32..=2, 1u32..=9)),
        ),
    )(
        query_heads in Just(if ranks == 3 { kv_heads.min(3) * group } else { kv_heads * group }),
        kv_heads in Just(if ranks == 3 { kv_heads.min(3) } else { kv_heads }),
        ranks in Just(ranks), layers in Just(layers), hidden in Just(hidden), ffn in Just(ffn),
        head_dim in Just(head_dim),
        vocab in Just(vocab), flags in Just(flags), stored in Just(stored), float32 in Just(float32), on_card in Just(on_card),
        max_model_len in Just(max_model_len), max_num_seqs in Just(max_num_seqs),
        size in Just(size), pages in Just(pages),
        (offload, adapters) in Just((offload, adapters)),
    ) -> Request {
        let [tied, qkv_bias, output_bias, mlp_bias, qk_norm, totals] = flags;
        let shape = ModelShape {
            architecture: Architecture::Llama,
            layers, hidden, query_heads, kv_heads, head_dim, ffn, vocab,
            tied, qkv_bias, output_bias, mlp_bias, qk_norm, context: 300,
            blocks: ModelBlocks::default(),
        };
        let dtype = if float32 { Dtype::Float32 } else { Dtype::BFloat16 };
        let deeper = u64::from(layers).div_ceil(2);
        let backend = if on_card { Backend::Cuda } else { Backend::Cpu };
        let shape = in_blocks(shape, stored.filter(|_| !on_card));
        let compute = match max_num_seqs % 3 {
            0 if !shape.blocks.is_empty() => BlockCompute::Int8,
            1 if !shape.blocks.is_empty() => BlockCompute::Int16,
            _ => BlockCompute::Auto,
        };
        let request = Request {
            cpu_offload: None,
        adapters: slots(adapters),
            shape,
            backend,
            dtype,
            quantization: match pages[2] % 5 {
                _ if on_card => Quantization::Auto,
                0 => Quantization::Int4By128,
                1 => Quantization::Int4,
                _ => Quantization::Auto,
            },
            compute,
            kv: KvLayout {
                dtype: if qkv_bias && !on_card { KvDtype::Int8 } else { KvDtype::BFloat16 },
                block_size: 16,
                size: size.map(|pages| Bytes::measured(pages * sizes::granule(backend))),
            },
            // A card's accounts are whole granules of 2 MiB: enough rows to take some.
            limits: Limits { max_model_len, max_num_seqs, max_num_batched_tokens: if on_card { 4096 } else { 8 } },
            utilization: Utilization(900),
            ranks: (0..ranks)
                .map(|rank| {
                    let bytes = Some(quota(backend, ranks, pages[rank] * deeper));
                    let (quota, total) = if totals { (None, bytes) } else { (bytes, None) };
                    RankCapacity { quota, total }
                })
                .collect(),
        };
        let offloaded = |percent| percent_of_matrices(&request.shape, request.kept(), percent);
        sensible(Request { cpu_offload: offload.map(offloaded), ..request.clone() })
    }
}

#[test]
fn accounts_without_a_model_are_the_sizes_of_what_ops_read_and_write() {
    let cases = (requests(), 1u32..=300);
    let config = ProptestConfig::with_cases(2048);
    let outcome = TestRunner::new(config).run(&cases, |(request, context)| {
        let ModelShape {
            kv_heads,
            ffn,
            vocab,
            ..
        } = request.shape;
        let (half, group) = (kv_heads.div_ceil(2), request.shape.group());
        for shard in [
            Shard::whole(&request.shape),
            Shard {
                kv_heads: 0..half,
                query_heads: 0..half * group,
                mlp_columns: 0..ffn / 2,
                vocab_rows: 0..vocab / 2,
            },
            Shard {
                kv_heads: 0..0,
                query_heads: 0..0,
                mlp_columns: 0..0,
                vocab_rows: 0..0,
            },
        ] {
            let activations = scratch::activations(&request, &shard).total();
            prop_assert_eq!(activations.get(), sizes::activations(&request, &shard));
            let workspaces = scratch::workspaces(&request, &shard, context).total();
            prop_assert_eq!(
                workspaces.get(),
                sizes::workspaces(&request, &shard, context)
            );
        }
        let comm = scratch::comm(&request.shape, &request.limits, request.rank_count()).total();
        prop_assert_eq!(comm.get(), sizes::comm(&request));
        Ok(())
    });
    outcome.unwrap();
}

#[test]
fn every_plan_is_the_best_of_all_splits_and_every_refusal_is_true() {
    // Planned and refused, on the CPU and on cards.
    let counts = [0; 4].map(Cell::new);
    let config = ProptestConfig {
        cases: 256,
        ..ProptestConfig::default()
    };
    let outcome = TestRunner::new(config).run(&requests(), |request| {
        let is_refused = check(&request)?.is_none();
        let on_card = request.backend == Backend::Cuda;
        let count = &counts[usize::from(is_refused) + 2 * usize::from(on_card)];
        count.set(count.get() + 1);
        Ok(())
    });
    outcome.unwrap();
    let counts = counts.map(Cell::into_inner);
    let enough = [40, 20, 12, 4];
    assert!(
        counts
            .iter()
            .zip(enough)
            .all(|(count, least)| *count >= least),
        "planned and refused, without a card and with one: {counts:?}; nothing was tried"
    );
}

/// The widest case of the property, written out: 8 groups on 3 ranks of unequal quotas.
/// The most blocks that a split which stands leaves room for, found by stepping; `None` where not
/// even one sequence of `context` tokens fits.
fn stepped(request: &Request, shards: &[Shard], context: u32) -> Option<u64> {
    let at = |blocks: u64| {
        let grown = u32::try_from(blocks * 16).unwrap_or(u32::MAX).min(300);
        let mut fixed = request.clone();
        let asked = request.limits.max_model_len;
        fixed.limits.max_model_len = Some(asked.unwrap_or(grown.max(context)));
        fits(&fixed, shards, blocks)
    };
    let mut blocks = u64::from(context).div_ceil(16);
    at(blocks).then_some(())?;
    while at(blocks + 1) {
        blocks += 1;
    }
    Some(blocks)
}

#[test]
fn a_split_that_stands_holds_all_that_other_budgets_leave() {
    let (held, refused) = (Cell::new(0), Cell::new(0));
    let config = ProptestConfig {
        cases: 512,
        ..ProptestConfig::default()
    };
    let budgets = prop::collection::vec(20u64..260, 3);
    let size = prop::option::weighted(0.2, 1u64..60);
    let cases = (requests(), budgets, size);
    let outcome = TestRunner::new(config).run(&cases, |(request, pages, size)| {
        let Ok(before) = plan(&request) else {
            return Ok(());
        };
        let shards: Vec<Shard> = before.ranks.iter().map(|rank| rank.shard.clone()).collect();
        let own = refit(&request, &shards, before.max_model_len);
        prop_assert_eq!(own.as_ref(), Ok(&before));
        let mut other = request.clone();
        let granule = sizes::granule(request.backend);
        other.kv.size = size.map(|pages| Bytes::measured(pages * granule));
        let ranks = other.ranks.len();
        for (rank, pages) in other.ranks.iter_mut().zip(&pages) {
            let bytes = |_| quota(request.backend, ranks, *pages);
            (rank.quota, rank.total) = (rank.quota.map(bytes), rank.total.map(bytes));
        }
        let after = refit(&other, &shards, before.max_model_len);
        let expected = stepped(&other, &shards, before.max_model_len);
        let count = if after.is_ok() { &held } else { &refused };
        count.set(count.get() + 1);
        let blocks = after.as_ref().map(|plan| u64::from(plan.kv_blocks) - 1);
        prop_assert_eq!(blocks.ok(), expected, "{:?}", after);
        Ok(())
    });
    outcome.unwrap();
    let counts = (held.get(), refused.get());
    assert!(
        counts.0 >= 50 && counts.1 >= 25,
        "held and refused {counts:?}: nothing was tried"
    );
}

#[test]
fn eight_groups_on_three_unequal_ranks() {
    let shape = ModelShape {
        architecture: Architecture::Llama,
        layers: 2,
        hidden: 64,
        query_heads: 16,
        kv_heads: 8,
        head_dim: 8,
        ffn: 384,
        vocab: 250,
        tied: false,
        qkv_bias: true,
        output_bias: true,
        mlp_bias: true,
        qk_norm: true,
        context: 512,
        blocks: ModelBlocks::default(),
    };
    let quotas = [600, 1600, 1100].map(|pages| pages * 4096);
    let mut request = samples::request(shape, Backend::Cpu, &quotas);
    request.limits.max_num_seqs = 64;
    request.limits.max_num_batched_tokens = 8;
    let plan = check(&request).unwrap().expect("fits");
    let heads: Vec<u32> = plan
        .ranks
        .iter()
        .map(|rank| rank.shard.kv_head_count())
        .collect();
    assert_eq!(heads.iter().sum::<u32>(), 8);
    assert!(heads[0] < heads[2] && heads[2] < heads[1], "{heads:?}");
}
