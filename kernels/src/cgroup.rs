//! What this process's control groups allow, on either version of cgroups.

use std::fs;

/// The contents of `file` in this process's group of the v2 hierarchy and in all groups above it
/// (a limit anywhere on the way counts). Groups that are not mounted are skipped: inside a
/// container the mounted root is usually its own group.
pub(crate) fn read_v2(file: &str) -> Vec<String> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"));
    path.map_or_else(Vec::new, |path| read("/sys/fs/cgroup", path, file))
}

/// As [`read_v2`], for a v1 controller such as `cpu` or `memory`.
pub(crate) fn read_v1(controller: &str, file: &str) -> Vec<String> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = groups.lines().find_map(|line| v1_path(line, controller));
    path.map_or_else(Vec::new, |path| {
        read(&format!("/sys/fs/cgroup/{controller}"), path, file)
    })
}

fn read(mount: &str, path: &str, file: &str) -> Vec<String> {
    let groups = ancestors(path);
    groups
        .filter_map(|group| fs::read_to_string(format!("{mount}{group}/{file}")).ok())
        .collect()
}

/// `4:cpu,cpuacct:/a/b` is `/a/b` for `cpu`.
fn v1_path<'a>(line: &'a str, controller: &str) -> Option<&'a str> {
    let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
    controllers
        .split(',')
        .any(|name| name == controller)
        .then_some(path)
}

/// `/a/b`, `/a`, and the root (an empty string).
fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    const DEPTH: usize = 64;
    let first = path.trim_end_matches('/');
    std::iter::successors(Some(first), |group| group.rfind('/').map(|at| &group[..at])).take(DEPTH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_walked_to_the_root() {
        assert_eq!(ancestors("/a/b").collect::<Vec<_>>(), ["/a/b", "/a", ""]);
        assert_eq!(ancestors("/").collect::<Vec<_>>(), [""]);
    }

    #[test]
    fn v1_lines_name_their_controllers() {
        assert_eq!(v1_path("4:cpu,cpuacct:/a/b", "cpu"), Some("/a/b"));
        assert_eq!(v1_path("4:cpu,cpuacct:/a/b", "memory"), None);
        assert_eq!(v1_path("0::/a", "cpu"), None);
        assert_eq!(v1_path("", "cpu"), None);
    }
}
