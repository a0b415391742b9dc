//! Planted faults of ranks, for tests: proof that the proof of a wake can fail.
//!
//! A fault lies in a rank's way and happens once, at its moment.

mod named;
pub(crate) mod tests;

use std::sync::{Mutex, PoisonError};

use crate::forward::Forward;
use crate::forward::cpu::CpuRank;
use crate::forward::resize::NewCache;

/// When a fault happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// Memory is back and filled.
    Restored,
    /// Memory is back and filled, but for one tensor, which is what fresh memory is.
    Unfilled,
    /// Before the next step: checksums are taken already.
    Step,
    /// The cache is about to grow, and may not.
    Growth,
    /// Held blocks are about to move, and do not.
    Move,
    /// Adapters are about to be merged, and are not.
    Merge,
    /// From now on other weights leave prefixes and their names as they are.
    Update,
}

/// What goes wrong on which rank.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) rank: usize,
    pub(crate) moment: Moment,
    /// The tensor of which a byte flips; None: the restore is refused.
    pub(crate) tensor: Option<&'static str>,
}

#[derive(Debug, Default)]
pub(crate) struct Sabotage(Mutex<Option<Fault>>);

impl Sabotage {
    pub(crate) fn plan(&self, fault: Fault) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
    }

    /// Whether weights come without a new name for what is computed of them.
    pub(super) fn keeps_prefixes(&self) -> bool {
        let planned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        planned.is_some_and(|fault| fault.moment == Moment::Update)
    }

    /// Whether a rank says that it wrote weights, and wrote none.
    pub(super) fn skips_merge(&self, rank: usize) -> bool {
        let mut planned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = |fault: &mut Fault| (fault.rank, fault.moment) == (rank, Moment::Merge);
        planned.take_if(is_it).is_some()
    }

    /// What a rank does that is told to resize so.
    pub(super) fn resized(&self, rank: usize, to: &NewCache) -> Result<NewCache, String> {
        let mut planned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut due = |moment| {
            let is_it = |fault: &mut Fault| (fault.rank, fault.moment) == (rank, moment);
            planned.take_if(is_it).is_some()
        };
        if due(Moment::Growth) {
            return Err("the memory is taken by somebody else".to_owned());
        }
        let mut to = to.clone();
        if !to.moves.is_empty() && due(Moment::Move) {
            to.moves.clear();
        }
        Ok(to)
    }

    /// Lets the planned fault happen, if it is one of this rank and moment.
    pub(super) fn strike(
        &self,
        rank: usize,
        moment: Moment,
        forward: &mut Forward<CpuRank>,
    ) -> Result<(), String> {
        let mut planned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = |fault: &Fault| {
            let unfilled = fault.moment == Moment::Unfilled && moment == Moment::Restored;
            fault.rank == rank && (fault.moment == moment || unfilled)
        };
        match planned.take_if(|fault| is_due(fault)) {
            Some(Fault {
                tensor: Some(tensor),
                moment,
                ..
            }) => {
                match moment {
                    Moment::Unfilled => forward.unfill(tensor),
                    Moment::Restored | Moment::Step => forward.flip(tensor),
                    Moment::Growth | Moment::Move | Moment::Merge | Moment::Update => {}
                }
                Ok(())
            }
            Some(_) => Err("the memory is taken by somebody else".to_owned()),
            None => Ok(()),
        }
    }
}
