//! In which form a model's matrices lie in memory: of one float type; where their file has them in
//! blocks, in those blocks; or in blocks that they are rounded to while they are read.

use crate::blocks::{BlockFormat, GROUP, LayerBlocks, ModelBlocks};
use crate::model::{Dtype, ModelShape};
use crate::tensor::{Form, Listed, Tensor};

/// `spec.model.quantization.mode` and `groupSize`: in which form weights are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Quantization {
    /// Those that their file has in blocks stay so, others are of the float type.
    #[default]
    Auto,
    /// All are expanded to the float type at load.
    None,
    /// As Auto, and what would be of the float type is rounded to Q8_0 at load.
    Int8,
    /// The same to Q4_0, and embedding and head to Q8_0.
    Int4,
    /// As Int4, and rows of whole groups of 128 to Z4_128.
    Int4By128,
}

impl Quantization {
    /// As the resource names it.
    pub const fn label(self) -> &'static str {
        match self {
            Quantization::Auto => "Auto",
            Quantization::None => "None",
            Quantization::Int8 => "Int8",
            Quantization::Int4 => "Int4",
            Quantization::Int4By128 => "Int4 with groupSize 128",
        }
    }

    /// What matrices of a float type are rounded to at load: in layers, to the first whose blocks their
    /// rows are whole of, and outside of them.
    const fn rounds_to(self) -> Option<(&'static [BlockFormat], BlockFormat)> {
        match self {
            Quantization::Auto | Quantization::None => None,
            Quantization::Int8 => Some((&[BlockFormat::Q8_0], BlockFormat::Q8_0)),
            Quantization::Int4 => Some((&[BlockFormat::Q4_0], BlockFormat::Q8_0)),
            Quantization::Int4By128 => Some((
                &[BlockFormat::Z4By128, BlockFormat::Q4_0],
                BlockFormat::Q8_0,
            )),
        }
    }
}

/// `spec.model.quantization.computeDtype`: how weights in blocks are multiplied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum BlockCompute {
    /// As Int16 where the machine is faster so and numbers have 16 bits, otherwise exactly.
    #[default]
    Auto,
    /// By integers, inputs rounded to 8 bits.
    Int8,
    /// By integers, inputs rounded to 16 bits, which is nearer to them than BFloat16.
    Int16,
    /// As weights that are expanded.
    Exact,
}

impl BlockCompute {
    /// What inputs are rounded to beside numbers of this type; Auto leaves it to the machine whether
    /// they are. Who asks for Float32 gets no rounded inputs unasked.
    pub const fn integers(self, dtype: Dtype) -> Option<Integers> {
        match (self, dtype) {
            (BlockCompute::Int8, _) => Some(Integers::Int8),
            (BlockCompute::Int16, _) | (BlockCompute::Auto, Dtype::BFloat16 | Dtype::Float16) => {
                Some(Integers::Int16)
            }
            (BlockCompute::Auto, Dtype::Float32) | (BlockCompute::Exact, _) => None,
        }
    }
}

/// Integers that the input of a linear layer is rounded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Integers {
    Int8,
    Int16,
}

impl Integers {
    /// Bytes of [`GROUP`] columns: a scale, the sums of both halves, the numbers.
    pub const fn group_bytes(self) -> u64 {
        let each = match self {
            Integers::Int8 => 1,
            Integers::Int16 => 2,
        };
        4 + 2 * 4 + each * GROUP
    }
}

/// What the input of a linear layer becomes before it is multiplied.
#[derive(Clone, Copy, Debug)]
pub struct InputForm {
    /// The type that it is copied in, of weights that are of one float type, and of exact products. None
    /// where it is read as it lies: beside Float32, and on a card.
    pub copied: Option<Dtype>,
    /// What weights in blocks may be multiplied by, whatever their type.
    pub integers: Option<Integers>,
}

impl From<Dtype> for InputForm {
    fn from(dtype: Dtype) -> InputForm {
        InputForm {
            copied: (dtype != Dtype::Float32).then_some(dtype),
            integers: None,
        }
    }
}

/// How the weights of a request lie in memory.
#[derive(Clone, Copy, Debug)]
pub struct Kept<'a> {
    /// Of what is in no blocks; and what is in blocks is computed in it.
    pub dtype: Dtype,
    /// As the file has them.
    pub blocks: Option<&'a ModelBlocks>,
    /// What is rounded at load where the file has no blocks.
    pub rounded: Rounded,
    /// Ranks share the columns of o and down: those that lie in an order of their own are expanded.
    pub cut: bool,
}

