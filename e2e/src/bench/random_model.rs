//! Models of random BF16 weights in GGUF files: their text is noise, their speed and memory are real.
//!
//! The same bytes every time, so that figures can be compared.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::bench::gguf::{ALIGNMENT, Metadata, pad, text};
use crate::paths;
use crate::progress::Progress;

/// What a model is made of; its architecture is Qwen2's.
struct Shape {
    name: &'static str,
    layers: u32,
    hidden: u64,
    heads: u32,
    kv_heads: u32,
    mlp: u64,
    vocabulary: u64,
    /// How weights over `hidden` spread, and those over `mlp`: activations stay in range, and the blocks
    /// outweigh the tied input embedding.
    spread: f32,
    down: f32,
}

/// Qwen2.5-0.5B's: about 1 GB.
const HALF_B: Shape = Shape {
    name: "random-qwen2-0.5b-bf16.gguf",
    layers: 24,
    hidden: 896,
    heads: 14,
    kv_heads: 2,
    mlp: 4864,
    vocabulary: 151_936,
    spread: 0.033_4,
    down: 0.057_4,
};

/// Four layers of Llama 3.2 1B's: all its rows are whole blocks of 256 numbers.
const K_BLOCKS: Shape = Shape {
    name: "random-k-blocks-bf16.gguf",
    layers: 4,
    hidden: 2048,
    heads: 32,
    kv_heads: 8,
    mlp: 8192,
    vocabulary: 32_000,
    spread: 0.022_1,
    down: 0.044_2,
};

const HEAD_DIM: u64 = 64;
const CONTEXT: u32 = 32_768;
const SPECIAL: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

/// Types of the GGUF format.
const F32: u32 = 0;
const BF16: u32 = 30;

/// In the shape of Qwen2.5-0.5B.
pub(crate) fn ensure(progress: &Progress) -> Result<PathBuf> {
    HALF_B.ensure(progress)
}

/// In a shape that K blocks divide.
pub(crate) fn of_k_blocks(progress: &Progress) -> Result<PathBuf> {
    K_BLOCKS.ensure(progress)
}

impl Shape {
    /// The file in the cache; written when it is not there.
    fn ensure(&self, progress: &Progress) -> Result<PathBuf> {
        let name = self.name;
        let folder = paths::cache()?.join("models");
        let file = folder.join(name);
        if !file.is_file() {
            progress.step(&format!("write {name}"), || {
                fs::create_dir_all(&folder)?;
                let unfinished = folder.join(format!(".{name}-{}", std::process::id()));
                self.write(&unfinished)
                    .with_context(|| format!("cannot write {name}"))?;
                fs::rename(&unfinished, &file).map_err(Into::into)
            })?;
        }
        Ok(file)
    }

    fn tensors(&self) -> Vec<Tensor> {
        let query = u64::from(self.heads) * HEAD_DIM;
        let key = u64::from(self.kv_heads) * HEAD_DIM;
        let mut all = Vec::new();
        let mut add = |name: String, shape: &[u64], values: Values| {
            all.push(Tensor {
                name,
                shape: shape.to_vec(),
                values,
            });
        };
        add(
            "token_embd.weight".to_owned(),
            &[self.hidden, self.vocabulary],
            Values::Weights(2.0 * self.spread),
        );
        for layer in 0..self.layers {
            let name = |leaf: &str| format!("blk.{layer}.{leaf}");
            add(name("attn_norm.weight"), &[self.hidden], Values::Ones);
            for (leaf, rows, spread) in [
                ("attn_q", query, 2.0 * self.spread),
                ("attn_k", key, 2.0 * self.spread),
                ("attn_v", key, self.spread),
            ] {
                add(
                    name(&format!("{leaf}.weight")),
                    &[self.hidden, rows],
                    Values::Weights(spread),
                );
                add(name(&format!("{leaf}.bias")), &[rows], Values::Bias(0.02));
            }
            add(
                name("attn_output.weight"),
                &[query, self.hidden],
                Values::Weights(4.0 * self.spread),
            );
            add(name("ffn_norm.weight"), &[self.hidden], Values::Ones);
            add(
                name("ffn_gate.weight"),
                &[self.hidden, self.mlp],
                Values::Weights(self.spread),
            );
            add(
                name("ffn_up.weight"),
                &[self.hidden, self.mlp],
                Values::Weights(self.spread),
            );
            add(
                name("ffn_down.weight"),
                &[self.mlp, self.hidden],
                Values::Weights(self.down),
            );
        }
        add(
            "output_norm.weight".to_owned(),
            &[self.hidden],
            Values::Ones,
        );
        all
    }

