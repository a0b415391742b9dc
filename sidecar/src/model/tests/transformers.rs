//! Against transformers: every field of its config classes is decided about, defaults are its own,
//! and a config becomes what it becomes there, or is refused by name.
//! `tests/fixtures/make_config_fields.py` wrote what it says.

use std::fmt::Write as _;

use plimsoll_kernels::rope::frequency;
use plimsoll_planner::Architecture;
use serde_json::Value;

use crate::model::config::{Config, parse};
use crate::model::defaults::{self, Defaults};
use crate::model::known::{Decision, decision, fields};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");
const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/CONFIG_FIELDS.md");
const ARCHITECTURES: [Architecture; 4] = [
    Architecture::Llama,
    Architecture::Mistral,
    Architecture::Qwen2,
    Architecture::Qwen3,
];

fn fixture(name: &str) -> Value {
    let bytes = std::fs::read(format!("{FIXTURES}/{name}")).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap())
        .collect()
}

#[test]
fn every_field_that_transformers_knows_is_decided_about() {
    let known = fixture("config_fields.json");
    let mut missing = Vec::new();
    let mut count = 0;
    for architecture in ARCHITECTURES {
        let own = &known["defaults"][format!("{architecture:?}")];
        let own = own.as_object().unwrap().keys().map(String::as_str);
        let taken = names(&known["kwargs"])
            .into_iter()
            .chain(names(&known["generation"]));
        for field in own.chain(taken) {
            count += 1;
            if decision(architecture, field).is_none() {
                missing.push(format!("{architecture:?}.{field}"));
            }
        }
    }
    assert_eq!(missing, [""; 0], "undecided");
    assert_eq!(count, 312, "of four classes");
}

#[test]
fn defaults_are_those_of_the_classes() {
    let known = fixture("config_fields.json");
    for architecture in ARCHITECTURES {
        let class = &known["defaults"][format!("{architecture:?}")];
        let Defaults {
            vocab_size,
            hidden_size,
            intermediate_size,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads,
            null_key_value_heads: _,
            head_dim,
            max_position_embeddings,
            sliding_window,
            max_window_layers,
            bos_token_id,
            eos_token_id,
        } = *defaults::of(architecture);
        let ours = [
            ("vocab_size", Some(vocab_size)),
            ("hidden_size", Some(hidden_size)),
            ("intermediate_size", Some(intermediate_size)),
            ("num_hidden_layers", Some(num_hidden_layers)),
            ("num_attention_heads", Some(num_attention_heads)),
            ("num_key_value_heads", num_key_value_heads),
            ("head_dim", head_dim),
            ("max_position_embeddings", Some(max_position_embeddings)),
            ("sliding_window", sliding_window),
            ("max_window_layers", Some(max_window_layers)),
            ("bos_token_id", bos_token_id.map(u64::from)),
            ("eos_token_id", eos_token_id.map(u64::from)),
        ];
        for (field, ours) in ours {
            let theirs = class[field].as_u64();
            let ours = ours.filter(|ours| *ours != 0 || theirs.is_some());
            assert_eq!(ours, theirs, "{architecture:?}.{field}");
        }
        assert_eq!(class["rms_norm_eps"], defaults::RMS_NORM_EPS);
    }
}

