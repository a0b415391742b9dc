//! A scale beside an adapter's own.

use plimsoll_crds::v1alpha1::adapters::AdapterScale;
use plimsoll_planner::Dtype;
use serde_json::{Value, json};

use super::edited::Edited;
use super::merged::read_as;
use super::{AdapterPath, fixtures, open};
use crate::weights::needed;

fn base(name: &str) -> String {
    let expected = fixtures().join("adapters").join(name).join("expected.json");
    let expected: Value = serde_json::from_slice(&std::fs::read(expected).unwrap()).unwrap();
    expected["base"].as_str().unwrap().to_owned()
}

/// PEFT's `scale_layer` multiplies what alpha and rank come to: with a power of two that is, bit for
/// bit, an adapter with so much of every alpha.
#[test]
fn a_scale_is_a_factor_of_every_alpha() {
    for name in [
        "plain",
        "rslora",
        "patterns",
        "dora",
        "embeddings",
        "bias",
        "fan-in",
    ] {
        for factor in [0.5, -2.0] {
            let adapter = Edited::of(name);
            let scaled = AdapterPath {
                scale: AdapterScale(factor),
                ..adapter.write()
            };
            let mut other = Edited::of(name);
            let times = |value: &Value| json!(value.as_f64().unwrap() * factor);
            other.set("lora_alpha", times(&adapter.config["lora_alpha"]));
            if let Some(Value::Object(of)) = other.config.get_mut("alpha_pattern") {
                of.values_mut().for_each(|value| *value = times(value));
            }
            let (base, own) = (base(name), adapter.path());
            let [scaled, other, own] =
                [scaled, other.write(), own].map(|path| open(&base, &[path]).unwrap());
            let mut differs = false;
            for (tensor, _) in needed(&own.shape) {
                for row in [0, 7] {
                    let [scaled, other, own] = [&scaled, &other, &own]
                        .map(|model| read_as(model, Dtype::Float32, &tensor, row));
                    assert_eq!(scaled, other, "{name} {factor} {tensor}");
                    differs |= scaled != own;
                }
            }
            assert!(differs, "{name} {factor}");
        }
    }
}

#[test]
fn a_scale_makes_another_model_and_one_of_1_does_not() {
    let adapter = Edited::of("plain");
    let digest = |scale| {
        let path = AdapterPath {
            scale: AdapterScale(scale),
            ..adapter.write()
        };
        open("tiny-llama", &[path]).unwrap().digest
    };
    let own = open("tiny-llama", &[adapter.write()]).unwrap().digest;
    assert_eq!(digest(1.0), own);
    let different = std::collections::BTreeSet::from([own, digest(0.5), digest(-0.5)]);
    assert_eq!(different.len(), 3);
}

#[test]
fn what_is_no_scale_is_refused_and_what_it_does_not_reach_is_told() {
    let scaled = |name: &str, scale| {
        let path = fixtures().join("adapters").join(name);
        let adapter = AdapterPath {
            scale: AdapterScale(scale),
            ..super::at(&path)
        };
        open(&base(name), &[adapter])
    };
    for scale in [0.0, -0.0, f64::NAN, f64::INFINITY, 1000.5] {
        let error = scaled("plain", scale).unwrap_err().to_string();
        assert!(error.starts_with("adapter `tuned`: scale: is "), "{error}");
    }
    for (name, told) in [("plain", 0), ("saved", 1), ("tokens", 1)] {
        let found = scaled(name, 0.5).unwrap().told;
        let found = found
            .iter()
            .filter(|told| told.contains("its scale of 0.5 does not reach"));
        assert_eq!(found.count(), told, "{name}");
    }
}
