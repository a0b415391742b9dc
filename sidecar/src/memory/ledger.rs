//! The ledger: per rank and account, what was planned, what is mapped, what is in use.
//!
//! Planned >= charged, always: a charge past the plan is refused before any memory is touched. The
//! plan changes with a resize: whoever makes one raises it first, or lowers it last.
//! Counters are atomics so that the engine writes and any thread reads without waiting.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use plimsoll_planner::{Account, Bytes, Plan, RankCapacity, Request};

use super::resident::Residents;
use super::snapshot::{AccountRow, KvUsage, LedgerSnapshot, RankLedger, Streamed};
use super::streamed::Stream;

/// One account of one rank.
#[derive(Debug, Default)]
struct Row {
    planned: AtomicU64,
    reserved: AtomicU64,
    used: AtomicU64,
    high_water: AtomicU64,
}

#[derive(Debug)]
struct Rank {
    may: Mutex<May>,
    /// In `Account::ALL` order.
    rows: [Row; Account::ALL.len()],
    /// Bytes of one KV block on this rank.
    block_bytes: Bytes,
    stream: Option<Stream>,
}

/// What a rank may use.
#[derive(Clone, Copy, Debug, Default)]
struct May {
    budget: Bytes,
    quota: Option<Bytes>,
}

/// Every rank's accounts. Shared by the rank threads, the engine and the reports.
#[derive(Debug)]
pub struct Ledger {
    ranks: Vec<Rank>,
    block_size: u32,
    blocks_total: AtomicU32,
    blocks_used: AtomicU32,
    blocks_cached: AtomicU32,
    slots_wasted: AtomicU64,
    residents: Mutex<Residents>,
}

/// A charge that the plan does not cover: our mistake, found before memory is taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "rank {rank}: account {} holds {reserved} and cannot take {asked} more, {planned} are planned",
    account.name()
)]
pub struct Exceeded {
    pub rank: usize,
    pub account: Account,
    pub planned: Bytes,
    pub reserved: Bytes,
    pub asked: Bytes,
}

impl Ledger {
    /// An empty ledger of a plan. `block_bytes` and `capacities` have one entry per rank.
    pub fn new(
        plan: &Plan,
        capacities: &[RankCapacity],
        block_size: u32,
        block_bytes: &[Bytes],
    ) -> Ledger {
        let rank = |index: usize| Rank {
            may: Mutex::default(),
            rows: Account::ALL.map(|_| Row::default()),
            block_bytes: block_bytes.get(index).copied().unwrap_or_default(),
            stream: None,
        };
        let ledger = Ledger {
            ranks: (0..plan.ranks.len()).map(rank).collect(),
            block_size,
            blocks_total: AtomicU32::new(0),
            blocks_used: AtomicU32::new(0),
            blocks_cached: AtomicU32::new(0),
            slots_wasted: AtomicU64::new(0),
            residents: Mutex::new(Residents::new(plan.ranks.len())),
        };
        ledger.plan(plan, capacities);
        ledger
    }

    /// This plan is the one that bounds what is charged from now on. It has as many ranks as the one
    /// before.
    pub fn plan(&self, plan: &Plan, capacities: &[RankCapacity]) {
        for (index, (rank, plan)) in self.ranks.iter().zip(&plan.ranks).enumerate() {
            for (account, row) in Account::ALL.iter().zip(&rank.rows) {
                row.planned.store(plan.bytes(*account).get(), Relaxed);
            }
            *rank.may.lock().unwrap_or_else(PoisonError::into_inner) = May {
                budget: plan.budget,
                quota: capacities.get(index).and_then(|capacity| capacity.quota),
            };
        }
        let blocks = plan.kv_blocks.saturating_sub(1);
        self.blocks_total.store(blocks, Relaxed);
    }

    fn row(&self, rank: usize, account: Account) -> &Row {
        &self.ranks[rank].rows[account as usize]
    }

    pub fn planned(&self, rank: usize, account: Account) -> Bytes {
        Bytes::measured(self.row(rank, account).planned.load(Relaxed))
    }

    /// Charges bytes that are about to be mapped.
    ///
    /// # Errors
    /// [`Exceeded`] when the plan does not cover them; nothing is charged then.
    pub fn charge(&self, rank: usize, account: Account, bytes: Bytes) -> Result<(), Exceeded> {
        let (row, planned) = (self.row(rank, account), self.planned(rank, account));
        let take = |held: u64| {
            held.checked_add(bytes.get())
                .filter(|sum| *sum <= planned.get())
        };
        match row.reserved.fetch_update(Relaxed, Relaxed, take) {
            Ok(_) => Ok(()),
            Err(held) => Err(Exceeded {
                rank,
                account,
                planned,
                reserved: Bytes::measured(held),
                asked: bytes,
            }),
        }
    }

