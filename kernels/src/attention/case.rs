//! For tests: a ragged batch over a scattered cache, and what attention gives on it in f64.
#![expect(clippy::cast_possible_truncation, reason = "test sizes are small")]

use std::ops::Range;

use plimsoll_planner::{Dtype, KvDtype};

use super::*;
use crate::encoding;
use crate::isa::Isa;
use crate::kv::Part;
use crate::testing::Random;

/// Sequences with their keys and values in scattered blocks of a poisoned cache.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) shape: KvCache,
    pub(super) heads: Heads,
    /// (new rows, context)
    pub(super) sequences: Vec<(usize, usize)>,
    pub(super) tables: Vec<u32>,
    pub(super) stride: usize,
    pub(super) cache: Vec<u8>,
    /// Query rows of every position of every sequence, `[sequence][position][query * dim]`.
    pub(super) queries: Vec<Vec<f32>>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Given {
    pub(super) dtype: Dtype,
    pub(super) kv_heads: usize,
    pub(super) group: usize,
    pub(super) head_dim: usize,
    pub(super) block_size: usize,
    pub(super) window: Option<u32>,
}

/// The arrays of a batch.
#[derive(Debug)]
pub(super) struct Laid {
    pub(super) query_start: Vec<u32>,
    pub(super) context_len: Vec<u32>,
    pub(super) tables: Vec<u32>,
    pub(super) data: Vec<f32>,
    pub(super) stride: usize,
    pub(super) tokens: usize,
}

/// What attention gives in f64, number by number.
#[derive(Debug, Default)]
pub(super) struct Exact {
    pub(super) out: Vec<f64>,
    /// Sums of weight x |value|: what relative errors are relative to.
    pub(super) sizes: Vec<f64>,
    /// The error that f32 may have.
    pub(super) bounds: Vec<f64>,
}

impl Case {
    pub(super) fn new(given: &Given, sequences: &[(usize, usize)], random: &mut Random) -> Case {
        let Given {
            dtype,
            kv_heads,
            group,
            head_dim,
            block_size,
            window,
        } = *given;
        let stride = sequences
            .iter()
            .map(|s| s.1.div_ceil(block_size))
            .max()
            .unwrap_or(0)
            + 1;
        let blocks = 1 + sequences.len() * stride;
        let shape = KvCache {
            dtype,
            blocks,
            block_size,
            layers: 2,
            heads: kv_heads,
            head_dim,
        };
        let mut free: Vec<u32> = (1..blocks as u32).collect();
        random.shuffle(&mut free);
        let mut cache = vec![0xFF; shape.bytes()];
        let mut tables = vec![0; sequences.len() * stride];
        let mut queries = Vec::new();
        for (s, (_, context)) in sequences.iter().enumerate() {
            for (block, entry) in tables[s * stride..][..context.div_ceil(block_size)]
                .iter_mut()
                .enumerate()
            {
                *entry = free[s * stride + block];
            }
            for j in 0..*context {
                let block = tables[s * stride + j / block_size] as usize;
                let slot = block * block_size + j % block_size;
                for head in 0..kv_heads {
                    for part in [Part::Keys, Part::Values] {
                        let row = &mut cache[shape.row(slot, 1, part, head)];
                        for d in 0..head_dim {
                            let at = d * shape.element_bytes();
                            encoding::store(dtype, row, at, random.value() * 2.0);
                        }
                    }
                }
            }
            queries.push(random.values(context * kv_heads * group * head_dim));
        }
        let heads = Heads {
            query: kv_heads * group,
            layer: 1,
            scale: 1.0 / (head_dim as f32).sqrt(),
            sliding_window: window,
        };
        Case {
            shape,
            heads,
            sequences: sequences.to_vec(),
            tables,
            stride,
            cache,
            queries,
        }
    }

    pub(super) fn row(&self) -> usize {
        self.heads.query * self.shape.head_dim
    }

    /// A batch of the sequences with other (rows, context) pairs than they have; between two query
    /// rows lie `gap` numbers that are none.
    pub(super) fn lay(&self, parts: &[(usize, usize, usize)], gap: usize) -> Laid {
        let mut laid = Laid {
            query_start: vec![0],
            context_len: Vec::new(),
            tables: Vec::new(),
            data: Vec::new(),
            stride: self.row() + gap,
            tokens: parts.iter().map(|(_, rows, _)| rows).sum(),
        };
        for (s, rows, context) in parts {
            let start = laid.query_start[laid.query_start.len() - 1];
            laid.query_start.push(start + *rows as u32);
            laid.context_len.push(*context as u32);
            laid.tables
                .extend(&self.tables[s * self.stride..][..self.stride]);
            for position in context - rows..*context {
                let row = &self.queries[*s][position * self.row()..][..self.row()];
                laid.data.extend(row);
                laid.data.extend(std::iter::repeat_n(f32::NAN, gap));
            }
        }
        laid
    }

