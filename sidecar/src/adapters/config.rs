//! `adapter_config.json`, as far as a merge goes by it.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::patterns::{Names, Pattern, Targets, first};
use super::{CONFIG, fields, refused, unread};
use crate::model_error::{ModelError, shorten};
use crate::weights::file::read_small;
use crate::weights::safetensors::UniqueMap;

const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// Most that a rank may be: PEFT bounds none, and a reader holds a row of A and of B for each of them.
pub(super) const RANK_MAX: u64 = 4096;

/// Inits that leave the base as it was.
const PLAIN_INITS: [&str; 3] = ["gaussian", "eva", "orthogonal"];
/// Inits that take a part out of the base, by their first letters.
const RESIDUAL_INITS: [&str; 6] = ["pissa", "olora", "corda", "lora_ga", "mica", "loftq"];

/// What a config says.
#[derive(Clone, Debug)]
pub(crate) struct AdapterConfig {
    rank: u64,
    alpha: f64,
    rank_pattern: Vec<(Pattern, u64)>,
    alpha_pattern: Vec<(Pattern, f64)>,
    rslora: bool,
    pub(crate) dora: bool,
    pub(crate) lora_bias: bool,
    /// Both sides of a tied embedding were trained as one.
    pub(crate) ties: bool,
    pub(crate) targets: Targets,
    /// `modules_to_save`, ends of names.
    pub(crate) saved: Vec<String>,
    /// Tokens that were trained alone, in the order of their rows in the file.
    pub(crate) tokens: Vec<u64>,
    /// What the base was called.
    pub(crate) base: Option<String>,
}

/// Objects whose order counts.
#[derive(Deserialize)]
struct Ordered {
    rank_pattern: Option<UniqueMap<Value>>,
    alpha_pattern: Option<UniqueMap<Value>>,
}

impl AdapterConfig {
    /// Reads the file; `digest` gets it as it is.
    pub(crate) fn open(
        adapter: &str,
        folder: &Path,
        digest: &mut dyn FnMut(&[u8]),
    ) -> Result<AdapterConfig, ModelError> {
        let bytes = read_small(&folder.join(CONFIG), CONFIG_BYTES_MAX);
        let bytes = bytes.map_err(|error| unread(adapter, &error))?;
        digest(&(bytes.len() as u64).to_le_bytes());
        digest(&bytes);
        parse(adapter, &bytes)
    }

    /// The rank of a module's matrices.
    pub(crate) fn rank_of(&self, module: &str) -> u64 {
        first(&self.rank_pattern, module).unwrap_or(self.rank)
    }

    /// What a module's product is multiplied by.
    #[expect(clippy::cast_precision_loss, reason = "a rank is far below 2^52")]
    pub(crate) fn scale_of(&self, module: &str) -> f64 {
        let alpha = first(&self.alpha_pattern, module).unwrap_or(self.alpha);
        let rank = self.rank_of(module) as f64;
        match self.rslora {
            true => alpha / rank.sqrt(),
            false => alpha / rank,
        }
    }
}

pub(super) fn parse(adapter: &str, bytes: &[u8]) -> Result<AdapterConfig, ModelError> {
    let invalid = |error: serde_json::Error| {
        let text = shorten(&error.to_string());
        refused(adapter, CONFIG, format!("is not valid: {text}"))
    };
    let UniqueMap(all) = serde_json::from_slice(bytes).map_err(invalid)?;
    let config = Config { adapter, all: &all };
    for field in ["rank_pattern", "alpha_pattern"] {
        if let Some(value) = config.get(field).filter(|value| !value.is_object()) {
            return config.mismatch(field, value, "an object");
        }
    }
    let ordered: Ordered = serde_json::from_slice(bytes).map_err(invalid)?;
    config.of_lora()?;
    fields::check(adapter, &all)?;
    config.of_causal_models()?;
    config.plain_init()?;
    let saved = config.names("modules_to_save")?;
    let pattern = |field: &'static str, found: Result<Pattern, String>| {
        found.map_err(|error| config.error(field, &error))
    };
    let layers_lists = config.names("layers_pattern")?;
    let lists = layers_lists
        .iter()
        .map(|name| Targets::list_of_layers(name));
    let lists = lists.map(|found| pattern("layers_pattern", found));
    let whole = saved.iter().map(|name| Targets::saved(name));
    let whole = whole.map(|found| pattern("modules_to_save", found));
    let Some(targets) = config.some_names("target_modules")? else {
        return Err(config.error(
            "target_modules",
            "is missing or empty: nothing would be merged",
        ));
    };
    Ok(AdapterConfig {
        rank: config.rank("r", config.get("r"))?,
        alpha: config.number("lora_alpha", config.get("lora_alpha"))?,
        rank_pattern: config.patterns("rank_pattern", ordered.rank_pattern, Config::rank)?,
        alpha_pattern: config.patterns("alpha_pattern", ordered.alpha_pattern, Config::number)?,
        rslora: config.flag("use_rslora")?,
        dora: config.flag("use_dora")?,
        lora_bias: config.flag("lora_bias")?,
        ties: config.flag("ensure_weight_tying")?,
        targets: Targets {
            targets,
            excluded: config.some_names("exclude_modules")?,
            layers: config.layers()?,
            lists: lists.collect::<Result<_, _>>()?,
            saved: whole.collect::<Result<_, _>>()?,
        },
        saved,
        tokens: config.tokens()?,
        base: config.text("base_model_name_or_path")?.map(str::to_owned),
    })
}

