//! What a config says of positions, end to end against transformers (`make_positions.py`): YaRN as
//! Qwen2.5's cards have it, linear, llama3 and dynamic scaling, windows that are written and one that
//! is Mistral's by default, each with prompts beyond what it was made for. And a GGUF file of mixed
//! types against the numbers that the gguf package reads out of it.
//!
//! Float32 weights and KV: logits agree within 1e-4 of their scale, greedy ids are the same.
#![allow(clippy::unwrap_used, reason = "a broken fixture ends the test")]
#![allow(clippy::cast_possible_truncation, reason = "fixtures are small")]

mod harness;

use std::ops::Range;

use harness::fixture::Fixture;
use harness::{Run, fixtures, start};
use plimsoll_kernels::rope::RopeScaling;
use plimsoll_planner::Shard;

fn fixture(name: &str, file: &str) -> Fixture {
    Fixture::open(&fixtures().join("positions").join(name), file)
}

fn check(fixture: &Fixture, run: &Run) {
    let what = format!("{} ranks", run.shards.len());
    fixture.check_alone(&start(&fixture.model, run), &what);
}

/// Whole at once, and in small chunks that share no step with their window.
fn check_all(fixture: &Fixture) {
    let whole = Run::whole(&fixture.model.shape);
    check(fixture, &whole);
    let chunked = Run {
        max_num_batched_tokens: 7,
        block_size: 4,
        kv_blocks: 400,
        ..whole
    };
    check(fixture, &chunked);
}

fn longest(fixture: &Fixture) -> usize {
    let lengths = fixture.prompts.iter().map(|p| p.ids.len() + p.greedy.len());
    lengths.max().unwrap()
}

#[test]
fn scaled_rotary_embeddings_are_those_of_transformers_beyond_their_training() {
    for (name, trained) in [
        ("yarn-qwen2", 32),
        ("linear-llama", 64),
        ("llama3-llama", 32),
        ("dynamic-llama", 160),
    ] {
        let fixture = fixture(name, "");
        let scaling = &fixture.model.params.rope.scaling;
        let is_it = match name {
            "yarn-qwen2" => matches!(scaling, RopeScaling::Yarn { .. }),
            "linear-llama" => matches!(scaling, RopeScaling::Linear { .. }),
            "llama3-llama" => matches!(scaling, RopeScaling::Llama3 { .. }),
            _ => matches!(scaling, RopeScaling::Default),
        };
        assert!(is_it, "{name}: {scaling:?}");
        assert!(
            name == "dynamic-llama" || longest(&fixture) > trained,
            "{name}"
        );
        check_all(&fixture);
    }
}

#[test]
fn a_window_smaller_than_the_prompt_is_a_window() {
    let fixture = fixture("window-mistral", "");
    assert_eq!(fixture.model.params.sliding_window, Some(20));
    assert!(longest(&fixture) > 3 * 20);
    check_all(&fixture);
}

#[test]
fn mistrals_default_window_counts_where_its_config_says_none() {
    let fixture = fixture("silent-window-mistral", "");
    assert_eq!(fixture.model.params.sliding_window, Some(4096));
    assert!(longest(&fixture) > 4096);
    let run = Run {
        max_model_len: 4400,
        kv_blocks: 300,
        max_num_batched_tokens: 512,
        ..Run::whole(&fixture.model.shape)
    };
    check(&fixture, &run);
}

#[test]
fn a_gguf_file_of_mixed_types_computes_with_the_numbers_in_it() {
    let fixture = fixture("mixed-gguf", "model.gguf");
    let kind = |name: &str| fixture.model.tensors.info(name).unwrap().dtype.clone();
    assert_eq!(kind("model.embed_tokens.weight"), "Q4_0");
    assert_eq!(kind("model.layers.0.mlp.down_proj.weight"), "Q4_0");
    assert_eq!(kind("model.norm.weight"), "F32");
    assert_eq!(kind("lm_head.weight"), "Q6_K");
    check_all(&fixture);
    let shape = &fixture.model.shape;
    assert_eq!((shape.vocab, shape.group()), (275, 2));
    let half = |kv_heads: Range<u32>, mlp_columns, vocab_rows| Shard {
        query_heads: kv_heads.start * 2..kv_heads.end * 2,
        kv_heads,
        mlp_columns,
        vocab_rows,
    };
    let split = Run {
        shards: vec![half(0..1, 0..128, 0..128), half(1..2, 128..256, 128..275)],
        ..Run::whole(shape)
    };
    check(&fixture, &split);
}
