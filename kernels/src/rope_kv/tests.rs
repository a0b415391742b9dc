//! Against f64: norm, rotation and the bytes of the cache, for awkward head sizes and scattered
//! slots.
#![expect(clippy::cast_possible_truncation, reason = "test sizes are small")]

use plimsoll_planner::{Dtype, KvDtype};

use super::*;
use crate::encoding;
use crate::isa::Isa;
use crate::kv::Part;
use crate::rope::{self, RopeParams, RopeScaling};
use crate::testing::{Random, assert_close};

struct Case {
    shape: KvCache<KvDtype>,
    query_heads: usize,
    qkv: Vec<f32>,
    positions: Vec<u32>,
    slots: Vec<u64>,
    norm: Option<(Vec<f32>, Vec<f32>)>,
}

const EPS: f32 = 1e-6;
const POSITIONS: usize = 200;

impl Case {
    fn new(
        head_dim: usize,
        group: usize,
        tokens: usize,
        dtype: KvDtype,
        random: &mut Random,
    ) -> Case {
        let (heads, blocks, block_size) = (3, 9, 5);
        let shape = KvCache {
            dtype,
            blocks,
            block_size,
            layers: 2,
            heads,
            head_dim,
        };
        let mut slots: Vec<u64> = (0..(blocks * block_size) as u64).collect();
        random.shuffle(&mut slots);
        slots.truncate(tokens);
        // A row of several fills up the batch.
        if tokens > 1 {
            slots[tokens / 2] = NO_SLOT;
        }
        let norm =
            (tokens.is_multiple_of(2)).then(|| (random.values(head_dim), random.values(head_dim)));
        Case {
            shape,
            query_heads: heads * group,
            qkv: random.values(tokens * heads * (group + 2) * head_dim),
            positions: (0..tokens)
                .map(|_| random.below(POSITIONS) as u32)
                .collect(),
            slots,
            norm,
        }
    }

    /// One head of one token as it should be.
    fn exact(&self, row: &[f32], weight: Option<&Vec<f32>>, cos: &[f32], sin: &[f32]) -> Vec<f64> {
        let mut row: Vec<f64> = row.iter().map(|v| f64::from(*v)).collect();
        if let Some(weight) = weight {
            let squares: f64 = row.iter().map(|v| v * v).sum();
            let scale = 1.0 / (squares / row.len() as f64 + f64::from(EPS)).sqrt();
            row.iter_mut()
                .zip(weight)
                .for_each(|(v, w)| *v *= scale * f64::from(*w));
        }
        let half = row.len() / 2;
        for i in 0..half {
            let (a, b) = (row[i], row[i + half]);
            let (cos, sin) = (f64::from(cos[i]), f64::from(sin[i]));
            row[i] = a * cos - b * sin;
            row[i + half] = b * cos + a * sin;
        }
        row
    }

    fn check(&self, isa: Isa, threads: usize) {
        let dim = self.shape.head_dim;
        let (mut cos, mut sin) = (
            vec![0.0; POSITIONS * dim / 2],
            vec![0.0; POSITIONS * dim / 2],
        );
        let params = RopeParams {
            theta: 10_000.0,
            scaling: RopeScaling::Default,
        };
        let pool = Pool::new(threads, isa).unwrap();
        rope::table(&pool, &params, dim, &mut cos, &mut sin);
        let mut qkv = self.qkv.clone();
        let mut cache = vec![0xFF; self.shape.bytes()];
        let step = Step {
            query_heads: self.query_heads,
            layer: 1,
            norm: self.norm.as_ref().map(|(query, key)| HeadNorm {
                query,
                key,
                eps: EPS,
            }),
            tables: RopeTables {
                cos: &cos,
                sin: &sin,
            },
            positions: &self.positions,
            slots: &self.slots,
        };
        run(
            &Pool::new(threads, isa).unwrap(),
            &mut qkv,
            &step,
            &mut cache,
            &self.shape,
        );
        let heads = self.query_heads + 2 * self.shape.heads;
        let what = format!("{isa} head size {dim}");
        // A norm's scale is good to dim / 64 + 8 roundings, a rotation to 3.
        let tolerance = |_: usize| (dim as f64 / 64.0 + 16.0) * 4.0 * 6e-8;
        let mut written = 0;
        for (at, row) in self.qkv.chunks_exact(dim).enumerate() {
            let (token, head) = (at / heads, at % heads);
            let angle = self.positions[token] as usize * dim / 2;
            let (cos, sin) = (&cos[angle..], &sin[angle..]);
            let now = &qkv[at * dim..][..dim];
            let norm = self.norm.as_ref();
            let (part, kv_head) = if head < self.query_heads {
                let exact = self.exact(row, norm.map(|norm| &norm.0), cos, sin);
                assert_close(now, &exact, tolerance, &what);
                continue;
            } else if head < self.query_heads + self.shape.heads {
                let exact = self.exact(row, norm.map(|norm| &norm.1), cos, sin);
                assert_close(now, &exact, tolerance, &what);
                (Part::Keys, head - self.query_heads)
            } else {
                assert_eq!(now, row, "v stays as it is");
                (Part::Values, head - self.query_heads - self.shape.heads)
            };
            if self.slots[token] == NO_SLOT {
                continue;
            }
            let slot = self.slots[token] as usize;
            let kept = &cache[self.shape.row(slot, 1, part, kv_head)];
            let scale = self
                .shape
                .scale(slot, 1, part, kv_head)
                .map(|at| &cache[at]);
            let (expected, factor) = kept_as(self.shape.dtype, now);
            assert_eq!(kept, expected, "{what}: the cache holds the row, rounded");
            assert_eq!(scale, factor.as_ref().map(<[u8; 4]>::as_slice), "{what}");
            written += kept.len() + scale.map_or(0, <[u8]>::len);
        }
        let poisoned = cache.iter().filter(|byte| **byte == 0xFF).count();
        assert!(
            poisoned + written >= cache.len(),
            "{what}: nothing else is written"
        );
    }
}

