//! Weights that a rank keeps in host memory and streams: `spec.memory.cpuOffload`.
//!
//! Whole layers are offloaded, of each the matrices (norms and biases stay: they are small), as many
//! as fit the bytes, spread over the depth by halves ([`order`]). A ring of [`RING_SLOTS`] slots in the
//! rank's own memory, each of one layer, is where they are computed with: while one is read, the next
//! is copied into the other. So a rank that offloads no more than the ring holds would gain nothing,
//! and offloads nothing.
//!
//! ```text
//! 5 layers, 3 offloaded:  [0]   1   [2]   3   [4]      [k]: streamed, in the order 0 2 4 0 2 4 …
//! the rank's own memory:  | all but matrices of 0, 2, 4 | slot | slot |
//! ```

mod order;

use std::time::Duration;

use crate::bytes::Bytes;
use crate::request::{Backend, Request};
use crate::scratch::{Region, granule};
use crate::shard::{MLP_UNIT_COLUMNS, Shard};
use crate::weights::{self, WeightLayout};

pub(crate) use order::Order;

/// Layers that the ring holds.
pub const RING_SLOTS: u64 = 2;

/// Bytes that a second of streaming brings to one rank, for predictions: what a thread copies of
/// memory that is in no cache, or PCIe 4.0 with 16 lanes as it is in practice.
pub const fn bytes_per_second(backend: Backend) -> u64 {
    match backend {
        Backend::Cpu => 4_000_000_000,
        Backend::Cuda => 20_000_000_000,
    }
}

/// The offloaded layers of one rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offload {
    /// Layers of the model.
    pub of: u32,
    /// Layers whose matrices lie in host memory; none of them where nothing is gained.
    pub layers: u32,
    /// Where the matrices of each lie in the account `Offload`, and the layer's number, which rises.
    parts: Vec<(u32, Region)>,
    /// Of each slot of the ring.
    slot: Bytes,
    granule: Bytes,
}

impl Offload {
    /// The place of a layer among the offloaded ones, if it is one.
    pub fn index(&self, layer: u32) -> Option<u32> {
        let at = self
            .parts
            .binary_search_by_key(&layer, |(number, _)| *number);
        at.ok().and_then(|at| u32::try_from(at).ok())
    }

    /// The numbers of the offloaded layers, and where their matrices lie in the account `Offload`: one
    /// after the other.
    pub fn parts(&self) -> &[(u32, Region)] {
        &self.parts
    }

    /// Bytes in host memory, and of each step's stream.
    pub fn bytes(&self) -> Bytes {
        self.parts.iter().map(|(_, part)| Bytes(part.bytes)).sum()
    }

    /// The account `Offload`.
    pub fn host(&self) -> Bytes {
        self.bytes().round_up(self.granule)
    }

    /// One slot of the ring, in whole granules: each is an area of its own.
    pub fn slot(&self) -> Bytes {
        self.slot
    }

    /// The ring.
    pub fn ring(&self) -> Bytes {
        self.slot().saturating_mul(RING_SLOTS)
    }

