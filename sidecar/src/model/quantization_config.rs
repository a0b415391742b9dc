//! `quantization_config` of a `config.json`: how the weights of a Hugging Face folder are packed.
//!
//! Fields are those of transformers (`utils/quantization_config.py`), GPTQModel and AutoGPTQ
//! (`quantize_config.json`), AutoAWQ and compressed-tensors (`quantization/quant_config.py`). What has no
//! decision here is refused, as elsewhere in the config.

use serde_json::Value;

use super::object::Object;
use crate::model_error::{ModelError, shorten};
use crate::weights::packed::Scheme;

const FIELD: &str = "quantization_config";
const WAY_OUT: &str = "use the model's F32, F16 or BF16 files, or a GGUF file";

/// Reads the field, where there is one.
///
/// # Errors
/// [`ModelError::UnsupportedQuantization`] with what is not read, and what to use instead.
pub(super) fn parse(config: Object<'_>) -> Result<Option<Scheme>, ModelError> {
    let Some(fields) = config.object(FIELD)? else {
        return Ok(None);
    };
    let method = fields.text("quant_method")?;
    let scheme = match method {
        Some("gptq") => gptq(fields)?,
        Some("awq") => awq(fields)?,
        Some("compressed-tensors") => compressed(fields)?,
        Some("fp8") => float8(fields)?,
        other => {
            return Err(refused(
                fields,
                &format!(
                    "quant_method `{}` is not read (gptq, awq, compressed-tensors and fp8 are)",
                    shorten(other.unwrap_or("unnamed"))
                ),
            ));
        }
    };
    Ok(Some(scheme))
}

fn refused(fields: Object<'_>, message: &str) -> ModelError {
    ModelError::quantization(fields.file, format!("{FIELD}: {message}; {WAY_OUT}"))
}

/// Every field of a value must be one of these, or say nothing.
fn known(fields: Object<'_>, at: &str, all: &[&str]) -> Result<(), ModelError> {
    let says = |value: &Value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(list) => !list.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        _ => true,
    };
    let mut unknown = fields
        .fields
        .iter()
        .filter(|(name, value)| says(value) && !all.contains(&name.as_str()));
    match unknown.next() {
        None => Ok(()),
        Some((name, value)) => Err(refused(
            fields,
            &format!(
                "{at}{} is {}, and what it means is not known",
                shorten(name),
                shorten(&value.to_string())
            ),
        )),
    }
}

fn only(fields: Object<'_>, field: &str, all: &[&str]) -> Result<(), ModelError> {
    match fields.text(field)? {
        Some(value) if !all.contains(&value) => Err(refused(
            fields,
            &format!(
                "{field} `{}` is not read ({} is)",
                shorten(value),
                all.join(" or ")
            ),
        )),
        _ => Ok(()),
    }
}

/// -1 and absent: one group of all inputs.
fn group_size(fields: Object<'_>) -> Result<Option<usize>, ModelError> {
    const NAME: &str = "group_size";
    match fields.get(NAME) {
        None => Ok(None),
        Some(value) if value.as_i64() == Some(-1) => Ok(None),
        Some(value) => match value.as_u64().and_then(|size| usize::try_from(size).ok()) {
            Some(size @ 1..) => Ok(Some(size)),
            _ => {
                let value = shorten(&value.to_string());
                let message =
                    format!("{FIELD}: {NAME} is {value}, expected a whole number from 1 on, or -1");
                Err(ModelError::config(fields.file, message))
            }
        },
    }
}

fn bits(fields: Object<'_>, read: &[u64]) -> Result<usize, ModelError> {
    let bits = fields.number("bits")?.map(|named| named.number);
    match bits.filter(|bits| read.contains(bits)) {
        Some(bits) => Ok(usize::try_from(bits).unwrap_or(usize::MAX)),
        None => {
            let read: Vec<String> = read.iter().map(u64::to_string).collect();
            let bits = bits.map_or_else(|| "missing".to_owned(), |bits| bits.to_string());
            let read = read.join(" and ");
            Err(refused(
                fields,
                &format!("bits is {bits}, and {read} are read"),
            ))
        }
    }
}