    /// Takes a charge back, after its memory was unmapped.
    ///
    /// # Panics
    /// When more is released than is charged.
    pub fn release(&self, rank: usize, account: Account, bytes: Bytes) {
        let row = self.row(rank, account);
        let give = |held: u64| held.checked_sub(bytes.get());
        let released = row.reserved.fetch_update(Relaxed, Relaxed, give);
        assert!(
            released.is_ok(),
            "rank {rank}: {} releases {bytes} it lacks",
            account.name()
        );
        let held = row.reserved.load(Relaxed);
        row.used.fetch_min(held, Relaxed);
    }

    /// What of an account holds something now; never more than is charged.
    pub fn set_used(&self, rank: usize, account: Account, bytes: Bytes) {
        let row = self.row(rank, account);
        let used = bytes.get().min(row.reserved.load(Relaxed));
        row.used.store(used, Relaxed);
        row.high_water.fetch_max(used, Relaxed);
    }

    /// All that is charged to an account holds something.
    pub fn set_all_used(&self, rank: usize, account: Account) {
        let reserved = self.row(rank, account).reserved.load(Relaxed);
        self.set_used(rank, account, Bytes::measured(reserved));
    }

    /// What a request's ranks stream, from now on in the snapshots.
    pub fn offloading(mut self, request: &Request, plan: &Plan) -> Ledger {
        for (rank, planned) in self.ranks.iter_mut().zip(plan.offload(request)) {
            rank.stream = Stream::of(&planned, request.backend);
        }
        self
    }

    /// Counts what a rank streamed.
    pub fn count_streamed(&self, rank: usize, streamed: &Streamed) {
        if let Some(stream) = &self.ranks[rank].stream {
            stream.count(streamed);
        }
    }

    /// Tokens per KV block.
    pub fn block_size(&self) -> u32 {
        self.block_size
    }

    /// The block pool's figures after a step; cheap enough for every step.
    pub fn set_kv(&self, blocks_used: u32, blocks_cached: u32, slots_wasted: u64) {
        self.blocks_used.store(blocks_used, Relaxed);
        self.blocks_cached.store(blocks_cached, Relaxed);
        self.slots_wasted.store(slots_wasted, Relaxed);
        for (index, rank) in self.ranks.iter().enumerate() {
            let used = rank.block_bytes.saturating_mul(u64::from(blocks_used));
            self.set_used(index, Account::KvCache, used);
        }
    }

    /// Remembers where an arena lies, so that the kernel can be asked what of it is resident.
    pub fn add_mapping(&self, rank: usize, account: Account, address: usize, len: Bytes) {
        let mut residents = self
            .residents
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match account.on_device() {
            true => residents.add(rank, address, len),
            false => residents.add_host(rank, address, len),
        }
    }

    /// Pages came or went: the next snapshot asks the kernel, however fresh its last answer is.
    pub fn mapping_changed(&self) {
        self.residents
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .forget();
    }

    /// All rows at this moment. Reads `/proc/self/smaps`, at most once a second while no pages
    /// come or go.
    pub fn snapshot(&self) -> LedgerSnapshot {
        let driver = self
            .residents
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .read();
        let slots_wasted = self.slots_wasted.load(Relaxed);
        let kv = KvUsage {
            blocks_total: self.blocks_total.load(Relaxed),
            blocks_used: self.blocks_used.load(Relaxed),
            blocks_cached: self.blocks_cached.load(Relaxed),
            block_size: self.block_size,
            slots_wasted,
        };
        let ranks = self.ranks.iter().enumerate().map(|(index, rank)| {
            let resident = (driver[index], driver[self.ranks.len() + index]);
            rank.snapshot(index, resident, slots_wasted, self.block_size)
        });
        LedgerSnapshot {
            ranks: ranks.collect(),
            kv,
        }
    }
}

