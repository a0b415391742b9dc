//! Values of flags: what is chosen from a list, and quotas.

use axum::http::HeaderValue;
use clap::ValueEnum;
use plimsoll_crds::v1alpha1::adapters::AdapterScale;
use plimsoll_crds::v1alpha1::quantity;
use plimsoll_kernels::isa::{self, Isa};
use plimsoll_planner::{BlockCompute, Bytes, Dtype, KvDtype, Quantization};

use crate::adapters::{AdapterPath, Validation};
use crate::digits;
use crate::engine::weights::WeightsInForce;

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

/// Types of cached keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KvDtypeArg {
    Auto,
    Float32,
    Bfloat16,
    Float16,
    /// 8 bits, and a scale for each head of each token: nearly twice the tokens of 16 bits. vLLM's
    /// name is another one for it.
    #[value(alias = "int8_per_token_head")]
    Int8,
}

impl KvDtypeArg {
    pub fn resolve(self, weights: Dtype) -> KvDtype {
        match self {
            KvDtypeArg::Auto => weights.into(),
            KvDtypeArg::Float32 => KvDtype::Float32,
            KvDtypeArg::Bfloat16 => KvDtype::BFloat16,
            KvDtypeArg::Float16 => KvDtype::Float16,
            KvDtypeArg::Int8 => KvDtype::Int8,
        }
    }
}

/// In how many bits weights are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum QuantizationArg {
    /// Those that the file has in 2 to 8 bits stay so, others are of --dtype.
    Auto,
    /// All are expanded to --dtype at load.
    None,
    /// As auto, and what would be of --dtype is rounded to 8 bits (Q8_0) at load.
    Int8,
    /// As auto, and what would be of --dtype is rounded to 4 bits (Q4_0) at load; embedding and head to 8.
    Int4,
}

/// Numbers that share a scale where weights are rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GroupSizeArg {
    #[value(name = "32")]
    By32,
    #[value(name = "128")]
    By128,
}

impl QuantizationArg {
    /// With the group size that was asked for.
    ///
    /// # Errors
    /// A group size that the mode has not.
    pub fn with(self, group_size: Option<GroupSizeArg>) -> Result<Quantization, String> {
        use GroupSizeArg::{By32, By128};
        let ways = "give --quantization int4 with 32 or 128, int8 with 32, or leave it out";
        let none = |why: &str| Err(format!("--quantization-group-size: {why}; {ways}"));
        match (self, group_size) {
            (QuantizationArg::Auto, None) => Ok(Quantization::Auto),
            (QuantizationArg::None, None) => Ok(Quantization::None),
            (QuantizationArg::Int8, None | Some(By32)) => Ok(Quantization::Int8),
            (QuantizationArg::Int4, None | Some(By32)) => Ok(Quantization::Int4),
            (QuantizationArg::Int4, Some(By128)) => Ok(Quantization::Int4By128),
            (QuantizationArg::Int8, Some(By128)) => none("weights in 8 bits have groups of 32"),
            (QuantizationArg::Auto | QuantizationArg::None, Some(_)) => {
                none("without --quantization int8 or int4 nothing is rounded")
            }
        }
    }
}

/// What is done about adapters whose merge cannot be proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ValidationArg {
    /// They are not served: the process ends, and says with numbers what it found.
    Enforce,
    /// They are served, and the log says what was found.
    Report,
    /// Nothing is measured.
    Off,
}

impl From<ValidationArg> for Validation {
    fn from(arg: ValidationArg) -> Validation {
        match arg {
            ValidationArg::Enforce => Validation::Enforce,
            ValidationArg::Report => Validation::Report,
            ValidationArg::Off => Validation::Off,
        }
    }
}

/// How weights that stay in 2 to 8 bits are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ComputeArg {
    /// As int16 on CPUs with AVX2 or AVX-512 and no AMX (with AMX for float16), unless --dtype is float32; otherwise as exact.
    Auto,
    /// Inputs are rounded to 8 bits, too (32 numbers share a scale), and products are those of integers:
    /// faster on CPUs with AVX512-VNNI; answers may differ where two tokens are close.
    Int8,
    /// The same with 16 bits: nearer to float32 than exact in bfloat16, and faster for few tokens.
    Int16,
    /// In --dtype, with the bits of expanded weights.
    Exact,
}

