//! The CRD in the API server, without the operator.

use std::time::Duration;

use anyhow::Result;
use plimsoll_crds::names;

use crate::build;
use crate::kube::Kubernetes;
use crate::process;
use crate::test::world::World;
use crate::wait;

/// Applies the CRD and waits until it is served.
pub(super) fn with_definition(world: &World<'_>) -> Result<Kubernetes> {
    let kubernetes = world.kubernetes()?;
    let path = format!(
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{}",
        names::CRD_NAME
    );
    if kubernetes.api.find(&path)?.is_none() {
        let yaml = process::stdout_of(build::crdgen()?.arg("crd"))?;
        kubernetes.kubectl.apply(&yaml)?;
    }
    wait::until(
        "the CRD is served",
        Duration::from_secs(30),
        Duration::from_millis(100),
        || {
            let definition = kubernetes.api.get(&path)?;
            let conditions = definition["status"]["conditions"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            let established = conditions.iter().any(|condition| {
                condition["type"] == "Established" && condition["status"] == "True"
            });
            Ok(if established {
                Ok(())
            } else {
                Err(format!("{conditions:?}"))
            })
        },
    )?;
    Ok(kubernetes)
}
