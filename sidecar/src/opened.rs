//! What the log says of a model that was opened, and of what becomes of its weights.

use std::path::Path;

use plimsoll_planner::{BlockFormat, Request};

use crate::config::Planned;
use crate::model::Model;
use crate::model::blocks::place_of;
use crate::weights::{TensorSource, packed};

pub(crate) fn describe(model: &Model, at: &Path) {
    let facts = &model.facts;
    tracing::info!(
        path = %at.display(),
        architecture = ?facts.architecture,
        parameters = facts.parameters,
        file_dtype = facts.file_dtype,
        digest = facts.digest,
        "model opened"
    );
    for adapter in &model.adapters {
        tracing::info!(
            name = adapter.at.name,
            path = %adapter.at.path.display(),
            tensors = adapter.changes.len(),
            digest = adapter.digest,
            "adapter opened: it is merged into the weights while they are read"
        );
    }
}

/// What becomes of weights that the file has quantised, or that are rounded.
pub(crate) fn describe_weights(model: &Model, planned: &Planned) {
    let moved = Moved::of(&*model.tensors, &planned.request);
    let formats = planned.formats();
    let kept: Vec<String> = formats.iter().map(BlockFormat::to_string).collect();
    if let Some(quantization) = &model.facts.quantization {
        tracing::info!(
            quantization,
            stay = kept.join(", "),
            expanded = moved.expanded.tensors,
            file_bytes = moved.expanded.file_bytes,
            memory_bytes = moved.expanded.memory_bytes,
            dtype = %planned.request.dtype,
            "the file is quantised: matrices in the formats that stay are kept so, others are expanded while \
             loading, and rounded again where that is asked for"
        );
    }
    if moved.again.tensors > 0 {
        tracing::warn!(
            mode = planned.request.quantization.label(),
            kept = kept.join(", "),
            tensors = moved.again.tensors,
            file_bytes = moved.again.file_bytes,
            memory_bytes = moved.again.memory_bytes,
            "matrices that the file has quantised are expanded and rounded again while loading, as was asked \
             for: those that adapters change, and those in types that are not kept"
        );
    }
    let matrices = planned.request.listed_and_cut();
    if matrices > 0 {
        tracing::info!(
            matrices,
            "o and down projections whose groups of columns are out of order (act order) are not cut over \
             ranks in their bits: they are expanded while loading"
        );
    }
    if moved.rounded.tensors > 0 {
        tracing::info!(
            mode = planned.request.quantization.label(),
            kept = kept.join(", "),
            rounded = moved.rounded.tensors,
            file_bytes = moved.rounded.file_bytes,
            memory_bytes = moved.rounded.memory_bytes,
            "matrices are rounded to fewer bits while loading, as was asked for"
        );
    }
}

/// Some tensors of a file, and what they take in memory, over all ranks.
#[derive(Debug, Default, PartialEq)]
struct Tensors {
    tensors: u64,
    file_bytes: u64,
    memory_bytes: u64,
}

/// Tensors that memory has in another form than the file.
#[derive(Debug, Default, PartialEq)]
struct Moved {
    /// Quantised ones, in a float type.
    expanded: Tensors,
    /// Quantised ones, in other blocks.
    again: Tensors,
    /// Others, in blocks.
    rounded: Tensors,
}

