//! The status of a resource that this operator cannot read: the conditions say so, and everything
//! else stands as it was written. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use plimsoll_crds::v1alpha1::status::State;
use plimsoll_crds::v1alpha1::{ConditionType, Reason};
use serde_json::{Value, json};

use crate::conditions::whole_seconds;
use crate::plan::short;
use crate::stores::Unreadable;

/// What is said of it.
pub(crate) fn words(unreadable: &Unreadable) -> String {
    short(&format!(
        "{}: version {} of the operator cannot read this and leaves all that runs as it is; change \
         the field, or upgrade the operator to a version that knows it",
        unreadable.problem,
        env!("CARGO_PKG_VERSION")
    ))
}

/// The status that should stand, and its conditions; `None` when it does already.
pub(crate) fn status(unreadable: &Unreadable, now: Timestamp) -> Option<(Value, Vec<Condition>)> {
    let before = &unreadable.status;
    let all = before["conditions"].as_array().cloned().unwrap_or_default();
    let mut conditions: Vec<Condition> = all
        .into_iter()
        .filter_map(|condition| serde_json::from_value(condition).ok())
        .collect();
    let was = conditions.clone();
    conditions.retain(|condition| condition.type_ != ConditionType::Reconciling.as_str());
    for (kind, status) in [
        (ConditionType::Ready, "False"),
        (ConditionType::Stalled, "True"),
    ] {
        let known = conditions
            .iter()
            .position(|condition| condition.type_ == kind.as_str());
        let known = known.map(|at| conditions.remove(at));
        let same = known.filter(|known| known.status == status);
        conditions.push(Condition {
            type_: kind.as_str().to_owned(),
            status: status.to_owned(),
            reason: Reason::InvalidSpec.as_str().to_owned(),
            message: words(unreadable),
            last_transition_time: match same {
                Some(same) => same.last_transition_time,
                None => Time(whole_seconds(now)),
            },
            observed_generation: unreadable.metadata.generation,
        });
    }
    let sorted = |mut list: Vec<Condition>| {
        list.sort_by(|a, b| a.type_.cmp(&b.type_));
        list
    };
    if sorted(was) == sorted(conditions.clone()) {
        return None;
    }
    let mut status = match before {
        Value::Object(_) => before.clone(),
        _ => json!({}),
    };
    status["conditions"] = json!(conditions);
    status["observedGeneration"] = json!(unreadable.metadata.generation);
    status["state"] = json!(State::Refused);
    Some((status, conditions))
}

#[cfg(test)]
mod tests {
    use kube::core::ObjectMeta;

    use super::*;
    use crate::testing::at;

    #[test]
    fn the_conditions_say_so_once_and_the_rest_of_the_status_stands() {
        let mut unreadable = Unreadable {
            metadata: ObjectMeta {
                generation: Some(4),
                ..ObjectMeta::default()
            },
            status: json!({
                "replicas": 2, "newer": {"a": [1]}, "observedGeneration": 3,
                "conditions": [
                    {"type": "Reconciling", "status": "True", "reason": "Loading", "message": "",
                     "lastTransitionTime": "2023-01-01T00:00:00Z"},
                    {"type": "Ready", "status": "False", "reason": "Loading", "message": "",
                     "lastTransitionTime": "2023-01-01T00:00:00Z"},
                    {"type": "MemoryFits", "status": "True", "reason": "PlanFits", "message": "",
                     "lastTransitionTime": "2023-01-01T00:00:00Z"},
                ],
            }),
            problem: "spec.backend: unknown variant, expected `Auto` or `CPU`".to_owned(),
        };
        let (next, conditions) = status(&unreadable, at(0)).unwrap();
        assert_eq!(next["replicas"], 2);
        assert_eq!(next["newer"], json!({"a": [1]}));
        assert_eq!(next["observedGeneration"], 4);
        assert_eq!(next["state"], "Refused");
        let kinds: Vec<&str> = conditions.iter().map(|it| it.type_.as_str()).collect();
        assert_eq!(kinds, ["MemoryFits", "Ready", "Stalled"]);
        assert_eq!(conditions[1].reason, "InvalidSpec");
        assert!(conditions[1].message.starts_with("spec.backend: "));
        // It was not ready before either.
        assert_ne!(conditions[1].last_transition_time.0, at(0));
        assert_eq!(conditions[2].last_transition_time.0, at(0));

        unreadable.status = next;
        assert_eq!(status(&unreadable, at(60)), None);
        unreadable.status = Value::Null;
        assert!(status(&unreadable, at(60)).is_some());
    }
}
