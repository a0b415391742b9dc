//! Packed folders that cannot be.

use safetensors::Dtype as Type;
use serde_json::{Value, json};

use super::{DOWN, Fixture, MODELS, Made};

type Change = fn(&mut Fixture);

#[test]
fn what_cannot_be_is_refused_by_name() {
    let cases: &[(&str, &str, Change)] = &[
        ("gptq-4bit", "the scale at [2, 1] is NaN", |f| {
            f.down("scales").2[2 * 128 + 2..][..2].copy_from_slice(&[0xFF, 0x7F]);
        }),
        (
            "ct-w4a16",
            "weight_scale`: the scale at [0, 0] is inf",
            |f| {
                f.down("weight_scale").2[..2].copy_from_slice(&[0x80, 0x7F]);
            },
        ),
        ("ct-fp8", "the number at [0, 3] is NaN", |f| {
            f.down("weight").2[3] = 0x7F
        }),
        (
            "gptq-4bit-act-order",
            "puts input 4 into group 5, and there are 5",
            |f| {
                f.down("g_idx").2[16] = 5;
            },
        ),
        (
            "gptq-4bit",
            "puts 31 inputs into group 0, which has 32",
            |f| {
                // The first input goes to another group.
                f.down("g_idx").2[0] = 1;
            },
        ),
        (
            "gptq-4bit-act-order",
            "puts input 2 into group 4294967295, and there are 5",
            |f| f.down("g_idx").2[8..12].fill(0xFF),
        ),
        ("gptq-4bit", "down_proj.g_idx` is I32 [159]", |f| {
            let idx = f.down("g_idx");
            (idx.1, idx.2) = (vec![159], idx.2[4..].to_vec());
        }),
        ("gptq-4bit", "down_proj.qzeros` is missing", |f| {
            f.tensors.remove(&format!("{DOWN}.qzeros"));
        }),
        (
            "gptq-4bit-act-order",
            "g_idx` is missing, and config.json says",
            |f| drop(f.tensors.remove(&format!("{DOWN}.g_idx"))),
        ),
        (
            "ct-w4a16-zero-points",
            "weight_zero_point` is missing, and config.json says",
            |f| drop(f.tensors.remove(&format!("{DOWN}.weight_zero_point"))),
        ),
        ("awq-4bit", "down_proj.scales` is missing", |f| {
            f.tensors.remove(&format!("{DOWN}.scales"));
        }),
        ("gptq-4bit", "down_proj.qweight` is F32 [20, 64]", |f| {
            f.down("qweight").0 = Type::F32;
        }),
        ("gptq-4bit", "is I32 [10, 64], and a packed matrix", |f| {
            // Half of its words.
            let words = f.down("qweight");
            (words.1, words.2) = (vec![10, 64], words.2[..10 * 64 * 4].to_vec());
        }),
        ("gptq-4bit", "stands beside a qweight", |f| {
            let weight = Made(Type::F16, vec![64, 160], vec![0; 64 * 160 * 2]);
            f.tensors.insert(format!("{DOWN}.weight"), weight);
        }),
        ("ct-w4a16", "says [64, 161]", |f| {
            f.down("weight_shape").2[8] = 161
        }),
        (
            "ct-w4a16",
            "no group_size of that many for 64 inputs",
            |f| {
                f.config["quantization_config"]["config_groups"]["group_0"]["weights"]["group_size"] =
                    json!(64);
            },
        ),
        (
            "ct-w4a16",
            "has 8 words of 32 bits a row, and config.json has [8] bits",
            |f| {
                f.config["quantization_config"]["config_groups"]["group_0"]["weights"]["num_bits"] =
                    json!(8);
            },
        ),
        (
            "fp8-block",
            "nor one for each block of config.json ([[64, 64]])",
            |f| {
                f.config["quantization_config"]["weight_block_size"] = json!([64, 64]);
            },
        ),
        ("gptq-4bit", "no tensor is packed as it says", |f| {
            f.config["quantization_config"] = json!({"quant_method": "fp8"});
        }),
        (
            "gptq-4bit",
            "qweight` is packed, and the quantization_config",
            |f| {
                f.config
                    .as_object_mut()
                    .unwrap()
                    .remove("quantization_config");
            },
        ),
    ];
    for (name, expected, change) in cases {
        let mut fixture = Fixture::new(name);
        change(&mut fixture);
        let message = match fixture.open() {
            Err(message) => message,
            Ok(model) => {
                let down = format!("{DOWN}.weight");
                let mut out = vec![0.0; 64 * 160];
                let read = model.tensors.read_rows(&down, 0..64, &mut out);
                read.unwrap_err().to_string()
            }
        };
        assert!(message.contains(expected), "{name}: {message}");
    }
}

