//! A refusal in words: at most 1,000 characters that name fields, numbers and the way out.

use std::fmt::{self, Write};

use crate::bytes::Bytes;
use crate::refusal::{RankRefusal, Reason, Refusal};
use crate::remedy::Remedy;
use crate::request::Bound;

/// Characters of a message at most (an Event's note holds 1,024).
pub const MOST_CHARACTERS: usize = 1000;
/// The limit's name where it is no field of the request; who knows its field may put it there.
pub const MEMORY_LIMIT: &str = "the engine container's memory limit";
/// Ranks told in full; the others are counted.
const RANKS_TOLD: usize = 3;

impl Refusal {
    /// The refusal in words, at most [`MOST_CHARACTERS`] characters of ASCII.
    pub fn message(&self) -> String {
        let text = match &self.reason {
            Reason::Invalid { field, detail } => format!("{field}: {detail}"),
            _ => self.numbers(RANKS_TOLD),
        };
        // Numbers may be long: tell fewer ranks before the way out is lost.
        let mut ranks = RANKS_TOLD;
        let mut text = text;
        while text.len() > MOST_CHARACTERS && ranks > 1 {
            ranks -= 1;
            text = self.numbers(ranks);
        }
        text.chars()
            .filter(char::is_ascii)
            .take(MOST_CHARACTERS)
            .collect()
    }

    fn numbers(&self, ranks_told: usize) -> String {
        let mut text = String::new();
        match &self.reason {
            Reason::Invalid { .. } => {}
            Reason::ContextTooLong => {
                text.push_str("spec.limits.maxModelLen needs more KV cache than fits: ");
            }
            // Whatever memory there is, this bounds it: no rank's numbers help.
            Reason::KvCacheTooSmall => {
                text.push_str("spec.memory.kvCache.size is too small for one request");
                if let Some(least) = self.least_cache() {
                    text.push_str(&format!(" of the longest, which takes {least}"));
                }
                text.push_str(&self.ways_out());
                return text;
            }
            Reason::QuotaTooSmall => text.push_str("the quotas are too small: "),
            Reason::MemoryTooSmall => text.push_str("the memory is too small: "),
            Reason::HostMemoryTooSmall {
                limit,
                quotas,
                reserve,
            } => {
                let quotas = match *quotas {
                    Bytes::ZERO => String::new(),
                    quotas => format!("the quotas ({quotas}) and "),
                };
                text.push_str(&format!(
                    "{MEMORY_LIMIT}: {limit} is less than {quotas}the host reserve ({reserve})"
                ));
                if self.ranks.is_empty() {
                    text.push_str(&self.ways_out());
                    return text;
                }
                text.push_str(", and the quotas are too small too: ");
            }
        }
        let mut ranks: Vec<&RankRefusal> = self.ranks.iter().collect();
        ranks.sort_by_key(|rank| std::cmp::Reverse(rank.shortfall));
        // Ranks are alike more often than not: then what is fixed is said once.
        let alike = ranks.len() > 1 && ranks.iter().all(|rank| rank.alike(ranks[0]));
        for rank in ranks.iter().take(ranks_told) {
            rank.tell(&mut text);
            if !alike {
                text.push_str("; it");
                rank.tell_fixed(&mut text, self.shards_given);
            }
            text.push_str("; ");
        }
        if let Some(rank) = ranks.first().filter(|_| alike) {
            text.push_str("each rank");
            rank.tell_fixed(&mut text, self.shards_given);
            text.push_str("; ");
        }
        if self.ranks.len() == 1 {
            // The sum over all ranks would say the same again.
            text.truncate(text.trim_end_matches("; ").len());
            text.push_str(&self.ways_out());
            return text;
        }
        let untold = self.ranks.len().saturating_sub(ranks_told);
        let (needed, available) = (self.needed(), self.available());
        let all = match untold {
            0 => format!("all ranks need {needed}, have {available}"),
            _ => format!("and {untold} more ranks; all need {needed}, have {available}"),
        };
        text.push_str(&all);
        if self.shortfall() > Bytes::ZERO {
            text.push_str(&format!(", short by {}", self.shortfall()));
        }
        text.push_str(&self.ways_out());
        text
    }

    /// Of the largest share, where the shards are given.
    fn least_cache(&self) -> Option<Bytes> {
        let caches = self.ranks.iter().map(|rank| rank.smallest_unit);
        caches.max().filter(|_| self.shards_given)
    }

    fn ways_out(&self) -> String {
        match self.remedies.as_slice() {
            [] => ". Use a smaller model or more memory".to_owned(),
            remedies => {
                let remedies: Vec<String> = remedies.iter().map(Remedy::to_string).collect();
                format!(". This fits: {}", remedies.join("; or "))
            }
        }
    }
}