fn gptq(fields: Object<'_>) -> Result<Scheme, ModelError> {
    // How the numbers were found, and how to run them, besides what is read.
    const KNOWN: &[&str] = &[
        "quant_method",
        "bits",
        "group_size",
        "sym",
        "desc_act",
        "checkpoint_format",
        "format",
        "act_group_aware",
        "backend",
        "batch_size",
        "block_name_to_quantize",
        "cache_block_outputs",
        "cache_examples_on_gpu",
        "damp_auto_increment",
        "damp_percent",
        "dataset",
        "disable_exllama",
        "exllama_config",
        "lm_head",
        "max_input_length",
        "meta",
        "model_file_base_name",
        "model_name_or_path",
        "model_seqlen",
        "module_name_preceding_first_block",
        "modules_in_block_to_quantize",
        "modules_to_not_convert",
        "mse",
        "pack_dtype",
        "pad_token_id",
        "quantizer",
        "static_groups",
        "tokenizer",
        "true_sequential",
        "use_cuda_fp16",
        "use_exllama",
        "version",
    ];
    known(fields, "", KNOWN)?;
    only(fields, "pack_dtype", &["int32"])?;
    only(fields, "checkpoint_format", &["gptq", "gptq_v2"])?;
    only(fields, "format", &["gptq", "gptq_v2"])?;
    let format = fields.text("checkpoint_format")?;
    let format = format.or(fields.text("format")?);
    // AutoGPTQ and transformers have it true where it is not written.
    let symmetric = fields.get("sym").is_none() || fields.flag("sym")?;
    Ok(Scheme::Gptq {
        bits: bits(fields, &[4, 8])?,
        group: group_size(fields)?,
        symmetric,
        act_order: fields.flag("desc_act")?,
        version_2: format == Some("gptq_v2"),
    })
}

fn awq(fields: Object<'_>) -> Result<Scheme, ModelError> {
    const KNOWN: &[&str] = &[
        "quant_method",
        "bits",
        "group_size",
        "version",
        "zero_point",
        "backend",
        "do_fuse",
        "exllama_config",
        "fuse_max_seq_len",
        "modules_to_fuse",
        "modules_to_not_convert",
    ];
    known(fields, "", KNOWN)?;
    only(fields, "version", &["gemm", "GEMM"])?;
    bits(fields, &[4])?;
    let group = group_size(fields)?;
    Ok(Scheme::Awq { group })
}

fn float8(fields: Object<'_>) -> Result<Scheme, ModelError> {
    const KNOWN: &[&str] = &[
        "quant_method",
        "fmt",
        "activation_scheme",
        "weight_block_size",
        "modules_to_not_convert",
        "ignored_layers",
    ];
    known(fields, "", KNOWN)?;
    only(fields, "fmt", &["e4m3"])?;
    let block = fields.get("weight_block_size");
    Ok(Scheme::Float8 {
        block: block.map(|block| block_size(fields, block)).transpose()?,
    })
}

fn block_size(fields: Object<'_>, value: &Value) -> Result<[usize; 2], ModelError> {
    let sizes: Option<Vec<usize>> = value.as_array().and_then(|sizes| {
        let size = |size: &Value| {
            usize::try_from(size.as_u64()?)
                .ok()
                .filter(|size| *size > 0)
        };
        sizes.iter().map(size).collect()
    });
    match sizes.as_deref() {
        Some(&[rows, cols]) => Ok([rows, cols]),
        _ => {
            let value = shorten(&value.to_string());
            let message =
                format!("{FIELD}: a block of {value}, expected two whole numbers from 1 on");
            Err(ModelError::config(fields.file, message))
        }
    }
}

