//! Each node's own corner of every cgroup hierarchy, version 1, 2 or both.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::cluster::records::{self, Process};

const PREFIX: &str = "plimsoll-e2e-";
/// What a kubelet asks of a version 2 hierarchy.
const CONTROLLERS: [&str; 4] = ["cpu", "cpuset", "memory", "pids"];

struct Hierarchy {
    mount: PathBuf,
    unified: bool,
}

/// The kubelet's `cgroupRoot` for a node.
pub(crate) fn root_of(node: &str) -> String {
    format!("/{PREFIX}{node}")
}

/// Makes a node's folder in every hierarchy that has controllers.
pub(crate) fn create(node: &str) -> Result<()> {
    let all = hierarchies()?;
    let legacy = all.iter().any(|hierarchy| !hierarchy.unified);
    for hierarchy in all.iter().filter(|hierarchy| hierarchy.unified != legacy) {
        let folder = hierarchy.mount.join(format!("{PREFIX}{node}"));
        if hierarchy.unified {
            enable_controllers(&hierarchy.mount);
        }
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make the cgroup {}", folder.display()))?;
        if !hierarchy.unified {
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if let Ok(text) = fs::read_to_string(hierarchy.mount.join(file)) {
                    fs::write(folder.join(file), text.trim())?;
                }
            }
        }
    }
    Ok(())
}

/// The memory cgroup's files of one container: (its folder, whether it is version 2).
pub(crate) fn memory_of_pod(node: &str, pod_uid: &str, container: &str) -> Result<(PathBuf, bool)> {
    let all = hierarchies()?;
    let legacy = all.iter().any(|hierarchy| !hierarchy.unified);
    let named = |hierarchy: &&Hierarchy| {
        if legacy {
            hierarchy.mount.ends_with("memory")
        } else {
            hierarchy.unified
        }
    };
    let mount = &all
        .iter()
        .find(named)
        .context("no memory cgroup hierarchy is mounted")?
        .mount;
    let root = mount.join(format!("{PREFIX}{node}"));
    let mut folders = Vec::new();
    walk(&root, &mut folders);
    let found = folders.into_iter().find(|folder| {
        folder.ends_with(container) && folder.to_string_lossy().contains(&format!("pod{pod_uid}"))
    });
    let folder = found.with_context(|| format!("no cgroup of container {container}"))?;
    Ok((folder, !legacy))
}

/// Every process in the nodes' cgroups: pods, whoever started them.
pub(crate) fn processes() -> Result<Vec<Process>> {
    let mut found: Vec<Process> = Vec::new();
    for folder in folders()? {
        let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        for pid in text.lines().filter_map(|line| line.trim().parse().ok()) {
            if !found.iter().any(|known| known.pid == pid) {
                found.extend(Process::running("pod process", pid));
            }
        }
    }
    Ok(found)
}

/// Removes every folder of ours; their processes must be dead.
pub(crate) fn remove() -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(5);
    let began = Instant::now();
    loop {
        let mut left = folders()?;
        // Deepest first: a cgroup with children cannot be removed.
        left.sort_by_key(|folder| std::cmp::Reverse(folder.components().count()));
        left.retain(|folder| fs::remove_dir(folder).is_err() && folder.exists());
        let Some(stuck) = left.first() else {
            return Ok(());
        };
        if began.elapsed() > PATIENCE {
            bail!("cannot remove the cgroup {}", stuck.display());
        }
        records::kill_all(&processes()?)?;
        thread::sleep(Duration::from_millis(20));
    }
}

/// All folders of ours in all hierarchies, parents before children.
pub(crate) fn folders() -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for hierarchy in hierarchies()? {
        for entry in fs::read_dir(&hierarchy.mount)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(PREFIX) {
                walk(&entry.path(), &mut found);
            }
        }
    }
    Ok(found)
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    found.push(folder.to_path_buf());
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), found);
        }
    }
}

fn hierarchies() -> Result<Vec<Hierarchy>> {
    let mounts = fs::read_to_string("/proc/mounts")?;
    let found: Vec<Hierarchy> = mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let mount = PathBuf::from(fields.next()?);
            match fields.next()? {
                "cgroup" => Some(Hierarchy {
                    mount,
                    unified: false,
                }),
                "cgroup2" => Some(Hierarchy {
                    mount,
                    unified: true,
                }),
                _ => None,
            }
        })
        .collect();
    if found.is_empty() {
        bail!("no cgroup hierarchy is mounted: containers cannot be bounded without one");
    }
    Ok(found)
}

fn enable_controllers(mount: &Path) {
    let file = mount.join("cgroup.subtree_control");
    let enabled = fs::read_to_string(&file).unwrap_or_default();
    for controller in CONTROLLERS {
        if !enabled.split_whitespace().any(|name| name == controller) {
            let _ = fs::write(&file, format!("+{controller}"));
        }
    }
}
