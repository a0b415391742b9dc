//! How many CPUs this process may use: affinity and the cgroup's CPU quota.

use std::fs;
use std::thread;

use crate::cgroup;

/// CPUs to size pools by: the smaller of the CPUs that this process may be scheduled on and its
/// cgroup's quota (v2 `cpu.max`, v1 `cpu.cfs_quota_us`), rounded up; at least 1.
pub fn available_cpus() -> usize {
    // The standard library counts the affinity mask (and rounds a quota down, where it sees one).
    let scheduled = affinity().or_else(|| thread::available_parallelism().ok().map(usize::from));
    let v2 = cgroup::read_v2("cpu.max")
        .into_iter()
        .filter_map(|text| parse_v2(&text));
    let quotas = cgroup::read_v1("cpu", "cpu.cfs_quota_us");
    let periods = cgroup::read_v1("cpu", "cpu.cfs_period_us");
    let v1 = quotas
        .iter()
        .zip(&periods)
        .filter_map(|(quota, period)| parse_v1(quota, period));
    scheduled
        .into_iter()
        .chain(v2)
        .chain(v1)
        .min()
        .unwrap_or(1)
        .max(1)
}

/// CPUs in `Cpus_allowed_list` of this process.
fn affinity() -> Option<usize> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    count_list(list.trim())
}

/// Counts `0-3,8`.
fn count_list(list: &str) -> Option<usize> {
    list.split(',')
        .map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
            (first <= last).then(|| last - first + 1)
        })
        .sum()
}

/// `200000 100000` is 2 CPUs; `max 100000` is no quota.
fn parse_v2(text: &str) -> Option<usize> {
    let (quota, period) = text.trim().split_once(' ')?;
    whole_cpus(quota, period)
}

/// A quota of -1 is no quota.
fn parse_v1(quota: &str, period: &str) -> Option<usize> {
    whole_cpus(quota.trim(), period.trim())
}

fn whole_cpus(quota: &str, period: &str) -> Option<usize> {
    let (quota, period): (usize, usize) = (quota.parse().ok()?, period.parse().ok()?);
    (period > 0).then(|| quota.div_ceil(period).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_round_up_and_max_is_none() {
        assert_eq!(parse_v2("200000 100000\n"), Some(2));
        assert_eq!(parse_v2("150000 100000\n"), Some(2));
        assert_eq!(parse_v2("1000 100000\n"), Some(1));
        assert_eq!(parse_v2("max 100000\n"), None);
        assert_eq!(parse_v2("1000 0"), None);
        assert_eq!(parse_v2(""), None);
        assert_eq!(parse_v1("-1\n", "100000\n"), None);
        assert_eq!(parse_v1("250000\n", "100000\n"), Some(3));
    }

    #[test]
    fn cpu_lists_are_counted() {
        assert_eq!(count_list("0-1"), Some(2));
        assert_eq!(count_list("0-3,8,10-11"), Some(7));
        assert_eq!(count_list("3-1"), None);
        assert_eq!(count_list("x"), None);
    }

    #[test]
    fn this_process_has_at_least_one() {
        assert!(available_cpus() >= 1);
    }
}
