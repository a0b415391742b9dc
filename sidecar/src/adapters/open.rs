//! Opening an adapter's folder: its config, every number of its tensors, and their places in the base.

use std::collections::HashMap;
use std::sync::Arc;

use plimsoll_crds::v1alpha1::adapters::AdapterScale;

use super::change::Change;
use super::config::AdapterConfig;
use super::factor::Factor;
use super::places::{Placed, Places, is_float};
use super::{AdapterPath, Base, EMBEDDING, HEAD, WEIGHTS, effect, refused, unread};
use crate::digest::Digest;
use crate::model_error::{ModelError, shorten};
use crate::weights::file::{WeightFile, is_there};
use crate::weights::header::Bounds;
use crate::weights::safetensors;

/// An adapter that fits its base.
#[derive(Debug)]
pub(crate) struct Opened {
    /// By the base's tensor.
    pub(crate) changes: HashMap<String, Change>,
    /// The base's embedding and head are no longer one tensor.
    pub(crate) unties: bool,
    pub(crate) digest: String,
    pub(crate) told: Vec<String>,
    /// And of merging it.
    pub(crate) told_merged: Vec<String>,
}

/// Reads headers and every number of the adapter; of the base at most its embedding.
pub(crate) fn open(at: &AdapterPath, base: Base<'_>, called: &str) -> Result<Opened, ModelError> {
    let mut digest = Digest::new();
    let adapter = at.name.as_str();
    let config = AdapterConfig::open(adapter, &at.path, &mut |bytes| digest.update(bytes))?;
    if !at.scale.is_sound() {
        let message = format!(
            "scale: is {}, expected a number from -{most} to {most} that is not 0",
            at.scale.0,
            most = AdapterScale::MOST
        );
        return Err(refused(adapter, "", message));
    }
    if !at.scale.is_one() {
        digest.update(&at.scale.0.to_le_bytes());
    }
    let factors = factors(at, &mut digest)?;
    let Placed {
        changes,
        unties,
        told: placed,
    } = Places::of(adapter, (&config, at.scale.0), base).fill(factors)?;
    if changes.is_empty() {
        return Err(refused(adapter, WEIGHTS, "changes no tensor of the base"));
    }
    effect::check(adapter, &changes)?;
    let is_unscaled =
        |change: &&Change| matches!(change, Change::Replaced(_) | Change::Rows { .. });
    let unscaled = changes.values().filter(is_unscaled).count();
    let unscaled = (unscaled > 0 && !at.scale.is_one()).then(|| {
        format!(
            "adapter `{adapter}`: its scale of {} does not reach {unscaled} of the {} tensors that it \
             changes, which it replaces (modules_to_save, trainable_token_indices)",
            at.scale.0,
            changes.len()
        )
    });
    let told = config.base.iter().filter(|name| last_part(name) != called);
    let told = told.map(|name| {
        let name = shorten(name);
        format!(
            "adapter `{adapter}` was trained on {name}; the base here is called {called}, and has \
             all that it asks for"
        )
    });
    let is_quantized = |tensor: &&String| {
        let info = base.tensors.info(tensor);
        // A head that the adapter makes is the base's embedding before.
        let info = info.or_else(|| base.tensors.info(EMBEDDING).filter(|_| *tensor == HEAD));
        info.is_some_and(|info| !is_float(info))
    };
    let quantized = changes.keys().filter(is_quantized).count();
    let expanded = (quantized > 0).then(|| {
        format!(
            "adapter `{adapter}`: {quantized} of the {} tensors that it changes are quantised in the \
             file: merged into expanded numbers, they stay floats, or with quantization mode Int8 or \
             Int4 are rounded again",
            changes.len()
        )
    });
    Ok(Opened {
        told: told.chain(placed).collect(),
        told_merged: expanded.into_iter().chain(unscaled).collect(),
        changes,
        unties,
        digest: digest.finish(),
    })
}

fn last_part(name: &str) -> &str {
    name.trim_end_matches('/')
        .rsplit('/')
        .next()
        .unwrap_or(name)
}

/// Opens the file, and goes over its bytes: what is no number is found here.
fn factors(at: &AdapterPath, digest: &mut Digest) -> Result<Vec<Factor>, ModelError> {
    let path = at.path.join(WEIGHTS);
    if !is_there(&path) {
        let message = match is_there(&at.path.join("adapter_model.bin")) {
            true => "is missing; adapter_model.bin (PyTorch) is not read, save it as safetensors",
            false => "is missing",
        };
        return Err(refused(&at.name, WEIGHTS, message));
    }
    let opened = WeightFile::open(&path).and_then(|file| {
        safetensors::open(file, Bounds::ADAPTER, &mut |header| digest.update(header))
    });
    let opened = opened.map_err(|error| unread(&at.name, &error))?;
    let (file, adapter) = (Arc::new(opened.file), Arc::from(at.name.as_str()));
    let mut factors = Vec::with_capacity(opened.tensors.len());
    for entry in opened.tensors {
        let refuse = |message: String| {
            let name = shorten(&entry.info.name);
            Err(refused(&at.name, WEIGHTS, format!("`{name}`: {message}")))
        };
        let Some(stored) = entry.stored else {
            return refuse(format!("is {}; read are F32, F16, BF16", entry.info.dtype));
        };
        let mut factor = Factor {
            adapter: Arc::clone(&adapter),
            file: Arc::clone(&file),
            info: entry.info.clone(),
            stored,
            is_zero: false,
        };
        let scanned = factor.scan(&mut |bytes| digest.update(bytes))?;
        factor.is_zero = scanned.is_zero;
        if let Some((at, number)) = scanned.wrong {
            return refuse(format!(
                "number {at} is {number}; the training left no adapter"
            ));
        }
        factors.push(factor);
    }
    Ok(factors)
}
