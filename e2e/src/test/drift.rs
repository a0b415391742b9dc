//! What somebody changes by hand in the operator's objects comes back, and what cannot be made any
//! more is given up in silence.

use anyhow::{Context as _, Result};
use plimsoll_crds::names;
use serde_json::{Value, json};

use crate::kube::{Kubernetes, Resource};
use crate::test::observe::{
    EVERY, PATIENCE, Sample, asked, audit_position, names_of, operator_metrics, operator_writes,
    text,
};
use crate::test::world::World;
use crate::test::{Passed, expect, expect_eq, tiny};
use crate::wait;

/// An edit of an object, and where to see whether it was undone.
struct Edit {
    path: String,
    patch: Value,
    pointer: &'static str,
}

/// Every kind of child, edited as a person would.
pub(super) fn repaired(world: &World<'_>) -> Passed {
    let kubernetes = tiny::installed(world)?;
    let space = world.namespace("drift", "restricted")?;
    let resource = kubernetes.resource(&space.name, "edited");
    let mut object = tiny::resource(resource.name);
    // From two replicas on there is a disruption budget.
    object["spec"]["replicas"] = json!(2);
    tiny::apply(&kubernetes, &space.name, &object)?;
    resource.await_ready(PATIENCE)?;
    let pods = names_of(&resource)?;
    let edits = edits(&resource)?;
    for edit in &edits {
        let before = kubernetes.api.get(&edit.path)?;
        let position = audit_position()?;
        kubernetes.api.merge(&edit.path, &edit.patch)?;
        await_back(&kubernetes, edit, &before)?;
        // Other tests' resources may still be leaving.
        let writes = operator_writes(position, Some(&space.name))?;
        println!("           {}: {writes:?}", edit.patch);
        let of = |part: &str| writes.iter().filter(|it| it.contains(part)).count();
        let (events, statuses) = (of(" events/"), of(" inferencedeployments/"));
        // A port or a budget that stands in the way is removed before ours comes back. That requests
        // reached nobody meanwhile, and do again, may be said while the next edit is put right.
        expect(
            writes.len() - events - statuses <= 3 && statuses <= 2,
            || format!("{}: {writes:?}", edit.patch),
        )?;
    }
    let events = kubernetes
        .api
        .list(&format!("/api/v1/namespaces/{}/events", space.name))?;
    expect(
        events.iter().any(|it| it["reason"] == "ChildRepaired"),
        || "no Event tells of a repair".to_owned(),
    )?;
    expect_eq("pods", &names_of(&resource)?, &pods)?;
    let answer = asked(&kubernetes, resource, "tiny")?;
    expect_eq("answer", &answer.status, &200)?;
    secret(&kubernetes, &resource, &pods)?;
    Ok(u32::try_from(edits.len())? + 1)
}

fn edits(resource: &Resource<'_>) -> Result<Vec<Edit>> {
    let space = resource.namespace;
    let core = |kind: &str, name: &str| format!("/api/v1/namespaces/{space}/{kind}/{name}");
    let sets = format!("/apis/apps/v1/namespaces/{space}/replicasets");
    let set = resource.owned(&sets)?.pop().context("no ReplicaSet")?;
    let revision = text(&set["metadata"]["name"]);
    let service = core("services", resource.name);
    let budget = format!(
        "/apis/policy/v1/namespaces/{space}/poddisruptionbudgets/{}",
        resource.name
    );
    let port = |port: u16, target: Value| {
        json!({"spec": {"ports": [{
            "name": "http", "port": port, "targetPort": target, "protocol": "TCP",
            "appProtocol": "http",
        }]}})
    };
    let label = |name: &str, value: Value| json!({"metadata": {"labels": {(name): value}}});
    let edit = |path: &str, patch, pointer| Edit {
        path: path.to_owned(),
        patch,
        pointer,
    };
    Ok(vec![
        edit(&service, port(8000, json!(1234)), "/spec/ports"),
        edit(&service, port(9999, json!("http")), "/spec/ports"),
        edit(
            &service,
            json!({"spec": {"selector": {"team": "other"}}}),
            "/spec/selector",
        ),
        edit(
            &service,
            label(names::LABEL_MANAGED_BY, Value::Null),
            "/metadata/labels",
        ),
        // The operator's watch loses sight of it.
        edit(
            &service,
            label(names::LABEL_DEPLOYMENT, Value::Null),
            "/metadata/labels",
        ),
        edit(
            &service,
            label(names::LABEL_DEPLOYMENT, json!("other")),
            "/metadata/labels",
        ),
        edit(
            &service,
            json!({"metadata": {"ownerReferences": null}}),
            "/metadata/ownerReferences",
        ),
        edit(&budget, json!({"spec": {"maxUnavailable": 2}}), "/spec"),
        edit(
            &budget,
            json!({"spec": {"maxUnavailable": null, "minAvailable": 1}}),
            "/spec",
        ),
        edit(
            &core(
                "serviceaccounts",
                &format!("{}-plimsoll-engine", resource.name),
            ),
            json!({"automountServiceAccountToken": true}),
            "/automountServiceAccountToken",
        ),
        edit(
            &core("configmaps", revision),
            label(names::LABEL_REVISION, Value::Null),
            "/metadata/labels",
        ),
        edit(
            &format!("{sets}/{revision}"),
            json!({"spec": {"template": {"metadata": {"labels": {(names::LABEL_ROLE): "other"}}}}}),
            "/spec/template",
        ),
    ])
}

