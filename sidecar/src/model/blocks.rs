//! Which matrices of a model stay in the blocks that their file has.

use plimsoll_crds::v1alpha1::convert::fit_facts;
use plimsoll_planner::stored::Width;
use plimsoll_planner::{BlockFormat, LayerBlocks, LayerOrders, ModelBlocks, ModelShape, Order};

use crate::model_error::shorten;
use crate::weights::TensorSource;

/// The matrices whose tensors are in a block type, where whole blocks fit; of layers of more kinds than
/// facts can tell, the rarest are expanded.
pub fn of(shape: &ModelShape, tensors: &dyn TensorSource) -> ModelBlocks {
    let one = |name: &str, width: Width| {
        let format = tensors.blocks(&format!("{name}.weight"))?;
        width.misfit(shape, format).is_none().then_some(format)
    };
    let layer = |at: u32| {
        let of = |name: &str, width| one(&format!("model.layers.{at}.{name}_proj"), width);
        let blocks = LayerBlocks {
            query: of("self_attn.q", Width::Hidden),
            key: of("self_attn.k", Width::Hidden),
            value: of("self_attn.v", Width::Hidden),
            output: of("self_attn.o", Width::Heads),
            gate: of("mlp.gate", Width::Hidden),
            up: of("mlp.up", Width::Hidden),
            down: of("mlp.down", Width::Ffn),
            orders: LayerOrders::INPUTS,
        };
        LayerBlocks {
            orders: orders(at, &blocks, tensors),
            ..blocks
        }
    };
    let layers: Vec<LayerBlocks> = (0..shape.layers).map(layer).collect();
    let any = layers.iter().any(|layer| *layer != LayerBlocks::default());
    // Nothing gathers the inputs of these.
    let outside = |name: &str| {
        let listed = tensors.order(&format!("{name}.weight")).is_some();
        one(name, Width::Hidden).filter(|_| !listed)
    };
    fit_facts(ModelBlocks {
        embedding: outside("model.embed_tokens"),
        head: outside("lm_head").filter(|_| !shape.tied),
        layers: if any { layers } else { Vec::new() },
    })
}

/// What to tell of matrices that are in blocks in the file and are expanded all the same.
pub(crate) fn expanded(shape: &ModelShape, tensors: &dyn TensorSource) -> Option<String> {
    let is_matrix = |name: &&str| tensors.info(name).is_some_and(|info| info.shape.len() == 2);
    let in_file = |name: &&str| tensors.blocks(name).is_some() && is_matrix(name);
    let all: Vec<&str> = tensors.names().into_iter().filter(in_file).collect();
    let is_expanded = |name: &&&str| place_of(&shape.blocks, name).is_none();
    // A tied head that is in the file, too, is not read.
    let is_read = |name: &&&str| !(shape.tied && **name == "lm_head.weight");
    let expanded: Vec<&&str> = all.iter().filter(is_expanded).filter(is_read).collect();
    let first = expanded.iter().min()?;
    let width = match first {
        name if name.ends_with("o_proj.weight") => Width::Heads,
        name if name.ends_with("down_proj.weight") => Width::Ffn,
        _ => Width::Hidden,
    };
    let format = tensors.blocks(first)?;
    let is_outside = !first.starts_with("model.layers.");
    let why = width.misfit(shape, format).or_else(|| {
        let is_listed = is_outside && tensors.order(first).is_some();
        is_listed.then(|| "its groups of columns are out of order (act order)".to_owned())
    });
    Some(format!(
        "{} of {} quantised matrices are expanded at load, `{}` the first: {}",
        expanded.len(),
        all.len(),
        shorten(first),
        why.unwrap_or_else(|| "layers are stored in more ways than are kept apart".to_owned())
    ))
}