/// The blocks that matrices of a float type are rounded to while they are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rounded {
    embedding: Option<BlockFormat>,
    head: Option<BlockFormat>,
    /// Of every layer.
    layer: LayerBlocks,
}

impl Rounded {
    /// Matrices whose rows are no whole blocks stay of the float type.
    pub(crate) fn of(shape: &ModelShape, mode: Quantization) -> Rounded {
        let Some((inside, outside)) = mode.rounds_to() else {
            return Rounded::default();
        };
        let whole = |width: Width, formats: &[BlockFormat]| {
            let mut formats = formats.iter();
            formats
                .find(|of| width.misfit(shape, **of).is_none())
                .copied()
        };
        Rounded {
            embedding: whole(Width::Hidden, &[outside]),
            head: whole(Width::Hidden, &[outside]).filter(|_| !shape.tied),
            layer: LayerBlocks {
                output: whole(Width::Heads, inside),
                down: whole(Width::Ffn, inside),
                ..LayerBlocks::uniform(whole(Width::Hidden, inside))
            },
        }
    }

    /// A matrix of a layer is rounded to these blocks.
    pub(crate) fn has(&self, format: BlockFormat) -> bool {
        self.layer.all().into_iter().any(|of| of == Some(format))
    }

    /// Nothing is.
    pub fn is_empty(&self) -> bool {
        *self == Rounded::default()
    }
}

impl From<Dtype> for Kept<'_> {
    /// Everything is of one float type.
    fn from(dtype: Dtype) -> Self {
        Kept {
            dtype,
            blocks: None,
            rounded: Rounded::default(),
            cut: false,
        }
    }
}

impl Kept<'_> {
    /// How a packed matrix lies.
    pub fn panels(self, tensor: Tensor) -> Form {
        match self.format(tensor) {
            Some(format) => Form::Blocks(format, self.dtype),
            None => Form::Panels(self.dtype),
        }
    }

    /// How a packed matrix lies whose columns are cut.
    pub fn pieces(self, tensor: Tensor) -> Form {
        match self.panels(tensor) {
            Form::Blocks(format, dtype) if format.columns() > GROUP => Form::Pieces(format, dtype),
            form => form,
        }
    }

    /// In which blocks the matrices of a layer are.
    pub fn layer(self, layer: u32) -> LayerBlocks {
        let file = self.blocks.map(|all| all.layer(layer)).unwrap_or_default();
        let file = if self.cut { file.cut() } else { file };
        file.or(self.rounded.layer)
    }

    /// What stays as the file has it, of a model with so many layers.
    pub fn of_file(self, layers: u32) -> ModelBlocks {
        let rounded = Rounded::default();
        Kept { rounded, ..self }.all(layers)
    }

    /// In which blocks all matrices are of a model with so many layers.
    pub fn all(self, layers: u32) -> ModelBlocks {
        let of_layers: Vec<LayerBlocks> = (0..layers).map(|at| self.layer(at)).collect();
        let any = of_layers
            .iter()
            .any(|layer| *layer != LayerBlocks::default());
        ModelBlocks {
            embedding: self.format(Tensor::Embedding),
            head: self.format(Tensor::Head),
            layers: if any { of_layers } else { Vec::new() },
        }
    }

    /// The format of one matrix; none of what is no matrix.
    pub(crate) fn format(self, tensor: Tensor) -> Option<BlockFormat> {
        let (file, rounded) = (self.blocks, self.rounded);
        match tensor {
            Tensor::Embedding => file.and_then(|all| all.embedding).or(rounded.embedding),
            Tensor::Head => file.and_then(|all| all.head).or(rounded.head),
            // A fused matrix has the one format of its parts.
            Tensor::Qkv { layer } | Tensor::Query { layer } => self.layer(layer).query,
            Tensor::Key { layer } => self.layer(layer).key,
            Tensor::Value { layer } => self.layer(layer).value,
            Tensor::Output { layer } => self.layer(layer).output,
            Tensor::GateUp { layer } | Tensor::Gate { layer } => self.layer(layer).gate,
            Tensor::Up { layer } => self.layer(layer).up,
            Tensor::Down { layer } => self.layer(layer).down,
            Tensor::InputNorm { .. }
            | Tensor::QkvBias { .. }
            | Tensor::QNorm { .. }
            | Tensor::KNorm { .. }
            | Tensor::OutputBias { .. }
            | Tensor::PostNorm { .. }
            | Tensor::GateUpBias { .. }
            | Tensor::DownBias { .. }
            | Tensor::Order { .. }
            | Tensor::FinalNorm => None,
        }
    }

    /// Whether the columns of a matrix lie by a list.
    pub(crate) fn is_listed(self, tensor: Tensor) -> bool {
        let Some(Tensor::Order { layer, of }) = tensor.order() else {
            return false;
        };
        let orders = self.layer(layer).orders;
        // A fused matrix has that of its parts.
        let order = match of {
            Listed::Qkv | Listed::Query => orders.query,
            Listed::Key => orders.key,
            Listed::Value => orders.value,
            Listed::Output => orders.output,
            Listed::GateUp | Listed::Gate => orders.gate,
            Listed::Up => orders.up,
            Listed::Down => orders.down,
        };
        order.is_listed()
    }

    /// How the embedding lies: packed where it is the head, too, or in blocks.
    pub fn embedding(self, tied: bool) -> Form {
        match self.panels(Tensor::Embedding) {
            Form::Panels(dtype) if !tied => Form::RowMajor(dtype),
            form => form,
        }
    }

    /// The layers whose matrices lie differently, one of each kind: its index, and how many are of it.
    pub fn kinds(self, layers: u32) -> Vec<(u32, u32)> {
        let mut kinds: Vec<(LayerBlocks, u32, u32)> = Vec::new();
        for layer in 0..layers {
            let this = self.layer(layer);
            match kinds.iter_mut().find(|(of, ..)| *of == this) {
                Some((.., count)) => *count += 1,
                None => kinds.push((this, layer, 1)),
            }
        }
        kinds
            .into_iter()
            .map(|(_, at, count)| (at, count))
            .collect()
    }
}

