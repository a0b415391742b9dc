//! The quick start: from nothing to an answer of a real model on a real Kubernetes, and away again.

pub(crate) mod next;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use plimsoll_crds::names;

use crate::demo::next::Next;
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
pub(crate) const QUESTION: &str = "What is the capital of France?";
const NODES: u32 = 2;
const READY_WITHIN: Duration = Duration::from_secs(300);

/// What the user asked for.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Demo {
    /// Leave the cluster up and print how to go on
    #[arg(long)]
    keep: bool,
    /// Use another cluster, whatever KUBECONFIG says; its nodes must have the images that
    /// `e2e/run images` prints, and imports where the cluster is the one of `e2e/run up`
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

/// Runs the quick start.
pub(crate) fn run(progress: &Progress, demo: &Demo) -> Result<()> {
    let result = match &demo.kubeconfig {
        Some(kubeconfig) => on_another_cluster(progress, demo.keep, kubeconfig),
        None => on_our_own(progress, demo.keep),
    };
    progress.table();
    // Last, where a reader's eye is.
    print!("{}", result?);
    Ok(())
}

/// Returns what to say at the end.
fn on_our_own(progress: &Progress, keep: bool) -> Result<String> {
    let tools = tools::setup(progress)?;
    let python = python::openai(progress)?;
    let archives = Archives::ensure(progress)?;
    let mut session = Session::begin(progress, &tools, NODES)?;
    let kubernetes = session.cluster().kubernetes();
    progress.step("import the images into the nodes", || {
        session.cluster().import(&archives.all())
    })?;
    show(progress, &tools, &kubernetes, &python)?;
    if keep {
        session.keep();
        let next = next(&tools, kubernetes.kubectl.kubeconfig());
        return Ok(format!(
            "\nthe cluster stays up; go on with\n\n{}\nand take it away with\n\nbash e2e/run down\n",
            next.ask()
        ));
    }
    progress.step("cluster down", || session.end())?;
    Ok(String::new())
}

/// As `on_our_own`, on a cluster that is somebody's.
fn on_another_cluster(progress: &Progress, keep: bool, kubeconfig: &Path) -> Result<String> {
    // Helm and the printed lines run elsewhere.
    let kubeconfig = fs::canonicalize(kubeconfig)
        .with_context(|| format!("--kubeconfig {}", kubeconfig.display()))?;
    let tools = Tools::ensure(progress)?;
    let python = python::openai(progress)?;
    let kubectl = Kubectl::new(tools.kubectl(), kubeconfig.clone());
    let (_proxy, api) = Proxy::start(&kubectl)?;
    let kubernetes = Kubernetes { kubectl, api };
    let definition = expect_free(&kubernetes)?;
    let result = show(progress, &tools, &kubernetes, &python);
    if keep && result.is_ok() {
        let next = next(&tools, &kubeconfig);
        return Ok(format!(
            "\nthe demo stays; go on with\n\n{}\nand take it away with\n\n{}",
            next.ask(),
            next.remove()
        ));
    }
    let removed = progress.step("remove what the demo installed", || {
        remove(&tools, &kubernetes, definition)
    });
    result.and(removed).map(|()| String::new())
}

/// The cluster may hold an installation that somebody uses: it is neither changed nor removed.
/// Says whether our resource definition is there already.
fn expect_free(kubernetes: &Kubernetes) -> Result<bool> {
    for namespace in [SYSTEM, NAMESPACE] {
        if kubernetes
            .api
            .find(&format!("/api/v1/namespaces/{namespace}"))?
            .is_some()
        {
            bail!(
                "the cluster has a namespace {namespace} already, an earlier `demo --keep` or an \
                 installation in use: the demo would change and then remove it. Remove it, or use \
                 another cluster (`e2e/run demo` brings up one of its own)"
            );
        }
    }
    let path = format!(
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{}",
        names::CRD_NAME
    );
    kubernetes.api.find(&path).map(|found| found.is_some())
}

/// Takes away everything that the demo put there; `definition`: that one was there before.
fn remove(tools: &Tools, kubernetes: &Kubernetes, definition: bool) -> Result<()> {
    let delete = |kind: &str, name: &str| {
        let words = ["delete", kind, name, "--ignore-not-found"];
        kubernetes.kubectl.run(&words).map(drop)
    };
    delete("namespace", NAMESPACE)?;
    let mut uninstall = install::helm(tools, Some(&kubernetes.kubectl))?;
    let words = ["uninstall", RELEASE, "--ignore-not-found"];
    process::stdout_of(uninstall.args(words).args(["--namespace", SYSTEM]))?;
    delete("namespace", SYSTEM)?;
    // The chart keeps it on purpose: resources of a user must survive an uninstall.
    if definition {
        return Ok(());
    }
    delete("customresourcedefinition", names::CRD_NAME)
}

fn next<'a>(tools: &Tools, kubeconfig: &'a Path) -> Next<'a> {
    const PORT: u16 = 8000;
    Next {
        kubeconfig,
        kubectl: tools.kubectl(),
        helm: tools.helm(),
        namespace: NAMESPACE,
        name: NAME,
        question: QUESTION,
        port: PORT,
    }
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
