//! The operator's two documents: what this engine is started with, and what it is told. Each has a
//! part of the operator's plan, and each part is computed again here.
//!
//! The split is that of a free plan for the budgets that `boot.json` says it was made for. The rest
//! is what the target's budgets leave with that split, whether they are the same budgets or newer
//! ones: a pod that starts again after its target has changed keeps its shards.

use std::fmt::Display;
use std::fs;
use std::path::Path;

use plimsoll_crds::names;
use plimsoll_crds::v1alpha1::boot::{BootSplit, RankSplit};
use plimsoll_crds::v1alpha1::engine::Backend;
use plimsoll_crds::v1alpha1::target::TargetRank;
use plimsoll_crds::v1alpha1::{Boot, Target, convert};
use plimsoll_planner::{Request, Shard, plan, refit};
use serde::de::DeserializeOwned;

use super::Planned;
use crate::error::BootError;
use crate::model::Model;

/// `boot.json` and `target.json`.
#[derive(Clone, Debug)]
pub struct Documents {
    pub boot: Boot,
    pub target: Target,
}

impl Documents {
    /// Reads both files of a folder.
    ///
    /// # Errors
    /// [`BootError`] with the file, and the position or the field.
    pub fn read(folder: &Path) -> Result<Documents, BootError> {
        if folder.is_file() {
            return Err(BootError::Flag(format!(
                "--config: {} is a file; name the folder with {} and {}",
                folder.display(),
                names::BOOT_KEY,
                names::TARGET_KEY
            )));
        }
        let boot: Boot = read(&folder.join(names::BOOT_KEY))?;
        let refused = |what: &str| {
            let path = folder.join(names::BOOT_KEY);
            Err(BootError::Flag(format!("{}: {what}", path.display())))
        };
        if boot.served_names.is_empty() {
            return refused("servedNames: empty, one name is needed");
        }
        if boot.backend != Backend::Cpu {
            return refused("backend: this build has CPU only");
        }
        Ok(Documents {
            target: read(&folder.join(names::TARGET_KEY))?,
            boot,
        })
    }

    /// The plan in force, once digest, split and plan are found to be what the operator says.
    ///
    /// # Errors
    /// [`BootError`]: another digest, a refusal with its numbers, another split or plan.
    pub fn plan(&self, model: &Model) -> Result<Planned, BootError> {
        let Documents { boot, target } = self;
        if boot.digest != model.digest {
            return Err(BootError::Digest {
                expected: boot.digest.clone(),
                found: model.digest.clone(),
            });
        }
        let request = convert::split_request(boot, model.shape.clone());
        let free = plan(&request).map_err(BootError::Refused)?;
        equal(split_difference(
            &boot.split,
            &convert::boot_split(&request, &free),
        ))?;
        let shards = convert::shards(&boot.split)?;
        told(boot, &shards, target, model)
    }
}

/// The plan of a target for an engine that was started with `boot`.
fn told(
    boot: &Boot,
    shards: &[Shard],
    target: &Target,
    model: &Model,
) -> Result<Planned, BootError> {
    let request: Request = convert::target_request(boot, target, model.shape.clone())?;
    let plan = refit(&request, shards, boot.split.max_model_len).map_err(|refusal| {
        BootError::TargetRefused {
            generation: target.generation,
            refusal,
        }
    })?;
    let asked = (target.generation, target.gpu_memory_utilization);
    let ours = convert::target(&request, &plan, asked);
    equal(target_difference(target, &ours))?;
    Ok(Planned { request, plan })
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T, BootError> {
    let text = fs::read_to_string(path).map_err(|source| BootError::File {
        path: path.to_owned(),
        source,
    })?;
    serde_json::from_str(&text).map_err(|source| BootError::Config {
        path: path.to_owned(),
        source,
    })
}

fn equal(difference: Option<String>) -> Result<(), BootError> {
    match difference {
        None => Ok(()),
        Some(difference) => Err(BootError::PlanDiffers { difference }),
    }
}

fn differ(what: &str, theirs: &dyn Display, ours: &dyn Display) -> Option<String> {
    Some(format!("{what} is {theirs} there, {ours} here"))
}

/// Where two splits part, with both numbers; None when they are equal.
fn split_difference(theirs: &BootSplit, ours: &BootSplit) -> Option<String> {
    if theirs == ours {
        return None;
    }
    if let Some(difference) = row_counts(theirs.ranks.len(), ours.ranks.len()) {
        return Some(difference);
    }
    for (theirs, ours) in theirs.ranks.iter().zip(&ours.ranks) {
        let parts = |row: &RankSplit| {
            let RankSplit {
                rank: _,
                kv_heads,
                query_heads,
                mlp_columns,
                vocab_rows,
            } = *row;
            [
                ("kvHeads", kv_heads),
                ("queryHeads", query_heads),
                ("mlpColumns", mlp_columns),
                ("vocabRows", vocab_rows),
            ]
        };
        for ((what, theirs), (_, there)) in parts(theirs).into_iter().zip(parts(ours)) {
            if theirs != there {
                let what = format!("{what} of rank {}", ours.rank);
                let span = |[start, end]: [u32; 2]| format!("{start}..{end}");
                return differ(&what, &span(theirs), &span(there));
            }
        }
        if theirs.rank != ours.rank {
            return differ("the rank of a row", &theirs.rank, &ours.rank);
        }
    }
    differ("maxModelLen", &theirs.max_model_len, &ours.max_model_len)
}

/// Where two targets of one generation part in memory, with both numbers; None when they are equal.
/// No plan says who sleeps.
pub(super) fn target_difference(theirs: &Target, ours: &Target) -> Option<String> {
    if theirs.same_demand(ours) {
        return None;
    }
    if let Some(difference) = row_counts(theirs.ranks.len(), ours.ranks.len()) {
        return Some(difference);
    }
    for (theirs, ours) in theirs.ranks.iter().zip(&ours.ranks) {
        let rank = ours.rank;
        if theirs.budget_bytes != ours.budget_bytes {
            let what = format!("the budget of rank {rank} (bytes)");
            return differ(&what, &theirs.budget_bytes, &ours.budget_bytes);
        }
        let bytes = |row: &TargetRank, name: &str| {
            let mut accounts = row.accounts.iter();
            let account = accounts.find(|account| account.name == name);
            account.map_or(0, |account| account.planned_bytes)
        };
        for row in ours.accounts.iter().chain(&theirs.accounts) {
            let (a, b) = (bytes(theirs, &row.name), bytes(ours, &row.name));
            if a != b {
                return differ(&format!("{} of rank {rank} (bytes)", row.name), &a, &b);
            }
        }
        if theirs.accounts != ours.accounts {
            return Some(format!(
                "the accounts of rank {rank} are listed in another way"
            ));
        }
    }
    let (theirs, ours) = (&theirs.kv_cache, &ours.kv_cache);
    if theirs.blocks != ours.blocks {
        return differ("the number of KV blocks", &theirs.blocks, &ours.blocks);
    }
    differ("the number of KV tokens", &theirs.tokens, &ours.tokens)
}

fn row_counts(theirs: usize, ours: usize) -> Option<String> {
    (theirs != ours)
        .then(|| differ("the number of ranks", &theirs, &ours))
        .flatten()
}
