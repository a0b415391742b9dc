//! The tensors a shape needs, and the check that a file has exactly those.

use plimsoll_planner::ModelShape;

use super::encoding::Encoding;
use super::packed;
use super::{TensorInfo, TensorSource};
use crate::model_error::{ModelError, shorten};

const LAYERS: &str = "model.layers.";
/// Tensors some files carry in a layer that the engine computes itself.
const IGNORED: &str = ".self_attn.rotary_emb.inv_freq";

/// Every tensor the engine reads, with its shape: `(name, [out, in])` or `(name, [n])`.
pub fn needed(shape: &ModelShape) -> Vec<(String, Vec<usize>)> {
    let hidden = shape.hidden as usize;
    let vocab = shape.vocab as usize;
    let mut tensors = vec![("model.embed_tokens.weight".to_owned(), vec![vocab, hidden])];
    for layer in 0..shape.layers {
        for (module, dims) in needed_in_layer(shape) {
            tensors.push((format!("{LAYERS}{layer}.{module}"), dims));
        }
    }
    tensors.push(("model.norm.weight".to_owned(), vec![hidden]));
    if !shape.tied {
        tensors.push(("lm_head.weight".to_owned(), vec![vocab, hidden]));
    }
    tensors
}

fn needed_in_layer(shape: &ModelShape) -> Vec<(&'static str, Vec<usize>)> {
    let hidden = shape.hidden as usize;
    let head_dim = shape.head_dim as usize;
    let q = shape.query_heads as usize * head_dim;
    let kv = shape.kv_heads as usize * head_dim;
    let ffn = shape.ffn as usize;
    let mut tensors = vec![
        ("input_layernorm.weight", vec![hidden]),
        ("self_attn.q_proj.weight", vec![q, hidden]),
        ("self_attn.k_proj.weight", vec![kv, hidden]),
        ("self_attn.v_proj.weight", vec![kv, hidden]),
        ("self_attn.o_proj.weight", vec![hidden, q]),
        ("post_attention_layernorm.weight", vec![hidden]),
        ("mlp.gate_proj.weight", vec![ffn, hidden]),
        ("mlp.up_proj.weight", vec![ffn, hidden]),
        ("mlp.down_proj.weight", vec![hidden, ffn]),
    ];
    if shape.qkv_bias {
        tensors.push(("self_attn.q_proj.bias", vec![q]));
        tensors.push(("self_attn.k_proj.bias", vec![kv]));
        tensors.push(("self_attn.v_proj.bias", vec![kv]));
    }
    if shape.output_bias {
        tensors.push(("self_attn.o_proj.bias", vec![hidden]));
    }
    if shape.mlp_bias {
        tensors.push(("mlp.gate_proj.bias", vec![ffn]));
        tensors.push(("mlp.up_proj.bias", vec![ffn]));
        tensors.push(("mlp.down_proj.bias", vec![hidden]));
    }
    if shape.qk_norm {
        tensors.push(("self_attn.q_norm.weight", vec![head_dim]));
        tensors.push(("self_attn.k_norm.weight", vec![head_dim]));
    }
    tensors
}

/// Checks that every needed tensor is there with its shape and a type that is read, and that no
/// layer holds a tensor the engine would leave out.
///
/// # Errors
/// [`ModelError::InvalidWeights`] or [`ModelError::UnsupportedQuantization`], naming the tensor.
pub fn validate(shape: &ModelShape, tensors: &dyn TensorSource) -> Result<(), ModelError> {
    let needed = needed(shape);
    for (name, dims) in &needed {
        let Some(info) = tensors.info(name) else {
            return Err(missing(name, shape, tensors));
        };
        check(info, dims)?;
    }
    let needed: std::collections::HashSet<&str> =
        needed.iter().map(|(name, _)| name.as_str()).collect();
    let unexpected = tensors.names().into_iter().find(|name| {
        name.starts_with(LAYERS) && !needed.contains(name) && !name.ends_with(IGNORED)
    });
    match unexpected {
        None => Ok(()),
        Some(name) => {
            let message = format!(
                "tensor `{}` has no place in the model that the config describes ({} layers, \
                 attention bias {}, MLP bias {}); config and weights are not of the same model",
                shorten(name),
                shape.layers,
                shape.qkv_bias,
                shape.mlp_bias
            );
            Err(ModelError::weights("weights", message))
        }
    }
}

fn check(info: &TensorInfo, dims: &[usize]) -> Result<(), ModelError> {
    let name = &info.name;
    if info.shape != dims {
        let message = format!(
            "tensor `{name}` has the shape {:?}, the config asks for {dims:?}; config and weights \
             are not of the same model",
            info.shape
        );
        return Err(ModelError::weights("weights", message));
    }
    let is_packed = packed::LABELS.contains(&info.dtype.as_str());
    if !Encoding::all().any(|encoding| encoding.label() == info.dtype) && !is_packed {
        let message = format!(
            "tensor `{name}` is {}; read are {}",
            info.dtype,
            Encoding::read()
        );
        return Err(ModelError::quantization("weights", message));
    }
    Ok(())
}

fn missing(name: &str, shape: &ModelShape, tensors: &dyn TensorSource) -> ModelError {
    // Packers put their integers where the weight would be.
    let packed = name.strip_suffix(".weight").and_then(|module| {
        let parts = ["qweight", "weight_packed"].map(|part| format!("{module}.{part}"));
        parts.into_iter().find(|part| tensors.info(part).is_some())
    });
    if let Some(part) = packed {
        let message = format!(
            "`{part}` is packed, and the quantization_config of config.json does not say how; fetch the \
             files of the model again"
        );
        return ModelError::quantization("weights", message);
    }
    let hint = if name == "lm_head.weight" {
        "; a model without it has `tie_word_embeddings: true`"
    } else {
        ""
    };
    let message = format!(
        "tensor `{name}` is missing, the config asks for it ({} layers){hint}",
        shape.layers
    );
    ModelError::weights("weights", message)
}