fn await_back(kubernetes: &Kubernetes, edit: &Edit, before: &Value) -> Result<()> {
    let wanted = before.pointer(edit.pointer);
    let what = format!("{} of {} is as before", edit.pointer, edit.path);
    wait::until(&what, PATIENCE, EVERY, || {
        let found = kubernetes.api.find(&edit.path)?;
        let found = found.as_ref().and_then(|it| it.pointer(edit.pointer));
        Ok(if found == wanted {
            Ok(())
        } else {
            Err(format!("{found:?}"))
        })
    })
}

/// The operator may not read Secrets: one is put right when the next pod needs it.
fn secret(kubernetes: &Kubernetes, resource: &Resource<'_>, pods: &[String]) -> Result<()> {
    let space = resource.namespace;
    let edit = Edit {
        path: format!(
            "/api/v1/namespaces/{space}/secrets/{}-plimsoll-admin",
            resource.name
        ),
        patch: json!({"data": {(names::ADMIN_TOKEN_KEY): "bm90IHRoZSB0b2tlbiBhdCBhbGw="}}),
        pointer: "/data",
    };
    let before = kubernetes.api.get(&edit.path)?;
    kubernetes.api.merge(&edit.path, &edit.patch)?;
    let pod = pods.first().context("no pod")?;
    kubernetes
        .api
        .delete(&format!("/api/v1/namespaces/{space}/pods/{pod}"))?;
    await_back(kubernetes, &edit, &before)?;
    resource.await_ready(PATIENCE).map(drop)
}

/// A namespace takes its resources with it, and the operator has nothing to complain about.
pub(super) fn namespace_ends(world: &World<'_>) -> Passed {
    let kubernetes = tiny::installed(world)?;
    let space = world.namespace("ends", "restricted")?;
    let resource = kubernetes.resource(&space.name, "short-lived");
    tiny::apply(&kubernetes, &space.name, &tiny::resource(resource.name))?;
    resource.await_ready(PATIENCE)?;
    let before = failures(&operator_metrics(&kubernetes)?);
    let path = format!("/api/v1/namespaces/{}", space.name);
    kubernetes.api.delete(&path)?;
    wait::until("the namespace is gone", PATIENCE, EVERY, || {
        Ok(match kubernetes.api.find(&path)? {
            None => Ok(()),
            Some(found) => Err(found["status"]["conditions"].to_string()),
        })
    })?;
    let after = failures(&operator_metrics(&kubernetes)?);
    expect_eq("failed passes", &after, &before)?;
    Ok(1)
}

/// Failed passes by reason; a reason that never came is not there.
fn failures(samples: &[Sample]) -> Vec<String> {
    let failed = samples
        .iter()
        .filter(|it| it.name == "plimsoll_operator_reconcile_errors_total");
    failed
        .map(|it| format!("{:?} {}", it.labels.get("reason"), it.value))
        .collect()
}
