//! GGUF files, opened whole.

use plimsoll_kernels::rope::RopeScaling;
use plimsoll_planner::Architecture;

use crate::model::{Model, ModelFolder, ModelSampling, SamplingDefaults};
use crate::weights::testing::{Gguf, TempFolder};

const TOKENS: [&str; 7] = ["<end>", "<start>", "a", "b", "ab", "Ġ", "0"];

/// The metadata of a tiny model: one layer, hidden 8, two heads of 4, one KV head.
pub(super) fn metadata(architecture: &str, pre: &str) -> Gguf {
    let key = |name: &str| format!("{architecture}.{name}");
    Gguf::new()
        .text("general.architecture", architecture)
        .number(&key("block_count"), 1)
        .number(&key("context_length"), 64)
        .number(&key("embedding_length"), 8)
        .number(&key("feed_forward_length"), 16)
        .number(&key("attention.head_count"), 2)
        .number(&key("attention.head_count_kv"), 1)
        .float(&key("attention.layer_norm_rms_epsilon"), 1e-5)
        .float(&key("rope.freq_base"), 5e5)
        .text("tokenizer.ggml.model", "gpt2")
        .text("tokenizer.ggml.pre", pre)
        .texts("tokenizer.ggml.tokens", &TOKENS)
        .numbers("tokenizer.ggml.token_type", &[3, 3, 1, 1, 1, 1, 1])
        .texts("tokenizer.ggml.merges", &["a b"])
        .number("tokenizer.ggml.bos_token_id", 1)
        .number("tokenizer.ggml.eos_token_id", 0)
        .text("tokenizer.chat_template", "{{ messages[0].content }}")
}

pub(super) fn tensors(gguf: Gguf) -> Gguf {
    gguf.tensor("token_embd.weight", &[7, 8])
        .tensor("blk.0.attn_norm.weight", &[8])
        .tensor("blk.0.attn_q.weight", &[8, 8])
        .tensor("blk.0.attn_k.weight", &[4, 8])
        .tensor("blk.0.attn_v.weight", &[4, 8])
        .tensor("blk.0.attn_output.weight", &[8, 8])
        .tensor("blk.0.ffn_norm.weight", &[8])
        .tensor("blk.0.ffn_gate.weight", &[16, 8])
        .tensor("blk.0.ffn_up.weight", &[16, 8])
        .tensor("blk.0.ffn_down.weight", &[8, 16])
        .tensor("output_norm.weight", &[8])
}

pub(super) fn llama() -> Gguf {
    tensors(metadata("llama", "smollm"))
}

pub(super) fn open(gguf: &Gguf) -> Result<Model, String> {
    let folder = TempFolder::new();
    let path = folder.write("model.gguf", gguf.bytes());
    ModelFolder::open(&path).map_err(|e| format!("{}: {e}", e.reason()))
}

#[track_caller]
pub(super) fn refused(gguf: &Gguf, reason: &str, expected: &str) {
    let message = open(gguf).unwrap_err();
    assert!(
        message.starts_with(&format!("{reason}: model.gguf: ")),
        "{message}"
    );
    assert!(message.contains(expected), "{message}");
}

#[test]
fn a_llama_is_read() {
    let model = open(&llama()).unwrap();
    assert_eq!(model.shape.architecture, Architecture::Llama);
    assert_eq!(
        (model.shape.vocab, model.shape.head_dim, model.shape.tied),
        (7, 4, true)
    );
    assert_eq!((model.params.rms_eps, model.params.rope.theta), (1e-5, 5e5));
    assert_eq!((model.eos_ids.clone(), model.bos_id), (vec![0], Some(1)));
    assert_eq!(model.special_tokens.get("bos_token"), Some("<start>"));
    assert_eq!(
        model.chat_templates.clone(),
        Some("{{ messages[0].content }}".to_owned().into())
    );
    let tokenizer = model.tokenizer().unwrap();
    assert_eq!(
        tokenizer.encode("<start>abb 0", true).unwrap(),
        [1, 4, 3, 5, 6]
    );
}

#[test]
fn sampling_defaults_come_from_the_metadata() {
    assert_eq!(open(&llama()).unwrap().sampling, ModelSampling::default());
    let key = |name: &str| format!("general.sampling.{name}");
    let gguf = llama()
        .float(&key("temp"), 0.5)
        .number(&key("top_k"), 5)
        .float(&key("top_p"), f32::NAN)
        .text(&key("min_p"), "0.1")
        .float(&key("penalty_repeat"), 1.5);
    let sampling = open(&gguf).unwrap().sampling;
    let expected = SamplingDefaults {
        temperature: Some(0.5),
        top_k: Some(5),
        repetition_penalty: Some(1.5),
        ..SamplingDefaults::default()
    };
    assert_eq!(sampling.defaults, expected);
    let told = [
        "model.gguf: general.sampling.top_p is NaN, expected a number above 0, up to 1",
        "model.gguf: general.sampling.min_p is \"0.1\", expected a number from 0 to 1",
    ];
    assert_eq!(sampling.ignored, told);
}