fn compressed(fields: Object<'_>) -> Result<Scheme, ModelError> {
    const KNOWN: &[&str] = &[
        "quant_method",
        "format",
        "config_groups",
        "ignore",
        "kv_cache_scheme",
        "quantization_status",
        "global_compression_ratio",
        "version",
        "sparsity_config",
    ];
    const FORMATS: &[&str] = &[
        "pack-quantized",
        "int-quantized",
        "float-quantized",
        "naive-quantized",
        "dense",
        "mixed-precision",
    ];
    known(fields, "", KNOWN)?;
    only(fields, "format", FORMATS)?;
    if let Some(sparsity) = fields.object("sparsity_config")? {
        // What was measured of weights that are stored whole.
        const SPARSITY: &[&str] = &["format", "global_sparsity", "sparsity_structure"];
        known(sparsity, "sparsity_config.", SPARSITY)?;
        only(sparsity, "format", &["dense"])?;
    }
    let (mut bits, mut groups, mut blocks) = (Vec::new(), Vec::new(), Vec::new());
    let (mut zero_points, mut act_order) = (true, true);
    let Some(all) = fields.object("config_groups")? else {
        return Err(refused(fields, "config_groups is missing"));
    };
    for name in all.fields.keys() {
        let Some(group) = all.object(name)? else {
            continue;
        };
        const GROUP: &[&str] = &[
            "targets",
            "weights",
            "input_activations",
            "output_activations",
            "format",
        ];
        known(group, &format!("config_groups.{}.", shorten(name)), GROUP)?;
        only(group, "format", FORMATS)?;
        let Some(weights) = group.object("weights")? else {
            continue;
        };
        let Weights {
            bits: of,
            symmetric,
            ordered,
            group,
            block,
        } = weights_of(weights)?;
        bits.push(of);
        zero_points &= !symmetric;
        act_order &= ordered;
        groups.extend(group);
        blocks.extend(block);
    }
    let any = !bits.is_empty();
    Ok(Scheme::Compressed {
        bits,
        groups,
        blocks,
        zero_points: zero_points && any,
        act_order: act_order && any,
    })
}

struct Weights {
    bits: usize,
    symmetric: bool,
    ordered: bool,
    group: Option<usize>,
    block: Option<[usize; 2]>,
}

/// The `weights` of one of the groups.
fn weights_of(fields: Object<'_>) -> Result<Weights, ModelError> {
    const KNOWN: &[&str] = &[
        "num_bits",
        "type",
        "symmetric",
        "group_size",
        "strategy",
        "block_structure",
        "actorder",
        "observer",
        "observer_kwargs",
        "scale_dtype",
        "zp_dtype",
    ];
    known(fields, "config_groups.weights.", KNOWN)?;
    only(fields, "type", &["int", "float"])?;
    only(fields, "strategy", &["tensor", "channel", "group", "block"])?;
    let bits = fields.number("num_bits")?.map(|named| named.number);
    let is_float = fields.text("type")? == Some("float");
    let bits = match bits {
        Some(8) => 8,
        Some(4) if !is_float => 4,
        other => {
            let bits = other.map_or_else(|| "missing".to_owned(), |bits| bits.to_string());
            let kind = if is_float {
                "floats of 8"
            } else {
                "integers of 4 and 8"
            };
            return Err(refused(
                fields,
                &format!("num_bits is {bits}, and {kind} bits are read"),
            ));
        }
    };
    // `weight` and `static` order inputs before they are grouped, and list nothing.
    only(
        fields,
        "actorder",
        &["group", "dynamic", "weight", "static"],
    )?;
    let block = fields.get("block_structure");
    Ok(Weights {
        symmetric: fields.get("symmetric").is_none() || fields.flag("symmetric")?,
        ordered: matches!(fields.text("actorder")?, Some("group" | "dynamic")),
        bits,
        group: group_size(fields)?,
        block: block.map(|block| block_size(fields, block)).transpose()?,
    })
}
