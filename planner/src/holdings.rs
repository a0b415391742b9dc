//! What one rank holds under a split, account by account.

use crate::account::Account;
use crate::adapters;
use crate::bytes::Bytes;
use crate::kv_cache;
use crate::offload;
use crate::request::Request;
use crate::scratch;
use crate::shard::Shard;
use crate::split;

/// The accounts of one rank that are not zero, each rounded up to the backend's granule, when the
/// KV cache has `blocks` blocks and a null block.
pub(crate) fn rank_accounts(
    request: &Request,
    rank: usize,
    shard: &Shard,
    blocks: u64,
) -> Vec<(Account, Bytes)> {
    let context = split::max_model_len(request, blocks);
    accounts_at(request, (rank, shard), blocks, context)
}

/// The same with workspaces for a context of `context` tokens, whatever the cache reaches.
pub(crate) fn accounts_at(
    request: &Request,
    (rank, shard): (usize, &Shard),
    blocks: u64,
    context: u32,
) -> Vec<(Account, Bytes)> {
    let Request {
        shape,
        backend,
        kv,
        limits,
        ..
    } = request;
    let offload = offload::of(request, shard);
    let granule = scratch::granule(*backend);
    let ranks = request.rank_count();
    let index = u32::try_from(rank).unwrap_or(u32::MAX);
    let driver = scratch::driver(*backend, ranks);
    let bytes = |account: Account| match account {
        Account::Weights => {
            let resident = offload::layout(request, shard, index).total();
            resident.round_up(granule) + offload.ring()
        }
        Account::KvCache => kv_cache::block_bytes(shape, shard, kv).saturating_mul(blocks + 1),
        Account::Activations => scratch::activations(request, shard).total(),
        Account::Graphs => driver.graphs,
        Account::Comm => scratch::comm(shape, limits, ranks).total() + driver.comm,
        Account::Workspaces => scratch::workspaces(request, shard, context).total(),
        Account::Adapters => adapters::total(shape, shard, limits, request.adapters),
        Account::Context => driver.context,
        Account::Offload => offload.host(),
    };
    Account::ALL
        .into_iter()
        .map(|account| (account, bytes(account).round_up(granule)))
        .filter(|(_, bytes)| *bytes > Bytes::ZERO)
        .collect()
}

pub(crate) fn of(accounts: &[(Account, Bytes)], wanted: Account) -> Bytes {
    accounts
        .iter()
        .filter(|(account, _)| *account == wanted)
        .map(|(_, bytes)| *bytes)
        .sum()
}

/// What counts against the budget.
pub(crate) fn total(accounts: &[(Account, Bytes)]) -> Bytes {
    let on_device = accounts.iter().filter(|(account, _)| account.on_device());
    on_device.map(|(_, bytes)| *bytes).sum()
}

/// Bytes of a rank that holds everything, `blocks` blocks of KV among it.
pub(crate) fn whole_model(request: &Request, blocks: u64) -> Bytes {
    total(&rank_accounts(
        request,
        0,
        &Shard::whole(&request.shape),
        blocks,
    ))
}
