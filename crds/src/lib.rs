//! The API of Plimsoll: the `InferenceDeployment` resource, its schema and rules, its conditions,
//! and every JSON document that operator and sidecar exchange (each is built from the resource's
//! own types, so `kubectl explain` documents the protocol too).
#![forbid(unsafe_code)]

pub mod generate;
pub mod names;
pub mod v1alpha1;
