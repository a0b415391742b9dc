//! The chart, against helm and a real API server.

use anyhow::Result;

use crate::install::{self, RELEASE, SYSTEM};
use crate::kube::Kubernetes;
use crate::process;
use crate::test::definition::with_definition;
use crate::test::world::World;
use crate::test::{Passed, expect};
use crate::tools::go;

/// `helm lint`, then every rendered document to the API server.
pub(super) fn renders(world: &World<'_>) -> Passed {
    let kubernetes = with_definition(world)?;
    let mut lint = install::helm(world.tools()?, None)?;
    process::stdout_of(lint.args(["lint", "--strict"]).arg(install::chart_folder()))?;
    kubernetes.create_namespace(SYSTEM, "restricted")?;
    let variants: [&[&str]; 4] = [
        &[],
        &["watchNamespaces={default}"],
        &["operator.replicas=2", "crds.install=false"],
        &["key.existingSecret=mine"],
    ];
    for values in variants {
        let rendered = template(world, values)?;
        dry_run(&kubernetes, &rendered)?;
    }
    let kept = template(world, &[])?;
    expect(kept.contains("helm.sh/resource-policy: keep"), || {
        "the CRD does not survive an uninstall".to_owned()
    })?;
    Ok(u32::try_from(variants.len())?)
}

/// With the definition that its module publishes, PodMonitors are accepted too.
pub(super) fn pod_monitors(world: &World<'_>) -> Passed {
    let kubernetes = with_definition(world)?;
    let definition = go::pod_monitor_definition()?;
    let words = [
        "apply",
        "--server-side",
        "-f",
        &definition.to_string_lossy(),
    ];
    kubernetes.kubectl.run(&words)?;
    let established = ["wait", "--for=condition=Established", "--timeout=30s"];
    let name = "crd/podmonitors.monitoring.coreos.com";
    kubernetes
        .kubectl
        .run(&[&established[..], &[name]].concat())?;
    kubernetes.create_namespace(SYSTEM, "restricted")?;
    let rendered = template(world, &["podMonitor.enabled=true"])?;
    expect(rendered.contains("kind: PodMonitor"), || {
        "no PodMonitor is rendered".to_owned()
    })?;
    dry_run(&kubernetes, &rendered)?;
    Ok(1)
}

/// The schema beside the values names what is wrong.
pub(super) fn wrong_values(world: &World<'_>) -> Passed {
    for (value, named) in [
        ("operator.replicas=many", "replicas"),
        ("operater.image=x", "operater"),
    ] {
        let mut render = install::helm(world.tools()?, None)?;
        render
            .args(["template", RELEASE])
            .arg(install::chart_folder())
            .args(["--set", value]);
        let ended = process::outcome(&mut render, None)?;
        expect(!ended.status.success(), || format!("{value} is accepted"))?;
        expect(ended.stderr.contains(named), || {
            format!("{named} is not named: {}", ended.stderr)
        })?;
    }
    Ok(2)
}

fn template(world: &World<'_>, values: &[&str]) -> Result<String> {
    let mut render = install::helm(world.tools()?, None)?;
    render
        .args(["template", RELEASE])
        .arg(install::chart_folder());
    render.args(["--namespace", SYSTEM]);
    for value in values {
        render.args(["--set", value]);
    }
    process::stdout_of(&mut render)
}

fn dry_run(kubernetes: &Kubernetes, rendered: &str) -> Result<()> {
    let words = [
        "apply",
        "--dry-run=server",
        "--validate=strict",
        "--filename=-",
    ];
    process::stdout_with_input(&mut kubernetes.kubectl.command(&words), Some(rendered)).map(drop)
}
