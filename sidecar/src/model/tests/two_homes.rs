//! Facts that a folder states in several files, against transformers (`make_two_homes.py` wrote
//! which of them it believes), and what is told where they disagree.

use serde_json::{Map, Value, json};

use super::folder::{config, model, open, refused};
use crate::model::ChatTemplates;
use crate::weights::testing::TempFolder;

fn cases(kind: &str) -> Vec<Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/two_homes.json");
    let mut file: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    match file[kind].take() {
        Value::Array(cases) => cases,
        other => panic!("{other}"),
    }
}

fn templates(folder: &TempFolder) -> Option<ChatTemplates> {
    open(folder).unwrap().chat_templates
}

#[test]
fn ends_and_sampling_are_what_transformers_takes_and_an_end_is_never_lost() {
    let (mut same, mut kept) = (0, 0);
    for case in cases("generation") {
        let mut fields = config();
        let fields = fields.as_object_mut().unwrap();
        fields.remove("eos_token_id");
        let own = case["config"].as_object().unwrap();
        fields.extend(
            own.iter()
                .map(|(name, value)| (name.clone(), value.clone())),
        );
        let folder = model(&Value::Object(fields.clone()));
        if !case["file"].is_null() {
            folder.write("generation_config.json", case["file"].to_string());
        }
        let opened = open(&folder).unwrap();
        match case["eos"].is_null() {
            false => {
                same += 1;
                assert_eq!(json!(opened.eos_ids), case["eos"], "{case}");
            }
            // transformers would go on for ever; `config.json` may know better.
            true => {
                let known = match &own.get("eos_token_id") {
                    None | Some(Value::Null) => json!([]),
                    Some(Value::Array(ids)) => json!(ids),
                    Some(id) => json!([id]),
                };
                kept += usize::from(known != json!([]));
                assert_eq!(json!(opened.eos_ids), known, "{case}");
            }
        }
        if !case["bos"].is_null() {
            assert_eq!(json!(opened.bos_id), case["bos"], "{case}");
        }
        let sampling = &opened.sampling.defaults;
        let ours = [
            ("temperature", sampling.temperature.map(f64::from)),
            ("top_k", sampling.top_k.map(f64::from)),
            ("top_p", sampling.top_p.map(f64::from)),
            ("min_p", sampling.min_p.map(f64::from)),
            (
                "repetition_penalty",
                sampling.repetition_penalty.map(f64::from),
            ),
        ];
        for (name, ours) in ours {
            assert_eq!(ours, case["sampling"][name].as_f64(), "{name}: {case}");
        }
    }
    assert_eq!((same, kept), (SAME, KEPT));
}

const SAME: usize = 27;
const KEPT: usize = 9;

#[test]
fn configs_that_disagree_are_told() {
    let told = |own: Value, file: &str| {
        let mut fields = config();
        let fields = fields.as_object_mut().unwrap();
        fields.extend(own.as_object().unwrap().clone());
        let folder = model(&Value::Object(fields.clone()));
        folder.write("generation_config.json", file);
        open(&folder).unwrap().told
    };
    let none: [String; 0] = [];
    assert_eq!(
        told(json!({"eos_token_id": 5}), r#"{"eos_token_id": [7, 5]}"#),
        none
    );
    assert_eq!(
        told(json!({"eos_token_id": [5, 9]}), r#"{"eos_token_id": 5}"#),
        ["generation_config.json: eos_token_id is [5], [5, 9] in config.json; the former counts"]
    );
    assert_eq!(
        told(json!({"bos_token_id": 1}), r#"{"bos_token_id": 2}"#),
        ["generation_config.json: bos_token_id is [2], [1] in config.json; the former counts"]
    );
    let nothing = r#"{"no_repeat_ngram_size": 0, "typical_p": 1, "bad_words_ids": null}"#;
    assert_eq!(told(json!({}), nothing), none);
    assert_eq!(
        told(json!({}), r#"{"suppress_tokens": [3]}"#),
        ["generation_config.json: suppress_tokens is [3], which is not done here"]
    );
    let folder = model(&json!({"no_repeat_ngram_size": 2}).as_object().map_or_else(
        || panic!("an object"),
        |more| {
            let mut fields: Map<String, Value> = config().as_object().unwrap().clone();
            fields.extend(more.clone());
            Value::Object(fields)
        },
    ));
    assert_eq!(
        open(&folder).unwrap().told,
        ["config.json: no_repeat_ngram_size is 2, which is not done here"]
    );
}

#[test]
fn templates_are_those_that_transformers_chooses() {
    let (mut chosen, mut none, mut refused) = (0, 0, 0);
    for case in cases("templates") {
        let folder = model(&config());
        for (name, content) in case["files"].as_object().unwrap() {
            if let Some((parent, _)) = name.split_once('/') {
                std::fs::create_dir_all(folder.path().join(parent)).unwrap();
            }
            match content {
                Value::String(text) => folder.write(name, text),
                other => folder.write(name, other.to_string()),
            };
        }
        if !case["error"].is_null() {
            assert!(open(&folder).is_err(), "{case}");
            refused += 1;
            continue;
        }
        let Some(expected) = case["default"].as_str() else {
            let processor = case["processor"].as_str();
            let found = templates(&folder).map(|templates| templates.default);
            assert_eq!(found.as_deref(), processor, "{case}");
            none += 1;
            continue;
        };
        let found = templates(&folder).unwrap();
        let tools = found.tool_use.as_ref().unwrap_or(&found.default);
        assert_eq!(found.default, expected, "{case}");
        assert_eq!(*tools, case["tool_use"], "{case}");
        chosen += 1;
    }
    assert_eq!((chosen, none, refused), CHOSEN);
}

const CHOSEN: (usize, usize, usize) = (95, 6, 59);

#[test]
fn templates_that_do_not_count_are_told() {
    let folder = model(&config());
    let told = || open(&folder).unwrap().told;
    let none: [String; 0] = [];
    folder.write("chat_template.jinja", "a\r\nb\n");
    folder.write("tokenizer_config.json", r#"{"chat_template": "a\nb"}"#);
    folder.write("chat_template.json", r#"{"chat_template": "a\nb\n"}"#);
    assert_eq!(told(), none, "line ends are no difference");
    folder.write("chat_template.json", r#"{"chat_template": "c"}"#);
    folder.write(
        "tokenizer_config.json",
        r#"{"chat_template": [{"name": "default", "template": "a"},
                              {"name": "tool_use", "template": "t"}]}"#,
    );
    assert_eq!(
        told(),
        [
            "tokenizer_config.json: its chat template `default` is another than that of \
             chat_template.jinja, which counts",
            "tokenizer_config.json: its chat template `tool_use` does not count, those of \
             chat_template.jinja do",
            "chat_template.json: its chat template `default` is another than that of \
             chat_template.jinja, which counts",
        ]
    );
    std::fs::create_dir(folder.path().join("additional_chat_templates")).unwrap();
    folder.write("additional_chat_templates/tool_use.jinja", "t");
    refused(
        &folder,
        "chat_template.json: stands beside additional_chat_templates/",
    );
    std::fs::remove_file(folder.path().join("chat_template.json")).unwrap();
    assert_eq!(templates(&folder).unwrap().tool_use.as_deref(), Some("t"));
    std::fs::remove_file(folder.path().join("chat_template.jinja")).unwrap();
    refused(
        &folder,
        "additional_chat_templates: has the chat templates tool_use, and none named `default`",
    );
}
