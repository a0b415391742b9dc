//! Condition types, their reasons, and the reasons of Events: types, not strings. The table in
//! `crds/CONDITIONS.md` is printed from here (`generate`), and a test fails when it is stale.

/// An enum whose variants are the CamelCase words of the API, each with its meaning.
macro_rules! words {
    ($(#[$outer:meta])* $name:ident { $($variant:ident = $meaning:literal,)+ }) => {
        $(#[$outer])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $(#[doc = $meaning] $variant,)+ }

        impl $name {
            pub const ALL: &[$name] = &[$($name::$variant,)+];

            /// The word in the API.
            pub const fn as_str(self) -> &'static str {
                match self { $($name::$variant => stringify!($variant),)+ }
            }

            /// What it means, in a sentence.
            pub const fn meaning(self) -> &'static str {
                match self { $($name::$variant => $meaning,)+ }
            }

            /// The variant of a word, if it is one of ours.
            pub fn parse(word: &str) -> Option<$name> {
                $name::ALL.iter().copied().find(|variant| variant.as_str() == word)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words! {
/// `type` of a condition.
ConditionType {
    Ready = "what the spec asks for is what runs",
    Available = "at least one engine answers requests",
    ModelResolved = "the model was read and can be run",
    AdaptersReady = "every adapter of spec.adapters was read and fits the model, and engines that answer have loaded those of mode Dynamic; Ready says whether engines serve with merged ones (present where there are some)",
    MemoryFits = "a split of the model fits every rank's budget",
    QuotaEnforced = "the quotas cannot be crossed, and the reason says who sees to that",
    MemoryPressure = "a rank holds more than its budget (abnormal while true)",
    TargetApplied = "every engine of the newest revision holds to the newest quotas, cache size and sleep it was told, and every other one to that sleep; Ready does not wait for it",
    WeightsVerified = "weights and answers are what they were after the load or the last update (present once an engine was woken or updated)",
    Reconciling = "the operator is still working on the newest spec (present only while true)",
    Stalled = "waiting will not help: the spec or the cluster must change (present only while true)",
}}

words! {
/// `reason` of a condition.
Reason {
    Serving = "every replica runs the newest spec, and answers or sleeps by its own clock",
    WakesOnRequest = "every engine pod is asleep, in the Service, and the next request wakes the one that it reaches; the message has the bytes that they hold still",
    ScaledToZero = "spec.replicas is 0",
    ReplicasAnswer = "at least one engine pod is ready",
    NoReadyReplicas = "no engine pod is ready",
    Inspecting = "the model's facts are being read",
    WaitingForPods = "engine pods are being made, scheduled or their images pulled",
    Unschedulable = "an engine pod, or the inspect pod, finds no node; the message is the scheduler's",
    VolumesNotMounted = "an engine pod has a node, and its volumes (or its network) are not there; the message names them, and the way out",
    SchedulingGated = "an engine pod is held back by its scheduling gates; the message names them",
    PodsRefused = "engine pods, or the inspect pod, may not be made (quota, admission); the message is the refusal",
    Loading = "engines are reading weights",
    EngineSilent = "an engine that answered does not any more, though its process runs; the message says since when",
    Sleeping = "every engine pod is asleep, as spec.sleep asks for; the message has the bytes that they hold still",
    GoingToSleep = "engines are on their way to the sleep that spec.sleep asks for; the message names one, and what keeps it",
    Waking = "engines are on their way out of a sleep that spec.sleep asked for or let be; the message names one, and what keeps it",
    RollingOut = "pods of an older revision are being replaced",
    ServiceContested = "somebody keeps changing the resource's Service; requests may reach no engine",
    NoEndpoints = "engine pods are ready, and the resource's Service leads to none of them; the message says why",
    WaitingForTurn = "the operator makes the pods differently now, and replaces them when those of other resources are Ready",
    Draining = "engines that are no longer wanted are finishing their requests",
    PodFailed = "an engine pod stopped; the message has its exit code and last words",
    ProgressDeadlineExceeded = "spec.progressDeadlineSeconds passed without success",
    InvalidSpec = "the spec cannot be used as it is; the message names the field",
    NameTaken = "an object of somebody else's has the name of one that the resource needs; the message names it",
    Inspected = "the model was read; status.model has its facts",
    SourceUnavailable = "the model's image, claim or folder cannot be mounted",
    ModelNotFound = "the source has no model at spec.model.source.path",
    ModelInvalid = "the model's files are broken or contradict each other",
    UnsupportedArchitecture = "the model's architecture is not one the engine runs",
    AdapterInvalid = "an adapter does not fit the model, or is of a kind that cannot be merged; the message names it and the field or tensor, and what ran before serves on",
    AdaptersMerged = "every adapter was read and fits; the message has the tensors that each changes, the beginning of its digest, its figures once an engine has proved it, and what an engine found that serves it all the same",
    AdaptersLoaded = "every engine that answers has loaded the adapters of mode Dynamic, and those that are merged fit; the message has each",
    AdaptersLoading = "engines are still to load adapters of mode Dynamic; the message has which, and where",
    AdapterRefused = "an engine could not load an adapter of mode Dynamic, and answers as before beside it (it tries again); or it read one into the weights, and what came of it is not what the adapter means, is no number, or rounding leaves hardly anything of it; the message has the row or the figures, and pods of the revision before serve on",
    UnsupportedFormat = "the model's files hold types that the engine does not read",
    InspectFailed = "the inspect pod ended without an answer",
    ModelUnresolved = "nothing can be planned before the model is resolved",
    PlanFits = "status.memory.plan holds the split",
    QuotaTooSmall = "a rank's quota is below what the rank must hold",
    HostMemoryInsufficient = "the container's memory limit is below the ranks' budgets and the host's reserve",
    KVCacheTooSmall = "spec.memory.kvCache.size does not hold one sequence",
    ContextTooLong = "the model fits with a shorter spec.limits.maxModelLen",
    MemoryTooSmall = "the devices, or the container's memory limit, do not hold the model",
    NoQuotas = "no rank has a quota",
    EngineAndMemoryLimit = "the engine keeps each rank inside its line, the kernel keeps the container inside the sum",
    EngineAlone = "the engine keeps each rank inside its line; the container's memory limit is above their sum, or not planned yet",
    WithinBudget = "no rank holds more than its budget",
    OverBudget = "a rank's driver figure is above its budget",
    NoReports = "no engine has reported yet",
    Applied = "every engine of the newest revision has the newest target in force, and every other one its sleep",
    TargetPending = "an engine has not been told its newest target, or its sleep alone, or has not answered, or its container's memory limit is being raised first; or engines keep the memory that they have, because the spec is refused, its model not read or its rollout waits for its turn; the message names the pod, and what went wrong",
    TargetDeferred = "an engine gives back what it holds above its newest target or takes what it has to, its container's memory limit follows, or it is on its way to sleep or out of it; the message says which",
    TargetRefused = "an engine cannot follow its newest target and keeps to the one before, or its container's memory limit cannot be raised; the message has the numbers, the node's or the API server's words, or why it did not sleep or wake",
    AsLoaded = "every engine that was woken or updated has proved its weights since",
    NotAsLoaded = "an engine's weights are not what they should be, or an update of them ended half way: it does not answer; the message names the tensor, and the way out",
    ReportsRefused = "an engine pod refuses the operator's token, so what it holds is not known",
}}

words! {
/// `reason` of an Event.
EventReason {
    ModelInspected = "the model's facts were read",
    InspectStuck = "the inspect pod finds no node or may not be made, so that nothing is known of the model; the note says why",
    ModelRejected = "the model cannot be run; the note says why",
    MemoryPlanned = "a plan fits; the note has its figures",
    MemoryInsufficient = "no plan fits; the note has the figures and the remedy",
    InvalidSpec = "the spec cannot be used; the note names the field",
    NameTaken = "an object of somebody else's has the name of one that the resource needs",
    RolloutStarted = "a new revision starts to replace the old one",
    RolloutReplacing = "no room for an additional pod: an old one is stopped first",
    RolloutStuck = "a new pod finds no place and no old one makes way; what ran before serves on",
    RolloutFinished = "every replica runs the new revision",
    ChildRepaired = "somebody changed an object of the resource; it is as the operator made it again",
    EngineLoaded = "an engine pod has its weights in place and answers",
    EngineSilent = "an engine that answered does not any more, though its process runs",
    EngineSlept = "an engine pod is asleep, whoever asked it to be; the note says who did, and has its level and the bytes it holds still",
    EngineWoken = "an engine pod that slept is awake; the note says who woke it, and has the bytes it holds",
    EngineResized = "an engine pod holds to new budgets without a restart; the note has the bytes before and after, and its tokens",
    EngineFailed = "an engine pod stopped; the note has its exit code and last words",
    PlanDrift = "an engine computed another plan than the operator and refused to serve",
    OverBudget = "a rank holds more than its budget",
    ReportRefused = "a pod refuses the operator's token; it is brought the new one",
    ReportStale = "a pod has been silent for 90 seconds; its rows are its last",
    ProgressDeadlineExceeded = "spec.progressDeadlineSeconds passed without success",
}}

/// `status` of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConditionStatus {
    True,
    False,
    Unknown,
}

impl ConditionStatus {
    /// The word in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            ConditionStatus::True => "True",
            ConditionStatus::False => "False",
            ConditionStatus::Unknown => "Unknown",
        }
    }
}

impl ConditionType {
    /// Every reason that a condition of this type may carry, with the status it goes with.
    pub const fn reasons(self) -> &'static [(ConditionStatus, &'static [Reason])] {
        use ConditionStatus::{False, True, Unknown};
        use Reason::{NoReadyReplicas, ScaledToZero, Serving, Sleeping, WakesOnRequest};
        match self {
            ConditionType::Ready => &[
                (True, &[Serving, WakesOnRequest, ScaledToZero]),
                (False, NOT_READY),
            ],
            ConditionType::Available => &[
                (True, &[Reason::ReplicasAnswer]),
                (False, &[NoReadyReplicas, ScaledToZero, Sleeping]),
            ],
            ConditionType::ModelResolved => &[
                (True, &[Reason::Inspected]),
                (False, NOT_RESOLVED),
                (
                    Unknown,
                    &[
                        Reason::Inspecting,
                        Reason::InvalidSpec,
                        Reason::Unschedulable,
                        Reason::PodsRefused,
                    ],
                ),
            ],
            ConditionType::AdaptersReady => &[
                (True, &[Reason::AdaptersMerged, Reason::AdaptersLoaded]),
                (False, &[Reason::AdapterInvalid, Reason::AdapterRefused]),
                (Unknown, &[Reason::ModelUnresolved, Reason::AdaptersLoading]),
            ],
            ConditionType::MemoryFits => &[
                (True, &[Reason::PlanFits]),
                (False, NOT_FITTING),
                (Unknown, &[Reason::ModelUnresolved, Reason::InvalidSpec]),
            ],
            ConditionType::QuotaEnforced => &[
                (True, &[Reason::EngineAndMemoryLimit, Reason::EngineAlone]),
                (False, &[Reason::NoQuotas]),
            ],
            ConditionType::MemoryPressure => &[
                (True, &[Reason::OverBudget]),
                (False, &[Reason::WithinBudget]),
                (Unknown, &[Reason::NoReports, Reason::ReportsRefused]),
            ],
            ConditionType::TargetApplied => &[
                (True, &[Reason::Applied]),
                (
                    False,
                    &[
                        Reason::TargetPending,
                        Reason::TargetDeferred,
                        Reason::TargetRefused,
                    ],
                ),
                (Unknown, &[Reason::NoReports]),
            ],
            ConditionType::WeightsVerified => {
                &[(True, &[Reason::AsLoaded]), (False, &[Reason::NotAsLoaded])]
            }
            ConditionType::Reconciling => &[(True, WORKING)],
            ConditionType::Stalled => &[(True, STALLED)],
        }
    }

    /// Whether the table knows this reason for this type and status.
    pub fn allows(self, status: ConditionStatus, reason: Reason) -> bool {
        self.reasons()
            .iter()
            .any(|(of, reasons)| *of == status && reasons.contains(&reason))
    }
}

