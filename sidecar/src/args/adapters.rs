//! Adapters on the command line, and the command that writes them into a model.

use std::path::PathBuf;

use clap::Args;
use plimsoll_planner::Bytes;

use super::MemoryArgs;
use super::values::{AdapterFlag, ValidationArg, adapter, merged_adapter, quantity_bytes};
use crate::adapters::AdapterPath;

#[derive(Clone, Debug, Args)]
pub struct AdapterArgs {
    /// A PEFT adapter, e.g. sql=./sql-lora; repeat for more. It is merged into the weights while they are
    /// read, in this order; one that is dynamic stays beside them, and requests choose it by its name.
    /// Its own scale is multiplied by SCALE (1 without it), as PEFT's scale_layer does.
    #[arg(long, value_name = "NAME=FOLDER[:merge|:dynamic][,scale=SCALE]", value_parser = adapter)]
    pub adapter: Vec<AdapterFlag>,
}

impl AdapterArgs {
    /// Those that become a part of the weights, in order.
    pub fn merged(&self) -> Vec<AdapterPath> {
        let merged = |of: &AdapterFlag| match of {
            AdapterFlag::Merge(at) => Some(at.clone()),
            AdapterFlag::Dynamic(_) => None,
        };
        self.adapter.iter().filter_map(merged).collect()
    }

    /// Those that requests choose.
    pub fn dynamic(&self) -> Vec<AdapterPath> {
        let dynamic = |of: &AdapterFlag| match of {
            AdapterFlag::Dynamic(at) => Some(at.clone()),
            AdapterFlag::Merge(_) => None,
        };
        self.adapter.iter().filter_map(dynamic).collect()
    }
}

/// Room where a folder is given for adapters that come, and no number: as `spec.limits.maxAdapters`.
const ROOM: u32 = 4;

impl MemoryArgs {
    /// With room for adapters that may come out of `roots`, beside those that are given.
    #[must_use]
    pub fn with_room_for(&self, adapters: &AdapterArgs, roots: &[PathBuf]) -> MemoryArgs {
        let mut flags = self.clone();
        if !roots.is_empty() && flags.max_adapters.is_none() {
            let given = u32::try_from(adapters.dynamic().len()).unwrap_or(u32::MAX);
            flags.max_adapters = Some(given.max(ROOM));
        }
        flags
    }
}

pub(super) const MERGE_EXAMPLES: &str = "\
Examples:
  plimsoll-sidecar merge --model ./Qwen2.5-0.5B-Instruct --adapter sql=./sql-lora --out ./qwen-sql
  plimsoll-sidecar merge --model ./base --adapter a=./a --adapter b=./b --out ./both --shard-size 2Gi

The folder is there when all of it is written, and not before. Exit status: 0 when it is, 1 when model
or adapter cannot be read or do not fit, or too little of the adapter would be left, 64 when the flags make
no sense.";

#[derive(Clone, Debug, Args)]
pub struct MergeArgs {
    /// A Hugging Face folder.
    #[arg(long, value_name = "FOLDER")]
    pub model: PathBuf,
    /// A PEFT adapter, e.g. sql=./sql-lora or sql=./sql-lora,scale=0.5; repeat for more, which are merged
    /// in this order.
    #[arg(long, value_name = "NAME=FOLDER[,scale=SCALE]", value_parser = merged_adapter, required = true)]
    pub adapter: Vec<AdapterPath>,
    /// The folder to write, which must not be there.
    #[arg(long, value_name = "FOLDER")]
    pub out: PathBuf,
    /// What is done where what is written does not answer as model and adapter side by side, row by row,
    /// or rounding leaves hardly anything of the adapter.
    #[arg(long, value_enum, default_value_t = ValidationArg::Enforce)]
    pub adapter_validation: ValidationArg,
    /// Most bytes of one file of weights; a larger model gets several and an index.
    #[arg(long, allow_hyphen_values = true, value_name = "QUANTITY", default_value = "5Gi",
          value_parser = quantity_bytes)]
    pub shard_size: Bytes,
}
