//! The memory limit of a pod's engine: what is asked for, what its node has in force, and what the
//! kubelet says of the way between.

use k8s_openapi::api::core::v1::{Container, Pod, PodCondition, ResourceRequirements};
use plimsoll_crds::v1alpha1::quantity::billionths;

use super::containers::container_status;

/// Characters that are told of the kubelet's words.
const WORDS_CHARS: usize = 400;
const BILLION: u128 = 1_000_000_000;
/// Why a kubelet does not carry out a resize: not on this node, ever.
const INFEASIBLE: &str = "Infeasible";
/// What it tried and failed at; it tries again.
const FAILED: &str = "Error";

/// The memory limit of one container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct MemoryLimit {
    /// Bytes in the pod's spec; none: there is no limit.
    pub(crate) asked: Option<u64>,
    /// Bytes in force, once its node says so.
    pub(crate) in_force: Option<u64>,
    /// The kubelet has not looked at the pod's newest spec: it may be on its way to an older one.
    pub(crate) unseen: bool,
    pub(crate) resize: Resize,
    /// The container is a native sidecar.
    pub(crate) sidecar: bool,
}

/// What the kubelet says of a resize.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Resize {
    #[default]
    Nothing,
    /// Its node cannot hold it, in these words; `never`: as long as the pod lives.
    Pending { never: bool, words: String },
    /// It is being carried out; with words: and failed so far.
    UnderWay(String),
}

impl MemoryLimit {
    pub(super) fn read(pod: &Pod, container: &str) -> MemoryLimit {
        let spec = pod.spec.iter();
        let named = |it: &&Container| it.name == container;
        let plain = spec.clone().flat_map(|spec| &spec.containers).find(named);
        let mut init = spec.flat_map(|spec| spec.init_containers.iter().flatten());
        let sidecar = init.find(named);
        let asked = plain.or(sidecar).and_then(|it| it.resources.as_ref());
        let status = container_status(pod, container);
        let in_force = status.and_then(|status| status.resources.as_ref());
        MemoryLimit {
            asked: asked.and_then(limit),
            in_force: in_force.and_then(limit),
            unseen: unseen(pod),
            resize: Resize::read(pod),
            sidecar: plain.is_none() && sidecar.is_some(),
        }
    }
}

impl Resize {
    fn read(pod: &Pod) -> Resize {
        let status = pod.status.iter();
        let conditions = || {
            let all = status.clone().flat_map(|it| it.conditions.iter().flatten());
            all.filter(|it| it.status == "True")
        };
        let find = |kind: &str| conditions().find(|it| it.type_ == kind);
        if let Some(pending) = find("PodResizePending") {
            return Resize::Pending {
                never: pending.reason.as_deref() == Some(INFEASIBLE),
                words: words(pending),
            };
        }
        match find("PodResizeInProgress") {
            Some(going) if going.reason.as_deref() == Some(FAILED) => {
                Resize::UnderWay(words(going))
            }
            Some(_) => Resize::UnderWay(String::new()),
            None => Resize::Nothing,
        }
    }
}

/// The kubelet's words, which have the numbers.
fn words(condition: &PodCondition) -> String {
    let reason = condition.reason.as_deref().unwrap_or_default();
    let message = condition.message.as_deref().unwrap_or_default();
    let message: String = message.chars().take(WORDS_CHARS).collect();
    match (reason, message.as_str()) {
        ("", message) => message.to_owned(),
        (reason, "") => reason.to_owned(),
        (reason, message) => format!("{reason}: {message}"),
    }
}

/// Whether the kubelet says of an older spec that it saw that. One that says nothing (before
/// Kubernetes 1.34) is believed what it says of resizes.
fn unseen(pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    match (
        status.and_then(|it| it.observed_generation),
        pod.metadata.generation,
    ) {
        (Some(seen), Some(newest)) => seen < newest,
        (None, _) | (_, None) => matches!(Resize::read(pod), Resize::UnderWay(_)),
    }
}

