//! From flags or from the operator's documents to one request, and to the plan that answers it.

mod documents;
mod slots;
mod standing;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use plimsoll_crds::v1alpha1::adapters::AdapterValidationMode;
use plimsoll_crds::v1alpha1::boot::BootAdapter;
use plimsoll_crds::v1alpha1::engine::Backend;
use plimsoll_crds::v1alpha1::model::ComputeDtype;
use plimsoll_crds::v1alpha1::report::Effective;
use plimsoll_kernels::linear::Products;
use plimsoll_planner::{
    Backend as PlanBackend, BlockFormat, KvLayout, Limits, Plan, RankCapacity, Request,
    Utilization, plan_within,
};

use crate::adapters::{AdapterPath, Dynamic, Validation};
use crate::args::{EngineArgs, MemoryArgs, ServeArgs};
use crate::engine::size::Size;
use crate::error::BootError;
use crate::model::Model;
pub use documents::Documents;
pub use slots::open_dynamic;
pub use standing::Standing;

/// What is served and how it was asked for.
#[derive(Clone, Debug)]
pub struct Settings {
    pub model: PathBuf,
    /// What is merged into it, in order.
    pub adapters: Vec<AdapterPath>,
    /// What requests choose from the start.
    pub dynamic: Vec<AdapterPath>,
    pub validation: Validation,
    /// At least one; the first is the canonical name.
    pub served: Vec<String>,
    /// Empty without an operator.
    pub revision: String,
    pub backend: Backend,
    pub memory: Asked,
}

fn adapter(of: &BootAdapter) -> AdapterPath {
    AdapterPath {
        name: of.name.clone(),
        path: PathBuf::from(&of.path),
        scale: of.scale,
    }
}

fn validation(mode: AdapterValidationMode) -> Validation {
    match mode {
        AdapterValidationMode::Enforce => Validation::Enforce,
        AdapterValidationMode::Report => Validation::Report,
        AdapterValidationMode::Off => Validation::Off,
    }
}

/// The two ways to ask for memory.
#[derive(Clone, Debug)]
pub enum Asked {
    Flags(Box<MemoryArgs>),
    Documents(Box<Documents>),
}

/// A request, its plan, and the limits that follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    pub request: Request,
    pub plan: Plan,
}

impl Settings {
    /// Reads the folder with the operator's documents, if there is one.
    ///
    /// # Errors
    /// [`BootError`] with the file and the position.
    pub fn read(args: &ServeArgs) -> Result<Settings, BootError> {
        let Some(folder) = &args.config else {
            let model = args.model.clone().unwrap_or_default();
            return Ok(Settings {
                served: served_names(&args.engine, &model)?,
                model,
                adapters: args.adapters.merged(),
                dynamic: args.adapters.dynamic(),
                validation: args.adapter_validation.into(),
                revision: String::new(),
                backend: Backend::Cpu,
                memory: Asked::Flags(Box::new(
                    args.memory
                        .with_room_for(&args.adapters, &args.http.adapter_root),
                )),
            });
        };
        let documents = Documents::read(folder)?;
        let boot = &documents.boot;
        Ok(Settings {
            model: PathBuf::from(&boot.model_path),
            adapters: boot.adapters.iter().map(adapter).collect(),
            dynamic: Vec::new(),
            validation: validation(boot.adapter_validation),
            served: boot.served_names.clone(),
            revision: boot.revision.clone(),
            backend: boot.backend,
            memory: Asked::Documents(Box::new(documents)),
        })
    }

    /// Plans for the opened model; the operator's digest, split and plan are checked.
    ///
    /// # Errors
    /// [`BootError`]: another digest, a refusal with its numbers, another plan.
    pub fn plan(&self, model: &Model, dynamic: &[Arc<Dynamic>]) -> Result<Planned, BootError> {
        match &self.memory {
            Asked::Flags(flags) => plan_flags_with(flags, model, dynamic),
            Asked::Documents(documents) => documents.plan(model),
        }
    }
}

/// Plans as `serve MODEL` with the same flags would.
///
/// # Errors
/// [`BootError`]: flags that contradict each other, or a refusal with its numbers.
pub fn plan_flags(flags: &MemoryArgs, model: &Model) -> Result<Planned, BootError> {
    plan_flags_with(flags, model, &[])
}

/// The same with adapters that requests choose.
///
/// # Errors
/// As [`plan_flags`]; where there is no room for these adapters.
pub fn plan_flags_with(
    flags: &MemoryArgs,
    model: &Model,
    dynamic: &[Arc<Dynamic>],
) -> Result<Planned, BootError> {
    let dtype = flags.dtype.resolve(model.default_dtype);
    let request = Request {
        shape: model.shape.clone(),
        backend: PlanBackend::Cpu,
        dtype,
        quantization: flags
            .quantization
            .with(flags.quantization_group_size)
            .map_err(BootError::Flag)?,
        compute: flags.quantization_compute.into(),
        kv: KvLayout {
            dtype: flags.kv_cache_dtype.resolve(dtype),
            block_size: flags.block_size,
            size: flags.kv_cache_size,
        },
        cpu_offload: flags.cpu_offload,
        adapters: slots::of(flags, dynamic)?,
        limits: Limits {
            max_model_len: flags.max_model_len,
            max_num_seqs: flags.max_num_seqs,
            max_num_batched_tokens: flags.max_num_batched_tokens,
        },
        utilization: utilization(flags)?,
        ranks: quotas(flags)?,
    };
    let (request, plan) =
        plan_within(&request, flags.memory_limit).map_err(BootError::FlagsRefused)?;
    Ok(Planned { request, plan })
}

impl Planned {
    /// What an engine of this plan is resized to.
    pub fn size(&self) -> Size {
        Size {
            plan: self.plan.clone(),
            capacities: self.request.ranks.clone(),
        }
    }

    /// Blocks that matrices stay in, each once.
    pub fn formats(&self) -> Vec<BlockFormat> {
        let request = &self.request;
        request.kept().all(request.shape.layers).formats()
    }

    /// The limits in force, as reports show them, and how an engine computes.
    pub fn effective(&self, isa: Option<String>, products: Products) -> Effective {
        let formats = self.formats();
        let compute_dtype = match products {
            _ if !self.request.multiplies_blocks() => None,
            Products::Int8 => Some(ComputeDtype::Int8),
            Products::Int16 => Some(ComputeDtype::Int16),
            Products::Exact => Some(ComputeDtype::Exact),
        };
        Effective {
            compute_dtype,
            max_model_len: self.plan.max_model_len,
            max_num_seqs: self.request.limits.max_num_seqs,
            max_num_batched_tokens: self.request.limits.max_num_batched_tokens,
            dtype: self.request.dtype.into(),
            blocks: formats.into_iter().map(Into::into).collect(),
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

/// A share without a flag.
const UTILIZATION: f64 = 0.9;

/// A share in thousandths. Of nothing it is no mistake, as commands are copied, but it is told.
fn utilization(flags: &MemoryArgs) -> Result<Utilization, BootError> {
    let given = flags.gpu_memory_utilization;
    if given.is_some() && !shares_a_limit(flags) {
        tracing::warn!("{SHARE_OF_NOTHING}");
    }
    let share = given.unwrap_or(UTILIZATION);
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

const SHARE_OF_NOTHING: &str = "--gpu-memory-utilization changes nothing here: it is a share of what \
    --memory-limit leaves to ranks without a --quota";

/// Whether ranks share what a limit leaves them.
fn shares_a_limit(flags: &MemoryArgs) -> bool {
    flags.memory_limit.is_some() && flags.quota.is_empty()
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

#[cfg(test)]
mod tests;
