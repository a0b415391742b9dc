//! `config.json`: every field that changes the shape or the arithmetic.

use plimsoll_kernels::rope::RopeScaling;
use plimsoll_planner::Architecture;
use serde_json::{Value, json};

use crate::model::ModelError;
use crate::model::config::{Config, parse};

fn llama() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 128, "vocab_size": 100,
        "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
        "eos_token_id": [2, 7], "bos_token_id": 1,
    })
}

/// The config with fields set (null removes a value as the format has it).
pub(super) fn with(changes: Value) -> Result<Config, ModelError> {
    let mut config = llama();
    for (field, value) in changes.as_object().unwrap() {
        config[field] = value.clone();
    }
    parse(config.to_string().as_bytes())
}

#[track_caller]
fn refused(changes: Value, reason: &str, expected: &str) {
    let error = with(changes).unwrap_err();
    assert_eq!(error.reason(), reason, "{error}");
    assert!(error.to_string().starts_with("config.json: "), "{error}");
    assert!(error.to_string().contains(expected), "{error}");
}

#[track_caller]
pub(super) fn invalid(changes: Value, expected: &str) {
    refused(changes, "ModelInvalid", expected);
}

#[track_caller]
pub(super) fn unsupported(changes: Value, expected: &str) {
    refused(changes, "UnsupportedArchitecture", expected);
}

#[test]
fn a_llama_is_read() {
    let config = with(json!({})).unwrap();
    let shape = &config.shape;
    assert_eq!(shape.architecture, Architecture::Llama);
    assert_eq!((shape.hidden, shape.head_dim, shape.group()), (64, 16, 2));
    assert!(!shape.tied && !shape.qkv_bias && !shape.output_bias && !shape.qk_norm);
    assert_eq!(config.params.rms_eps, 1e-5);
    assert_eq!(config.params.rope.theta, 500_000.0);
    assert_eq!(config.params.rope.scaling, RopeScaling::Default);
    assert_eq!((config.eos_ids, config.bos_id), (vec![2, 7], Some(1)));
    assert_eq!(config.params.sliding_window, None);
}

#[test]
fn defaults_are_those_of_transformers() {
    let config = with(json!({
        "num_key_value_heads": null, "rope_theta": null, "eos_token_id": 3, "bos_token_id": null, "head_dim": null, "sliding_window": null,
    }));
    let config = config.unwrap();
    assert_eq!(config.shape.kv_heads, 4);
    assert_eq!(config.params.rope.theta, 10_000.0);
    assert_eq!((config.eos_ids, config.bos_id), (vec![3], None));
}

#[test]
fn each_architecture_has_its_biases_and_norms() {
    let biases = |class: &str, attention: bool, mlp: bool| {
        let changes =
            json!({"architectures": [class], "attention_bias": attention, "mlp_bias": mlp});
        let shape = with(changes).unwrap().shape;
        (
            shape.qkv_bias,
            shape.output_bias,
            shape.mlp_bias,
            shape.qk_norm,
        )
    };
    assert_eq!(
        biases("LlamaForCausalLM", true, true),
        (true, true, true, false)
    );
    assert_eq!(
        biases("LlamaForCausalLM", false, false),
        (false, false, false, false)
    );
    assert_eq!(
        biases("MistralForCausalLM", false, false),
        (false, false, false, false)
    );
    assert_eq!(
        biases("Qwen2ForCausalLM", false, false),
        (true, false, false, false)
    );
    assert_eq!(
        biases("Qwen3ForCausalLM", false, false),
        (false, false, false, true)
    );
    assert_eq!(
        biases("Qwen3ForCausalLM", true, false),
        (true, true, false, true)
    );
}

#[test]
fn a_model_type_will_do_for_the_architecture() {
    let config = with(json!({"architectures": null, "model_type": "qwen3", "head_dim": 32}));
    let shape = config.unwrap().shape;
    assert_eq!(
        (shape.architecture, shape.head_dim),
        (Architecture::Qwen3, 32)
    );
}

#[test]
fn other_architectures_are_refused_by_name() {
    for class in [
        "MixtralForCausalLM",
        "GPT2LMHeadModel",
        "Qwen2MoeForCausalLM",
        "",
    ] {
        let expected = format!(
            "architecture `{class}` is not supported; supported: LlamaForCausalLM, \
             MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM"
        );
        unsupported(json!({"architectures": [class]}), &expected);
    }
}

#[test]
fn numbers_that_make_no_shape_are_refused() {
    for field in [
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "intermediate_size",
        "vocab_size",
        "max_position_embeddings",
        "head_dim",
    ] {
        invalid(json!({field: 0}), &format!("{field} is 0, expected 1 to"));
        invalid(
            json!({field: 1u64 << 40}),
            &format!("{field} is 1099511627776, expected 1 to"),
        );
        invalid(
            json!({field: -4}),
            &format!("{field} is -4, expected a whole number"),
        );
        invalid(
            json!({field: 2.5}),
            &format!("{field} is 2.5, expected a whole number"),
        );
        invalid(
            json!({field: "64"}),
            &format!("{field} is \"64\", expected a whole number"),
        );
        invalid(
            json!({field: u64::MAX}),
            &format!("{field} is 18446744073709551615"),
        );
    }
    for field in [
        "hidden_size",
        "num_hidden_layers",
        "vocab_size",
        "intermediate_size",
    ] {
        invalid(
            json!({field: null}),
            &format!("{field} is null, expected a whole number"),
        );
    }
}

