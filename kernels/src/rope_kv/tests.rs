//! Against f64: norm, rotation and the bytes of the cache, for awkward head sizes and scattered
//! slots.
#![expect(clippy::cast_possible_truncation, reason = "test sizes are small")]

use plimsoll_planner::Dtype;

use super::*;
use crate::encoding;
use crate::isa::Isa;
use crate::kv::Part;
use crate::rope::{self, RopeParams, RopeScaling};
use crate::testing::{Random, assert_close};

struct Case {
    shape: KvCache,
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
        dtype: Dtype,
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
            let slot = self.slots[token] as usize;
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
            let kept = &cache[self.shape.row(slot, 1, part, kv_head)];
            let mut expected = vec![0; kept.len()];
            for (i, value) in now.iter().enumerate() {
                let at = i * self.shape.element_bytes();
                encoding::store(self.shape.dtype, &mut expected, at, *value);
            }
            assert_eq!(kept, expected, "{what}: the cache holds the row, rounded");
            written += kept.len();
        }
        let poisoned = cache.iter().filter(|byte| **byte == 0xFF).count();
        assert!(
            poisoned + written >= cache.len(),
            "{what}: nothing else is written"
        );
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
            for dtype in [Dtype::Float32, Dtype::BFloat16, Dtype::Float16] {
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
    let mut case = Case::new(16, 1, 2, Dtype::Float32, &mut Random::new(2));
    case.slots[1] = 45;
    case.check(Isa::Scalar, 1);
}
