//! What a model's config says of how its weights are packed.

/// How the linear weights are packed. A tensor that is no part of a packed one is as it says itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// Integers of 4 or 8 bits along the inputs, a scale and a zero point for each group of inputs.
    Gptq {
        bits: usize,
        /// Inputs of a group; absent: all.
        group: Option<usize>,
        symmetric: bool,
        /// Inputs are grouped in an order that the file lists.
        act_order: bool,
        /// What the config says of the zero points: version 1 stores them less one.
        version_2: bool,
    },
    /// Integers of 4 bits along the outputs, in AutoAWQ's order.
    Awq { group: Option<usize> },
    /// compressed-tensors: what of the config decides; the tensors say the rest.
    Compressed {
        /// Integers, or floats of 8 bits.
        bits: Vec<usize>,
        groups: Vec<usize>,
        blocks: Vec<[usize; 2]>,
        /// Every packed matrix has zero points.
        zero_points: bool,
        /// Every one of them lists the groups of its inputs.
        act_order: bool,
    },
    /// Floats of 8 bits, a scale for each block of rows and columns, or one for all.
    Float8 { block: Option<[usize; 2]> },
}