#[test]
fn configs_that_are_not_read_are_refused_with_what_to_use() {
    let gptq = json!({"quant_method": "gptq", "bits": 4, "group_size": 32});
    let ct = |weights: Value| {
        json!({"quant_method": "compressed-tensors", "format": "pack-quantized",
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}})
    };
    let with = |base: &Value, field: &str, value: Value| {
        let mut config = base.clone();
        config[field] = value;
        config
    };
    for (quantization, expected) in [
        (
            json!({"quant_method": "bitsandbytes", "load_in_4bit": true}),
            "quant_method `bitsandbytes`",
        ),
        (json!({"bits": 4}), "quant_method `unnamed`"),
        (
            with(&gptq, "bits", json!(3)),
            "bits is 3, and 4 and 8 are read",
        ),
        (
            with(&gptq, "group_size", json!(0)),
            "group_size is 0, expected",
        ),
        (
            with(&gptq, "checkpoint_format", json!("marlin")),
            "checkpoint_format `marlin`",
        ),
        (
            with(&gptq, "dynamic", json!({"-:.*": {}})),
            "dynamic is {\"-:.*\":{}}",
        ),
        (
            json!({"quant_method": "awq", "bits": 4, "version": "gemv"}),
            "version `gemv`",
        ),
        (json!({"quant_method": "fp8", "fmt": "e5m2"}), "fmt `e5m2`"),
        (
            json!({"quant_method": "fp8", "weight_block_size": [128]}),
            "a block of [128]",
        ),
        (
            json!({"quant_method": "fp8", "scale_fmt": "ue8m0"}),
            "scale_fmt is \"ue8m0\"",
        ),
        (
            ct(json!({"num_bits": 3, "type": "int"})),
            "num_bits is 3, and integers of 4 and 8 bits",
        ),
        (
            ct(json!({"num_bits": 4, "type": "float"})),
            "num_bits is 4, and floats of 8 bits",
        ),
        (
            ct(json!({"num_bits": 4, "strategy": "tensor_group"})),
            "strategy `tensor_group`",
        ),
        (
            with(&ct(json!({})), "format", json!("nvfp4-pack-quantized")),
            "format `nvfp4-pack-quantized`",
        ),
        (
            with(&ct(json!({})), "transform_config", json!({"R1": {}})),
            "transform_config is",
        ),
        (
            with(
                &ct(json!({})),
                "sparsity_config",
                json!({"format": "sparse-24-bitmask"}),
            ),
            "sparse-24",
        ),
    ] {
        let mut fixture = Fixture::new("gptq-4bit");
        fixture.config["quantization_config"] = quantization.clone();
        let message = fixture.open().unwrap_err();
        assert!(message.contains(expected), "{quantization}: {message}");
        let way_out = message.contains("or a GGUF file") || message.contains("expected");
        assert!(
            message.starts_with("config.json: quantization_config: ") && way_out,
            "{message}"
        );
    }
}

/// Random changes of tensors and config: whatever comes of them is read or refused, by name.
#[test]
fn no_change_of_a_folder_is_answered_with_a_panic() {
    let mut state = 7_u64;
    let mut random = |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below.max(1)
    };
    let numbers = [
        json!(0),
        json!(-1),
        json!(1),
        json!(33),
        json!(u64::MAX),
        json!("4"),
        json!(null),
    ];
    let (mut taken, mut refused) = (0, 0);
    for (name, ..) in MODELS {
        for _ in 0..25 {
            let mut fixture = Fixture::new(name);
            for _ in 0..=random(2) {
                let at = random(fixture.tensors.len());
                let key = fixture.tensors.keys().nth(at).unwrap().clone();
                let tensor = fixture.tensors.get_mut(&key).unwrap();
                let bytes = tensor.2.len();
                match random(6) {
                    0 => drop(fixture.tensors.remove(&key)),
                    1 => tensor.2[random(bytes)] ^= 1 << random(8),
                    2 => tensor.2.fill(u8::try_from(random(256)).unwrap()),
                    3 => tensor.1.reverse(),
                    4 if tensor.0 == Type::F16 => tensor.0 = Type::BF16,
                    _ => {
                        let fields = fixture.config["quantization_config"]
                            .as_object_mut()
                            .unwrap();
                        let field = fields.keys().nth(random(fields.len())).unwrap().clone();
                        fields[&field] = numbers[random(numbers.len())].clone();
                    }
                }
            }
            let Ok(model) = fixture.open() else {
                refused += 1;
                continue;
            };
            taken += 1;
            for name in model.tensors.names() {
                let (rows, cols) = model.tensors.info(name).unwrap().rows_cols();
                let mut out = vec![0.0; rows * cols];
                let _ = model.tensors.read_rows(name, 0..rows, &mut out);
            }
        }
    }
    assert!(
        taken > 50 && refused > 50,
        "{taken} taken, {refused} refused"
    );
}
