//! The life of an inspection, state by state.

use plimsoll_crds::names::{EXIT_OTHER_FILES, EXIT_PLAN_DIFFERS};
use serde_json::{Value, json};

use super::*;
use crate::testing::*;

pub(super) fn name(facts: &Facts) -> String {
    pod_name("smollm2", &facts.object.spec)
}

/// What is decided when the inspect pod's status is as given.
fn with_pod(status: Value) -> (Facts, Decision) {
    let mut facts = facts(SMOLLM2);
    facts.inspect_pods = vec![inspection(&name(&facts), status)];
    let decision = decide(&facts);
    (facts, decision)
}

pub(super) fn ended(message: &str, exit_code: i32) -> Value {
    let state =
        json!({"terminated": {"exitCode": exit_code, "reason": "Completed", "message": message}});
    json!({"phase": "Succeeded", "containerStatuses": [container("inspect", state, false)]})
}

fn waiting(reason: &str) -> Value {
    let state = json!({"waiting": {"reason": reason, "message": "localhost/x"}});
    json!({"phase": "Pending", "containerStatuses": [container("inspect", state, false)]})
}

#[test]
fn an_unknown_model_is_inspected_and_a_known_one_is_not() {
    let unknown = facts(SMOLLM2);
    let decision = decide(&unknown);
    assert_eq!(decision.start, Some(name(&unknown)));
    assert!(matches!(decision.model, Model::Inspecting(_)));

    let known = decide(&inspected(SMOLLM2));
    assert_eq!(known.start, None);
    assert!(matches!(known.model, Model::Known(..)));
}

#[test]
fn another_source_is_another_inspection_and_other_changes_are_none() {
    let mut facts = inspected(SMOLLM2);
    let mut object = (*facts.object).clone();
    object.spec.replicas = Some(9);
    object.spec.limits.max_num_seqs = 1;
    facts.object = std::sync::Arc::new(object.clone());
    assert!(matches!(decide(&facts).model, Model::Known(..)));
    object.spec.model.source.path = Some("other.gguf".to_owned());
    facts.object = std::sync::Arc::new(object);
    // A pod of the source before is in nobody's way, and of no use.
    facts.inspect_pods = vec![inspection(
        "smollm2-inspect-old",
        waiting("ContainerCreating"),
    )];
    let decision = decide(&facts);
    assert!(decision.start.is_some());
    assert_eq!(decision.discard, ["smollm2-inspect-old"]);
}

#[test]
fn facts_of_older_operators_are_read_again_where_plans_need_more() {
    use plimsoll_crds::v1alpha1::facts::ModelFormat::{Gguf, HuggingFace};
    for (version, format, quantized, again) in [
        ("2", HuggingFace, false, false),
        ("", HuggingFace, false, false),
        ("2", HuggingFace, true, true),
        ("2", Gguf, true, true),
        // Its embedding may be in blocks, though most numbers are floats.
        ("2", Gguf, false, true),
        ("1", HuggingFace, false, true),
    ] {
        let mut facts = inspected(SMOLLM2);
        let source = keyed(&facts.object.spec, version);
        facts.status.inspection = Some(Inspection { source, node: None });
        let mut model = smollm2();
        model.format = format;
        model.quantization = quantized.then(|| "Q".to_owned());
        facts.status.model = Some(model);
        let decision = decide(&facts);
        assert_eq!(
            decision.start.is_some(),
            again,
            "{version} {format:?} {quantized}"
        );
    }
}

#[test]
fn a_folder_of_the_node_is_inspected_again_for_other_nodes() {
    let one = object(HOST_PATH);
    let mut two = one.clone();
    let template = two.spec.template.as_mut().unwrap();
    let nodes = &mut template.spec.as_mut().unwrap().node_selector;
    nodes.insert("zone".to_owned(), "b".to_owned());
    assert_ne!(source_key(&one.spec), source_key(&two.spec));
}

