//! Against f64 over ragged batches, scattered blocks, groups and head sizes; and the promise that
//! a row's bits do not depend on chunking, batch or threads.

use plimsoll_planner::Dtype;

use super::case::{Case, Given};
use super::*;
use crate::isa::Isa;
use crate::testing::{Random, assert_close};

#[test]
fn ragged_batches_are_exact_up_to_f32_rounding() {
    let mut random = Random::new(1);
    let sequences = [
        (1, 1),
        (1, 33),
        (7, 7),
        (1, 16),
        (5, 31),
        (33, 50),
        (0, 9),
        (1, 300),
        (2, 17),
    ];
    for (group, kv_heads, head_dim) in [
        (1, 2, 64),
        (2, 1, 80),
        (3, 3, 64),
        (4, 2, 16),
        (7, 1, 128),
        (9, 1, 96),
        (3, 1, 256),
        (2, 2, 6),
    ] {
        for (dtype, block_size, window) in [
            (Dtype::Float32, 16, None),
            (Dtype::BFloat16, 5, None),
            (Dtype::Float16, 32, Some(13)),
            (Dtype::Float32, 16, Some(1)),
        ] {
            let given = Given {
                dtype,
                kv_heads,
                group,
                head_dim,
                block_size,
                window,
            };
            let case = Case::new(&given, &sequences, &mut random);
            let exact = case.exact();
            for isa in Isa::available() {
                let out = case.run(isa, 2, &case.whole(), 0);
                let what = format!("{isa} {dtype} group {group} head {head_dim} window {window:?}");
                assert_close(&out, &exact.out, |at| exact.bounds[at], &what);
            }
        }
    }
}

#[test]
fn long_contexts_are_exact_shared_between_threads_or_not() {
    let mut random = Random::new(2);
    for window in [None, Some(300)] {
        let given = Given {
            dtype: Dtype::BFloat16,
            kv_heads: 2,
            group: 3,
            head_dim: 64,
            block_size: 16,
            window,
        };
        let case = Case::new(&given, &[(1, 1200), (2, 513), (1, 40)], &mut random);
        let exact = case.exact();
        for isa in Isa::available() {
            let alone = case.run(isa, 1, &case.whole(), 0);
            assert_close(
                &alone,
                &exact.out,
                |at| exact.bounds[at],
                &format!("{isa} {window:?}"),
            );
            // Enough scratch, some scratch, none: the same bits.
            for (threads, scratch) in [(2, 1 << 20), (3, 1 << 20), (3, 100), (2, 0)] {
                assert_eq!(
                    case.run(isa, threads, &case.whole(), scratch),
                    alone,
                    "{isa}"
                );
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_in_any_chunk_and_batch() {
    let mut random = Random::new(3);
    // Few rows read keys as they lie, many turn them: heads that are no whole blocks of either.
    for (dtype, window, head_dim) in [
        (Dtype::Float32, None, 64),
        (Dtype::BFloat16, Some(100), 64),
        (Dtype::BFloat16, None, 86),
        (Dtype::Float16, None, 48),
    ] {
        let given = Given {
            dtype,
            kv_heads: 2,
            group: 3,
            head_dim,
            block_size: 16,
            window,
        };
        let case = Case::new(&given, &[(290, 290), (61, 61)], &mut random);
        let row = case.row();
        for isa in Isa::available() {
            let whole = case.run(isa, 2, &case.whole(), 0);
            // Prefilled in chunks, next to another sequence, then decoded.
            let mut at = 0;
            for chunk in [1, 16, 37, 100, 129, 1, 1, 5] {
                let parts = [(1, 1, 61), (0, chunk, at + chunk)];
                let out = case.run(isa, 2, &parts, 1 << 20);
                assert_eq!(
                    out[..row],
                    whole[(290 + 60) * row..][..row],
                    "{isa} {dtype}"
                );
                assert_eq!(
                    out[row..],
                    whole[at * row..][..chunk * row],
                    "{isa} {dtype} at {at}"
                );
                at += chunk;
            }
            assert_eq!(at, 290);
        }
    }
}

#[test]
fn extreme_scores_stay_finite() {
    let mut random = Random::new(4);
    let given = Given {
        dtype: Dtype::Float32,
        kv_heads: 1,
        group: 1,
        head_dim: 64,
        block_size: 16,
        window: None,
    };
    let mut case = Case::new(&given, &[(3, 40)], &mut random);
    case.queries[0].iter_mut().for_each(|q| *q *= 1e4);
    for isa in Isa::available() {
        let out = case.run(isa, 1, &case.whole(), 0);
        assert!(
            out.iter().all(|value| value.abs() <= 2.0),
            "{isa}: a mean of values"
        );
    }
}

#[test]
fn no_heads_and_no_tokens_are_legal() {
    let shape = KvCache {
        dtype: Dtype::Float32,
        blocks: 1,
        block_size: 16,
        layers: 1,
        heads: 0,
        head_dim: 64,
    };
    let heads = Heads {
        query: 0,
        layer: 0,
        scale: 1.0,
        sliding_window: None,
    };
    let pool = Pool::new(2, Isa::detect()).unwrap();
    let batch = Batch {
        query_start: &[0, 1],
        context_len: &[1],
        block_tables: &[0],
        table_stride: 1,
    };
    let queries = Queries {
        data: &[],
        stride: 0,
    };
    run(
        &pool,
        queries,
        &heads,
        &batch,
        (&[], &shape),
        &mut [],
        &mut [],
    );
    let batch = Batch {
        query_start: &[0],
        context_len: &[],
        block_tables: &[],
        table_stride: 0,
    };
    run(
        &pool,
        queries,
        &heads,
        &batch,
        (&[], &shape),
        &mut [],
        &mut [],
    );
}

#[test]
#[should_panic(expected = "names a block past")]
fn a_block_past_the_cache_is_refused() {
    let given = Given {
        dtype: Dtype::Float32,
        kv_heads: 1,
        group: 1,
        head_dim: 16,
        block_size: 16,
        window: None,
    };
    let mut case = Case::new(&given, &[(1, 20)], &mut Random::new(5));
    case.tables[1] = 99;
    case.run(Isa::Scalar, 1, &case.whole(), 0);
}
