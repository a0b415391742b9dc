//! Adapters are read with the model: another list is another reading, and one that does not fit is said
//! with its reason.

use super::tests::{ended, name};
use super::*;
use crate::testing::*;

#[test]
fn other_adapters_are_another_reading() {
    let plain = object(SMOLLM2).spec;
    let with = object(&with_adapters()).spec;
    let mut other = with.clone();
    other.adapters[1].source.path = Some("v2".to_owned());
    let keys = [&plain, &with, &other].map(source_key);
    assert!(keys[0] != keys[1] && keys[1] != keys[2] && keys[0] != keys[2]);
    // One in a folder of the node is read again for other nodes, though the model is an image.
    let on_host = with_adapters().replace("{claimName: tunings}", "null");
    let on_host = on_host.replace("persistentVolumeClaim: null", "hostPath: {path: /lora}");
    let here = object(&on_host).spec;
    let mut there = here.clone();
    let mut pods = plimsoll_crds::v1alpha1::template::TemplateSpec::default();
    pods.node_selector.insert("zone".to_owned(), "b".to_owned());
    let template = there.template.get_or_insert_default();
    template.spec = Some(pods);
    assert_ne!(source_key(&here), source_key(&there));
    let (mut here, mut there) = (with.clone(), with);
    here.template = None;
    there.template = Some(Default::default());
    assert_eq!(source_key(&here), source_key(&there));
}

#[test]
fn an_adapter_that_does_not_fit_has_a_reason_of_its_own() {
    let mut facts = facts(&with_adapters());
    let said = r#"{"error":{"reason":"AdapterInvalid","message":"adapter `sql`: r is 0"}}"#;
    facts.inspect_pods = vec![inspection(&name(&facts), ended(said, 1))];
    let Model::Failed(failure) = decide(&facts).model else {
        panic!("it was taken")
    };
    assert_eq!(failure.reason, Reason::AdapterInvalid);
    assert_eq!(failure.message, "adapter `sql`: r is 0");
}

/// As with the model's own: what was read was an empty folder.
#[test]
fn an_image_volume_of_an_adapter_alone_counts_as_one() {
    let mut spec = object(&with_adapters()).spec;
    spec.model.source.image = None;
    assert!(of_images(&spec));
    spec.adapters.remove(0);
    assert!(!of_images(&spec));
}
