//! What a rank does when its memory comes back, or gets another size.

use std::sync::Arc;

use plimsoll_planner::Account;

use super::{ENDING, Moved, RankStart, with_sources};
use crate::adapters::Dynamic;
use crate::forward::cpu::CpuRank;
use crate::forward::resize::NewCache;
use crate::forward::{Forward, LoadError};
use crate::weights::TensorSource;

/// The inner error says why the cache did not grow. One that cannot shrink has moved its blocks
/// already, and ends its rank.
pub(super) fn resize(
    forward: &mut Forward<CpuRank>,
    start: &RankStart,
    to: &NewCache,
) -> Result<Result<Moved, String>, String> {
    let grows = to.blocks >= forward.kv_blocks();
    #[cfg(test)]
    let planted = start.shared.sabotage.resized(start.rank, to);
    #[cfg(test)]
    let to = match &planted {
        Ok(to) => to,
        Err(why) => return Ok(Err(why.clone())),
    };
    match forward.resize(&start.shared.ledger, to) {
        Ok(bytes) => Ok(Ok(Moved(vec![(Account::KvCache, bytes)]))),
        Err(error) if grows => Ok(Err(with_sources(&error))),
        Err(error) => Err(with_sources(&error)),
    }
}

/// What memory is filled from that comes back: the weights' files, if any have them, and adapters.
pub(super) type Sources<'a> = (Option<&'a dyn TensorSource>, &'a [Option<Arc<Dynamic>>]);

/// Takes memory again and fills it. On an error nothing is taken.
pub(super) fn restore(
    forward: &mut Forward<CpuRank>,
    start: &RankStart,
    from: Sources<'_>,
    accounts: &[Account],
) -> Result<Moved, String> {
    let RankStart { model, shared, .. } = start;
    let taken = forward
        .restore(&shared.ledger, &model.params, accounts)
        .map_err(|error| with_sources(&error))?;
    let Err(why) = fill(forward, start, from, accounts) else {
        return Ok(Moved(taken));
    };
    match forward.release(&shared.ledger, accounts) {
        Ok(_) => Err(why),
        Err(error) => Err(format!("{why}; and then: {}", with_sources(&error))),
    }
}

fn fill(
    forward: &mut Forward<CpuRank>,
    start: &RankStart,
    (source, residents): Sources<'_>,
    accounts: &[Account],
) -> Result<(), String> {
    let shared = &start.shared;
    let weights = accounts.contains(&Account::Weights);
    if weights && source.is_none() {
        forward.blank();
    }
    if let Some(source) = source.filter(|_| weights) {
        match forward.load(source, |_| !shared.inbox.is_ending()) {
            // What came back different is there: the proof of the wake names it.
            Ok(true) | Err(LoadError::Changed(_)) => {}
            Ok(false) => return Err(ENDING.to_owned()),
            Err(error) => return Err(with_sources(&error)),
        }
    }
    if accounts.contains(&Account::Adapters) {
        for (slot, adapter) in residents.iter().enumerate() {
            if let Some(adapter) = adapter {
                let filled = forward.refill_adapter(slot, adapter);
                filled.map_err(|error| with_sources(&error))?;
            }
        }
    }
    #[cfg(test)]
    shared.sabotage.strike(
        start.rank,
        crate::engine::sabotage::Moment::Restored,
        forward,
    )?;
    Ok(())
}
