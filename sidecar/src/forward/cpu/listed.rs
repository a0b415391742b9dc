//! Matrices whose columns lie by a list: each product is, to the bit, that of the floats in that order by
//! the inputs in that order, and the same weights as any other reader has them.

use plimsoll_kernels::linear::{self, Columns, Input, LinearShape, Weight};
use plimsoll_planner::{BlockFormat, Dtype};

use crate::adapters::tests::edited::Edited;
use crate::adapters::tests::gguf::counting;
use crate::forward::backend::Backend;
use crate::forward::handle::{Format, Handle};
use crate::forward::layers::Matrix;
use crate::forward::testing::{Group, packed};

const ROWS: usize = 5;

/// The first rows of a shared input, no two numbers alike.
#[expect(clippy::cast_precision_loss, reason = "some hundred")]
fn numbers(cols: usize) -> Vec<f32> {
    let number = |at: usize| ((at * 37 % 101) as f32 - 50.0) / 64.0;
    (0..ROWS * cols).map(number).collect()
}

/// What a rank makes of the numbers, gathered first.
fn product(group: &mut Group, rank: usize, of: &Matrix, [x, room, out]: [Handle; 3]) -> Vec<f32> {
    let device = &mut group.ranks[rank].0.backend;
    let count = ROWS * of.cols;
    let given = device.activations.first_mut(x.region, count);
    given.copy_from_slice(&numbers(of.cols));
    let x = match of.order {
        Some(order) => {
            device.gather(x, order, room, ROWS);
            room
        }
        None => x,
    };
    device.project(x, of, out, ROWS);
    let Columns { first, stride } = of.columns;
    let rows = device.activations.first::<f32>(out.region, ROWS * stride);
    let part = |row: &[f32]| row[first..first + of.rows].to_vec();
    rows.chunks_exact(stride).flat_map(part).collect()
}

/// The same of the tensors' floats, with columns and numbers in this order.
fn expected(group: &Group, of: &Matrix, parts: &[&str], order: &[u32]) -> Vec<f32> {
    let sorted = |row: &[f32]| -> Vec<f32> { order.iter().map(|at| row[*at as usize]).collect() };
    let tensors = &group.model.tensors;
    let mut weights = Vec::new();
    for name in parts {
        let name = format!("model.layers.0.{name}_proj.weight");
        let (rows, cols) = tensors.info(&name).unwrap().rows_cols();
        let mut floats = vec![f32::NAN; rows * cols];
        tensors
            .read_block(&name, 0..rows, 0..cols, &mut floats)
            .unwrap();
        weights.extend(floats.chunks_exact(cols).flat_map(sorted));
    }
    let shape = LinearShape::dense(of.rows, of.cols, of.dtype);
    let mut bytes = vec![0; shape.packed_bytes()];
    linear::pack_rows(&mut bytes, &shape, 0, &weights);
    let weight = Weight {
        shape,
        packed: &bytes,
        bias: None,
    };
    let x: Vec<f32> = numbers(of.cols)
        .chunks_exact(of.cols)
        .flat_map(sorted)
        .collect();
    let mut out = vec![f32::NAN; ROWS * of.rows];
    let mut scratch = vec![0; linear::scratch_bytes(ROWS, &shape)];
    let pool = &group.ranks[0].0.backend.pool;
    linear::run(
        pool,
        Input::dense(&x, ROWS, of.cols),
        &weight,
        &mut out,
        &mut scratch,
    );
    out
}

#[test]
fn products_of_listed_columns_are_those_of_the_floats_in_the_order_of_the_list() {
    for dtype in ["bfloat16", "float32"] {
        let flags = format!("--dtype {dtype} --quantization-compute exact");
        let mut group = packed("gptq-4bit-act-order", &flags);
        let at = group.ranks[0].0.layout.activations;
        let layer = group.ranks[0].0.decoder.layers[0].clone();
        let [query, key, value] = &*layer.qkv else {
            panic!("each has a list of its own: {:?}", layer.qkv)
        };
        let [gate, up] = &*layer.gate_up else {
            panic!("each has a list of its own: {:?}", layer.gate_up)
        };
        let (normed, gated) = (
            [at.normed, at.hidden, at.qkv],
            [at.normed, at.hidden, at.gate_up],
        );
        for (name, of, places) in [
            ("self_attn.q", query, normed),
            ("self_attn.k", key, normed),
            ("self_attn.v", value, normed),
            (
                "self_attn.o",
                &layer.output,
                [at.attention, at.qkv, at.partial],
            ),
            ("mlp.gate", gate, gated),
            ("mlp.up", up, gated),
            (
                "mlp.down",
                &layer.down,
                [at.activated, at.gate_up, at.partial],
            ),
        ] {
            let what = format!("{name}, {dtype}");
            let tensors = &group.model.tensors;
            let order = tensors.order(&format!("model.layers.0.{name}_proj.weight"));
            let order = order.unwrap().to_vec();
            assert!(!order.is_sorted(), "{what}");
            let list = of.order.unwrap_or_else(|| panic!("{what} has no list"));
            let kept: &[u32] = group.ranks[0].0.backend.weights.all(list.region);
            assert_eq!(kept, order, "{what}");
            let wanted = expected(&group, of, &[name], &order);
            let product = product(&mut group, 0, of, places);
            assert!(product.iter().any(|number| *number != 0.0), "{what}");
            assert_eq!(product, wanted, "{what}");
        }
    }
}

