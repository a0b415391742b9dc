//! What was released is gone by the kernel's own figures and comes back as it was; what does not
//! come back as it was is named.

use plimsoll_kernels::device::Faulty;
use plimsoll_kernels::isa::Isa;
use plimsoll_kernels::pool::Pool;
use plimsoll_planner::Account::{Activations, Comm, KvCache, Weights, Workspaces};

use super::*;
use crate::forward::LoadError;
use crate::forward::cpu::{CpuRank, Host};
use crate::forward::testing::{Block, Group, Through, tiny, tiny_on};
use crate::weights::TensorSource;

const LEVEL_1: [Account; 4] = [KvCache, Activations, Workspaces, Comm];
const LEVEL_2: [Account; 5] = [KvCache, Activations, Workspaces, Comm, Weights];
const PROMPT: [u32; 20] = [
    5, 17, 99, 200, 301, 7, 8, 9, 450, 33, 34, 35, 36, 1, 2, 3, 100, 101, 102, 514,
];

impl Group {
    pub(in crate::forward) fn release(&mut self, accounts: &[Account]) -> Vec<u64> {
        let ranks = self.ranks.iter_mut();
        ranks
            .map(|(forward, _)| {
                let given = forward.release(&self.ledger, accounts).unwrap();
                assert!(given.iter().map(|of| of.0).eq(accounts.iter().copied()));
                given.iter().map(|of| of.1.get()).sum()
            })
            .collect()
    }

    pub(in crate::forward) fn restore(&mut self, accounts: &[Account]) {
        for (forward, _) in &mut self.ranks {
            let params = &self.model.params;
            forward.restore(&self.ledger, params, accounts).unwrap();
            if accounts.contains(&Weights) {
                assert!(forward.load(&*self.model.tensors, |_| true).unwrap());
            }
            forward.verify().unwrap();
            if accounts.contains(&KvCache) {
                // Zeros where block tables are padded, poison where keys and values will be.
                let (null, cache) = (forward.layout.null_block, forward.layout.cache);
                let null_bytes = usize::try_from(null.region.bytes).unwrap();
                let (zeros, poison) = forward.backend.held_mut(cache).split_at(null_bytes);
                assert!(zeros.iter().all(|byte| *byte == 0));
                assert!(poison.iter().all(|byte| *byte == 0xFF));
            }
        }
    }
}

#[test]
fn answers_are_bit_for_bit_the_same_after_every_kind_of_sleep() {
    // Two KV heads: the third rank has a part of some tensors only.
    for ranks in [1, 2, 3] {
        let mut group = tiny(ranks, 2);
        let before = group.answer(&PROMPT);
        let kv_only = [KvCache];
        let weights_only = [Weights];
        for accounts in [&kv_only[..], &weights_only, &LEVEL_1, &LEVEL_2, &LEVEL_1] {
            group.release(accounts);
            group.restore(accounts);
            assert_eq!(group.answer(&PROMPT), before, "{ranks} ranks, {accounts:?}");
        }
        // By tags, in either order.
        for [first, second] in [[&LEVEL_1[..], &weights_only], [&weights_only[..], &LEVEL_1]] {
            group.release(&LEVEL_2);
            group.restore(first);
            group.restore(second);
            assert_eq!(group.answer(&PROMPT), before, "{ranks} ranks, {first:?}");
        }
    }
}

/// The least that has to go: 99%.
fn gives_back(before: u64, after: u64, bytes: u64) {
    let given = before - after;
    assert!(
        given * 100 >= bytes * 99,
        "{given} of {bytes} bytes went, {after} are left"
    );
}