impl RankRefusal {
    fn alike(&self, other: &RankRefusal) -> bool {
        self.floor == other.floor && self.smallest_unit == other.smallest_unit
    }

    fn tell(&self, text: &mut String) {
        let RankRefusal {
            rank,
            budget,
            needed,
            shortfall,
            ..
        } = self;
        let bound = match budget.bound {
            Bound::Quota => format!("spec.memory.gpuQuotas[rank={rank}].limit"),
            Bound::Utilization { total } => {
                format!("spec.memory.gpuMemoryUtilization of {total}")
            }
        };
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "rank {rank} needs {needed}, has {} ({bound})",
            budget.bytes
        );
        if *shortfall > Bytes::ZERO {
            let _ = write!(text, ", short by {shortfall}");
        }
    }

    fn tell_fixed(&self, text: &mut String, shards_given: bool) {
        let (before, adds) = match shards_given {
            true => ("for its shard", "the KV cache of the longest sequence"),
            false => ("before any share", "a KV head group"),
        };
        let _ = write!(text, " takes {} {before} (", self.floor_total());
        for (index, (account, bytes)) in self.floor.iter().enumerate() {
            let _ = write!(
                text,
                "{}{} {bytes}",
                ["", ", "][index.min(1)],
                account.name()
            );
        }
        let _ = write!(text, "), and {adds} adds {}", self.smallest_unit);
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message())
    }
}

impl std::error::Error for Refusal {}

impl fmt::Display for Remedy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Remedy::MaxModelLen { tokens } => {
                write!(f, "spec.limits.maxModelLen at most {tokens}")
            }
            Remedy::KvCacheSize { bytes } => {
                write!(f, "spec.memory.kvCache.size at least {}", quantity(*bytes))
            }
            Remedy::Quota { rank, bytes } => {
                write!(
                    f,
                    "spec.memory.gpuQuotas[rank={rank}].limit at least {}",
                    quantity(*bytes)
                )
            }
            Remedy::Quotas { bytes } => {
                write!(
                    f,
                    "spec.memory.gpuQuotas limits of {} by rank",
                    quantities(bytes)
                )
            }
            Remedy::Utilization { utilization } => write!(
                f,
                "spec.memory.gpuMemoryUtilization at least {}.{:03}",
                utilization.0 / 1000,
                utilization.0 % 1000
            ),
            Remedy::Budgets { bytes } => {
                write!(
                    f,
                    "quotas and memory for budgets of {} by rank",
                    quantities(bytes)
                )
            }
            Remedy::All(remedies) => {
                let remedies: Vec<String> = remedies.iter().map(Remedy::to_string).collect();
                f.write_str(&remedies.join(" with "))
            }
            Remedy::ModelDtype { dtype } => write!(f, "spec.model.dtype {dtype}"),
            Remedy::Quantization { mode } => {
                write!(f, "spec.model.quantization.mode {}", mode.label())
            }
            Remedy::CpuOffload { bytes } => {
                write!(f, "spec.memory.cpuOffload at least {}", quantity(*bytes))
            }
            Remedy::KvDtype { dtype } => write!(f, "spec.memory.kvCache.dtype {dtype}"),
            Remedy::BatchedTokens { tokens } => {
                write!(f, "spec.limits.maxNumBatchedTokens at most {tokens}")
            }
            Remedy::Sequences { sequences } => {
                write!(f, "spec.limits.maxNumSeqs at most {sequences}")
            }
            Remedy::Adapters { slots } => {
                write!(f, "spec.limits.maxAdapters at most {slots}")
            }
            Remedy::AdapterRank { rank } => {
                write!(f, "spec.limits.maxAdapterRank at most {rank}")
            }
            Remedy::TensorParallelSize { ranks } => {
                write!(f, "spec.parallelism.tensorParallelSize {ranks}")
            }
            Remedy::MemoryLimit { bytes } => {
                write!(f, "{MEMORY_LIMIT} at least {}", quantity(*bytes))
            }
        }
    }
}

fn quantities(bytes: &[Bytes]) -> String {
    bytes
        .iter()
        .map(|bytes| quantity(*bytes))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Bytes as a Kubernetes quantity: exact, in the largest unit that divides them.
pub(crate) fn quantity(bytes: Bytes) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "Gi"), (1 << 20, "Mi"), (1 << 10, "Ki")];
    let bytes = bytes.get();
    match UNITS
        .iter()
        .find(|(size, _)| bytes > 0 && bytes.is_multiple_of(*size))
    {
        Some((size, unit)) => format!("{}{unit}", bytes / size),
        None => bytes.to_string(),
    }
}