#[test]
fn configs_become_what_they_become_there_or_are_refused_by_name() {
    let cases = fixture("config_cases.json");
    let (mut same, mut refused, mut both, mut wrong) = (0, 0, 0, String::new());
    for case in cases["cases"].as_array().unwrap() {
        let (config, theirs) = (&case["config"], &case["transformers"]);
        let ours = parse(config.to_string().as_bytes());
        match (ours, theirs.get("refused").is_some()) {
            (Err(_), true) => both += 1,
            (Err(error), false) => {
                refused += 1;
                let text = error.to_string();
                let fields = config.as_object().unwrap().keys();
                if !fields
                    .into_iter()
                    .any(|field| text.contains(field.as_str()))
                {
                    writeln!(wrong, "{config}\n  names no field: {text}").unwrap();
                }
            }
            (Ok(_), true) => writeln!(wrong, "{config}\n  taken; {}", theirs["refused"]).unwrap(),
            (Ok(ours), false) => match difference(&ours, theirs) {
                None => same += 1,
                Some(what) => writeln!(wrong, "{config}\n  {what}").unwrap(),
            },
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert_eq!(
        (same, refused, both),
        (716, 41, 41),
        "same, refused here alone, refused by both"
    );
}

/// The first thing in which a config differs from what transformers built of it.
fn difference(ours: &Config, theirs: &Value) -> Option<String> {
    let Config {
        shape,
        params,
        eos_ids,
        bos_id,
        packed: _,
    } = ours;
    let (heads, head_dim) = (u64::from(shape.query_heads), u64::from(shape.head_dim));
    let kv_heads = u64::from(shape.kv_heads);
    let windows: Vec<Option<u32>> = (0..shape.layers)
        .map(|layer| params.window(layer))
        .collect();
    let own = serde_json::json!({
        "layers": shape.layers, "vocab": shape.vocab, "hidden": shape.hidden,
        "q_rows": heads * head_dim, "k_rows": kv_heads * head_dim, "head_dim": head_dim,
        "ffn": shape.ffn, "qkv_bias": shape.qkv_bias, "output_bias": shape.output_bias,
        "mlp_bias": shape.mlp_bias, "qk_norm": shape.qk_norm, "tied": shape.tied,
        "eos": eos_ids, "bos": bos_id, "windows": windows,
    });
    for (field, value) in own.as_object().unwrap() {
        if theirs[field] != *value {
            return Some(format!("{field}: {value}, there {}", theirs[field]));
        }
    }
    let near = |a: f64, b: f64| (a - b).abs() <= 2e-6 * b.abs();
    if !near(f64::from(params.rms_eps), theirs["eps"].as_f64().unwrap()) {
        return Some(format!("eps: {}, there {}", params.rms_eps, theirs["eps"]));
    }
    let frequencies = theirs["inv_freq"].as_array().unwrap();
    for (i, theirs) in frequencies.iter().enumerate() {
        let ours = frequency(&params.rope, i, shape.head_dim as usize);
        if !near(f64::from(ours), theirs.as_f64().unwrap()) {
            return Some(format!("frequency {i}: {ours}, there {theirs}"));
        }
    }
    let (ours, theirs) = (
        params.rope.scaling.attention_factor(),
        &theirs["attention_factor"],
    );
    let is_same = near(ours, theirs.as_f64().unwrap());
    (!is_same).then(|| format!("attention factor: {ours}, there {theirs}"))
}

#[test]
fn the_table_in_words_is_current() {
    let known = fixture("config_fields.json");
    let version = known["transformers"].as_str().unwrap();
    let mut table = format!(
        "# Fields of a config.json\n\n\
         Every field that a `config.json` of our architectures may have: what the config classes of \
         transformers {version} take where it is absent (`-`: the class has no such field), and what \
         is done about it here. A field that is not in this table is refused by name, unless it is \
         null; names that end in `_multiplier`, `_scaling`, `_factor`, `_scale` or `_alpha` may be \
         1, and those that end in `_version` anything.\n\n\
         | Field | Llama | Mistral | Qwen2 | Qwen3 | Here |\n|---|---|---|---|---|---|\n"
    );
    for field in fields() {
        write!(table, "| `{field}` |").unwrap();
        for architecture in ARCHITECTURES {
            let class = &known["defaults"][format!("{architecture:?}")];
            match class.get(field) {
                None => table.push_str(" - |"),
                Some(default) => write!(table, " {default} |").unwrap(),
            }
        }
        let decisions = ARCHITECTURES.map(|a| (a, decision(a, field).unwrap()));
        let first = decisions[0].1;
        if decisions.iter().all(|(_, decision)| *decision == first) {
            writeln!(table, " {} |", words(first)).unwrap();
        } else {
            let each = decisions.map(|(a, decision)| format!("{a:?}: {}", words(decision)));
            writeln!(table, " {} |", each.join("; ")).unwrap();
        }
    }
    let committed = std::fs::read_to_string(TABLE).unwrap_or_default();
    if committed != table {
        let path = std::env::temp_dir().join("CONFIG_FIELDS.md");
        std::fs::write(&path, table).unwrap();
        panic!("{TABLE} is not current: copy {} over it", path.display());
    }
}

fn words(decision: Decision) -> String {
    match decision {
        Decision::Honoured => "honoured".to_owned(),
        Decision::Harmless(why) => format!("accepted: {why}"),
        Decision::Only(neutral) => format!("accepted at {}, else refused", neutral.text()),
        Decision::Refused(why) => format!("refused: {why}"),
    }
}

#[test]
fn rotary_fields_are_read_or_refused() {
    let known = fixture("config_fields.json");
    for field in names(&known["rope"]) {
        for kind in ["default", "linear", "dynamic", "llama3", "yarn"] {
            let mut config = serde_json::json!({
                "model_type": "llama", "hidden_size": 64, "num_attention_heads": 4,
                "max_position_embeddings": 512,
                "rope_scaling": {
                    "rope_type": kind, "factor": 4.0, "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0, "original_max_position_embeddings": 128,
                },
            });
            let scaling = config["rope_scaling"].as_object_mut().unwrap();
            if kind != "llama3" {
                scaling.retain(|field, _| !field.ends_with("freq_factor"));
            }
            if kind == "default" {
                scaling.remove("factor");
            }
            let before = parse(config.to_string().as_bytes()).unwrap().params.rope;
            // Of a dynamic scaling the factor tells of longer texts than are served.
            if ["rope_type", "type"].contains(&field) || (kind, field) == ("dynamic", "factor") {
                continue;
            }
            config["rope_scaling"][field] = 0.77.into();
            match parse(config.to_string().as_bytes()) {
                Err(error) => assert!(error.to_string().contains(field), "{error}"),
                // Read: it changes what comes out, or the type has no use for it at all.
                Ok(config) => assert!(
                    config.params.rope != before
                        || field.starts_with("mscale")
                        || field.starts_with("original"),
                    "{kind}.{field} is ignored"
                ),
            }
        }
    }
}
