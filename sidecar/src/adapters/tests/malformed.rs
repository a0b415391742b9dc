//! What is no adapter of its base is refused, with the adapter's name and what is wrong with it.

use serde_json::json;

use super::edited::Edited;
use super::{AdapterPath, open};

/// Adapter, its base, what is done to it, and the words that must be said.
type Row = (
    &'static str,
    &'static str,
    fn(&mut Edited),
    &'static [&'static str],
);

const PLAIN: &str = "plain";
const LLAMA: &str = "tiny-llama";
const A: &str = "model.layers.0.self_attn.q_proj.lora_A.weight";
const B: &str = "model.layers.0.self_attn.q_proj.lora_B.weight";

const TOKENS: &str = "model.embed_tokens.token_adapter.trainable_tokens_delta";

fn nan(adapter: &mut Edited, key: &str, number: f32) {
    let bytes = &mut adapter.tensor(key).bytes;
    let last = bytes.len() - 4;
    bytes[last..].copy_from_slice(&number.to_le_bytes());
}

const TENSORS: &[Row] = &[
    (
        PLAIN,
        LLAMA,
        |a| drop(a.remove(A)),
        &["model.layers.0.self_attn.q_proj.lora_A.weight is missing"],
    ),
    (
        PLAIN,
        LLAMA,
        |a| drop(a.remove(B)),
        &["model.layers.0.self_attn.q_proj.lora_B.weight is missing"],
    ),
    (
        PLAIN,
        LLAMA,
        |a| drop((a.remove(A), a.remove(B))),
        &["no matrices for model.layers.0.self_attn.q_proj, which the config targets"],
    ),
    (
        PLAIN,
        LLAMA,
        |a| a.add(A, &[2, 65]),
        &["q_proj.lora_A.weight is [2, 65]", "[2, 64]"],
    ),
    (
        PLAIN,
        LLAMA,
        |a| a.add(B, &[96, 2]),
        &["q_proj.lora_B.weight is [96, 2]", "[64, 2]"],
    ),
    (
        PLAIN,
        LLAMA,
        |a| a.add(A, &[128]),
        &["q_proj.lora_A.weight is [128]"],
    ),
    // Of a model with other dimensions.
    (
        PLAIN,
        "tiny-llama-9-3",
        |_| {},
        &[
            "down_proj.lora_B.weight is [64, 2]",
            "[72, 2]",
            "another base",
        ],
    ),
    (
        PLAIN,
        LLAMA,
        |a| nan(a, A, f32::NAN),
        &["lora_A.weight`: number 127 is NaN"],
    ),
    (
        PLAIN,
        LLAMA,
        |a| nan(a, B, f32::INFINITY),
        &["lora_B.weight`: number 127 is inf"],
    ),
    (
        PLAIN,
        LLAMA,
        |a| nan(a, B, f32::NEG_INFINITY),
        &["number 127 is -inf"],
    ),
    (
        PLAIN,
        LLAMA,
        |a| a.tensor(A).dtype = "I32".into(),
        &["lora_A.weight`: is I32; read are F32, F16, BF16"],
    ),
    (
        PLAIN,
        LLAMA,
        |a| a.add("model.layers.9.self_attn.q_proj.lora_A.weight", &[2, 64]),
        &["matrices for model.layers.9.self_attn.q_proj, which the base does not have"],
    ),
    (
        PLAIN,
        LLAMA,
        |a| a.add("model.layers.0.input_layernorm.lora_A.weight", &[2, 64]),
        &["model.layers.0.input_layernorm, which the base does not have"],
    ),
    (
        PLAIN,
        LLAMA,
        |a| a.add("model.layers.0.self_attn.q_proj.lora_C.weight", &[1]),
        &["lora_C", "no part"],
    ),
    (
        PLAIN,
        LLAMA,
        |a| a.add("model.layers.0.self_attn.q_proj.lora_A.other.weight", &[1]),
        &["lora_A.other"],
    ),
    (
        PLAIN,
        LLAMA,
        |a| {
            a.add(
                "model.layers.0.self_attn.q_proj.lora_A.default.weight",
                &[2, 64],
            )
        },
        &["lora_A.default.weight", "the same part"],
    ),
    (
        PLAIN,
        LLAMA,
        |a| {
            let tensor = a.remove(A);
            a.tensors.insert(format!("model.{A}"), tensor);
        },
        &["does not begin with `base_model.model.`"],
    ),
    (
        PLAIN,
        LLAMA,
        |a| a.add(TOKENS, &[1, 64]),
        &["has trained tokens, and trainable_token_indices names none"],
    ),
    (
        "tokens",
        LLAMA,
        |a| drop(a.remove(TOKENS)),
        &["has no model.embed_tokens.token_adapter.trainable_tokens_delta"],
    ),
    (
        "tokens",
        LLAMA,
        |a| a.add(TOKENS, &[2, 64]),
        &["trained tokens are [2, 64]", "[3, 64]"],
    ),
    (
        "tokens",
        LLAMA,
        |a| a.set("trainable_token_indices", json!([5, 515, 7])),
        &["token 515 is not below the base's 515"],
    ),
    (
        "tokens",
        LLAMA,
        |a| {
            a.set(
                "trainable_token_indices",
                json!({"embed_tokens": [5, 6, 5]}),
            )
        },
        &["token 5 is trained twice"],
    ),
    (
        "tokens",
        LLAMA,
        |a| a.add("lm_head.token_adapter.trainable_tokens_delta", &[3, 64]),
        &["has trained tokens of lm_head"],
    ),
    (
        PLAIN,
        LLAMA,
        |a| {
            a.add(
                "model.layers.0.self_attn.q_proj.lora_magnitude_vector",
                &[64],
            )
        },
        &["q_proj.lora_magnitude_vector is there", "asks for none"],
    ),
    (
        PLAIN,
        LLAMA,
        |a| a.add("model.layers.0.self_attn.q_proj.lora_B.bias", &[64]),
        &["q_proj.lora_B.bias is there"],
    ),
    (
        PLAIN,
        LLAMA,
        |a| a.add("model.norm.weight", &[64]),
        &["has model.norm.weight, which modules_to_save does not name"],
    ),
    (
        PLAIN,
        LLAMA,
        |a| a.add("score.weight", &[2, 64]),
        &["has score.weight, which the base does not have"],
    ),
    (
        PLAIN,
        LLAMA,
        |a| {
            a.tensors
                .retain(|key, _| key.contains("layers.0.self_attn.q_proj"))
        },
        &["no matrices for", "and 10 more"],
    ),
    (
        PLAIN,
        LLAMA,
        |a| {
            let zeros = a
                .tensors
                .iter_mut()
                .filter(|(key, _)| key.contains("lora_B"));
            zeros.for_each(|(_, tensor)| tensor.bytes.fill(0));
        },
        &["every lora_B is zero, so it changes nothing"],
    ),
    (
        PLAIN,
        LLAMA,
        |a| {
            let zeros = a
                .tensors
                .iter_mut()
                .filter(|(key, _)| key.contains("lora_A"));
            zeros.for_each(|(_, tensor)| tensor.bytes.fill(0));
        },
        &["every lora_A is zero, so it changes nothing"],
    ),
    // A in one half, B in the other.
    (
        PLAIN,
        LLAMA,
        |a| {
            let zeros = a.tensors.iter_mut().filter(|(key, _)| {
                let part = if key.contains("layers.0") {
                    "lora_A"
                } else {
                    "lora_B"
                };
                key.contains(part)
            });
            zeros.for_each(|(_, tensor)| tensor.bytes.fill(0));
        },
        &["of each module the scale, lora_A or lora_B is zero, so it changes nothing"],
    ),
    (
        PLAIN,
        LLAMA,
        |a| a.set("lora_alpha", json!(0)),
        &["adapter_config.json: lora_alpha and alpha_pattern make every scale zero"],
    ),
    (
        PLAIN,
        LLAMA,
        |a| a.set("alpha_pattern", json!({".*": 0})),
        &["lora_alpha and alpha_pattern make every scale zero"],
    ),
    (
        "dora",
        "tiny-llama-9-3",
        |a| drop(a.remove("model.layers.1.mlp.up_proj.lora_magnitude_vector")),
        &["model.layers.1.mlp.up_proj.lora_magnitude_vector is missing"],
    ),
    (
        "dora",
        "tiny-llama-9-3",
        |a| a.add("model.layers.1.mlp.up_proj.lora_magnitude_vector", &[351]),
        &["lora_magnitude_vector is [351]", "[352]"],
    ),
    (
        "bias",
        "tiny-llama-bias",
        |a| drop(a.remove("model.layers.1.mlp.down_proj.lora_B.bias")),
        &["model.layers.1.mlp.down_proj.lora_B.bias is missing"],
    ),
    (
        "bias",
        "tiny-llama-bias",
        |a| a.add("model.layers.1.mlp.down_proj.lora_B.bias", &[4]),
        &["down_proj.lora_B.bias is [4]"],
    ),
    // Biases, and a base that has none.
    (
        "bias",
        LLAMA,
        |_| {},
        &["lora_bias, and the base has no model.layers.0.mlp.down_proj.bias"],
    ),
    (
        "saved",
        "tiny-llama-untied-mha",
        |a| drop(a.remove("lm_head.weight")),
        &["has no lm_head.weight, which modules_to_save names"],
    ),
    (
        "saved",
        "tiny-llama-untied-mha",
        |a| a.add("lm_head.weight", &[520, 64]),
        &[
            "lm_head.weight is [520, 64], the base's is [515, 64]",
            "grew",
        ],
    ),
    (
        "tied",
        LLAMA,
        |a| a.tensor("model.embed_tokens.base_layer.weight").bytes[256 * 7] ^= 1,
        &["model.embed_tokens.weight that differs from the base's in row 7"],
    ),
    (
        "tied",
        LLAMA,
        |a| a.add("model.embed_tokens.base_layer.weight", &[516, 64]),
        &["is [516, 64], the base's is [515, 64]"],
    ),
    // A head that follows the tokens, and is changed besides.
    (
        "tokens",
        LLAMA,
        |a| {
            a.set("modules_to_save", json!(["lm_head"]));
            a.add("lm_head.weight", &[515, 64]);
        },
        &[
            "trains tokens of model.embed_tokens.weight",
            "lm_head.weight besides",
        ],
    ),
    (
        "tied-both",
        "tiny-qwen2",
        |a| a.tensor("lm_head.weight").bytes[128 * 3] ^= 1,
        &["ensure_weight_tying", "differ in row 3"],
    ),
];

#[test]
fn tensors_that_do_not_fit_are_refused_by_name() {
    for (row, (fixture, base, edit, words)) in TENSORS.iter().enumerate() {
        let mut adapter = Edited::of(fixture);
        edit(&mut adapter);
        refuses(base, &adapter.write(), words, &format!("row {row}"));
    }
}

/// The whole message: the adapter's name, and these words.
pub(super) fn refuses(base: &str, adapter: &AdapterPath, words: &[&str], what: &str) {
    let error = open(base, std::slice::from_ref(adapter));
    let error = error
        .map(|_| ())
        .expect_err(&format!("{what} is taken: {words:?}"));
    assert_eq!(error.reason(), "AdapterInvalid");
    let text = error.to_string();
    assert!(text.contains("adapter `tuned`: "), "{what}: {text}");
    let missing = words.iter().find(|word| !text.contains(*word));
    assert!(missing.is_none(), "{what}: no {missing:?} in {text}");
}
