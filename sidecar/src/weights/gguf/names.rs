//! GGUF tensor names and types in Hugging Face's terms.

use plimsoll_planner::BlockFormat;

use crate::weights::encoding::Encoding;

/// The Hugging Face name of a tensor; None for tensors that are no part of a decoder here.
pub(crate) fn hugging_face(name: &str) -> Option<String> {
    let (stem, kind) = name.rsplit_once('.')?;
    if kind != "weight" && kind != "bias" {
        return None;
    }
    let outside = match stem {
        "token_embd" => Some("model.embed_tokens"),
        "output_norm" => Some("model.norm"),
        "output" => Some("lm_head"),
        _ => None,
    };
    if let Some(module) = outside {
        return Some(format!("{module}.{kind}"));
    }
    let (layer, part) = stem.strip_prefix("blk.")?.split_once('.')?;
    let layer: u32 = layer.parse().ok()?;
    let module = match part {
        "attn_norm" => "input_layernorm",
        "ffn_norm" => "post_attention_layernorm",
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_output" => "self_attn.o_proj",
        "attn_q_norm" => "self_attn.q_norm",
        "attn_k_norm" => "self_attn.k_norm",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        _ => return None,
    };
    Some(format!("model.layers.{layer}.{module}.{kind}"))
}

/// What a type number of the header means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TensorType {
    Read(Encoding),
    /// A type of ggml that is not read.
    Known(&'static str),
    Unknown,
}

pub(crate) fn tensor_type(number: u32) -> TensorType {
    use TensorType::{Known, Read, Unknown};
    let blocks = |format| Read(Encoding::Blocks(format));
    match number {
        0 => Read(Encoding::F32),
        1 => Read(Encoding::F16),
        2 => blocks(BlockFormat::Q4_0),
        3 => blocks(BlockFormat::Q4_1),
        6 => blocks(BlockFormat::Q5_0),
        7 => blocks(BlockFormat::Q5_1),
        8 => blocks(BlockFormat::Q8_0),
        9 => Known("Q8_1"),
        10 => blocks(BlockFormat::Q2K),
        11 => blocks(BlockFormat::Q3K),
        12 => blocks(BlockFormat::Q4K),
        13 => blocks(BlockFormat::Q5K),
        14 => blocks(BlockFormat::Q6K),
        15 => Known("Q8_K"),
        16 => Known("IQ2_XXS"),
        17 => Known("IQ2_XS"),
        18 => Known("IQ3_XXS"),
        19 => Known("IQ1_S"),
        20 => blocks(BlockFormat::Iq4Nl),
        21 => Known("IQ3_S"),
        22 => Known("IQ2_S"),
        23 => blocks(BlockFormat::Iq4Xs),
        24 => Known("I8"),
        25 => Known("I16"),
        26 => Known("I32"),
        27 => Known("I64"),
        28 => Known("F64"),
        29 => Known("IQ1_M"),
        30 => Read(Encoding::Bf16),
        34 => Known("TQ1_0"),
        35 => Known("TQ2_0"),
        39 => Known("MXFP4"),
        _ => Unknown,
    }
}
