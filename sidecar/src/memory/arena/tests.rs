//! Charge and pages come and go together, by the kernel's own figures.

use plimsoll_kernels::device::{Cpu, Faulty, PIECE_BYTES};
use plimsoll_kernels::isa::Isa;
use plimsoll_planner::{Plan, RankPlan, Shard};

use super::*;
use crate::cache::story::Dice;
use crate::memory::snapshot::LedgerSnapshot;

const PAGE: u64 = 4096;

fn ledger_of(account: Account, planned: u64) -> Ledger {
    let shard = Shard {
        kv_heads: 0..1,
        query_heads: 0..1,
        mlp_columns: 0..1,
        vocab_rows: 0..1,
    };
    let rank = RankPlan {
        rank: 0,
        shard,
        budget: Bytes::measured(planned),
        accounts: vec![(account, Bytes::measured(planned))],
    };
    let plan = Plan {
        ranks: vec![rank],
        kv_blocks: 1,
        kv_tokens: 0,
        max_model_len: 0,
    };
    Ledger::new(&plan, &[], 16, &[])
}

fn ledger(planned: u64) -> Ledger {
    ledger_of(Account::Workspaces, planned)
}

fn pool() -> Pool {
    Pool::new(2, Isa::Scalar).unwrap()
}

fn reserve(device: &dyn Device, ledger: &Ledger, planned: u64, most: u64) -> Arena {
    let sizes = (Bytes::measured(planned), Bytes::measured(most));
    Arena::reserve(device, ledger, 0, Account::Workspaces, sizes).unwrap()
}

fn region(offset: u64, bytes: u64) -> Region {
    Region { offset, bytes }
}

/// What is charged, what is in use, and what the kernel says is resident.
fn figures(ledger: &Ledger) -> [u64; 3] {
    let LedgerSnapshot { ranks, .. } = ledger.snapshot();
    let row = ranks[0].accounts[0];
    [row.reserved, row.used, ranks[0].driver].map(Bytes::get)
}

#[test]
fn tensors_lie_where_they_should_and_hold_poison() {
    let (ledger, pool) = (ledger(8192), pool());
    let mut arena = reserve(&Cpu, &ledger, 8192, 8192);
    assert_eq!(figures(&ledger), [0; 3], "address space costs nothing");
    assert_eq!(arena.commit(&ledger, &pool, 0..8192).unwrap().get(), 8192);
    let all = arena.all::<f32>(region(64, 100));
    assert!(all.len() == 25 && all.iter().all(|x| x.is_nan()));
    assert_eq!(figures(&ledger), [8192; 3]);
    let [mut a, b] = arena.apart([region(64, 100), region(4096, 8)]);
    a.first_mut::<u32>(1)[0] = 7;
    assert_eq!(b.first::<u64>(1), [u64::MAX]);
    assert_eq!(arena.first::<u32>(region(64, 100), 2), [7, u32::MAX]);
}

#[test]
#[should_panic(expected = "26 numbers of 4 bytes")]
fn a_view_ends_with_its_region() {
    let (ledger, pool) = (ledger(8192), pool());
    let mut arena = reserve(&Cpu, &ledger, 8192, 8192);
    arena.commit(&ledger, &pool, 0..8192).unwrap();
    arena.first::<u32>(region(64, 100), 26);
}

#[test]
fn memory_that_was_not_planned_is_not_taken() {
    let (ledger, pool) = (ledger(8192), pool());
    let mut arena = reserve(&Cpu, &ledger, 8192, 16_384);
    let refused = arena.commit(&ledger, &pool, 0..12_288);
    assert!(matches!(refused, Err(ArenaError::Exceeded(_))));
    assert_eq!(figures(&ledger), [0; 3]);
    // What is there already is charged already.
    arena.commit(&ledger, &pool, 0..4096).unwrap();
    arena.commit(&ledger, &pool, 0..8192).unwrap();
    assert_eq!(figures(&ledger), [8192; 3]);
}

#[test]
fn what_is_given_back_shows_at_once_and_comes_again_at_its_address() {
    let size = 3 * PIECE_BYTES as u64 + PAGE;
    let (ledger, pool) = (ledger(size), pool());
    let mut arena = reserve(&Cpu, &ledger, size, size);
    let address = arena.address();
    for _ in 0..100 {
        arena.commit(&ledger, &pool, 0..size).unwrap();
        assert_eq!(figures(&ledger), [size; 3]);
        assert_eq!(arena.first::<u64>(region(size - 8, 8), 1), [u64::MAX]);
        arena.all_mut::<u8>(region(0, size)).fill(1);
        assert_eq!(arena.discard(&ledger, &pool, 0..size).unwrap().get(), size);
        assert_eq!(figures(&ledger), [0; 3]);
        assert_eq!(arena.discard(&ledger, &pool, 0..size).unwrap().get(), 0);
    }
    assert_eq!(arena.address(), address);
}