/// Why a model of this shape cannot have its blocks: rows are whole blocks, and every cut of columns
/// lies on a multiple of [`GROUP`].
pub fn misfit(shape: &ModelShape) -> Option<String> {
    let blocks = &shape.blocks;
    let (layers, expected) = (blocks.layers.len(), shape.layers);
    if layers != 0 && layers != expected as usize {
        return Some(format!(
            "blocks of {layers} layers, the model has {expected}"
        ));
    }
    let layers = blocks.layers.iter().flat_map(|layer| {
        let rows = [layer.query, layer.key, layer.value, layer.gate, layer.up];
        let by_hidden = rows.map(|format| (format, Width::Hidden));
        let cut = [(layer.output, Width::Heads), (layer.down, Width::Ffn)];
        by_hidden.into_iter().chain(cut)
    });
    let outside = [blocks.embedding, blocks.head].map(|format| (format, Width::Hidden));
    let mut all = outside.into_iter().chain(layers);
    all.find_map(|(format, width)| width.misfit(shape, format?))
}

/// What the rows of a matrix are as long as.
#[derive(Clone, Copy, Debug)]
pub enum Width {
    Hidden,
    /// All query heads, cut between heads.
    Heads,
    Ffn,
}

impl Width {
    /// Why rows of it cannot be in blocks of this format.
    pub fn misfit(self, shape: &ModelShape, format: BlockFormat) -> Option<String> {
        let heads = u64::from(shape.query_heads) * u64::from(shape.head_dim);
        let (name, size) = match self {
            Width::Hidden => ("hidden size", shape.hidden.into()),
            Width::Heads => ("width of all heads", heads),
            Width::Ffn => ("intermediate size", shape.ffn.into()),
        };
        let head_dim = u64::from(shape.head_dim);
        let (name, size, columns) = match self {
            Width::Heads if !head_dim.is_multiple_of(GROUP) => ("head size", head_dim, GROUP),
            Width::Hidden | Width::Heads | Width::Ffn => (name, size, format.columns()),
        };
        let whole = size.is_multiple_of(columns);
        (!whole).then(|| format!("blocks of {columns} do not divide the {name} {size}"))
    }
}

/// The same model with one of its layers only.
pub(crate) fn one_layer(shape: &ModelShape, at: u32) -> ModelShape {
    let layer = shape.blocks.layers.get(at as usize).copied();
    ModelShape {
        layers: 1,
        blocks: ModelBlocks {
            layers: layer.into_iter().collect(),
            ..shape.blocks
        },
        ..shape.clone()
    }
}
