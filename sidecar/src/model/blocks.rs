//! Which matrices of a model stay in the blocks that their file has.

use plimsoll_crds::v1alpha1::convert::{STORED_ROWS_MAX, stored_blocks};
use plimsoll_planner::blocks::GROUP;
use plimsoll_planner::{BlockFormat, LayerBlocks, ModelBlocks, ModelShape};

use crate::weights::TensorSource;

/// Tensors that share a place in memory, by the ends of their names in a layer.
const QKV: [&str; 3] = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"];
const OUTPUT: [&str; 1] = ["self_attn.o_proj"];
const GATE_UP: [&str; 2] = ["mlp.gate_proj", "mlp.up_proj"];
const DOWN: [&str; 1] = ["mlp.down_proj"];

/// The matrices whose tensors are all in one block type, where whole blocks fit. None where the layers
/// are of more kinds than facts can tell: all are expanded then.
pub fn of(shape: &ModelShape, tensors: &dyn TensorSource) -> ModelBlocks {
    let whole = |size: u32| u64::from(size).is_multiple_of(GROUP);
    let one = |name: &str| tensors.blocks(&format!("{name}.weight"));
    let all = |layer: u32, names: &[&str], size: u32| {
        let format = |name: &&str| one(&format!("model.layers.{layer}.{name}"));
        let first = format(names.first()?)?;
        let alike = names.iter().all(|name| format(name) == Some(first));
        (alike && whole(size)).then_some(first)
    };
    let layer = |at: u32| LayerBlocks {
        qkv: all(at, &QKV, shape.hidden),
        output: all(at, &OUTPUT, shape.head_dim),
        gate_up: all(at, &GATE_UP, shape.hidden),
        down: all(at, &DOWN, shape.ffn),
    };
    let fits = whole(shape.hidden);
    let layers: Vec<LayerBlocks> = (0..shape.layers).map(layer).collect();
    let any = layers.iter().any(|layer| *layer != LayerBlocks::default());
    let blocks = ModelBlocks {
        embedding: one("model.embed_tokens").filter(|_| fits),
        head: one("lm_head").filter(|_| fits && !shape.tied),
        layers: if any { layers } else { Vec::new() },
    };
    let rows = stored_blocks(&blocks).map_or(0, |stored| stored.layers.len());
    match rows <= STORED_ROWS_MAX {
        true => blocks,
        false => ModelBlocks::default(),
    }
}

/// In which blocks the place of a tensor is, by the tensor's Hugging Face name.
pub(super) fn place_of(blocks: &ModelBlocks, name: &str) -> Option<BlockFormat> {
    let name = name.strip_suffix(".weight")?;
    match name {
        "model.embed_tokens" => return blocks.embedding,
        "lm_head" => return blocks.head,
        _ => {}
    }
    let (layer, name) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let layer = blocks.layers.get(layer.parse::<usize>().ok()?)?;
    let places: [(&[&str], Option<BlockFormat>); 4] = [
        (&QKV, layer.qkv),
        (&OUTPUT, layer.output),
        (&GATE_UP, layer.gate_up),
        (&DOWN, layer.down),
    ];
    let place = places.into_iter().find(|(names, _)| names.contains(&name));
    place.and_then(|(_, format)| format)
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
    fn a_matrix_stays_in_blocks_where_all_of_its_tensors_are_in_the_same() {
        let shape = shape(3);
        let file = file(&shape, |name| match name {
            "model.embed_tokens.weight" => "Q8_0",
            "lm_head.weight" => "Q6_K",
            "model.layers.1.self_attn.v_proj.weight" => "Q8_0",
            "model.layers.2.mlp.down_proj.weight" => "Q4_1",
            name if name.contains("norm") => "F32",
            _ => "Q4_0",
        });
        let blocks = of(&shape, &file);
        let q4 = LayerBlocks {
            qkv: Some(BlockFormat::Q4_0),
            output: Some(BlockFormat::Q4_0),
            gate_up: Some(BlockFormat::Q4_0),
            down: Some(BlockFormat::Q4_0),
        };
        assert_eq!(blocks.embedding, Some(BlockFormat::Q8_0));
        assert_eq!(blocks.head, None, "Q6_K is expanded");
        let mixed = LayerBlocks { qkv: None, ..q4 };
        let larger = LayerBlocks {
            down: Some(BlockFormat::Q4_1),
            ..q4
        };
        assert_eq!(blocks.layers, [q4, mixed, larger]);
        for (name, place) in [
            ("model.embed_tokens.weight", Some(BlockFormat::Q8_0)),
            ("lm_head.weight", None),
            ("model.layers.1.self_attn.k_proj.weight", None),
            (
                "model.layers.0.self_attn.k_proj.weight",
                Some(BlockFormat::Q4_0),
            ),
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
    fn blocks_that_do_not_divide_a_cut_and_layers_of_too_many_kinds_are_expanded() {
        let narrow = ModelShape {
            head_dim: 16,
            ..shape(2)
        };
        let blocks = of(&narrow, &file(&narrow, |_| "Q4_0"));
        assert_eq!(blocks.layers[0].output, None);
        assert_eq!(blocks.layers[0].down, Some(BlockFormat::Q4_0));
        let narrow = ModelShape { blocks, ..narrow };
        assert_eq!(stored::misfit(&narrow), None);
        let deep = shape(32);
        let alternating = file(&deep, |name| {
            let odd = name.split('.').nth(2).and_then(|n| n.parse::<u32>().ok());
            match odd.is_some_and(|layer| layer % 2 == 1) {
                true => "Q4_0",
                false => "Q8_0",
            }
        });
        assert!(of(&deep, &alternating).is_empty());
        assert!(of(&deep, &file(&deep, |_| "BF16")).is_empty());
    }
}
