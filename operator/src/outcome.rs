//! What a pass came to: the model, the plan and the rolling step. Conditions, status and Events
//! are told from it.

use plimsoll_crds::v1alpha1::Reason;
use plimsoll_crds::v1alpha1::engine::PlanStatus;
use plimsoll_crds::v1alpha1::status::RestartGain;

use crate::build::inspect_asks;
use crate::children::ChildKind;
use crate::error::Error;
use crate::inspect::Model;
use crate::rolling::Step;
use crate::steer::Stand;

/// The outcome of the pure stages.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) model: Model,
    pub(crate) planned: Planned,
    /// The rolling step taken, where there is a revision to roll to.
    pub(crate) step: Option<Step>,
    /// How the engines stand to the newest target: those of the newest revision, or all while the spec
    /// leads to none or its rollout waits.
    pub(crate) told: Stand,
    /// How the others stand to the sleep that they are told alone.
    pub(crate) slept: Stand,
    /// The memory of an engine, or its container's limit, is on its way to that target.
    pub(crate) resizing: bool,
    /// An object of somebody else's stands where one of ours should.
    pub(crate) taken: Option<String>,
    /// The Service, where somebody keeps changing it.
    pub(crate) contested: Option<String>,
    /// Engines are ready, and no request reaches one: why.
    pub(crate) unreached: Option<String>,
    /// For whom the next rollout waits, if its turn has not come.
    pub(crate) waits: Option<String>,
    /// The cluster could not be brought there in this pass; it is tried again.
    pub(crate) trouble: Option<String>,
}

/// What became of the plan.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Planned {
    /// The model is not known yet.
    Unresolved,
    /// The spec cannot be used as it is.
    Invalid(String),
    Refused {
        reason: Reason,
        message: String,
    },
    Fits {
        plan: PlanStatus,
        revision: String,
        summary: String,
        container: ContainerMemory,
        /// What a restart with another split would gain.
        restart: Option<RestartGain>,
    },
}

/// What bounds an engine's container as a whole, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ContainerMemory {
    /// Its memory limit, which the kernel enforces.
    pub(crate) limit: u64,
    /// The ranks' budgets and the host's reserve.
    pub(crate) needed: u64,
    /// The limit is the user's: it changes with `spec.template` only.
    pub(crate) written: bool,
}

impl Outcome {
    /// The outcome before anything came of the plan.
    pub(crate) fn of(model: Model, planned: Planned) -> Outcome {
        Outcome {
            model,
            planned,
            step: None,
            told: Stand::Nobody,
            slept: Stand::Nobody,
            resizing: false,
            contested: None,
            unreached: None,
            waits: None,
            taken: None,
            trouble: None,
        }
    }

    /// The pass could not be brought to its end: the status says so, and what of the model it
    /// touches.
    pub(crate) fn admit(&mut self, error: &Error) {
        let text = error.to_string();
        if let Model::Inspecting(_) = &self.model {
            self.model = match error.refuses(ChildKind::Pod) {
                true => refused(&text),
                false => Model::Inspecting(text.clone()),
            };
        }
        self.trouble = Some(text);
    }

    /// The revision that the spec asks for, if it was accepted.
    pub(crate) fn revision(&self) -> Option<&str> {
        match &self.planned {
            Planned::Fits { revision, .. } => Some(revision),
            Planned::Unresolved | Planned::Invalid(_) | Planned::Refused { .. } => None,
        }
    }
}

/// The inspect pod may not be made, in these words.
fn refused(words: &str) -> Model {
    let quota = words.contains("exceeded quota") || words.contains("failed quota");
    // Pod Security does not let the source be mounted.
    if !quota && words.contains("volume") {
        return Model::Unavailable(words.to_owned());
    }
    let way_out = match (quota, words.contains("must specify")) {
        (true, true) => format!(
            "give what it has to specify a default with a LimitRange in the namespace; the pod that \
             reads the model asks for {}",
            inspect_asks()
        ),
        (true, false) => format!(
            "raise the ResourceQuota, or free what it counts: the pod that reads the model asks for \
             {}, for seconds",
            inspect_asks()
        ),
        (false, _) => "change what it names, in spec.template or in the cluster".to_owned(),
    };
    Model::Held(Reason::PodsRefused, format!("{words}; {way_out}"))
}