const NOT_RESOLVED: &[Reason] = &[
    Reason::SourceUnavailable,
    Reason::ModelNotFound,
    Reason::ModelInvalid,
    Reason::AdapterInvalid,
    Reason::UnsupportedArchitecture,
    Reason::UnsupportedFormat,
    Reason::InspectFailed,
];

const NOT_FITTING: &[Reason] = &[
    Reason::QuotaTooSmall,
    Reason::HostMemoryInsufficient,
    Reason::KVCacheTooSmall,
    Reason::ContextTooLong,
    Reason::MemoryTooSmall,
];

const WORKING: &[Reason] = &[
    Reason::Inspecting,
    Reason::WaitingForPods,
    Reason::Unschedulable,
    Reason::VolumesNotMounted,
    Reason::SchedulingGated,
    Reason::PodsRefused,
    Reason::Loading,
    Reason::EngineSilent,
    Reason::GoingToSleep,
    Reason::Waking,
    Reason::RollingOut,
    Reason::ServiceContested,
    Reason::NoEndpoints,
    Reason::WaitingForTurn,
    Reason::Draining,
    Reason::PodFailed,
];

const STALLED: &[Reason] = &[
    Reason::ProgressDeadlineExceeded,
    Reason::Unschedulable,
    Reason::VolumesNotMounted,
    Reason::PodsRefused,
    Reason::InvalidSpec,
    Reason::NameTaken,
    Reason::SourceUnavailable,
    Reason::ModelNotFound,
    Reason::ModelInvalid,
    Reason::AdapterInvalid,
    Reason::UnsupportedArchitecture,
    Reason::UnsupportedFormat,
    Reason::InspectFailed,
    Reason::QuotaTooSmall,
    Reason::HostMemoryInsufficient,
    Reason::KVCacheTooSmall,
    Reason::ContextTooLong,
    Reason::MemoryTooSmall,
];

