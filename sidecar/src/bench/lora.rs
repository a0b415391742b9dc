//! What rows of an adapter cost beside rows of the base: an adapter of drawn numbers, opened from a folder
//! and laid into a slot that the plan has, as a user's would be.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;

use half::bf16;
use plimsoll_crds::v1alpha1::adapters::AdapterScale;
use serde_json::{Map, json};

use super::{Bench, Both, decoding, in_turn, prefill, start};
use crate::adapters::Dynamic;
use crate::args::BenchArgs;
use crate::engine::handle::EngineHandle;
use crate::model::{AdapterPath, Model};

/// What requests call it.
const NAME: &str = "bench";

/// The modules of a layer that are served beside the weights.
const MODULES: [&str; 7] = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];

/// Measures every case with rows of the base and with rows of an adapter of this rank, in turn, on one
/// engine.
///
/// # Errors
/// As [`super::run`]; where the folder of temporary files takes no adapter.
pub fn lora(args: &BenchArgs, rank: u32, mut tell: impl FnMut(&Both)) -> anyhow::Result<()> {
    let (engine, vocabulary) = start(args, None, |model| open(model, rank).map(Some))?;
    let mut benches = both(&engine, vocabulary);
    for case in [prefill(args, &engine)].into_iter().chain(decoding(args)) {
        tell(&in_turn(&mut benches, case, args.repetitions)?);
    }
    engine.stop();
    Ok(())
}

/// Whose requests ask for the base, and whose for the adapter.
fn both(engine: &EngineHandle, vocabulary: u32) -> [Bench<'_>; 2] {
    let adapter = Bench {
        adapter: Some(NAME.into()),
        ..Bench::new(engine, vocabulary)
    };
    [Bench::new(engine, vocabulary), adapter]
}

/// An adapter of every matrix of every layer. Its files stay open, and its folder goes.
fn open(model: &Model, rank: u32) -> anyhow::Result<Arc<Dynamic>> {
    let folder = Folder::new()?;
    write(model, rank, &folder)?;
    let at = AdapterPath {
        name: NAME.to_owned(),
        path: folder.0.clone(),
        scale: AdapterScale::ONE,
    };
    Ok(Arc::new(model.open_adapter(&at)?))
}

/// A folder of temporary files that goes with the value.
#[derive(Debug)]
struct Folder(PathBuf);

impl Folder {
    fn new() -> io::Result<Folder> {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("plimsoll-bench-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        // One that is there is not ours.
        fs::create_dir(&path)?;
        Ok(Folder(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Config and factors as PEFT writes them, in BF16.
fn write(model: &Model, rank: u32, folder: &Folder) -> io::Result<()> {
    let targets = MODULES.map(|module| module.rsplit('.').next().unwrap_or(module));
    let config = json!({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": rank,
        "target_modules": targets,
    });
    fs::write(folder.0.join(crate::adapters::CONFIG), config.to_string())?;
    let rank = u64::from(rank);
    let (mut header, mut end) = (Map::new(), 0u64);
    for layer in 0..model.shape.layers {
        for module in MODULES {
            let module = format!("model.layers.{layer}.{module}");
            let info = model.tensors.info(&format!("{module}.weight"));
            let (rows, cols) = info.map_or((0, 0), |info| info.rows_cols());
            let (rows, cols) = (rows as u64, cols as u64);
            for (part, shape) in [("lora_A", [rank, cols]), ("lora_B", [rows, rank])] {
                let key = format!("base_model.model.{module}.{part}.weight");
                let ends = [end, end + 2 * shape[0] * shape[1]];
                end = ends[1];
                let of = json!({"dtype": "BF16", "shape": shape, "data_offsets": ends});
                header.insert(key, of);
            }
        }
    }
    let header = serde_json::to_vec(&header)?;
    let file = File::create(folder.0.join(crate::adapters::WEIGHTS))?;
    let mut file = BufWriter::new(file);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(&header)?;
    let mut random = super::SEED;
    for _ in 0..end / 2 {
        let [.., low, high] = super::draw(&mut random).to_le_bytes();
        let drawn = i16::from_le_bytes([low, high]);
        // A hundredth at most, as trained factors have about.
        let number = bf16::from_f32((f32::from(drawn) + 0.5) / 3_276_800.0);
        file.write_all(&number.to_le_bytes())?;
    }
    file.flush()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};
    use crate::bench::{BenchError, Case};
    use crate::model::ModelFolder;

    fn args(more: &str) -> BenchArgs {
        let model = "tests/fixtures/models/tiny-qwen3";
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join(model);
        let line = format!(
            "x bench {} --kv-cache-size 1Mi --max-model-len 64 --decode 4 --batch 2 \
             --batch-prompt 4 --batch-generate 48 --repetitions 1 --threads 1 {more}",
            model.display()
        );
        let Command::Bench(args) = Cli::parse_from(line.split_whitespace()).command else {
            panic!("not a bench")
        };
        *args
    }

    #[test]
    fn an_adapter_changes_every_matrix_at_its_rank_and_leaves_no_folder() {
        let model = ModelFolder::open(&args("").model).unwrap();
        for rank in [1, 16] {
            let opened = open(&model, rank).unwrap();
            let matrices = MODULES.len() * model.shape.layers as usize;
            assert_eq!((opened.rank, opened.matrices), (rank, matrices));
            assert!(opened.ranks().iter().all(|of| *of == rank));
            assert!(!opened.at.path.exists());
        }
    }

    #[test]
    fn every_case_is_measured_with_rows_of_the_base_and_of_the_adapter() {
        let args = args("--lora-rank 4");
        let mut cases = Vec::new();
        lora(&args, args.lora_rank.unwrap(), |both| {
            assert!(
                both.one.median() > 0.0 && both.two.median() > 0.0,
                "{both:?}"
            );
            assert!(both.ratio().is_finite(), "{both:?}");
            cases.push(both.one.case.name());
        })
        .unwrap();
        // As long a prompt as the context has room for beside a token.
        assert_eq!(cases, ["prefill-63", "decode-4", "batch-2"]);
    }

    /// So what is measured as an adapter's are its rows.
    #[test]
    fn an_engine_without_the_adapter_answers_none_of_its_requests() {
        let (engine, vocabulary) = start(&args(""), None, |_| Ok(None)).unwrap();
        let case = Case::Decode { tokens: 2 };
        let [mut base, mut adapter] = both(&engine, vocabulary);
        assert!(base.once(case).is_ok());
        let refused = adapter.once(case);
        assert!(
            matches!(refused, Err(BenchError::Refused(_))),
            "{refused:?}"
        );
        engine.stop();
    }
}
