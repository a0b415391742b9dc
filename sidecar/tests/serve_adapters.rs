//! `--adapter` of the real binary: what is planned, inspected and served, and what is refused.
#![allow(clippy::unwrap_used, reason = "a test")]

mod served;

use std::path::Path;
use std::process::Output;

use plimsoll_crds::names::EXIT_ADAPTER_REFUSED;
use serde_json::Value;
use served::{Served, binary, fixture};

fn adapter(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/adapters");
    format!("{name}={}", folder.join(name).display())
}

fn run(command: &[&str], model: &str) -> Output {
    let mut binary = binary();
    binary.args(command).arg(fixture(model));
    binary.output().unwrap()
}

fn words(output: &[u8]) -> String {
    String::from_utf8(output.to_vec()).unwrap()
}

#[test]
fn answers_are_the_adapters_and_say_whose_they_are() {
    let body = r#"{"model": "tiny-llama", "prompt": [5, 6, 7, 8], "max_tokens": 20,
        "temperature": 0, "ignore_eos": true}"#;
    let asked = |served: &Served| {
        let answer = served.post("/v1/completions", body);
        assert_eq!(answer.status, 200);
        let info = served.get_admin("/weight_info", "").json();
        let version = info["weight_version"].as_str().unwrap().to_owned();
        (version, answer.json()["choices"][0]["text"].clone())
    };
    let plain = adapter("plain") + ":merge";
    let base = asked(&Served::start("tiny-llama", &[]));
    let tuned = asked(&Served::start("tiny-llama", &["--adapter", &plain]));
    assert_eq!(base.0, "default");
    assert!(tuned.0.starts_with("default+plain@"), "{}", tuned.0);
    assert_ne!(base.1, tuned.1, "an adapter that changes no answer");
}

#[test]
fn plans_and_facts_are_those_of_the_model_with_its_adapter() {
    let facts = |flags: &[&str]| -> Value {
        let output = run(
            &[&["inspect", "--output", "json"], flags].concat(),
            "tiny-llama",
        );
        assert!(output.status.success(), "{}", words(&output.stderr));
        serde_json::from_slice::<Value>(&output.stdout).unwrap()["facts"].clone()
    };
    let (base, tied) = (facts(&[]), facts(&["--adapter", &adapter("tied")]));
    assert_eq!(
        (&base["tied"], &tied["tied"]),
        (&true.into(), &false.into())
    );
    assert_ne!(base["digest"], tied["digest"]);
    let weights = |flags: &[&str]| -> String {
        let output = run(
            &[&["plan", "--dtype", "float32"], flags].concat(),
            "tiny-llama",
        );
        let table = words(&output.stdout);
        let row = table.lines().nth(1).unwrap_or_default();
        let sizes: Vec<&str> = row.split_whitespace().collect();
        sizes[7..9].join(" ")
    };
    let (alone, one_side) = (weights(&[]), weights(&["--adapter", &adapter("tied")]));
    assert_eq!(alone, "760.00 KiB");
    assert_eq!(one_side, "888.00 KiB", "a head of its own");
    assert_eq!(alone, weights(&["--adapter", &adapter("plain")]));
}

