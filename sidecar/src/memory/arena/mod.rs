//! Arenas: one per account and rank, at an address that never changes.
//!
//! An arena reserves the address space of the most that it may ever hold, commits and gives back
//! ranges of it, and keeps its charge in the ledger and its pages in step: what fails leaves
//! neither. New pages are poisoned. Tensors are regions of an arena. The only caller of
//! `kernels::device`.

#[cfg(test)]
mod tests;

use std::ops::Range;

use plimsoll_kernels::comm::Exchange;
use plimsoll_kernels::device::{Buffer, Device, DeviceError, Pages, Part};
use plimsoll_kernels::element::Element;
use plimsoll_kernels::pool::Pool;
use plimsoll_planner::scratch::Region;
use plimsoll_planner::{Account, Bytes};

use super::ledger::{Exceeded, Ledger};

#[derive(Debug, thiserror::Error)]
pub enum ArenaError {
    #[error(transparent)]
    Exceeded(#[from] Exceeded),
    #[error("rank {rank}: account {}: {source}", account.name())]
    Device {
        rank: usize,
        account: Account,
        source: DeviceError,
    },
    #[error(
        "rank {rank}: account {} has address space for {capacity}, {asked} are asked for; it is \
         reserved at the start: restart the engine",
        account.name()
    )]
    OutOfReach {
        rank: usize,
        account: Account,
        capacity: Bytes,
        asked: Bytes,
    },
    #[error("rank {rank}: the thread that streams its weights: {source}")]
    Thread { rank: usize, source: std::io::Error },
}

/// An account's memory on one rank.
#[derive(Debug)]
pub struct Arena {
    rank: usize,
    account: Account,
    memory: Memory,
}

#[derive(Debug)]
enum Memory {
    Own(Buffer),
    /// Other ranks read it, too.
    Shared(Exchange),
}

impl Arena {
    /// Reserves address space for `most` bytes; where so much is refused, for those that are
    /// `planned`. Nothing is charged or committed.
    ///
    /// # Errors
    /// When the machine does not give the address space.
    pub fn reserve(
        device: &dyn Device,
        ledger: &Ledger,
        rank: usize,
        account: Account,
        (planned, most): (Bytes, Bytes),
    ) -> Result<Arena, ArenaError> {
        // Fewer, larger pages cost fewer misses; an arena smaller than one has small ones.
        let reserve = |bytes| device.reserve(bytes, Pages::Huge);
        let reserved = match reserve(most.max(planned)) {
            Err(error) if most > planned => {
                tracing::warn!(
                    rank,
                    account = account.name(),
                    planned_bytes = planned.get(),
                    reason = with_source(&error),
                    "the account cannot grow: only what is planned is reserved"
                );
                reserve(planned)
            }
            reserved => reserved,
        };
        let buffer = reserved.map_err(|source| ArenaError::Device {
            rank,
            account,
            source,
        })?;
        ledger.add_mapping(rank, account, buffer.address(), buffer.capacity());
        Ok(Arena {
            rank,
            account,
            memory: Memory::Own(buffer),
        })
    }

    /// Lets other ranks read the arena: its end for the group. It has no views any more.
    pub fn share(self) -> (Arena, Exchange) {
        let exchange = match self.memory {
            Memory::Own(buffer) => Exchange::new(buffer),
            Memory::Shared(exchange) => exchange,
        };
        let memory = Memory::Shared(exchange.clone());
        (Arena { memory, ..self }, exchange)
    }

    pub fn account(&self) -> Account {
        self.account
    }

    /// The address of the first byte; the same for as long as the arena lives.
    pub fn address(&self) -> usize {
        match &self.memory {
            Memory::Own(buffer) => buffer.address(),
            Memory::Shared(exchange) => exchange.address(),
        }
    }

    /// Bytes of address space: the most that can be committed.
    pub fn capacity(&self) -> Bytes {
        match &self.memory {
            Memory::Own(buffer) => buffer.capacity(),
            Memory::Shared(exchange) => exchange.capacity(),
        }
    }

    /// Bytes that have memory, which are those that are charged.
    pub fn committed(&self) -> Bytes {
        match &self.memory {
            Memory::Own(buffer) => buffer.committed(),
            Memory::Shared(exchange) => exchange.committed(),
        }
    }

    /// Bytes of a range that committing it would take.
    ///
    /// # Panics
    /// When the range is not whole granules or passes the end.
    pub fn missing(&self, range: &Range<u64>) -> Bytes {
        match &self.memory {
            Memory::Own(buffer) => buffer.missing(&sizes(range)),
            Memory::Shared(exchange) => exchange.missing(&sizes(range)),
        }
    }