#[test]
fn the_answer_becomes_facts_and_the_pod_goes() {
    let answer = json!({"facts": smollm2()}).to_string();
    assert!(answer.len() < plimsoll_crds::names::TERMINATION_MESSAGE_BYTES);
    let (facts, decision) = with_pod(ended(&answer, 0));
    assert!(matches!(decision.model, Model::Known(ref model, _) if **model == smollm2()));
    assert_eq!(decision.discard, [name(&facts)]);
}

#[test]
fn answers_that_refuse_a_model_name_the_reason() {
    let table = [
        (
            r#"{"error":{"reason":"UnsupportedArchitecture","message":"Gpt2"}}"#,
            "UnsupportedArchitecture",
        ),
        (
            r#"{"error":{"reason":"ModelNotFound","message":"no such file"}}"#,
            "ModelNotFound",
        ),
        (
            r#"{"error":{"reason":"Nonsense","message":"?"}}"#,
            "ModelInvalid",
        ),
        // A reason of another condition is not one of this.
        (
            r#"{"error":{"reason":"Serving","message":"?"}}"#,
            "ModelInvalid",
        ),
        (r"{}", "InspectFailed"),
        ("killed", "InspectFailed"),
        ("", "InspectFailed"),
        (r#"{"facts":{"layers":-1}}"#, "InspectFailed"),
    ];
    for (message, reason) in table {
        let (_, decision) = with_pod(ended(message, 1));
        let Model::Failed(failure) = decision.model else {
            panic!("{message}")
        };
        assert_eq!(failure.reason.as_str(), reason, "{message}");
        assert_eq!(failure.retry_at, at(20), "{message}");
    }
}

#[test]
fn a_failure_is_counted_once_and_tried_again_after_a_pause() {
    let (mut facts, first) = with_pod(ended("boom", 1));
    let Model::Failed(failure) = first.model else {
        panic!()
    };
    assert_eq!(failure.attempts, 1);
    assert_eq!(first.look_again, Some(Duration::from_secs(10)));
    // The same pod, seen again before its deletion comes through.
    facts.inspect_failure = Some(failure.clone());
    let again = decide(&facts);
    assert_eq!(again.model, Model::Failed(failure.clone()));
    // Gone: nothing happens before the pause is over.
    facts.inspect_pods.clear();
    assert_eq!(decide(&facts).start, None);
    facts.now = at(25);
    assert_eq!(decide(&facts).start, Some(name(&facts)));
    // A new spec is worth another look at once.
    facts.now = at(11);
    facts.identity.generation += 1;
    assert_eq!(decide(&facts).start, Some(name(&facts)));
}

/// A container that waits, in a pod whose volumes are mounted or not.
fn waits(reason: &str, sandbox: Option<bool>) -> Value {
    let mut status = waiting(reason);
    if let Some(there) = sandbox {
        let there = if there { "True" } else { "False" };
        status["conditions"] = json!([{"type": "PodReadyToStartContainers", "status": there}]);
    }
    status
}

#[test]
fn a_pull_may_take_as_long_as_it_takes_and_a_mount_may_not() {
    for (yaml, sandbox, seconds, available) in [
        (SMOLLM2, Some(true), 100_000, true),
        (SMOLLM2, None, 100_000, true),
        (SMOLLM2, Some(false), 59, true),
        (SMOLLM2, Some(false), 61, false),
        // The sidecar's own image is pulled too.
        (CLAIM, Some(true), 100_000, true),
        (CLAIM, Some(false), 61, false),
        (CLAIM, None, 59, true),
        (CLAIM, None, 61, false),
    ] {
        let mut facts = facts(yaml);
        facts.now = at(seconds);
        let name = pod_name(&facts.identity.name, &facts.object.spec);
        facts.inspect_pods = vec![inspection(&name, waits("ContainerCreating", sandbox))];
        let decision = decide(&facts);
        let inspecting = matches!(decision.model, Model::Inspecting(_));
        assert_eq!(inspecting, available, "{sandbox:?} after {seconds} s");
        if inspecting && sandbox == Some(false) {
            assert_eq!(decision.look_again, Some(Duration::from_secs(1)));
        }
    }
    let (_, waits) = with_pod(unschedulable(0));
    assert!(matches!(waits.model, Model::Inspecting(ref text) if text.contains("0/2 nodes")));
}

#[test]
fn a_pull_that_fails_is_tried_again_for_a_while_before_it_is_said() {
    for (reason, failing, available) in [
        ("ErrImagePull", 0, true),
        ("ImagePullBackOff", 29, true),
        ("ImagePullBackOff", 30, false),
        ("ErrImagePull", 9_999, false),
        // The kubelet does not even try.
        ("ErrImageNeverPull", 0, false),
        ("InvalidImageName", 0, false),
    ] {
        let mut facts = facts(SMOLLM2);
        facts.inspect_pods = vec![inspection(&name(&facts), waiting(reason))];
        facts.now = at(10_000);
        facts.pull_trouble = Some((facts.inspect_pods[0].uid.clone(), at(10_000 - failing)));
        let decision = decide(&facts);
        let words = match &decision.model {
            Model::Inspecting(words) if available => words,
            Model::Unavailable(words) if !available => words,
            other => panic!("{reason} for {failing} s: {other:?}"),
        };
        assert!(
            words.contains(reason) && words.contains("localhost/x"),
            "{words}"
        );
        let left = u64::try_from(30 - failing).unwrap_or(0);
        let look = available.then_some(Duration::from_secs(left));
        assert_eq!(decision.look_again, look, "{reason} for {failing} s");
    }
}

#[test]
fn a_source_that_hangs_while_it_is_read_is_given_up_and_read_again() {
    let running = |since: i64| {
        let state = json!({"running": {"startedAt": at(since).to_string()}});
        json!({"phase": "Running", "containerStatuses": [container("inspect", state, true)]})
    };
    // An hour of pulling came before.
    let mut facts = facts(SMOLLM2);
    facts.now = at(4_000);
    facts.inspect_pods = vec![inspection(&name(&facts), running(3_500))];
    let decision = decide(&facts);
    assert!(matches!(decision.model, Model::Inspecting(_)));
    assert_eq!(decision.look_again, Some(Duration::from_secs(100)));
    facts.now = at(4_100);
    let decision = decide(&facts);
    assert!(matches!(decision.model, Model::Failed(ref it) if it.message.contains("600 s")));
    assert_eq!(decision.discard, [name(&facts)]);
}

#[test]
fn a_dropped_image_volume_is_said_with_the_way_out() {
    let mut facts = facts(SMOLLM2);
    let empty = r#"{"error":{"reason":"ModelNotFound","message":"no such file"}}"#;
    for status in [waiting("ContainerCreating"), ended(empty, 1)] {
        let mut pod = inspection(&name(&facts), status);
        pod.source_dropped = true;
        facts.inspect_pods = vec![pod];
        let decision = decide(&facts);
        let Model::Failed(failure) = decision.model else {
            panic!()
        };
        assert_eq!(failure.reason, Reason::SourceUnavailable);
        let source = "spec.adapters[].source.image";
        for word in ["1.33", "ImageVolume", "persistentVolumeClaim", source] {
            assert!(failure.message.contains(word), "{}", failure.message);
        }
        assert_eq!(decision.discard, [name(&facts)]);
    }
}

#[test]
fn another_pull_secret_is_another_pod_and_the_same_source() {
    let one = object(SMOLLM2);
    let mut two = one.clone();
    let template = two.spec.template.get_or_insert_default();
    let pods = template.spec.get_or_insert_default();
    pods.service_account_name = Some("puller".to_owned());
    assert_eq!(source_key(&one.spec), source_key(&two.spec));
    assert_ne!(pod_name("a", &one.spec), pod_name("a", &two.spec));
}

/// Facts of a model that was inspected, and of an engine that ended with this code.
fn refused_by_engine(code: u8, revision: &str) -> Facts {
    let mut facts = inspected(SMOLLM2);
    facts.status.update_revision = Some("new".to_owned());
    facts.pods = vec![engine(
        "a",
        revision,
        crashed(code.into(), "in whatever words"),
    )];
    facts
}

#[test]
fn a_moved_tag_is_read_again_when_an_engine_says_so() {
    for (code, revision, again) in [
        (EXIT_OTHER_FILES, "new", true),
        // It was made for what is known no longer.
        (EXIT_OTHER_FILES, "old", false),
        (EXIT_PLAN_DIFFERS, "new", false),
        (1, "new", false),
    ] {
        let decision = decide(&refused_by_engine(code, revision));
        assert!(
            matches!(decision.model, Model::Known(..)),
            "what runs goes on"
        );
        assert_eq!(decision.start.is_some(), again, "{code} of {revision}");
    }
    // While it tries again it has not found other files; once it has started it has.
    let mut facts = refused_by_engine(EXIT_OTHER_FILES, "new");
    facts.pods[0].engine.running = true;
    assert!(decide(&facts).start.is_some());
    facts.pods[0].engine.started = true;
    assert_eq!(decide(&facts).start, None);
    // What is read then is what is known.
    let mut facts = refused_by_engine(EXIT_OTHER_FILES, "new");
    let answer = |digest: &str| {
        let mut model = smollm2();
        model.digest = digest.to_owned();
        ended(&json!({"facts": model}).to_string(), 0)
    };
    facts.inspect_pods = vec![inspection(&name(&facts), waiting("ContainerCreating"))];
    let reading = decide(&facts);
    assert_eq!((reading.start, reading.discard), (None, Vec::new()));
    facts.inspect_pods = vec![inspection(&name(&facts), answer("sha256:def"))];
    let read = decide(&facts);
    assert!(matches!(read.model, Model::Known(ref model, _) if model.digest == "sha256:def"));
    assert_eq!(read.reread, None);
    // The inspect pod's node has the old image still: again, with growing pauses.
    facts.inspect_pods = vec![inspection(&name(&facts), answer("sha256:abc"))];
    let same = decide(&facts);
    assert!(matches!(same.model, Model::Known(ref model, _) if model.digest == "sha256:abc"));
    assert_eq!(same.discard, [name(&facts)]);
    assert_eq!(same.look_again, Some(Duration::from_secs(10)));
    facts.reread = same.reread;
    facts.inspect_pods.clear();
    let rest = decide(&facts);
    assert_eq!(
        (rest.start, rest.look_again),
        (None, Some(Duration::from_secs(10)))
    );
    facts.now = at(20);
    assert_eq!(decide(&facts).start, Some(name(&facts)));
}

#[test]
fn an_inspection_that_waits_for_its_volumes_names_them_before_it_is_called_unavailable() {
    let mut facts = facts(CLAIM);
    let status = json!({"phase": "Pending", "conditions": [
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": at(0).to_string()},
        {"type": "PodReadyToStartContainers", "status": "False"},
    ]});
    let own = pod_name(&facts.identity.name, &facts.object.spec);
    let mut pod = inspection(&own, status);
    pod.volumes.claims = vec!["models".to_owned()];
    facts.inspect_pods = vec![pod];
    for (seconds, look_again, words) in [
        (5, Some(10), "is starting"),
        (15, Some(45), "waits for its volumes (claim models)"),
        (60, None, "its volumes (claim models) are not mounted"),
    ] {
        facts.now = at(seconds);
        let decision = decide(&facts);
        assert_eq!(decision.look_again, look_again.map(Duration::from_secs));
        let (Model::Inspecting(said) | Model::Unavailable(said)) = decision.model else {
            panic!("after {seconds} s");
        };
        assert!(said.contains(words), "{said}");
    }
}