    fn write(&self, path: &Path) -> Result<()> {
        let tensors = self.tensors();
        let mut head = Vec::new();
        head.extend(b"GGUF");
        head.extend(3_u32.to_le_bytes());
        head.extend((tensors.len() as u64).to_le_bytes());
        let metadata = self.metadata()?;
        head.extend(metadata.count.to_le_bytes());
        head.extend(metadata.bytes);
        let mut offset = 0_u64;
        for tensor in &tensors {
            text(&mut head, &tensor.name);
            head.extend(u32::try_from(tensor.shape.len())?.to_le_bytes());
            for dimension in &tensor.shape {
                head.extend(dimension.to_le_bytes());
            }
            head.extend(tensor.kind().to_le_bytes());
            head.extend(offset.to_le_bytes());
            offset = (offset + tensor.bytes()).next_multiple_of(ALIGNMENT);
        }
        let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
        pad(&mut head);
        file.write_all(&head)?;
        let mut random = Random(0x5EED);
        for tensor in &tensors {
            let mut body = Vec::with_capacity(usize::try_from(tensor.bytes())?);
            for _ in 0..tensor.elements() {
                match tensor.values {
                    Values::Ones => body.extend(1.0_f32.to_le_bytes()),
                    Values::Bias(spread) => body.extend((random.normal() * spread).to_le_bytes()),
                    Values::Weights(spread) => {
                        let [_, _, low, high] = (random.normal() * spread).to_le_bytes();
                        body.extend([low, high]);
                    }
                }
            }
            pad(&mut body);
            file.write_all(&body)?;
        }
        file.flush().map_err(Into::into)
    }

    fn metadata(&self) -> Result<Metadata> {
        let mut all = Metadata::default();
        let (tokens, merges) = self.vocabulary();
        let (normal, control) = (1, 3);
        let kinds: Vec<u32> = (0..tokens.len())
            .map(|index| {
                if index + SPECIAL.len() < tokens.len() {
                    normal
                } else {
                    control
                }
            })
            .collect();
        let last = u32::try_from(tokens.len() - 1)?;
        all.string("general.architecture", "qwen2");
        all.string("general.name", "random");
        all.number("general.file_type", 32);
        all.number("qwen2.context_length", CONTEXT);
        all.number("qwen2.embedding_length", u32::try_from(self.hidden)?);
        all.number("qwen2.block_count", self.layers);
        all.number("qwen2.feed_forward_length", u32::try_from(self.mlp)?);
        all.number("qwen2.attention.head_count", self.heads);
        all.number("qwen2.attention.head_count_kv", self.kv_heads);
        all.float("qwen2.attention.layer_norm_rms_epsilon", 1e-6);
        all.float("qwen2.rope.freq_base", 1e6);
        all.string("tokenizer.ggml.model", "gpt2");
        all.string("tokenizer.ggml.pre", "qwen2");
        all.strings("tokenizer.ggml.tokens", &tokens);
        all.numbers("tokenizer.ggml.token_type", &kinds);
        all.strings("tokenizer.ggml.merges", &merges);
        all.number("tokenizer.ggml.bos_token_id", last - 2);
        all.number("tokenizer.ggml.eos_token_id", last);
        Ok(all)
    }