#[test]
fn what_does_not_fit_is_refused_before_anything_is_loaded() {
    for (command, flag, code, says) in [
        (
            "inspect",
            adapter("dora"),
            1,
            "adapter `dora`: adapter_model.safetensors: model.layers.0.mlp",
        ),
        (
            "plan",
            adapter("nowhere"),
            1,
            "adapters/nowhere/adapter_config.json",
        ),
        ("serve", adapter("dora"), 1, "adapter `dora`"),
        ("plan", "plain".to_owned(), 64, "write NAME=FOLDER"),
        ("plan", "a b=/x".to_owned(), 64, "a name has"),
        (
            "plan",
            adapter("nowhere") + ":dynamic",
            1,
            "adapters/nowhere/adapter_config.json",
        ),
    ] {
        let ports = ["--port", "0", "--admin-port", "0", "--probe-port", "0"];
        let ports = if command == "serve" { &ports[..] } else { &[] };
        let output = run(
            &[&[command, "--adapter", &flag], ports].concat(),
            "tiny-llama",
        );
        let told = words(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{command} {flag}: {told}");
        assert!(told.contains(says), "no {says:?} in {told}");
    }
}

#[test]
fn requests_choose_dynamic_adapters_by_name_and_others_come_and_go() {
    let [plain, fan] = ["plain", "fan-in"].map(|name| adapter(name) + ":dynamic");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/adapters");
    let root = root.to_str().unwrap();
    let flags = [
        "--adapter",
        &plain,
        "--adapter",
        &fan,
        "--adapter-root",
        root,
    ];
    let served = Served::start("tiny-llama", &flags);
    let asked = |model: &str| {
        let body = serde_json::json!({"model": model, "prompt": [5, 6, 7, 8], "max_tokens": 20,
            "temperature": 0, "ignore_eos": true});
        let answer = served.post("/v1/completions", &body.to_string());
        (answer.status, answer.json()["choices"][0]["text"].clone())
    };
    let (base, tuned) = (asked("tiny-llama"), asked("plain"));
    assert_eq!((base.0, tuned.0), (200, 200));
    assert_ne!(base.1, tuned.1, "an adapter that changes no answer");
    let merged = Served::start("tiny-llama", &["--adapter", &adapter("plain")]);
    let body = r#"{"model": "tiny-llama", "prompt": [5, 6, 7, 8], "max_tokens": 20,
        "temperature": 0, "ignore_eos": true}"#;
    let answer = merged.post("/v1/completions", body).json();
    assert_eq!(answer["choices"][0]["text"], tuned.1, "merged and not");
    let ids = |served: &Served| -> Vec<String> {
        let models = served.get("/v1/models").json();
        let data = models["data"].as_array().unwrap().iter();
        data.map(|of| of["id"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(ids(&served), ["tiny-llama", "plain", "fan-in"]);
    assert_eq!(asked("loud").0, 404);
    let load = format!(r#"{{"lora_name": "loud", "lora_path": "{root}/plain"}}"#);
    assert_eq!(
        served.post("/v1/load_lora_adapter", &load).status,
        404,
        "the public port"
    );
    assert_eq!(
        served.post_admin("/v1/load_lora_adapter", &load).status,
        200
    );
    assert_eq!(asked("loud"), tuned);
    let unload = r#"{"lora_name": "loud"}"#;
    assert_eq!(
        served.post_admin("/v1/unload_lora_adapter", unload).status,
        200
    );
    assert_eq!(asked("loud").0, 404);
    assert_eq!(asked("plain"), tuned);
    assert_eq!(asked("tiny-llama"), base);
}

#[test]
fn plans_have_room_for_dynamic_adapters_and_say_where_there_is_not_enough() {
    let plan = |flags: &[&str]| {
        let flag = adapter("plain") + ":dynamic";
        let output = run(
            &[&["plan", "--adapter", &flag], flags].concat(),
            "tiny-llama",
        );
        (
            output.status.code(),
            words(&output.stdout),
            words(&output.stderr),
        )
    };
    let (code, table, _) = plan(&["--max-rank", "8"]);
    assert_eq!(code, Some(0));
    assert!(table.contains("ADAPTERS"), "{table}");
    // A folder for others is room for four of rank 16.
    let root = ["--adapter-root", "/"];
    let (_, rooted, _) = plan(&root);
    let (_, counted, _) = plan(&["--max-adapters", "4", "--max-rank", "16"]);
    assert_eq!(rooted, counted);
    assert_ne!(rooted, plan(&[]).1);
    for (flags, code, says) in [
        (
            ["--max-adapters", "0"],
            64,
            "--max-adapters: 0, and 1 dynamic adapters are given (plain)",
        ),
        (
            ["--max-lora-rank", "1"],
            64,
            "--max-rank: 1, and adapter `plain` has rank 2",
        ),
    ] {
        let (found, _, told) = plan(&flags);
        assert_eq!(found, Some(code), "{told}");
        assert!(told.contains(says), "{told}");
    }
    let (code, table, _) = plan(&[
        "--max-adapters",
        "100",
        "--max-rank",
        "512",
        "--quota",
        "0=64Mi",
    ]);
    assert_eq!(code, Some(2), "{table}");
    assert!(table.contains("--max-adapters at most "), "{table}");
}

/// A copy of an adapter that says of itself to be so faint that F32 has nothing of it.
struct Faint(std::path::PathBuf);

impl Faint {
    fn new() -> Faint {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/adapters/plain");
        let to = std::env::temp_dir().join(format!("plimsoll-faint-{}", std::process::id()));
        std::fs::create_dir_all(&to).unwrap();
        let (config, weights) = ("adapter_config.json", "adapter_model.safetensors");
        std::fs::copy(from.join(weights), to.join(weights)).unwrap();
        let fields = std::fs::read(from.join(config)).unwrap();
        let mut fields: Value = serde_json::from_slice(&fields).unwrap();
        fields["lora_alpha"] = 1e-15.into();
        std::fs::write(to.join(config), fields.to_string()).unwrap();
        Faint(to)
    }
}

impl Drop for Faint {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn an_adapter_that_rounding_takes_is_not_served_unless_that_is_asked_for() {
    let folder = Faint::new();
    let flag = format!("faint={}", folder.0.display());
    let flags = ["--adapter", &flag];
    let ports = ["--port", "0", "--admin-port", "0", "--probe-port", "0"];
    let output = run(&[&["serve"], &flags[..], &ports[..]].concat(), "tiny-llama");
    let told = words(&output.stderr);
    assert_eq!(
        output.status.code(),
        Some(i32::from(EXIT_ADAPTER_REFUSED)),
        "{told}"
    );
    for says in [
        "not served: adapter `faint`: rounding takes 100.0% of what it adds",
        "--adapter-validation report",
    ] {
        assert!(told.contains(says), "no {says:?} in {told}");
    }
    for mode in ["report", "off"] {
        Served::start(
            "tiny-llama",
            &[&flags[..], &["--adapter-validation", mode]].concat(),
        );
    }
}
