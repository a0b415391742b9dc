//! Adapters that requests choose, against what PEFT says of them: alone, on any shards, in batches that
//! mix them with each other and with the base, and beside cached prefixes.
#![allow(clippy::unwrap_used, reason = "a broken fixture ends the test")]

mod harness;

use std::sync::Arc;

use harness::adapted::{ask_as, dynamic, folder, opened, slots, start_with};
use harness::fixture::{Fixture, Prompt, assert_logits};
use harness::{Run, fixtures, halves, open, split, start, tiny};
use plimsoll_crds::v1alpha1::adapters::AdapterScale;
use plimsoll_planner::adapters::total;
use plimsoll_planner::{Account, Shard};
use plimsoll_sidecar::engine::control::Commands;
use plimsoll_sidecar::engine::handle::EngineHandle;
use plimsoll_sidecar::engine::request::Refused;
use plimsoll_sidecar::engine::rest::PauseMode::Keep;
use plimsoll_sidecar::model::{AdapterPath, Model};

#[derive(serde::Deserialize)]
struct Expected {
    base: String,
    prompts: Vec<Prompt>,
}

/// Those that change nothing but matrices of layers.
const LINEAR: [&str; 5] = ["plain", "rslora", "patterns", "layers", "fan-in"];

/// The base of an adapter, with what PEFT says of both.
fn fixture(name: &str) -> Fixture {
    let text = std::fs::read_to_string(folder(name).join("expected.json")).unwrap();
    let Expected { base, prompts } = serde_json::from_str(&text).unwrap();
    Fixture {
        name: name.to_owned(),
        model: open(&fixtures().join("models").join(base)),
        prompts,
    }
}

fn check(fixture: &Fixture, handle: &EngineHandle, what: &str) {
    for (index, prompt) in (0..).zip(&fixture.prompts) {
        let what = format!("{}, {what}, prompt {index}", fixture.name);
        let count = u32::try_from(prompt.greedy.len()).unwrap();
        let asked = ask_as(handle, index, &prompt.ids, count, Some(&fixture.name));
        let answered = asked.wait();
        assert_eq!(answered.ids, prompt.greedy, "{what}");
        assert_logits(&answered.logits[0], &prompt.logits_last, &what);
    }
}

#[test]
fn logits_and_greedy_ids_are_pefts_on_any_shards() {
    for name in LINEAR {
        let fixture = fixture(name);
        let shape = &fixture.model.shape;
        let adapter = dynamic(&fixture.model, name);
        let whole = vec![Shard::whole(shape)];
        let uneven = [split(shape, 2, [0, 1, 0]), split(shape, 3, [0, 1, 0])];
        for shards in [whole].into_iter().chain(uneven) {
            let run = Run {
                shards,
                adapters: slots(2, 5),
                ..Run::whole(shape)
            };
            let handle = start_with(&fixture.model, &run, &[Arc::clone(&adapter)]);
            check(&fixture, &handle, &format!("{:?}", run.shards));
        }
    }
}

/// A slot has room for a larger rank than the adapter's, and instructions and threads differ.
#[test]
fn batches_may_mix_adapters_and_base_and_every_row_keeps_the_bits_that_it_has_alone() {
    let model = tiny();
    let run = Run {
        adapters: slots(3, 4),
        prefix_cache: false,
        threads: 2,
        ..Run::whole(&model.shape)
    };
    let adapters = [
        dynamic(&model, "plain"),
        dynamic(&model, "fan-in"),
        opened(&model, "loud", &folder("plain"), 3.0),
    ];
    let handle = start_with(&model, &run, &adapters);
    let prompt = |of: u32| -> Vec<u32> { (of..of + 20 + 7 * of).collect() };
    let asked = [
        None,
        Some("plain"),
        Some("fan-in"),
        None,
        Some("loud"),
        Some("plain"),
    ];
    let ask = |(id, adapter): (u32, &Option<&str>)| {
        ask_as(&handle, u64::from(id), &prompt(id), 12, *adapter)
    };
    let bits = |logits: Vec<Vec<f32>>| -> Vec<u32> {
        logits.into_iter().flatten().map(f32::to_bits).collect()
    };
    let alone: Vec<_> = (1..).zip(&asked).map(ask).map(|of| of.wait()).collect();
    assert_eq!(handle.pause(Keep, false).wait(), Ok(()));
    let together: Vec<_> = (1..).zip(&asked).map(ask).collect();
    assert_eq!(handle.resume().wait(), Ok(()));
    for ((alone, together), adapter) in alone.into_iter().zip(together).zip(asked) {
        let together = together.wait();
        assert_eq!(together.ids, alone.ids, "{adapter:?}");
        assert!(bits(together.logits) == bits(alone.logits), "{adapter:?}");
    }
    // And the base is the base, bit for bit.
    let without = start(
        &model,
        &Run {
            adapters: slots(0, 0),
            ..run
        },
    );
    for id in [1, 4] {
        let [with, without] =
            [&handle, &without].map(|of| ask_as(of, 9, &prompt(id), 12, None).wait());
        assert!(bits(with.logits) == bits(without.logits));
    }
}