impl From<ComputeArg> for BlockCompute {
    fn from(arg: ComputeArg) -> BlockCompute {
        match arg {
            ComputeArg::Auto => BlockCompute::Auto,
            ComputeArg::Int8 => BlockCompute::Int8,
            ComputeArg::Int16 => BlockCompute::Int16,
            ComputeArg::Exact => BlockCompute::Exact,
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
    let rank = digits::number(rank.trim()).ok_or_else(|| format!("{rank:?} is no rank; {FORM}"))?;
    Ok(RankQuota {
        rank,
        bytes: quantity_bytes(quantity.trim())?,
    })
}

pub(super) fn quantity_bytes(text: &str) -> Result<Bytes, String> {
    quantity::bytes(text).map_err(|error| error.to_string())
}

/// A share of a rank's memory.
pub(super) fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok();
    share
        .filter(|share| (0.05..=1.0).contains(share))
        .ok_or_else(|| format!("{text} is not between 0.05 and 1"))
}

/// The CRD's rule of `servedNames`; a test holds the two together.
#[cfg(test)]
pub(super) const NAME_PATTERN: &str = "^[A-Za-z0-9][A-Za-z0-9._:/@+-]*$";
pub(super) const NAME_CHARACTERS: usize = 128;

/// A version of weights, as answers and the prefix cache have it.
pub(super) fn weight_version(text: &str) -> Result<String, String> {
    WeightsInForce::check_version(text).map(|()| text.to_owned())
}

/// One `--adapter`, by what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdapterFlag {
    Merge(AdapterPath),
    Dynamic(AdapterPath),
}

/// One `--adapter` of `merge`.
pub(super) fn merged_adapter(text: &str) -> Result<AdapterPath, String> {
    match adapter(text)? {
        AdapterFlag::Merge(at) => Ok(at),
        AdapterFlag::Dynamic(_) => Err("dynamic: a folder has merged adapters alone".to_owned()),
    }
}

/// One `--adapter`.
pub(super) fn adapter(text: &str) -> Result<AdapterFlag, String> {
    const FORM: &str = "write NAME=FOLDER, e.g. sql=./sql-lora";
    let (name, rest) = text.split_once('=').ok_or(FORM)?;
    let name = served_name(name)?;
    let (path, scale) = match rest.rsplit_once(",scale=") {
        Some((path, scale)) => (path, adapter_scale(scale)?),
        None => (rest, AdapterScale::ONE),
    };
    let (path, flag): (&str, fn(AdapterPath) -> AdapterFlag) = match path.rsplit_once(':') {
        Some((path, "merge")) => (path, AdapterFlag::Merge),
        Some((path, "dynamic")) => (path, AdapterFlag::Dynamic),
        Some(_) | None => (path, AdapterFlag::Merge),
    };
    match path.is_empty() {
        true => Err(FORM.to_owned()),
        false => Ok(flag(AdapterPath {
            name,
            path: path.into(),
            scale,
        })),
    }
}

fn adapter_scale(text: &str) -> Result<AdapterScale, String> {
    let scale = text.parse().ok().map(AdapterScale);
    scale.filter(AdapterScale::is_sound).ok_or_else(|| {
        let most = AdapterScale::MOST;
        format!("scale: {text:?} is no number from -{most} to {most} that is not 0")
    })
}

/// A name that requests may call the model by.
pub(crate) fn served_name(text: &str) -> Result<String, String> {
    let begins = text.starts_with(|first: char| first.is_ascii_alphanumeric());
    let goes_on = |c: char| c.is_ascii_alphanumeric() || "._:/@+-".contains(c);
    if begins && text.len() <= NAME_CHARACTERS && text.chars().all(goes_on) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "a name has 1 to {NAME_CHARACTERS} letters, digits and . _ : / @ + -, the first a letter or \
         a digit"
    ))
}

/// Whether the machine has it is asked when the engine starts.
pub(super) fn isa(text: &str) -> Result<Isa, String> {
    text.parse()
        .map_err(|error: isa::IsaError| error.to_string())
}

pub(super) fn isa_help() -> String {
    format!(
        "Use at most these instructions: one of {}. Without it: the best the machine has",
        isa::names(&Isa::ALL)
    )
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