#[test]
fn q_rows_of_llama_are_put_back_and_of_qwen_are_not() {
    let first_column = |model: &Model| {
        let mut out = [0.0; 8];
        let name = "model.layers.0.self_attn.q_proj.weight";
        model
            .tensors
            .read_block(name, 0..8, 0..1, &mut out)
            .unwrap();
        out.map(|x| x / 8.0)
    };
    let llama = open(&llama()).unwrap();
    assert_eq!(
        first_column(&llama),
        [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]
    );
    let biases = |gguf: Gguf| {
        gguf.tensor("blk.0.attn_q.bias", &[8])
            .tensor("blk.0.attn_k.bias", &[4])
            .tensor("blk.0.attn_v.bias", &[4])
    };
    let qwen2 = open(&biases(tensors(metadata("qwen2", "qwen2")))).unwrap();
    assert!(qwen2.shape.qkv_bias && !qwen2.shape.output_bias);
    assert_eq!(
        first_column(&qwen2),
        [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    );
}

#[test]
fn qwen3_has_norms_and_a_head_size_of_its_own() {
    let gguf = metadata("qwen3", "qwen2")
        .number("qwen3.attention.key_length", 4)
        .number("qwen3.attention.value_length", 4);
    let gguf = tensors(gguf)
        .tensor("blk.0.attn_q_norm.weight", &[4])
        .tensor("blk.0.attn_k_norm.weight", &[4])
        .tensor("output.weight", &[7, 8]);
    let shape = open(&gguf).unwrap().shape;
    assert_eq!(shape.architecture, Architecture::Qwen3);
    assert!(shape.qk_norm && !shape.tied);
}

#[test]
fn llama3_scaling_is_recognised_in_its_divisors() {
    // For theta 5e5 and heads of 4: pair 0 turns often enough to be kept, pair 1 is divided.
    let with = |divisors: [f32; 2]| {
        let bytes: Vec<u8> = divisors.iter().flat_map(|d| d.to_le_bytes()).collect();
        open(&llama().tensor_of("rope_freqs.weight", &[2], 0, &bytes))
    };
    // 8192 / (2 pi) / sqrt(5e5) = 1.8438 turns: a part (1.8438 - 1) / 3 is kept.
    let kept = (8192.0 / std::f64::consts::TAU / 5e5f64.sqrt() - 1.0) / 3.0;
    let between = 1.0 / ((1.0 - kept) / 32.0 + kept);
    // The largest divisor is taken for the factor, so one pair of a larger head must show it:
    // here none does, and the file is refused rather than misread.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a divisor as files have it"
    )]
    let between = between as f32;
    let message = with([1.0, between]).unwrap_err();
    assert!(
        message.contains("such a rope type is not supported"),
        "{message}"
    );
    assert_eq!(with([1.0, 1.0]).unwrap().params.rope.scaling, llama3(1.0));
    // With a larger theta pair 1 turns less than once: it is divided by the whole factor.
    let mut gguf = metadata("llama", "smollm");
    gguf.pairs
        .retain(|pair| !pair[8..].starts_with(b"llama.rope.freq_base"));
    let bytes = [1f32.to_le_bytes(), 32f32.to_le_bytes()].concat();
    let gguf = tensors(gguf.float("llama.rope.freq_base", 5e8));
    let model = open(&gguf.tensor_of("rope_freqs.weight", &[2], 0, &bytes)).unwrap();
    assert_eq!(model.params.rope.scaling, llama3(32.0));
}

fn llama3(factor: f64) -> RopeScaling {
    RopeScaling::Llama3 {
        factor,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_context: 8192,
    }
}

