//! Flags and the operator's document lead to the same plan; what contradicts is refused.

use clap::Parser;
use plimsoll_crds::v1alpha1::adapters::AdapterScale;
use std::fs;

use plimsoll_crds::names;
use plimsoll_crds::v1alpha1::{Boot, Target, convert};
use plimsoll_planner::{Bytes, refit};

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

#[test]
fn a_share_is_of_what_a_limit_leaves_and_of_nothing_else() {
    for (line, told) in [
        ("--memory-limit 4Gi", true),
        ("", false),
        ("--quota 0=300Mi", false),
        ("--memory-limit 4Gi --quota 0=300Mi", false),
    ] {
        assert_eq!(shares_a_limit(&flags(line)), told, "{line}");
    }
    let share = |line: &str| utilization(&flags(line)).unwrap();
    assert_eq!(share("--memory-limit 4Gi"), Utilization(900));
    assert_eq!(share("--gpu-memory-utilization 0.5"), Utilization(500));
}

#[test]
fn a_group_size_is_of_a_mode_that_has_it() {
    use plimsoll_planner::Quantization;
    let asked = |line: &str| {
        let flags = flags(line);
        flags.quantization.with(flags.quantization_group_size)
    };
    for (line, mode) in [
        ("", Quantization::Auto),
        (
            "--quantization int8 --quantization-group-size 32",
            Quantization::Int8,
        ),
        ("--quantization int4", Quantization::Int4),
        (
            "--quantization int4 --quantization-group-size 32",
            Quantization::Int4,
        ),
        (
            "--quantization int4 --quantization-group-size 128",
            Quantization::Int4By128,
        ),
    ] {
        assert_eq!(asked(line), Ok(mode), "{line}");
    }
    for (line, why) in [
        ("--quantization-group-size 128", "nothing is rounded"),
        (
            "--quantization none --quantization-group-size 32",
            "nothing is rounded",
        ),
        (
            "--quantization int8 --quantization-group-size 128",
            "weights in 8 bits have groups of 32; give --quantization int4 with 32 or 128",
        ),
    ] {
        let told = asked(line).unwrap_err();
        assert!(
            told.starts_with("--quantization-group-size: ") && told.contains(why),
            "{told}"
        );
    }
}

const TWO_RANKS: &str = "--tensor-parallel-size 2 --quota 0=8Mi --quota 1=9Mi --dtype float32 \
    --max-num-seqs 4 --max-num-batched-tokens 64";

/// The documents an operator would write for the same request.
fn documents(model: &Model, planned: &Planned) -> Documents {
    let Planned { request, plan } = planned;
    let boot = serde_json::json!({
        "modelPath": "/models/tiny",
        "servedNames": ["tiny"],
        "digest": model.digest,
        "dtype": "Float32",
        "backend": "CPU",
        "limits": {"maxNumSeqs": 4, "maxNumBatchedTokens": 64},
        "kvCache": {"dtype": "Float32", "blockSize": 16},
        "split": convert::boot_split(request, plan),
        "revision": "r1",
    });
    Documents {
        boot: serde_json::from_value(boot).unwrap(),
        target: convert::target(request, plan, (1, 0.9)),
    }
}

/// The target that an operator would send to an engine of `documents` for other quotas.
fn retold(model: &Model, documents: &Documents, quotas: [u64; 2]) -> Target {
    let Documents { boot, target } = documents;
    let mut asked = target.clone();
    for (rank, mib) in asked.ranks.iter_mut().zip(quotas) {
        rank.quota_bytes = Some(mib << 20);
    }
    let request = convert::target_request(boot, &asked, model.shape.clone()).unwrap();
    let shards = convert::shards(&boot.split).unwrap();
    let plan = refit(&request, &shards, boot.split.max_model_len).unwrap();
    convert::target(&request, &plan, (target.generation + 1, 0.9))
}

fn differs(documents: &Documents, model: &Model) -> String {
    let error = documents.plan(model).unwrap_err();
    assert_eq!(error.exit_code(), names::EXIT_PLAN_DIFFERS, "{error}");
    error.to_string()
}

#[test]
fn flags_and_documents_give_the_same_plan() {
    let model = model();
    let by_flags = plan_flags(&flags(TWO_RANKS), &model).unwrap();
    let by_documents = documents(&model, &by_flags).plan(&model).unwrap();
    assert_eq!(by_documents.request, by_flags.request);
    assert_eq!(by_documents.plan, by_flags.plan);
}

