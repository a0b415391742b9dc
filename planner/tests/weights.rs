//! Where every weight of a rank lies, to the byte.

mod samples;

use plimsoll_planner::weights::{Form, Tensor, layout};
use plimsoll_planner::{
    Account, Backend, BlockFormat, Bytes, Dtype, Kept, LayerBlocks, LayerOrders, ModelBlocks,
    ModelShape, Order, Quantization, Request, Shard,
};
use plimsoll_planner::{offload, table};
use samples::{MIB, request, smollm2};

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
    for format in BlockFormat::ALL {
        let form = Form::Blocks(format, Dtype::BFloat16);
        let bytes = |rows, cols| form.bytes(rows, cols).get();
        // The head of SmolLM2 needs no padding, nor do the rows of an 8B model.
        let cols = if format.columns() == 32 { 576 } else { 4096 };
        let block = cols / format.columns() * format.bytes();
        assert_eq!(bytes(49_152, cols), 49_152 * block, "{format}");
        // Rows to 16, columns to whole blocks.
        assert_eq!(bytes(17, 1), 32 * format.bytes(), "{format}");
        assert_eq!(bytes(0, cols), 0, "{format}");
    }
}

/// An 8B model as llama.cpp writes Q4_K_M: values and down projections of some layers in Q6_K.
/// What a file has in blocks stays, norms and what has no whole blocks are floats.
#[test]
fn what_is_rounded_at_load_takes_the_bytes_of_its_blocks() {
    let matrices = 30 * (960 * 576 + 576 * 576 + 3 * 576 * 1536);
    let down = 30 * 576 * 1536;
    let (norms, embedding) = (61 * 576 * 4, 49_152 * 576);
    let mut request = request(smollm2(), Backend::Cpu, &[400 * MIB]);
    let weights = |request: &Request| {
        let shape = &request.shape;
        layout(shape, &Shard::whole(shape), request.kept(), 0).total()
    };
    for (mode, bytes) in [
        (Quantization::Auto, 2 * (matrices + embedding)),
        (Quantization::Int8, 34 * (matrices + embedding) / 32),
        (Quantization::Int4, 18 * matrices / 32 + 34 * embedding / 32),
        // 576 is no multiple of 128, 1536 is: 12 groups, and room for the head of one more, as cuts may
        // touch 13.
        (
            Quantization::Int4By128,
            18 * (matrices - down) / 32 + 30 * 576 * (13 * 4 + 1536 / 2) + 34 * embedding / 32,
        ),
    ] {
        request.quantization = mode;
        assert_eq!(weights(&request).get(), bytes + norms, "{mode:?}");
    }
    request.quantization = Quantization::Int4;
    request.shape.blocks.embedding = Some(BlockFormat::Q4_1);
    let expected = 18 * matrices / 32 + 20 * embedding / 32 + norms;
    assert_eq!(weights(&request).get(), expected, "as the file has it");
    request.shape.blocks = ModelBlocks::default();
    // 24 columns of a head are no whole block: the output projection stays in floats.
    request.shape.head_dim = 24;
    let kept = request.kept().all(30);
    let expected = LayerBlocks {
        output: None,
        ..LayerBlocks::uniform(Some(BlockFormat::Q4_0))
    };
    assert_eq!(kept.layers, vec![expected; 30]);
    assert_eq!((kept.embedding, kept.head), (Some(BlockFormat::Q8_0), None));
}

#[test]
fn matrices_that_are_stored_apart_have_places_of_their_own_and_little_more_than_the_files_bytes() {
    let shape = llama_8b_q4_k_m();
    let kept = Kept {
        blocks: Some(&shape.blocks),
        ..Kept::from(Dtype::BFloat16)
    };
    let (q4, q6) = (BlockFormat::Q4K, BlockFormat::Q6K);
    let whole = layout(&shape, &Shard::whole(&shape), kept, 0);
    let place = |tensor| *whole.get(tensor).unwrap();
    assert_eq!(whole.get(Tensor::Qkv { layer: 0 }), None);
    let (query, value) = (
        place(Tensor::Query { layer: 0 }),
        place(Tensor::Value { layer: 0 }),
    );
    assert_eq!((query.rows, query.bytes), (4096, 4096 * 16 * q4.bytes()));
    assert_eq!((value.rows, value.bytes), (1024, 1024 * 16 * q6.bytes()));
    assert_eq!(place(Tensor::Qkv { layer: 4 }).rows, 6144);
    assert_eq!(whole.get(Tensor::Value { layer: 4 }), None);
    assert_eq!(place(Tensor::GateUp { layer: 0 }).rows, 2 * 14_336);
    // What llama-quantize writes for Llama-3.1-8B, embedding in Q4_K and head in Q6_K; without the norms.
    let files = file_bytes(&shape);
    assert_eq!(files, 4_911_833_088);
    let most = files + files / 500;
    assert!(whole.total().get() < most, "{} of {files}", whole.total());
    // Cut into parts that no whole block fits: 3 of 32 heads, 128 columns that begin inside of a block.
    let shard = Shard {
        kv_heads: 1..2,
        query_heads: 5..8,
        mlp_columns: 14_208..14_336,
        vocab_rows: 0..0,
    };
    let cut = layout(&shape, &shard, kept, 1);
    let output = cut.get(Tensor::Output { layer: 0 }).unwrap();
    assert_eq!((output.cols, output.skipped), (384, 128));
    // 384 columns touch three blocks at most.
    assert_eq!(output.bytes, 4096 * (3 * q4.head_bytes() + 384 / 2));
    let down = cut.get(Tensor::Down { layer: 0 }).unwrap();
    assert_eq!((down.cols, down.skipped), (128, 128));
    assert_eq!(down.bytes, 4096 * (2 * q6.head_bytes() + 128 * 3 / 4));
}

