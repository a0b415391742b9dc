//! Tests of ranks that stream a part of their weights: the answers are those of ranks that do not,
//! memory is where the plan says, and a copy that is old is found.

use plimsoll_planner::Account::{Activations, Comm, KvCache, Offload, Weights, Workspaces};
use plimsoll_planner::Bytes;

use super::testing::{Block, Deep, Group, Through};
use crate::config::Planned;
use crate::weights::TensorSource;

const LAYERS: u32 = 5;
const PROMPT: [u32; 20] = [
    5, 17, 99, 200, 301, 7, 8, 9, 450, 33, 34, 35, 36, 1, 2, 3, 100, 101, 102, 514,
];

fn deep(offloaded: u32) -> Deep {
    Deep {
        layers: LAYERS,
        offloaded,
    }
}

fn group(offloaded: u32) -> Group {
    deep(offloaded).group()
}

#[test]
fn answers_are_bit_for_bit_those_without_offload_before_and_after_every_sleep() {
    let mut resident = group(0);
    let expected = resident.answer(&PROMPT);
    for layers in [3, 4, 5] {
        let mut group = group(layers);
        for _ in 0..3 {
            assert_eq!(group.answer(&PROMPT), expected, "{layers} layers");
        }
        let scratch = [KvCache, Activations, Workspaces, Comm];
        let both = [Offload, Weights];
        let all = [KvCache, Activations, Workspaces, Comm, Offload, Weights];
        for accounts in [&scratch[..], &both, &all, &scratch] {
            group.release(accounts);
            group.restore(accounts);
            assert_eq!(
                group.answer(&PROMPT),
                expected,
                "{layers} layers, {accounts:?}"
            );
        }
    }
}

#[test]
fn the_kernel_finds_what_the_plan_says_on_either_side_and_nothing_after_level_2() {
    let mut group = group(4);
    group.answer(&PROMPT);
    let Planned { request, plan } = deep(4).planned();
    let offload = &plan.offload(&request)[0];
    let held = group.ledger_of(0);
    assert_eq!(held.driver, plan.ranks[0].total());
    assert_eq!(held.host, offload.host());
    assert_eq!(held.other, 0);
    let without = deep(0).planned().plan.ranks[0].bytes(Weights);
    let with = plan.ranks[0].bytes(Weights);
    assert!(with < without, "{with} and {without}");
    group.release(&[KvCache, Activations, Workspaces, Comm]);
    let held = group.ledger_of(0);
    assert_eq!(
        (held.driver, held.host),
        (with, offload.host()),
        "level 1 keeps weights"
    );
    group.release(&[Offload, Weights]);
    let held = group.ledger_of(0);
    assert_eq!(
        (held.driver, held.host, held.other),
        (Bytes::ZERO, Bytes::ZERO, 0)
    );
}

#[test]
fn a_byte_that_flips_in_host_memory_is_named() {
    let mut group = group(4);
    group.answer(&PROMPT);
    let (forward, _) = &mut group.ranks[0];
    for tensor in [
        "GateUp { layer: 1 }",
        "Qkv { layer: 4 }",
        "Down { layer: 0 }",
    ] {
        forward.flip(tensor);
        assert_eq!(forward.verify().unwrap_err().changed, [tensor]);
        forward.flip(tensor);
        forward.verify().unwrap();
    }
}

/// As if an update forgot to empty the ring.
#[test]
fn a_copy_that_is_older_than_its_weights_is_named() {
    let mut group = group(3);
    let before = group.answer(&PROMPT);
    let (forward, _) = &mut group.ranks[0];
    // The next layers to be read wait in the ring: 0 and 2 of 0, 2 and 4.
    forward.flip_unseen("Output { layer: 2 }");
    forward.adopt();
    let changed = forward.verify().unwrap_err().changed;
    assert_eq!(changed, ["Output { layer: 2 } (streamed copy)"]);
    // Flipped back by the rules, all is as it was.
    forward.flip("Output { layer: 2 }");
    forward.adopt();
    forward.verify().unwrap();
    assert_eq!(group.answer(&PROMPT), before);
}

#[test]
fn weights_are_not_read_over_half_of_the_memory() {
    let mut group = group(3);
    group.release(&[Offload]);
    let (forward, _) = &mut group.ranks[0];
    assert!(forward.load(&*group.model.tensors, |_| true).is_err());
}

#[test]
fn what_is_streamed_is_counted_and_nothing_without_offload() {
    for layers in [0, 4] {
        let mut group = group(layers);
        let streamed = group.step(&PROMPT)[0].streamed;
        let Planned { request, plan } = deep(layers).planned();
        assert_eq!(streamed.bytes, plan.offload(&request)[0].bytes().get());
        assert_eq!(streamed.steps, u64::from(layers > 0));
    }
}

#[test]
fn other_weights_reach_streamed_layers_at_once() {
    let altered = |source: &dyn TensorSource, name: &str, [rows, cols]: Block, out: &mut [f32]| {
        source.read_block(name, rows, cols, out)?;
        out.iter_mut().for_each(|number| *number *= 1.5);
        Ok(())
    };
    let update = |group: &mut Group| {
        let (forward, _) = &mut group.ranks[0];
        let source = Through {
            inner: &*group.model.tensors,
            read: altered,
        };
        assert!(forward.overwrite(&source, |_| true).unwrap());
        forward.adopt();
        forward.verify().unwrap();
        group.answer(&PROMPT)
    };
    let mut resident = group(0);
    let before = resident.answer(&PROMPT);
    let expected = update(&mut resident);
    assert_ne!(expected, before);
    for layers in [3, 5] {
        let mut group = group(layers);
        assert_eq!(group.answer(&PROMPT), before);
        assert_eq!(update(&mut group), expected, "{layers} layers");
        assert_eq!(group.answer(&PROMPT), expected, "{layers} layers, again");
    }
}