    /// Runs the sequences with other (rows, context) pairs than they have.
    pub(super) fn run(
        &self,
        isa: Isa,
        threads: usize,
        parts: &[(usize, usize, usize)],
        scratch: usize,
    ) -> Vec<f32> {
        let cache = (self.cache.as_slice(), &self.shape);
        self.run_over(cache, (isa, threads), parts, scratch)
    }

    /// The same with the keys and values of another cache.
    pub(super) fn run_over<D: Copy + Into<KvDtype>>(
        &self,
        cache: (&[u8], &KvCache<D>),
        (isa, threads): (Isa, usize),
        parts: &[(usize, usize, usize)],
        scratch: usize,
    ) -> Vec<f32> {
        let laid = self.lay(parts, 3);
        let batch = Batch {
            query_start: &laid.query_start,
            context_len: &laid.context_len,
            block_tables: &laid.tables,
            table_stride: self.stride,
        };
        let queries = Queries {
            data: &laid.data,
            stride: laid.stride,
        };
        let mut out = vec![f32::NAN; laid.tokens * self.row()];
        let mut scratch = vec![f32::NAN; scratch];
        let pool = Pool::new(threads, isa).expect("a test asks for an ISA that is there");
        run(
            &pool,
            queries,
            &self.heads,
            &batch,
            cache,
            &mut out,
            &mut scratch,
        );
        out
    }

    pub(super) fn whole(&self) -> Vec<(usize, usize, usize)> {
        self.sequences
            .iter()
            .enumerate()
            .map(|(s, (rows, context))| (s, *rows, *context))
            .collect()
    }

    pub(super) fn exact(&self) -> Exact {
        let mut exact = Exact::default();
        let dim = self.shape.head_dim;
        for (s, (rows, context)) in self.sequences.iter().enumerate() {
            for position in context - rows..*context {
                for head in 0..self.heads.query {
                    let query = &self.queries[s][position * self.row() + head * dim..][..dim];
                    let first = self.first_seen(position);
                    self.exact_row(s, query, head, first..position + 1, &mut exact);
                }
            }
        }
        exact
    }

    /// The first key that a row at `position` sees.
    pub(super) fn first_seen(&self, position: usize) -> usize {
        let window = self.heads.sliding_window.map_or(usize::MAX, |w| w as usize);
        (position + 1).saturating_sub(window)
    }

    fn exact_row(
        &self,
        s: usize,
        query: &[f32],
        head: usize,
        keys: Range<usize>,
        exact: &mut Exact,
    ) {
        let dim = self.shape.head_dim;
        let kv_head = head / (self.heads.query / self.shape.heads);
        let numbers = |j: usize, part| -> Vec<f64> {
            let block = self.tables[s * self.stride + j / self.shape.block_size] as usize;
            let slot = block * self.shape.block_size + j % self.shape.block_size;
            let row = &self.cache[self.shape.row(slot, 1, part, kv_head)];
            let width = self.shape.element_bytes();
            (0..dim)
                .map(|d| f64::from(encoding::load(self.shape.dtype, row, d * width)))
                .collect()
        };
        let mut size = 0.0f64;
        let scores: Vec<f64> = keys
            .clone()
            .map(|j| {
                let products = numbers(j, Part::Keys).into_iter().zip(query);
                let products: Vec<f64> = products.map(|(k, q)| k * f64::from(*q)).collect();
                size = size.max(products.iter().map(|p| p.abs()).sum());
                products.iter().sum::<f64>() * f64::from(self.heads.scale)
            })
            .collect();
        let top = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - top).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let (mut out, mut sizes) = (vec![0.0; dim], vec![0.0; dim]);
        for (weight, j) in weights.iter().zip(keys.clone()) {
            for (d, value) in numbers(j, Part::Values).into_iter().enumerate() {
                out[d] += weight / sum * value;
                sizes[d] += weight / sum * value.abs();
            }
        }
        // A score is off by dim roundings of its products' size; that is the relative error of a
        // weight, next to the exponential's few units and one rounding per key added.
        let score_error = (dim as f64 + 8.0) * size * f64::from(self.heads.scale);
        let relative = (2.0 * score_error + keys.len() as f64 + 64.0) * 2f64.powi(-24);
        let bounds = sizes.iter().map(|size| size * relative + 1e-30);
        exact.bounds.extend(bounds);
        exact.out.extend(out);
        exact.sizes.extend(sizes);
    }
}