#[test]
fn rope_scaling_in_the_metadata() {
    let scaled = |kind: &str| metadata("llama", "smollm").text("llama.rope.scaling.type", kind);
    let linear = tensors(scaled("linear").float("llama.rope.scaling.factor", 2.0));
    let expected = RopeScaling::Linear { factor: 2.0 };
    assert_eq!(open(&linear).unwrap().params.rope.scaling, expected);
    let yarn = |gguf: Gguf| tensors(gguf.float("llama.rope.scaling.factor", 4.0));
    let model = open(&yarn(scaled("yarn"))).unwrap();
    let expected = RopeScaling::Yarn {
        factor: 4.0,
        original_context: 64,
        beta_fast: 32.0,
        beta_slow: 1.0,
        attention_factor: 0.1 * 4f64.ln() + 1.0,
        truncate: true,
    };
    assert_eq!(
        (model.params.rope.scaling, model.shape.context),
        (expected, 256)
    );
    let stretched = scaled("yarn").float("llama.rope.scaling.yarn_ext_factor", 0.5);
    refused(
        &yarn(stretched),
        "UnsupportedArchitecture",
        "`llama.rope.scaling.yarn_ext_factor` is 0.5",
    );
    refused(
        &tensors(scaled("longrope")),
        "UnsupportedArchitecture",
        "rope scaling `longrope`",
    );
    // As llama.cpp: a factor alone is linear, under its old name too.
    for key in ["rope.scaling.factor", "rope.scale_linear"] {
        let gguf = metadata("llama", "smollm").float(&format!("llama.{key}"), 2.0);
        let model = open(&tensors(gguf)).unwrap();
        let linear = RopeScaling::Linear { factor: 2.0 };
        assert_eq!(
            (model.params.rope.scaling, model.shape.context),
            (linear, 128),
            "{key}"
        );
    }
    let both = scaled("linear").float("llama.rope.scaling.factor", 2.0);
    refused(
        &tensors(both.float("llama.rope.scale_linear", 4.0)),
        "ModelInvalid",
        "`llama.rope.scaling.factor` is 2 and `llama.rope.scale_linear` is 4",
    );
    let none = scaled("none").float("llama.rope.scaling.factor", 2.0);
    let model = open(&tensors(none)).unwrap();
    assert_eq!(model.params.rope.scaling, RopeScaling::Default);
    refused(
        &tensors(scaled("linear")),
        "ModelInvalid",
        "`llama.rope.scaling.factor` is missing",
    );
}

#[test]
fn other_architectures_are_refused_by_name() {
    for name in ["gemma3", "phi3", "qwen2moe", "mamba"] {
        let gguf = Gguf::new().text("general.architecture", name);
        let expected =
            format!("architecture `{name}` is not supported; supported: llama, qwen2, qwen3");
        refused(&gguf, "UnsupportedArchitecture", &expected);
    }
    let experts = tensors(metadata("llama", "smollm").number("llama.expert_count", 8));
    refused(&experts, "UnsupportedArchitecture", "mixtures of experts");
}

#[test]
fn metadata_that_contradict_are_refused() {
    let with = |key: &str, number: u32| tensors(metadata("llama", "smollm").number(key, number));
    refused(
        &with("llama.vocab_size", 8),
        "ModelInvalid",
        "`llama.vocab_size` is 8, tensor",
    );
    let rotary = with("llama.rope.dimension_count", 2);
    refused(
        &rotary,
        "UnsupportedArchitecture",
        "is 2; supported: the head's 4",
    );
    let values = with("llama.attention.value_length", 8);
    refused(
        &values,
        "UnsupportedArchitecture",
        "is 8; supported: the head's 4",
    );
    refused(&with("split.count", 3), "ModelInvalid", "is part 1 of 3");
    let old = with("general.quantization_version", 1);
    refused(
        &old,
        "UnsupportedFormat",
        "`general.quantization_version` is 1",
    );
    let bias = llama().tensor("blk.0.attn_k.bias", &[4]);
    let message = open(&bias).unwrap_err();
    assert!(
        message.contains("`model.layers.0.self_attn.k_proj.bias` has no place"),
        "{message}"
    );
    let second = llama().tensor("blk.1.attn_norm.weight", &[8]);
    assert!(open(&second).unwrap_err().contains("has no place"));
}

#[test]
fn keys_that_nobody_knows_are_refused() {
    let with = |key: &str, number: f32| tensors(metadata("llama", "smollm").float(key, number));
    for key in ["logit_scale", "attention.scale", "attention.sliding_window"] {
        let key = format!("llama.{key}");
        refused(
            &with(&key, 4.0),
            "UnsupportedArchitecture",
            &format!("metadata `{key}` is not known here"),
        );
    }
    open(&with("llama.attention.sliding_window", 0.0)).unwrap();
    open(&with("general.some_note", 4.0)).unwrap();
}

#[test]
fn zero_and_absurd_numbers_are_refused() {
    for (key, number) in [
        ("block_count", 0),
        ("block_count", u32::MAX),
        ("context_length", 0),
    ] {
        let key = format!("llama.{key}");
        let gguf = tensors(
            [("block_count", 1), ("context_length", 64)].iter().fold(
                Gguf::new()
                    .text("general.architecture", "llama")
                    .number("llama.embedding_length", 8)
                    .number("llama.feed_forward_length", 16)
                    .number("llama.attention.head_count", 2),
                |gguf, (name, good)| {
                    let name = format!("llama.{name}");
                    let value = if name == key { number } else { *good };
                    gguf.number(&name, value)
                },
            ),
        );
        refused(
            &gguf,
            "ModelInvalid",
            &format!("{key} is {number}, expected 1 to"),
        );
    }
    let missing = tensors(Gguf::new().text("general.architecture", "llama"));
    refused(
        &missing,
        "ModelInvalid",
        "metadata `llama.attention.head_count` is missing",
    );
}
