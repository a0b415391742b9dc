//! Takes the cluster away again, whole or half, from what the records and the machine say.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::cluster::records::{self, Process};
use crate::cluster::{cgroup, control_plane, network, sysctls};
use crate::interrupt;
use crate::paths;

/// Programs of ours, should one have been started and not written down.
const PROGRAMS: [&str; 4] = ["kubernetes", "containerd", "containerd-shim-runc-v2", "ctr"];

/// Whether anything of a cluster is left on this machine.
pub(crate) fn is_anything_left() -> bool {
    paths::state().exists()
}

/// Ends and removes everything of ours. Safe to call at any time, any number of times.
pub(crate) fn down() -> Result<()> {
    interrupt::shielded(|| {
        let own = records::processes();
        // Kubelets first: they would start again what is ended after them.
        let (kubelets, rest): (Vec<Process>, Vec<Process>) = own
            .into_iter()
            .partition(|process| process.name.ends_with("-kubelet"));
        records::kill_all(&kubelets)?;
        records::kill_all(&cgroup::processes()?)?;
        records::kill_all(&unrecorded())?;
        records::kill_all(&rest)?;
        cgroup::remove()?;
        network::remove()?;
        sysctls::restore()?;
        remove_folder(&control_plane::etcd_data())?;
        remove_folder(&paths::state())
    })
    .context("the test cluster is not wholly removed; `e2e/run down` tries again")
}

/// Processes of our programs that work on our state folder, whoever started them: above all the
/// shims, which containerd starts.
pub(crate) fn unrecorded() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_string_lossy().parse::<i32>().ok())
        .filter(|pid| {
            let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
            let name = program.file_name().unwrap_or_default().to_string_lossy();
            let name = name.trim_end_matches(" (deleted)");
            let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words = String::from_utf8_lossy(&words);
            PROGRAMS.contains(&name)
                && (words.contains(paths::STATE)
                    || words.contains(&*control_plane::etcd_data().to_string_lossy()))
        })
        .filter_map(|pid| Process::running("unrecorded", pid))
        .collect()
}

fn remove_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}
