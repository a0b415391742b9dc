//! What follows the end of a pass, good or bad: whether anything is tried again, and when. Pure.

use std::time::Duration;

use plimsoll_crds::v1alpha1::{ConditionType, InferenceDeploymentStatus};

use crate::children::ChildKind;
use crate::error::Error;
use crate::facts::{Facts, Holder};

/// Pauses after failed passes.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A spec's patience that has run out just now is looked at a moment later.
const LEAST_REST: Duration = Duration::from_secs(1);

/// What a pass whose writes failed comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The namespace is being deleted: nothing can be made here ever again.
    Nothing,
    /// Somebody else's object stands in the way. Nobody tells us when it goes, so it is looked for
    /// after this long; that it is there is no failure.
    Taken(String, Duration),
    /// Another pass may do better; until then the status says what went wrong.
    Again,
}

/// What the writes' `error` comes to.
pub(crate) fn of_writes(error: &Error) -> Ending {
    match error {
        Error::Taken {
            holder: Holder::Stranger,
            ..
        } => Ending::Taken(error.to_string(), LONGEST_PAUSE),
        _ if error.namespace_ends() => Ending::Nothing,
        Error::Api { .. }
        | Error::Timeout { .. }
        | Error::Taken {
            holder: Holder::Predecessor,
            ..
        }
        | Error::Refused(_)
        | Error::Incomplete(_)
        | Error::Encode { .. } => Ending::Again,
    }
}

/// Whether writes that ended with `error` wrote all that engines start with all the same: a budget
/// that is somebody else's keeps nothing else from being written.
pub(crate) fn but_a_budget(error: &Error) -> bool {
    let budget = ChildKind::PodDisruptionBudget.name();
    matches!(error, Error::Taken { kind, .. } if *kind == budget)
}

/// What a pass that ended with `error` is followed by instead of a failure, if it is none: an
/// object that was deleted in the middle of it tells by its next event, or by none.
pub(crate) fn no_failure(error: &Error) -> Option<Duration> {
    error.is_gone().then_some(LONGEST_PAUSE)
}

/// How long to wait after so many failed passes in a row: doubled up to half a minute.
pub(crate) fn pause(failures: u32) -> Duration {
    FIRST_PAUSE
        .saturating_mul(1 << failures.min(10))
        .min(LONGEST_PAUSE)
}

/// When the spec's patience runs out, if work is under way.
pub(crate) fn deadline(facts: &Facts, next: &InferenceDeploymentStatus) -> Option<Duration> {
    let works = next
        .conditions
        .iter()
        .any(|c| c.type_ == ConditionType::Reconciling.as_str());
    works.then(|| facts.deadline_left().max(LEAST_REST))
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;
    use crate::testing::{SMOLLM2, at, facts};

    fn api(code: u16, cause: &str) -> Error {
        let mut status = Status::failure("no", "Forbidden").with_code(code);
        status.details = Some(
            serde_json::from_value(serde_json::json!({"causes": [{"reason": cause}]})).unwrap(),
        );
        Error::Api {
            verb: "apply",
            kind: "Service",
            name: "chat".to_owned(),
            source: Box::new(kube::Error::Api(status.boxed())),
        }
    }

    fn taken(holder: Holder) -> Error {
        Error::Taken {
            kind: "Secret",
            name: "chat".to_owned(),
            holder,
        }
    }

    #[test]
    fn writes_that_fail_are_tried_again_but_for_what_no_pass_can_change() {
        assert_eq!(
            of_writes(&api(403, "NamespaceTerminating")),
            Ending::Nothing
        );
        for error in [
            api(403, "Other"),
            api(500, ""),
            api(404, ""),
            taken(Holder::Predecessor),
            Error::Refused("x".to_owned()),
            Error::Incomplete("uid"),
        ] {
            assert_eq!(of_writes(&error), Ending::Again, "{error}");
        }
        let Ending::Taken(words, rest) = of_writes(&taken(Holder::Stranger)) else {
            panic!("somebody else's is no failure");
        };
        assert!(words.starts_with("Secret chat exists"), "{words}");
        assert_eq!(rest, Duration::from_secs(30));
    }

    #[test]
    fn what_engines_start_with_is_written_unless_more_than_a_budget_failed() {
        let of = |kind| Error::Taken {
            kind,
            name: "chat".to_owned(),
            holder: Holder::Stranger,
        };
        assert!(but_a_budget(&of(ChildKind::PodDisruptionBudget.name())));
        for kind in [
            ChildKind::ConfigMap,
            ChildKind::ReplicaSet,
            ChildKind::Service,
        ] {
            assert!(!but_a_budget(&of(kind.name())), "{kind:?}");
        }
        assert!(!but_a_budget(&api(500, "")));
    }

    #[test]
    fn what_is_gone_is_no_failure_and_pauses_double_up_to_half_a_minute() {
        assert!(no_failure(&api(404, "")).is_some());
        assert!(no_failure(&api(409, "")).is_none());
        let pauses = [1, 2, 3, 5, 6, 7, u32::MAX].map(|failures| pause(failures).as_millis());
        assert_eq!(pauses, [1000, 2000, 4000, 16_000, 30_000, 30_000, 30_000]);
    }

    #[test]
    fn work_under_way_is_looked_at_when_the_specs_patience_ends_and_rest_is_not() {
        let mut facts = facts(SMOLLM2);
        let mut next = InferenceDeploymentStatus::default();
        assert_eq!(deadline(&facts, &next), None);
        next.conditions = vec![
            serde_json::from_value(serde_json::json!({
                "type": "Reconciling", "status": "True", "reason": "Loading", "message": "",
                "lastTransitionTime": at(0).to_string(),
            }))
            .unwrap(),
        ];
        let allowed = facts.object.spec.progress_deadline_seconds;
        let left = Duration::from_secs(u64::from(allowed) - 10);
        assert_eq!(deadline(&facts, &next), Some(left));
        facts.now = at(1_000_000);
        assert_eq!(deadline(&facts, &next), Some(LEAST_REST));
    }
}