const NOT_READY: &[Reason] = &[
    Reason::Sleeping,
    Reason::Inspecting,
    Reason::WaitingForPods,
    Reason::Unschedulable,
    Reason::VolumesNotMounted,
    Reason::SchedulingGated,
    Reason::PodsRefused,
    Reason::Loading,
    Reason::EngineSilent,
    Reason::GoingToSleep,
    Reason::Waking,
    Reason::RollingOut,
    Reason::ServiceContested,
    Reason::NoEndpoints,
    Reason::WaitingForTurn,
    Reason::Draining,
    Reason::PodFailed,
    Reason::ProgressDeadlineExceeded,
    Reason::InvalidSpec,
    Reason::NameTaken,
    Reason::SourceUnavailable,
    Reason::ModelNotFound,
    Reason::ModelInvalid,
    Reason::AdapterInvalid,
    Reason::UnsupportedArchitecture,
    Reason::UnsupportedFormat,
    Reason::InspectFailed,
    Reason::QuotaTooSmall,
    Reason::HostMemoryInsufficient,
    Reason::KVCacheTooSmall,
    Reason::ContextTooLong,
    Reason::MemoryTooSmall,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_used_and_every_type_has_one() {
        let mut used = Vec::new();
        for kind in ConditionType::ALL {
            assert!(!kind.reasons().is_empty(), "{kind} has no reason");
            used.extend(
                kind.reasons()
                    .iter()
                    .flat_map(|(_, reasons)| reasons.iter()),
            );
        }
        for reason in Reason::ALL {
            assert!(used.contains(&reason), "{reason} is used by no condition");
        }
    }

    #[test]
    fn whatever_stalls_also_explains_why_it_is_not_ready() {
        for reason in STALLED {
            assert!(
                ConditionType::Ready.allows(ConditionStatus::False, *reason),
                "{reason}"
            );
        }
        for reason in WORKING {
            assert!(
                ConditionType::Ready.allows(ConditionStatus::False, *reason),
                "{reason}"
            );
        }
    }

    #[test]
    fn words_are_camel_case_and_come_back() {
        let words = Reason::ALL.iter().map(|reason| reason.as_str());
        for word in words.chain(EventReason::ALL.iter().map(|reason| reason.as_str())) {
            assert!(word.starts_with(|c: char| c.is_ascii_uppercase()), "{word}");
            assert!(word.chars().all(|c| c.is_ascii_alphanumeric()), "{word}");
        }
        for reason in Reason::ALL {
            assert_eq!(Reason::parse(reason.as_str()), Some(*reason));
        }
        assert_eq!(Reason::parse("NoSuchReason"), None);
    }
}