#[test]
fn a_refused_commit_leaves_neither_charge_nor_pages() {
    let size = 4 * PIECE_BYTES as u64;
    let (ledger, pool, device) = (ledger(size), pool(), Faulty::default());
    let mut arena = reserve(&device, &ledger, size, size);
    arena.commit(&ledger, &pool, 0..PAGE).unwrap();
    for left in 0..4 {
        device.commits_left(left);
        let refused = arena.commit(&ledger, &pool, 0..size).unwrap_err();
        let text = refused.to_string();
        assert!(
            text.contains("rank 0: account Workspaces: cannot commit"),
            "{text}"
        );
        assert_eq!(figures(&ledger), [PAGE; 3], "{left} pieces");
    }
    device.commits_left(usize::MAX);
    arena.commit(&ledger, &pool, 0..size).unwrap();
    assert_eq!(figures(&ledger), [size; 3]);
}

#[test]
fn a_refused_discard_leaves_charge_and_pages() {
    let (ledger, pool, device) = (ledger(8192), pool(), Faulty::default());
    let mut arena = reserve(&device, &ledger, 8192, 8192);
    arena.commit(&ledger, &pool, 0..8192).unwrap();
    device.refuse_discards(true);
    let refused = arena.discard(&ledger, &pool, 0..8192);
    assert!(matches!(refused, Err(ArenaError::Device { .. })));
    assert_eq!(figures(&ledger), [8192; 3]);
    device.refuse_discards(false);
    arena.discard(&ledger, &pool, 0..8192).unwrap();
    assert_eq!(figures(&ledger), [0; 3]);
}

#[test]
fn address_space_that_is_refused_is_asked_for_as_planned() {
    let (ledger, pool, device) = (ledger(8192), pool(), Faulty::default());
    device.longest_reservation(1 << 30);
    let mut arena = reserve(&device, &ledger, 8192, 8 << 30);
    assert_eq!(arena.capacity().get(), 8192);
    arena.commit(&ledger, &pool, 0..8192).unwrap();
    device.longest_reservation(4096);
    let sizes = (Bytes::measured(8192), Bytes::measured(8 << 30));
    let refused = Arena::reserve(&device, &ledger, 0, Account::Workspaces, sizes);
    assert!(matches!(refused, Err(ArenaError::Device { .. })));
}

#[test]
fn the_exchange_is_the_groups_but_its_pages_are_the_arenas() {
    let ledger = ledger_of(Account::Comm, 8192);
    let sizes = (Bytes::measured(8192), Bytes::measured(8192));
    let arena = Arena::reserve(&Cpu, &ledger, 0, Account::Comm, sizes).unwrap();
    let (mut arena, exchange) = arena.share();
    arena.commit(&ledger, &pool(), 0..8192).unwrap();
    assert_eq!(exchange.committed().get(), 8192);
    assert_eq!(figures(&ledger), [8192; 3]);
    arena.discard(&ledger, &pool(), 0..8192).unwrap();
    assert_eq!((exchange.committed().get(), figures(&ledger)), (0, [0; 3]));
}

#[test]
fn random_stories_keep_charge_pages_and_the_kernels_figure_equal() {
    const PAGES: usize = 64;
    for seed in 0..20 {
        let mut dice = Dice(seed);
        // Sometimes the plan does not cover all that could be committed.
        let planned = PAGE * (PAGES - 20) as u64;
        let (ledger, pool, device) = (ledger(planned), pool(), Faulty::default());
        let mut arena = reserve(&device, &ledger, planned, PAGE * PAGES as u64);
        let mut held = [false; PAGES];
        for _ in 0..60 {
            let [a, b] = [0; 2].map(|_| dice.roll(PAGES + 1));
            let part = a.min(b)..a.max(b);
            let range = PAGE * part.start as u64..PAGE * part.end as u64;
            // Not both at once: a commit that cannot give back what it took keeps it.
            let (commits, refuse) =
                [(usize::MAX, false), (1, false), (usize::MAX, true)][dice.roll(3)];
            device.commits_left(commits);
            device.refuse_discards(refuse);
            let done = match dice.roll(2) {
                0 => arena.commit(&ledger, &pool, range).is_ok().then_some(true),
                _ => arena
                    .discard(&ledger, &pool, range)
                    .is_ok()
                    .then_some(false),
            };
            if let Some(done) = done {
                held[part].fill(done);
            }
            let bytes = PAGE * held.iter().filter(|page| **page).count() as u64;
            let [charged, used, resident] = figures(&ledger);
            assert_eq!((charged, used), (bytes, bytes), "seed {seed}");
            assert_eq!(arena.committed().get(), bytes, "seed {seed}");
            assert_eq!(resident, bytes, "seed {seed}");
        }
    }
}
