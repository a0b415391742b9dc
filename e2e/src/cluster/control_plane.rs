//! Etcd, the API server, the controller manager and the scheduler, on the host side of the bridge.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::cluster::daemon::{Daemon, expect_alive};
use crate::cluster::network::{HOST, LOOPBACK, SERVICES};
use crate::cluster::pki;
use crate::cluster::records::{self, Process};
use crate::paths;
use crate::process;
use crate::tools::Tools;
use crate::wait;

/// Every write with its author and nothing of its content: what `rest` reads.
const AUDIT_POLICY: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  verbs: [create, update, patch, delete, deletecollection]
- level: None
";

const READY_WITHIN: Duration = Duration::from_secs(90);

/// Starts etcd and the API server; `await_ready` waits for them.
pub(crate) fn start_store_and_api(tools: &Tools) -> Result<()> {
    fs::write(paths::state().join("audit-policy.yaml"), AUDIT_POLICY)?;
    etcd(tools).start()?;
    api_server(tools).start().map(drop)
}

/// Starts the API server again after it was killed.
pub(crate) fn start_api(tools: &Tools) -> Result<()> {
    api_server(tools).start().map(drop)
}

/// Starts what needs a ready API server.
pub(crate) fn start_controllers(tools: &Tools) -> Result<()> {
    controller_manager(tools).start()?;
    scheduler(tools).start()?;
    proxy(tools).start().map(drop)
}

/// Waits until the API server says that it is ready.
pub(crate) fn await_ready(tools: &Tools) -> Result<()> {
    let address: SocketAddr = format!("{HOST}:6443").parse()?;
    let living = |name: &str| -> Result<Process> {
        records::processes()
            .into_iter()
            .rev()
            .find(|process| process.name == name)
            .with_context(|| format!("{name} was never started"))
    };
    let (store, api) = (living("etcd")?, living("kube-apiserver")?);
    wait::until(
        "the API server is ready",
        READY_WITHIN,
        Duration::from_millis(100),
        || {
            expect_alive(&store)?;
            expect_alive(&api)?;
            if TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err() {
                return Ok(Err("it does not listen yet".to_owned()));
            }
            let mut ask =
                process::command(tools.kubectl(), ["get", "--raw=/readyz", "--kubeconfig"]);
            let answer = process::outcome(ask.arg(pki::admin()), None)?;
            Ok(if answer.status.success() {
                Ok(())
            } else {
                Err(answer.stderr.trim().to_owned())
            })
        },
    )
}

/// The API server's record of every write: one JSON object a line.
pub(crate) fn audit_log() -> PathBuf {
    paths::state().join("logs/audit.log")
}

/// The socket on which `kubectl proxy` answers for the administrator; root alone can open it.
pub(crate) fn api_socket() -> PathBuf {
    paths::state().join("api.sock")
}

/// Where etcd keeps its data: in memory where the machine has room for that.
pub(crate) fn etcd_data() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() {
        memory.join("plimsoll-e2e")
    } else {
        paths::state().join("etcd")
    }
}

fn etcd(tools: &Tools) -> Daemon {
    let (client, peer) = (
        format!("http://{LOOPBACK}:2379"),
        format!("http://{LOOPBACK}:2380"),
    );
    Daemon::new("etcd", tools.kubernetes("etcd")).args([
        format!("--data-dir={}", etcd_data().display()),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
    ])
}

fn api_server(tools: &Tools) -> Daemon {
    let state = paths::state();
    Daemon::new("kube-apiserver", tools.kubernetes("kube-apiserver")).args([
        format!("--etcd-servers=http://{LOOPBACK}:2379"),
        "--secure-port=6443".to_owned(),
        format!("--bind-address={HOST}"),
        format!("--advertise-address={HOST}"),
        format!("--tls-cert-file={}", pki::file("apiserver.crt")),
        format!("--tls-private-key-file={}", pki::file("apiserver.key")),
        format!("--client-ca-file={}", pki::file("ca.crt")),
        format!("--token-auth-file={}", pki::file("tokens.csv")),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!(
            "--service-account-key-file={}",
            pki::file("service-accounts.pub")
        ),
        format!(
            "--service-account-signing-key-file={}",
            pki::file("service-accounts.key")
        ),
        format!("--service-cluster-ip-range={SERVICES}"),
        format!(
            "--kubelet-client-certificate={}",
            pki::file("kubelet-client.crt")
        ),
        format!("--kubelet-client-key={}", pki::file("kubelet-client.key")),
        // Nodes have no names that anybody could look up.
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        format!("--requestheader-client-ca-file={}", pki::file("ca.crt")),
        "--requestheader-allowed-names=front-proxy".to_owned(),
        "--requestheader-username-headers=X-Remote-User".to_owned(),
        "--requestheader-group-headers=X-Remote-Group".to_owned(),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".to_owned(),
        "--allow-privileged=true".to_owned(),
        "--enable-priority-and-fairness=false".to_owned(),
        // A dead node's pods are replaced within seconds, so that tests need not wait minutes.
        "--default-not-ready-toleration-seconds=5".to_owned(),
        "--default-unreachable-toleration-seconds=5".to_owned(),
        format!(
            "--audit-policy-file={}",
            state.join("audit-policy.yaml").display()
        ),
        format!("--audit-log-path={}", audit_log().display()),
        format!("--cert-dir={}", state.join("apiserver").display()),
    ])
}

fn controller_manager(tools: &Tools) -> Daemon {
    let kubeconfig = pki::kubeconfig("kube-controller-manager");
    controller(tools, "kube-controller-manager").args([
        "--use-service-account-credentials=true".to_owned(),
        format!(
            "--service-account-private-key-file={}",
            pki::file("service-accounts.key")
        ),
        format!("--root-ca-file={}", pki::file("ca.crt")),
        format!(
            "--cert-dir={}",
            paths::state().join("controllers").display()
        ),
        "--allocate-node-cidrs=false".to_owned(),
        "--node-monitor-period=1s".to_owned(),
        "--node-monitor-grace-period=16s".to_owned(),
        "--kube-api-qps=200".to_owned(),
        "--kube-api-burst=300".to_owned(),
        format!("--kubeconfig={}", kubeconfig.display()),
    ])
}

fn scheduler(tools: &Tools) -> Daemon {
    let kubeconfig = pki::kubeconfig("kube-scheduler");
    controller(tools, "kube-scheduler").args([
        format!("--cert-dir={}", paths::state().join("scheduler").display()),
        "--kube-api-qps=200".to_owned(),
        "--kube-api-burst=300".to_owned(),
        format!("--kubeconfig={}", kubeconfig.display()),
    ])
}

fn controller(tools: &Tools, name: &str) -> Daemon {
    let kubeconfig = pki::kubeconfig(name);
    Daemon::new(name, tools.kubernetes(name)).args([
        format!("--authentication-kubeconfig={}", kubeconfig.display()),
        format!("--authorization-kubeconfig={}", kubeconfig.display()),
        "--leader-elect=false".to_owned(),
        format!("--bind-address={LOOPBACK}"),
    ])
}

fn proxy(tools: &Tools) -> Daemon {
    Daemon::new("kubectl-proxy", tools.kubectl()).args([
        "proxy".to_owned(),
        format!("--unix-socket={}", api_socket().display()),
        format!("--kubeconfig={}", pki::admin().display()),
    ])
}