#[test]
fn the_kernel_says_that_the_bytes_are_gone_and_a_hundred_cycles_leave_nothing() {
    let mut group = tiny(2, 2);
    group.answer(&PROMPT);
    let driver = |group: &Group, rank| group.ledger_of(rank).driver.get();
    let held: Vec<u64> = (0..2).map(|rank| driver(&group, rank)).collect();
    for cycle in 0..100 {
        let accounts = if cycle % 10 == 9 {
            &LEVEL_2[..]
        } else {
            &LEVEL_1
        };
        let given = group.release(accounts);
        for (rank, held) in held.iter().enumerate() {
            let planned = accounts.iter().map(|of| group.planned(rank, *of));
            let bytes: u64 = planned.sum();
            assert_eq!(given[rank], bytes);
            gives_back(*held, driver(&group, rank), bytes);
            assert_eq!(group.ledger_of(rank).other, 0, "cycle {cycle}");
        }
        assert_eq!(group.release(accounts), [0, 0], "twice is once");
        group.restore(accounts);
        for (rank, held) in held.iter().enumerate() {
            assert_eq!(driver(&group, rank), *held, "cycle {cycle}");
            assert_eq!(group.ledger_of(rank).other, 0);
        }
    }
    let used = |group: &Group| group.ledger_of(0).accounts[0];
    assert_eq!(used(&group).used, used(&group).reserved);
}

#[test]
fn a_restore_that_is_refused_takes_nothing_and_can_be_repeated() {
    let device: &'static Faulty = Box::leak(Box::default());
    let mut group = tiny_on(device, 1, 2);
    let before = group.answer(&PROMPT);
    group.release(&LEVEL_1);
    let asleep = group.ledger_of(0);
    // Three accounts of a piece or more each; a rank alone exchanges nothing.
    for left in 0..3 {
        device.commits_left(left);
        let (forward, _) = &mut group.ranks[0];
        let params = &group.model.params;
        let refused = forward.restore(&group.ledger, params, &LEVEL_1);
        assert!(matches!(refused, Err(ArenaError::Device { .. })), "{left}");
        assert_eq!(group.ledger_of(0), asleep, "after {left} pieces");
    }
    device.commits_left(usize::MAX);
    group.restore(&LEVEL_1);
    assert_eq!(group.answer(&PROMPT), before);
}

#[test]
fn a_first_reservation_that_is_refused_leaves_no_charge() {
    let group = tiny(1, 1);
    for left in 0..4 {
        let device: &'static Faulty = Box::leak(Box::default());
        device.commits_left(left);
        let ledger = Ledger::new(&group.plan, &group.request.ranks, 16, &[]);
        let pool = Pool::new(1, Isa::detect()).unwrap();
        let on = Host { device, pool };
        let (request, plan) = (&group.request, &group.plan);
        let params = &group.model.params;
        let refused = Forward::<CpuRank>::reserve(on, &ledger, request, plan, 0, params);
        assert!(matches!(refused, Err(ArenaError::Device { .. })), "{left}");
        let rows = ledger.snapshot().ranks.swap_remove(0).accounts;
        assert!(rows.iter().all(|row| row.reserved == Bytes::ZERO), "{left}");
    }
}

#[test]
fn a_release_that_is_refused_can_be_repeated_or_restored() {
    let device: &'static Faulty = Box::leak(Box::default());
    let mut group = tiny_on(device, 1, 1);
    let before = group.answer(&PROMPT);
    device.refuse_discards(true);
    let (forward, _) = &mut group.ranks[0];
    let refused = forward.release(&group.ledger, &LEVEL_1).unwrap_err();
    let text = refused.to_string();
    assert!(text.starts_with("rank 0: account KVCache"), "{text}");
    device.refuse_discards(false);
    assert_ne!(group.release(&LEVEL_1), [0]);
    group.restore(&LEVEL_1);
    assert_eq!(group.answer(&PROMPT), before);
}

/// The names that a proof finds changed.
fn changed(group: &Group) -> Vec<String> {
    group.ranks[0].0.verify().unwrap_err().changed
}

#[test]
fn tables_that_are_not_computed_again_are_named() {
    let mut group = tiny(1, 2);
    group.release(&LEVEL_1);
    let forward = &mut group.ranks[0].0;
    for account in LEVEL_1 {
        let bytes = forward.layout.bytes(account);
        let backend = &mut forward.backend;
        backend.restore(&group.ledger, account, bytes).unwrap();
    }
    assert_eq!(changed(&group), ["rope_cos", "rope_sin"]);
}

