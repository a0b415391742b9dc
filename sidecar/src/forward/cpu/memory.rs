//! A rank's memory on the processor: arenas as long as the layout says, and weights packed into
//! them as the kernels read them.

use std::ops::Range;

use plimsoll_kernels::block_copy;
use plimsoll_kernels::checksum;
use plimsoll_kernels::comm::Exchange;
use plimsoll_kernels::device::Device;
use plimsoll_kernels::pool::Pool;
use plimsoll_kernels::rope;
use plimsoll_kernels::sampling::Sampler;
use plimsoll_planner::scratch::Region;
use plimsoll_planner::{Account, Bytes};

use super::stream::Stream;
use super::{CpuRank, Slots};
use crate::cache::blocks::Move;
use crate::forward::backend::{HostAdapters, ReadRows, Store};
use crate::forward::handle::Handle;
use crate::forward::layers::Matrix;
use crate::forward::layout::Layout;
use crate::forward::products;
use crate::memory::arena::{Arena, ArenaError};
use crate::memory::ledger::Ledger;
use crate::model::{ModelError, ModelParams};

/// Where a rank's memory comes from, and the threads that work on it.
pub struct Host {
    pub device: &'static dyn Device,
    pub pool: Pool,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").finish_non_exhaustive()
    }
}

impl Store for CpuRank {
    type On = Host;
    type Exchange = Exchange;

    fn reserve(
        on: Host,
        ledger: &Ledger,
        rank: usize,
        layout: &Layout,
        blocks: u32,
    ) -> Result<(CpuRank, Exchange), ArenaError> {
        let Host { device, pool } = on;
        // A machine that does not say how much it has reserves what is planned.
        let total = device.most_memory().unwrap_or_default();
        let offload = &layout.offload;
        let arena = |account| {
            let sizes = match account {
                // The ring has arenas of its own.
                Account::Weights => [layout.bytes(account).saturating_sub(offload.ring()); 2],
                _ => [layout.bytes(account), layout.most(account, total)],
            };
            Arena::reserve(device, ledger, rank, account, sizes.into())
        };
        let stream = match offload.layers {
            0 => None,
            _ => Some(Stream::reserve(device, ledger, rank, offload)?),
        };
        let (comm, exchange) = arena(Account::Comm)?.share();
        let mut reserved = CpuRank {
            weights: arena(Account::Weights)?,
            stream,
            kv: arena(Account::KvCache)?,
            activations: arena(Account::Activations)?,
            workspaces: arena(Account::Workspaces)?,
            adapters: arena(Account::Adapters)?,
            comm,
            kv_shape: layout.kv,
            cache: layout.cache,
            scratch: layout.scratch,
            beside: None,
            slots: Slots {
                ranks: vec![0; layout.adapters.slots.len() * layout.adapters.places.len()],
                at: layout.adapters.clone(),
                rows: 0,
            },
            products: products::of(layout.compute, layout.dtype, pool.isa()),
            pool,
            sampler: Sampler::default(),
            drawn: Vec::new(),
        };
        for account in Account::ALL {
            let bytes = match account {
                Account::KvCache => layout.cache_bytes(blocks),
                _ => layout.bytes(account),
            };
            let committed = reserved.restore(ledger, account, bytes);
            if let Err(error) = committed {
                for account in Account::ALL {
                    // Charges go with the pages, which the drop below gives back in any case.
                    let _ = reserved.release(ledger, account);
                }
                return Err(error);
            }
        }
        Ok((reserved, exchange))
    }

    fn holds(&self, account: Account, bytes: Bytes) -> bool {
        let (bytes, ring) = self.without_ring(account, bytes);
        let missing = |arena: &Arena| arena.missing(&(0..bytes.get()));
        let ring_held = ring == Bytes::ZERO || self.stream.as_ref().is_none_or(Stream::ring_held);
        ring_held && self.find(account).map_or(Bytes::ZERO, missing) == Bytes::ZERO
    }

    fn release(&mut self, ledger: &Ledger, account: Account) -> Result<Bytes, ArenaError> {
        let (arena, pool) = self.find_mut(account);
        let Some(arena) = arena else {
            return Ok(Bytes::ZERO);
        };
        let all = 0..arena.capacity().get();
        let mut given = arena.discard(ledger, pool, all)?;
        if let (Account::Weights, Some(stream)) = (account, &mut self.stream) {
            given += stream.discard_ring(ledger, &self.pool)?;
        }
        if account == Account::KvCache {
            // Tokens of sequences whose keys and values are gone: nothing may be carried over.
            self.drawn.clear();
            self.sampler = Sampler::default();
        }
        Ok(given)
    }

    fn restore(
        &mut self,
        ledger: &Ledger,
        account: Account,
        bytes: Bytes,
    ) -> Result<Bytes, ArenaError> {
        let (bytes, ring) = self.without_ring(account, bytes);
        let taken = match self.find_mut(account) {
            (Some(arena), pool) => arena.commit(ledger, pool, 0..bytes.get())?,
            (None, _) => Bytes::ZERO,
        };
        let Some(stream) = self.stream.as_mut().filter(|_| ring > Bytes::ZERO) else {
            return Ok(taken);
        };
        match stream.commit_ring(ledger, &self.pool) {
            Ok(ring) => Ok(taken + ring),
            Err(error) => {
                // The ring means nothing by itself: the account comes whole or not at all.
                let _ = stream.discard_ring(ledger, &self.pool);
                if taken > Bytes::ZERO {
                    let _ = self.weights.discard(ledger, &self.pool, 0..bytes.get());
                }
                Err(error)
            }
        }
    }

