//! The words of the API and the planner's own: dtypes, architectures, backends, refusals.

use plimsoll_planner::request::Backend as PlanBackend;
use plimsoll_planner::{
    Architecture as PlanArchitecture, Dtype as PlanDtype, KvDtype as PlanKvDtype,
};

use super::engine::Backend;
use super::facts::{Architecture, Dtype};
use super::kv_cache::{KvDtype, KvDtypeChoice};
use super::model::DtypeChoice;
use super::spec::BackendChoice;

impl From<PlanDtype> for Dtype {
    fn from(dtype: PlanDtype) -> Dtype {
        match dtype {
            PlanDtype::Float32 => Dtype::Float32,
            PlanDtype::BFloat16 => Dtype::BFloat16,
            PlanDtype::Float16 => Dtype::Float16,
        }
    }
}

impl From<Dtype> for PlanDtype {
    fn from(dtype: Dtype) -> PlanDtype {
        match dtype {
            Dtype::Float32 => PlanDtype::Float32,
            Dtype::BFloat16 => PlanDtype::BFloat16,
            Dtype::Float16 => PlanDtype::Float16,
        }
    }
}

impl From<PlanKvDtype> for KvDtype {
    fn from(dtype: PlanKvDtype) -> KvDtype {
        match dtype {
            PlanKvDtype::Float32 => KvDtype::Float32,
            PlanKvDtype::BFloat16 => KvDtype::BFloat16,
            PlanKvDtype::Float16 => KvDtype::Float16,
            PlanKvDtype::Int8 => KvDtype::Int8,
        }
    }
}

impl From<KvDtype> for PlanKvDtype {
    fn from(dtype: KvDtype) -> PlanKvDtype {
        match dtype {
            KvDtype::Float32 => PlanKvDtype::Float32,
            KvDtype::BFloat16 => PlanKvDtype::BFloat16,
            KvDtype::Float16 => PlanKvDtype::Float16,
            KvDtype::Int8 => PlanKvDtype::Int8,
        }
    }
}

impl From<PlanArchitecture> for Architecture {
    fn from(architecture: PlanArchitecture) -> Architecture {
        match architecture {
            PlanArchitecture::Llama => Architecture::Llama,
            PlanArchitecture::Mistral => Architecture::Mistral,
            PlanArchitecture::Qwen2 => Architecture::Qwen2,
            PlanArchitecture::Qwen3 => Architecture::Qwen3,
        }
    }
}

impl From<Architecture> for PlanArchitecture {
    fn from(architecture: Architecture) -> PlanArchitecture {
        match architecture {
            Architecture::Llama => PlanArchitecture::Llama,
            Architecture::Mistral => PlanArchitecture::Mistral,
            Architecture::Qwen2 => PlanArchitecture::Qwen2,
            Architecture::Qwen3 => PlanArchitecture::Qwen3,
        }
    }
}

impl From<Backend> for PlanBackend {
    fn from(backend: Backend) -> PlanBackend {
        match backend {
            Backend::Cpu => PlanBackend::Cpu,
            Backend::Cuda => PlanBackend::Cuda,
        }
    }
}

impl DtypeChoice {
    /// The type chosen; `Auto` means `otherwise`.
    pub const fn resolve(self, otherwise: Dtype) -> Dtype {
        match self {
            DtypeChoice::Auto => otherwise,
            DtypeChoice::Float32 => Dtype::Float32,
            DtypeChoice::BFloat16 => Dtype::BFloat16,
            DtypeChoice::Float16 => Dtype::Float16,
        }
    }
}

impl KvDtypeChoice {
    /// The type chosen; `Auto` means that of the weights.
    pub fn resolve(self, weights: PlanDtype) -> PlanKvDtype {
        match self {
            KvDtypeChoice::Auto => weights.into(),
            KvDtypeChoice::Float32 => PlanKvDtype::Float32,
            KvDtypeChoice::BFloat16 => PlanKvDtype::BFloat16,
            KvDtypeChoice::Float16 => PlanKvDtype::Float16,
            KvDtypeChoice::Int8 => PlanKvDtype::Int8,
        }
    }
}

impl BackendChoice {
    /// The backend chosen; `Auto` means the best that this version has.
    pub const fn resolve(self) -> Backend {
        match self {
            BackendChoice::Auto | BackendChoice::Cpu => Backend::Cpu,
        }
    }
}