/// The orders of a layer's columns, of the matrices that are in blocks.
pub(crate) fn orders(layer: u32, of: &LayerBlocks, tensors: &dyn TensorSource) -> LayerOrders {
    let list = |name: &str, format: Option<BlockFormat>| {
        let name = format!("model.layers.{layer}.{name}_proj.weight");
        format.and_then(|_| tensors.order(&name))
    };
    let own = |list: Option<&[u32]>| list.map_or(Order::Inputs, |_| Order::Own);
    let together = |lists: &[Option<&[u32]>], alike: bool| {
        let same = alike && lists.iter().all(|list| list.is_some() && *list == lists[0]);
        same.then_some(Order::Shared)
    };
    let qkv = [
        list("self_attn.q", of.query),
        list("self_attn.k", of.key),
        list("self_attn.v", of.value),
    ];
    let gate_up = [list("mlp.gate", of.gate), list("mlp.up", of.up)];
    let shared_qkv = together(&qkv, of.query == of.key && of.key == of.value);
    let shared_gate_up = together(&gate_up, of.gate == of.up);
    let [query, key, value] = qkv.map(|list| shared_qkv.unwrap_or(own(list)));
    let [gate, up] = gate_up.map(|list| shared_gate_up.unwrap_or(own(list)));
    LayerOrders {
        query,
        key,
        value,
        output: own(list("self_attn.o", of.output)),
        gate,
        up,
        down: own(list("mlp.down", of.down)),
    }
}

