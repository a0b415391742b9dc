//! Flags and the operator's document lead to the same plan; what contradicts is refused.

use clap::Parser;
use plimsoll_crds::names;

use super::*;
use crate::args::{Cli, Command};
use crate::model::ModelFolder;

fn model() -> Model {
    let folder = "tests/fixtures/models/tiny-llama";
    ModelFolder::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)).unwrap()
}

fn flags(line: &str) -> MemoryArgs {
    let line = format!("x plan m {line}");
    let cli = Cli::try_parse_from(line.split_whitespace()).unwrap();
    let Command::Plan(args) = cli.command else {
        panic!("not a plan")
    };
    args.memory
}

const TWO_RANKS: &str = "--tensor-parallel-size 2 --quota 0=8Mi --quota 1=9Mi --dtype float32 \
    --max-num-seqs 4 --max-num-batched-tokens 64";

/// The document an operator would write for the same request.
fn document(model: &Model, planned: &Planned) -> Document {
    let Planned { request, plan } = planned;
    let row = |(rank, capacity): (u32, &RankCapacity)| {
        serde_json::json!({
            "rank": rank,
            "quotaBytes": capacity.quota.map(plimsoll_planner::Bytes::get),
            "totalBytes": capacity.total.map(plimsoll_planner::Bytes::get),
        })
    };
    let ranks: Vec<_> = (0..).zip(&request.ranks).map(row).collect();
    serde_json::from_value(serde_json::json!({
        "modelPath": "/models/tiny",
        "servedNames": ["tiny"],
        "digest": model.digest,
        "dtype": "Float32",
        "backend": "CPU",
        "limits": {"maxNumSeqs": 4, "maxNumBatchedTokens": 64},
        "gpuMemoryUtilization": 0.9,
        "kvCache": {"dtype": "Float32", "blockSize": 16},
        "ranks": ranks,
        "plan": convert::plan_status(plan),
        "revision": "r1",
    }))
    .unwrap()
}

fn settings(document: Document) -> Settings {
    Settings {
        model: "/models/tiny".into(),
        served: document.served_names.clone(),
        revision: document.revision.clone(),
        backend: document.backend,
        memory: Asked::Document(Box::new(document)),
    }
}

#[test]
fn flags_and_document_give_the_same_plan() {
    let model = model();
    let by_flags = plan_flags(&flags(TWO_RANKS), &model).unwrap();
    let by_document = settings(document(&model, &by_flags)).plan(&model).unwrap();
    assert_eq!(by_document.request, by_flags.request);
    assert_eq!(by_document.plan, by_flags.plan);
}

#[test]
fn another_digest_or_plan_refuses_to_boot_with_both_numbers() {
    let model = model();
    let planned = plan_flags(&flags(TWO_RANKS), &model).unwrap();
    let mut other = document(&model, &planned);
    other.digest = "sha256:0".into();
    let error = settings(other).plan(&model).unwrap_err();
    assert_eq!(error.exit_code(), names::EXIT_OTHER_FILES);
    let message = error.to_string();
    assert!(
        message.contains("sha256:0") && message.contains(&model.digest),
        "{message}"
    );

    let mut other = document(&model, &planned);
    let weights = &mut other.plan.ranks[1].accounts[0];
    let theirs = weights.planned_bytes + 64;
    let ours = std::mem::replace(&mut weights.planned_bytes, theirs);
    let error = settings(other).plan(&model).unwrap_err();
    assert_eq!(error.exit_code(), names::EXIT_PLAN_DIFFERS);
    let message = error.to_string();
    let expected = format!("Weights of rank 1 (bytes) is {theirs} there, {ours} here");
    assert!(message.contains(&expected), "{message}");

    let mut other = document(&model, &planned);
    other.plan.kv_blocks += 1;
    let message = settings(other).plan(&model).unwrap_err().to_string();
    assert!(message.contains("KV blocks"), "{message}");
}

#[test]
fn flags_that_contradict_are_refused_by_name() {
    let model = model();
    for (line, part) in [
        ("--quota 1=1Gi", "rank 1 does not exist"),
        (
            "--tensor-parallel-size 2 --quota 0=1Gi",
            "1 given for --tensor-parallel-size 2",
        ),
        (
            "--tensor-parallel-size 2 --quota 0=1Gi --quota 0=2Gi",
            "rank 0 has two quotas",
        ),
    ] {
        let error = plan_flags(&flags(line), &model).unwrap_err();
        assert_eq!(error.exit_code(), crate::error::EXIT_USAGE, "{line}");
        let message = error.to_string();
        assert!(message.contains(part), "{line}: {message}");
    }
    let error = plan_flags(&flags("--quota 0=1Mi"), &model).unwrap_err();
    assert!(matches!(error, BootError::Refused(_)), "{error}");
}

#[test]
fn a_model_without_a_name_is_called_as_its_file() {
    let engine = |line: &str| {
        let line = format!("x serve m {line}");
        let cli = Cli::try_parse_from(line.split_whitespace()).unwrap();
        let Command::Serve(args) = cli.command else {
            panic!("not serve")
        };
        args.engine
    };
    assert_eq!(
        served_names(&engine(""), Path::new("/a/Smol.Q4_1.gguf")).unwrap(),
        ["Smol.Q4_1"]
    );
    assert_eq!(
        served_names(&engine(""), Path::new("/a/qwen/")).unwrap(),
        ["qwen"]
    );
    let two = engine("--served-model-name a --served-model-name b");
    assert_eq!(served_names(&two, Path::new("/x")).unwrap(), ["a", "b"]);
    let twice = engine("--served-model-name a --served-model-name b --served-model-name a");
    let error = served_names(&twice, Path::new("/x")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "--served-model-name: a is there twice; give it once"
    );
}
