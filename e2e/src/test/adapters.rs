//! Adapters from the resource: answers are the adapter's, one that does not fit changes nothing, and
//! without it they are the model's own again. Those that requests choose come and go beside running pods.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::images;
use crate::kube::{Kubernetes, Resource};
use crate::paths;
use crate::test::observe::{EVERY, PATIENCE, asked, name_of, text};
use crate::test::world::World;
use crate::test::{Passed, expect, expect_eq, tiny};
use crate::wait;

/// All adapters of the fixtures in one image, a folder each.
const IMAGE: &str = "localhost/fixtures:adapters";
const MODEL: &str = "tiny-llama";

fn adapters(folder: &str) -> Value {
    json!([{
        "name": "tuned",
        "source": {"image": {"reference": IMAGE, "pullPolicy": "Never"}, "path": folder},
    }])
}

/// One that requests choose.
fn dynamic(name: &str, folder: &str, scale: f64) -> Value {
    let mut row = adapters(folder)[0].clone();
    row["name"] = json!(name);
    row["mode"] = json!("Dynamic");
    row["scale"] = json!(scale);
    row
}

fn answer(kubernetes: &Kubernetes, resource: Resource<'_>) -> Result<String> {
    answer_of(kubernetes, resource, "tiny")
}

fn answer_of(kubernetes: &Kubernetes, resource: Resource<'_>, model: &str) -> Result<String> {
    let answer = asked(kubernetes, resource, model)?;
    expect_eq(&format!("answer of {model}"), &answer.status, &200)?;
    let body = answer.json()?;
    Ok(text(&body["choices"][0]["text"]).to_owned())
}

fn names(resource: &Resource<'_>) -> Result<Vec<String>> {
    let pods = resource.engine_pods()?;
    Ok(pods.iter().map(|pod| name_of(pod).to_owned()).collect())
}

pub(super) fn merged(world: &World<'_>) -> Passed {
    let kubernetes = tiny::installed(world)?;
    let folder = paths::repository().join("sidecar/tests/fixtures/adapters");
    world.import_once(&images::files(IMAGE, &tiny::files_below(&folder)?)?)?;
    let space = world.namespace("adapters", "restricted")?;
    let resource = kubernetes.resource(&space.name, "tuned");
    let mut object = tiny::resource(resource.name);
    object["spec"]["model"]["source"]["path"] = json!(MODEL);
    object["spec"]["adapters"] = adapters("plain");
    tiny::apply(&kubernetes, &space.name, &object)?;
    resource.await_ready(PATIENCE)?;
    let status = resource.get()?.status.context("no status")?;
    let facts = status.model.context("no model in the status")?;
    let told: Vec<(String, u32)> = facts
        .adapters
        .into_iter()
        .map(|of| (of.name, of.tensors))
        .collect();
    expect_eq(
        "status.model.adapters",
        &told,
        &vec![("tuned".to_owned(), 14)],
    )?;
    let ready = resource.await_condition("AdaptersReady", "True", PATIENCE)?;
    expect_eq("reason", &ready.reason.as_str(), &"AdaptersMerged")?;
    let (tuned, pods) = (answer(&kubernetes, resource)?, names(&resource)?);
    let proved = resource.get()?.status.and_then(|status| status.weights);
    let proved = proved.context("no weights in the status")?.adapters;
    let is_whole = matches!(&proved[..], [of] if of.tensors == 14
        && of.changed_per_million > 900_000 && of.lost_per_million < 100_000);
    expect(is_whole, || format!("status.weights.adapters: {proved:?}"))?;

    // So faint that nothing of it is left: an engine refuses it, and what runs goes on.
    let mut faint = adapters("plain");
    faint[0]["scale"] = json!(1e-15);
    kubernetes
        .api
        .merge(&resource.path(), &json!({"spec": {"adapters": faint}}))?;
    let refused = resource.await_condition("AdaptersReady", "False", PATIENCE)?;
    let named = refused.reason == "AdapterRefused"
        && refused
            .message
            .contains("adapter `tuned`: rounding takes 100.0%");
    expect(named, || format!("{refused:?}"))?;
    expect(names(&resource)?.contains(&pods[0]), || {
        "the pod is gone".to_owned()
    })?;
    expect_eq("answer", &answer(&kubernetes, resource)?, &tuned)?;

    // One of another base: said by name, and what runs goes on.
    let patch = json!({"spec": {"adapters": adapters("dora")}});
    kubernetes.api.merge(&resource.path(), &patch)?;
    let broken = resource.await_condition("AdaptersReady", "False", PATIENCE)?;
    let named = broken.reason == "AdapterInvalid" && broken.message.contains("adapter `tuned`");
    expect(named, || format!("{broken:?}"))?;
    expect(names(&resource)?.contains(&pods[0]), || {
        "the pod is gone".to_owned()
    })?;
    expect_eq(
        "answer beside a broken adapter",
        &answer(&kubernetes, resource)?,
        &tuned,
    )?;

    let patch = json!({"spec": {"adapters": null}});
    kubernetes.api.merge(&resource.path(), &patch)?;
    // The old pod is ready until the new one has taken its place.
    wait::until("other pods", PATIENCE, EVERY, || {
        let now = names(&resource)?;
        let others = !now.is_empty() && now.iter().all(|name| !pods.contains(name));
        Ok(if others {
            Ok(())
        } else {
            Err(format!("{now:?}"))
        })
    })?;
    resource.await_ready(PATIENCE)?;
    let own = answer(&kubernetes, resource)?;
    expect(own != tuned, || {
        format!("without the adapter it still says {own:?}")
    })?;
    let said = resource.condition("AdaptersReady")?;
    expect(said.is_none(), || format!("{said:?}"))?;
    Ok(1)
}