fn limit(resources: &ResourceRequirements) -> Option<u64> {
    let quantity = resources.limits.as_ref()?.get("memory")?;
    let bytes = billionths(&quantity.0).ok()?.div_ceil(BILLION);
    u64::try_from(bytes).ok()
}

#[cfg(test)]
mod tests {
    use plimsoll_crds::names::CONTAINER_ENGINE;
    use serde_json::{Value, json};

    use super::*;

    fn read(list: &str, conditions: Value) -> MemoryLimit {
        let plain = match list {
            "containers" => json!([]),
            _ => json!([{"name": "app"}]),
        };
        let mut pod = json!({
            "metadata": {"name": "a"},
            "spec": {"containers": plain},
            "status": {"conditions": conditions},
        });
        let limits = |text: &str| json!({"limits": {"memory": text}});
        pod["spec"][list] = json!([
            {"name": CONTAINER_ENGINE, "resources": limits("1Gi")},
            {"name": "other", "resources": limits("5Gi")},
        ]);
        let statuses = match list {
            "containers" => "containerStatuses",
            _ => "initContainerStatuses",
        };
        pod["status"][statuses] = json!([{
            "name": CONTAINER_ENGINE, "image": "i", "imageID": "", "ready": true,
            "restartCount": 0, "resources": limits("943718400"),
        }]);
        MemoryLimit::read(&serde_json::from_value(pod).unwrap(), CONTAINER_ENGINE)
    }

    #[test]
    fn the_engines_limit_is_read_be_it_a_plain_container_or_a_native_sidecar() {
        for (list, sidecar) in [("containers", false), ("initContainers", true)] {
            assert_eq!(
                read(list, json!([])),
                MemoryLimit {
                    asked: Some(1 << 30),
                    in_force: Some(900 << 20),
                    unseen: false,
                    resize: Resize::Nothing,
                    sidecar,
                }
            );
        }
        let bare: Pod = serde_json::from_value(json!({"metadata": {"name": "a"}})).unwrap();
        assert_eq!(
            MemoryLimit::read(&bare, CONTAINER_ENGINE),
            MemoryLimit::default()
        );
    }

    #[test]
    fn a_kubelet_that_looked_at_an_older_spec_is_no_witness() {
        for (seen, newest, unseen) in [(2, 3, true), (3, 3, false)] {
            let pod = json!({
                "metadata": {"name": "a", "generation": newest},
                "status": {"observedGeneration": seen},
            });
            let pod: Pod = serde_json::from_value(pod).unwrap();
            assert_eq!(MemoryLimit::read(&pod, CONTAINER_ENGINE).unseen, unseen);
        }
    }

    #[test]
    fn what_the_kubelet_says_of_a_resize_is_told_in_its_words() {
        let said = |kind: &str, reason: &str, message: &str| {
            let condition =
                json!({"type": kind, "status": "True", "reason": reason, "message": message});
            read("containers", json!([condition])).resize
        };
        let capacity = "Node didn't have enough capacity: memory, requested: 9, capacity: 5";
        for (reason, never) in [("Infeasible", true), ("Deferred", false)] {
            let pending = said("PodResizePending", reason, capacity);
            let words = format!("{reason}: {capacity}");
            assert_eq!(pending, Resize::Pending { never, words });
        }
        let going = said("PodResizeInProgress", "", "");
        assert_eq!(going, Resize::UnderWay(String::new()));
        let failed = said("PodResizeInProgress", "Error", "usage is 7");
        assert_eq!(failed, Resize::UnderWay("Error: usage is 7".to_owned()));
        let begun = json!([{"type": "PodResizeInProgress", "status": "True"}]);
        assert!(
            read("containers", begun).unseen,
            "its limit may be any of two"
        );
        let over = json!([{"type": "PodResizePending", "status": "False"}]);
        assert_eq!(read("containers", over).resize, Resize::Nothing);
    }
}
