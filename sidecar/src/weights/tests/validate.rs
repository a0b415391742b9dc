//! Tensors against the shape that a config describes.

use plimsoll_planner::{Architecture, ModelShape};

use crate::weights::folder::SafetensorsFolder;
use crate::weights::testing::{TempFolder, safetensors, safetensors_of};
use crate::weights::{needed, validate};

fn shape() -> ModelShape {
    ModelShape {
        architecture: Architecture::Qwen3,
        layers: 2,
        hidden: 8,
        query_heads: 2,
        kv_heads: 1,
        head_dim: 4,
        ffn: 16,
        vocab: 10,
        tied: false,
        qkv_bias: true,
        output_bias: true,
        mlp_bias: true,
        qk_norm: true,
        context: 64,
        blocks: plimsoll_planner::ModelBlocks::default(),
    }
}

/// The model's tensors, changed.
fn checked(change: impl Fn(&mut Vec<(String, Vec<usize>)>)) -> Result<(), String> {
    let mut tensors = needed(&shape());
    change(&mut tensors);
    let folder = TempFolder::new();
    let tensors: Vec<(&str, &[usize])> = tensors
        .iter()
        .map(|(name, dims)| (name.as_str(), dims.as_slice()))
        .collect();
    folder.write("model.safetensors", safetensors(&tensors));
    let source = SafetensorsFolder::open(folder.path(), &mut |_| ()).unwrap();
    validate(&shape(), &source).map_err(|e| e.to_string())
}

#[test]
fn what_is_needed_is_enough() {
    assert_eq!(checked(|_| ()), Ok(()));
    // 3 outside, and per layer 9 weights, 3 + 1 + 3 biases, 2 norms of heads.
    assert_eq!(needed(&shape()).len(), 3 + 2 * 18);
}

#[test]
fn every_missing_tensor_is_named() {
    for at in 0..needed(&shape()).len() {
        let name = needed(&shape())[at].0.clone();
        let message = checked(|tensors| drop(tensors.remove(at))).unwrap_err();
        assert!(
            message.contains(&format!("`{name}` is missing")),
            "{message}"
        );
    }
}

#[test]
fn every_other_shape_is_refused_with_both() {
    for at in 0..needed(&shape()).len() {
        let (name, dims) = needed(&shape())[at].clone();
        let mut other = dims.clone();
        other[0] += 1;
        let message = checked(|tensors| tensors[at].1[0] += 1).unwrap_err();
        let expected = format!("`{name}` has the shape {other:?}, the config asks for {dims:?}");
        assert!(message.contains(&expected), "{message}");
    }
}

#[test]
fn tensors_with_no_place_are_refused_in_layers_only() {
    let message = checked(|tensors| {
        tensors.push(("model.layers.2.mlp.up_proj.weight".into(), vec![16, 8]));
    });
    assert!(
        message
            .unwrap_err()
            .contains("`model.layers.2.mlp.up_proj.weight` has no place")
    );
    assert_eq!(
        checked(|tensors| tensors.push(("extra".into(), vec![1]))),
        Ok(())
    );
    let inv_freq = "model.layers.0.self_attn.rotary_emb.inv_freq";
    assert_eq!(
        checked(|tensors| tensors.push((inv_freq.into(), vec![2]))),
        Ok(())
    );
}

#[test]
fn types_that_are_not_read_are_refused_by_name() {
    let folder = TempFolder::new();
    let header =
        r#"{"model.embed_tokens.weight":{"dtype":"F8_E4M3","shape":[10,8],"data_offsets":[0,80]}}"#;
    folder.write("model.safetensors", safetensors_of(header, 80));
    let source = SafetensorsFolder::open(folder.path(), &mut |_| ()).unwrap();
    let error = validate(&shape(), &source).unwrap_err();
    assert_eq!(error.reason(), "UnsupportedFormat");
    assert!(
        error
            .to_string()
            .contains("`model.embed_tokens.weight` is F8_E4M3"),
        "{error}"
    );
}

#[test]
fn packed_integers_are_recognised() {
    let message = checked(|tensors| {
        for (name, _) in tensors {
            if name == "model.layers.0.mlp.down_proj.weight" {
                *name = "model.layers.0.mlp.down_proj.qweight".into();
            }
        }
    });
    assert!(
        message
            .unwrap_err()
            .contains("qweight` is packed, and the quantization_config")
    );
}
