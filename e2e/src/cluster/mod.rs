//! A real Kubernetes on this one machine: control plane, nodes in namespaces, gone without a trace.

pub(crate) mod cgroup;
pub(crate) mod cleanup;
pub(crate) mod control_plane;
mod daemon;
mod network;
mod node;
pub(crate) mod pki;
pub(crate) mod records;
pub(crate) mod sysctls;

pub(crate) use network::{REGISTRY, REGISTRY_NAME};
pub(crate) use node::Node;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::images;
use crate::kube::{Api, Kubectl, Kubernetes};
use crate::paths;
use crate::process;
use crate::progress::Progress;
use crate::tools::{Tools, debian};
use crate::wait;

/// As many as pod networks and addresses are laid out for.
const MOST_NODES: u32 = 9;
const READY_WITHIN: Duration = Duration::from_secs(120);

/// The running cluster.
#[derive(Debug)]
pub(crate) struct Cluster {
    tools: Tools,
    nodes: u32,
}

impl Cluster {
    /// Brings a cluster up from nothing; whatever an earlier run left is removed first.
    pub(crate) fn up(progress: &Progress, tools: &Tools, nodes: u32) -> Result<Self> {
        check_ground(nodes)?;
        let cluster = Self {
            tools: tools.clone(),
            nodes,
        };
        if cleanup::is_anything_left() {
            progress.step("remove what an earlier run left", cleanup::down)?;
        }
        let label = format!("cluster up: {nodes} nodes");
        let result = progress.step(&label, || cluster.bring_up(progress));
        if result.is_err() {
            cluster.keep_logs();
            // The first error is the one that explains.
            let _ = cleanup::down();
        }
        result.map(|()| cluster)
    }

    /// The cluster that an earlier run left up.
    pub(crate) fn running(tools: &Tools) -> Result<Self> {
        let count = fs::read_to_string(paths::state().join("nodes"))
            .context("no cluster is up: `e2e/run up` starts one")?;
        if records::living("kube-apiserver").is_none() {
            bail!("the cluster's API server is dead: `e2e/run up` starts a new cluster");
        }
        Ok(Self {
            tools: tools.clone(),
            nodes: count.trim().parse()?,
        })
    }

