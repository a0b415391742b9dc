//! Rotary embedding in a `config.json`: `rope_parameters` as newer versions of transformers write
//! it, or `rope_scaling` with `rope_theta` beside it as older ones do. Where both stand, the scaling
//! wins whole, as there.
//!
//! How far a scaling reaches is vLLM's arithmetic: linear and YaRN stretch the context by their
//! factor. `dynamic` does nothing to texts up to `max_position_embeddings`, and longer ones would
//! turn each text's keys by frequencies of its own, so the context ends there.

use plimsoll_kernels::rope::{RopeParams, RopeScaling};
use plimsoll_planner::ModelShape;

use super::bounds::{CONTEXT_MAX, ROPE_FACTOR, ROPE_THETA, float_within};
use super::defaults;
use super::object::Object;
use crate::model_error::{ModelError, shorten};

/// The fields that each type reads, beside its name and `rope_theta`.
const FIELDS: [(&str, &[&str]); 5] = [
    ("default", &[]),
    ("linear", &["factor"]),
    ("dynamic", &["factor"]),
    (
        "llama3",
        &[
            "factor",
            "low_freq_factor",
            "high_freq_factor",
            "original_max_position_embeddings",
        ],
    ),
    (
        "yarn",
        &[
            "factor",
            "original_max_position_embeddings",
            "attention_factor",
            "beta_fast",
            "beta_slow",
            "mscale",
            "mscale_all_dim",
            "truncate",
        ],
    ),
];
/// Said by publishers, read by nobody.
const HARMLESS: [&str; 2] = ["finetuned", "original_max_position_embeddings"];
/// How often a pair turns at most: beyond any context.
const TURNS: std::ops::RangeInclusive<f64> = 1e-3..=1e6;

/// One of the two objects that may say it.
#[derive(Clone, Copy)]
struct Scaling<'a> {
    name: &'static str,
    fields: Object<'a>,
    kind: &'a str,
}

/// The embedding, and the context that it reaches.
pub(crate) fn parse(
    config: Object<'_>,
    shape: &ModelShape,
) -> Result<(RopeParams, u32), ModelError> {
    let file = config.file;
    let object = |name| -> Result<Option<Scaling<'_>>, ModelError> {
        let fields = config
            .object(name)?
            .filter(|object| !object.fields.is_empty());
        let Some(fields) = fields else {
            return Ok(None);
        };
        let kind = kind(name, fields)?;
        Ok(Some(Scaling { name, fields, kind }))
    };
    let scaling = match object("rope_scaling")? {
        Some(scaling) => Some(scaling),
        None => object("rope_parameters")?,
    };
    let own = match scaling {
        Some(scaling) => scaling.fields.float("rope_theta")?,
        None => None,
    };
    let theta = match own {
        Some(theta) => theta,
        None => config.float("rope_theta")?.unwrap_or(defaults::ROPE_THETA),
    };
    let theta = float_within(file, "rope_theta", theta, ROPE_THETA)?;
    let (scaling, reach) = match scaling {
        None => (RopeScaling::Default, f64::from(shape.context)),
        Some(scaling) => {
            scaling.check()?;
            scaling.read(config, shape, theta)?
        }
    };
    let context = reach.floor();
    #[expect(clippy::cast_precision_loss, reason = "2^26")]
    let most = CONTEXT_MAX as f64;
    if !(1.0..=most).contains(&context) {
        let message =
            format!("its rotary embedding reaches {context} tokens, at most {CONTEXT_MAX}");
        return Err(ModelError::config(file, message));
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a whole number within CONTEXT_MAX"
    )]
    Ok((RopeParams { theta, scaling }, context as u32))
}

/// `rope_type`, or `type` as it was called.
fn kind<'a>(name: &str, fields: Object<'a>) -> Result<&'a str, ModelError> {
    let (new, old) = (fields.text("rope_type")?, fields.text("type")?);
    if let (Some(new), Some(old)) = (new, old)
        && new != old
    {
        let (new, old) = (shorten(new), shorten(old));
        let message = format!("{name}.rope_type is `{new}` and {name}.type is `{old}`");
        return Err(ModelError::config(fields.file, message));
    }
    Ok(new.or(old).unwrap_or("default"))
}

