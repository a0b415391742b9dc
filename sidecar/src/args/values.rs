//! Values of flags: what is chosen from a list, and quotas.

use axum::http::HeaderValue;
use clap::ValueEnum;
use plimsoll_crds::v1alpha1::quantity;
use plimsoll_planner::{Bytes, Dtype};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Text,
    Json,
}

/// Where defaults of sampling come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GenerationConfig {
    /// The model's generation_config.json, or general.sampling.* of a GGUF file; OpenAI's for what
    /// is not there. A value that no request could ask for is ignored with a warning.
    Auto,
    /// OpenAI's, whatever the model says: temperature 1, top_p 1, nothing else.
    Vllm,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DtypeArg {
    Auto,
    Float32,
    Bfloat16,
    Float16,
}

impl DtypeArg {
    pub fn resolve(self, auto: Dtype) -> Dtype {
        match self {
            DtypeArg::Auto => auto,
            DtypeArg::Float32 => Dtype::Float32,
            DtypeArg::Bfloat16 => Dtype::BFloat16,
            DtypeArg::Float16 => Dtype::Float16,
        }
    }
}

/// One `--quota`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RankQuota {
    pub rank: u32,
    pub bytes: Bytes,
}

pub(super) fn rank_quota(text: &str) -> Result<RankQuota, String> {
    const FORM: &str = "write RANK=QUANTITY, e.g. 0=300Mi";
    let (rank, quantity) = text.split_once('=').ok_or(FORM)?;
    let rank = rank
        .trim()
        .parse()
        .map_err(|_| format!("{rank:?} is not a rank; {FORM}"))?;
    Ok(RankQuota {
        rank,
        bytes: quantity_bytes(quantity.trim())?,
    })
}

pub(super) fn quantity_bytes(text: &str) -> Result<Bytes, String> {
    quantity::bytes(text).map_err(|error| error.to_string())
}

/// `*`, or an origin as browsers send it: a scheme, a host, a port if it is not the usual one.
pub(super) fn origin(text: &str) -> Result<HeaderValue, String> {
    const FORM: &str = "write an origin such as https://chat.example.org, or *";
    let host = text.split_once("://").map_or("", |(_, host)| host);
    let is_origin = text == "*" || (!host.is_empty() && !host.contains(['/', '?', '#', '*']));
    if !is_origin {
        return Err(format!("{text:?} is no origin; {FORM}"));
    }
    HeaderValue::from_str(text).map_err(|_| FORM.to_owned())
}