    /// The administrator's kubeconfig.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        pki::admin()
    }

    pub(crate) fn api(&self) -> Api {
        Api::new(control_plane::api_socket())
    }

    /// The cluster as kubectl and JSON see it.
    pub(crate) fn kubernetes(&self) -> Kubernetes {
        let kubectl = Kubectl::new(self.tools.kubectl(), self.kubeconfig());
        Kubernetes {
            kubectl,
            api: self.api(),
        }
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = Node> + use<> {
        (1..=self.nodes).map(|number| Node { number })
    }

    /// Imports OCI archives into every node, all nodes at a time.
    pub(crate) fn import(&self, archives: &[PathBuf]) -> Result<()> {
        let tools = &self.tools;
        on_all(self.nodes(), |node| {
            archives
                .iter()
                .try_for_each(|archive| node.import(tools, archive))
        })
    }

    /// Kills the API server the hard way.
    pub(crate) fn kill_api_server(&self) -> Result<()> {
        let process = records::living("kube-apiserver").context("the API server is not running")?;
        records::kill_all(&[process])
    }

    /// Starts a killed API server and waits for it.
    pub(crate) fn start_api_server(&self) -> Result<()> {
        control_plane::start_api(&self.tools)?;
        control_plane::await_ready(&self.tools)
    }

    /// Starts a killed node again.
    pub(crate) fn start_node(&self, node: Node) -> Result<()> {
        node.start_containerd(&self.tools)?;
        node.start_kubelet(&self.tools)?;
        node.start_proxy(&self.tools)?;
        self.await_node(node)
    }

    /// Waits until a node is Ready and takes pods.
    pub(crate) fn await_node(&self, node: Node) -> Result<()> {
        let (api, name) = (self.api(), node.name());
        let path = format!("/api/v1/nodes/{name}");
        wait::until(
            &format!("{name} is Ready"),
            READY_WITHIN,
            Duration::from_millis(100),
            || {
                let object = match api.get(&path) {
                    Ok(object) => object,
                    Err(error) => return Ok(Err(error.to_string())),
                };
                let ready = object["status"]["conditions"]
                    .as_array()
                    .and_then(|all| all.iter().find(|condition| condition["type"] == "Ready"));
                let taints = object["spec"]["taints"].as_array().map_or(0, Vec::len);
                Ok(match ready {
                    Some(condition) if condition["status"] == "True" && taints == 0 => Ok(()),
                    Some(condition) if condition["status"] == "True" => {
                        Err("it is tainted".to_owned())
                    }
                    Some(condition) => Err(condition["message"].to_string()),
                    None => Err("it has no Ready condition yet".to_owned()),
                })
            },
        )
    }

    fn bring_up(&self, progress: &Progress) -> Result<()> {
        let state = paths::state();
        fs::create_dir_all(state.join("logs"))?;
        fs::set_permissions(&state, fs::Permissions::from_mode(0o755))?;
        fs::write(state.join("nodes"), self.nodes.to_string())?;
        sysctls::save()?;
        let names: Vec<String> = self.nodes().map(Node::name).collect();
        pki::create(&names)?;
        network::create_bridge()?;
        control_plane::start_store_and_api(&self.tools)?;
        let pause = images::pause(&self.tools)?;
        on_all(self.nodes(), |node| {
            node.create(self.nodes)?;
            node.start_containerd(&self.tools)?;
            node.import(&self.tools, &pause)
        })?;
        progress.say("  containerd runs on every node");
        control_plane::await_ready(&self.tools)?;
        progress.say("  the API server is ready");
        control_plane::start_controllers(&self.tools)?;
        for node in self.nodes() {
            node.start_kubelet(&self.tools)?;
            node.start_proxy(&self.tools)?;
        }
        for node in self.nodes() {
            self.await_node(node)?;
            progress.say(&format!("  {} is Ready", node.name()));
        }
        let api = self.api();
        wait::until(
            "the default service account",
            READY_WITHIN,
            Duration::from_millis(100),
            || {
                let path = "/api/v1/namespaces/default/serviceaccounts/default";
                Ok(api.get(path).map(drop).map_err(|error| error.to_string()))
            },
        )
    }

    /// Logs of a cluster that did not come up survive it, in the cache.
    fn keep_logs(&self) {
        let Ok(cache) = paths::cache() else { return };
        let kept = cache.join("logs-of-the-last-failure");
        let _ = fs::remove_dir_all(&kept);
        let mut copy = process::command("cp", ["-r"]);
        let copied = process::stdout_of(copy.arg(paths::state().join("logs")).arg(&kept));
        if copied.is_ok() {
            println!("the cluster's logs are kept in {}", kept.display());
        }
    }
}

/// Prints what runs, with memory.
pub(crate) fn print_status() {
    if !cleanup::is_anything_left() {
        println!("no cluster is up");
        return;
    }
    for process in records::processes() {
        const MIB: u64 = 1024 * 1024;
        let state = if process.is_alive() {
            "running"
        } else {
            "dead"
        };
        let mib = process.resident_bytes() / MIB;
        println!(
            "{:<28} {:>8}  {state:<8} {mib:>5} MiB",
            process.name, process.pid
        );
    }
    println!("export KUBECONFIG={}", pki::admin().display());
}

/// Runs `work` on every node at the same time; the first error counts.
fn on_all(
    nodes: impl Iterator<Item = Node>,
    work: impl Fn(Node) -> Result<()> + Sync,
) -> Result<()> {
    let work = &work;
    thread::scope(|scope| {
        let running: Vec<_> = nodes
            .map(|node| (node, scope.spawn(move || work(node))))
            .collect();
        running.into_iter().try_for_each(|(node, thread)| {
            let ended = thread
                .join()
                .map_err(|_| anyhow::anyhow!("a thread panicked"))?;
            ended.with_context(|| node.name())
        })
    })
}

fn check_ground(nodes: u32) -> Result<()> {
    if !(1..=MOST_NODES).contains(&nodes) {
        bail!("--nodes {nodes}: between 1 and {MOST_NODES} nodes fit the test network");
    }
    if !debian::is_root() {
        bail!("a cluster needs root: namespaces, cgroups and mounts; run it with sudo");
    }
    let missing = debian::missing();
    if !missing.is_empty() {
        bail!(
            "missing from this machine: {}; `e2e/run setup` installs them",
            missing.join(", ")
        );
    }
    for module in ["overlay", "br_netfilter"] {
        // Built into many kernels; where it is neither, the step that needs it says so.
        let _ = process::outcome(&mut process::command("modprobe", ["-q", module]), None);
    }
    if !Path::new("/proc/sys/net/bridge").exists() {
        println!("warning: no bridge netfilter: a service may not reach a pod on its own node");
    }
    if !cleanup::is_anything_left() {
        network::expect_free()?;
    }
    Ok(())
}
