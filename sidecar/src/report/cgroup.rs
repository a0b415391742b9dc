//! Figures of the memory cgroup this process runs in: version 1 and 2, in a container or not.

use std::fs;
use std::path::{Path, PathBuf};

/// What the cgroup says, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Figures {
    /// Everything charged to it.
    pub(super) usage: u64,
    /// None: no limit.
    pub(super) limit: Option<u64>,
    /// Pages of files (and of tmpfs).
    pub(super) page_cache: u64,
    /// Page tables, stacks, slabs, socket buffers.
    pub(super) kernel: u64,
}

/// Where the files of the cgroup lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Cgroup {
    V1(PathBuf),
    V2(PathBuf),
}

impl Cgroup {
    /// None on systems without one, and for the root cgroup, whose figures are the machine's.
    pub(super) fn find() -> Option<Cgroup> {
        let paths = fs::read_to_string("/proc/self/cgroup").ok()?;
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        locate(&paths, &mounts)
    }

    pub(super) fn read(&self) -> Option<Figures> {
        match self {
            Cgroup::V1(folder) => {
                let stat = fs::read_to_string(folder.join("memory.stat")).ok()?;
                // The kernel writes "no limit" as the largest multiple of a page.
                const UNLIMITED: u64 = 1 << 62;
                Some(Figures {
                    usage: number(&folder.join("memory.usage_in_bytes"))?,
                    limit: number(&folder.join("memory.limit_in_bytes"))
                        .filter(|limit| *limit < UNLIMITED),
                    page_cache: field(&stat, "total_cache").unwrap_or(0),
                    kernel: number(&folder.join("memory.kmem.usage_in_bytes")).unwrap_or(0),
                })
            }
            Cgroup::V2(folder) => {
                let stat = fs::read_to_string(folder.join("memory.stat")).ok()?;
                Some(Figures {
                    usage: number(&folder.join("memory.current"))?,
                    limit: number(&folder.join("memory.max")),
                    page_cache: field(&stat, "file").unwrap_or(0),
                    kernel: field(&stat, "kernel").unwrap_or_else(|| kernel_parts(&stat)),
                })
            }
        }
    }
}

/// Before Linux 5.18 there is no sum.
fn kernel_parts(stat: &str) -> u64 {
    const PARTS: [&str; 5] = ["kernel_stack", "pagetables", "percpu", "sock", "slab"];
    PARTS.iter().filter_map(|part| field(stat, part)).sum()
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// `name 123` on a line of its own.
fn field(stat: &str, name: &str) -> Option<u64> {
    stat.lines().find_map(|line| {
        line.strip_prefix(name)?
            .strip_prefix(' ')?
            .trim()
            .parse()
            .ok()
    })
}

/// The folder of our memory cgroup, from `/proc/self/cgroup` and `/proc/self/mountinfo`.
fn locate(paths: &str, mounts: &str) -> Option<Cgroup> {
    let v1 = paths.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let controllers = parts.next()?;
        controllers
            .split(',')
            .any(|name| name == "memory")
            .then(|| parts.next())
            .flatten()
    });
    if let Some(path) = v1 {
        let is_memory = |kind: &str, options: &str| {
            kind == "cgroup" && options.split(',').any(|option| option == "memory")
        };
        return folder(path, mounts, is_memory).map(Cgroup::V1);
    }
    let v2 = paths.lines().find_map(|line| line.strip_prefix("0::"))?;
    folder(v2, mounts, |kind, _| kind == "cgroup2").map(Cgroup::V2)
}

/// A container sees its own cgroup as the mount's root, under a path that says otherwise.
fn folder(path: &str, mounts: &str, wanted: impl Fn(&str, &str) -> bool) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut right = right.split(' ');
        let (kind, options) = (right.next()?, right.nth(1)?);
        if !wanted(kind, options) {
            return None;
        }
        let mut left = left.split(' ').skip(3);
        let (root, point) = (left.next()?, left.next()?);
        let inside = path.strip_prefix(root.trim_end_matches('/')).unwrap_or("");
        if root == "/"
            && inside.trim_matches('/').is_empty()
            && !Path::new(point).join("memory.max").exists()
        {
            return None;
        }
        Some(Path::new(point).join(inside.trim_start_matches('/')))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1_MOUNT: &str =
        "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory";

    #[test]
    fn the_cgroup_is_found_wherever_it_is_mounted() {
        for (paths, mounts, expected) in [
            // A version 1 host, and a container on it that sees its own folder as the root.
            (
                "5:cpu:/\n4:memory:/pods/a\n0::/\n",
                V1_MOUNT,
                Some(Cgroup::V1("/sys/fs/cgroup/memory/pods/a".into())),
            ),
            (
                "4:memory:/pods/a/c\n",
                "35 31 0:32 /pods/a/c /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory",
                Some(Cgroup::V1("/sys/fs/cgroup/memory/".into())),
            ),
            // Version 2 without a cgroup namespace.
            (
                "0::/user.slice/x.scope\n",
                "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw",
                Some(Cgroup::V2("/sys/fs/cgroup/user.slice/x.scope".into())),
            ),
            // The root of the machine says nothing about us.
            ("4:memory:/\n", V1_MOUNT, None),
            ("", "", None),
        ] {
            assert_eq!(locate(paths, mounts), expected, "{paths}");
        }
    }

    #[test]
    fn statistics_are_read_by_whole_names() {
        let stat = "anon 5\nfile 7\nfile_mapped 9\nkernel_stack 1\npagetables 2\nslab 4\n";
        assert_eq!(field(stat, "file"), Some(7));
        assert_eq!(field(stat, "kernel"), None);
        assert_eq!(kernel_parts(stat), 7);
    }
}
