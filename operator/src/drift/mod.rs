//! Drift: which of the fields that the operator wrote in a child are no longer its own. Pure.
//!
//! The API server keeps the account: for every manager, `metadata.managedFields` lists what it
//! applied, and a field that somebody else changes or removes leaves the list. So no value is
//! compared, and what the server completes, writes in another notation (`1.0` cores, `1000m`) or
//! lets a webhook rewrite is no drift; nor is a field that somebody adds beside ours.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{FieldsV1, ManagedFieldsEntry, ObjectMeta};
use plimsoll_crds::names;
use serde_json::{Map, Value};

/// A field that was the operator's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lost {
    /// Such as `spec.ports[port=8000,protocol=TCP]`.
    pub(crate) path: String,
    /// With it went items of a list below `spec`: what took their place is somebody else's, and
    /// applying ours again would leave both.
    pub(crate) item: bool,
}

/// Of the account, keeps what we applied, or what we created where nothing was applied since, as
/// text: a tree of maps takes ten times the memory.
pub(crate) fn keep_ours(meta: &mut ObjectMeta) {
    let all = meta.managed_fields.take().unwrap_or_default();
    let by = |operation: &str| {
        all.iter().position(|entry| {
            entry.manager.as_deref() == Some(names::MANAGER)
                && entry.operation.as_deref() == Some(operation)
                && entry.subresource.is_none()
        })
    };
    let ours = by("Apply").or_else(|| by("Update"));
    let ours = ours.and_then(|at| all.into_iter().nth(at));
    meta.managed_fields = ours.map(|entry| {
        let text = entry.fields_v1.map(|fields| fields.0.to_string());
        vec![ManagedFieldsEntry {
            fields_v1: text.map(|text| FieldsV1(Value::String(text))),
            ..ManagedFieldsEntry::default()
        }]
    });
}

/// What [`keep_ours`] kept; empty where nothing is ours.
pub(crate) fn ours(meta: &ObjectMeta) -> &str {
    let entry = meta.managed_fields.as_ref().and_then(|all| all.first());
    let fields = entry.and_then(|entry| entry.fields_v1.as_ref());
    fields
        .and_then(|fields| fields.0.as_str())
        .unwrap_or_default()
}

/// The first field of `wanted` that is not among `owned`.
pub(crate) fn lost(owned: &str, wanted: &Value) -> Option<Lost> {
    let everything = || Lost {
        path: "metadata.managedFields".to_owned(),
        item: false,
    };
    let Ok(Value::Object(owned)) = serde_json::from_str(owned) else {
        return Some(everything());
    };
    // An empty tree means the whole of an atomic value, and no object is one.
    if owned.is_empty() {
        return Some(everything());
    }
    let Value::Object(members) = wanted else {
        return None;
    };
    let mut members = members
        .iter()
        .filter(|(name, _)| !["apiVersion", "kind"].contains(&name.as_str()));
    members.find_map(|(name, value)| lost_member(&owned, name, value, ""))
}

/// What a tree of the account says below `path`.
fn lost_below(owned: &Value, wanted: &Value, path: &str) -> Option<Lost> {
    let owned = owned.as_object()?;
    // Owned as a whole: an atomic map or list, or a value.
    if owned.is_empty() {
        return None;
    }
    match wanted {
        Value::Object(members) => members
            .iter()
            // They name the object and are nobody's.
            .filter(|(name, _)| {
                path != "metadata" || !["name", "namespace"].contains(&name.as_str())
            })
            .find_map(|(name, value)| lost_member(owned, name, value, path)),
        Value::Array(items) => items.iter().find_map(|item| lost_item(owned, item, path)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

fn lost_member(
    owned: &Map<String, Value>,
    name: &str,
    value: &Value,
    parent: &str,
) -> Option<Lost> {
    let path = match parent {
        "" => name.to_owned(),
        parent => format!("{parent}.{name}"),
    };
    match owned.get(&format!("f:{name}")) {
        Some(below) => lost_below(below, value, &path),
        // Nothing was asked for, so nothing is listed.
        None if value.is_null() || value.as_array().is_some_and(Vec::is_empty) => None,
        None => Some(Lost {
            item: has_items(&path, value),
            path,
        }),
    }
}

fn lost_item(owned: &Map<String, Value>, item: &Value, path: &str) -> Option<Lost> {
    let found = match item {
        Value::Object(members) => owned.iter().find_map(|(key, below)| {
            let keys: Map<String, Value> = serde_json::from_str(key.strip_prefix("k:")?).ok()?;
            // A key that the item leaves out has its default.
            let same = |(name, value): (&String, &Value)| {
                members.get(name).is_none_or(|member| member == value)
            };
            keys.iter()
                .all(same)
                .then_some((describe(path, &keys), below))
        }),
        value => owned
            .get(&format!("v:{value}"))
            .map(|below| (path.to_owned(), below)),
    };
    match found {
        Some((path, below)) => lost_below(below, item, &path),
        None => {
            let name = item.get("name").and_then(Value::as_str);
            Some(Lost {
                item: path.starts_with("spec."),
                path: name.map_or_else(|| path.to_owned(), |name| format!("{path}[name={name}]")),
            })
        }
    }
}

/// Whether a value below `spec` has items that others can stand beside.
fn has_items(path: &str, value: &Value) -> bool {
    let inside = |value: &Value| match value {
        Value::Array(items) => items.iter().any(Value::is_object),
        Value::Object(members) => members
            .iter()
            .any(|(name, value)| has_items(&format!("{path}.{name}"), value)),
        _ => false,
    };
    (path == "spec" || path.starts_with("spec.")) && inside(value)
}

fn describe(path: &str, keys: &Map<String, Value>) -> String {
    let keys: Vec<String> = keys
        .iter()
        .map(|(name, value)| match value {
            Value::String(text) => format!("{name}={text}"),
            other => format!("{name}={other}"),
        })
        .collect();
    format!("{path}[{}]", keys.join(","))
}

#[cfg(test)]
mod tests;
