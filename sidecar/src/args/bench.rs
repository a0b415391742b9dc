//! What is measured in process.

use std::path::PathBuf;

use clap::Args;

use super::{EngineArgs, MemoryArgs, Output};

#[derive(Clone, Debug, Args)]
pub struct BenchArgs {
    /// A Hugging Face folder, a GGUF file, or a folder with one GGUF file.
    pub model: PathBuf,
    #[command(flatten)]
    pub memory: MemoryArgs,
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Tokens of the prefill case. Without it: 512, or what a shorter context has room for.
    #[arg(long, allow_negative_numbers = true, value_name = "TOKENS")]
    pub prefill: Option<u32>,
    /// Tokens of the single-sequence case.
    #[arg(
        long,
        allow_negative_numbers = true,
        value_name = "TOKENS",
        default_value_t = 128
    )]
    pub decode: u32,
    /// Sequences of the batch case.
    #[arg(
        long,
        allow_negative_numbers = true,
        value_name = "N",
        default_value_t = 16
    )]
    pub batch: u32,
    /// Prompt of each sequence of the batch.
    #[arg(
        long,
        allow_negative_numbers = true,
        value_name = "TOKENS",
        default_value_t = 64
    )]
    pub batch_prompt: u32,
    /// Tokens that each sequence of the batch generates.
    #[arg(
        long,
        allow_negative_numbers = true,
        value_name = "TOKENS",
        default_value_t = 32
    )]
    pub batch_generate: u32,
    /// Counted runs of each case, after one that is not.
    #[arg(long, allow_negative_numbers = true, value_name = "N", default_value_t = 5,
          value_parser = clap::value_parser!(u32).range(1..=100))]
    pub repetitions: u32,
    /// Measure what it gains that the next step is sent while ranks compute one: the decoding cases
    /// with one step under way and with two, in turn, and their ratio.
    #[arg(long)]
    pub overlap: bool,
    /// Measure what rows of an adapter of this rank cost, 1 to 4096: every case with rows of the base and
    /// with rows of an adapter of drawn numbers in a slot of its own, in turn, and their ratio.
    #[arg(long, allow_negative_numbers = true, value_name = "N", conflicts_with = "overlap",
          value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub lora_rank: Option<u32>,
    /// What is printed.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}