/// A config that is being read: errors name adapter, file and field.
struct Config<'a> {
    adapter: &'a str,
    all: &'a [(String, Value)],
}

impl<'a> Config<'a> {
    fn error(&self, field: &str, message: &str) -> ModelError {
        refused(self.adapter, CONFIG, format!("{field}: {message}"))
    }

    fn mismatch<T>(&self, field: &str, value: &Value, expected: &str) -> Result<T, ModelError> {
        let value = shorten(&value.to_string());
        Err(self.error(field, &format!("is {value}, expected {expected}")))
    }

    fn get(&self, field: &str) -> Option<&'a Value> {
        let found = self.all.iter().find(|(name, _)| name == field);
        found
            .map(|(_, value)| value)
            .filter(|value| !value.is_null())
    }

    /// The first question: another kind of adapter has other fields.
    fn of_lora(&self) -> Result<(), ModelError> {
        match self.get("peft_type") {
            Some(kind) if *kind == "LORA" => Ok(()),
            Some(kind) => self.mismatch("peft_type", kind, "LORA, which alone is merged"),
            None => Err(self.error("peft_type", "is missing; expected LORA")),
        }
    }

    fn of_causal_models(&self) -> Result<(), ModelError> {
        match self.get("task_type") {
            Some(task) if *task != "CAUSAL_LM" => self.mismatch(
                "task_type",
                task,
                "CAUSAL_LM: other tasks have heads of their own",
            ),
            Some(_) | None => match self.get("bias") {
                Some(bias) if *bias != "none" => self.mismatch(
                    "bias",
                    bias,
                    "none: trained biases of the base are not merged",
                ),
                Some(_) | None => Ok(()),
            },
        }
    }

    fn plain_init(&self) -> Result<(), ModelError> {
        let field = "init_lora_weights";
        let Some(init) = self.get(field) else {
            return Ok(());
        };
        match init {
            Value::Bool(_) => Ok(()),
            Value::String(name) if PLAIN_INITS.contains(&name.as_str()) => Ok(()),
            Value::String(name) if RESIDUAL_INITS.iter().any(|of| name.starts_with(of)) => {
                let message = format!(
                    "is {}: such a training takes a part out of the base, and its file fits that \
                     residual alone; save it as a plain LoRA (save_pretrained with \
                     path_initial_model_for_weight_conversion), or merge it with PEFT",
                    shorten(name)
                );
                Err(self.error(field, &message))
            }
            other => self.mismatch(
                field,
                other,
                &format!("true, false, {}", PLAIN_INITS.join(", ")),
            ),
        }
    }

    fn rank(&self, field: &str, value: Option<&Value>) -> Result<u64, ModelError> {
        match value.map(|value| (value, value.as_u64())) {
            None => Err(self.error(field, "is missing")),
            Some((_, Some(number @ 1..=RANK_MAX))) => Ok(number),
            Some((value, _)) => {
                let expected = format!("a whole number, 1 or more and at most {RANK_MAX}");
                self.mismatch(field, value, &expected)
            }
        }
    }

    fn number(&self, field: &str, value: Option<&Value>) -> Result<f64, ModelError> {
        match value.map(|value| (value, value.as_f64())) {
            None => Err(self.error(field, "is missing")),
            Some((_, Some(number))) => Ok(number),
            Some((value, None)) => self.mismatch(field, value, "a number"),
        }
    }

    fn flag(&self, field: &str) -> Result<bool, ModelError> {
        match self.get(field) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(value) => self.mismatch(field, value, "true or false"),
        }
    }

    fn text(&self, field: &str) -> Result<Option<&'a str>, ModelError> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(value) => self.mismatch(field, value, "a text"),
        }
    }

    /// A name, a list of them, or nothing.
    fn names(&self, field: &'static str) -> Result<Vec<String>, ModelError> {
        match self.get(field) {
            None => Ok(Vec::new()),
            Some(Value::String(name)) if name.is_empty() => Ok(Vec::new()),
            Some(Value::String(name)) => Ok(vec![name.clone()]),
            Some(value) => self.list(field, value),
        }
    }

    fn list(&self, field: &str, value: &Value) -> Result<Vec<String>, ModelError> {
        let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
        let texts = list.iter().filter_map(Value::as_str);
        let texts: Vec<String> = texts.map(str::to_owned).collect();
        match value.is_array() && texts.len() == list.len() && !texts.iter().any(String::is_empty) {
            true => Ok(texts),
            false => self.mismatch(field, value, "a list of names"),
        }
    }

    /// A list of names, or an expression for whole ones.
    fn some_names(&self, field: &'static str) -> Result<Option<Names>, ModelError> {
        match self.get(field) {
            None => Ok(None),
            Some(value) if fields::is_empty(value) => Ok(None),
            Some(Value::String(text)) if text == "all-linear" => Ok(Some(Names::AllLinear)),
            Some(Value::String(text)) => match Pattern::whole(text) {
                Ok(pattern) => Ok(Some(Names::Pattern(pattern))),
                Err(message) => Err(self.error(field, &message)),
            },
            Some(value) => Ok(Some(Names::Each(self.list(field, value)?))),
        }
    }

    /// A list of ids, or one by the embedding's name.
    fn tokens(&self) -> Result<Vec<u64>, ModelError> {
        let field = "trainable_token_indices";
        let Some(value) = self.get(field).filter(|value| !fields::is_empty(value)) else {
            return Ok(Vec::new());
        };
        let of_embedding = |fields: &'a Map<String, Value>| match fields.iter().next() {
            Some((name, list)) if fields.len() == 1 && name.ends_with("embed_tokens") => Some(list),
            Some(_) | None => None,
        };
        let list = value.as_object().map_or(Some(value), of_embedding);
        let list = list
            .and_then(Value::as_array)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let numbers: Vec<u64> = list.iter().filter_map(Value::as_u64).collect();
        match !list.is_empty() && numbers.len() == list.len() {
            true => Ok(numbers),
            false => self.mismatch(field, value, "a list of token ids of the embedding"),
        }
    }

    fn layers(&self) -> Result<Vec<u64>, ModelError> {
        let field = "layers_to_transform";
        let expected = "the number of a layer, or a list of them";
        match self.get(field) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => {
                let numbers: Vec<u64> = list.iter().filter_map(Value::as_u64).collect();
                match numbers.len() == list.len() {
                    true => Ok(numbers),
                    false => self.mismatch(field, &Value::Array(list.clone()), expected),
                }
            }
            Some(value) => match value.as_u64() {
                Some(number) => Ok(vec![number]),
                None => self.mismatch(field, value, expected),
            },
        }
    }

    fn patterns<T>(
        &self,
        field: &'static str,
        of: Option<UniqueMap<Value>>,
        read: impl Fn(&Config<'a>, &str, Option<&Value>) -> Result<T, ModelError>,
    ) -> Result<Vec<(Pattern, T)>, ModelError> {
        let UniqueMap(of) = of.unwrap_or(UniqueMap(Vec::new()));
        let row = |(text, value): (String, Value)| {
            let pattern = Pattern::ending(&text).map_err(|error| self.error(field, &error))?;
            let name = format!("{field} of `{}`", shorten(&text));
            Ok((pattern, read(self, &name, Some(&value))?))
        };
        of.into_iter().map(row).collect()
    }
}
