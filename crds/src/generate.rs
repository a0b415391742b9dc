//! The files that are generated from the API's types. They are committed; a test fails when one
//! of them is stale.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use crate::v1alpha1::{ConditionType, EventReason, schema};

/// Every generated file: its path in the repository and its text.
pub fn files() -> [(&'static str, String); 2] {
    [
        ("charts/plimsoll/templates/crd.yaml", chart_template()),
        ("crds/CONDITIONS.md", conditions_table()),
    ]
}

/// The CustomResourceDefinition as YAML.
pub fn crd_yaml() -> String {
    yaml(&schema::crd())
}

/// The CustomResourceDefinition as a template of the Helm chart: left out with
/// `crds.install=false`, kept on uninstall unless `crds.keep=false`.
pub fn chart_template() -> String {
    let mut crd = schema::crd();
    // The labels and annotations are the chart's; they replace this line.
    crd["metadata"] = json!({"name": crd["metadata"]["name"]});
    let text = yaml(&crd);
    assert!(
        !text.contains("{{"),
        "the schema holds what Helm reads as a template"
    );
    let name = "metadata:\n  name: ";
    let (before, after) = text.split_once(name).unwrap_or((&text, ""));
    let (crd_name, after) = after.split_once('\n').unwrap_or((after, ""));
    format!(
        "{{{{- /* Printed by `crdgen chart`; do not edit. */ -}}}}\n\
         {{{{- if .Values.crds.install }}}}\n\
         {before}{name}{crd_name}\n  labels:\n    {{{{- include \"plimsoll.labels\" . | nindent 4 }}}}\n  \
         {{{{- if .Values.crds.keep }}}}\n  annotations:\n    helm.sh/resource-policy: keep\n  \
         {{{{- end }}}}\n{after}{{{{- end }}}}\n"
    )
}

/// `crds/CONDITIONS.md`: every condition with its reasons, and every Event.
pub fn conditions_table() -> String {
    let mut text = String::from(
        "# Conditions and Events of an InferenceDeployment\n\n\
         Printed by `crdgen conditions` from `crds/src/v1alpha1/conditions.rs`; do not edit.\n\n\
         ## Conditions\n\n| Type | True means |\n|---|---|\n",
    );
    for kind in ConditionType::ALL {
        let _ = writeln!(text, "| {kind} | {} |", kind.meaning());
    }
    text.push_str("\n## Reasons\n\n| Type | Status | Reason | Meaning |\n|---|---|---|---|\n");
    for kind in ConditionType::ALL {
        for (status, reasons) in kind.reasons() {
            for reason in *reasons {
                let status = status.as_str();
                let _ = writeln!(
                    text,
                    "| {kind} | {status} | {reason} | {} |",
                    reason.meaning()
                );
            }
        }
    }
    text.push_str("\n## Events\n\n| Reason | Meaning |\n|---|---|\n");
    for event in EventReason::ALL {
        let _ = writeln!(text, "| {event} | {} |", event.meaning());
    }
    text
}

/// Block-style YAML with sorted keys, whatever order `serde_json` keeps them in.
fn yaml(value: &Value) -> String {
    serde_saphyr::to_string(&sorted(value)).expect("JSON values have a YAML form")
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut names: Vec<&String> = fields.keys().collect();
            names.sort();
            let entries = names
                .into_iter()
                .map(|name| (name.clone(), sorted(&fields[name])));
            Value::Object(entries.collect::<Map<_, _>>())
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        plain => plain.clone(),
    }
}
