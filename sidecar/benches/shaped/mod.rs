//! A folder with a model of random numbers, in the shape of one that people run.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, json};

/// Llama 3.2 1B, as its config.json has it.
const VOCAB: usize = 128_256;
const HIDDEN: usize = 2048;
const INTERMEDIATE: usize = 8192;
const LAYERS: usize = 16;
const KV: usize = 8 * 64;

/// The folder; it goes with the value.
pub(crate) struct Shaped(PathBuf);

impl Drop for Shaped {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Shaped {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// About 2.5 GB of BF16, with the tokenizer of a model of the tests.
    pub(crate) fn write() -> anyhow::Result<Shaped> {
        let name = format!("plimsoll-1b-{}", std::process::id());
        let shaped = Shaped(std::env::temp_dir().join(name));
        fs::create_dir_all(&shaped.0)?;
        let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/tiny-llama");
        for file in ["tokenizer.json", "tokenizer_config.json"] {
            fs::copy(tiny.join(file), shaped.0.join(file))?;
        }
        let config = json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
            "hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE, "num_hidden_layers": LAYERS,
            "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
            "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 500_000.0,
            "tie_word_embeddings": true, "vocab_size": VOCAB, "eos_token_id": 2, "dtype": "bfloat16",
        });
        fs::write(shaped.0.join("config.json"), config.to_string())?;
        weights(&shaped.0.join("model.safetensors"))?;
        Ok(shaped)
    }
}

fn weights(path: &Path) -> anyhow::Result<()> {
    let tensors = tensors();
    let (mut header, mut end) = (Map::new(), 0);
    for (name, shape) in &tensors {
        let start = end;
        end += shape.iter().product::<usize>() * 2;
        let entry = json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, end]});
        header.insert(name.clone(), entry);
    }
    let header = serde_json::to_vec(&header)?;
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    file.write_all(&u64::try_from(header.len())?.to_le_bytes())?;
    file.write_all(&header)?;
    let mut state = 1_u64;
    for _ in 0..end / 8 {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        // Four numbers: sign and mantissa by chance, the magnitude from 1/64 to 1/16.
        let numbers = (state ^ (state >> 29)) & 0x80FF_80FF_80FF_80FF | 0x3C80_3C80_3C80_3C80;
        file.write_all(&numbers.to_le_bytes())?;
    }
    file.flush()?;
    Ok(())
}

fn tensors() -> Vec<(String, Vec<usize>)> {
    let mut tensors = vec![
        ("model.embed_tokens.weight".to_owned(), vec![VOCAB, HIDDEN]),
        ("model.norm.weight".to_owned(), vec![HIDDEN]),
    ];
    for layer in 0..LAYERS {
        let mut add = |name: &str, shape: &[usize]| {
            tensors.push((
                format!("model.layers.{layer}.{name}.weight"),
                shape.to_vec(),
            ));
        };
        add("input_layernorm", &[HIDDEN]);
        add("post_attention_layernorm", &[HIDDEN]);
        add("self_attn.q_proj", &[HIDDEN, HIDDEN]);
        add("self_attn.k_proj", &[KV, HIDDEN]);
        add("self_attn.v_proj", &[KV, HIDDEN]);
        add("self_attn.o_proj", &[HIDDEN, HIDDEN]);
        add("mlp.gate_proj", &[INTERMEDIATE, HIDDEN]);
        add("mlp.up_proj", &[INTERMEDIATE, HIDDEN]);
        add("mlp.down_proj", &[HIDDEN, INTERMEDIATE]);
    }
    tensors
}
