//! Adapters on the command line.

use clap::Args;

use super::values::adapter;
use crate::adapters::AdapterPath;

#[derive(Clone, Debug, Args)]
pub struct AdapterArgs {
    /// Merge a PEFT adapter into the weights while they are read, e.g. sql=./sql-lora; repeat for more,
    /// which are merged in this order.
    #[arg(long, value_name = "NAME=FOLDER[:merge]", value_parser = adapter)]
    pub adapter: Vec<AdapterPath>,
}