impl Scaling<'_> {
    /// Refuses a type that is not there, and fields that the type does not read.
    fn check(self) -> Result<(), ModelError> {
        let Scaling { name, fields, kind } = self;
        let Some((_, known)) = FIELDS.iter().find(|(known, _)| *known == kind) else {
            let kinds = FIELDS.map(|(kind, _)| kind).join(", ");
            let message = format!(
                "rope type `{}` is not supported; supported: {kinds}",
                shorten(kind)
            );
            return Err(ModelError::architecture(fields.file, message));
        };
        let given = fields.fields.iter().filter(|(_, value)| !value.is_null());
        for (field, value) in given {
            let field = field.as_str();
            let is_read = ["rope_type", "type", "rope_theta"].contains(&field)
                || known.contains(&field)
                || HARMLESS.contains(&field)
                || (field == "partial_rotary_factor" && value.as_f64() == Some(1.0));
            if !is_read {
                let message = format!(
                    "{name}.{} is {}, which rope type `{kind}` does not have; supported there: {}",
                    shorten(field),
                    shorten(&value.to_string()),
                    match known.is_empty() {
                        true => "rope_theta alone".to_owned(),
                        false => known.join(", "),
                    }
                );
                return Err(ModelError::architecture(fields.file, message));
            }
        }
        Ok(())
    }

    /// The scaling, and the tokens it reaches.
    fn read(
        self,
        config: Object<'_>,
        shape: &ModelShape,
        theta: f64,
    ) -> Result<(RopeScaling, f64), ModelError> {
        let context = f64::from(shape.context);
        match self.kind {
            "linear" => {
                let factor = self.needed("factor")?;
                Ok((RopeScaling::Linear { factor }, context * factor))
            }
            "llama3" => Ok((self.llama3(config, shape)?, context)),
            "yarn" => self.yarn(config, shape, theta),
            "dynamic" => {
                self.needed("factor")?;
                Ok((RopeScaling::Default, context))
            }
            _ => Ok((RopeScaling::Default, context)),
        }
    }

    fn llama3(self, config: Object<'_>, shape: &ModelShape) -> Result<RopeScaling, ModelError> {
        let low_freq_factor = self.needed("low_freq_factor")?;
        let high_freq_factor = self.needed("high_freq_factor")?;
        if high_freq_factor <= low_freq_factor {
            let message = format!(
                "{}.high_freq_factor is {high_freq_factor} and low_freq_factor is \
                 {low_freq_factor}; the first must be larger",
                self.name
            );
            return Err(ModelError::config(self.fields.file, message));
        }
        Ok(RopeScaling::Llama3 {
            factor: self.needed("factor")?,
            low_freq_factor,
            high_freq_factor,
            original_context: self.original(config, shape)?,
        })
    }

    fn yarn(
        self,
        config: Object<'_>,
        shape: &ModelShape,
        theta: f64,
    ) -> Result<(RopeScaling, f64), ModelError> {
        let file = self.fields.file;
        if theta <= 1.0 {
            let message = format!("rope_theta is {theta}, expected more than 1 for yarn");
            return Err(ModelError::config(file, message));
        }
        let original_context = self.original(config, shape)?;
        let original = f64::from(original_context);
        // Written as null, it is what the two contexts say.
        let factor = match self.fields.fields.get("factor") {
            Some(value) if value.is_null() => f64::from(shape.context) / original,
            _ => self.needed("factor")?,
        };
        let magnitude = |scale: f64| match factor > 1.0 {
            true => 0.1 * scale * factor.ln() + 1.0,
            false => 1.0,
        };
        // As in Python: 0 and null are no value.
        let optional = |field: &str| -> Result<Option<f64>, ModelError> {
            Ok(self.fields.float(field)?.filter(|value| *value != 0.0))
        };
        let attention_factor = match self.fields.float("attention_factor")? {
            Some(factor) => factor,
            None => match (optional("mscale")?, optional("mscale_all_dim")?) {
                (Some(one), Some(all)) => magnitude(one) / magnitude(all),
                _ => magnitude(1.0),
            },
        };
        let within = |field: &str, value, range| {
            float_within(file, &format!("{}.{field}", self.name), value, range)
        };
        let scaling = RopeScaling::Yarn {
            factor,
            original_context,
            beta_fast: within("beta_fast", optional("beta_fast")?.unwrap_or(32.0), TURNS)?,
            beta_slow: within("beta_slow", optional("beta_slow")?.unwrap_or(1.0), TURNS)?,
            attention_factor: within("attention_factor", attention_factor, ROPE_FACTOR)?,
            truncate: match self.fields.fields.contains_key("truncate") {
                true => self.fields.flag("truncate")?,
                false => true,
            },
        };
        Ok((scaling, original * factor))
    }

    fn needed(self, field: &str) -> Result<f64, ModelError> {
        let (name, file) = (self.name, self.fields.file);
        let value = self.fields.float(field)?.ok_or_else(|| {
            let message = format!("{name}.{field} is missing for type {}", self.kind);
            ModelError::config(file, message)
        })?;
        float_within(file, &format!("{name}.{field}"), value, ROPE_FACTOR)
    }

    /// The context before scaling. The top of the config goes before the object, as in
    /// transformers.
    fn original(self, config: Object<'_>, shape: &ModelShape) -> Result<u32, ModelError> {
        const FIELD: &str = "original_max_position_embeddings";
        let (place, named) = match config.number(FIELD)? {
            Some(named) => (FIELD.to_owned(), Some(named)),
            None => (format!("{}.{FIELD}", self.name), self.fields.number(FIELD)?),
        };
        let Some(named) = named else {
            return Ok(shape.context);
        };
        let number = u32::try_from(named.number).ok();
        number
            .filter(|number| (1..=CONTEXT_MAX).contains(&u64::from(*number)))
            .ok_or_else(|| {
                let message = format!("{place} is {}, expected 1 to {CONTEXT_MAX}", named.number);
                ModelError::config(self.fields.file, message)
            })
    }
}