#[test]
fn numbers_that_contradict_each_other_are_refused() {
    invalid(
        json!({"num_key_value_heads": 3}),
        "num_attention_heads is 4 and num_key_value_heads is 3; the second must divide the first",
    );
    invalid(
        json!({"num_key_value_heads": 8}),
        "is 4 and num_key_value_heads is 8",
    );
    invalid(
        json!({"hidden_size": 66}),
        "hidden_size is 66 and num_attention_heads is 4; without a head_dim",
    );
    invalid(
        json!({"head_dim": 15}),
        "head_dim is 15; expected an even number",
    );
    invalid(json!({"hidden_size": 60}), "head_dim is 15");
    invalid(json!({"hidden_size": 131_072}), "head_dim is 32768");
}

#[test]
fn fields_of_other_types_are_refused() {
    invalid(
        json!({"tie_word_embeddings": "yes"}),
        "tie_word_embeddings is \"yes\"",
    );
    invalid(json!({"rms_norm_eps": 0.0}), "rms_norm_eps is 0");
    invalid(json!({"rms_norm_eps": -1e-5}), "rms_norm_eps is");
    invalid(json!({"rope_theta": 0.0}), "rope_theta is 0");
    invalid(
        json!({"rope_theta": "big"}),
        "rope_theta is \"big\", expected a number",
    );
    invalid(json!({"eos_token_id": "two"}), "eos_token_id is \"two\"");
    invalid(json!({"eos_token_id": [1, -1]}), "eos_token_id is [1,-1]");
    invalid(json!({"eos_token_id": vec![1; 65]}), "a list of up to 64");
    invalid(
        json!({"rope_scaling": 3}),
        "rope_scaling is 3, expected an object",
    );
    let long = with(json!({"tie_word_embeddings": "x".repeat(10_000)})).unwrap_err();
    assert!(long.to_string().len() < 500);
}

#[test]
fn arithmetic_the_engine_lacks_is_refused() {
    unsupported(json!({"hidden_act": "gelu"}), "hidden_act `gelu`");
    unsupported(
        json!({"partial_rotary_factor": 0.5}),
        "partial_rotary_factor is 0.5",
    );
    for (field, value) in [
        ("frobnicate", json!(1)),
        ("embedding_multiplier", json!(12.0)),
        ("logits_scaling", json!(8)),
        ("dual_chunk_attention_config", json!({"chunk_size": 8192})),
    ] {
        unsupported(json!({field: value}), &format!("{field} is {value}"));
    }
    with(json!({"embedding_multiplier": 1.0, "frobnicate": null, "unsloth_version": "1"})).unwrap();
    unsupported(
        json!({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}),
        "rope_parameters.partial_rotary_factor is 0.5",
    );
}

#[test]
fn sliding_windows_follow_the_architecture() {
    let windows = |changes: Value| {
        let params = with(changes).unwrap().params;
        [params.window(0), params.window(1)]
    };
    let some = Some(24);
    let mistral =
        |window: Value| json!({"architectures": ["MistralForCausalLM"], "sliding_window": window});
    assert_eq!(windows(mistral(json!(24))), [some, some]);
    assert_eq!(windows(mistral(json!(null))), [None, None]);
    unsupported(
        json!({"sliding_window": 24}),
        "sliding_window is 24: no layer of a Llama has a window",
    );
    let absent = json!({"architectures": ["MistralForCausalLM"]});
    assert_eq!(windows(absent), [Some(4096); 2], "by default");
    let qwen2 = |more: Value| {
        let mut changes = json!({"architectures": ["Qwen2ForCausalLM"], "sliding_window": 24});
        for (field, value) in more.as_object().unwrap() {
            changes[field] = value.clone();
        }
        changes
    };
    assert_eq!(
        windows(qwen2(json!({"use_sliding_window": false}))),
        [None, None]
    );
    assert_eq!(
        windows(qwen2(json!({"use_sliding_window": true}))),
        [None, None]
    );
    let from_one = json!({"use_sliding_window": true, "max_window_layers": 1});
    assert_eq!(windows(qwen2(from_one)), [None, some]);
    let kinds =
        |a: &str, b: &str| qwen2(json!({"use_sliding_window": true, "layer_types": [a, b]}));
    assert_eq!(
        windows(kinds("full_attention", "sliding_attention")),
        [None, some]
    );
    assert_eq!(
        windows(kinds("full_attention", "full_attention")),
        [None, None]
    );
    unsupported(
        kinds("sliding_attention", "full_attention"),
        "`full_attention` after sliding",
    );
    unsupported(
        kinds("linear_attention", "full_attention"),
        "`linear_attention`",
    );
    let short = qwen2(json!({"use_sliding_window": true, "layer_types": ["full_attention"]}));
    invalid(short, "layer_types has 1 entries, num_hidden_layers is 2");
    invalid(mistral(json!(0)), "sliding_window is 0");
}

#[test]
fn files_that_are_no_config_are_refused() {
    for bytes in [&b""[..], b"{", b"[]", b"null", b"\xff", b"{\"a\": NaN}"] {
        let error = parse(bytes).unwrap_err();
        assert_eq!(error.reason(), "ModelInvalid", "{error}");
    }
    let deep = "[".repeat(100_000);
    assert!(parse(deep.as_bytes()).is_err());
}

proptest::proptest! {
    #[test]
    fn any_bytes_and_any_value_never_panic(
        bytes: Vec<u8>,
        field in proptest::sample::select(
            llama().as_object().unwrap().keys().cloned().collect::<Vec<_>>()
        ),
        number: i64,
    ) {
        let _ = parse(&bytes);
        let _ = with(json!({field: number}));
    }
}
