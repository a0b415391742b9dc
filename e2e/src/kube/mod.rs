//! Talking to a Kubernetes: `kubectl` as a user does, and plain JSON for waiting and measuring.

mod api;
mod kubectl;

pub(crate) use api::Api;
pub(crate) use kubectl::Kubectl;