/// A file with other lists is another file; whether it has any is the place's.
#[test]
fn columns_in_the_order_of_inputs_are_no_listed_ones() {
    let mut listed = packed("gptq-4bit-act-order", "");
    let natural = packed("gptq-4bit", "");
    let refused = listed.ranks[0]
        .0
        .overwrite(&*natural.model.tensors, |_| true);
    let refused = refused.unwrap_err().to_string();
    assert!(
        refused.contains("q_proj.weight`: its columns are in another order"),
        "{refused}"
    );
}

/// Rows that several ranks share the columns of are in no order of their own: floats, or rounded ones.
#[test]
fn what_ranks_share_the_columns_of_is_rounded_from_its_floats_where_that_is_asked_for() {
    for (mode, format) in [
        ("auto", Format::Panels(Dtype::BFloat16)),
        ("int4", Format::Blocks(BlockFormat::Q4_0)),
        ("int8", Format::Blocks(BlockFormat::Q8_0)),
    ] {
        let flags = format!("--tensor-parallel-size 2 --dtype bfloat16 --quantization {mode}");
        let mut group = packed("gptq-4bit-act-order", &flags);
        for (forward, _) in &group.ranks {
            let layer = &forward.decoder.layers[0];
            let has_list = |of: &Matrix| of.order.is_some();
            assert!(
                layer.qkv.iter().chain(&layer.gate_up).all(has_list),
                "{mode}"
            );
            for of in [&layer.output, &layer.down] {
                assert_eq!((of.order, of.weight.format), (None, format), "{mode}");
            }
        }
        let outputs = group.step(&[3, 4, 5]);
        let mut logits = outputs.iter().flat_map(|output| &output.logits);
        assert!(logits.all(|logit| logit.is_finite()), "{mode}");
    }
}

/// Adapters know the order of inputs alone: what they add to listed columns is what they add to floats.
#[test]
fn an_adapter_adds_the_same_to_listed_columns_as_to_their_floats() {
    let logits = |mode: &str, adapted: bool| -> Vec<f32> {
        let flags = "--dtype float32 --quantization-compute exact --max-loras 1 --max-lora-rank 2";
        let mut group = packed(
            "gptq-4bit-act-order",
            &format!("{flags} --quantization {mode}"),
        );
        let is_listed = group.ranks[0].0.decoder.layers[0].down.order.is_some();
        assert_eq!(is_listed, mode == "auto");
        let mut adapter = Edited::of("plain");
        let modules = [
            "self_attn.v_proj",
            "self_attn.o_proj",
            "mlp.up_proj",
            "mlp.down_proj",
        ];
        counting(&group.model, &mut adapter, modules);
        let adapter = group.model.open_adapter(&adapter.write()).unwrap();
        let outputs = match adapted {
            true => group.step_with(&[3, 4, 5, 6], &adapter),
            false => group.step(&[3, 4, 5, 6]),
        };
        outputs[0].logits.clone()
    };
    let (floats, listed, base) = (
        logits("none", true),
        logits("auto", true),
        logits("none", false),
    );
    let largest = floats
        .iter()
        .fold(0f32, |most, logit| most.max(logit.abs()));
    let apart = |of: &[f32]| {
        let pairs = of.iter().zip(&floats);
        pairs.fold(0f32, |most, (is, was)| most.max((is - was).abs())) / largest
    };
    assert!(
        apart(&base) > 0.1,
        "an adapter without a say: {}",
        apart(&base)
    );
    assert!(apart(&listed) < 4e-6, "{}", apart(&listed));
}
