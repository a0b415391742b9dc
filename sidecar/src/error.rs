//! Why the program ends: one line for the log, the terminal and the termination message.

use std::io;
use std::path::PathBuf;

use plimsoll_crds::names;
use plimsoll_crds::v1alpha1::convert::ConvertError;
use plimsoll_planner::{Bytes, Refusal};

use crate::args::in_flags;
use crate::engine::config::EngineError;
use crate::model::ModelError;

/// Flags, or the file that stands for them, make no sense: the code of `sysexits.h`, since 2 says that no split fits.
pub const EXIT_USAGE: u8 = 64;

#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A flag that contradicts another, or a value that makes no sense.
    #[error("{0}")]
    Flag(String),
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{}: {source}", path.display())]
    Config {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Convert(#[from] ConvertError),
    /// The files changed since they were inspected.
    #[error(
        "the model's digest is {found}, the configuration was made for {expected}; \
             the source has changed: let the operator inspect it again"
    )]
    Digest { expected: String, found: String },
    #[error("{0}")]
    Refused(Box<Refusal>),
    /// The same, of what was asked with flags.
    #[error("{}", in_flags(&.0.to_string()))]
    FlagsRefused(Box<Refusal>),
    /// The split that this engine is started with does not fit the newest budgets.
    #[error("target of generation {generation}: {refusal}")]
    TargetRefused {
        generation: i64,
        refusal: Box<Refusal>,
    },
    #[error("{0}; it was waited for in vain: raise the limit, or lower the quotas")]
    OverLimit(OverLimit),
    /// Operator and sidecar computed different plans for one configuration.
    #[error(
        "the plan in the documents differs from this sidecar's: {difference}; \
             operator and sidecar must be of the same version"
    )]
    PlanDiffers { difference: String },
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(
        "{flag}: cannot listen on {address}: {source}; give {flag} another port (0 picks a free \
             one), or --host another address"
    )]
    Listen {
        flag: &'static str,
        address: String,
        source: io::Error,
    },
    #[error("the engine failed: {0}")]
    EngineFailed(String),
    /// What was read of the weights is not what an adapter means, or hardly anything of it is left.
    #[error("not served: {0}")]
    AdapterRefused(String),
    #[error("{0}")]
    Runtime(#[from] io::Error),
}

/// A container that is too small for a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the ranks' budgets and the host's reserve need {needed}, the memory limit of this container or \
     machine is {limit}"
)]
pub struct OverLimit {
    pub needed: Bytes,
    pub limit: Bytes,
}

impl BootError {
    /// The program's exit code: the operator knows by it what it can see to, whatever the words.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        /// What nobody but a reader of the words can do anything about.
        const FAILURE: u8 = 1;
        match self {
            BootError::PlanDiffers { .. } => names::EXIT_PLAN_DIFFERS,
            BootError::Digest { .. } => names::EXIT_OTHER_FILES,
            BootError::AdapterRefused(_) => names::EXIT_ADAPTER_REFUSED,
            BootError::Flag(_) => EXIT_USAGE,
            BootError::File { .. }
            | BootError::Config { .. }
            | BootError::Model(_)
            | BootError::Convert(_)
            | BootError::Refused(_)
            | BootError::FlagsRefused(_)
            | BootError::TargetRefused { .. }
            | BootError::OverLimit(_)
            | BootError::Engine(_)
            | BootError::Listen { .. }
            | BootError::EngineFailed(_)
            | BootError::Runtime(_) => FAILURE,
        }
    }
}
