//! One InferenceDeployment as a test sees it: its typed status, its pods, waiting for either.

use std::time::Duration;

use anyhow::{Context as _, Result};
use plimsoll_crds::names;
use plimsoll_crds::v1alpha1::InferenceDeployment;
use serde_json::Value;

use crate::kube::Api;
use crate::wait;

/// How often a waiting test looks.
const EVERY: Duration = Duration::from_millis(150);

/// One InferenceDeployment by namespace and name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Resource<'a> {
    api: &'a Api,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
}

/// A condition's status, reason and message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) status: String,
    pub(crate) reason: String,
    pub(crate) message: String,
}

impl<'a> Resource<'a> {
    pub(crate) fn new(api: &'a Api, namespace: &'a str, name: &'a str) -> Self {
        Self {
            api,
            namespace,
            name,
        }
    }

    /// The object as the API server holds it.
    pub(crate) fn get(&self) -> Result<InferenceDeployment> {
        serde_json::from_value(self.api.get(&self.path())?).context("not an InferenceDeployment")
    }

    /// A condition, if the newest spec has been observed and the condition stands.
    pub(crate) fn condition(&self, kind: &str) -> Result<Option<Condition>> {
        let object = self.get()?;
        let generation = object.metadata.generation;
        let Some(status) = object.status else {
            return Ok(None);
        };
        if status.observed_generation != generation {
            return Ok(None);
        }
        let found = status
            .conditions
            .into_iter()
            .find(|condition| condition.type_ == kind);
        Ok(found.map(|it| Condition {
            status: it.status,
            reason: it.reason,
            message: it.message,
        }))
    }

    /// Waits until a condition has that status.
    pub(crate) fn await_condition(
        &self,
        kind: &str,
        status: &str,
        deadline: Duration,
    ) -> Result<Condition> {
        let what = format!("{} is {kind}={status}", self.name);
        wait::until(&what, deadline, EVERY, || {
            Ok(match self.condition(kind) {
                Ok(Some(condition)) if condition.status == status => Ok(condition),
                Ok(Some(condition)) => Err(format!(
                    "{kind} is {} ({}: {})",
                    condition.status, condition.reason, condition.message
                )),
                Ok(None) => Err(format!("no condition {kind} for the newest spec")),
                Err(error) => Err(error.to_string()),
            })
        })
    }

    /// Waits until Ready is True.
    pub(crate) fn await_ready(&self, deadline: Duration) -> Result<Condition> {
        self.await_condition("Ready", "True", deadline)
    }

    /// Its engine pods, as JSON.
    pub(crate) fn engine_pods(&self) -> Result<Vec<Value>> {
        self.pods_of_role(names::ROLE_ENGINE)
    }

    /// Its inspect pods, as JSON.
    pub(crate) fn inspect_pods(&self) -> Result<Vec<Value>> {
        self.pods_of_role(names::ROLE_INSPECT)
    }

    /// Everything of one kind in the namespace that carries this resource's label.
    pub(crate) fn owned(&self, list: &str) -> Result<Vec<Value>> {
        let label = names::LABEL_DEPLOYMENT.replace('/', "%2F");
        self.api
            .list(&format!("{list}?labelSelector={label}%3D{}", self.name))
    }

    /// The path of the object in the API.
    pub(crate) fn path(&self) -> String {
        format!(
            "/apis/{}/{}/namespaces/{}/{}/{}",
            names::GROUP,
            names::VERSION,
            self.namespace,
            names::PLURAL,
            self.name
        )
    }

    fn pods_of_role(&self, role: &str) -> Result<Vec<Value>> {
        let mut pods = self.owned(&format!("/api/v1/namespaces/{}/pods", self.namespace))?;
        pods.retain(|pod| pod["metadata"]["labels"][names::LABEL_ROLE] == role);
        Ok(pods)
    }
}