#[test]
fn no_prefix_of_another_adapter_or_of_the_base_is_found() {
    let model = tiny();
    let run = Run {
        adapters: slots(2, 2),
        ..Run::whole(&model.shape)
    };
    let handle = start_with(
        &model,
        &run,
        &[dynamic(&model, "plain"), dynamic(&model, "fan-in")],
    );
    let prompt: Vec<u32> = (3..103).collect();
    let cached = |adapter| {
        let answered = ask_as(&handle, 1, &prompt, 8, adapter).wait();
        (answered.finished.unwrap().cached_tokens, answered.ids)
    };
    let (first, base) = cached(None);
    assert_eq!(first, 0);
    for adapter in ["plain", "fan-in"] {
        let (first, ids) = cached(Some(adapter));
        assert_eq!(first, 0, "{adapter}");
        assert_eq!(cached(Some(adapter)), (96, ids), "its own is found");
    }
    assert_eq!(cached(None), (96, base));
    // The same adapter loaded once more is another one.
    let again = dynamic(&model, "plain");
    assert_eq!(handle.load_adapter(again, true).wait(), Ok(()));
    assert_eq!(cached(Some("plain")).0, 0);
    assert_eq!(cached(Some("fan-in")).0, 96, "others keep theirs");
}

#[test]
fn the_ledger_has_what_the_plan_says_on_every_rank() {
    let model = tiny();
    let shards = split(&model.shape, 2, [0, 1, 0]);
    let run = Run {
        shards: shards.clone(),
        adapters: slots(3, 7),
        ..Run::whole(&model.shape)
    };
    let handle = start_with(&model, &run, &[dynamic(&model, "plain")]);
    let request = harness::planner_request(&model, &run, vec![None; 2]);
    for (rank, shard) in handle.memory().ranks.iter().zip(&shards) {
        let bytes = total(&model.shape, shard, &request.limits, run.adapters).get();
        let row = rank
            .accounts
            .iter()
            .find(|row| row.account == Account::Adapters);
        let row = row.unwrap();
        assert_eq!(row.planned.get(), bytes.next_multiple_of(4096));
        assert_eq!(row.reserved, row.planned);
        assert_eq!(rank.other, 0);
    }
    let view = handle.dynamic();
    assert_eq!(view.adapters.len(), 1);
    let of = &view.adapters[0];
    assert_eq!(
        (of.name.as_str(), of.rank, of.slot, of.matrices),
        ("plain", 2, 0, 14)
    );
    assert!(of.answers_change.unwrap() > 0.0);
}

fn refusal(model: &Model, adapter: &str, scale: f64) -> String {
    let at = AdapterPath {
        name: "x".to_owned(),
        path: folder(adapter),
        scale: AdapterScale(scale),
    };
    model.open_adapter(&at).unwrap_err().to_string()
}

#[test]
fn what_cannot_be_computed_beside_the_weights_is_refused_by_name_with_the_way_out() {
    for (adapter, says) in [
        ("dora", "use_dora is not served unmerged"),
        ("bias", "lora_bias is not served unmerged"),
        (
            "embeddings",
            "lm_head.weight: a matrix outside of the layers is not served unmerged",
        ),
        ("saved", "modules_to_save is not served unmerged"),
        ("tokens", "trainable_token_indices is not served unmerged"),
        (
            "tied-head",
            "lm_head.weight: modules_to_save is not served unmerged",
        ),
    ] {
        let told = refusal(&fixture(adapter).model, adapter, 1.0);
        assert!(told.contains(says), "{told}");
        assert!(
            told.contains("merge it at the start (--adapter x=FOLDER:merge)"),
            "{told}"
        );
    }
    // And all that a merge refuses, in the same words.
    let told = refusal(&tiny(), "rslora", 1.0);
    assert!(
        told.contains("adapter `x`: adapter_model.safetensors: "),
        "{told}"
    );
    let told = refusal(&tiny(), "nowhere", 1.0);
    assert!(told.contains("no such file"), "{told}");
    let told = refusal(&tiny(), "plain", f64::NAN);
    assert!(told.contains("scale: is NaN"), "{told}");
}

#[test]
fn a_request_for_an_adapter_that_is_not_there_is_refused() {
    let model = tiny();
    let run = Run {
        shards: halves(&model),
        adapters: slots(1, 2),
        ..Run::whole(&model.shape)
    };
    let handle = start_with(&model, &run, &[dynamic(&model, "plain")]);
    let (mut request, _) = harness::request(1, &[5, 6], 3);
    request.adapter = Some("other".into());
    let name = "other".to_owned();
    assert_eq!(handle.submit(request), Err(Refused::NoAdapter { name }));
}
