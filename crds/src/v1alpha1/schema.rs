//! The schema of the resource: what the derived one needs to become one that the API server takes
//! without a warning.

use kube::CustomResourceExt;
use serde_json::{Map, Value, json};

use super::rules::rule;
use super::spec::InferenceDeployment;
use crate::names;

/// The CustomResourceDefinition, ready for an API server.
pub fn crd() -> Value {
    let mut crd = json!(InferenceDeployment::crd());
    for version in crd["spec"]["versions"].as_array_mut().into_iter().flatten() {
        let root = &mut version["schema"]["openAPIV3Schema"];
        tidy(root);
        root["properties"]["metadata"] = name_schema();
        // Who waits for `observedGeneration` must not take what nobody looked at for current.
        root["properties"]["status"]["default"] = json!({"observedGeneration": -1});
    }
    crd
}

/// Children take the resource's name: a Service's is a DNS label that begins with a letter, and a
/// ReplicaSet's gets a suffix of 11 characters.
fn name_schema() -> Value {
    let most = names::NAME_CHARS;
    let rule = rule("self.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .says("must be lower-case letters, digits and '-', begin with a letter and not end in '-'");
    json!({
        "type": "object",
        "properties": {
            "name": {
                "type": "string",
                "description": format!("Name of the resource, of its Service and of the model \
                    unless servedNames says otherwise: at most {most} characters."),
                "maxLength": most,
                "x-kubernetes-validations": [rule],
            },
        },
    })
}

/// Formats that Kubernetes knows instead of Rust's, no `nullable` (an absent field is absent).
fn tidy(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            fields.remove("nullable");
            if let Some(Value::String(format)) = fields.get_mut("format") {
                match format.as_str() {
                    "uint32" => *format = "int32".to_owned(),
                    "uint64" => *format = "int64".to_owned(),
                    _ => {}
                }
            }
            if let Some(Value::String(description)) = fields.get_mut("description") {
                *description = unwrapped(description);
            }
            if fields.get("x-kubernetes-int-or-string") == Some(&json!(true)) {
                shorten_quantity(fields);
            }
            if let Some(Value::Array(values)) = fields.get_mut("enum") {
                values.retain(|value| !value.is_null());
            }
            whole_bounds(fields);
            fields.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        _ => {}
    }
}

/// The Quantity type's own description is an essay; where no field has a better one, a line does.
fn shorten_quantity(fields: &mut Map<String, Value>) {
    if let Some(Value::String(description)) = fields.get_mut("description")
        && description.starts_with("Quantity is a fixed-point")
    {
        *description = "A quantity such as 2, 500m or 700Mi.".to_owned();
    }
}

/// The lines of a paragraph joined: `kubectl explain` wraps them to the terminal.
fn unwrapped(description: &str) -> String {
    let paragraphs = description
        .split("\n\n")
        .map(|paragraph| paragraph.replace('\n', " "));
    paragraphs.collect::<Vec<_>>().join("\n\n")
}

/// Bounds that are whole numbers are written as such, as the API server stores them.
fn whole_bounds(fields: &mut Map<String, Value>) {
    for bound in ["minimum", "maximum"] {
        if let Some(value) = fields.get_mut(bound)
            && let Some(number) = value.as_f64()
            && number.fract() == 0.0
            && number.abs() < 1e15
        {
            #[expect(clippy::cast_possible_truncation, reason = "whole and below 2^53")]
            let whole = number as i64;
            *value = json!(whole);
        }
    }
}