#[test]
fn weights_that_are_not_read_again_are_all_named() {
    let mut group = tiny(1, 2);
    let (forward, _) = &mut group.ranks[0];
    forward.release(&group.ledger, &LEVEL_2).unwrap();
    let params = &group.model.params;
    let asleep = forward.verify().unwrap();
    assert_eq!((asleep.tensors, asleep.bytes), (0, 0), "nothing is held");
    let refused = forward.load(&*group.model.tensors, |_| true);
    assert!(matches!(refused, Err(LoadError::Released)));
    forward.restore(&group.ledger, params, &LEVEL_2).unwrap();
    let whole = forward.layout.weights.places();
    let whole = whole.iter().filter(|place| place.bytes > 0).count();
    let error = forward.verify().unwrap_err();
    assert_eq!(error.changed.len(), whole);
    let text = error.to_string();
    assert!(
        text.contains("tensors are not what was loaded: Emb"),
        "{text}"
    );
    assert!(forward.load(&*group.model.tensors, |_| true).unwrap());
    forward.verify().unwrap();
}

#[test]
fn one_stale_row_and_a_wrong_shard_are_named() {
    let mut group = tiny(2, 2);
    let name = "GateUp { layer: 1 }";
    let place = |group: &Group, rank: usize| {
        let mut lasting = group.ranks[rank].0.layout.lasting();
        lasting.find(|(entry, _)| entry.name == name).unwrap().1
    };
    let (mine, theirs) = (place(&group, 0), place(&group, 1));
    let of_other = group.ranks[1].0.backend.held_mut(theirs).to_vec();
    let own = group.ranks[0].0.backend.held_mut(mine).to_vec();
    // A row of another version of the weights.
    let matrix = group.ranks[0].0.decoder.layers[1].gate_up[0];
    let backend = &mut group.ranks[0].0.backend;
    let other = |_, row: &mut [u8]| {
        row.fill(0x3E);
        Ok(())
    };
    backend.fill(&matrix, 3..4, &other).unwrap();
    assert_eq!(changed(&group), [name]);
    let shared = own.len().min(of_other.len());
    let held = group.ranks[0].0.backend.held_mut(mine);
    held.copy_from_slice(&own);
    group.ranks[0].0.verify().unwrap();
    let held = group.ranks[0].0.backend.held_mut(mine);
    held[..shared].copy_from_slice(&of_other[..shared]);
    assert_eq!(changed(&group), [name]);
}

#[test]
fn a_source_that_changed_is_told_by_name_unless_it_is_adopted() {
    let mut group = tiny(1, 2);
    let before = group.answer(&PROMPT);
    group.release(&LEVEL_2);
    // Files that were changed after the first load: rows of one tensor come from elsewhere.
    group.model.tensors = Box::new(Through {
        inner: group.model.tensors,
        read: |inner: &dyn TensorSource, name: &str, [rows, cols]: Block, out: &mut [f32]| {
            inner.read_block(name, rows, cols, out)?;
            // `read_as` comes through here, too: only a file's own reader passes numbers on.
            if name == "model.layers.0.self_attn.o_proj.weight" {
                out.rotate_left(1);
            }
            Ok(())
        },
    });
    let (forward, _) = &mut group.ranks[0];
    let params = &group.model.params;
    forward.restore(&group.ledger, params, &LEVEL_2).unwrap();
    let error = forward.load(&*group.model.tensors, |_| true).unwrap_err();
    let text = error.to_string();
    assert!(
        text.ends_with("not what was loaded: Output { layer: 0 }"),
        "{text}"
    );
    assert!(forward.verify().is_err(), "and it stays so");
    let source = &*group.model.tensors;
    assert!(forward.overwrite(source, |_| true).unwrap());
    assert!(forward.verify().is_err(), "not before they are adopted");
    forward.adopt();
    forward.verify().unwrap();
    assert_ne!(group.answer(&PROMPT), before);
}
