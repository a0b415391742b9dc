//! `spec.model`: which model, where it lies, and what requests call it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules::rule;

/// The model to run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelSpec {
    /// Where the model lies: exactly one of image, persistentVolumeClaim and hostPath.
    pub source: ModelSource,
    /// Names that requests may call the model by, the first being the canonical one; absent means
    /// the resource's own name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 8),
        inner(length(min = 1, max = 128), regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._:/@+-]*$")),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub served_names: Vec<String>,
    /// Type of the weights in memory, of activations, and of exact products of weights in 2 to 8 bits:
    /// Float32, BFloat16, Float16, or Auto for the file's own type (BFloat16 for quantised files).
    #[serde(default)]
    pub dtype: DtypeChoice,
    /// In how many bits weights are kept, and how they are multiplied.
    // Left out where nothing is asked for: revisions are named by what is written, also by operators
    // from before.
    #[serde(default, skip_serializing_if = "QuantizationSpec::is_default")]
    pub quantization: QuantizationSpec,
}

/// In how many bits weights are kept, and how they are multiplied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    rule(
        "!has(self.groupSize) || self.mode == 'Int4' || (self.mode == 'Int8' && self.groupSize == 32)",
    ).says(
        "groupSize is of weights that are rounded: write mode Int4 with 32 or 128, mode Int8 with 32, or \
         leave groupSize out",
    ),
]))]
pub struct QuantizationSpec {
    /// Auto: they stay as the file has them (status.model.blocks names which), and take the file's bytes;
    /// packed ones with zero points a fiftieth more in groups of 128, up to a sixth more in smaller ones.
    /// None: all are expanded to dtype, which weights need that are to be updated with floats.
    /// Int8: as Auto, and matrices that would be of dtype are rounded to 8 bits while they are read (Q8_0:
    /// 32 numbers of a row share a scale), which takes 8.5 bits each; where such rows are no whole groups
    /// of 32 they stay of dtype. Int4: the same to 4.5 bits (Q4_0), embedding and head to 8.5; answers are
    /// further from the model's. Quantised matrices that an adapter is merged into are rounded so, too: a
    /// second time, which is refused where it takes more than nine tenths of what the adapter adds. On
    /// backend CUDA neither is there yet.
    #[serde(default)]
    pub mode: QuantizationMode,
    /// Numbers of a row that share a scale where mode Int4 rounds: 32, which is what absent means, or 128,
    /// where a scale and a zero point (Z4_128) take 4.25 bits a number in all instead of 4.5, and answers
    /// are a little further from the model's; rows that are no whole groups of 128 stay in groups of 32.
    /// With mode Int8 32 alone, and nothing where nothing is rounded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = [32, 128]))]
    pub group_size: Option<u32>,
    /// How those that stay are multiplied. Exact: in dtype, with the bits of expanded weights. Int16:
    /// inputs are rounded to 16 bits (32 numbers share a scale) and products are those of integers,
    /// which is nearer to Float32 than Exact in BFloat16, and much faster for few tokens on CPUs with
    /// AVX512-VNNI. Int8: inputs are rounded to 8 bits, which is faster still, and answers may differ
    /// where two tokens are close. Both are refused where no weights stay. Auto: Int16 on CPUs with
    /// AVX2 or AVX-512 and no AMX, where dtype is not Float32; otherwise Exact.
    /// status.effective.computeDtype tells.
    #[serde(default, skip_serializing_if = "ComputeDtype::is_auto")]
    pub compute_dtype: ComputeDtype,
}

impl QuantizationSpec {
    fn is_default(&self) -> bool {
        *self == QuantizationSpec::default()
    }
}

/// In how many bits weights are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum QuantizationMode {
    #[default]
    Auto,
    None,
    Int8,
    Int4,
}

/// How weights in 2 to 8 bits are multiplied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ComputeDtype {
    #[default]
    Auto,
    Int8,
    Int16,
    Exact,
}

impl ComputeDtype {
    /// For documents, which leave out what is not asked for.
    pub(crate) fn is_auto(&self) -> bool {
        *self == ComputeDtype::Auto
    }
}

/// Type of numbers in memory, or Auto.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DtypeChoice {
    #[default]
    Auto,
    Float32,
    BFloat16,
    Float16,
}

/// Where the model lies.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    rule(
        "[has(self.image), has(self.persistentVolumeClaim), has(self.hostPath)]\
         .filter(x, x).size() == 1",
    ).says(
        "set exactly one of image, persistentVolumeClaim and hostPath",
    ),
]))]
pub struct ModelSource {
    /// An OCI image whose files are the model (an image volume).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageSource>,
    /// A claim in the same namespace whose volume holds the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<PersistentVolumeClaimSource>,
    /// A folder of the node, for development: the namespace must allow Pod Security `privileged`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_path: Option<HostPathSource>,
    /// The model inside the source: a Hugging Face folder, a GGUF file, or a folder with one GGUF
    /// file; of an adapter, its folder. Relative, without `..`; absent means the top of the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), extend("x-kubernetes-validations" = [
        rule("!self.startsWith('/') && !self.split('/').exists(part, part == '..')").says(
            "must be relative to the top of the source and hold no '..'; \
             write e.g. models/smollm2",
        ),
    ]))]
    pub path: Option<String>,
}

/// An OCI image whose files are the model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageSource {
    /// Reference of the image, by tag or digest.
    #[schemars(length(min = 1, max = 1024))]
    pub reference: String,
    /// When to pull it: Always, IfNotPresent or Never; absent means Always for the tag `latest`
    /// and IfNotPresent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pull_policy: Option<PullPolicy>,
}

/// When an image is pulled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

impl PullPolicy {
    pub const fn as_str(self) -> &'static str {
        match self {
            PullPolicy::Always => "Always",
            PullPolicy::IfNotPresent => "IfNotPresent",
            PullPolicy::Never => "Never",
        }
    }
}

/// A claim whose volume holds the model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PersistentVolumeClaimSource {
    /// Name of the claim.
    #[schemars(length(min = 1, max = 253))]
    pub claim_name: String,
    /// Attach the volume read-only. The engine reads it through a read-only mount either way.
    #[serde(default)]
    pub read_only: bool,
}

/// A folder of the node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostPathSource {
    /// Absolute path of a folder that exists on the node.
    #[schemars(length(min = 1, max = 1024), extend("x-kubernetes-validations" = [
        rule("self.startsWith('/') && !self.split('/').exists(part, part == '..')").says(
            "must be absolute and hold no '..'; write e.g. \
             /var/lib/models",
        ),
    ]))]
    pub path: String,
}
