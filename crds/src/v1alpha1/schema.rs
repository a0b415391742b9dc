//! The schema of the resource: rules in CEL, and what the derived schema needs to become one that
//! the API server takes without a warning.

use kube::CustomResourceExt;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::spec::InferenceDeployment;

/// One validation rule and what it says when it does not hold.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Rule {
    rule: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_expression: Option<String>,
}

/// A rule over `self` that must hold.
pub(super) fn rule(expression: &str) -> Rule {
    Rule {
        rule: expression.to_owned(),
        message: None,
        message_expression: None,
    }
}

impl Rule {
    /// A fixed message: the field, what is wrong, the way out.
    pub(super) fn says(mut self, message: &str) -> Rule {
        self.message = Some(message.to_owned());
        self
    }

    /// A message that CEL computes, so that it can hold the numbers.
    pub(super) fn says_computed(mut self, expression: &str) -> Rule {
        self.message_expression = Some(expression.to_owned());
        self
    }
}

/// Rules for a quantity of bytes: from 1Mi (so that a forgotten unit is caught) to below 1Pi.
pub(super) fn byte_rules(field: &str) -> [Rule; 2] {
    [
        rule("isQuantity(string(self))").says(&format!(
            "{field}: must be a quantity; write e.g. 700Mi or 10G"
        )),
        rule(
            "!isQuantity(string(self)) || \
             (quantity(string(self)).compareTo(quantity('1Mi')) >= 0 && \
             quantity(string(self)).isLessThan(quantity('1Pi')))",
        )
        .says(&format!(
            "{field}: must be at least 1Mi and less than 1Pi; write it with its unit, e.g. 700Mi"
        )),
    ]
}

/// The CustomResourceDefinition, ready for an API server.
pub fn crd() -> Value {
    let mut crd = json!(InferenceDeployment::crd());
    for version in crd["spec"]["versions"].as_array_mut().into_iter().flatten() {
        let root = &mut version["schema"]["openAPIV3Schema"];
        tidy(root);
        root["x-kubernetes-validations"] = json!([name_rule()]);
    }
    crd
}

/// Children take the resource's name: a Service's is a DNS label that begins with a letter, and a
/// ReplicaSet's gets a suffix of 11 characters.
fn name_rule() -> Rule {
    rule("self.metadata.name.matches('^[a-z]([-a-z0-9]{0,50}[a-z0-9])?$')").says(
        "metadata.name: must be 1 to 52 lower-case letters, digits and '-', begin with a letter \
         and end with a letter or digit",
    )
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
            integer_bounds(fields);
            fields.values_mut().for_each(tidy);
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        _ => {}
    }
}

/// Bounds of integers are written without a fraction.
fn integer_bounds(fields: &mut Map<String, Value>) {
    if fields.get("type") != Some(&json!("integer")) {
        return;
    }
    for bound in ["minimum", "maximum"] {
        if let Some(value) = fields.get_mut(bound)
            && let Some(number) = value.as_f64()
            && number.fract() == 0.0
        {
            #[expect(clippy::cast_possible_truncation, reason = "bounds of ours are small")]
            let whole = number as i64;
            *value = json!(whole);
        }
    }
}
