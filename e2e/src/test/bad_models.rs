//! Broken models: each is refused with a reason and a message that names what is wrong, before an
//! engine pod exists, and nothing else is disturbed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::images;
use crate::paths;
use crate::test::observe::{PATIENCE, asked};
use crate::test::world::World;
use crate::test::{Group, Passed, expect, expect_eq, test, tiny};

pub(super) const GROUP: Group = Group {
    name: "bad-models",
    about: "broken models are refused with a reason; nothing else is disturbed",
    tests: &[test("every broken model is refused by name", refused)],
};

const IMAGE: &str = "localhost/broken:models";

/// A broken model: its folder, how it is broken, the reason, and a word of the message.
struct Broken {
    folder: &'static str,
    harm: fn(&Path) -> Result<()>,
    reason: &'static str,
    word: &'static str,
}

const BROKEN: [Broken; 7] = [
    Broken {
        folder: "no-config",
        harm: no_config,
        reason: "ModelNotFound",
        word: "config.json",
    },
    Broken {
        folder: "truncated",
        harm: truncated,
        reason: "ModelInvalid",
        word: "safetensors",
    },
    Broken {
        folder: "lying-header",
        harm: lying_header,
        reason: "ModelInvalid",
        word: "header",
    },
    Broken {
        folder: "no-tokenizer",
        harm: no_tokenizer,
        reason: "ModelInvalid",
        word: "tokenizer",
    },
    Broken {
        folder: "other-shape",
        harm: other_shape,
        reason: "ModelInvalid",
        word: "shape",
    },
    Broken {
        folder: "unknown",
        harm: unknown,
        reason: "UnsupportedArchitecture",
        word: "Mamba",
    },
    Broken {
        folder: "not-json",
        harm: not_json,
        reason: "ModelInvalid",
        word: "config.json",
    },
];

fn refused(world: &World<'_>) -> Passed {
    let kubernetes = tiny::installed(world)?;
    world.import_once(&archive()?)?;
    let space = world.namespace("bad-models", "restricted")?;
    let good = kubernetes.resource(&space.name, "good");
    tiny::apply(&kubernetes, &space.name, &tiny::resource(good.name))?;
    good.await_ready(PATIENCE)?;
    for broken in &BROKEN {
        let mut object = tiny::resource(broken.folder);
        object["spec"]["model"]["source"] =
            json!({"image": {"reference": IMAGE, "pullPolicy": "Never"}, "path": broken.folder});
        tiny::apply(&kubernetes, &space.name, &object)?;
    }
    let mut missing = tiny::resource("missing");
    missing["spec"]["model"]["source"]["path"] = json!("no-such-folder");
    tiny::apply(&kubernetes, &space.name, &missing)?;
    let mut wrong = Vec::new();
    let expected = BROKEN.iter().map(|it| (it.folder, it.reason, it.word));
    for (name, reason, word) in expected.chain([("missing", "ModelNotFound", "no-such-folder")]) {
        let resource = kubernetes.resource(&space.name, name);
        let condition = resource.await_condition("ModelResolved", "False", PATIENCE)?;
        println!(
            "           {name}: {}: {}",
            condition.reason, condition.message
        );
        let named = condition
            .message
            .to_lowercase()
            .contains(&word.to_lowercase());
        if condition.reason != reason || !named {
            wrong.push(format!(
                "{name}: wanted {reason} naming {word:?}, found {condition:?}"
            ));
        }
        if !resource.engine_pods()?.is_empty() {
            wrong.push(format!("{name}: an engine pod exists"));
        }
    }
    expect(wrong.is_empty(), || wrong.join("\n"))?;
    expect_eq("answer", &asked(&kubernetes, good, "tiny")?.status, &200)?;
    Ok(u32::try_from(BROKEN.len())? + 1)
}

/// An image with one folder per broken model, each a copy of a good one with one harm done.
fn archive() -> Result<PathBuf> {
    let root = paths::cache()?.join("broken-models");
    let _ = fs::remove_dir_all(&root);
    let good = tiny::files_below(&tiny::fixtures().join(tiny::MODEL))?;
    for broken in &BROKEN {
        let folder = root.join(broken.folder);
        fs::create_dir_all(&folder)?;
        for (name, source) in &good {
            fs::write(folder.join(name), fs::read(source)?)?;
        }
        (broken.harm)(&folder).with_context(|| broken.folder)?;
    }
    images::files(IMAGE, &tiny::files_below(&root)?)
}

const WEIGHTS: &str = "model.safetensors";

fn no_config(folder: &Path) -> Result<()> {
    fs::remove_file(folder.join("config.json")).map_err(Into::into)
}

fn no_tokenizer(folder: &Path) -> Result<()> {
    fs::remove_file(folder.join("tokenizer.json")).map_err(Into::into)
}

fn not_json(folder: &Path) -> Result<()> {
    fs::write(folder.join("config.json"), "{\"architectures\": [").map_err(Into::into)
}

/// The tensors that the header promises are not all there.
fn truncated(folder: &Path) -> Result<()> {
    let bytes = fs::read(folder.join(WEIGHTS))?;
    fs::write(folder.join(WEIGHTS), &bytes[..bytes.len() / 2]).map_err(Into::into)
}

/// The first eight bytes say how long the header is: longer than any file.
fn lying_header(folder: &Path) -> Result<()> {
    let mut bytes = fs::read(folder.join(WEIGHTS))?;
    bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    fs::write(folder.join(WEIGHTS), bytes).map_err(Into::into)
}

/// The weights have another shape than the configuration says.
fn other_shape(folder: &Path) -> Result<()> {
    change_config(folder, |config| {
        let size = config["intermediate_size"].as_u64().unwrap_or_default();
        config["intermediate_size"] = json!(size * 2);
    })
}

fn unknown(folder: &Path) -> Result<()> {
    change_config(folder, |config| {
        config["architectures"] = json!(["MambaForCausalLM"]);
        config["model_type"] = json!("mamba");
    })
}

fn change_config(folder: &Path, change: fn(&mut Value)) -> Result<()> {
    let file = folder.join("config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&file)?)?;
    change(&mut config);
    fs::write(&file, config.to_string()).map_err(Into::into)
}
