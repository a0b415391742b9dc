//! The documents between operator and sidecar: they come back as they went, stay within the sizes
//! that Kubernetes allows, and refuse what they do not know.
#![expect(clippy::unwrap_used, reason = "a test may end at the unexpected")]

mod reported;
mod told;

use plimsoll_crds::names;
use plimsoll_crds::v1alpha1::boot::*;
use plimsoll_crds::v1alpha1::convert::{STORED_BYTES_MAX, fit_facts, stored_blocks};
use plimsoll_crds::v1alpha1::engine::*;
use plimsoll_crds::v1alpha1::facts::*;
use plimsoll_crds::v1alpha1::report::*;
use plimsoll_crds::v1alpha1::status::*;
use plimsoll_crds::v1alpha1::target::*;
use plimsoll_planner::{LayerBlocks, LayerOrders, ModelBlocks, Order};
use reported::report;
use serde::Serialize;
use serde::de::DeserializeOwned;
use told::{asleep, boot, target};

fn back<T: Serialize + DeserializeOwned>(value: &T) -> T {
    serde_json::from_str(&serde_json::to_string(value).unwrap()).unwrap()
}

/// As many kinds of layers as facts tell of, in no order.
fn largest_blocks() -> StoredBlocks {
    let all = plimsoll_planner::BlockFormat::ALL;
    let pick = |at: usize| Some(all[at % all.len()]);
    let layer = |at: usize| LayerBlocks {
        query: pick(at),
        key: pick(at + 1),
        value: pick(at + 2),
        output: pick(at + 3),
        gate: pick(at + 4),
        up: pick(at + 5),
        down: pick(at + 6),
        orders: LayerOrders {
            key: Order::Own,
            gate: Order::Own,
            down: Order::Own,
            ..LayerOrders::INPUTS
        },
    };
    let blocks = ModelBlocks {
        embedding: Some(plimsoll_planner::BlockFormat::Iq4Xs),
        head: Some(plimsoll_planner::BlockFormat::Iq4Nl),
        layers: (0..256).map(layer).collect(),
    };
    let fit = stored_blocks(&fit_facts(blocks)).unwrap();
    assert!(fit.layers.len() >= 5, "{fit:?}");
    let bytes = serde_json::to_string(&fit).unwrap().len();
    assert!(
        bytes <= STORED_BYTES_MAX && bytes > STORED_BYTES_MAX - 200,
        "{bytes}"
    );
    fit
}

fn largest_facts() -> ModelFacts {
    ModelFacts {
        architecture: Architecture::Mistral,
        format: ModelFormat::HuggingFace,
        layers: u32::MAX,
        hidden_size: u32::MAX,
        query_heads: u32::MAX,
        kv_heads: u32::MAX,
        head_dim: u32::MAX,
        intermediate_size: u32::MAX,
        vocabulary_size: u32::MAX,
        tied: false,
        qkv_bias: false,
        output_bias: false,
        mlp_bias: false,
        qk_norm: false,
        context_length: u32::MAX,
        file_dtype: "IQ4_XS".repeat(4),
        default_dtype: Dtype::BFloat16,
        quantization: Some("compressed-tensors, W8A8".to_owned()),
        blocks: Some(largest_blocks()),
        weight_file_bytes: u64::MAX,
        parameters: u64::MAX,
        digest: format!("sha256:{}", "f".repeat(64)),
        notes: Vec::new(),
        adapters: (0..8)
            .map(|at| AdapterFacts {
                name: format!("{at}").repeat(63),
                digest: format!("sha256:{}", "f".repeat(64)),
                tensors: u32::MAX,
            })
            .collect(),
    }
}

#[test]
fn facts_fit_a_termination_message() {
    let result = InspectResult {
        facts: Some(largest_facts()),
        error: None,
    };
    assert_eq!(back(&result), result);
    let size = serde_json::to_string(&result).unwrap().len();
    let with_notes = size + 900;
    assert!(with_notes < names::TERMINATION_MESSAGE_BYTES, "{size}");
}

#[test]
fn refusal_of_a_model_fits_a_termination_message() {
    // Every character of the message may take six bytes of JSON (\u0007).
    let error = InspectError {
        reason: "UnsupportedArchitecture".to_owned(),
        message: "\u{7}".repeat(names::MESSAGE_CHARS / 2),
    };
    let result = InspectResult {
        facts: None,
        error: Some(error),
    };
    assert_eq!(back(&result), result);
    assert!(serde_json::to_string(&result).unwrap().len() < names::TERMINATION_MESSAGE_BYTES);
}

