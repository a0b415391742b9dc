//! Special tokens of a Hugging Face folder. Up to four files declare them; they are merged as
//! transformers merges them:
//!
//! - with `added_tokens_decoder` in `tokenizer_config.json`, that file has the last word, and
//!   neither `special_tokens_map.json` nor `added_tokens.json` is asked;
//! - without it, names in `special_tokens_map.json` go before those of `tokenizer_config.json`, and
//!   `added_tokens.json` adds its tokens.
//!
//! What transformers settles by that order without a word is refused here where it would change
//! answers: two files that name different bos or eos tokens, or give one token two ids.

use std::collections::HashMap;

use serde_json::Value;

use super::object::Object;
use crate::model_error::{ModelError, shorten};
use crate::tokenizer::{DeclaredToken, SpecialTokens};

/// The names that every tokenizer of transformers has.
const NAMES: [&str; 7] = [
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];
/// A folder may name more (`image_token`); real ones name a handful.
const NAMES_MAX: usize = 256;

/// The files, each of them optional.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Files<'a> {
    pub(crate) config: Object<'a>,
    pub(crate) map: Object<'a>,
    pub(crate) added: Object<'a>,
}

/// What the files say together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Merged {
    pub(crate) names: SpecialTokens,
    /// Ascending by id, those without one last.
    pub(crate) declared: Vec<DeclaredToken>,
}

/// `known`: ids of the tokens that `tokenizer.json` adds to its vocabulary, by text.
pub(crate) fn merge(files: Files<'_>, known: &HashMap<String, u32>) -> Result<Merged, ModelError> {
    let decoder = decoder(files.config)?;
    let legacy = decoder.is_none();
    let added = added_tokens(files.added)?;
    let mut ids = Ids::of(known);
    for token in decoder.iter().flatten().chain(&added) {
        ids.note(token)?;
    }
    let names = names(files, legacy)?;
    let extra = extra(files, legacy)?;
    let mut declared = decoder.unwrap_or(added);
    declared.sort_by_key(|token| token.id);
    let named = names.iter().map(|(_, token)| (token, true));
    for (token, is_named) in named.chain(extra.iter().map(|token| (token, false))) {
        let is_it = |other: &DeclaredToken| other.content == token.content;
        let padding = names
            .iter()
            .all(|(name, other)| !is_it(other) || name == "pad_token")
            && !extra.iter().any(is_it);
        match declared.iter_mut().find(|declared| is_it(declared)) {
            Some(declared) => {
                // A name makes special; a list of others leaves a decoder's word alone.
                declared.special |= is_named || legacy;
                declared.padding = padding;
            }
            // What tokenizer.json adds stays as it is there.
            None if known.contains_key(&token.content) && !padding => {}
            None => declared.push(DeclaredToken {
                id: known.get(&token.content).copied(),
                padding,
                ..token.clone()
            }),
        }
    }
    let names = names.into_iter().map(|(name, token)| (name, token.content));
    Ok(Merged {
        names: names.collect(),
        declared,
    })
}

/// Which token has which id, by whom.
struct Ids {
    by_content: HashMap<String, (u32, String)>,
    by_id: HashMap<u32, (String, String)>,
}

impl Ids {
    fn of(known: &HashMap<String, u32>) -> Ids {
        let file = || "tokenizer.json".to_owned();
        let by_content = known.iter().map(|(text, id)| (text.clone(), (*id, file())));
        let by_id = known.iter().map(|(text, id)| (*id, (text.clone(), file())));
        Ids {
            by_content: by_content.collect(),
            by_id: by_id.collect(),
        }
    }

    fn note(&mut self, token: &DeclaredToken) -> Result<(), ModelError> {
        let Some(id) = token.id else { return Ok(()) };
        let text = shorten(&token.content);
        if let Some((other, file)) = self.by_content.get(&token.content)
            && *other != id
        {
            let message = format!("token `{text}` has the id {id}, and {other} in {file}");
            return Err(ModelError::tokenizer(&token.file, message));
        }
        if let Some((other, file)) = self.by_id.get(&id)
            && *other != token.content
        {
            let other = shorten(other);
            let message = format!("id {id} is the token `{text}`, and `{other}` in {file}");
            return Err(ModelError::tokenizer(&token.file, message));
        }
        let content = token.content.clone();
        self.by_content
            .insert(content.clone(), (id, token.file.clone()));
        self.by_id.insert(id, (content, token.file.clone()));
        Ok(())
    }
}

