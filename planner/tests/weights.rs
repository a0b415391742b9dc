//! Where every weight of a rank lies, to the byte.

mod samples;

use plimsoll_planner::weights::{Form, Tensor, layout};
use plimsoll_planner::{BlockFormat, Dtype, ModelShape, Shard};
use samples::smollm2;

#[test]
fn a_whole_model_takes_two_bytes_a_parameter_and_four_a_norm() {
    let layout = layout(&smollm2(), &Shard::whole(&smollm2()), Dtype::BFloat16, 0);
    // No dimension needs padding: 134,479,872 weights of two bytes, 61 norms of four.
    let weights = 49_152 * 576 + 30 * (960 * 576 + 576 * 576 + 3 * 576 * 1536);
    assert_eq!(layout.total().get(), 2 * weights + 61 * 576 * 4);
    assert_eq!(layout.places().len(), 30 * 6 + 2);
    assert_eq!(layout.head().unwrap().tensor, Tensor::Embedding);
    assert_eq!(layout.head().unwrap().form, Form::Panels(Dtype::BFloat16));
}

#[test]
fn tensors_lie_one_after_the_other_on_cache_lines() {
    let shape = ModelShape {
        hidden: 72,
        head_dim: 8,
        qkv_bias: true,
        qk_norm: true,
        ..smollm2()
    };
    let layout = layout(&shape, &Shard::whole(&shape), Dtype::Float32, 0);
    let mut end = 0;
    for place in layout.places() {
        assert_eq!(place.offset % 64, 0, "{place:?}");
        assert_eq!(place.offset, end, "{place:?}");
        end = (place.offset + place.bytes).next_multiple_of(64);
    }
    assert_eq!(end, layout.total().get());
}

#[test]
fn rows_and_columns_are_padded_to_panels() {
    let shape = ModelShape {
        ffn: 100,
        hidden: 40,
        vocab: 50,
        tied: false,
        ..smollm2()
    };
    let shard = Shard {
        kv_heads: 0..1,
        query_heads: 0..2,
        mlp_columns: 0..100,
        vocab_rows: 0..50,
    };
    let layout = layout(&shape, &shard, Dtype::BFloat16, 1);
    let place = |tensor| *layout.get(tensor).unwrap();
    let gate_up = place(Tensor::GateUp { layer: 3 });
    assert_eq!(
        (gate_up.rows, gate_up.cols, gate_up.bytes),
        (224, 40, 224 * 64 * 2)
    );
    let down = place(Tensor::Down { layer: 3 });
    assert_eq!((down.rows, down.cols, down.bytes), (40, 112, 48 * 128 * 2));
    let qkv = place(Tensor::Qkv { layer: 0 });
    assert_eq!((qkv.rows, qkv.bytes), (256, 256 * 64 * 2));
    assert_eq!(place(Tensor::Embedding).bytes, 50 * 40 * 2);
    assert_eq!(place(Tensor::Head).bytes, 64 * 64 * 2);
    assert_eq!(layout.head().unwrap().tensor, Tensor::Head);
}

#[test]
fn blocks_take_the_bytes_of_the_file_and_whole_panels() {
    let bytes = |format, rows, cols| {
        Form::Blocks(format, Dtype::BFloat16)
            .bytes(rows, cols)
            .get()
    };
    for (format, block) in [
        (BlockFormat::Q4_0, 18),
        (BlockFormat::Q4_1, 20),
        (BlockFormat::Q8_0, 34),
    ] {
        // The head of SmolLM2 needs no padding.
        assert_eq!(bytes(format, 49_152, 576), 49_152 * 18 * block, "{format}");
        // Rows to 16, columns to 32.
        assert_eq!(bytes(format, 17, 33), 32 * 2 * block, "{format}");
        assert_eq!(bytes(format, 0, 576), 0, "{format}");
    }
}

#[test]
fn biases_that_are_summed_over_ranks_stand_on_rank_0() {
    let shape = ModelShape {
        qkv_bias: true,
        output_bias: true,
        mlp_bias: true,
        ..smollm2()
    };
    let shard = Shard::whole(&shape);
    let layer = 7;
    for (rank, summed) in [(0, true), (1, false)] {
        let layout = layout(&shape, &shard, Dtype::Float16, rank);
        assert_eq!(layout.get(Tensor::OutputBias { layer }).is_some(), summed);
        assert_eq!(layout.get(Tensor::DownBias { layer }).is_some(), summed);
        assert_eq!(layout.get(Tensor::QkvBias { layer }).unwrap().rows, 960);
        assert_eq!(layout.get(Tensor::GateUpBias { layer }).unwrap().rows, 3072);
    }
}

#[test]
fn an_empty_share_keeps_its_places_and_takes_norms_only() {
    let shard = Shard {
        kv_heads: 3..3,
        query_heads: 9..9,
        mlp_columns: 0..0,
        vocab_rows: 0..0,
    };
    let layout = layout(&smollm2(), &shard, Dtype::BFloat16, 1);
    assert_eq!(layout.total().get(), 61 * 576 * 4);
    assert_eq!(layout.get(Tensor::Output { layer: 0 }).unwrap().bytes, 0);
}