impl Moved {
    fn of(tensors: &dyn TensorSource, request: &Request) -> Moved {
        let kept = request.kept();
        let places = kept.all(request.shape.layers);
        let stays = kept.of_file(request.shape.layers);
        let mut all = Moved::default();
        for info in tensors
            .names()
            .into_iter()
            .filter_map(|name| tensors.info(name))
        {
            let in_file = tensors.blocks(&info.name);
            // What an adapter changes is in no blocks any more, and its type is the file's still.
            let is_blocks = |format: BlockFormat| format.label() == info.dtype;
            let is_quantised = in_file.is_some()
                || packed::LABELS.contains(&&*info.dtype)
                || BlockFormat::ALL.into_iter().any(is_blocks);
            let (rows, cols) = info.rows_cols();
            let (rows, cols) = (rows as u64, cols as u64);
            let (of, row_bytes) = match place_of(&places, &info.name) {
                Some(_) if place_of(&stays, &info.name).is_some() => continue,
                Some(format) if is_quantised => (&mut all.again, format.row_bytes(cols)),
                Some(format) => (&mut all.rounded, format.row_bytes(cols)),
                None if is_quantised => {
                    let row_bytes = cols.saturating_mul(request.dtype.bytes());
                    (&mut all.expanded, row_bytes)
                }
                None => continue,
            };
            of.tensors += 1;
            of.file_bytes += info.bytes;
            of.memory_bytes += rows.saturating_mul(row_bytes);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser;
    use plimsoll_planner::Quantization;

    use super::*;
    use crate::adapters::tests::edited::Edited;
    use crate::adapters::tests::fixtures;
    use crate::adapters::tests::gguf::counting;
    use crate::args::{Cli, Command};
    use crate::config::plan_flags;
    use crate::model::ModelFolder;

    #[test]
    fn what_is_expanded_is_counted_with_its_bytes() {
        let file = "tests/fixtures/positions/mixed-gguf/model.gguf";
        let model = ModelFolder::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
        let Command::Plan(args) = Cli::parse_from("x plan m".split_whitespace()).command else {
            panic!("not a plan")
        };
        let planned = plan_flags(&args.memory, &model).unwrap();
        let quantised = |name: &str| {
            model
                .tensors
                .info(name)
                .filter(|_| model.tensors.blocks(name).is_some())
        };
        let all: Vec<_> = model
            .tensors
            .names()
            .into_iter()
            .filter_map(quantised)
            .collect();
        assert!(all.len() > 2);
        let request = planned.request;
        let stays = Moved::of(&*model.tensors, &request);
        assert_eq!(stays, Moved::default());
        let none = Request {
            quantization: Quantization::None,
            ..request
        };
        let numbers: usize = all
            .iter()
            .map(|info| info.shape.iter().product::<usize>())
            .sum();
        let expected = Tensors {
            tensors: all.len() as u64,
            file_bytes: all.iter().map(|info| info.bytes).sum(),
            memory_bytes: 2 * numbers as u64,
        };
        let moved = Moved::of(&*model.tensors, &none);
        assert_eq!(
            (moved.expanded, moved.rounded),
            (expected, Tensors::default())
        );
    }

    #[test]
    fn what_an_adapter_changes_of_quantised_weights_is_counted_as_floats_or_as_rounded_again() {
        let path = fixtures().join("positions/mixed-gguf/model.gguf");
        let base = ModelFolder::open(&path).unwrap();
        let mut adapter = Edited::of("plain");
        counting(&base, &mut adapter, ["self_attn.q_proj", "mlp.down_proj"]);
        let model = ModelFolder::open_with(&path, &[adapter.write()]).unwrap();
        let moved = |quantization: &str| {
            let line = format!("x plan m --quantization {quantization}");
            let Command::Plan(args) = Cli::parse_from(line.split_whitespace()).command else {
                panic!("not a plan")
            };
            let request = plan_flags(&args.memory, &model).unwrap().request;
            Moved::of(&*model.tensors, &request)
        };
        // Two matrices of 256 x 256, in blocks of 18 bytes for 32 numbers.
        let numbers = 2 * 256 * 256;
        let now = |memory_bytes| Tensors {
            tensors: 2,
            file_bytes: numbers / 32 * 18,
            memory_bytes,
        };
        let expanded = moved("auto");
        assert_eq!(expanded.expanded, now(2 * numbers));
        assert_eq!((expanded.again, expanded.rounded), Default::default());
        for (mode, block) in [("int8", 34), ("int4", 18)] {
            let again = moved(mode);
            assert_eq!(again.again, now(numbers / 32 * block), "{mode}");
            assert_eq!((again.expanded, again.rounded), Default::default());
        }
    }

    #[test]
    fn what_is_rounded_is_counted_with_its_bytes() {
        let folder = "tests/fixtures/models/tiny-qwen3";
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        let model = ModelFolder::open(&folder).unwrap();
        let line = "x plan m --quantization int8";
        let Command::Plan(args) = Cli::parse_from(line.split_whitespace()).command else {
            panic!("not a plan")
        };
        let request = plan_flags(&args.memory, &model).unwrap().request;
        let names = model.tensors.names().into_iter();
        let all = names.filter_map(|name| model.tensors.info(name));
        let matrices: Vec<_> = all.filter(|info| info.shape.len() == 2).collect();
        let numbers: usize = matrices
            .iter()
            .map(|info| info.shape.iter().product::<usize>())
            .sum();
        let expected = Moved {
            rounded: Tensors {
                tensors: matrices.len() as u64,
                file_bytes: matrices.iter().map(|info| info.bytes).sum(),
                memory_bytes: (numbers / 32 * 34) as u64,
            },
            ..Moved::default()
        };
        assert_eq!(Moved::of(&*model.tensors, &request), expected);
    }
}
