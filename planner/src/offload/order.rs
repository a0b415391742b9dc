//! In which order layers leave for host memory, and how many of them fit.
//!
//! Layers may be stored differently (Q4_K_M has two kinds), so which of them go decides how many. The
//! layers that go with fewer bytes are among those that go with more: with a larger share of the model
//! a rank never has less left on its own side, which the search for a split counts on.

use super::RING_SLOTS;
use crate::bytes::Bytes;
use crate::request::Request;
use crate::scratch::granule;

/// The layers of a model in the order in which they go.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    layers: Vec<u32>,
    /// The kind of each layer of the model ([`crate::stored::Kept::kinds`]).
    kinds: Vec<usize>,
    /// Of the first n layers that go, how many are of each kind.
    counts: Vec<Vec<u64>>,
    /// Bytes that may go, in whole granules.
    most: u64,
    granule: Bytes,
}

/// What goes of a rank whose layers have certain sizes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gone {
    pub(crate) layers: usize,
    pub(crate) bytes: u64,
    pub(crate) ring: u64,
}

impl Order {
    /// Of a request; nothing goes where it names no bytes.
    pub(crate) fn new(request: &Request) -> Order {
        let of = request.shape.layers;
        let kept = request.kept();
        let all = kept.kinds(of);
        let kind = |layer: u32| {
            let same = |(at, _): &(u32, u32)| kept.layer(*at) == kept.layer(layer);
            all.iter().position(same).unwrap_or_default()
        };
        let kinds: Vec<usize> = (0..of).map(kind).collect();
        let bytes = request.cpu_offload.unwrap_or_default().get();
        order_of(kinds, all.len(), bytes, granule(request.backend))
    }
    /// What goes where layers of each kind have these bytes: as many as fit, or none where the ring,
    /// whose slots hold the largest, takes as much.
    pub(crate) fn gone(&self, size: impl Fn(usize) -> u64 + Copy) -> Gone {
        let fit = self.counts.partition_point(|n| bytes(n, size) <= self.most) - 1;
        let gone = self.first(fit, size);
        match gone.bytes > gone.ring {
            true => gone,
            false => Gone::default(),
        }
    }

    /// The fewest layers that gain anything.
    pub(crate) fn least(&self, size: impl Fn(usize) -> u64 + Copy) -> Option<Gone> {
        let of = |fit| self.first(fit, size);
        (0..self.counts.len())
            .map(of)
            .find(|gone| gone.bytes > gone.ring)
    }

    /// Which of the sizes is that of a layer.
    pub(crate) fn kind(&self, layer: u32) -> usize {
        self.kinds[layer as usize]
    }

    /// The numbers of the first layers that go, in the order of the model.
    pub(crate) fn layers(&self, gone: Gone) -> Vec<u32> {
        let mut layers = self.layers[..gone.layers].to_vec();
        layers.sort_unstable();
        layers
    }

    fn first(&self, layers: usize, size: impl Fn(usize) -> u64 + Copy) -> Gone {
        Gone {
            layers,
            bytes: bytes(&self.counts[layers], size),
            ring: self.slot(size).saturating_mul(RING_SLOTS).get(),
        }
    }

    /// Bytes of one slot of the ring: of the largest layer, in whole granules.
    pub(crate) fn slot(&self, size: impl Fn(usize) -> u64 + Copy) -> Bytes {
        let largest = (0..self.counts[0].len())
            .map(size)
            .max()
            .unwrap_or_default();
        Bytes(largest).round_up(self.granule)
    }
}

/// Of layers of these kinds, of which there are so many.
fn order_of(kinds: Vec<usize>, count: usize, most: u64, granule: Bytes) -> Order {
    let of = u32::try_from(kinds.len()).unwrap_or(u32::MAX);
    let mut layers: Vec<u32> = (0..of).collect();
    // By the bits of their distance from the end, turned: halves, then quarters between them.
    layers.sort_by_key(|layer| (of - 1 - layer).reverse_bits());
    let mut counts = vec![vec![0; count]];
    for layer in &layers {
        let mut with = counts.last().cloned().unwrap_or_default();
        with[kinds[*layer as usize]] += 1;
        counts.push(with);
    }
    Order {
        layers,
        kinds,
        counts,
        // Host memory comes in whole granules, too.
        most: most - most % granule.get(),
        granule,
    }
}

fn bytes(counts: &[u64], size: impl Fn(usize) -> u64 + Copy) -> u64 {
    let of = |(kind, count): (usize, &u64)| count.saturating_mul(size(kind));
    let all = counts.iter().enumerate().map(of);
    all.fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(of: u32, kinds: &[usize], most: u64) -> Order {
        order_of(
            (0..of)
                .map(|layer| kinds[layer as usize % kinds.len()])
                .collect(),
            2,
            most,
            Bytes(64),
        )
    }

    #[test]
    fn layers_that_go_are_spread_and_more_of_them_are_the_same_and_others() {
        for of in 1..=40 {
            let order = order(of, &[0], u64::MAX);
            let mut before: Vec<u32> = Vec::new();
            for layers in 0..=of as usize {
                let chosen = order.layers(order.first(layers, |_| 1));
                assert_eq!(chosen.len(), layers);
                assert!(
                    before.iter().all(|layer| chosen.contains(layer)),
                    "{chosen:?}"
                );
                let gaps = chosen.windows(2).map(|pair| pair[1] - pair[0]);
                let (least, most) = gaps.fold((of, 0), |(l, m), gap| (l.min(gap), m.max(gap)));
                assert!(layers < 2 || most <= 2 * least, "{chosen:?} of {of}");
                before = chosen;
            }
        }
        let five = order(5, &[0], u64::MAX);
        assert_eq!(five.layers(five.first(3, |_| 1)), [0, 2, 4]);
    }

    #[test]
    fn layers_of_two_sizes_go_while_their_own_bytes_fit() {
        // 7, 3, 5, 1, 6, 2, 4, 0: odd layers take 100, even ones 300.
        let sizes = |kind: usize| [300, 100][kind];
        let gone = |most| order(8, &[0, 1], most).gone(sizes);
        let of = |layers, bytes| Gone {
            layers,
            bytes,
            ring: 640,
        };
        assert_eq!(gone(639), Gone::default(), "4 x 100, less than the ring");
        assert_eq!(gone(704), of(5, 700));
        assert_eq!(gone(999), of(5, 700));
        assert_eq!(gone(1024), of(6, 1000));
        assert_eq!(gone(u64::MAX), of(8, 1600));
        assert_eq!(order(8, &[0, 1], 0).least(sizes), Some(of(5, 700)));
        assert_eq!(order(2, &[0, 1], 0).least(sizes), None);
    }
}
