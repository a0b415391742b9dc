//! The generated files are fresh, and the schema is one that reads well: every field described,
//! every list with its kind, nothing at the top that would let unknown fields by.
#![expect(
    clippy::unwrap_used,
    reason = "a test may end at what it did not expect"
)]

use std::path::Path;

use plimsoll_crds::generate;
use plimsoll_crds::v1alpha1::schema;
use serde_json::Value;

#[test]
fn generated_files_are_fresh() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for (path, fresh) in generate::files() {
        let committed = std::fs::read_to_string(root.join(path)).unwrap();
        assert!(
            committed == fresh,
            "{path} is stale; run: cargo run -p plimsoll-crds --bin crdgen -- write ."
        );
    }
}

#[test]
fn printed_yaml_is_the_crd() {
    let back: Value = serde_saphyr::from_str(&generate::crd_yaml()).unwrap();
    assert_eq!(back, schema::crd());
}

/// Every node of the schema with its path.
fn walk(path: &str, node: &Value, visit: &mut dyn FnMut(&str, &Value)) {
    visit(path, node);
    for (name, property) in node["properties"].as_object().into_iter().flatten() {
        walk(&format!("{path}.{name}"), property, visit);
    }
    for part in ["items", "additionalProperties"] {
        if node[part].is_object() {
            walk(&format!("{path}[]"), &node[part], visit);
        }
    }
}

fn root() -> Value {
    let crd = schema::crd();
    assert_eq!(crd["spec"]["versions"].as_array().unwrap().len(), 1);
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

#[test]
fn every_field_has_a_description() {
    let mut fields = 0;
    walk("", &root(), &mut |path, node| {
        for (name, field) in node["properties"].as_object().into_iter().flatten() {
            if path.is_empty() && name == "metadata" {
                continue; // Kubernetes describes it.
            }
            fields += 1;
            let description = field["description"].as_str().unwrap_or_default();
            assert!(!description.is_empty(), "{path}.{name} has no description");
            assert!(
                !description.contains("[`"),
                "{path}.{name} shows a link of rustdoc"
            );
            assert!(
                description.ends_with('.'),
                "{path}.{name} is no sentence: {description}"
            );
        }
    });
    assert!(fields > 100, "{fields} fields");
}

#[test]
fn schema_is_structural_and_closed() {
    // Objects of the Pod API are kept as written; everywhere else a field that is not in the
    // schema is unknown, and kubectl refuses it.
    let open = [
        ".spec.template.spec.affinity",
        ".spec.template.spec.containers[]",
        ".spec.template.spec.tolerations[]",
        ".spec.template.spec.volumes[]",
    ];
    let mut seen = Vec::new();
    walk("", &root(), &mut |path, node| {
        let quantity = node["x-kubernetes-int-or-string"] == true;
        assert!(quantity || node["type"].is_string(), "{path} has no type");
        if node["x-kubernetes-preserve-unknown-fields"] == true {
            seen.push(path.to_owned());
        } else if node["type"] == "object" {
            let described =
                node["properties"].is_object() || node["additionalProperties"].is_object();
            assert!(
                described || path == ".metadata",
                "{path} is an object of nothing"
            );
        }
        if node["type"] == "array" {
            assert!(
                node["x-kubernetes-list-type"].is_string(),
                "{path} has no list type"
            );
        }
        assert!(node.get("nullable").is_none(), "{path} is nullable");
        for combined in ["anyOf", "oneOf", "allOf", "$ref"] {
            assert!(node.get(combined).is_none(), "{path} has {combined}");
        }
        let format = node["format"].as_str().unwrap_or_default();
        assert!(
            !format.starts_with("uint"),
            "{path} has the format {format}"
        );
    });
    seen.sort();
    assert_eq!(seen, open);
}

#[test]
fn every_rule_says_what_is_wrong() {
    let mut rules = 0;
    walk("", &root(), &mut |path, node| {
        for rule in node["x-kubernetes-validations"]
            .as_array()
            .into_iter()
            .flatten()
        {
            rules += 1;
            let says = rule.get("message").or(rule.get("messageExpression"));
            assert!(
                says.is_some_and(|says| !says.as_str().unwrap().is_empty()),
                "{path}: {rule}"
            );
        }
    });
    assert!(rules >= 12, "{rules} rules");
}

#[test]
fn replicas_have_no_default_and_scale_has_its_selector() {
    assert!(
        root()["properties"]["spec"]["properties"]["replicas"]
            .get("default")
            .is_none()
    );
    let crd = schema::crd();
    let version = &crd["spec"]["versions"][0];
    assert_eq!(
        version["subresources"]["scale"]["labelSelectorPath"],
        ".status.selector"
    );
    assert_eq!(
        version["subresources"]["scale"]["specReplicasPath"],
        ".spec.replicas"
    );
    assert!(version["subresources"]["status"].is_object());
}

#[test]
fn columns_are_those_that_are_promised() {
    let crd = schema::crd();
    let columns = crd["spec"]["versions"][0]["additionalPrinterColumns"].clone();
    let names = |wide: bool| -> Vec<String> {
        let columns = columns.as_array().unwrap().iter();
        let columns = columns.filter(|column| (column["priority"] == 1) == wide);
        columns
            .map(|column| column["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let narrow = [
        "Ready",
        "Replicas",
        "TP",
        "State",
        "GPU-Used",
        "GPU-Quota",
        "KV%",
        "Age",
    ];
    assert_eq!(names(false), narrow);
    assert_eq!(names(true), ["Model", "Backend", "Reason", "Endpoint"]);
    for column in columns.as_array().unwrap() {
        let path = column["jsonPath"].as_str().unwrap();
        if let Some(path) = path
            .strip_prefix(".status.")
            .filter(|path| !path.contains('['))
        {
            let mut node = root()["properties"]["status"].clone();
            for name in path.split('.') {
                node = node["properties"][name].clone();
                assert!(node.is_object(), "{path} is not in the schema");
            }
        }
    }
}

/// The API server's words for an unquoted number are fixed: who looks them up in `kubectl explain`,
/// which shows the description of a map's values below its own, finds the way out.
#[test]
fn every_map_of_quantities_says_what_to_do_about_a_number() {
    let mut maps = 0;
    walk("", &root(), &mut |path, node| {
        let values = &node["additionalProperties"];
        if values["x-kubernetes-int-or-string"] == Value::Bool(true) {
            maps += 1;
            let says = values["description"].as_str().unwrap_or_default();
            for words in ["must be of type integer,string", "Quote", "100m"] {
                assert!(says.contains(words), "{path}: {words} is not in {says:?}");
            }
        }
    });
    assert_eq!(maps, 4);
}
