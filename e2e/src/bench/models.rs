//! The files both sides read: SmolLM2, and random weights in the shape of a 0.5B model.

use std::fs;
use std::path::PathBuf;

use anyhow::Result;

use super::peer::Peer;
use crate::paths;
use crate::process;
use crate::progress::Progress;
use crate::tools::python;

/// One model, in the form that each side reads.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) name: &'static str,
    /// What our engine opens.
    pub(crate) folder: PathBuf,
    /// What the peer opens: the same weights in BF16.
    pub(crate) gguf: PathBuf,
}

/// Both models, fetched or made when absent.
pub(crate) fn ensure(progress: &Progress, peer: &Peer) -> Result<Vec<Model>> {
    let folder = paths::cache()?.join("bench");
    fs::create_dir_all(&folder)?;
    let smollm2 = crate::model::ensure(progress)?;
    let smollm2_bf16 = folder.join("smollm2-135m-bf16.gguf");
    if !smollm2_bf16.is_file() {
        let part = folder.join("smollm2.part");
        progress.step("expand SmolLM2 to BF16 for the peer", || peer.to_bf16(&smollm2, &part))?;
        fs::rename(part, &smollm2_bf16)?;
    }
    let random = folder.join("random-qwen2.5-0.5b");
    if !random.is_dir() {
        let python = python::bench(progress)?;
        let part = folder.join("random.part");
        let _ = fs::remove_dir_all(&part);
        progress.step("make random weights in the shape of Qwen2.5-0.5B", || {
            let script = paths::repository().join("e2e/bench/random_model.py");
            let mut make = process::command(&python, [script]);
            process::stdout_of(make.args(["--preset", "qwen2.5-0.5b", "--out"]).arg(&part))
        })?;
        fs::rename(part, &random)?;
    }
    Ok(vec![
        Model { name: "smollm2-135m", folder: smollm2, gguf: smollm2_bf16 },
        Model {
            name: "random-qwen2.5-0.5b",
            gguf: random.join("model-bf16.gguf"),
            folder: random,
        },
    ])
}