/// Llama-3.1-8B as AWQ packs it: embedding and head are floats.
#[test]
fn zero_points_take_three_hundredths_more_than_their_file_in_groups_of_128() {
    let (pieces, of_128) = (BlockFormat::Z4By32, BlockFormat::Z4By128);
    let numbers: u64 = 32 * (2 * 4096 * 4096 + 2 * 1024 * 4096 + 3 * 14_336 * 4096);
    let matrices = |format, shard: &Shard| -> u64 {
        let mut shape = llama_8b_q4_k_m();
        shape.blocks = ModelBlocks {
            embedding: None,
            head: None,
            layers: vec![LayerBlocks::uniform(Some(format)); 32],
        };
        let kept = Kept {
            blocks: Some(&shape.blocks),
            ..Kept::from(Dtype::BFloat16)
        };
        let layout = layout(&shape, shard, kept, 0);
        let matrices = layout
            .places()
            .iter()
            .filter(|p| p.tensor.matrix_of().is_some());
        matrices.map(|place| place.bytes).sum()
    };
    let whole = Shard::whole(&llama_8b_q4_k_m());
    // Codes, and of each group a scale of 16 bits and a zero point of 4.
    let file = |group: u64| numbers / 2 + numbers / group * 5 / 2;
    let bytes = matrices(of_128, &whole);
    // Cut matrices have room for the scales of one block more.
    let spare = 32 * 2 * 4096 * of_128.head_bytes();
    assert_eq!(bytes, numbers / 128 * of_128.bytes() + spare);
    assert!(bytes * 100 < file(128) * 103, "{bytes} of {}", file(128));
    // Of groups of 64, each scale and zero point is kept twice: 5.0 bits of 4.3.
    assert_eq!(matrices(pieces, &whole), numbers * 5 / 8);
    assert_eq!(matrices(pieces, &whole) * 100 / file(64), 115);
    // Cut inside of blocks.
    let half = Shard {
        kv_heads: 0..4,
        query_heads: 0..16,
        mlp_columns: 0..7168,
        ..whole
    };
    let less = 2 * matrices(of_128, &half) - bytes;
    assert_eq!(less, spare, "each rank has its own spare scales");
}

fn llama_8b_q4_k_m() -> ModelShape {
    let (layers, q4, q6) = (32, Some(BlockFormat::Q4K), Some(BlockFormat::Q6K));
    // llama.cpp's `use_more_bits`.
    let more = |i: u32| i < layers / 8 || i >= 7 * layers / 8 || (i - layers / 8) % 3 == 2;
    let layer = |i: u32| LayerBlocks {
        value: if more(i) { q6 } else { q4 },
        down: if more(i) { q6 } else { q4 },
        ..LayerBlocks::uniform(q4)
    };
    ModelShape {
        layers,
        hidden: 4096,
        query_heads: 32,
        kv_heads: 8,
        head_dim: 128,
        ffn: 14_336,
        vocab: 128_256,
        tied: false,
        blocks: ModelBlocks {
            embedding: q4,
            head: q6,
            layers: (0..layers).map(layer).collect(),
        },
        ..smollm2()
    }
}

