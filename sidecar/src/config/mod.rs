//! From flags or from the operator's JSON to one request, and to the plan that answers it.

use std::fs;
use std::path::{Path, PathBuf};

use plimsoll_crds::v1alpha1::convert;
use plimsoll_crds::v1alpha1::engine::{Backend, EngineConfig as Document, PlanStatus};
use plimsoll_crds::v1alpha1::report::Effective;
use plimsoll_planner::{
    Backend as PlanBackend, KvLayout, Limits, Plan, RankCapacity, Request, Utilization, plan_within,
};

use crate::args::{EngineArgs, MemoryArgs, ServeArgs};
use crate::error::BootError;
use crate::model::Model;

/// What is served and how it was asked for.
#[derive(Clone, Debug)]
pub struct Settings {
    pub model: PathBuf,
    /// At least one; the first is the canonical name.
    pub served: Vec<String>,
    /// Empty without an operator.
    pub revision: String,
    pub backend: Backend,
    pub memory: Asked,
}

/// The two ways to ask for memory.
#[derive(Clone, Debug)]
pub enum Asked {
    Flags(Box<MemoryArgs>),
    Document(Box<Document>),
}

/// A request, its plan, and the limits that follow.
#[derive(Clone, Debug)]
pub struct Planned {
    pub request: Request,
    pub plan: Plan,
}

impl Settings {
    /// Reads the configuration file, if there is one.
    ///
    /// # Errors
    /// [`BootError`] with the file and the position.
    pub fn read(args: &ServeArgs) -> Result<Settings, BootError> {
        let Some(path) = &args.config else {
            let model = args.model.clone().unwrap_or_default();
            return Ok(Settings {
                served: served_names(&args.engine, &model)?,
                model,
                revision: String::new(),
                backend: Backend::Cpu,
                memory: Asked::Flags(Box::new(args.memory.clone())),
            });
        };
        let text = fs::read_to_string(path).map_err(|source| BootError::File {
            path: path.clone(),
            source,
        })?;
        let document: Document =
            serde_json::from_str(&text).map_err(|source| BootError::Config {
                path: path.clone(),
                source,
            })?;
        if document.served_names.is_empty() {
            let message = format!("{}: servedNames: empty, one name is needed", path.display());
            return Err(BootError::Flag(message));
        }
        if document.backend != Backend::Cpu {
            let message = format!("{}: backend: this build has CPU only", path.display());
            return Err(BootError::Flag(message));
        }
        Ok(Settings {
            model: PathBuf::from(&document.model_path),
            served: document.served_names.clone(),
            revision: document.revision.clone(),
            backend: document.backend,
            memory: Asked::Document(Box::new(document)),
        })
    }

    /// Plans for the opened model and, with a document, checks digest and plan against it.
    ///
    /// # Errors
    /// [`BootError`]: another digest, a refusal with its numbers, another plan.
    pub fn plan(&self, model: &Model) -> Result<Planned, BootError> {
        let document = match &self.memory {
            Asked::Flags(flags) => return plan_flags(flags, model),
            Asked::Document(document) => document,
        };
        if document.digest != model.digest {
            return Err(BootError::Digest {
                expected: document.digest.clone(),
                found: model.digest.clone(),
            });
        }
        let request = convert::engine_request(document, model.shape.clone())?;
        let planned = solve(request)?;
        let ours = convert::plan_status(&planned.plan);
        match first_difference(&document.plan, &ours) {
            None => Ok(planned),
            Some(difference) => Err(BootError::PlanDiffers { difference }),
        }
    }
}

/// Plans as `serve MODEL` with the same flags would.
///
/// # Errors
/// [`BootError`]: flags that contradict each other, or a refusal with its numbers.
pub fn plan_flags(flags: &MemoryArgs, model: &Model) -> Result<Planned, BootError> {
    let dtype = flags.dtype.resolve(model.default_dtype);
    let request = Request {
        shape: model.shape.clone(),
        backend: PlanBackend::Cpu,
        dtype,
        kv: KvLayout {
            dtype: flags.kv_cache_dtype.resolve(dtype),
            block_size: flags.block_size,
            size: flags.kv_cache_size,
        },
        limits: Limits {
            max_model_len: flags.max_model_len,
            max_num_seqs: flags.max_num_seqs,
            max_num_batched_tokens: flags.max_num_batched_tokens,
        },
        utilization: utilization(flags.gpu_memory_utilization)?,
        ranks: quotas(flags)?,
    };
    let (request, plan) = plan_within(&request, flags.memory_limit).map_err(BootError::Refused)?;
    Ok(Planned { request, plan })
}

fn solve(request: Request) -> Result<Planned, BootError> {
    let plan = plimsoll_planner::plan(&request).map_err(BootError::Refused)?;
    Ok(Planned { request, plan })
}

impl Planned {
    /// The limits in force, as reports show them.
    pub fn effective(&self, isa: Option<String>) -> Effective {
        Effective {
            max_model_len: self.plan.max_model_len,
            max_num_seqs: self.request.limits.max_num_seqs,
            max_num_batched_tokens: self.request.limits.max_num_batched_tokens,
            dtype: self.request.dtype.into(),
            kv_dtype: self.request.kv.dtype.into(),
            kv_cache_tokens: self.plan.kv_tokens,
            isa,
        }
    }
}

