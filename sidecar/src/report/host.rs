//! The host ledger: bytes of the container that belong to no rank.
//!
//! Process (anonymous pages outside the ranks' arenas: tokenizer, HTTP, heap), Offload (weights that
//! ranks keep here, where they do), PageCache (files
//! that were read, the model's among them; the kernel takes them back when it needs room) and
//! Kernel (page tables, stacks, sockets). What the cgroup counts beyond those and the ranks is
//! `other`, and shown.

use std::fs;

use plimsoll_crds::v1alpha1::report::{HostAccount, HostMemory};
use plimsoll_planner::Bytes;

use super::cgroup::{Cgroup, Figures};

/// Reads the figures; holds nothing but where they are.
#[derive(Debug)]
pub struct HostReader {
    cgroup: Option<Cgroup>,
}

impl Default for HostReader {
    fn default() -> Self {
        HostReader::new()
    }
}

impl HostReader {
    pub fn new() -> HostReader {
        HostReader {
            cgroup: Cgroup::find(),
        }
    }

    /// The ledger, given the resident bytes of all ranks that live in this process, and of the weights
    /// that ranks keep in host memory.
    pub fn read(&self, ranks: Bytes, offload: Bytes) -> HostMemory {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let cgroup = self.cgroup.as_ref().and_then(Cgroup::read);
        ledger(&status, cgroup, (ranks.get(), offload.get()))
    }
}

/// Without a cgroup of our own the process's own figures stand in for it.
fn ledger(status: &str, cgroup: Option<Figures>, (ranks, offload): (u64, u64)) -> HostMemory {
    let anonymous = kib(status, "RssAnon:");
    let files = kib(status, "RssFile:") + kib(status, "RssShmem:");
    let figures = cgroup.unwrap_or(Figures {
        usage: anonymous + files,
        limit: None,
        page_cache: files,
        kernel: 0,
    });
    let rows = [
        ("Process", anonymous.saturating_sub(ranks + offload)),
        ("Offload", offload),
        ("PageCache", figures.page_cache),
        ("Kernel", figures.kernel),
    ];
    let known = ranks + rows.iter().map(|(_, bytes)| bytes).sum::<u64>();
    HostMemory {
        limit_bytes: figures.limit,
        cgroup_bytes: figures.usage,
        other_bytes: figures.usage.cast_signed() - known.cast_signed(),
        accounts: rows
            .into_iter()
            .filter(|(name, bytes)| *name != "Offload" || *bytes > 0)
            .map(|(name, used_bytes)| HostAccount {
                name: name.to_owned(),
                used_bytes,
            })
            .collect(),
    }
}

/// `RssAnon:    1234 kB` in bytes; 0 where the kernel does not say.
fn kib(status: &str, name: &str) -> u64 {
    let value = status.lines().find_map(|line| line.strip_prefix(name));
    let value = value.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    value.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tx\nRssAnon:\t     100 kB\nRssFile:\t  30 kB\nRssShmem:\t 0 kB\n";

    #[test]
    fn the_rows_and_other_make_up_the_cgroups_figure() {
        let figures = Figures {
            usage: 200 * 1024,
            limit: Some(1 << 20),
            page_cache: 50 * 1024,
            kernel: 9,
        };
        let host = ledger(STATUS, Some(figures), (50 * 1024, 10 * 1024));
        let sum: u64 = host.accounts.iter().map(|row| row.used_bytes).sum();
        assert_eq!(
            host.accounts[0].used_bytes,
            40 * 1024,
            "anonymous minus the ranks and what they offload"
        );
        let known = (50 * 1024 + sum).cast_signed();
        assert_eq!(known + host.other_bytes, host.cgroup_bytes.cast_signed());
    }

    #[test]
    fn what_the_cgroup_does_not_count_is_shown_as_less_than_nothing() {
        let figures = Figures {
            usage: 70 * 1024,
            limit: None,
            page_cache: 0,
            kernel: 0,
        };
        let host = ledger(STATUS, Some(figures), (60 * 1024, 0));
        assert_eq!(host.other_bytes, -30 * 1024);
    }

    #[test]
    fn without_a_cgroup_the_process_speaks_for_itself() {
        let host = ledger(STATUS, None, (0, 0));
        assert_eq!((host.cgroup_bytes, host.other_bytes), (130 * 1024, 0));
        assert_eq!(host.limit_bytes, None);
    }

    #[test]
    fn the_real_figures_add_up() {
        // 5% of what is held by anything but this test binary is not ours to promise; that the
        // process's own pages are found is.
        let block = vec![1u8; 32 << 20];
        let host = HostReader::new().read(Bytes::ZERO, Bytes::ZERO);
        assert!(host.accounts[0].used_bytes > block.len() as u64, "{host:?}");
        assert!(host.cgroup_bytes > 0);
    }
}
