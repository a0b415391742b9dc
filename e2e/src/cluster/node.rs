//! One node: a network namespace and a mount namespace, in them containerd, kubelet and kube-proxy.
//!
//! A sleeping process holds the namespaces. Inside them /run, /var/log and /var/lib are the node's
//! own, so that nothing a node writes there lands on the machine, and a real kubelet is not disturbed.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::cluster::daemon::{Daemon, expect_alive};
use crate::cluster::network::{self, PODS, REGISTRY, REGISTRY_NAME};
use crate::cluster::records::{self, Process};
use crate::cluster::{cgroup, pki};
use crate::paths;
use crate::process;
use crate::tools::Tools;
use crate::wait;

/// One node of the test cluster, by its number from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) number: u32,
}

impl Node {
    /// The name under which Kubernetes knows it.
    pub(crate) fn name(self) -> String {
        format!("node-{}", self.number)
    }

    /// Makes the namespaces, the link and the cgroups.
    pub(crate) fn create(self, nodes: u32) -> Result<()> {
        let folder = self.folder();
        for name in [
            "containerd",
            "cni",
            "lib/kubelet",
            "lib/plimsoll-e2e",
            "lib/cni",
            "hosts",
        ] {
            fs::create_dir_all(folder.join(name))?;
        }
        self.write_configuration()?;
        cgroup::create(&self.name())?;
        let holder = Daemon::new(format!("{}-holder", self.name()), "unshare")
            .args([
                "--net",
                "--mount",
                "--propagation",
                "private",
                "sleep",
                "infinity",
            ])
            .start()?;
        self.await_namespaces(&holder)?;
        self.mount_own_folders(&holder)?;
        network::connect_node(self.number, nodes, &holder)
    }

    /// Starts containerd and waits until it answers.
    pub(crate) fn start_containerd(self, tools: &Tools) -> Result<()> {
        let search = format!(
            "{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            tools.containerd("").display()
        );
        let process = Daemon::new(
            format!("{}-containerd", self.name()),
            tools.containerd("containerd"),
        )
        .args([
            "--config".to_owned(),
            self.folder().join("containerd.toml").display().to_string(),
        ])
        .env("PATH", search)
        .inside(&self.holder()?)
        .start()?;
        wait::until(
            "containerd answers",
            Duration::from_secs(20),
            Duration::from_millis(30),
            || {
                expect_alive(&process)?;
                let answer = process::outcome(&mut self.ctr(tools, &["version"]), None)?;
                Ok(if answer.status.success() {
                    Ok(())
                } else {
                    Err(answer.stderr)
                })
            },
        )
    }

    /// Imports one OCI archive.
    pub(crate) fn import(self, tools: &Tools, archive: &Path) -> Result<()> {
        let archive = archive.to_string_lossy();
        let mut import = self.ctr(tools, &["images", "import", archive.as_ref()]);
        process::stdout_of(&mut import).map(drop)
    }

    /// Starts the kubelet; it keeps trying until the API server answers.
    pub(crate) fn start_kubelet(self, tools: &Tools) -> Result<()> {
        let folder = self.folder();
        Daemon::new(
            format!("{}-kubelet", self.name()),
            tools.kubernetes("kubelet"),
        )
        .args([
            format!("--config={}", folder.join("kubelet.yaml").display()),
            format!("--kubeconfig={}", pki::kubeconfig(&self.name()).display()),
            format!("--hostname-override={}", self.name()),
            format!("--node-ip={}", network::node_address(self.number)),
            "--root-dir=/var/lib/kubelet".to_owned(),
            format!("--cert-dir={}", folder.join("certificates").display()),
        ])
        .inside(&self.holder()?)
        .start()
        .map(drop)
    }

    /// Starts kube-proxy; its rules stay inside the node's network namespace.
    pub(crate) fn start_proxy(self, tools: &Tools) -> Result<()> {
        Daemon::new(
            format!("{}-kube-proxy", self.name()),
            tools.kubernetes("kube-proxy"),
        )
        .args([
            format!("--kubeconfig={}", pki::kubeconfig("kube-proxy").display()),
            format!("--hostname-override={}", self.name()),
            format!("--cluster-cidr={PODS}"),
            "--proxy-mode=iptables".to_owned(),
            // Zero leaves the machine's connection tracking settings alone.
            "--conntrack-max-per-core=0".to_owned(),
            "--conntrack-tcp-timeout-established=0s".to_owned(),
            "--conntrack-tcp-timeout-close-wait=0s".to_owned(),
        ])
        .inside(&self.holder()?)
        .start()
        .map(drop)
    }

    /// The power cord: kubelet, proxy, containerd, and every pod of the node die at once.
    pub(crate) fn kill(self) -> Result<()> {
        let prefix = format!("{}-", self.name());
        let mut doomed: Vec<Process> = records::processes()
            .into_iter()
            .filter(|process| {
                process.name.starts_with(&prefix) && !process.name.ends_with("-holder")
            })
            .collect();
        records::kill_all(&doomed)?;
        let root = cgroup::root_of(&self.name());
        doomed = cgroup::folders()?
            .iter()
            .filter(|folder| format!("{}/", folder.display()).contains(&format!("{root}/")))
            .filter_map(|folder| fs::read_to_string(folder.join("cgroup.procs")).ok())
            .flat_map(|text| {
                text.lines()
                    .filter_map(|pid| pid.parse().ok())
                    .collect::<Vec<i32>>()
            })
            .filter_map(|pid| Process::running("pod process", pid))
            .collect();
        records::kill_all(&doomed)
    }