/// Of the matrices.
fn file_bytes(shape: &ModelShape) -> u64 {
    let hidden = u64::from(shape.hidden);
    let (heads, kv) = (
        u64::from(shape.query_heads * shape.head_dim),
        u64::from(shape.kv_heads * shape.head_dim),
    );
    let (ffn, vocab) = (u64::from(shape.ffn), u64::from(shape.vocab));
    let of = |format: Option<BlockFormat>, numbers: u64| {
        let format = format.expect("every matrix is in blocks");
        numbers / format.columns() * format.bytes()
    };
    let layer = |layer: &LayerBlocks| {
        of(layer.query, heads * hidden)
            + of(layer.key, kv * hidden)
            + of(layer.value, kv * hidden)
            + of(layer.output, heads * hidden)
            + of(layer.gate, ffn * hidden)
            + of(layer.up, ffn * hidden)
            + of(layer.down, ffn * hidden)
    };
    let layers: u64 = shape.blocks.layers.iter().map(layer).sum();
    layers + of(shape.blocks.embedding, vocab * hidden) + of(shape.blocks.head, vocab * hidden)
}

/// Columns in an order of their own have a list of four bytes each; ranks that share columns have floats.
#[test]
fn lists_take_four_bytes_a_column_and_nothing_is_cut_that_has_one() {
    let uniform = LayerBlocks::uniform(Some(BlockFormat::Q4_0));
    let orders = |order: Order| LayerOrders {
        query: order,
        key: order,
        value: order,
        output: Order::Own,
        gate: order,
        up: order,
        down: Order::Own,
    };
    let of = |orders: LayerOrders, quotas: &[u64]| {
        let mut shape = smollm2();
        shape.blocks.layers = vec![LayerBlocks { orders, ..uniform }; 30];
        request(shape, Backend::Cpu, quotas)
    };
    let laid = |request: &Request| {
        let shape = &request.shape;
        layout(shape, &Shard::whole(shape), request.kept(), 0)
    };
    let layer = 3;
    let one = [400 * MIB];
    let natural = laid(&of(LayerOrders::INPUTS, &one)).total();
    for (order, lists, fused) in [(Order::Shared, 2, true), (Order::Own, 5, false)] {
        let request = of(orders(order), &one);
        let layout = laid(&request);
        let lists = 30 * 4 * (lists * 576 + 576 + 1536);
        assert_eq!(layout.total().get(), natural.get() + lists, "{order:?}");
        assert_eq!(layout.get(Tensor::Qkv { layer }).is_some(), fused);
        assert_eq!(layout.get(Tensor::GateUp { layer }).is_some(), fused);
        let first = match fused {
            true => Tensor::Qkv { layer },
            false => Tensor::Query { layer },
        };
        let list = layout.order_of(first).unwrap();
        assert_eq!((list.form, list.rows, list.cols), (Form::List, 576, 1));
        assert_eq!(layout.order_of(Tensor::Down { layer }).unwrap().rows, 1536);
    }
    // Matrices of an offloaded layer go, their lists stay.
    let streamed = Request {
        cpu_offload: Some(Bytes::measured(64 * MIB)),
        ..of(orders(Order::Shared), &one)
    };
    let layout = offload::layout(&streamed, &Shard::whole(&streamed.shape), 0);
    let account = |tensor| layout.get(tensor).unwrap().account;
    let lists = |layer| [Tensor::Qkv { layer }, Tensor::Down { layer }].map(Tensor::order);
    let away = (0..30).filter(|layer| account(Tensor::Qkv { layer: *layer }) == Account::Offload);
    let lists: Vec<Tensor> = away.flat_map(lists).flatten().collect();
    assert!(!lists.is_empty() && lists.iter().all(|list| account(*list) == Account::Weights));
    // Two ranks share o and down.
    let request = of(orders(Order::Shared), &[400 * MIB; 2]);
    let kept = request.kept().all(30);
    let expected = LayerBlocks {
        output: None,
        down: None,
        orders: LayerOrders {
            output: Order::Inputs,
            down: Order::Inputs,
            ..orders(Order::Shared)
        },
        ..uniform
    };
    assert_eq!(kept.layers, vec![expected; 30]);
    let layout = laid(&request);
    for tensor in [Tensor::Output { layer }, Tensor::Down { layer }] {
        assert_eq!(
            layout.get(tensor).unwrap().form,
            Form::Panels(Dtype::BFloat16)
        );
        assert_eq!(layout.order_of(tensor), None);
    }
    assert!(layout.order_of(Tensor::GateUp { layer }).is_some());
    assert_eq!(request.listed_and_cut(), 2 * 30);
    assert_eq!(of(orders(Order::Own), &one).listed_and_cut(), 0);
    let told = "; 60 of o and down expanded: act order is not cut over ranks";
    assert!(table::weights(&request).ends_with(told));
    // Rounded, they are as any floats.
    let request = Request {
        quantization: Quantization::Int8,
        ..request
    };
    let down = request.kept().all(30).layers[0].down;
    assert_eq!(down, Some(BlockFormat::Q8_0));
    assert_eq!(request.kept().of_file(30).layers[0].down, None);
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