    /// Charges, commits and poisons what is missing of a range, and tells how much that was. What
    /// is committed already stays as it is.
    ///
    /// # Errors
    /// When the range passes the address space, the plan does not cover the bytes, or the machine does
    /// not give them. Neither charge nor pages are left then.
    ///
    /// # Panics
    /// When the range is not whole granules.
    pub fn commit(
        &mut self,
        ledger: &Ledger,
        pool: &Pool,
        range: Range<u64>,
    ) -> Result<Bytes, ArenaError> {
        let (asked, capacity) = (Bytes::measured(range.end), self.capacity());
        if asked > capacity {
            return Err(ArenaError::OutOfReach {
                rank: self.rank,
                account: self.account,
                capacity,
                asked,
            });
        }
        let missing = self.missing(&range);
        ledger.charge(self.rank, self.account, missing)?;
        let committed = match &mut self.memory {
            Memory::Own(buffer) => buffer.commit_poisoned(pool, sizes(&range)),
            Memory::Shared(exchange) => exchange.commit_poisoned(pool, sizes(&range)),
        };
        if committed.is_err() {
            ledger.release(self.rank, self.account, missing);
        }
        self.changed(ledger);
        committed.map(|()| missing).map_err(|e| self.refused(e))
    }

    /// Gives the memory of a range back, takes its charge back, and tells how much that was.
    ///
    /// # Errors
    /// When the machine does not take it, or other ranks may read it. Charge and pages stay then,
    /// but not what the pages held.
    ///
    /// # Panics
    /// As [`Arena::missing`].
    pub fn discard(
        &mut self,
        ledger: &Ledger,
        pool: &Pool,
        range: Range<u64>,
    ) -> Result<Bytes, ArenaError> {
        let before = self.committed();
        let discarded = match &mut self.memory {
            Memory::Own(buffer) => buffer.discard(pool, sizes(&range)),
            Memory::Shared(exchange) => exchange.discard(pool, sizes(&range)),
        };
        let given = Bytes::measured(before.get() - self.committed().get());
        ledger.release(self.rank, self.account, given);
        self.changed(ledger);
        discarded.map(|()| given).map_err(|e| self.refused(e))
    }

    fn changed(&self, ledger: &Ledger) {
        ledger.mapping_changed();
        // The KV cache holds something once a sequence has blocks.
        if self.account != Account::KvCache {
            // An account may have several arenas.
            ledger.set_all_used(self.rank, self.account);
        }
    }

    fn refused(&self, source: DeviceError) -> ArenaError {
        ArenaError::Device {
            rank: self.rank,
            account: self.account,
            source,
        }
    }

    /// The first `count` numbers of a region.
    ///
    /// # Panics
    /// When the region is shorter, or not committed.
    pub fn first<T: Element>(&self, region: Region, count: usize) -> &[T] {
        self.own().range(start_of::<T>(region, count), count)
    }

    /// The first `count` numbers of a region, to write.
    ///
    /// # Panics
    /// As [`Arena::first`].
    pub fn first_mut<T: Element>(&mut self, region: Region, count: usize) -> &mut [T] {
        let start = start_of::<T>(region, count);
        self.own_mut().range_mut(start, count)
    }

    /// A region as numbers.
    ///
    /// # Panics
    /// When it is not committed.
    pub fn all<T: Element>(&self, region: Region) -> &[T] {
        self.first(region, size(region.bytes) / size_of::<T>())
    }

    /// A region as numbers to write.
    ///
    /// # Panics
    /// As [`Arena::all`].
    pub fn all_mut<T: Element>(&mut self, region: Region) -> &mut [T] {
        self.first_mut(region, size(region.bytes) / size_of::<T>())
    }

    /// Several regions at once.
    ///
    /// # Panics
    /// When two of them overlap, or one is not committed.
    pub fn apart<const N: usize>(&mut self, regions: [Region; N]) -> [Part<'_>; N] {
        let span = |of: Region| size(of.offset)..size(of.offset) + size(of.bytes);
        self.own_mut().disjoint_mut(regions.map(span))
    }

    fn own(&self) -> &Buffer {
        match &self.memory {
            Memory::Own(buffer) => buffer,
            Memory::Shared(_) => unreachable!("{} is read by the group alone", self.account.name()),
        }
    }

    fn own_mut(&mut self) -> &mut Buffer {
        match &mut self.memory {
            Memory::Own(buffer) => buffer,
            Memory::Shared(_) => unreachable!("{} is read by the group alone", self.account.name()),
        }
    }
}

fn start_of<T>(region: Region, count: usize) -> usize {
    let bytes = count.checked_mul(size_of::<T>());
    assert!(
        bytes.is_some_and(|bytes| bytes <= size(region.bytes)),
        "{count} numbers of {} bytes in {region:?}",
        size_of::<T>()
    );
    size(region.offset)
}

fn size(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

fn sizes(range: &Range<u64>) -> Range<usize> {
    size(range.start)..size(range.end)
}

fn with_source(error: &DeviceError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
