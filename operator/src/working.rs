//! Since when a resource is worked on, which its deadline counts from. Pure.

use k8s_openapi::jiff::Timestamp;
use plimsoll_crds::v1alpha1::{ConditionType, InferenceDeploymentStatus, Reason};

use crate::memory::Memory;

/// When work on the present spec began: when it was first seen, when the resource last stopped
/// being ready, or, after a restart of the operator, when the written status says it began: one
/// that wakes up stopped being ready when it fell asleep, and is worked on since it is woken.
pub(crate) fn working_since(
    status: &InferenceDeploymentStatus,
    memory: &mut Memory,
    generation: i64,
    now: Timestamp,
) -> Timestamp {
    let find = |kind: ConditionType| {
        let mut conditions = status.conditions.iter();
        conditions.find(|c| c.type_ == kind.as_str())
    };
    let ready = find(ConditionType::Ready);
    let not_ready_since = ready
        .filter(|ready| ready.status != "True")
        .map(|ready| ready.last_transition_time.0);
    let began = match memory.working {
        Some((known, began)) if known == generation => began,
        // The first look of this process at a spec that was already worked on.
        None if status.observed_generation == Some(generation) => {
            let works = find(ConditionType::Reconciling).map(|it| it.last_transition_time.0);
            not_ready_since.map_or(now, |since| works.map_or(since, |works| works.max(since)))
        }
        _ => now,
    };
    memory.working = Some((generation, began));
    match ready.map(|ready| ready.status == "True") {
        Some(true) => now,
        // Nothing is worked on while all sleep as asked, however long.
        _ if ready.is_some_and(|ready| ready.reason == Reason::Sleeping.as_str()) => {
            memory.working = Some((generation, now));
            now
        }
        _ => not_ready_since.map_or(began, |since| since.max(began)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::at;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

    fn saying(conditions: &[(ConditionType, &str, Reason, i64)]) -> InferenceDeploymentStatus {
        let rows = conditions.iter();
        let rows = rows.map(|(kind, status, reason, since)| Condition {
            type_: kind.as_str().to_owned(),
            status: (*status).to_owned(),
            reason: reason.as_str().to_owned(),
            message: String::new(),
            last_transition_time: Time(at(*since)),
            observed_generation: Some(3),
        });
        InferenceDeploymentStatus {
            observed_generation: Some(3),
            conditions: rows.collect(),
            ..Default::default()
        }
    }

    #[test]
    fn who_sleeps_as_asked_is_not_worked_on_and_what_comes_after_has_its_time() {
        let mut memory = Memory::default();
        let mut says = |reason: Reason, now| {
            let status = saying(&[(ConditionType::Ready, "False", reason, 0)]);
            working_since(&status, &mut memory, 3, at(now))
        };
        assert_eq!(says(Reason::GoingToSleep, 5), at(0));
        assert_eq!(says(Reason::Sleeping, 9_000), at(9_000));
        // Its engine ends, and loads again.
        assert_eq!(says(Reason::Loading, 9_005), at(9_000));
    }

    #[test]
    fn an_operator_that_begins_in_the_middle_of_a_wake_counts_from_the_wake() {
        let first = |rows: &[_]| working_since(&saying(rows), &mut Memory::default(), 3, at(9_010));
        let ready = |status, since| (ConditionType::Ready, status, Reason::Waking, since);
        let works = |since| (ConditionType::Reconciling, "True", Reason::Waking, since);
        assert_eq!(first(&[ready("False", 0), works(9_000)]), at(9_000));
        assert_eq!(first(&[ready("False", 0)]), at(0));
        // It waited for its turn since long when it stopped being ready.
        assert_eq!(first(&[ready("False", 9_005), works(100)]), at(9_005));
        assert_eq!(first(&[ready("True", 0), works(100)]), at(9_010));
    }
}
