//! A cache that gets longer or shorter keeps what is held, gives the kernel back what it had in its
//! tail, and leaves nothing behind.

use plimsoll_kernels::device::Faulty;
use plimsoll_planner::Plan;

use super::*;
use crate::forward::testing::{Group, tiny, tiny_on};

const PROMPT: [u32; 20] = [
    5, 17, 99, 200, 301, 7, 8, 9, 450, 33, 34, 35, 36, 1, 2, 3, 100, 101, 102, 514,
];

impl Group {
    fn blocks(&self) -> u32 {
        self.ranks[0].0.kv_blocks()
    }

    /// The plan with another number of blocks.
    fn plan_of(&self, blocks: u32) -> Plan {
        let mut plan = self.plan.clone();
        for (rank, (forward, _)) in plan.ranks.iter_mut().zip(&self.ranks) {
            let block = forward.layout.null_block.region.bytes;
            let bytes = Bytes::measured((block * u64::from(blocks)).next_multiple_of(4096));
            let rows = rank.accounts.iter_mut();
            rows.filter(|(account, _)| *account == Account::KvCache)
                .for_each(|row| row.1 = bytes);
        }
        plan.kv_blocks = blocks;
        plan
    }

    /// Bytes that each rank took or gave, with the ledger's plan in step.
    fn resize(&mut self, blocks: u32, moves: &[Move]) -> Vec<u64> {
        let (plan, grows) = (self.plan_of(blocks), blocks >= self.blocks());
        if grows {
            self.ledger.plan(&plan, &self.request.ranks);
        }
        let to = NewCache {
            blocks,
            moves: moves.to_vec(),
            held: true,
        };
        let ranks = self.ranks.iter_mut();
        let moved = ranks
            .map(|(forward, _)| forward.resize(&self.ledger, &to).unwrap().get())
            .collect();
        self.ledger.plan(&plan, &self.request.ranks);
        moved
    }

    fn driver(&self, rank: usize) -> u64 {
        self.ledger_of(rank).driver.get()
    }

    fn block(&mut self, rank: usize, block: u32) -> Vec<u8> {
        let forward = &mut self.ranks[rank].0;
        let bytes = usize::try_from(forward.layout.null_block.region.bytes).unwrap();
        let cache = forward.backend.held_mut(forward.layout.cache);
        cache[block as usize * bytes..][..bytes].to_vec()
    }
}

#[test]
fn what_is_held_in_the_tail_moves_and_the_answers_stay() {
    for ranks in [1, 2, 3] {
        let mut group = tiny(ranks, 2);
        let before = group.answer(&PROMPT);
        let all = group.blocks();
        // The prompt's two blocks, as if they had been at the end.
        let there = [all - 2, all - 1];
        let away = |from, to| [Move { from: 1, to: from }, Move { from: 2, to }];
        let (forwards, moves) = (&mut group.ranks, away(there[0], there[1]));
        for (forward, _) in forwards {
            forward.backend.copy_blocks(&moves);
        }
        let held: Vec<Vec<u8>> = (0..ranks).map(|rank| group.block(rank, all - 1)).collect();
        let back = [
            Move {
                from: all - 2,
                to: 1,
            },
            Move {
                from: all - 1,
                to: 2,
            },
        ];
        group.resize(4, &back);
        for (rank, held) in held.iter().enumerate() {
            assert_eq!(group.block(rank, 2), *held, "{ranks} ranks");
        }
        assert_eq!(group.answer(&PROMPT), before, "{ranks} ranks");
        group.resize(all + 7, &[]);
        assert_eq!(group.answer(&PROMPT), before, "{ranks} ranks");
    }
}

#[test]
fn the_kernel_has_the_tail_again_and_a_hundred_cycles_leave_nothing() {
    let mut group = tiny(2, 2);
    group.answer(&PROMPT);
    let all = group.blocks();
    let held: Vec<u64> = (0..2).map(|rank| group.driver(rank)).collect();
    for cycle in 0..100 {
        let blocks = [4, all / 2, all - 1][cycle % 3];
        let given = group.resize(blocks, &[]);
        for (rank, given) in given.iter().enumerate() {
            assert!(*given > 0 || blocks == all - 1, "cycle {cycle}");
            assert_eq!(group.driver(rank), held[rank] - given, "cycle {cycle}");
            let ledger = group.ledger_of(rank);
            assert_eq!(ledger.other, 0, "cycle {cycle}");
            let cache = ledger
                .accounts
                .iter()
                .find(|row| row.account == Account::KvCache);
            assert!(cache.is_some_and(|row| row.reserved == row.planned));
        }
        assert_eq!(group.resize(blocks, &[]), [0, 0], "twice is once");
        assert_eq!(group.resize(all, &[]), given, "cycle {cycle}");
        let now: Vec<u64> = (0..2).map(|rank| group.driver(rank)).collect();
        assert_eq!(now, held, "cycle {cycle}");
    }
}

#[test]
fn a_growth_that_is_refused_leaves_the_cache_as_it_was() {
    let device: &'static Faulty = Box::leak(Box::default());
    let mut group = tiny_on(device, 1, 2);
    let before = group.answer(&PROMPT);
    let all = group.blocks();
    group.resize(4, &[]);
    let small = group.ledger_of(0);
    let plan = group.plan_of(all);
    let to = |blocks| NewCache {
        blocks,
        moves: Vec::new(),
        held: true,
    };
    let (forward, _) = &mut group.ranks[0];
    let unplanned = forward.resize(&group.ledger, &to(all)).unwrap_err();
    assert!(matches!(unplanned, ArenaError::Exceeded(_)), "{unplanned}");
    group.ledger.plan(&plan, &group.request.ranks);
    device.commits_left(0);
    let refused = forward.resize(&group.ledger, &to(all)).unwrap_err();
    assert!(matches!(refused, ArenaError::Device { .. }), "{refused}");
    assert_eq!(forward.kv_blocks(), 4);
    device.commits_left(usize::MAX);
    let far = forward.resize(&group.ledger, &to(u32::MAX)).unwrap_err();
    assert!(matches!(far, ArenaError::OutOfReach { .. }), "{far}");
    let small_plan = group.plan_of(4);
    group.ledger.plan(&small_plan, &group.request.ranks);
    assert_eq!(group.ledger_of(0), small);
    assert_eq!(group.answer(&PROMPT), before);
    group.resize(all, &[]);
    assert_eq!(group.answer(&PROMPT), before);
}

#[test]
fn a_size_that_is_taken_down_while_the_cache_is_away_is_what_comes_back() {
    let mut group = tiny(1, 2);
    let before = group.answer(&PROMPT);
    let all = group.blocks();
    for blocks in [4, all + 3] {
        let plan = group.plan_of(blocks);
        group.ledger.plan(&plan, &group.request.ranks);
        let (forward, _) = &mut group.ranks[0];
        let account = [Account::KvCache];
        forward.release(&group.ledger, &account).unwrap();
        let to = NewCache {
            blocks,
            moves: Vec::new(),
            held: false,
        };
        assert_eq!(forward.resize(&group.ledger, &to).unwrap(), Bytes::ZERO);
        let params = &group.model.params;
        let taken = forward.restore(&group.ledger, params, &account).unwrap();
        assert_eq!(taken[0].1, plan.ranks[0].bytes(Account::KvCache));
        assert_eq!(group.answer(&PROMPT), before);
    }
}
