//! A trainer beside the engine: who may control it, and the memory that both share.

use k8s_openapi::api::core::v1::Container;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::tests::{made, pod_spec};
use crate::testing::*;

#[test]
fn a_trainer_shares_the_pods_limit_and_controls_the_engine_only_where_the_template_says_so() {
    let pod = pod_spec(&made(&object(TRAINER)));
    let memory = |limits: &std::collections::BTreeMap<String, Quantity>| limits["memory"].0.clone();
    let whole = pod.resources.unwrap();
    assert_eq!(memory(&whole.limits.unwrap()), "1400Mi");
    assert_eq!(memory(&whole.requests.unwrap()), "1400Mi");
    let engine = pod.init_containers.unwrap().remove(0);
    assert_eq!(engine.restart_policy.as_deref(), Some("Always"));
    assert_eq!(memory(&engine.resources.unwrap().limits.unwrap()), "1300Mi");
    let controls = |args: Option<Vec<String>>| {
        let args = args.unwrap();
        args.windows(2)
            .any(|pair| pair == ["--control-api", "loopback"])
    };
    assert!(controls(engine.args));
    assert!(pod.containers[0].resources.is_none());
    for yaml in [SMOLLM2.to_owned(), TRAINER.replace("Loopback", "Off")] {
        let pod = pod_spec(&made(&object(&yaml)));
        let engines = pod.init_containers.unwrap_or(pod.containers);
        let engine: &Container = &engines[0];
        assert!(!controls(engine.args.clone()), "{yaml}");
    }
}
