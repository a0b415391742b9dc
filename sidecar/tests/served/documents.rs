//! What an operator mounts for an engine, on a tiny model.

use clap::Parser;
use plimsoll_crds::v1alpha1::{Boot, Target, convert};
use plimsoll_planner::refit;
use plimsoll_sidecar::args::{Cli, Command};
use plimsoll_sidecar::config::{Planned, plan_flags};
use plimsoll_sidecar::model::ModelFolder;
use serde_json::{Value, json};

use super::{SMALL, fixture};

/// The documents an operator mounts, for the plan that the same flags lead to.
pub(crate) fn documents() -> [(&'static str, Value); 2] {
    documents_with(&[])
}

/// The same with more flags.
pub(crate) fn documents_with(more: &[&str]) -> [(&'static str, Value); 2] {
    let line = ["x", "plan", "m", "--tensor-parallel-size", "2"];
    let quotas = ["--quota", "0=8Mi", "--quota", "1=9Mi"];
    let small = &SMALL[..6];
    let args = line.iter().chain(&quotas).chain(small).chain(more);
    let Command::Plan(flags) = Cli::try_parse_from(args).unwrap().command else {
        panic!("not a plan")
    };
    let model = ModelFolder::open(&fixture("tiny-llama")).unwrap();
    let planned = plan_flags(&flags.memory, &model).unwrap();
    let Planned { request, plan } = &planned;
    let mut boot = json!({
        "modelPath": fixture("tiny-llama"),
        "servedNames": ["chat"],
        "digest": model.digest,
        "dtype": "Float32",
        "backend": "CPU",
        "limits": {"maxNumSeqs": 4, "maxNumBatchedTokens": 64},
        "kvCache": {"dtype": "Float32", "blockSize": 16},
        "split": convert::boot_split(request, plan),
        "revision": "r7",
    });
    let room = request.adapters;
    if room.slots > 0 {
        boot["adapterSlots"] = json!({"slots": room.slots, "rank": room.rank});
    }
    let target = json!(convert::target(request, plan, (3, 0.9)));
    [("boot.json", boot), ("target.json", target)]
}

/// The target that an operator sends for quotas of so many MiB, in its next generation.
pub(crate) fn retold(boot: &Value, target: &Value, quotas: [u64; 2]) -> Value {
    let boot: Boot = serde_json::from_value(boot.clone()).unwrap();
    let mut asked: Target = serde_json::from_value(target.clone()).unwrap();
    for (rank, mib) in asked.ranks.iter_mut().zip(quotas) {
        rank.quota_bytes = Some(mib << 20);
    }
    let model = ModelFolder::open(&fixture("tiny-llama")).unwrap();
    let request = convert::target_request(&boot, &asked, model.shape).unwrap();
    let shards = convert::shards(&boot.split).unwrap();
    let plan = refit(&request, &shards, boot.split.max_model_len).unwrap();
    json!(convert::target(
        &request,
        &plan,
        (asked.generation + 1, 0.9)
    ))
}