/// What a cache holds of a head of a token: numbers, and what integers are multiples of.
fn kept_as(dtype: KvDtype, row: &[f32]) -> (Vec<u8>, Option<[u8; 4]>) {
    if let Some(float) = dtype.float() {
        let width = encoding::bytes_of(float);
        let mut bytes = vec![0; row.len() * width];
        for (i, value) in row.iter().enumerate() {
            encoding::store(float, &mut bytes, i * width, *value);
        }
        return (bytes, None);
    }
    let largest = row.iter().fold(0.0, |most: f32, x| most.max(x.abs()));
    let scale = match () {
        () if row.iter().any(|x| !x.is_finite()) => f32::NAN,
        () if largest < 127.0 * f32::MIN_POSITIVE => 0.0,
        () => largest / 127.0,
    };
    let is_positive = scale > 0.0;
    let integer = |x: &f32| match is_positive {
        true => ((x * (1.0 / scale)).round_ties_even() as i8).cast_unsigned(),
        false => 0,
    };
    (row.iter().map(integer).collect(), Some(scale.to_le_bytes()))
}

/// Values of one head as a cache of integers gives them back.
fn given_back(row: &[f32], isa: Isa) -> Vec<f32> {
    let shape = KvCache {
        dtype: KvDtype::Int8,
        blocks: 1,
        block_size: 1,
        layers: 1,
        heads: 1,
        head_dim: row.len(),
    };
    let half = row.len() / 2;
    let (cos, sin) = (vec![1.0; half], vec![0.0; half]);
    let step = Step {
        query_heads: 0,
        layer: 0,
        norm: None,
        tables: RopeTables {
            cos: &cos,
            sin: &sin,
        },
        positions: &[0],
        slots: &[0],
    };
    let mut cache = vec![0xFF; shape.bytes()];
    let mut qkv: Vec<f32> = [vec![0.0; row.len()], row.to_vec()].concat();
    run(
        &Pool::new(1, isa).unwrap(),
        &mut qkv,
        &step,
        &mut cache,
        &shape,
    );
    let scale = shape.scale(0, 0, Part::Values, 0).unwrap();
    let scale = encoding::load(Dtype::Float32, &cache[scale], 0);
    let integers = cache[shape.row(0, 0, Part::Values, 0)].iter();
    integers
        .map(|byte| f32::from(byte.cast_signed()) * scale)
        .collect()
}

#[test]
fn integers_are_within_half_a_step_and_nothing_that_is_no_number_is_hidden() {
    let mut random = Random::new(3);
    for isa in Isa::available() {
        for dim in [2, 6, 16, 64, 80] {
            for size in [1e-30f32, 1e-3, 1.0, 1e30] {
                let row: Vec<f32> = random.values(dim).iter().map(|x| x * size).collect();
                let largest = row.iter().fold(0.0, |most: f32, x| most.max(x.abs()));
                for (x, back) in row.iter().zip(given_back(&row, isa)) {
                    let off = (x - back).abs();
                    assert!(
                        off <= largest / 254.0 * 1.001,
                        "{isa}: {x} came back as {back}"
                    );
                }
                for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    let mut row = row.clone();
                    row[dim - 1] = bad;
                    assert!(
                        given_back(&row, isa).iter().all(|x| x.is_nan()),
                        "{isa} {bad}"
                    );
                }
            }
            let small = given_back(&vec![1e-38; dim], isa);
            assert!(small.iter().all(|x| *x == 0.0), "{isa}: {small:?}");
        }
        let most = given_back(&[3.4e38, -3.4e38], isa);
        assert!(most.iter().all(|x| x.is_finite()), "{isa}: {most:?}");
    }
}

#[test]
fn q_k_and_the_cache_are_as_the_formula_says() {
    let mut random = Random::new(1);
    for (head_dim, group) in [
        (16, 1),
        (64, 3),
        (80, 2),
        (96, 4),
        (128, 7),
        (256, 9),
        (6, 2),
    ] {
        for tokens in [1, 2, 11, 44] {
            for dtype in [
                KvDtype::Float32,
                KvDtype::BFloat16,
                KvDtype::Float16,
                KvDtype::Int8,
            ] {
                let case = Case::new(head_dim, group, tokens, dtype, &mut random);
                for isa in Isa::available() {
                    case.check(isa, 1 + tokens % 3);
                }
            }
        }
    }
}

#[test]
#[should_panic(expected = "a slot passes")]
fn a_slot_past_the_cache_is_refused() {
    let mut case = Case::new(16, 1, 2, KvDtype::Float32, &mut Random::new(2));
    case.slots[1] = 45;
    case.check(Isa::Scalar, 1);
}
