//! The table of kernel limits, walked: a model at each limit answers, and one beyond it is refused
//! by inspect with the field, the number and the limit.
#![allow(clippy::unwrap_used, reason = "a broken fixture ends the test")]

mod harness;

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use plimsoll_planner::limits::{self, Limit};
use plimsoll_planner::{Architecture, Dtype, ModelShape};
use plimsoll_sidecar::inspect;
use plimsoll_sidecar::weights::needed;

use harness::Run;

/// Small in everything, so that one number at a time is large.
fn small() -> ModelShape {
    ModelShape {
        architecture: Architecture::Llama,
        layers: 1,
        hidden: 8,
        query_heads: 1,
        kv_heads: 1,
        head_dim: 8,
        ffn: 8,
        vocab: 64,
        tied: true,
        qkv_bias: false,
        output_bias: false,
        mlp_bias: false,
        qk_norm: false,
        context: 64,
        blocks: plimsoll_planner::ModelBlocks::default(),
    }
}

/// The small shape with one number of it, and what must go with it.
fn with(field: &str, number: u32) -> ModelShape {
    let mut shape = small();
    match field {
        "num_hidden_layers" => shape.layers = number,
        "hidden_size" => shape.hidden = number,
        "num_attention_heads" => (shape.query_heads, shape.head_dim) = (number, 2),
        "num_key_value_heads" => {
            (shape.query_heads, shape.kv_heads, shape.head_dim) = (number, number, 2);
        }
        "head_dim" => shape.head_dim = number,
        "intermediate_size" => shape.ffn = number,
        "vocab_size" => shape.vocab = number,
        "max_position_embeddings" => shape.context = number,
        other => panic!("a limit of {other}, which no test reaches"),
    }
    shape
}

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // A folder left behind is the temp folder's business.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A model of zeros: no bytes on disk but the header.
fn write(shape: &ModelShape, name: &str) -> Folder {
    let folder = format!("plimsoll-limit-{}-{name}", std::process::id());
    let folder = Folder(std::env::temp_dir().join(folder));
    std::fs::create_dir_all(&folder.0).unwrap();
    let config = format!(
        r#"{{"architectures": ["LlamaForCausalLM"], "num_hidden_layers": {}, "hidden_size": {},
            "num_attention_heads": {}, "num_key_value_heads": {}, "head_dim": {},
            "intermediate_size": {}, "vocab_size": {}, "max_position_embeddings": {},
            "tie_word_embeddings": true, "rope_theta": 10000.0, "eos_token_id": 2}}"#,
        shape.layers,
        shape.hidden,
        shape.query_heads,
        shape.kv_heads,
        shape.head_dim,
        shape.ffn,
        shape.vocab,
        shape.context
    );
    std::fs::write(folder.0.join("config.json"), config).unwrap();
    let (mut header, mut end) = (Vec::new(), 0);
    for (tensor, dims) in needed(shape) {
        let start = end;
        end += 2 * dims.iter().product::<usize>() as u64;
        header.push(format!(
            r#""{tensor}":{{"dtype":"BF16","shape":{dims:?},"data_offsets":[{start},{end}]}}"#
        ));
    }
    let header = format!("{{{}}}", header.join(","));
    let mut file = File::create(folder.0.join("model.safetensors")).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes())
        .unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len(8 + header.len() as u64 + end).unwrap();
    let tokenizer = harness::fixtures().join("models/tiny-llama/tokenizer.json");
    std::fs::copy(tokenizer, folder.0.join("tokenizer.json")).unwrap();
    folder
}

#[test]
fn a_model_at_each_limit_answers() {
    for (Limit { field, most, .. }, _) in limits::of(&small()) {
        let shape = with(field, most);
        let folder = write(&shape, field);
        let model = harness::open(&folder.0);
        assert_eq!(model.shape, shape, "{field}");
        let run = Run {
            dtype: Dtype::BFloat16,
            max_model_len: 64,
            max_num_seqs: 2,
            max_num_batched_tokens: 16,
            kv_blocks: 8,
            ..Run::whole(&shape)
        };
        let engine = harness::start(&model, &run);
        let answered = harness::ask_ids(&engine, 1, &[3, 5, 7], 2).wait();
        assert_eq!(answered.ids.len(), 2, "{field} of {most}");
    }
}

#[test]
fn one_beyond_each_limit_is_refused_by_inspect() {
    for (Limit { field, most, .. }, _) in limits::of(&small()) {
        let folder = write(&small(), &format!("{field}-beyond"));
        let beyond = most + 1 + u32::from(field == "head_dim");
        refused(&folder.0, field, beyond, most);
        refused(&folder.0, field, u32::MAX, most);
    }
}

#[track_caller]
fn refused(folder: &Path, field: &str, number: u32, most: u32) {
    let path = folder.join("config.json");
    let mut config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config[field] = number.into();
    if field == "num_key_value_heads" {
        config["num_attention_heads"] = 1.into();
    }
    std::fs::write(&path, config.to_string()).unwrap();
    let message = inspect::facts(folder).unwrap_err().to_string();
    let expected = format!("{field} is {number}, expected 1 to {most}");
    assert!(message.contains(&expected), "{message} is not {expected}");
}
