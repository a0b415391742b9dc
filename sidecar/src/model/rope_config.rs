//! Rotary embedding in a `config.json`: `rope_theta` with `rope_scaling`, or `rope_parameters` as
//! newer versions of transformers write it.

use plimsoll_kernels::rope::{RopeParams, RopeScaling};
use plimsoll_planner::ModelShape;

use super::bounds::{ROPE_FACTOR, ROPE_THETA, float_within};
use super::config::Object;
use crate::model_error::{ModelError, shorten};

const THETA_DEFAULT: f64 = 10_000.0;

pub(crate) fn parse(config: Object<'_>, shape: &ModelShape) -> Result<RopeParams, ModelError> {
    let file = config.file;
    let parameters = config.object("rope_parameters")?;
    let scaling = match parameters {
        Some(parameters) => Some(parameters),
        None => config.object("rope_scaling")?,
    };
    let theta = match parameters
        .map(|p| p.float("rope_theta"))
        .transpose()?
        .flatten()
    {
        Some(theta) => theta,
        None => config.float("rope_theta")?.unwrap_or(THETA_DEFAULT),
    };
    let theta = float_within(file, "rope_theta", theta, ROPE_THETA)?;
    let scaling = match scaling {
        None => RopeScaling::Default,
        Some(scaling) => self::scaling(scaling, shape)?,
    };
    Ok(RopeParams { theta, scaling })
}

fn scaling(scaling: Object<'_>, shape: &ModelShape) -> Result<RopeScaling, ModelError> {
    let file = scaling.file;
    let kind = match scaling.text("rope_type")? {
        Some(kind) => kind,
        None => scaling.text("type")?.unwrap_or("default"),
    };
    let needed = |field: &str| -> Result<f64, ModelError> {
        let value = scaling.float(field)?.ok_or_else(|| {
            ModelError::config(
                file,
                format!("rope_scaling.{field} is missing for type {kind}"),
            )
        })?;
        float_within(file, &format!("rope_scaling.{field}"), value, ROPE_FACTOR)
    };
    match kind {
        "default" => Ok(RopeScaling::Default),
        "linear" => Ok(RopeScaling::Linear {
            factor: needed("factor")?,
        }),
        "llama3" => {
            let low_freq_factor = needed("low_freq_factor")?;
            let high_freq_factor = needed("high_freq_factor")?;
            if high_freq_factor <= low_freq_factor {
                let message = format!(
                    "rope_scaling.high_freq_factor is {high_freq_factor} and low_freq_factor is \
                     {low_freq_factor}; the first must be larger"
                );
                return Err(ModelError::config(file, message));
            }
            let original = match scaling.number("original_max_position_embeddings")? {
                None => shape.context,
                Some(named) => u32::try_from(named.number)
                    .ok()
                    .filter(|n| *n > 0)
                    .ok_or_else(|| {
                        ModelError::config(
                            file,
                            format!("rope_scaling.{} is {}", named.field, named.number),
                        )
                    })?,
            };
            Ok(RopeScaling::Llama3 {
                factor: needed("factor")?,
                low_freq_factor,
                high_freq_factor,
                original_context: original,
            })
        }
        other => {
            let message = format!(
                "rope type `{}` is not supported; supported: default, linear, llama3",
                shorten(other)
            );
            Err(ModelError::architecture(file, message))
        }
    }
}
