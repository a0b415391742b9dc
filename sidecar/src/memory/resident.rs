//! What of a rank's mappings is resident, as the kernel says: the CPU's driver figure.
//!
//! Mappings are found in `/proc/self/smaps` by address. Around an arena lie pages that are never
//! committed, so the kernel cannot merge two of them into one entry.

use std::fs;
use std::io::{BufRead, BufReader};
use std::ops::Range;
use std::time::{Duration, Instant};

use plimsoll_planner::Bytes;

/// A reading is as good as new for this long: reading costs some milliseconds.
const FRESH: Duration = Duration::from_secs(1);

/// The ranges of every rank and the last reading.
#[derive(Debug)]
pub(crate) struct Residents {
    ranges: Vec<(usize, Range<u64>)>,
    /// Of each rank, then of what each keeps in host memory.
    bytes: Vec<Bytes>,
    read_at: Option<Instant>,
}

impl Residents {
    pub(crate) fn new(ranks: usize) -> Residents {
        Residents {
            ranges: Vec::new(),
            bytes: vec![Bytes::ZERO; 2 * ranks],
            read_at: None,
        }
    }

    pub(crate) fn add(&mut self, rank: usize, address: usize, len: Bytes) {
        let start = address as u64;
        self.ranges
            .push((rank, start..start.saturating_add(len.get())));
        self.read_at = None;
    }

    /// As [`Residents::add`], of host memory.
    pub(crate) fn add_host(&mut self, rank: usize, address: usize, len: Bytes) {
        self.add(self.bytes.len() / 2 + rank, address, len);
    }

    /// The last reading is not worth anything any more.
    pub(crate) fn forget(&mut self) {
        self.read_at = None;
    }

    /// Resident bytes per rank, then of each rank's host memory. An unreadable `/proc` leaves the last reading.
    pub(crate) fn read(&mut self) -> Vec<Bytes> {
        if self.read_at.is_none_or(|at| at.elapsed() >= FRESH) {
            if let Ok(file) = fs::File::open("/proc/self/smaps") {
                self.bytes = sum(BufReader::new(file), &self.ranges, self.bytes.len());
            }
            self.read_at = Some(Instant::now());
        }
        self.bytes.clone()
    }
}

/// Sums the `Rss` of every mapping that lies in one of the ranges.
fn sum(smaps: impl BufRead, ranges: &[(usize, Range<u64>)], ranks: usize) -> Vec<Bytes> {
    let mut totals = vec![Bytes::ZERO; ranks];
    let mut rank = None;
    for line in smaps.lines() {
        let Ok(line) = line else { break };
        if let Some(mapping) = header(&line) {
            let inside = |(_, range): &&(usize, Range<u64>)| {
                range.start <= mapping.start && mapping.end <= range.end
            };
            rank = ranges.iter().find(inside).map(|(rank, _)| *rank);
        } else if let (Some(rank), Some(kib)) = (rank, line.strip_prefix("Rss:")) {
            let kib = kib
                .trim()
                .strip_suffix("kB")
                .and_then(|kib| kib.trim().parse().ok());
            totals[rank] += Bytes::measured(kib.unwrap_or(0)).saturating_mul(1024);
        }
    }
    totals
}

/// `55d0c0a4a000-55d0c0a6b000 rw-p …` names a mapping; other lines are its figures.
fn header(line: &str) -> Option<Range<u64>> {
    let (start, end) = line.split_whitespace().next()?.split_once('-')?;
    Some(u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_count_for_the_rank_whose_range_holds_them() {
        let smaps = "1000-3000 rw-p 00000000 00:00 0\nSize: 8 kB\nRss:   8 kB\n\
                     3000-4000 ---p 00000000 00:00 0\nRss:   0 kB\n\
                     8000-9000 rw-p 00000000 00:00 0 [heap]\nRss:   4 kB\n\
                     a000-c000 rw-p 00000000 00:00 0\nRss:   4 kB\nVmFlags: rd wr\n";
        let ranges = [(0, 0x1000..0x4000), (1, 0xa000..0xd000)];
        let totals = sum(smaps.as_bytes(), &ranges, 2);
        assert_eq!(totals, [Bytes::measured(8192), Bytes::measured(4096)]);
    }
}
