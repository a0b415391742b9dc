//! The CPU as a device: host memory, bounded by the machine and by the container's cgroup.

use std::fs;
use std::io;

use plimsoll_planner::Bytes;

use crate::cgroup;

use super::{Buffer, Device, DeviceError, Pages, mapping};

/// Host memory.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu;

impl Device for Cpu {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn granularity(&self) -> Bytes {
        Bytes::measured(mapping::page_bytes() as u64)
    }

    /// The smaller of the machine's memory and the cgroup's limit (v2, then v1).
    fn total_memory(&self) -> Result<Bytes, DeviceError> {
        let machine = self.most_memory()?.get();
        let mut limits = cgroup::read_v2("memory.max");
        limits.extend(cgroup::read_v1("memory", "memory.limit_in_bytes"));
        // The word "max" means no limit.
        let limit = limits
            .iter()
            .filter_map(|text| text.trim().parse::<u64>().ok())
            .min();
        Ok(Bytes::measured(
            limit.map_or(machine, |limit| limit.min(machine)),
        ))
    }

    fn most_memory(&self) -> Result<Bytes, DeviceError> {
        const MEMINFO: &str = "/proc/meminfo";
        let failed = |source| DeviceError::TotalMemory {
            path: MEMINFO,
            source,
        };
        let meminfo = fs::read_to_string(MEMINFO).map_err(failed)?;
        let invalid = || io::Error::new(io::ErrorKind::InvalidData, "no MemTotal line");
        let machine = machine_bytes(&meminfo).ok_or_else(|| failed(invalid()))?;
        Ok(Bytes::measured(machine))
    }

    fn reserve(&self, max: Bytes, pages: Pages) -> Result<Buffer, DeviceError> {
        match mapping::Mapping::reserve(max.get(), pages, None) {
            Ok(mapping) => Ok(Buffer::over(mapping)),
            Err(source) => Err(DeviceError::Reserve { bytes: max, source }),
        }
    }
}

fn machine_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}