/// `added_tokens_decoder`: tokens by id.
fn decoder(config: Object<'_>) -> Result<Option<Vec<DeclaredToken>>, ModelError> {
    const FIELD: &str = "added_tokens_decoder";
    let Some(decoder) = config.object(FIELD)? else {
        return Ok(None);
    };
    let tokens = decoder.fields.iter().map(|(id, value)| {
        let field = format!("{FIELD}.{}", shorten(id));
        match (crate::digits::number(id), value) {
            (Some(id), Value::Object(_)) => {
                let token = token(config, &field, value, false)?;
                Ok(DeclaredToken {
                    id: Some(id),
                    ..token
                })
            }
            _ => Err(not_a_token(config, &field, value)),
        }
    });
    tokens.collect::<Result<Vec<_>, _>>().map(Some)
}

/// `added_tokens.json`: ids by text. Special are those that are named.
fn added_tokens(added: Object<'_>) -> Result<Vec<DeclaredToken>, ModelError> {
    let tokens = added.fields.iter().map(|(content, value)| {
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
        let id = id.ok_or_else(|| not_a_token(added, content, value))?;
        Ok(DeclaredToken {
            id: Some(id),
            normalized: true,
            ..plain(content, false, added.file)
        })
    });
    tokens.collect()
}

/// The named tokens, with what the files say of each, in the order in which they are added.
fn names(files: Files<'_>, legacy: bool) -> Result<Vec<(String, DeclaredToken)>, ModelError> {
    let mut names = Vec::new();
    let mut candidates: Vec<&str> = NAMES.to_vec();
    let more = files.config.fields.iter().filter(|(name, value)| {
        name.ends_with("_token") && value.is_string() && !NAMES.contains(&name.as_str())
    });
    candidates.extend(more.map(|(name, _)| name.as_str()).take(NAMES_MAX));
    for name in candidates {
        let read = |file: Object<'_>| match file.get(name) {
            None => Ok(None),
            Some(value) => token(file, name, value, true).map(Some),
        };
        let (config, map) = (read(files.config)?, read(files.map)?);
        if let (Some(config), Some(map)) = (&config, &map)
            && config.content != map.content
            && ["bos_token", "eos_token"].contains(&name)
        {
            let (config, map) = (shorten(&config.content), shorten(&map.content));
            let message = format!(
                "{name} is `{map}`, and `{config}` in {}; make both say what the model was \
                 trained with",
                files.config.file
            );
            return Err(ModelError::config(files.map.file, message));
        }
        let winner = match legacy {
            true => map.or(config),
            false => config,
        };
        if let Some(token) = winner {
            names.push((name.to_owned(), token));
        }
    }
    Ok(names)
}

/// Special tokens without a name of their own: a list, under its old or new name.
fn extra(files: Files<'_>, legacy: bool) -> Result<Vec<DeclaredToken>, ModelError> {
    let mut tokens = Vec::new();
    for file in [files.config, files.map]
        .into_iter()
        .take(1 + usize::from(legacy))
    {
        for field in ["extra_special_tokens", "additional_special_tokens"] {
            let values: Vec<&Value> = match file.get(field) {
                None => continue,
                Some(Value::Array(list)) => list.iter().collect(),
                Some(Value::Object(named)) => named.values().collect(),
                Some(value) => return Err(not_a_token(file, field, value)),
            };
            for value in values {
                tokens.push(token(file, field, value, true)?);
            }
        }
    }
    Ok(tokens)
}

/// A token: its text, or an object with its `content` and how it is cut out.
fn token(
    file: Object<'_>,
    field: &str,
    value: &Value,
    special: bool,
) -> Result<DeclaredToken, ModelError> {
    match value {
        Value::String(text) => Ok(plain(text, special, file.file)),
        Value::Object(fields) => {
            let Some(content) = fields.get("content").and_then(Value::as_str) else {
                return Err(not_a_token(file, field, value));
            };
            let flag = |name: &str| fields.get(name).and_then(Value::as_bool);
            let special = special || flag("special").unwrap_or(false);
            Ok(DeclaredToken {
                single_word: flag("single_word").unwrap_or(false),
                lstrip: flag("lstrip").unwrap_or(false),
                rstrip: flag("rstrip").unwrap_or(false),
                normalized: flag("normalized").unwrap_or(!special),
                ..plain(content, special, file.file)
            })
        }
        _ => Err(not_a_token(file, field, value)),
    }
}

fn plain(content: &str, special: bool, file: &str) -> DeclaredToken {
    DeclaredToken {
        content: content.to_owned(),
        id: None,
        special,
        single_word: false,
        lstrip: false,
        rstrip: false,
        normalized: false,
        padding: false,
        file: file.to_owned(),
    }
}

fn not_a_token(file: Object<'_>, field: &str, value: &Value) -> ModelError {
    let value = shorten(&value.to_string());
    let message = format!("{} is {value}, expected a token", shorten(field));
    ModelError::config(file.file, message)
}
