//! Weights that a rank keeps in host memory and streams: `spec.memory.cpuOffload`.
//!
//! Whole layers are offloaded, of each the matrices (norms and biases stay: they are small), as many
//! as fit the bytes, spread evenly over the depth. A ring of [`RING_SLOTS`] slots in the rank's own
//! memory, each of one layer, is where they are computed with: while one is read, the next is copied
//! into the other. So a rank that offloads no more than the ring holds would gain nothing, and
//! offloads nothing.
//!
//! ```text
//! 5 layers, 3 offloaded:   0   [1]   2   [3]  [4]      [k]: streamed, in the order 1 3 4 1 3 4 …
//! the rank's own memory:  | all but matrices of 1, 3, 4 | slot | slot |
//! ```

use std::time::Duration;

use crate::bytes::Bytes;
use crate::request::{Backend, Request};
use crate::scratch::granule;
use crate::shard::{MLP_UNIT_COLUMNS, Shard};
use crate::weights::{self, WeightLayout};

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offload {
    /// Layers of the model.
    pub of: u32,
    /// Layers whose matrices lie in host memory; none of them where nothing is gained.
    pub layers: u32,
    /// Bytes of one layer's matrices.
    pub layer_bytes: Bytes,
    granule: Bytes,
}

impl Offload {
    /// What a rank with such layers offloads within `most` bytes.
    pub(crate) fn new(request: &Request, layer_bytes: Bytes) -> Offload {
        let granule = granule(request.backend);
        let most = request.cpu_offload.unwrap_or(Bytes::ZERO);
        // Host memory comes in whole granules, too.
        let most = most.get() - most.get() % granule.get();
        let all = request.shape.layers;
        let fit = match layer_bytes.get() {
            0 => 0,
            bytes => u32::try_from(most / bytes).map_or(all, |fit| fit.min(all)),
        };
        let gains = layer_bytes.saturating_mul(fit.into()) > ring(layer_bytes, granule);
        Offload {
            of: all,
            layers: if gains { fit } else { 0 },
            layer_bytes,
            granule,
        }
    }

    /// The place of a layer among the offloaded ones, if it is one. After i layers, i x layers / of
    /// are offloaded, rounded down: so they are spread as evenly as they can be.
    pub fn index(&self, layer: u32) -> Option<u32> {
        let before = |end: u32| u64::from(end) * u64::from(self.layers) / u64::from(self.of.max(1));
        let index = before(layer);
        (before(layer + 1) > index).then(|| u32::try_from(index).unwrap_or(u32::MAX))
    }

    /// Bytes in host memory, and of each step's stream.
    pub fn bytes(&self) -> Bytes {
        self.layer_bytes.saturating_mul(self.layers.into())
    }

    /// The account `Offload`.
    pub fn host(&self) -> Bytes {
        self.bytes().round_up(self.granule)
    }

    /// One slot of the ring, in whole granules: each is an area of its own.
    pub fn slot(&self) -> Bytes {
        match self.layers {
            0 => Bytes::ZERO,
            _ => self.layer_bytes.round_up(self.granule),
        }
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

fn ring(layer_bytes: Bytes, granule: Bytes) -> Bytes {
    layer_bytes.round_up(granule).saturating_mul(RING_SLOTS)
}

/// What one rank of a request offloads.
pub fn of(request: &Request, shard: &Shard) -> Offload {
    let layer = weights::layer_bytes(&request.shape, shard, request.kept());
    Offload::new(request, layer)
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
    let whole = weights::layer_bytes(shape, &Shard::whole(shape), kept);
    // A cut copies a KV head at most, and pads heads and columns once more: no more than the
    // smallest share takes.
    let least = Shard {
        kv_heads: 0..1,
        query_heads: 0..1,
        mlp_columns: 0..1,
        vocab_rows: 0..0,
    };
    let cut = weights::layer_bytes(shape, &least, kept).saturating_mul(ranks.saturating_sub(1));
    let all = (whole + cut).saturating_mul(shape.layers.into());
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
    let layer = weights::layer_bytes(shape, &part, request.kept());
    let granule = granule(request.backend);
    let layers = ring(layer, granule).get() / layer.get().max(1) + 1;
    let enough = layers <= u64::from(shape.layers);
    let bytes = layer.saturating_mul(layers).round_up(granule);
    (layer, enough.then_some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offload(layers: u32, of: u32) -> Offload {
        Offload {
            of,
            layers,
            layer_bytes: Bytes(100),
            granule: Bytes(64),
        }
    }

    #[test]
    fn offloaded_layers_are_counted_through_and_spread_evenly() {
        for of in 1..=40 {
            for layers in 0..=of {
                let offload = offload(layers, of);
                let chosen: Vec<u32> = (0..of).filter(|l| offload.index(*l).is_some()).collect();
                let indices: Vec<u32> = (0..of).filter_map(|l| offload.index(l)).collect();
                assert_eq!(
                    indices,
                    (0..layers).collect::<Vec<u32>>(),
                    "{layers} of {of}"
                );
                let gaps = chosen.windows(2).map(|pair| pair[1] - pair[0]);
                let (least, most) = gaps.fold((of, 0), |(l, m), gap| (l.min(gap), m.max(gap)));
                assert!(layers < 2 || most - least <= 1, "{chosen:?}");
            }
        }
        let chosen: Vec<u32> = (0..5)
            .filter(|l| offload(3, 5).index(*l).is_some())
            .collect();
        assert_eq!(chosen, [1, 3, 4]);
    }

    #[test]
    fn a_slot_is_whole_granules_and_nothing_where_nothing_is_offloaded() {
        assert_eq!(offload(3, 5).slot(), Bytes(128));
        assert_eq!(offload(3, 5).ring(), Bytes(256));
        assert_eq!(offload(3, 5).host(), Bytes(320));
        assert_eq!(offload(0, 5).ring(), Bytes::ZERO);
    }

    #[test]
    fn a_gigabyte_takes_a_quarter_of_a_second_by_a_copying_thread() {
        let offload = Offload {
            layer_bytes: Bytes(250_000_000),
            ..offload(4, 4)
        };
        assert_eq!(offload.time(Backend::Cpu), Duration::from_millis(250));
        assert_eq!(offload.time(Backend::Cuda), Duration::from_millis(50));
    }
}