    /// How long a step's stream takes where nothing else holds it up: the most that a step may wait
    /// for it. What is computed meanwhile is not waited for.
    pub fn time(&self, backend: Backend) -> Duration {
        let nanos = u128::from(self.bytes().get()) * 1_000_000_000;
        let nanos = nanos.div_ceil(bytes_per_second(backend).into());
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

/// What one rank of a request offloads.
pub fn of(request: &Request, shard: &Shard) -> Offload {
    let (shape, kept) = (&request.shape, request.kept());
    let sizes = weights::layer_sizes(shape, shard, kept);
    let order = Order::new(request);
    let size = |kind: usize| sizes[kind];
    let gone = order.gone(size);
    let mut end = 0;
    let part = |layer: u32| {
        let bytes = sizes[order.kind(layer)];
        let offset = end;
        end += bytes;
        (layer, Region { offset, bytes })
    };
    Offload {
        of: shape.layers,
        layers: u32::try_from(gone.layers).unwrap_or(u32::MAX),
        parts: order.layers(gone).into_iter().map(part).collect(),
        slot: match gone.layers {
            0 => Bytes::ZERO,
            _ => order.slot(size),
        },
        granule: granule(request.backend),
    }
}

/// Where every tensor of a rank lies, offloaded ones in the account `Offload`.
pub fn layout(request: &Request, shard: &Shard, rank: u32) -> WeightLayout {
    let offload = of(request, shard);
    let goes = |layer| offload.index(layer).is_some();
    weights::offloaded(&request.shape, shard, request.kept(), rank, goes)
}

/// The most host memory that all ranks together can take, however the model is split: what is asked
/// for, or all matrices, with what cutting them adds.
pub(crate) fn most_host(request: &Request) -> Bytes {
    let Some(asked) = request.cpu_offload else {
        return Bytes::ZERO;
    };
    let ranks = u64::from(request.rank_count());
    let (shape, kept) = (&request.shape, request.kept());
    // A cut copies a KV head at most, and pads heads and columns once more: no more than the
    // smallest share takes.
    let least = Shard {
        kv_heads: 0..1,
        query_heads: 0..1,
        mlp_columns: 0..1,
        vocab_rows: 0..0,
    };
    let of = |shard: &Shard| -> Bytes {
        let sizes = weights::layer_sizes(shape, shard, kept).into_iter();
        let kinds = kept.kinds(shape.layers).into_iter().map(|(_, count)| count);
        let all = sizes.zip(kinds);
        all.map(|(size, count)| Bytes(size).saturating_mul(count.into()))
            .sum()
    };
    let cut = of(&least).saturating_mul(ranks.saturating_sub(1));
    let all = of(&Shard::whole(shape)) + cut;
    let granules = granule(request.backend).saturating_mul(ranks);
    asked.saturating_mul(ranks).min(all + granules)
}

/// The fewest bytes that offload anything on a rank that has an even part of each layer (of the
/// larger ones where parts cannot be equal), and that part of a layer. `None`: no bytes would, as
/// the model has hardly more layers than the ring.
pub(crate) fn least(request: &Request) -> (Bytes, Option<Bytes>) {
    let shape = &request.shape;
    let ranks = request.rank_count().max(1);
    let groups = shape.kv_heads.div_ceil(ranks);
    let queries = match ranks > shape.kv_heads {
        true => shape.query_heads.div_ceil(ranks),
        false => groups * shape.group(),
    };
    let units = shape.ffn.div_ceil(MLP_UNIT_COLUMNS).div_ceil(ranks);
    let part = Shard {
        kv_heads: 0..groups,
        query_heads: 0..queries,
        mlp_columns: 0..(units * MLP_UNIT_COLUMNS).min(shape.ffn),
        vocab_rows: 0..0,
    };
    let sizes = weights::layer_sizes(shape, &part, request.kept());
    let enough = Order::new(request).least(|kind| sizes[kind]);
    let largest = sizes.into_iter().max().unwrap_or_default();
    let bytes = enough.map(|gone| Bytes(gone.bytes).round_up(granule(request.backend)));
    (Bytes(largest), bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offload(layers: u32, of: u32, bytes: u64) -> Offload {
        let part = |layer: u32| {
            (
                layer,
                Region {
                    offset: u64::from(layer) * bytes,
                    bytes,
                },
            )
        };
        Offload {
            of,
            layers,
            parts: (0..layers).map(part).collect(),
            slot: Bytes(bytes).round_up(Bytes(64)),
            granule: Bytes(64),
        }
    }

    #[test]
    fn ring_and_host_memory_are_whole_granules() {
        assert_eq!(offload(3, 5, 100).slot(), Bytes(128));
        assert_eq!(offload(3, 5, 100).ring(), Bytes(256));
        assert_eq!(offload(3, 5, 100).host(), Bytes(320));
    }

    #[test]
    fn a_gigabyte_takes_a_quarter_of_a_second_by_a_copying_thread() {
        let offload = offload(4, 4, 250_000_000);
        assert_eq!(offload.time(Backend::Cpu), Duration::from_millis(250));
        assert_eq!(offload.time(Backend::Cuda), Duration::from_millis(50));
    }
}