    fn holder(self) -> Result<Process> {
        let name = format!("{}-holder", self.name());
        records::living(&name).with_context(|| format!("{name} is not running"))
    }

    fn folder(self) -> PathBuf {
        paths::state().join(self.name())
    }

    fn socket(self) -> String {
        self.folder()
            .join("containerd/containerd.sock")
            .display()
            .to_string()
    }

    fn ctr(self, tools: &Tools, words: &[&str]) -> std::process::Command {
        let mut command = process::command(tools.containerd("ctr"), ["--address"]);
        command
            .arg(self.socket())
            .args(["--namespace", "k8s.io"])
            .args(words);
        command
    }

    /// `unshare` execs in place: the namespaces are there as soon as the process says `sleep`.
    fn await_namespaces(self, holder: &Process) -> Result<()> {
        let name = PathBuf::from(format!("/proc/{}/comm", holder.pid));
        wait::until(
            "the node's namespaces",
            Duration::from_secs(5),
            Duration::from_millis(2),
            || {
                expect_alive(holder)?;
                let now = fs::read_to_string(&name).unwrap_or_default();
                Ok(if now.trim() == "sleep" {
                    Ok(())
                } else {
                    Err(now)
                })
            },
        )
    }

    fn mount_own_folders(self, holder: &Process) -> Result<()> {
        let (own, state) = (self.folder().join("lib"), paths::state());
        let script = format!(
            "set -e
             mount -n -t tmpfs tmpfs /run
             mkdir -p /run/lock /run/netns
             mount -t tmpfs tmpfs /var/log
             mount --bind {state} {own}/plimsoll-e2e
             mount --rbind {own} /var/lib
             mount --bind /var/lib/kubelet /var/lib/kubelet
             mount --make-rshared /var/lib/kubelet",
            own = own.display(),
            state = state.display(),
        );
        let space = format!("--mount=/proc/{}/ns/mnt", holder.pid);
        let mut enter = process::command("nsenter", [&space, "--", "sh", "-c", &script]);
        process::stdout_of(&mut enter).map(drop)
    }

    fn write_configuration(self) -> Result<()> {
        let folder = self.folder();
        fs::write(folder.join("containerd.toml"), self.containerd_toml())?;
        fs::write(folder.join("kubelet.yaml"), self.kubelet_yaml())?;
        fs::write(folder.join("cni/10-pods.conflist"), self.cni_conflist())?;
        let registry = folder.join("hosts").join(REGISTRY_NAME);
        fs::create_dir_all(&registry)?;
        // Plain HTTP, and nobody answers names.
        fs::write(
            registry.join("hosts.toml"),
            format!("server = \"http://{REGISTRY}\"\n"),
        )?;
        Ok(())
    }

    fn containerd_toml(self) -> String {
        let folder = self.folder().join("containerd");
        let (folder, cni) = (folder.display(), self.folder().join("cni"));
        let hosts = self.folder().join("hosts");
        format!(
            r#"version = 2
root = "{folder}/root"
state = "{folder}/state"
oom_score = 0
[grpc]
  address = "{folder}/containerd.sock"
[ttrpc]
  address = "{folder}/containerd.sock.ttrpc"
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/opt"
[plugins."io.containerd.nri.v1.nri"]
  disable = true
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/pause:1"
  disable_apparmor = true
  # Without CAP_SYS_RESOURCE nobody may lower a process's score.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{hosts}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{cni}"
"#,
            cni = cni.display(),
            hosts = hosts.display()
        )
    }

    fn kubelet_yaml(self) -> String {
        format!(
            r#"apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {{anonymous: {{enabled: false}}, webhook: {{enabled: true}}, x509: {{clientCAFile: {ca}}}}}
authorization: {{mode: Webhook}}
address: {address}
cgroupDriver: cgroupfs
cgroupRoot: {cgroup}
failCgroupV1: false
failSwapOn: false
containerRuntimeEndpoint: unix://{socket}
podLogsDir: {folder}/pod-logs
volumePluginDir: {folder}/volume-plugins
makeIPTablesUtilChains: false
# Nobody answers names: what runs here speaks to addresses.
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
resolvConf: ""
maxPods: 200
# Imported images can never be pulled again: nothing may collect them.
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
imageMinimumGCAge: 24h
evictionHard: {{memory.available: 100Mi, nodefs.available: "0%", imagefs.available: "0%", nodefs.inodesFree: "0%"}}
nodeStatusUpdateFrequency: 4s
syncFrequency: 10s
logging: {{verbosity: 2}}
"#,
            ca = pki::file("ca.crt"),
            address = network::node_address(self.number),
            cgroup = cgroup::root_of(&self.name()),
            socket = self.socket(),
            folder = self.folder().display(),
        )
    }

    fn cni_conflist(self) -> String {
        format!(
            r#"{{"cniVersion":"0.4.0","name":"pods","plugins":[
{{"type":"bridge","bridge":"cni0","isDefaultGateway":true,"ipMasq":false,"hairpinMode":true,
"ipam":{{"type":"host-local","dataDir":"{folder}/ipam","ranges":[[{{"subnet":"{pods}"}}]]}}}},
{{"type":"portmap","capabilities":{{"portMappings":true}}}}]}}
"#,
            folder = self.folder().display(),
            pods = network::pod_net(self.number),
        )
    }
}
