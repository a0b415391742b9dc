//! Chat templates that do harm, and the processes that bear it.
#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(unreachable_pub, reason = "shared by several test binaries")]

use std::fs;
use std::path::Path;

use plimsoll_sidecar::chat::{ChatMessage, ChatTemplate};
use plimsoll_sidecar::model::{Model, ModelError, ModelFolder};

const PROGRAM: &str = env!("CARGO_BIN_EXE_plimsoll-sidecar");

pub fn model(template: &str) -> Model {
    let folder = "tests/fixtures/models/tiny-llama";
    let mut model = ModelFolder::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap();
    model.chat_templates = Some(template.to_owned().into());
    model
}

pub fn confined(template: &str) -> Result<ChatTemplate, ModelError> {
    let model = model(template);
    let tokenizer = model.tokenizer().unwrap();
    let program = Path::new(PROGRAM);
    Ok(ChatTemplate::load_confined(&model, &tokenizer, program)?.unwrap())
}

pub fn says(content: &str) -> [ChatMessage; 1] {
    [ChatMessage {
        role: "user".to_owned(),
        content: content.to_owned(),
        name: None,
    }]
}

/// A field of a `/proc` file, in bytes.
pub fn proc_bytes(file: &str, field: &str, unit: u64) -> u64 {
    let text = fs::read_to_string(file).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    let number = line.unwrap().split_whitespace().next().unwrap();
    number.parse::<u64>().unwrap() * unit
}

/// What a hostile template does when the user says `go`; `ns.x` is a short string.
pub const GROWS: [(&str, &str); 12] = [
    (
        "~",
        "{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    ),
    (
        "+",
        "{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    ),
    (
        "*",
        "{% for i in range(60) %}{% set ns.l = ns.l + [ns.x * 9000000] %}{% endfor %}",
    ),
    (
        "replace",
        "{% for i in range(60) %}{% set ns.x = ns.x|replace('x', 'xx') %}{% endfor %}",
    ),
    (
        "join",
        "{% for i in range(60) %}{% set ns.x = [ns.x, ns.x]|join %}{% endfor %}",
    ),
    ("format", "{% set ns.x = '%900000000s'|format('x') %}"),
    ("indent", "{% set ns.x = 'x'|indent(900000000, true) %}"),
    ("batch", "{% set ns.x = [1]|batch(900000000, 'x')|list %}"),
    (
        "list",
        "{% for i in range(60) %}{% set ns.l = (ns.l + ns.l + [1])|list %}{% endfor %}",
    ),
    (
        "set block",
        "{% for i in range(60) %}{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}\
        {% set ns.x = y %}{% endfor %}",
    ),
    (
        "raw text",
        "{% set y %}{% for i in range(100000) %}RAW{% endfor %}{% endset %}",
    ),
    (
        "nested lists",
        "{% for i in range(40000) %}{% set ns.l = [ns.l] %}{% endfor %}\
        {% set ns.x = ns.l ~ '' %}",
    ),
];

pub fn hostile(what: &str) -> String {
    let what = what.replace("RAW", &"raw".repeat(1000));
    format!(
        "{{% set ns = namespace(x='xxxxxxxx', l=[]) %}}{{% if messages[0].content == 'go' %}}{what}\
         {{% endif %}}{{{{ ns.x|length }}}}"
    )
}
