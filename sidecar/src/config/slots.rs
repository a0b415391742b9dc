//! How many adapters there is room for, and of which rank.

use std::sync::Arc;

use plimsoll_planner::AdapterSlots;

use crate::adapters::{AdapterPath, Dynamic};
use crate::args::MemoryArgs;
use crate::error::BootError;
use crate::model::{Model, ModelError};

/// The rank that there is room for where others may come and nobody says.
const RANK: u32 = 16;

/// Opens what requests are to choose, each under a name of its own.
///
/// # Errors
/// As [`Model::open_adapter`]; a name that is given twice.
pub fn open_dynamic(asked: &[AdapterPath], model: &Model) -> Result<Vec<Arc<Dynamic>>, ModelError> {
    let merged = model.adapters.iter().map(|of| &of.at.name);
    let mut names: Vec<&String> = merged.collect();
    let mut opened = Vec::with_capacity(asked.len());
    for at in asked {
        if names.contains(&&at.name) {
            return Err(ModelError::InvalidAdapter {
                adapter: at.name.clone(),
                message: "is given twice; give each its own name".to_owned(),
            });
        }
        names.push(&at.name);
        opened.push(Arc::new(model.open_adapter(at)?));
    }
    Ok(opened)
}

/// The slots that flags ask for, or that the adapters take.
pub(super) fn of(flags: &MemoryArgs, dynamic: &[Arc<Dynamic>]) -> Result<AdapterSlots, BootError> {
    let given = u32::try_from(dynamic.len()).unwrap_or(u32::MAX);
    let slots = flags.max_adapters.unwrap_or(given);
    if slots < given {
        let names: Vec<&str> = dynamic.iter().map(|of| of.at.name.as_str()).collect();
        return Err(BootError::Flag(format!(
            "--max-adapters: {slots}, and {given} dynamic adapters are given ({}); allow as many, or \
             merge some",
            names.join(", ")
        )));
    }
    let largest = dynamic.iter().max_by_key(|of| of.rank);
    // Where there is room for others, nobody knows of which rank they will be.
    let least = if slots > given { RANK } else { 1 };
    let needed = largest.map_or(least, |of| of.rank.max(least));
    let rank = flags.max_rank.unwrap_or(needed);
    match largest {
        Some(of) if of.rank > rank => Err(BootError::Flag(format!(
            "--max-rank: {rank}, and adapter `{}` has rank {}; allow as much, or merge it",
            of.at.name, of.rank
        ))),
        Some(_) | None if slots == 0 => Ok(AdapterSlots::NONE),
        Some(_) | None => Ok(AdapterSlots { slots, rank }),
    }
}
