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

/// What becomes of weights that the file has quantised.
pub(crate) fn describe_weights(model: &Model, planned: &Planned) {
    let Some(quantization) = &model.facts.quantization else {
        return;
    };
    let formats = planned.formats();
    let stay: Vec<String> = formats.iter().map(BlockFormat::to_string).collect();
    let expanded = expanded(&*model.tensors, &planned.request);
    tracing::info!(
        quantization,
        stay = stay.join(", "),
        expanded = expanded.tensors,
        file_bytes = expanded.file_bytes,
        memory_bytes = expanded.memory_bytes,
        dtype = %planned.request.dtype,
        "the file is quantised: matrices in the formats that stay are kept so, others are expanded while \
         loading"
    );
}

/// Quantised tensors that do not stay so, over all ranks.
#[derive(Debug, Default, PartialEq)]
struct Expanded {
    tensors: u64,
    file_bytes: u64,
    memory_bytes: u64,
}

fn expanded(tensors: &dyn TensorSource, request: &Request) -> Expanded {
    let kept = request.kept().blocks;
    let mut all = Expanded::default();
    for info in tensors
        .names()
        .into_iter()
        .filter_map(|name| tensors.info(name))
    {
        let stays = kept.is_some_and(|kept| place_of(kept, &info.name).is_some());
        let is_quantised =
            tensors.blocks(&info.name).is_some() || packed::LABELS.contains(&&*info.dtype);
        if stays || !is_quantised {
            continue;
        }
        let (rows, cols) = info.rows_cols();
        all.tensors += 1;
        all.file_bytes += info.bytes;
        all.memory_bytes += (rows as u64 * cols as u64).saturating_mul(request.dtype.bytes());
    }
    all
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser;
    use plimsoll_planner::Quantization;

    use super::*;
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
        let stays = expanded(&*model.tensors, &request);
        assert_eq!(stays, Expanded::default());
        let none = Request {
            quantization: Quantization::None,
            ..request
        };
        let numbers: usize = all
            .iter()
            .map(|info| info.shape.iter().product::<usize>())
            .sum();
        let expected = Expanded {
            tensors: all.len() as u64,
            file_bytes: all.iter().map(|info| info.bytes).sum(),
            memory_bytes: 2 * numbers as u64,
        };
        assert_eq!(expanded(&*model.tensors, &none), expected);
    }
}
