//! A config that asks for something else than what is merged is refused by the field's name.

use serde_json::{Value, json};

use super::edited::Edited;
use super::malformed::refuses;
use super::open;

const PLAIN: &str = "plain";
const LLAMA: &str = "tiny-llama";

/// A field of a plain adapter, what it is set to, and what must be said.
fn rows() -> Vec<(&'static str, Value, &'static str)> {
    vec![
        ("peft_type", json!("IA3"), "LORA"),
        ("peft_type", json!(null), "is missing"),
        ("task_type", json!("SEQ_CLS"), "CAUSAL_LM"),
        ("bias", json!("all"), "none"),
        ("bias", json!("lora_only"), "none"),
        ("r", json!(0), "1 or more"),
        ("r", json!("2"), "whole number"),
        (
            "r",
            json!(4097),
            "is 4097, expected a whole number, 1 or more and at most 4096",
        ),
        ("r", json!(null), "is missing"),
        ("r", json!(3), "is [2, 352]"),
        ("lora_alpha", json!("8"), "a number"),
        ("lora_alpha", json!(null), "is missing"),
        ("use_rslora", json!("yes"), "true or false"),
        ("target_modules", json!(null), "nothing would be merged"),
        ("target_modules", json!([]), "nothing would be merged"),
        ("target_modules", json!([1]), "a list of names"),
        ("target_modules", json!("(?=q)q_proj"), "is no expression"),
        ("target_modules", json!(["q_proj"]), "does not target"),
        ("exclude_modules", json!(["v_proj"]), "does not target"),
        ("layers_to_transform", json!([0]), "does not target"),
        ("layers_to_transform", json!("0"), "number of a layer"),
        ("rank_pattern", json!({"q_proj": 0}), "1 or more"),
        ("rank_pattern", json!({"q_proj": 4097}), "at most 4096"),
        ("rank_pattern", json!({"q_proj": 4}), "is [2, 64]"),
        ("rank_pattern", json!({"(q": 2}), "is no expression"),
        ("alpha_pattern", json!({"q_proj": "4"}), "a number"),
        ("rank_pattern", json!([1]), "an object"),
        (
            "modules_to_save",
            json!(["score"]),
            "names score, which the base does not have",
        ),
        (
            "modules_to_save",
            json!(["norm"]),
            "which modules_to_save names",
        ),
        ("use_dora", json!(true), "lora_magnitude_vector is missing"),
        ("lora_bias", json!(true), "lora_B.bias is missing"),
        ("megatron_config", json!({"tp": 2}), "Megatron"),
        (
            "trainable_token_indices",
            json!([1, 2]),
            "has no model.embed_tokens.token_adapter.trainable_tokens_delta",
        ),
        (
            "trainable_token_indices",
            json!({"lm_head": [1]}),
            "token ids of the embedding",
        ),
        (
            "trainable_token_indices",
            json!([-1]),
            "token ids of the embedding",
        ),
        ("loftq_config", json!({"loftq_bits": 4}), "residual"),
        ("velora_config", json!({"a": 1}), "VeLoRA"),
        ("alora_invocation_tokens", json!([5]), "cannot be merged"),
        ("use_qalora", json!(true), "cannot be merged"),
        ("monteclora_config", json!({"a": 1}), "MonteCLoRA"),
        ("layer_replication", json!([[0, 2], [1, 2]]), "other layers"),
        ("target_parameters", json!(["experts.w1"]), "experts"),
        ("use_bdlora", json!({"nblocks": 2}), "block-diagonal"),
        ("arrow_config", json!({"top_k": 2}), "Arrow"),
        ("kasa_config", json!({"beta": 1}), "residual"),
        ("warp_factor", json!(9), "nobody here knows"),
        ("shiny", json!([0]), "nobody here knows"),
    ]
}

#[test]
fn configs_that_mean_something_else_are_refused_by_field() {
    for (field, value, words) in rows() {
        let mut adapter = Edited::of(PLAIN);
        adapter.set(field, value.clone());
        let what = format!("{field}: {value}");
        let named = if words.starts_with("is [") {
            "rank"
        } else {
            field
        };
        let named = if words.contains("target") || words.contains("missing") {
            ""
        } else {
            named
        };
        refuses(LLAMA, &adapter.write(), &[words, named], &what);
    }
    for init in [
        "pissa",
        "pissa_niter_4",
        "olora",
        "corda",
        "lora_ga",
        "mica",
        "loftq",
    ] {
        let mut adapter = Edited::of(PLAIN);
        adapter.set("init_lora_weights", json!(init));
        refuses(
            LLAMA,
            &adapter.write(),
            &["init_lora_weights", init, "residual", "plain LoRA"],
            init,
        );
    }
    let mut adapter = Edited::of(PLAIN);
    adapter.set("init_lora_weights", json!("zeros"));
    refuses(
        LLAMA,
        &adapter.write(),
        &["init_lora_weights", "zeros"],
        "an unknown init",
    );
    for (fixture, base, field, words) in [
        (
            "tied",
            LLAMA,
            "ensure_weight_tying",
            "modules_to_save with embed_tokens",
        ),
        ("tied", LLAMA, "lora_bias", "lora_bias of an embedding"),
        (
            "embeddings",
            "tiny-llama-untied-mha",
            "use_dora",
            "use_dora of an embedding",
        ),
    ] {
        let mut adapter = Edited::of(fixture);
        adapter.set(field, json!(true));
        adapter.set("target_modules", json!(["embed_tokens"]));
        let of_table = |key: &String| key.contains("embed_tokens");
        let tensors = std::mem::take(&mut adapter.tensors);
        adapter.tensors = tensors
            .into_iter()
            .filter(|(key, _)| of_table(key))
            .collect();
        refuses(base, &adapter.write(), &[words], field);
    }
}

/// What is empty is as if it were not there, whatever its name.
#[test]
fn fields_that_are_null_false_or_empty_say_nothing() {
    for value in [json!(null), json!(false), json!(""), json!([]), json!({})] {
        let mut adapter = Edited::of(PLAIN);
        for field in [
            "warp_factor",
            "use_bdlora",
            "layer_replication",
            "kasa_config",
        ] {
            adapter.set(field, value.clone());
        }
        open(LLAMA, &[adapter.write()]).unwrap();
    }
}
