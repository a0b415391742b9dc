//! Which matrices of a folder are packed, from the tensors that are there.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::gptq::Middles;
use super::grid::Expanded;
use super::module::Module;
use super::{AWQ, FLOAT8, GPTQ, INT, Numbers, Packed, Scheme};
use crate::model_error::{ModelError, shorten};
use crate::weights::folder::SafetensorsFolder;
use crate::weights::{TensorInfo, TensorSource};

/// What a module may have beside its weights that changes nothing here: activations stay floats.
const UNUSED: [&str; 4] = [
    "input_scale",
    "output_scale",
    "input_zero_point",
    "weight_shape",
];
/// Calibrated scales of a KV cache in 8 bits, which is kept as floats.
const OF_KV: [&str; 4] = [
    "k_scale",
    "v_scale",
    "k_proj.output_scale",
    "v_proj.output_scale",
];

/// Every packed matrix by the name of its weight.
pub(super) fn all(
    files: &SafetensorsFolder,
    scheme: &Scheme,
    needed: &[(String, Vec<usize>)],
    told: &mut Vec<String>,
) -> Result<HashMap<String, Packed>, ModelError> {
    let mut packed = HashMap::new();
    let mut middles = Middles::default();
    let mut orders = HashSet::new();
    for (name, dims) in needed {
        let (Some(module), &[rows, cols]) = (name.strip_suffix(".weight"), dims.as_slice()) else {
            continue;
        };
        let module = Module {
            files,
            name: module,
            rows,
            cols,
            parts: Vec::new(),
        };
        if let Some(mut matrix) = module.packed(scheme, &mut middles)? {
            if let Numbers::Grid(grid) = &mut matrix.numbers {
                grid.groups.share(&mut orders);
            }
            packed.insert(name.clone(), matrix);
        }
    }
    if packed.is_empty() {
        return Err(ModelError::quantization(
            "weights",
            "config.json has a quantization_config, and no tensor is packed as it says; config and \
             weights are not of the same model",
        ));
    }
    middles.told(scheme, told);
    told_expanded(&packed, told);
    let rounds = |matrix: &Packed| [INT[1], FLOAT8].contains(&&*matrix.info.dtype);
    if packed.values().any(rounds) {
        let text = "inputs of its matrices in 8 bits are not rounded to 8 bits, whatever config.json says \
                    of activations";
        told.push(text.to_owned());
    }
    if OF_KV
        .iter()
        .any(|end| files.names().iter().any(|name| name.ends_with(end)))
    {
        told.push(
            "scales for a KV cache in 8 bits are not used: the cache keeps floats".to_owned(),
        );
    }
    Ok(packed)
}

/// Why integers do not stay in their bits: what the plan shows as a larger model. FP8 never does.
fn told_expanded(packed: &HashMap<String, Packed>, told: &mut Vec<String>) {
    let mut reasons: BTreeMap<Expanded, Vec<&str>> = BTreeMap::new();
    for (name, matrix) in packed {
        if let Numbers::Grid(grid) = &matrix.numbers
            && let Err(reason) = grid.blocks(matrix.info.rows_cols().1)
        {
            reasons.entry(reason).or_default().push(name);
        }
    }
    for (reason, mut names) in reasons {
        names.sort_unstable();
        told.push(format!(
            "{} of {} packed matrices are expanded at load, `{}` the first: {}",
            names.len(),
            packed.len(),
            shorten(names[0]),
            reason.why()
        ));
    }
}

/// Tensors that are there and have no say: scales of the KV cache, and the biases of zeros that AutoGPTQ
/// writes for modules without one.
pub(super) fn is_idle(
    files: &SafetensorsFolder,
    name: &str,
    packed: &HashMap<String, Packed>,
    needed: &HashSet<&str>,
) -> bool {
    if OF_KV.iter().any(|end| name.ends_with(end)) {
        return true;
    }
    let Some(module) = name.strip_suffix(".bias") else {
        return false;
    };
    let of_packed = packed.get(&format!("{module}.weight"));
    let Some(of) = of_packed.filter(|_| !needed.contains(name)) else {
        return false;
    };
    let mut bias = vec![0.0; of.info.rows_cols().0];
    let rows = 0..bias.len();
    let read = files.read_block(name, rows, 0..1, &mut bias);
    read.is_ok() && bias.iter().all(|number| *number == 0.0)
}

impl Module<'_> {
    fn packed(
        mut self,
        scheme: &Scheme,
        middles: &mut Middles,
    ) -> Result<Option<Packed>, ModelError> {
        let weight = self.part("weight").map(|info| info.dtype.clone());
        let is = |dtype: &str| weight.as_deref() == Some(dtype);
        let has_words = self.part("qweight").is_some();
        if has_words && weight.is_some() {
            return Err(self.refuse("weight", "stands beside a qweight of the same module"));
        }
        let (label, numbers) = match scheme {
            Scheme::Gptq {
                bits,
                group,
                symmetric,
                act_order,
                version_2,
            } if has_words => {
                let middles = symmetric.then_some(middles);
                self.listed("g_idx", *act_order)?;
                let numbers = self.gptq(*bits, *group, u8::from(!version_2), middles)?;
                (GPTQ[usize::from(*bits == 8)], numbers)
            }
            Scheme::Awq { group } if has_words => (AWQ, self.awq(*group)?),
            Scheme::Compressed {
                bits,
                groups,
                zero_points,
                act_order,
                ..
            } if self.part("weight_packed").is_some() || is("I8") => {
                self.listed("weight_g_idx", *act_order)?;
                self.listed("weight_zero_point", *zero_points)?;
                match is("I8") {
                    true => (INT[1], self.bytes(groups)?),
                    false => self.words(bits, groups)?,
                }
            }
            Scheme::Compressed { blocks, .. } if is("F8_E4M3") => {
                (FLOAT8, self.float8("weight_scale", blocks)?)
            }
            Scheme::Float8 { block } if is("F8_E4M3") => {
                let blocks: Vec<[usize; 2]> = block.iter().copied().collect();
                let scales = match self.part("weight_scale_inv") {
                    Some(_) => "weight_scale_inv",
                    None => "weight_scale",
                };
                (FLOAT8, self.float8(scales, &blocks)?)
            }
            Scheme::Gptq { .. }
            | Scheme::Awq { .. }
            | Scheme::Compressed { .. }
            | Scheme::Float8 { .. } => return Ok(None),
        };
        for name in UNUSED {
            if self.part(name).is_some() {
                self.parts.push(self.full(name));
            }
        }
        let bytes = self.parts.iter().filter_map(|name| self.files.info(name));
        let info = TensorInfo {
            name: self.full("weight"),
            shape: vec![self.rows, self.cols],
            dtype: label.to_owned(),
            bytes: bytes.map(|info| info.bytes).sum(),
        };
        Ok(Some(Packed {
            info,
            numbers,
            parts: self.parts,
        }))
    }
}