impl Rank {
    fn snapshot(
        &self,
        index: usize,
        (driver, host): (Bytes, Bytes),
        wasted: u64,
        block_size: u32,
    ) -> RankLedger {
        let rows = Account::ALL
            .iter()
            .zip(&self.rows)
            .map(|(account, row)| AccountRow {
                account: *account,
                planned: Bytes::measured(row.planned.load(Relaxed)),
                reserved: Bytes::measured(row.reserved.load(Relaxed)),
                used: Bytes::measured(row.used.load(Relaxed)),
                high_water: Bytes::measured(row.high_water.load(Relaxed)),
            });
        let accounts: Vec<AccountRow> = rows
            .filter(|row| row.planned > Bytes::ZERO || row.reserved > Bytes::ZERO)
            .collect();
        let on_device = accounts.iter().filter(|row| row.account.on_device());
        let reserved: Bytes = on_device.map(|row| row.reserved).sum();
        let May { budget, quota } = *self.may.lock().unwrap_or_else(PoisonError::into_inner);
        let slot_bytes = self.block_bytes.get() / u64::from(block_size.max(1));
        RankLedger {
            rank: u32::try_from(index).unwrap_or(u32::MAX),
            budget,
            quota,
            accounts,
            driver,
            other: driver.get().cast_signed() - reserved.get().cast_signed(),
            kv_wasted: Bytes::measured(slot_bytes.saturating_mul(wasted)),
            host,
            offload: self.stream.as_ref().map(Stream::usage),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::story::Dice;
    use plimsoll_planner::{RankPlan, Shard};

    fn ledger() -> Ledger {
        let shard = Shard {
            kv_heads: 0..1,
            query_heads: 0..1,
            mlp_columns: 0..1,
            vocab_rows: 0..1,
        };
        let accounts = vec![
            (Account::Weights, Bytes::measured(1000)),
            (Account::KvCache, Bytes::measured(640)),
        ];
        let rank = |rank| RankPlan {
            rank,
            shard: shard.clone(),
            budget: Bytes::measured(2000),
            accounts: accounts.clone(),
        };
        let plan = Plan {
            ranks: vec![rank(0), rank(1)],
            kv_blocks: 10,
            kv_tokens: 144,
            max_model_len: 64,
        };
        let capacities = [RankCapacity {
            quota: None,
            total: None,
        }; 2];
        Ledger::new(&plan, &capacities, 16, &[Bytes::measured(64); 2])
    }

    #[test]
    fn a_charge_past_the_plan_is_refused_with_the_numbers_and_changes_nothing() {
        let ledger = ledger();
        let charge = |bytes| ledger.charge(1, Account::Weights, Bytes::measured(bytes));
        charge(600).unwrap();
        let error = charge(401).unwrap_err();
        assert_eq!(error.reserved, Bytes::measured(600));
        let text = error.to_string();
        assert!(
            text.contains("rank 1") && text.contains("Weights"),
            "{text}"
        );
        charge(400).unwrap();
        assert!(
            ledger.charge(0, Account::Comm, Bytes::measured(1)).is_err(),
            "not planned at all"
        );
    }

    #[test]
    fn random_stories_keep_used_within_reserved_within_planned() {
        for seed in 0..50 {
            let mut dice = Dice(seed);
            let ledger = ledger();
            let (mut held, mut high) = (0u64, 0);
            for _ in 0..300 {
                let bytes = dice.roll(400) as u64;
                match dice.roll(3) {
                    0 => {
                        let charged = ledger
                            .charge(0, Account::Weights, Bytes::measured(bytes))
                            .is_ok();
                        assert_eq!(charged, held + bytes <= 1000, "seed {seed}");
                        held += if charged { bytes } else { 0 };
                    }
                    1 if bytes <= held => {
                        ledger.release(0, Account::Weights, Bytes::measured(bytes));
                        held -= bytes;
                    }
                    _ => {
                        ledger.set_used(0, Account::Weights, Bytes::measured(bytes));
                        high = high.max(bytes.min(held));
                    }
                }
                let row = &ledger.snapshot().ranks[0].accounts[0];
                assert_eq!(row.reserved, Bytes::measured(held));
                assert_eq!(row.high_water, Bytes::measured(high));
                assert!(row.used <= row.reserved && row.reserved <= row.planned);
            }
        }
    }

    #[test]
    fn kv_figures_are_blocks_times_bytes_on_every_rank() {
        let ledger = ledger();
        for rank in 0..2 {
            ledger
                .charge(rank, Account::KvCache, Bytes::measured(640))
                .unwrap();
        }
        ledger.set_kv(5, 2, 7);
        ledger.set_kv(3, 4, 7);
        let snapshot = ledger.snapshot();
        assert_eq!((snapshot.kv.blocks_total, snapshot.kv.blocks_used), (9, 3));
        for rank in snapshot.ranks {
            let row = rank.accounts.last().unwrap();
            assert_eq!(
                (row.used, row.high_water),
                (Bytes::measured(192), Bytes::measured(320))
            );
            assert_eq!(rank.kv_wasted, Bytes::measured(7 * 4));
        }
    }
}
