//! Which fields an applied object makes its applier's, for the lists that this crate applies: a
//! short imitation of Kubernetes, compared with what Kubernetes says in `drift/tests.rs`.

use serde_json::{Map, Value, json};

/// The account of an applied object, for the lists that this crate applies.
pub(crate) fn account(object: &Value) -> Value {
    let mut fields = below("", object);
    for name in ["f:apiVersion", "f:kind"] {
        fields.as_object_mut().unwrap().remove(name);
    }
    for name in ["f:name", "f:namespace", "f:uid"] {
        fields["f:metadata"].as_object_mut().unwrap().remove(name);
    }
    fields
}

fn below(name: &str, value: &Value) -> Value {
    let keys: &[&str] = match name {
        "ports" => &["containerPort", "port", "protocol"],
        "containers" | "initContainers" | "volumes" | "env" => &["name"],
        "volumeMounts" => &["mountPath"],
        "ownerReferences" => &["uid"],
        _ => &[],
    };
    match value {
        Value::Object(_) if name == "selector" => json!({}),
        Value::Object(members) => {
            let empty = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
            let members = members.iter().filter(|(_, value)| !empty(value));
            members
                .map(|(name, value)| (format!("f:{name}"), below(name, value)))
                .collect()
        }
        Value::Array(items) if !keys.is_empty() => items
            .iter()
            .map(|item| {
                let mut key = Map::new();
                for name in keys {
                    if let Some(value) = item.get(*name) {
                        key.insert((*name).to_owned(), value.clone());
                    } else if *name == "protocol" {
                        key.insert((*name).to_owned(), json!("TCP"));
                    }
                }
                let mut fields = json!({});
                if name != "ownerReferences" {
                    fields = below("", item);
                    fields["."] = json!({});
                }
                (format!("k:{}", Value::Object(key)), fields)
            })
            .collect(),
        _ => json!({}),
    }
}