    fn trim(
        &mut self,
        ledger: &Ledger,
        account: Account,
        bytes: Bytes,
    ) -> Result<Bytes, ArenaError> {
        match self.find_mut(account) {
            (Some(arena), pool) => {
                let tail = bytes.get()..arena.capacity().get();
                arena.discard(ledger, pool, tail)
            }
            (None, _) => Ok(Bytes::ZERO),
        }
    }

    fn copy_blocks(&mut self, moves: &[Move]) {
        let pairs: Vec<(u32, u32)> = moves.iter().map(|one| (one.from, one.to)).collect();
        block_copy::run(self.kv.all_mut(self.cache.region), &self.kv_shape, &pairs);
    }

    fn reach(&mut self, layout: &Layout) {
        (self.kv_shape, self.cache) = (layout.kv, layout.cache);
    }

    fn derive(&mut self, params: &ModelParams) {
        let tables = [self.scratch.rope_cos.region, self.scratch.rope_sin.region];
        let [mut cos, mut sin] = self.workspaces.apart(tables);
        let head_dim = self.kv_shape.head_dim;
        let (cos, sin) = (cos.all_mut(), sin.all_mut());
        rope::table(&self.pool, &params.rope, head_dim, cos, sin);
    }

    fn clear(&mut self, tensor: Handle) {
        self.held_mut(tensor).fill(0);
    }

    fn write(&mut self, to: Handle, first: usize, numbers: &[f32]) {
        let (Some(arena), _) = self.find_mut(to.arena) else {
            unreachable!("{} holds no tensors", to.arena.name())
        };
        arena.all_mut::<f32>(to.region)[first..first + numbers.len()].copy_from_slice(numbers);
    }

    fn lay_beside(
        &mut self,
        adapters: Option<Box<dyn HostAdapters>>,
    ) -> Option<Box<dyn HostAdapters>> {
        std::mem::replace(&mut self.beside, adapters)
    }

    fn set_ranks(&mut self, slot: usize, ranks: &[u32]) {
        let first = slot * self.slots.at.places.len();
        self.slots.ranks[first..first + ranks.len()].copy_from_slice(ranks);
    }

    fn fill(
        &mut self,
        to: &Matrix,
        rows: Range<usize>,
        read: &ReadRows<'_>,
    ) -> Result<(), ModelError> {
        let (Some(arena), pool) = self.find_mut(to.weight.arena) else {
            unreachable!("{to:?} is no weight")
        };
        super::fill::run(pool, arena.all_mut(to.weight.region), to, rows, read)
    }

    fn checksums(&self, of: &[Handle]) -> Vec<u64> {
        let tensors: Vec<&[u8]> = of.iter().map(|tensor| self.held(*tensor)).collect();
        checksum::run_all(&self.pool, &tensors)
    }

    fn copies(&self, of: &[Handle]) -> Vec<Option<u64>> {
        let Some(stream) = &self.stream else {
            return vec![None; of.len()];
        };
        let is_streamed = |tensor: &&Handle| tensor.arena == Account::Offload;
        let streamed: Vec<Region> = of.iter().filter(is_streamed).map(|of| of.region).collect();
        let sums = |copies: &[&[u8]]| checksum::run_all(&self.pool, copies);
        let mut found = stream.copies(&streamed, sums).into_iter();
        let copy = |tensor: &Handle| {
            is_streamed(&tensor)
                .then(|| found.next())
                .flatten()
                .flatten()
        };
        of.iter().map(copy).collect()
    }
}

impl CpuRank {
    /// An account's bytes as those of its arena and those of the ring.
    fn without_ring(&self, account: Account, bytes: Bytes) -> (Bytes, Bytes) {
        let ring = match (account, &self.stream) {
            (Account::Weights, Some(stream)) => stream.ring_bytes(),
            _ => Bytes::ZERO,
        };
        (bytes.saturating_sub(ring), ring)
    }

    fn find(&self, account: Account) -> Option<&Arena> {
        match account {
            Account::Weights => Some(&self.weights),
            Account::KvCache => Some(&self.kv),
            Account::Activations => Some(&self.activations),
            Account::Workspaces => Some(&self.workspaces),
            Account::Comm => Some(&self.comm),
            Account::Offload => self.stream.as_ref().map(Stream::home),
            Account::Adapters => Some(&self.adapters),
            // A processor has no driver.
            Account::Graphs | Account::Context => None,
        }
    }

    fn find_mut(&mut self, account: Account) -> (Option<&mut Arena>, &Pool) {
        let arena = match account {
            Account::Weights => Some(&mut self.weights),
            Account::KvCache => Some(&mut self.kv),
            Account::Activations => Some(&mut self.activations),
            Account::Workspaces => Some(&mut self.workspaces),
            Account::Comm => Some(&mut self.comm),
            Account::Offload => self.stream.as_mut().map(Stream::home_mut),
            Account::Adapters => Some(&mut self.adapters),
            Account::Graphs | Account::Context => None,
        };
        (arena, &self.pool)
    }

    fn held(&self, tensor: Handle) -> &[u8] {
        let Some(arena) = self.find(tensor.arena) else {
            unreachable!("{} holds no tensors", tensor.arena.name())
        };
        arena.all(tensor.region)
    }

    pub(in crate::forward) fn held_mut(&mut self, tensor: Handle) -> &mut [u8] {
        let (Some(arena), _) = self.find_mut(tensor.arena) else {
            unreachable!("{} holds no tensors", tensor.arena.name())
        };
        arena.all_mut(tensor.region)
    }
}
