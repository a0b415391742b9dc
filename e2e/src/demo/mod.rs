//! The quick start: from nothing to an answer of a real model on a real Kubernetes, and away again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use plimsoll_crds::names;

use crate::diagnose;
use crate::install::{self, Archives, RELEASE, SYSTEM};
use crate::kube::{Forward, Kubectl, Kubernetes, Proxy};
use crate::paths;
use crate::process;
use crate::progress::Progress;
use crate::session::Session;
use crate::table;
use crate::tools::{self, Tools, python};
use crate::wait;

const NAMESPACE: &str = "plimsoll-demo";
const NAME: &str = "smollm2";
const QUESTION: &str = "What is the capital of France?";
const NODES: u32 = 2;
const READY_WITHIN: Duration = Duration::from_secs(300);

/// What the user asked for.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Demo {
    /// Leave the cluster up and print how to go on
    #[arg(long)]
    keep: bool,
    /// Use another cluster; its nodes must have the images that `e2e/run images` prints
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

/// Runs the quick start.
pub(crate) fn run(progress: &Progress, demo: &Demo) -> Result<()> {
    let result = match &demo.kubeconfig {
        Some(kubeconfig) => on_another_cluster(progress, demo, kubeconfig),
        None => on_our_own(progress, demo),
    };
    progress.table();
    result
}

fn on_our_own(progress: &Progress, demo: &Demo) -> Result<()> {
    let tools = tools::setup(progress)?;
    let python = python::openai(progress)?;
    let archives = Archives::ensure(progress)?;
    let mut session = Session::begin(progress, &tools, NODES)?;
    let kubernetes = session.cluster().kubernetes();
    progress.step("import the images into the nodes", || {
        session.cluster().import(&archives.all())
    })?;
    show(progress, &tools, &kubernetes, &python)?;
    if demo.keep {
        session.keep();
        go_on(session.cluster().kubeconfig().as_path());
        return Ok(());
    }
    progress.step("cluster down", || session.end())
}

fn on_another_cluster(progress: &Progress, demo: &Demo, kubeconfig: &Path) -> Result<()> {
    let tools = Tools::ensure(progress)?;
    let python = python::openai(progress)?;
    let kubectl = Kubectl::new(tools.kubectl(), kubeconfig.to_path_buf());
    let (_proxy, api) = Proxy::start(&kubectl)?;
    let kubernetes = Kubernetes { kubectl, api };
    let result = show(progress, &tools, &kubernetes, &python);
    if demo.keep && result.is_ok() {
        go_on(kubeconfig);
        return result;
    }
    let removed = progress.step("remove what the demo installed", || {
        kubernetes
            .kubectl
            .run(&["delete", "namespace", NAMESPACE, "--ignore-not-found"])?;
        let mut remove = install::helm(&tools, Some(&kubernetes.kubectl))?;
        remove.args([
            "uninstall",
            RELEASE,
            "--namespace",
            SYSTEM,
            "--ignore-not-found",
        ]);
        process::stdout_of(&mut remove)?;
        kubernetes
            .kubectl
            .run(&["delete", "namespace", SYSTEM, "--ignore-not-found"])
            .map(drop)
    });
    result.and(removed)
}

/// From the chart to the answer.
fn show(progress: &Progress, tools: &Tools, kubernetes: &Kubernetes, python: &Path) -> Result<()> {
    let result = install_and_ask(progress, tools, kubernetes, python);
    if result.is_err() {
        diagnose::print(kubernetes, &[SYSTEM, NAMESPACE]);
    }
    result
}

fn install_and_ask(
    progress: &Progress,
    tools: &Tools,
    kubernetes: &Kubernetes,
    python: &Path,
) -> Result<()> {
    let kubectl = &kubernetes.kubectl;
    progress.step("helm install plimsoll", || {
        install::chart(tools, kubernetes, &["imagePullPolicy=IfNotPresent"])
    })?;
    let example = paths::repository().join("examples/smollm2.yaml");
    progress.step(
        "kubectl apply -f examples/smollm2.yaml, until Ready",
        || {
            kubernetes.create_namespace(NAMESPACE, "restricted")?;
            let example = example.to_string_lossy();
            kubectl.run(&["--namespace", NAMESPACE, "apply", "-f", &example])?;
            await_ready_aloud(progress, kubernetes)
        },
    )?;
    for wide in [&[][..], &["--output=wide"]] {
        let words = [&["--namespace", NAMESPACE, "get", names::PLURAL][..], wide].concat();
        println!(
            "\n$ kubectl get {} {}\n{}",
            names::PLURAL,
            wide.join(""),
            kubectl.run(&words)?
        );
    }
    progress.step("ask with the official openai package, streaming", || {
        let forward = Forward::open(
            kubectl,
            NAMESPACE,
            &format!("service/{NAME}"),
            names::PORT_HTTP,
        )?;
        println!("\nQ: {QUESTION}");
        let script = paths::repository().join("e2e/src/ask.py");
        let base = format!("http://127.0.0.1:{}/v1", forward.port());
        process::shown(process::command(python, [&script]).args([&base, NAME, QUESTION]))
    })?;
    progress.say("answered");
    let object = kubernetes.resource(NAMESPACE, NAME).get()?;
    println!("\nstatus.memory of {NAME}\n{}", table::memory(&object));
    Ok(())
}

/// Waits for Ready and says what happens meanwhile.
fn await_ready_aloud(progress: &Progress, kubernetes: &Kubernetes) -> Result<()> {
    let resource = kubernetes.resource(NAMESPACE, NAME);
    let mut said = String::new();
    wait::until(
        "the example is Ready",
        READY_WITHIN,
        Duration::from_millis(200),
        || {
            let Some(condition) = resource.condition("Ready")? else {
                return Ok(Err("the operator has not seen it yet".to_owned()));
            };
            let line = format!("{}: {}", condition.reason, condition.message);
            if line != said {
                progress.say(&format!("  {line}"));
                said.clone_from(&line);
            }
            Ok(if condition.status == "True" {
                Ok(())
            } else {
                Err(line)
            })
        },
    )
    .context("the example does not become Ready")
}

fn go_on(kubeconfig: &Path) {
    println!(
        "the cluster stays up; go on with\n\n  \
         export KUBECONFIG={}\n  \
         kubectl -n {NAMESPACE} get {}\n  \
         kubectl -n {NAMESPACE} port-forward service/{NAME} 8000:{} &\n  \
         curl http://127.0.0.1:8000/v1/chat/completions -H 'content-type: application/json' \\\n    \
         -d '{{\"model\": \"{NAME}\", \"messages\": [{{\"role\": \"user\", \"content\": \"{QUESTION}\"}}]}}'\n\n\
         and take it away with `bash e2e/run down`",
        kubeconfig.display(),
        names::PLURAL,
        names::PORT_HTTP,
    );
}