    /// 256 byte tokens, then every string over a..z of length 2, 3, 4 …, one merge each, then the
    /// special ones.
    fn vocabulary(&self) -> (Vec<String>, Vec<String>) {
        let wanted = usize::try_from(self.vocabulary).unwrap_or(usize::MAX) - SPECIAL.len();
        let mut tokens: Vec<String> = byte_names().map(String::from).collect();
        let mut merges = Vec::new();
        let letters: Vec<String> = ('a'..='z').map(String::from).collect();
        let mut level = letters.clone();
        while tokens.len() < wanted {
            let mut next = Vec::new();
            'level: for prefix in &level {
                for letter in &letters {
                    if tokens.len() == wanted {
                        break 'level;
                    }
                    tokens.push(format!("{prefix}{letter}"));
                    merges.push(format!("{prefix} {letter}"));
                    next.push(format!("{prefix}{letter}"));
                }
            }
            level = next;
        }
        tokens.extend(SPECIAL.map(str::to_owned));
        (tokens, merges)
    }
}

/// One tensor: its name, its shape with the fastest dimension first, how its values spread.
struct Tensor {
    name: String,
    shape: Vec<u64>,
    values: Values,
}

#[derive(Clone, Copy)]
enum Values {
    /// f32 ones.
    Ones,
    /// f32, spread as given.
    Bias(f32),
    /// bf16, spread as given.
    Weights(f32),
}

impl Tensor {
    fn elements(&self) -> u64 {
        self.shape.iter().product()
    }

    fn bytes(&self) -> u64 {
        match self.values {
            Values::Ones | Values::Bias(_) => self.elements() * 4,
            Values::Weights(_) => self.elements() * 2,
        }
    }

    fn kind(&self) -> u32 {
        match self.values {
            Values::Ones | Values::Bias(_) => F32,
            Values::Weights(_) => BF16,
        }
    }
}

/// The printable characters that stand for the 256 bytes in byte-level vocabularies.
fn byte_names() -> impl Iterator<Item = char> {
    let printable = |byte: &u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let others = (0..256_u32).filter(move |byte| !printable(byte)).count();
    let shifted = (0..others).filter_map(|index| char::from_u32(256 + u32::try_from(index).ok()?));
    (0..256_u32)
        .filter(printable)
        .filter_map(char::from_u32)
        .chain(shifted)
}

/// xorshift64*, and a normal distribution as the sum of four uniform ones.
struct Random(u64);

impl Random {
    fn normal(&mut self) -> f32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let bits = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D);
        let parts = [0, 16, 32, 48]
            .map(|shift| f32::from(u16::try_from((bits >> shift) & 0xFFFF).unwrap_or(0)));
        // Four uniform variables on 0..1 sum to mean 2 and variance 1/3.
        (parts.iter().sum::<f32>() / 65_536.0 - 2.0) * 1.732
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vocabulary_is_whole_and_every_merge_makes_a_token() {
        let (tokens, merges) = HALF_B.vocabulary();
        assert_eq!(tokens.len() as u64, HALF_B.vocabulary);
        let all: std::collections::HashSet<&String> = tokens.iter().collect();
        assert_eq!(all.len(), tokens.len());
        assert!(
            merges
                .iter()
                .all(|merge| all.contains(&merge.replace(' ', "")))
        );
    }

    #[test]
    fn random_numbers_are_centred_and_of_unit_spread() {
        let mut random = Random(1);
        let values: Vec<f32> = (0..100_000).map(|_| random.normal()).collect();
        let mean = values.iter().sum::<f32>() / 1e5;
        let variance = values.iter().map(|value| value * value).sum::<f32>() / 1e5;
        assert!(mean.abs() < 0.02, "{mean}");
        assert!((variance - 1.0).abs() < 0.02, "{variance}");
    }
}