fn plan_status() -> PlanStatus {
    let span = |end| Span { start: 0, end };
    PlanStatus {
        kv_blocks: 100,
        kv_tokens: 99 * 16,
        max_model_len: 1584,
        ranks: vec![RankPlanStatus {
            rank: 0,
            budget_bytes: 1 << 30,
            kv_heads: span(3),
            query_heads: span(9),
            mlp_columns: span(1536),
            vocab_rows: span(49_152),
            accounts: vec![PlannedAccount {
                name: "Weights".to_owned(),
                planned_bytes: 7,
            }],
        }],
    }
}

#[test]
fn documents_of_an_engine_come_back_as_they_went() {
    assert_eq!(back(&boot()), boot());
    assert_eq!(back(&target()), target());
    assert_eq!(back(&asleep()), asleep());
    // Without a word of sleep it is awake, as documents from before sleep are.
    let text = serde_json::to_string(&target()).unwrap();
    for word in ["sleep", "idle", "wake"] {
        assert!(!text.contains(word), "engines from before {word} refuse it");
    }
    assert!(asleep().same_demand(&target()));
    let orders = [target(), asleep()].map(|it| it.sleep_order());
    assert_eq!(orders.map(|order| back(&order)), orders);
    let text = serde_json::to_string(&orders[0]).unwrap();
    assert_eq!(text, r#"{"generation":4}"#, "awake");
    // Told alone it leaves all else of a target.
    assert_eq!(target().with_sleep(&orders[1]), asleep());
    assert_eq!(asleep().with_sleep(&orders[0]), target());
}

/// Every object of a document refuses a field that it does not know.
fn refuses_unknown<T: Serialize + DeserializeOwned>(document: &T) {
    fn objects(at: &str, value: &serde_json::Value, found: &mut Vec<String>) {
        use serde_json::Value::{Array, Object};
        let step = |key: &str, value, found: &mut _| objects(&format!("{at}/{key}"), value, found);
        match value {
            Object(fields) => {
                found.push(at.to_owned());
                fields.iter().for_each(|(key, it)| step(key, it, found));
            }
            Array(items) => {
                let items = items.iter().enumerate();
                items.for_each(|(index, it)| step(&index.to_string(), it, found));
            }
            _ => {}
        }
    }
    let json = serde_json::to_value(document).unwrap();
    let mut found = Vec::new();
    objects("", &json, &mut found);
    assert!(found.len() >= 4, "{found:?}");
    for at in found {
        let mut json = json.clone();
        json.pointer_mut(&at).unwrap()["newer"] = 2.into();
        let error = serde_json::from_value::<T>(json).err();
        let error = error.map_or_else(String::new, |error| error.to_string());
        assert!(error.contains("unknown field `newer`"), "{at}: {error}");
    }
}

#[test]
fn documents_of_an_engine_refuse_fields_they_do_not_know() {
    refuses_unknown(&boot());
    refuses_unknown(&target());
    refuses_unknown(&asleep());
    for body in [
        r#"{"generation": 4, "nap": 1}"#,
        r#"{"sleep": {"level": 1}}"#,
    ] {
        assert!(serde_json::from_str::<SleepOrder>(body).is_err(), "{body}");
    }
    let both = serde_json::json!({"boot": boot(), "target": target()});
    assert!(serde_json::from_value::<Boot>(both.clone()).is_err());
    assert!(serde_json::from_value::<Target>(both).is_err());
}

fn misses_none<T: Serialize + DeserializeOwned>(document: &T) {
    let json = serde_json::to_value(document).unwrap();
    for name in json.as_object().unwrap().keys() {
        let mut json = json.clone();
        json.as_object_mut().unwrap().remove(name);
        assert!(
            serde_json::from_value::<T>(json).is_err(),
            "{name} was not missed"
        );
    }
}

#[test]
fn documents_of_an_engine_miss_no_field_silently() {
    misses_none(&boot());
    misses_none(&target());
}

#[test]
fn documents_of_an_engine_take_no_number_for_another() {
    type Change = fn(&mut serde_json::Value, &mut serde_json::Value);
    let changes: [Change; 9] = [
        |boot, _| boot["split"]["ranks"][0]["kvHeads"] = serde_json::json!([0]),
        |boot, _| boot["split"]["ranks"][0]["kvHeads"] = serde_json::json!([0, 1, 2]),
        |boot, _| boot["split"]["ranks"][0]["kvHeads"] = serde_json::json!([-1, 1]),
        |boot, _| boot["split"]["madeFor"]["budgetBytes"][0] = serde_json::json!(1.5),
        |boot, _| boot["backend"] = "cpu".into(),
        |_, target| target["generation"] = "4".into(),
        |_, target| target["ranks"][0]["quotaBytes"] = serde_json::json!(-1),
        |_, target| target["ranks"][0]["quotaBytes"] = "1Gi".into(),
        |_, target| target["kvCache"]["blocks"] = serde_json::json!(1u64 << 32),
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let mut boot = serde_json::to_value(boot()).unwrap();
        let mut target = serde_json::to_value(target()).unwrap();
        change(&mut boot, &mut target);
        let boot = serde_json::from_value::<Boot>(boot);
        let target = serde_json::from_value::<Target>(target);
        assert!(boot.is_err() || target.is_err(), "change {index} was taken");
    }
}

#[test]
fn report_is_one_line_and_comes_back_as_it_went() {
    let report = report(16);
    assert_eq!(back(&report), report);
    let line = serde_json::to_string(&report).unwrap();
    assert!(line.contains("\"time\":\"2026-09-21T14:13:20Z\""), "{line}");
    assert!(!line.contains('\n') && line.len() < 32 * 1024, "{line}");
}

#[test]
fn largest_status_stays_far_below_what_etcd_stores() {
    let report = report(16);
    let mut status = InferenceDeploymentStatus {
        model: Some(largest_facts()),
        memory: Some(MemoryStatus {
            plan: Some(plan_status()),
            ..MemoryStatus::default()
        }),
        ..InferenceDeploymentStatus::default()
    };
    let memory = status.memory.as_mut().unwrap();
    for pod in 0..names::STATUS_ROWS {
        let origin = RowOrigin {
            pod: format!("{}-{pod:05}", "p".repeat(247)),
            node: Some("n".repeat(253)),
            reported_at: report.time.clone(),
            stale: false,
        };
        let (rank, host) = (report.ranks[0].clone(), report.host.clone());
        memory.gpus.push(GpuRow::new(&origin, rank));
        memory.hosts.push(HostRow::new(&origin, host));
        let told = report.target.clone().unwrap();
        memory.targets.push(TargetRow {
            sleep_generation: Some(i64::MAX >> 11),
            ..TargetRow::new(&origin.pod, told)
        });
    }
    let size = serde_json::to_string(&status).unwrap().len();
    assert!(
        size < 288 * 1024,
        "{size} bytes of the 1.5 MiB that etcd stores"
    );
    assert_eq!(back(&status), status);
}

#[test]
fn a_report_of_an_older_engine_has_no_target() {
    let mut json = serde_json::to_value(report(1)).unwrap();
    assert_eq!(json["target"]["outcome"], "Deferred");
    // What it says of its target it says of its sleep.
    assert_eq!(report(1).sleep_told(), report(1).target.as_ref());
    json.as_object_mut().unwrap().remove("target");
    let older: MemoryReport = serde_json::from_value(json).unwrap();
    assert_eq!(older.target, None);
}

#[test]
fn a_row_says_of_the_newest_sleep_what_the_report_did() {
    let told = report(1).target.unwrap();
    let row = TargetRow::new("chat-0", told.clone());
    assert_eq!(row.clone().sleep_report(), told);
    let alone = TargetRow {
        sleep_generation: Some(told.generation + 2),
        ..row
    };
    assert_eq!(TargetReport::from(alone.clone()), told);
    let sleep = TargetReport {
        generation: told.generation + 2,
        ..told
    };
    assert_eq!(alone.sleep_report(), sleep);
}

#[test]
fn rows_are_the_reports_and_nothing_else() {
    let report = report(2);
    let origin = RowOrigin {
        pod: "chat-0".to_owned(),
        node: None,
        reported_at: report.time.clone(),
        stale: true,
    };
    let row = serde_json::to_value(GpuRow::new(&origin, report.ranks[1].clone())).unwrap();
    let mut rank = serde_json::to_value(&report.ranks[1]).unwrap();
    rank["pod"] = "chat-0".into();
    rank["reportedAt"] = "2026-09-21T14:13:20Z".into();
    rank["stale"] = true.into();
    rank.as_object_mut()
        .unwrap()
        .retain(|key, _| !key.starts_with("stream"));
    assert_eq!(row, rank);
}
