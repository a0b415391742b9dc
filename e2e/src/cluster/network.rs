//! The test bridge, one link per node, and the routes that let the host reach pods and services.

use anyhow::{Result, bail};

use crate::cluster::records::Process;
use crate::process;

/// The host's address on the test bridge: the API server listens here.
pub(crate) const HOST: &str = "10.99.0.1";
/// Where a registry of a test's own listens, and what images of it are called.
pub(crate) const REGISTRY: &str = "10.99.0.1:5005";
pub(crate) const REGISTRY_NAME: &str = "registry.test";
/// The service address of the API server.
pub(crate) const FIRST_SERVICE: &str = "10.96.0.1";
/// Services of the test cluster.
pub(crate) const SERVICES: &str = "10.96.0.0/16";
/// Pods of the test cluster, a /24 per node.
pub(crate) const PODS: &str = "10.244.0.0/16";
/// Etcd and the controllers listen here: loopback, away from the usual 127.0.0.1.
pub(crate) const LOOPBACK: &str = "127.0.99.1";

const BRIDGE: &str = "plimsoll0";
const BRIDGE_NET: &str = "10.99.0.0/24";

/// The API server's address.
pub(crate) fn api_server() -> String {
    format!("https://{HOST}:6443")
}

/// A node's address on the bridge. Nodes are numbered from 1.
pub(crate) fn node_address(number: u32) -> String {
    format!("10.99.0.{}", 10 + number)
}

/// The pods of one node.
pub(crate) fn pod_net(number: u32) -> String {
    format!("10.244.{number}.0/24")
}

/// Refuses to start where the test cluster's addresses are already in use.
pub(crate) fn expect_free() -> Result<()> {
    let routes = process::stdout_of(&mut process::command("ip", ["-4", "route", "show"]))?;
    for wanted in [BRIDGE_NET, SERVICES, PODS] {
        let prefix = wanted.split('/').next().unwrap_or(wanted);
        let prefix = prefix.trim_end_matches(".0");
        let taken = |line: &&str| line.starts_with(&format!("{prefix}."));
        if let Some(route) = routes.lines().find(taken) {
            bail!("the test cluster needs {wanted}, and this machine has a route `{route}`");
        }
    }
    Ok(())
}

/// Makes the bridge.
pub(crate) fn create_bridge() -> Result<()> {
    ip_batch(
        None,
        &format!(
            "link add {BRIDGE} type bridge\naddr add {HOST}/24 dev {BRIDGE}\nlink set {BRIDGE} up\n"
        ),
    )
}

/// Connects a node's network namespace to the bridge, and routes its pods.
pub(crate) fn connect_node(number: u32, nodes: u32, holder: &Process) -> Result<()> {
    let (link, address) = (link(number), node_address(number));
    ip_batch(
        None,
        &format!(
            "link add {link} type veth peer name eth0 netns {}\nlink set {link} master {BRIDGE} up\n",
            holder.pid
        ),
    )?;
    let mut inside = format!(
        "link set lo up\naddr add {address}/24 dev eth0\nlink set eth0 up\n\
         route add default via {HOST}\n"
    );
    for other in (1..=nodes).filter(|other| *other != number) {
        inside += &format!("route add {} via {}\n", pod_net(other), node_address(other));
    }
    ip_batch(Some(holder), &inside)?;
    let mut outside = format!("route add {} via {address}\n", pod_net(number));
    if number == 1 {
        // The first node's kube-proxy answers the host for service addresses.
        outside += &format!("route add {SERVICES} via {address}\n");
    }
    ip_batch(None, &outside)?;
    let settings = "echo 1 >/proc/sys/net/ipv4/ip_forward
         [ ! -e /proc/sys/net/bridge/bridge-nf-call-iptables ] ||
         echo 1 >/proc/sys/net/bridge/bridge-nf-call-iptables";
    let net = format!("--net=/proc/{}/ns/net", holder.pid);
    let mut write = process::command("nsenter", [&net, "--", "sh", "-c", settings]);
    process::stdout_of(&mut write).map(drop)
}

/// Removes the bridge and every link of ours; routes go with them.
pub(crate) fn remove() -> Result<()> {
    let links = process::stdout_of(&mut process::command("ip", ["-o", "link", "show"]))?;
    let ours = links.lines().filter_map(|line| {
        let name = line.split(": ").nth(1)?.split('@').next()?.trim();
        (name == BRIDGE || name.starts_with("plimsoll-n")).then(|| name.to_owned())
    });
    for name in ours {
        let _ = process::outcome(&mut process::command("ip", ["link", "del", &name]), None);
    }
    Ok(())
}

fn link(number: u32) -> String {
    format!("plimsoll-n{number}")
}

fn ip_batch(holder: Option<&Process>, lines: &str) -> Result<()> {
    let mut command = match holder {
        None => process::command("ip", ["-batch", "-"]),
        Some(holder) => {
            let net = format!("--net=/proc/{}/ns/net", holder.pid);
            process::command("nsenter", [net.as_str(), "--", "ip", "-batch", "-"])
        }
    };
    process::stdout_with_input(&mut command, Some(lines)).map(drop)
}
