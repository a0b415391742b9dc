//! A memory cgroup of a test's own, with the limit that a container would have.
#![allow(unreachable_pub, reason = "a test's module")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Removed when dropped; its processes must be dead by then.
pub(crate) struct Cgroup {
    folder: PathBuf,
    unified: bool,
}

impl Cgroup {
    /// None where this user may not make one: then the process's own figures have to do.
    pub(crate) fn new(limit: u64) -> Option<Cgroup> {
        let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
        let (root, file) = match unified {
            true => ("/sys/fs/cgroup", "memory.max"),
            false => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
        };
        let folder = Path::new(root).join(format!("plimsoll-test-{}", std::process::id()));
        fs::create_dir(&folder).ok()?;
        let made = Cgroup { folder, unified };
        fs::write(made.folder.join(file), limit.to_string()).ok()?;
        Some(made)
    }

    /// `command`, started inside.
    pub(crate) fn around(&self, command: &Command) -> Command {
        let mut shell = Command::new("sh");
        let enter = r#"echo $$ > "$0/cgroup.procs" && exec "$@""#;
        shell.arg("-c").arg(enter).arg(&self.folder);
        shell.arg(command.get_program()).args(command.get_args());
        shell
    }

    /// The most that was ever charged, where the kernel says so.
    pub(crate) fn peak(&self) -> Option<u64> {
        let file = match self.unified {
            true => "memory.peak",
            false => "memory.max_usage_in_bytes",
        };
        let text = fs::read_to_string(self.folder.join(file)).ok()?;
        text.trim().parse().ok()
    }

    /// Processes that the kernel has killed for it.
    pub(crate) fn kills(&self) -> u64 {
        let file = match self.unified {
            true => "memory.events",
            false => "memory.oom_control",
        };
        let text = fs::read_to_string(self.folder.join(file)).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line.unwrap().trim().parse().unwrap()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.folder);
    }
}