/// Two adapters beside one model, of which the second comes while it serves; a broken one is told within
/// seconds and changes nothing; one that is taken out of the list is gone. All in one pod.
pub(super) fn chosen(world: &World<'_>) -> Passed {
    let kubernetes = tiny::installed(world)?;
    let folder = paths::repository().join("sidecar/tests/fixtures/adapters");
    world.import_once(&images::files(IMAGE, &tiny::files_below(&folder)?)?)?;
    let space = world.namespace("chosen", "restricted")?;
    let resource = kubernetes.resource(&space.name, "chosen");
    let mut object = tiny::resource(resource.name);
    object["spec"]["model"]["source"]["path"] = json!(MODEL);
    object["spec"]["adapters"] = json!([dynamic("tuned", "plain", 1.0)]);
    tiny::apply(&kubernetes, &space.name, &object)?;
    resource.await_ready(PATIENCE)?;
    let ready = resource.await_condition("AdaptersReady", "True", PATIENCE)?;
    expect_eq("reason", &ready.reason.as_str(), &"AdaptersLoaded")?;
    let pods = names(&resource)?;
    let (own, tuned) = (
        answer(&kubernetes, resource)?,
        answer_of(&kubernetes, resource, "tuned")?,
    );
    expect(own != tuned, || format!("with and without it: {own:?}"))?;

    let list = |rows: Vec<Value>| {
        let patch = json!({"spec": {"adapters": rows}});
        kubernetes.api.merge(&resource.path(), &patch)
    };
    let first = || dynamic("tuned", "plain", 1.0);
    list(vec![first(), dynamic("opposite", "plain", -6.0)])?;
    let both = "tuned: rank 2, loaded in 1 pod; opposite: rank 2, loaded in 1 pod";
    wait::until("both adapters", PATIENCE, EVERY, || {
        let said = resource.condition("AdaptersReady")?;
        let is_there = said.as_ref().is_some_and(|of| of.message == both);
        Ok(if is_there {
            Ok(())
        } else {
            Err(format!("{said:?}"))
        })
    })?;
    let opposite = answer_of(&kubernetes, resource, "opposite")?;
    expect(opposite != tuned && opposite != own, || {
        format!("own {own:?}, tuned {tuned:?}, opposite {opposite:?}")
    })?;

    list(vec![first(), dynamic("broken", "dora", 1.0)])?;
    let broken = resource.await_condition("AdaptersReady", "False", PATIENCE)?;
    let named = broken.reason == "AdapterRefused" && broken.message.contains("adapter `broken`");
    expect(named, || format!("{broken:?}"))?;
    for (model, expected) in [("tiny", &own), ("tuned", &tuned)] {
        let now = answer_of(&kubernetes, resource, model)?;
        expect_eq("answer beside a broken adapter", &now, expected)?;
    }
    let gone = asked(&kubernetes, resource, "opposite")?;
    expect_eq("answer of one that is gone", &gone.status, &404)?;
    list(vec![first()])?;
    resource.await_condition("AdaptersReady", "True", PATIENCE)?;
    expect_eq("pods", &names(&resource)?, &pods)?;
    let restarts = resource.engine_pods()?;
    let count = restarts[0]["status"]["containerStatuses"][0]["restartCount"].as_u64();
    expect_eq("restarts", &count, &Some(0))?;
    Ok(1)
}
