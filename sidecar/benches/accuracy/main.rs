//! What each way of computing costs in accuracy: on a fixed text, how far the probabilities of the next
//! token are from those of Float32 on the same weights, and the text's perplexity.
//!
//! `cargo bench -p plimsoll-sidecar --bench accuracy -- MODEL` prints one table. Every token is predicted
//! from all before it.
#![expect(clippy::print_stdout, reason = "a table is what it makes")]

#[path = "../../tests/harness/mod.rs"]
mod harness;

use std::env;
use std::path::Path;
use std::sync::Arc;

use harness::{Answer, Run, ask, open, start};
use plimsoll_planner::{BlockCompute, Dtype, KvDtype};
use plimsoll_sidecar::model::Model;

const TEXT: &str = include_str!("text.txt");
/// Predictions that are asked for at once: their prompts have all but the last tokens in common.
const AT_ONCE: usize = 16;

/// How weights are computed, and what keys and values are kept in.
type How = (Dtype, BlockCompute, KvDtype);

const ROWS: [How; 10] = [
    (Dtype::Float32, BlockCompute::Exact, KvDtype::Float32),
    (Dtype::Float32, BlockCompute::Int16, KvDtype::Float32),
    (Dtype::Float32, BlockCompute::Int8, KvDtype::Float32),
    (Dtype::Float32, BlockCompute::Exact, KvDtype::BFloat16),
    (Dtype::Float32, BlockCompute::Exact, KvDtype::Int8),
    (Dtype::BFloat16, BlockCompute::Exact, KvDtype::BFloat16),
    (Dtype::BFloat16, BlockCompute::Exact, KvDtype::Int8),
    (Dtype::BFloat16, BlockCompute::Int16, KvDtype::BFloat16),
    (Dtype::BFloat16, BlockCompute::Int8, KvDtype::BFloat16),
    (Dtype::BFloat16, BlockCompute::Int8, KvDtype::Int8),
];

fn main() {
    let model = env::args().skip(1).find(|argument| argument != "--bench");
    let Some(model) = model else {
        println!("name a model: a GGUF file with weights in blocks, or a folder");
        std::process::exit(2);
    };
    let model = open(Path::new(&model));
    let tokenizer = model.tokenizer().expect("a tokenizer");
    let ids = tokenizer.encode(TEXT, true).expect("text");
    let formats: Vec<String> = (model.shape.blocks.formats().iter())
        .map(ToString::to_string)
        .collect();
    println!(
        "{} tokens; matrices in blocks: {}",
        ids.len(),
        formats.join(", ")
    );
    println!(
        "{:30} {:>11} {:>11} {:>9} {:>11}",
        "", "mean KL", "99% KL", "same top", "perplexity"
    );
    let mut reference = Vec::new();
    for (dtype, compute, kv_dtype) in ROWS {
        let predicted = predictions(&model, (dtype, compute, kv_dtype), &ids);
        if reference.is_empty() {
            reference.clone_from(&predicted);
        }
        let name = format!("{dtype}, {compute:?}, KV {kv_dtype}");
        println!("{name:30} {}", compared(&reference, &predicted, &ids));
    }
}

/// Log probabilities of the token after each prefix of the text.
fn predictions(model: &Arc<Model>, (dtype, compute, kv_dtype): How, ids: &[u32]) -> Vec<Vec<f64>> {
    let run = Run {
        dtype,
        kv_dtype,
        compute,
        max_model_len: u32::try_from(ids.len() + 1).expect("a short text"),
        threads: plimsoll_kernels::pool::available_cpus(),
        ..Run::whole(&model.shape)
    };
    let handle = start(model, &run);
    let ends: Vec<usize> = (1..ids.len()).collect();
    let mut all = Vec::new();
    for ends in ends.chunks(AT_ONCE) {
        let asked = ends
            .iter()
            .map(|end| ask(&handle, *end as u64, &ids[..*end], 1));
        let answers: Vec<Answer> = asked.collect();
        let answered = answers.into_iter().map(Answer::wait);
        all.extend(answered.map(|answer| log_softmax(&answer.logits[0])));
    }
    all
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let logits: Vec<f64> = logits.iter().map(|logit| f64::from(*logit)).collect();
    let most = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits.iter().map(|logit| (logit - most).exp()).sum();
    logits.iter().map(|logit| logit - most - sum.ln()).collect()
}

/// One row of the table.
fn compared(reference: &[Vec<f64>], predicted: &[Vec<f64>], ids: &[u32]) -> String {
    let mut divergences: Vec<f64> = Vec::new();
    let (mut same, mut surprise) = (0, 0.0);
    for ((p, q), id) in reference.iter().zip(predicted).zip(&ids[1..]) {
        let divergence = p.iter().zip(q).map(|(p, q)| p.exp() * (p - q)).sum();
        divergences.push(divergence);
        same += usize::from(top(p) == top(q));
        surprise -= q[*id as usize];
    }
    divergences.sort_by(f64::total_cmp);
    let count = divergences.len() as f64;
    format!(
        "{:>11.2e} {:>11.2e} {:>7.2} % {:>11.4}",
        divergences.iter().sum::<f64>() / count,
        divergences[divergences.len() * 99 / 100],
        same as f64 / count * 100.0,
        (surprise / count).exp()
    )
}

fn top(of: &[f64]) -> Option<usize> {
    (0..of.len()).max_by(|a, b| of[*a].total_cmp(&of[*b]))
}