#[test]
fn another_digest_split_or_plan_refuses_to_boot_with_both_numbers() {
    let model = model();
    let planned = plan_flags(&flags(TWO_RANKS), &model).unwrap();
    let good = documents(&model, &planned);
    let mut other = good.clone();
    other.boot.digest = "sha256:0".into();
    let error = other.plan(&model).unwrap_err();
    assert_eq!(error.exit_code(), names::EXIT_OTHER_FILES);
    let message = error.to_string();
    assert!(
        message.contains("sha256:0") && message.contains(&model.digest),
        "{message}"
    );

    let mut other = good.clone();
    let weights = &mut other.target.ranks[1].accounts[0];
    let theirs = weights.planned_bytes + 64;
    let ours = std::mem::replace(&mut weights.planned_bytes, theirs);
    let message = differs(&other, &model);
    let expected = format!("Weights of rank 1 (bytes) is {theirs} there, {ours} here");
    assert!(message.contains(&expected), "{message}");

    type Change = fn(&mut Documents);
    let changes: [(Change, &str); 9] = [
        (|it| it.target.kv_cache.blocks += 1, "KV blocks"),
        (|it| it.target.kv_cache.tokens += 1, "KV tokens"),
        (
            |it| it.target.ranks[0].budget_bytes -= 1,
            "budget of rank 0",
        ),
        (
            |it| it.target.ranks[0].accounts[0].name = "Cache".into(),
            "Weights of rank 0",
        ),
        (
            |it| it.boot.split.ranks[1].mlp_columns[0] += 128,
            "mlpColumns of rank 1",
        ),
        (
            |it| it.boot.split.ranks[0].kv_heads = [1, 0],
            "kvHeads of rank 0",
        ),
        (|it| it.boot.split.max_model_len += 1, "maxModelLen"),
        (|it| it.boot.split.ranks.truncate(1), "number of ranks"),
        // Made for other budgets: another split, or another context.
        (
            |it| it.boot.split.made_for.budget_bytes[0] = 700 << 10,
            " there, ",
        ),
    ];
    for (change, part) in changes {
        let mut other = good.clone();
        change(&mut other);
        let message = differs(&other, &model);
        assert!(message.contains(part), "{part}: {message}");
    }
}

#[test]
fn a_pod_that_starts_again_keeps_its_shards_and_takes_the_newest_target() {
    let model = model();
    let planned = plan_flags(&flags(TWO_RANKS), &model).unwrap();
    let mut newer = documents(&model, &planned);
    newer.target = retold(&model, &newer, [10, 12]);
    let started = newer.plan(&model).unwrap();
    let shards = |plan: &Plan| -> Vec<_> {
        let ranks = plan.ranks.iter();
        ranks.map(|rank| rank.shard.clone()).collect()
    };
    assert_eq!(shards(&started.plan), shards(&planned.plan));
    assert_eq!(started.plan.max_model_len, planned.plan.max_model_len);
    assert!(started.plan.kv_blocks > planned.plan.kv_blocks);
    assert_eq!(started.plan.ranks[1].budget, Bytes::measured(12 << 20));

    // A target that the shards cannot hold is refused by its name, with the numbers.
    newer.target.ranks[0].quota_bytes = Some(600 << 10);
    let error = newer.plan(&model).unwrap_err().to_string();
    assert!(
        error.starts_with("target of generation 2: the quotas are too small: rank 0 needs"),
        "{error}"
    );
    let mut short = documents(&model, &planned);
    short.target.ranks.truncate(1);
    let error = short.plan(&model).unwrap_err().to_string();
    assert!(error.contains("2 shards for 1 ranks"), "{error}");
}

#[test]
fn documents_are_read_from_a_folder_or_refused_by_file_and_field() {
    let model = model();
    let planned = plan_flags(&flags(TWO_RANKS), &model).unwrap();
    let good = documents(&model, &planned);
    let folder = std::env::temp_dir().join(format!("plimsoll-documents-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let (boot, target) = (folder.join(names::BOOT_KEY), folder.join(names::TARGET_KEY));
    let read = |boot_text: &str, target_text: &str| {
        fs::write(&boot, boot_text).unwrap();
        fs::write(&target, target_text).unwrap();
        Documents::read(&folder)
    };
    let boot_text = serde_json::to_string(&good.boot).unwrap();
    let target_text = serde_json::to_string(&good.target).unwrap();
    let back = read(&boot_text, &target_text).unwrap();
    assert_eq!((&back.boot, &back.target), (&good.boot, &good.target));

    assert!(
        !boot_text.contains("adapters"),
        "no older engine would know them"
    );
    let with = boot_text.replacen('{', r#"{"adapters": [{"name": "a", "path": "/x/a"}], "#, 1);
    read(&with, &target_text).unwrap();
    let args = format!("x serve --config {}", folder.display());
    let Command::Serve(args) = Cli::parse_from(args.split_whitespace()).command else {
        panic!("not a serve")
    };
    let settings = Settings::read(&args).unwrap();
    let adapter = AdapterPath {
        name: "a".to_owned(),
        path: "/x/a".into(),
        scale: AdapterScale::ONE,
    };
    assert_eq!(settings.adapters, [adapter]);

    let nameless = Boot {
        served_names: Vec::new(),
        ..good.boot.clone()
    };
    let nameless = serde_json::to_string(&nameless).unwrap();
    let refused = |boot_text: &str, target_text: &str, part: &str| {
        let error = read(boot_text, target_text).unwrap_err().to_string();
        assert!(error.contains(part), "{part}: {error}");
    };
    refused(&nameless, &target_text, "boot.json: servedNames: empty");
    let cuda = boot_text.replace("\"CPU\"", "\"CUDA\"");
    refused(&cuda, &target_text, "boot.json: backend");
    refused(&boot_text, "{}", "target.json: missing field");
    refused(&boot_text[1..], &target_text, "boot.json: ");
    let newer = target_text.replacen('{', "{\"nap\": 1, ", 1);
    refused(&boot_text, &newer, "unknown field `nap`");
    fs::remove_file(&target).unwrap();
    let error = Documents::read(&folder).unwrap_err().to_string();
    assert!(error.contains("target.json"), "{error}");
    let error = Documents::read(&boot).unwrap_err().to_string();
    assert!(error.contains("is a file; name the folder"), "{error}");
    fs::remove_dir_all(folder).unwrap();
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
    assert!(matches!(error, BootError::FlagsRefused(_)), "{error}");
    let said = error.to_string();
    assert!(
        said.contains("--quota of rank 0") && !said.contains("spec."),
        "{said}"
    );
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
