//! Rotary embedding in a `config.json`: which scaling, and how far it reaches.

use plimsoll_kernels::rope::RopeScaling;
use serde_json::{Value, json};

use super::config::{invalid, unsupported, with};

#[test]
fn rope_scalings_are_read() {
    let scaling = |field: &str, value: Value| with(json!({field: value})).unwrap().params.rope;
    let linear = RopeScaling::Linear { factor: 4.0 };
    assert_eq!(
        scaling("rope_scaling", json!({"type": "linear", "factor": 4.0})).scaling,
        linear
    );
    let llama3 = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    });
    let expected = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_context: 8192,
    };
    assert_eq!(scaling("rope_scaling", llama3).scaling, expected);
    assert_eq!(
        scaling("rope_scaling", json!({"rope_type": "default"})).scaling,
        RopeScaling::Default
    );
    // Newer versions of transformers keep theta beside the type.
    let rope = scaling(
        "rope_parameters",
        json!({"rope_type": "linear", "factor": 4, "rope_theta": 7.0}),
    );
    assert_eq!((rope.theta, rope.scaling), (7.0, linear));
}

#[test]
fn scalings_stretch_the_context_as_they_do_in_vllm() {
    let context = |scaling: Value| {
        with(json!({"rope_scaling": scaling}))
            .unwrap()
            .shape
            .context
    };
    assert_eq!(context(json!({"type": "linear", "factor": 4.0})), 2048);
    assert_eq!(context(json!({"type": "yarn", "factor": 4.0})), 2048);
    let yarn = json!({"type": "yarn", "factor": 2.5, "original_max_position_embeddings": 100});
    assert_eq!(context(yarn), 250);
    assert_eq!(
        context(json!({"type": "dynamic", "factor": 4.0})),
        512,
        "its own texts alone"
    );
    invalid(
        json!({"rope_scaling": {"type": "linear", "factor": 1e6}}),
        "reaches 512000000 tokens, at most 67108864",
    );
}

#[test]
fn rope_scalings_that_are_not_there_are_refused() {
    for kind in ["longrope", "su", "proportional", "mrope"] {
        let expected = format!(
            "rope type `{kind}` is not supported; supported: default, linear, dynamic, llama3, yarn"
        );
        unsupported(
            json!({"rope_scaling": {"rope_type": kind, "factor": 2.0}}),
            &expected,
        );
    }
    invalid(
        json!({"rope_scaling": {"type": "linear"}}),
        "rope_scaling.factor is missing",
    );
    invalid(
        json!({"rope_scaling": {"type": "linear", "factor": 0}}),
        "rope_scaling.factor is 0",
    );
    let equal =
        json!({"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4});
    invalid(
        json!({"rope_scaling": equal}),
        "high_freq_factor is 4 and low_freq_factor is 4",
    );
}