/// In which blocks the place of a tensor is, by the tensor's Hugging Face name.
pub(crate) fn place_of(blocks: &ModelBlocks, name: &str) -> Option<BlockFormat> {
    let name = name.strip_suffix(".weight")?;
    match name {
        "model.embed_tokens" => return blocks.embedding,
        "lm_head" => return blocks.head,
        _ => {}
    }
    let (layer, name) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let layer = blocks.layer(layer.parse().ok()?);
    match name.strip_suffix("_proj")? {
        "self_attn.q" => layer.query,
        "self_attn.k" => layer.key,
        "self_attn.v" => layer.value,
        "self_attn.o" => layer.output,
        "mlp.gate" => layer.gate,
        "mlp.up" => layer.up,
        "mlp.down" => layer.down,
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::ops::Range;

    use plimsoll_planner::{Architecture, stored};

    use super::*;
    use crate::model::ModelError;
    use crate::weights::{TensorInfo, needed};

    #[derive(Debug)]
    struct Named(BTreeMap<String, TensorInfo>);

    impl TensorSource for Named {
        fn names(&self) -> Vec<&str> {
            self.0.keys().map(String::as_str).collect()
        }

        fn info(&self, name: &str) -> Option<&TensorInfo> {
            self.0.get(name)
        }

        fn blocks(&self, name: &str) -> Option<BlockFormat> {
            let dtype = &self.info(name)?.dtype;
            let mut all = BlockFormat::ALL.into_iter();
            all.find(|format| format.to_string() == *dtype)
        }

        /// Of those that a test gave a byte.
        fn order(&self, name: &str) -> Option<&[u32]> {
            (self.info(name)?.bytes == 1).then_some(&[0])
        }

        fn read_block(
            &self,
            _: &str,
            _: Range<usize>,
            _: Range<usize>,
            _: &mut [f32],
        ) -> Result<(), ModelError> {
            unreachable!("headers are enough")
        }
    }

    fn shape(layers: u32) -> ModelShape {
        ModelShape {
            architecture: Architecture::Llama,
            layers,
            hidden: 64,
            query_heads: 2,
            kv_heads: 1,
            head_dim: 32,
            ffn: 96,
            vocab: 100,
            tied: false,
            qkv_bias: false,
            output_bias: false,
            mlp_bias: false,
            qk_norm: false,
            context: 64,
            blocks: ModelBlocks::default(),
        }
    }

    /// A file whose tensors have the types that `dtype` says.
    fn file(shape: &ModelShape, dtype: impl Fn(&str) -> &'static str) -> Named {
        let tensor = |(name, dims): (String, Vec<usize>)| {
            let info = TensorInfo {
                name: name.clone(),
                shape: dims,
                dtype: dtype(&name).to_owned(),
                bytes: 0,
            };
            (name, info)
        };
        Named(needed(shape).into_iter().map(tensor).collect())
    }

    #[test]
    fn each_matrix_stays_in_the_blocks_of_its_tensor() {
        let shape = ModelShape {
            hidden: 512,
            query_heads: 16,
            ..shape(3)
        };
        let file = file(&shape, |name| match name {
            "model.embed_tokens.weight" => "Q8_0",
            "lm_head.weight" => "Q6_K",
            "model.layers.1.self_attn.v_proj.weight" => "Q6_K",
            "model.layers.1.mlp.up_proj.weight" => "F16",
            "model.layers.2.mlp.down_proj.weight" => "Q4_1",
            name if name.contains("norm") => "F32",
            _ => "Q4_K",
        });
        let blocks = of(&shape, &file);
        // 96 columns of `down` are no whole Q4_K: no file has those, and they would be expanded.
        let q4 = LayerBlocks {
            down: None,
            ..LayerBlocks::uniform(Some(BlockFormat::Q4K))
        };
        assert_eq!(blocks.embedding, Some(BlockFormat::Q8_0));
        assert_eq!(blocks.head, Some(BlockFormat::Q6K));
        let mixed = LayerBlocks {
            value: Some(BlockFormat::Q6K),
            up: None,
            ..q4
        };
        let larger = LayerBlocks {
            down: Some(BlockFormat::Q4_1),
            ..q4
        };
        assert_eq!(blocks.layers, [q4, mixed, larger]);
        let (q4, q6) = (Some(BlockFormat::Q4K), Some(BlockFormat::Q6K));
        for (name, place) in [
            ("model.embed_tokens.weight", Some(BlockFormat::Q8_0)),
            ("lm_head.weight", q6),
            ("model.layers.1.self_attn.k_proj.weight", q4),
            ("model.layers.1.self_attn.v_proj.weight", q6),
            ("model.layers.1.mlp.gate_proj.weight", q4),
            ("model.layers.1.mlp.up_proj.weight", None),
            (
                "model.layers.2.mlp.down_proj.weight",
                Some(BlockFormat::Q4_1),
            ),
            ("model.layers.2.mlp.down_proj.bias", None),
            ("model.layers.3.mlp.down_proj.weight", None),
            ("model.layers.x.mlp.down_proj.weight", None),
        ] {
            assert_eq!(place_of(&blocks, name), place, "{name}");
        }
    }

    #[test]
    fn columns_out_of_order_are_kept_so_in_layers_alone() {
        let shape = shape(2);
        let mut source = file(&shape, |_| "Q8_0");
        for name in ["lm_head", "model.layers.1.mlp.up_proj"] {
            let info = source.0.get_mut(&format!("{name}.weight"));
            info.unwrap().bytes = 1;
        }
        let blocks = of(&shape, &source);
        let uniform = LayerBlocks::uniform(Some(BlockFormat::Q8_0));
        let up = LayerOrders {
            up: Order::Own,
            ..LayerOrders::INPUTS
        };
        let listed = LayerBlocks {
            orders: up,
            ..uniform
        };
        assert_eq!(blocks.layers, [uniform, listed]);
        assert_eq!(blocks.head, None);
        let told = expanded(&ModelShape { blocks, ..shape }, &source).unwrap();
        assert!(
            told.contains("1 of 16") && told.contains("`lm_head.weight`"),
            "{told}"
        );
        assert!(told.ends_with("out of order (act order)"), "{told}");
    }

    #[test]
    fn blocks_that_do_not_divide_a_cut_are_expanded() {
        let narrow = ModelShape {
            head_dim: 16,
            ..shape(2)
        };
        let source = file(&narrow, |_| "Q4_0");
        let blocks = of(&narrow, &source);
        assert_eq!(blocks.layers[0].output, None);
        assert_eq!(blocks.layers[0].down, Some(BlockFormat::Q4_0));
        let narrow = ModelShape { blocks, ..narrow };
        assert_eq!(stored::misfit(&narrow), None);
        let told = expanded(&narrow, &source).unwrap();
        assert_eq!(
            told,
            "2 of 16 quantised matrices are expanded at load, `model.layers.0.self_attn.o_proj.weight` the \
             first: blocks of 32 do not divide the head size 16"
        );
        // Alternating layers are two kinds.
        let deep = shape(32);
        let alternating = file(&deep, |name| {
            let odd = name.split('.').nth(2).and_then(|n| n.parse::<u32>().ok());
            match odd.is_some_and(|layer| layer % 2 == 1) {
                true => "Q4_0",
                false => "Q8_0",
            }
        });
        let blocks = of(&deep, &alternating);
        let uniform = |format| LayerBlocks::uniform(Some(format));
        let two = [uniform(BlockFormat::Q8_0), uniform(BlockFormat::Q4_0)];
        assert_eq!(blocks.layers[30..], two);
        let kept = ModelShape {
            blocks,
            ..deep.clone()
        };
        assert_eq!(expanded(&kept, &alternating), None);
        assert!(of(&deep, &file(&deep, |_| "BF16")).is_empty());
    }
}