/// One row per rank or none, as `spec.memory.gpuQuotas`.
fn quotas(flags: &MemoryArgs) -> Result<Vec<RankCapacity>, BootError> {
    let ranks = flags.tensor_parallel_size;
    let quota = |rank: u32| {
        let mut rows = flags.quota.iter().filter(|row| row.rank == rank);
        (rows.next().map(|row| row.bytes), rows.next().is_some())
    };
    if let Some(row) = flags
        .quota
        .iter()
        .find(|row| row.rank >= ranks || quota(row.rank).1)
    {
        let what = if row.rank >= ranks {
            "does not exist"
        } else {
            "has two quotas"
        };
        return Err(BootError::Flag(format!(
            "--quota: rank {} {what}; --tensor-parallel-size {ranks} has ranks 0 to {}",
            row.rank,
            ranks - 1
        )));
    }
    if !flags.quota.is_empty() && flags.quota.len() != ranks as usize {
        return Err(BootError::Flag(format!(
            "--quota: {} given for --tensor-parallel-size {ranks}; give one per rank, or none",
            flags.quota.len()
        )));
    }
    Ok((0..ranks)
        .map(|rank| RankCapacity {
            quota: quota(rank).0,
            total: None,
        })
        .collect())
}

/// A share in thousandths.
fn utilization(share: f64) -> Result<Utilization, BootError> {
    if !(0.05..=1.0).contains(&share) {
        return Err(BootError::Flag(format!(
            "--gpu-memory-utilization: {share} is not between 0.05 and 1"
        )));
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 50 and 1000"
    )]
    let thousandths = (share * 1000.0).round() as u32;
    Ok(Utilization(thousandths))
}

/// The names asked for, else the folder's or file's own.
fn served_names(args: &EngineArgs, model: &Path) -> Result<Vec<String>, BootError> {
    let names = &args.served_model_name;
    for (at, name) in names.iter().enumerate() {
        if names[..at].contains(name) {
            let message = format!("--served-model-name: {name} is there twice; give it once");
            return Err(BootError::Flag(message));
        }
    }
    if !names.is_empty() {
        return Ok(names.clone());
    }
    let path = model.canonicalize().unwrap_or_else(|_| model.to_owned());
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    let name = name.unwrap_or_else(|| "model".into());
    Ok(vec![name.strip_suffix(".gguf").unwrap_or(&name).to_owned()])
}

/// Where two plans part, with both numbers; None when they are equal.
fn first_difference(theirs: &PlanStatus, ours: &PlanStatus) -> Option<String> {
    if theirs == ours {
        return None;
    }
    let differ = |what: &str, theirs: &dyn std::fmt::Display, ours: &dyn std::fmt::Display| {
        Some(format!("{what} is {theirs} there, {ours} here"))
    };
    if theirs.ranks.len() != ours.ranks.len() {
        return differ(
            "the number of ranks",
            &theirs.ranks.len(),
            &ours.ranks.len(),
        );
    }
    for (theirs, ours) in theirs.ranks.iter().zip(&ours.ranks) {
        let rank = ours.rank;
        if theirs.budget_bytes != ours.budget_bytes {
            let what = format!("the budget of rank {rank} (bytes)");
            return differ(&what, &theirs.budget_bytes, &ours.budget_bytes);
        }
        for (what, theirs, ours) in [
            ("kvHeads", theirs.kv_heads, ours.kv_heads),
            ("queryHeads", theirs.query_heads, ours.query_heads),
            ("mlpColumns", theirs.mlp_columns, ours.mlp_columns),
            ("vocabRows", theirs.vocab_rows, ours.vocab_rows),
        ] {
            if theirs != ours {
                let span = |span: plimsoll_crds::v1alpha1::engine::Span| {
                    format!("{}..{}", span.start, span.end)
                };
                return differ(
                    &format!("{what} of rank {rank}"),
                    &span(theirs),
                    &span(ours),
                );
            }
        }
        let bytes = |plan: &plimsoll_crds::v1alpha1::engine::RankPlanStatus, name: &str| {
            plan.accounts
                .iter()
                .find(|row| row.name == name)
                .map_or(0, |row| row.planned_bytes)
        };
        for row in ours.accounts.iter().chain(&theirs.accounts) {
            let (a, b) = (bytes(theirs, &row.name), bytes(ours, &row.name));
            if a != b {
                return differ(&format!("{} of rank {rank} (bytes)", row.name), &a, &b);
            }
        }
    }
    if theirs.kv_blocks != ours.kv_blocks {
        return differ(
            "the number of KV blocks",
            &theirs.kv_blocks,
            &ours.kv_blocks,
        );
    }
    if theirs.max_model_len != ours.max_model_len {
        return differ("maxModelLen", &theirs.max_model_len, &ours.max_model_len);
    }
    differ(
        "the number of KV tokens",
        &theirs.kv_tokens,
        &ours.kv_tokens,
    )
}

#[cfg(test)]
mod tests;
