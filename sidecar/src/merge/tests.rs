//! A merged folder has the merged numbers, all that belongs to the base, and comes all at once.

use plimsoll_crds::v1alpha1::adapters::AdapterScale;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use plimsoll_planner::{Bytes, Dtype};
use serde_json::Value;

use super::ended::Place;
use super::{MergeError, Written};
use crate::args::{MergeArgs, ValidationArg};
use crate::model::{AdapterPath, Model, ModelFolder};
use crate::weights::needed;
use crate::weights::testing::TempFolder;

const WEIGHTS: &str = "model.safetensors";

/// As the command does, but for the signals, which are the process's.
fn run(args: &MergeArgs) -> Result<Written, MergeError> {
    super::write(args, &Place::default())
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn adapter(name: &str) -> AdapterPath {
    AdapterPath {
        name: name.to_owned(),
        path: fixtures().join("adapters").join(name),
        scale: AdapterScale::ONE,
    }
}

fn args(base: &Path, adapter: AdapterPath, out: &Path) -> MergeArgs {
    MergeArgs {
        model: base.to_owned(),
        adapter: vec![adapter],
        out: out.to_owned(),
        adapter_validation: ValidationArg::Enforce,
        shard_size: Bytes::measured(5 << 30),
    }
}

/// The base of a fixture's adapter.
fn base(name: &str) -> PathBuf {
    let expected = fs::read(adapter(name).path.join("expected.json")).unwrap();
    let expected: Value = serde_json::from_slice(&expected).unwrap();
    fixtures()
        .join("models")
        .join(expected["base"].as_str().unwrap())
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let name = |entry: fs::DirEntry| entry.file_name().into_string().unwrap();
    let mut names: Vec<String> = entries.map(|entry| name(entry.unwrap())).collect();
    names.sort();
    names
}

fn tensors(model: &Model) -> BTreeMap<String, Vec<u8>> {
    let tensor = |(name, _): (String, Vec<usize>)| {
        let info = model.tensors.info(&name).unwrap();
        let (rows, cols) = info.rows_cols();
        let dtype = match info.dtype.as_str() {
            "F16" => Dtype::Float16,
            "BF16" => Dtype::BFloat16,
            _ => Dtype::Float32,
        };
        let mut bytes = vec![0; usize::try_from(info.bytes).unwrap()];
        let read = model
            .tensors
            .read_as(dtype, &name, 0..rows, 0..cols, &mut bytes);
        read.unwrap();
        (name, bytes)
    };
    needed(&model.shape).into_iter().map(tensor).collect()
}

#[test]
fn a_merged_folder_is_the_base_with_the_merged_numbers() {
    let folder = TempFolder::new();
    for name in names(&fixtures().join("adapters")) {
        let (base, out) = (base(&name), folder.path().join(&name));
        let written = run(&args(&base, adapter(&name), &out)).unwrap();
        let served = ModelFolder::open_with(&base, &[adapter(&name)]).unwrap();
        let merged = ModelFolder::open(&out).unwrap();
        assert_eq!(tensors(&merged), tensors(&served), "{name}");
        assert_eq!(merged.shape, served.shape, "{name}");
        let untied = ["tied", "tied-head"].contains(&name.as_str());
        assert_eq!(written.untied, untied, "{name}");
        assert_eq!(
            (written.files, written.bytes),
            (1, merged.facts.weight_file_bytes)
        );
        let [of] = &written.adapters[..] else {
            panic!("{:?}", written.adapters)
        };
        assert_eq!(of.tensors, served.adapters[0].changes.len());
        let (share, ratio) = (of.figures.changed_share(), of.figures.norm_ratio());
        // Three rows of a table are a small part of it.
        let least = if name == "tokens" { 0.1 } else { 0.9 };
        assert!(
            share > least && (ratio - 1.0).abs() < 1e-3,
            "{name}: {share} {ratio}"
        );
        // Everything else is as it was, but for the word that tells of the head.
        for file in names(&base)
            .iter()
            .filter(|file| !file.starts_with("model"))
        {
            let of = |folder: &Path| fs::read(folder.join(file)).unwrap();
            let (before, after) = (of(&base), of(&out));
            if !untied || file != "config.json" {
                assert_eq!(before, after, "{name}: {file}");
                continue;
            }
            let [mut before, after] =
                [before, after].map(|bytes| serde_json::from_slice::<Value>(&bytes).unwrap());
            before["tie_word_embeddings"] = false.into();
            assert_eq!(before, after, "{name}: {file}");
        }
        assert!(out.join(WEIGHTS).exists());
    }
}

#[test]
fn large_weights_are_cut_into_files_with_an_index() {
    let folder = TempFolder::new();
    let out = folder.path().join("cut");
    let args = MergeArgs {
        shard_size: Bytes::measured(200_000),
        ..args(&base("embeddings"), adapter("embeddings"), &out)
    };
    let written = run(&args).unwrap();
    assert!(written.files > 3, "{written:?}");
    let index = fs::read(out.join("model.safetensors.index.json")).unwrap();
    let index: Value = serde_json::from_slice(&index).unwrap();
    assert_eq!(index["metadata"]["total_size"], written.bytes);
    let served = ModelFolder::open_with(&args.model, &args.adapter).unwrap();
    assert_eq!(tensors(&ModelFolder::open(&out).unwrap()), tensors(&served));
    let files: Vec<String> = names(&out)
        .into_iter()
        .filter(|name| name.ends_with("safetensors"))
        .collect();
    assert_eq!(files.len(), written.files);
    assert_eq!(
        files[0],
        format!("model-00001-of-{:05}.safetensors", written.files)
    );
    for file in files {
        let bytes = fs::read(out.join(&file)).unwrap();
        let (length, _) = bytes.split_first_chunk().unwrap();
        let data = 8 + u64::from_le_bytes(*length);
        assert_eq!(data % 8, 0, "{file}");
        assert!(bytes.len() as u64 - data <= 200_000, "{file}");
    }
}

/// A copy of a base, to which things can be added.
fn copied(base: &Path, to: &TempFolder) {
    for name in names(base) {
        to.write(&name, fs::read(base.join(&name)).unwrap());
    }
}

#[test]
fn what_is_no_part_of_the_model_is_left_behind() {
    let (folder, from) = (TempFolder::new(), TempFolder::new());
    copied(&base("plain"), &from);
    let left = [
        "adapter_config.json",
        "optimizer.pt",
        "pytorch_model.bin",
        ".hidden",
        "old.gguf",
    ];
    left.iter().for_each(|name| drop(from.write(name, "{}")));
    from.write("chat_template.jinja", "{{ messages }}");
    from.write("LICENSE", "words");
    fs::create_dir(from.path().join("additional_chat_templates")).unwrap();
    from.write("additional_chat_templates/tool.jinja", "{{ messages }}");
    fs::create_dir(from.path().join("runs")).unwrap();
    from.write("runs/log", "x");
    let out = folder.path().join("out");
    run(&args(from.path(), adapter("plain"), &out)).unwrap();
    let mut expected = names(&base("plain"));
    expected.extend(
        [
            "LICENSE",
            "additional_chat_templates",
            "chat_template.jinja",
        ]
        .map(str::to_owned),
    );
    expected.sort();
    assert_eq!(names(&out), expected);
    let template = fs::read(out.join("additional_chat_templates/tool.jinja")).unwrap();
    assert_eq!(template, b"{{ messages }}");
}

#[test]
fn what_is_left_out_and_may_belong_to_the_model_is_told() {
    let (folder, from) = (TempFolder::new(), TempFolder::new());
    copied(&base("plain"), &from);
    let large = fs::File::create(from.path().join("vocab.txt")).unwrap();
    large.set_len((256 << 20) + 1).unwrap();
    let name = OsStr::from_bytes(b"merges-\xff.txt");
    fs::write(from.path().join(name), "").unwrap();
    let out = folder.path().join("out");
    let told = run(&args(from.path(), adapter("plain"), &out))
        .unwrap()
        .told;
    for words in [
        "vocab.txt was not copied: it has 268435457 bytes",
        "its name is not UTF-8",
    ] {
        assert!(
            told.iter().any(|told| told.contains(words)),
            "no {words:?} in {told:?}"
        );
    }
    assert_eq!(names(&out), names(&base("plain")));
}

/// An adapter whose numbers are multiplied by another alpha.
fn scaled(name: &str, alpha: f64) -> (TempFolder, AdapterPath) {
    let folder = TempFolder::new();
    copied(&adapter(name).path, &folder);
    let config = folder.path().join("adapter_config.json");
    let mut fields: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    fields["lora_alpha"] = alpha.into();
    folder.write("adapter_config.json", fields.to_string());
    let path = folder.path().to_owned();
    let name = name.to_owned();
    (
        folder,
        AdapterPath {
            name,
            path,
            scale: AdapterScale::ONE,
        },
    )
}

#[test]
fn a_merge_that_fails_leaves_nothing() {
    let folder = TempFolder::new();
    let out = folder.path().join("out");
    let fails = |args: &MergeArgs| {
        let error = run(args).unwrap_err();
        assert_eq!(names(folder.path()), [""; 0], "{error}");
        error
    };
    let (_kept, huge) = scaled("half", 1e7);
    let error = fails(&args(&base("half"), huge, &out)).to_string();
    assert!(
        error.contains("adapter `half`: merged into `model.layers"),
        "{error}"
    );
    assert!(error.contains("is no Float16"), "{error}");
    let (_kept, tiny) = scaled("brain", 1e-9);
    let error = fails(&args(&base("brain"), tiny, &out)).to_string();
    assert!(
        error.starts_with("not written: adapter `brain`: rounding takes 100.0% of what it adds"),
        "{error}"
    );
    let error = fails(&args(&base("dora"), adapter("plain"), &out)).to_string();
    assert!(
        error.contains("adapter `plain`: adapter_model.safetensors"),
        "{error}"
    );
    let gguf = fixtures().join("positions/mixed-gguf/model.gguf");
    let error = fails(&args(&gguf, adapter("plain"), &out)).to_string();
    assert!(error.contains("is GGUF"), "{error}");
    let packed = TempFolder::new();
    let from = [
        ("packed/awq-4bit", "config.json"),
        ("packed/awq-4bit", "model.safetensors"),
    ];
    for (of, file) in from
        .into_iter()
        .chain([("models/tiny-llama", "tokenizer.json")])
    {
        packed.write(file, fs::read(fixtures().join(of).join(file)).unwrap());
    }
    let error = fails(&args(packed.path(), adapter("plain"), &out)).to_string();
    assert!(error.contains("is packed (AWQ-INT4)"), "{error}");
    let nowhere = folder.path().join("a/b");
    let error = fails(&args(&base("plain"), adapter("plain"), &nowhere)).to_string();
    let parent = folder.path().join("a").display().to_string();
    assert!(
        error.contains("--out") && error.contains(&(parent + " is no folder that is there")),
        "{error}"
    );
    // What a merge writes now.
    let left = folder
        .path()
        .join(format!(".out.{}.partial", std::process::id()));
    fs::create_dir(&left).unwrap();
    let held = fs::File::open(&left).unwrap();
    held.lock().unwrap();
    let error = run(&args(&base("plain"), adapter("plain"), &out)).unwrap_err();
    let (error, left_at) = (error.to_string(), left.display().to_string());
    assert!(
        error.contains(&left_at) && error.contains("remove it"),
        "{error}"
    );
    drop(held);
    fs::remove_dir(&left).unwrap();
    // And what is there stays as it is.
    fs::create_dir(&out).unwrap();
    let error = run(&args(&base("plain"), adapter("plain"), &out))
        .unwrap_err()
        .to_string();
    assert!(error.contains("is there already"), "{error}");
    assert_eq!(names(&out), [""; 0]);
}

/// The type of the file decides what is left of a change: that is told, not hidden.
#[test]
fn figures_show_what_a_narrow_type_loses() {
    let folder = TempFolder::new();
    let merged = |alpha: f64| {
        let (_kept, adapter) = scaled("brain", alpha);
        let out = folder.path().join(alpha.to_string());
        let args = MergeArgs {
            adapter_validation: ValidationArg::Report,
            ..args(&base("brain"), adapter, &out)
        };
        run(&args).unwrap().adapters[0].figures
    };
    let (whole, faint) = (merged(4.0), merged(0.002));
    assert_eq!(whole.numbers, faint.numbers);
    assert!(whole.changed_share() > 0.95, "{whole:?}");
    assert!(faint.changed_share() < 0.5, "{faint:?}");
    assert!((whole.norm_ratio() - 1.0).abs() < 0.01, "{whole:?}");
    assert!((faint.norm_ratio() - 1.0).abs() > 0.1, "{faint:?}");
}

#[test]
fn a_folder_is_not_written_into_what_is_read() {
    let (model, tuned, folder) = (TempFolder::new(), TempFolder::new(), TempFolder::new());
    copied(&base("plain"), &model);
    copied(&adapter("plain").path, &tuned);
    let adapter = || AdapterPath {
        path: tuned.path().to_owned(),
        ..adapter("plain")
    };
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(model.path(), &link).unwrap();
    let before = names(model.path());
    for out in [
        model.path().to_owned(),
        model.path().join("out"),
        link.clone(),
        link.join("out"),
        tuned.path().join("out"),
    ] {
        for read in [model.path(), &link] {
            let error = run(&args(read, adapter(), &out)).unwrap_err().to_string();
            assert!(
                error.contains("which is read; name a folder outside"),
                "{error}"
            );
        }
    }
    assert_eq!(names(model.path()), before);
    run(&args(&link, adapter(), &folder.path().join("out"))).unwrap();
}
