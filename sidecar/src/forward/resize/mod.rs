//! A rank's half of a resize: its KV cache gets longer or shorter at its end.
//!
//! The cache is block-major, so blocks that stay keep their places, and what is held in a tail that
//! goes is copied before its memory is given back.

#[cfg(test)]
mod tests;

use plimsoll_planner::{Account, Bytes};

use super::Forward;
use super::backend::Store;
use crate::cache::blocks::Move;
use crate::memory::arena::ArenaError;
use crate::memory::ledger::Ledger;

/// The KV cache as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewCache {
    /// Blocks, the null block included.
    pub blocks: u32,
    /// Where blocks go that lie past them.
    pub moves: Vec<Move>,
    /// Its memory is there. Otherwise it is committed later, by a restore.
    pub held: bool,
}

impl<B: Store> Forward<B> {
    /// Blocks of the KV cache, the null block included.
    pub fn kv_blocks(&self) -> u32 {
        u32::try_from(self.layout.kv.blocks).unwrap_or(u32::MAX)
    }

    /// Takes or gives back the end of the KV cache, and tells how many bytes that were. No step may be
    /// under way.
    ///
    /// # Errors
    /// Of a growth: when the ledger's plan does not cover it, or the machine does not give the memory;
    /// the cache is then as before. Of a shrink: when the machine does not take it; blocks have moved
    /// by then.
    pub fn resize(&mut self, ledger: &Ledger, to: &NewCache) -> Result<Bytes, ArenaError> {
        let NewCache {
            blocks,
            moves,
            held,
        } = to;
        let before = self.kv_blocks();
        if *held && *blocks < before {
            self.backend.copy_blocks(moves);
        }
        self.layout.resize(*blocks);
        let bytes = self.layout.bytes(Account::KvCache);
        let moved = match (held, *blocks < before) {
            (false, _) => Ok(Bytes::ZERO),
            (true, true) => self.backend.trim(ledger, Account::KvCache, bytes),
            (true, false) => self.backend.restore(ledger, Account::KvCache, bytes),
        };
        if moved.is_err() && *blocks >= before {
            self.layout.resize(before);
        }
        self.backend.reach(&self.layout);
        moved
    }
}
