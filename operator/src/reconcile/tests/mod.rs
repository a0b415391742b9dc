//! Whole passes against a small API server.

mod foreign;
mod pulls;
mod reach;
mod refusals;
mod repairs;
mod resizes;
mod sleeps;
mod told;

use serde_json::{Value, json};

use super::*;
use crate::testing::cluster::Cluster;
use crate::testing::*;

/// A resource whose model was inspected before.
fn resource(yaml: &str) -> Arc<InferenceDeployment> {
    let facts = inspected(yaml);
    let mut object = (*facts.object).clone();
    object.status = Some(facts.status);
    Arc::new(object)
}

struct Story {
    cluster: Cluster,
    resource: Arc<InferenceDeployment>,
}

impl Story {
    /// A resource with all its children made, and nothing left to do.
    async fn at_rest(yaml: &str) -> Story {
        let mut story = Story::new(yaml).await;
        story.pass().await.unwrap();
        story.pass().await.unwrap();
        story.cluster.requests();
        story
    }

    async fn new(yaml: &str) -> Story {
        let resource = resource(yaml);
        let cluster = Cluster::new(&resource).await;
        Story { cluster, resource }
    }

    /// A pass; then the watches bring what it wrote.
    async fn pass(&mut self) -> Result<Action, Error> {
        let seen = Arc::new(Decoded {
            object: Ok(Arc::clone(&self.resource)),
            left_out: None,
        });
        let context = || Arc::clone(&self.cluster.context);
        let outcome = reconcile(Arc::clone(&seen), context()).await;
        if let Err(error) = &outcome {
            retry(seen, error, context());
        }
        self.cluster.show();
        outcome
    }

    /// A pass that goes well, and what it asked of the API server.
    async fn asked(&mut self) -> Vec<String> {
        self.pass().await.unwrap();
        self.cluster.requests()
    }

    /// The operator dies, and another begins with what the cluster has.
    fn restart(&mut self) {
        let mut object = (*self.resource).clone();
        object.status = serde_json::from_value(self.cluster.status()).unwrap();
        self.resource = Arc::new(object);
        self.cluster.restart();
    }

    /// What was written so far was written this much longer ago.
    async fn age(&self, by: Duration) {
        let uid = self.resource.metadata.uid.as_deref().unwrap();
        let memory = self.cluster.context.memories.of(uid);
        for applied in memory.lock().await.applied.values_mut() {
            applied.at = applied.at.checked_sub(by).unwrap();
        }
    }

    fn revision(&self) -> String {
        self.cluster.names("replicasets").pop().unwrap()
    }

    fn condition(&self, kind: &str) -> Value {
        let status = self.cluster.status();
        let mut conditions = status["conditions"].as_array().unwrap().iter();
        conditions
            .find(|condition| condition["type"] == kind)
            .cloned()
            .unwrap_or_default()
    }
}

/// Takes a field out of the account, as an update by somebody else does.
fn lose(object: &mut Value, path: &[&str]) {
    let (last, path) = path.split_last().unwrap();
    let account = &mut object["metadata"]["managedFields"][0]["fieldsV1"];
    let parent = path.iter().fold(account, |tree, name| &mut tree[*name]);
    parent
        .as_object_mut()
        .unwrap()
        .remove(*last)
        .expect("it was ours");
}

fn invalid(message: &str) -> (u16, Value) {
    (422, failure(422, message))
}

fn failure(code: u16, message: &str) -> Value {
    json!({"kind": "Status", "status": "Failure", "code": code, "message": message})
}
