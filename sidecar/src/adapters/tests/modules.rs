//! PEFT's rules for which modules a config means.

use serde_json::{Value, json};

use super::super::config::parse;

const LAYER_1: &str = "model.layers.1.self_attn.q_proj";
const HEAD: &str = "lm_head";

fn config(fields: Value) -> Value {
    let mut config = json!({
        "peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"],
    });
    for (field, value) in fields.as_object().unwrap() {
        config[field] = value.clone();
    }
    config
}

#[test]
fn targets_are_what_peft_makes_of_them() {
    for (fields, module, meant) in [
        (json!({}), LAYER_1, true),
        (json!({}), "model.layers.1.self_attn.my_q_proj", false),
        (json!({"target_modules": ["proj"]}), LAYER_1, false),
        (json!({"target_modules": [LAYER_1]}), LAYER_1, true),
        (
            json!({"target_modules": ["self_attn.q_proj"]}),
            LAYER_1,
            true,
        ),
        (json!({"target_modules": r".*\.(q|k)_proj"}), LAYER_1, true),
        (json!({"target_modules": "q_proj"}), LAYER_1, false),
        (json!({"target_modules": "all-linear"}), LAYER_1, true),
        (json!({"target_modules": "all-linear"}), HEAD, false),
        (json!({"target_modules": ["lm_head"]}), HEAD, true),
        (json!({"exclude_modules": ["q_proj"]}), LAYER_1, false),
        (json!({"exclude_modules": r".*layers\.1.*"}), LAYER_1, false),
        (json!({"exclude_modules": r"layers\.1.*"}), LAYER_1, true),
        (json!({"modules_to_save": ["self_attn"]}), LAYER_1, false),
        (json!({"layers_to_transform": 1}), LAYER_1, true),
        (json!({"layers_to_transform": [0, 2]}), LAYER_1, false),
        (json!({"layers_to_transform": []}), LAYER_1, true),
        (
            json!({"layers_to_transform": [1], "layers_pattern": "layers"}),
            LAYER_1,
            true,
        ),
        (
            json!({"layers_to_transform": [1], "layers_pattern": ["h", "blocks"]}),
            LAYER_1,
            false,
        ),
        (
            json!({"layers_to_transform": [0], "target_modules": [LAYER_1]}),
            LAYER_1,
            true,
        ),
        (
            json!({"layers_to_transform": [0], "target_modules": ["lm_head"]}),
            HEAD,
            true,
        ),
        (
            json!({"layers_to_transform": [0], "target_modules": ["head"]}),
            HEAD,
            false,
        ),
    ] {
        let config = parse("x", config(fields.clone()).to_string().as_bytes()).unwrap();
        assert_eq!(config.targets.mean(module), meant, "{fields} {module}");
    }
}

#[test]
fn ranks_and_scales_are_those_of_the_first_expression_that_matches() {
    for (fields, rank, scale) in [
        (r#""r": 4"#, 4, 2.0),
        (r#""use_rslora": true"#, 4, 4.0),
        (r#""rank_pattern": {"q_proj": 16}"#, 16, 0.5),
        (
            r#""rank_pattern": {"self_attn.q_proj": 2}, "alpha_pattern": {"q_proj": 3}"#,
            2,
            1.5,
        ),
        (r#""rank_pattern": {"k_proj": 9, "_proj": 8}"#, 4, 2.0),
        // As they stand, not as they would be sorted.
        (r#""rank_pattern": {"q_proj": 2, "layers.1.*": 8}"#, 2, 4.0),
        (r#""rank_pattern": {"layers.1.*": 8, "q_proj": 2}"#, 8, 1.0),
        (
            r#""alpha_pattern": {"^model.layers.1.self_attn.q_proj": 6}"#,
            4,
            1.5,
        ),
        (r#""alpha_pattern": {"model.*": 0.5}"#, 4, 0.125),
    ] {
        let text = format!(
            r#"{{"peft_type": "LORA", "lora_alpha": 8, "target_modules": ["q_proj"], {}{fields}}}"#,
            if fields.starts_with("\"r\"") {
                ""
            } else {
                "\"r\": 4, "
            }
        );
        let config = parse("x", text.as_bytes()).unwrap();
        let found = (config.rank_of(LAYER_1), config.scale_of(LAYER_1));
        assert_eq!(found, (rank, scale), "{fields}");
    }
}
