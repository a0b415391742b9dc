//! Layers arrive in their order and as they are at home; what was at home before never comes.

use plimsoll_kernels::device::Cpu;
use plimsoll_kernels::isa::Isa;

use super::*;
use crate::config::Planned;
use crate::forward::cpu::CpuRank;
use crate::forward::testing::Deep;

const LAYERS: u32 = 5;

impl Stream {
    /// Writes to the home as nobody may: what the ring holds stays.
    fn home_unseen(&mut self) -> &mut Arena {
        while self.slots().iter().any(|slot| matches!(slot, Slot::Away)) {
            self.receive();
        }
        Arc::get_mut(&mut self.home).unwrap()
    }
}

impl CpuRank {
    pub(in crate::forward) fn home_unseen(&mut self) -> &mut Arena {
        self.stream.as_mut().unwrap().home_unseen()
    }
}

struct Ring {
    stream: Stream,
    ledger: Ledger,
    pool: Pool,
    offload: Offload,
}

/// A stream of a plan that offloads `layers`, with its memory; layer k is full of k + 1.
fn ring(layers: u32) -> Ring {
    let deep = Deep {
        layers: LAYERS,
        offloaded: layers,
    };
    let Planned { request, plan } = deep.planned();
    let offload = plan.offload(&request).remove(0);
    assert_eq!(offload.layers, layers);
    let ledger = Ledger::new(&plan, &request.ranks, 16, &[]);
    let pool = Pool::new(1, Isa::Scalar).unwrap();
    let mut stream = Stream::reserve(&Cpu, &ledger, 0, &offload).unwrap();
    assert!(!stream.ring_held());
    let taken = stream.commit_ring(&ledger, &pool).unwrap();
    assert_eq!(taken, offload.ring());
    assert!(stream.ring_held());
    let home = stream.home_mut();
    home.commit(&ledger, &pool, 0..offload.host().get())
        .unwrap();
    let mut ring = Ring {
        stream,
        ledger,
        pool,
        offload,
    };
    ring.write(1);
    ring
}

impl Ring {
    fn region(&self, index: u32) -> Region {
        self.offload.parts()[index as usize].1
    }

    /// Layer k becomes full of k + `first`.
    fn write(&mut self, first: u8) {
        for index in 0..self.offload.layers {
            let region = self.region(index);
            let byte = first + u8::try_from(index).unwrap();
            self.stream.home_mut().all_mut::<u8>(region).fill(byte);
        }
    }

    /// What a pass reads of each streamed layer.
    fn pass(&mut self) -> Vec<u8> {
        let streamed = (0..LAYERS).filter_map(|layer| Some((layer, self.offload.index(layer)?)));
        let streamed: Vec<_> = streamed.collect();
        let mut read = Vec::new();
        for (layer, index) in streamed {
            self.stream.begin(layer as usize);
            let region = self.region(index);
            let bytes = self.stream.current(region);
            assert!(
                bytes.iter().all(|byte| *byte == bytes[0]),
                "layer {layer} is a mixture"
            );
            read.push(bytes[0]);
            self.stream.end();
        }
        read
    }
}

#[test]
fn every_pass_reads_every_layer_in_order_and_new_ones_after_a_write() {
    for layers in [3, 4, 5] {
        let mut ring = ring(layers);
        let expected = |first: u8| -> Vec<u8> { (first..).take(layers as usize).collect() };
        for _ in 0..3 {
            assert_eq!(ring.pass(), expected(1));
        }
        let streamed = ring.stream.take_streamed();
        assert_eq!(streamed.bytes, 3 * ring.offload.bytes().get());
        assert_eq!(streamed.steps, 3);
        assert_eq!(ring.stream.take_streamed().bytes, 0);
        ring.write(100);
        assert_eq!(ring.pass(), expected(100), "what the ring held is old");
    }
}

#[test]
fn a_ring_that_is_given_back_has_no_memory_and_comes_back_with_the_layers() {
    let mut ring = ring(4);
    let before = ring.pass();
    let charged = |ring: &Ring| {
        let row = ring.ledger.snapshot().ranks[0].accounts[0];
        (row.reserved, row.used)
    };
    let held = charged(&ring);
    assert_eq!(
        held,
        (ring.offload.ring(), ring.offload.ring()),
        "both slots are counted"
    );
    let given = ring.stream.discard_ring(&ring.ledger, &ring.pool).unwrap();
    assert_eq!(given, ring.offload.ring());
    assert_eq!(charged(&ring), (Bytes::ZERO, Bytes::ZERO));
    assert!(!ring.stream.ring_held());
    ring.stream.commit_ring(&ring.ledger, &ring.pool).unwrap();
    assert_eq!(ring.pass(), before);
}

#[test]
fn host_bytes_are_resident_for_no_ranks_driver_figure() {
    let mut ring = ring(4);
    ring.pass();
    let rank = ring.ledger.snapshot().ranks.swap_remove(0);
    assert_eq!(rank.driver, ring.offload.ring());
    assert_eq!(rank.host, ring.offload.host());
    assert_eq!(rank.other, 0);
}

#[test]
#[should_panic(expected = "layers are streamed in their order")]
fn a_pass_that_leaves_a_layer_out_is_our_mistake() {
    ring(5).stream.begin(1);
}

#[test]
#[should_panic(expected = "has not begun")]
fn a_layer_that_nobody_waited_for_is_not_read() {
    let mut ring = ring(5);
    let region = ring.region(0);
    ring.stream.current(region);
}

/// The rank ends with the thread, and says why.
#[test]
#[should_panic(expected = "the thread that streams its weights is gone")]
fn a_thread_that_is_gone_ends_who_waits_for_it() {
    let mut ring = ring(5);
    // Without memory in the slots the copy panics.
    ring.stream.discard_ring(&ring.ledger, &ring.pool).unwrap();
    ring.stream.begin(0);
}
