//! Our side: `plimsoll-sidecar bench`, the engine in process without HTTP.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::{
    BATCH_PROMPT, BATCH_SEQUENCES, BATCH_TOKENS, DECODE_TOKENS, Figures, PREFILL_TOKENS,
};
use crate::paths;
use crate::process;
use crate::progress::Progress;

/// One line of the program's JSON.
#[derive(Deserialize)]
struct Line {
    case: String,
    #[serde(rename = "tokensPerSecond")]
    tokens_per_second: f64,
}

/// The release program.
pub(crate) fn build(progress: &Progress) -> Result<PathBuf> {
    progress.step("build plimsoll-sidecar (release)", || {
        let mut cargo =
            process::command("cargo", ["build", "--release", "--quiet", "-p", "plimsoll-sidecar"]);
        process::stdout_of(cargo.current_dir(paths::repository())).map(drop)
    })?;
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| paths::repository().join("target"), PathBuf::from);
    Ok(target.join("release/plimsoll-sidecar"))
}

/// Its version, in a line.
pub(crate) fn describe(program: &Path) -> Result<String> {
    Ok(process::stdout_of(&mut process::command(program, ["version"]))?.trim().to_owned())
}

/// Tokens per second of the three cases on one model.
pub(crate) fn measure(program: &Path, model: &Path, threads: usize) -> Result<Figures> {
    let mut command = process::command(program, ["bench"]);
    command.arg(model).args(["--dtype", "bfloat16", "--output", "json"]);
    command.args(["--threads", &threads.to_string()]);
    command.args(["--prompt-tokens", &PREFILL_TOKENS.to_string()]);
    command.args(["--generate-tokens", &DECODE_TOKENS.to_string()]);
    command.args(["--batch", &BATCH_SEQUENCES.to_string()]);
    command.args(["--batch-prompt-tokens", &BATCH_PROMPT.to_string()]);
    command.args(["--batch-generate-tokens", &BATCH_TOKENS.to_string()]);
    let text = process::stdout_of(&mut command)?;
    let lines: Vec<Line> = text
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("not a result: {line}")))
        .collect::<Result<_>>()?;
    let find = |case: String| {
        let line = lines.iter().find(|line| line.case == case);
        line.map(|line| line.tokens_per_second)
            .with_context(|| format!("the bench printed no case '{case}'"))
    };
    Ok(Figures {
        prefill: find(format!("prefill-{PREFILL_TOKENS}"))?,
        decode: find(format!("decode-{DECODE_TOKENS}"))?,
        batch: find(format!("batch-{BATCH_SEQUENCES}"))?,
    })
}
