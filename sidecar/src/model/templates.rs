//! The chat templates of a Hugging Face folder. Up to four places have them; they are read in the
//! order of transformers:
//!
//! - files: `chat_template.jinja`, and `additional_chat_templates/NAME.jinja` for named ones;
//! - where there is no such file, `chat_template` in `tokenizer_config.json`: a template, or a list
//!   of named ones;
//! - where that says nothing either, `chat_template.json`, which processors of older models have.
//!
//! `default` is for every chat, `tool_use` for those with tools; others are never chosen. A place
//! that is not read and says something else is told, not refused: the order is everybody's, and
//! whoever runs a model can seldom change its files. Only a folder with `chat_template.json` beside
//! additional templates is refused, as transformers does.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::object::Object;
use crate::model_error::{ModelError, shorten};
use crate::weights::file::{display_name, is_there, read_text};
use crate::weights::gguf::metadata::Metadata;

const FILE: &str = "chat_template.jinja";
const FOLDER: &str = "additional_chat_templates";
pub(super) const LEGACY: &str = "chat_template.json";
const FIELD: &str = "chat_template";
const DEFAULT: &str = "default";
const TOOL_USE: &str = "tool_use";
const TEMPLATE_BYTES_MAX: u64 = 1 << 20;
/// Real folders have two or three.
const TEMPLATES_MAX: usize = 64;

/// The templates that a model's chats are written with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChatTemplates {
    pub default: String,
    /// For chats with tools.
    pub tool_use: Option<String>,
}

impl From<String> for ChatTemplates {
    fn from(default: String) -> ChatTemplates {
        ChatTemplates {
            default,
            tool_use: None,
        }
    }
}

/// Templates by name, and where they stand.
struct Source {
    file: String,
    named: BTreeMap<String, String>,
}

/// `told` gets what is not read and says something else.
pub(super) fn read(
    folder: &Path,
    tokenizer_config: Object<'_>,
    legacy: Option<Object<'_>>,
    told: &mut Vec<String>,
) -> Result<Option<ChatTemplates>, ModelError> {
    let files = files(folder)?;
    if legacy.is_some() && files.named.keys().any(|name| name != DEFAULT) {
        let message = format!("stands beside {FOLDER}/; keep the template in {FILE} instead");
        return Err(ModelError::template(LEGACY, message));
    }
    let mut sources = vec![files, of_field(tokenizer_config)?];
    if let Some(legacy) = legacy {
        sources.push(of_field(legacy)?);
    }
    let mut sources = sources
        .into_iter()
        .filter(|source| !source.named.is_empty());
    let Some(Source { file, mut named }) = sources.next() else {
        return Ok(None);
    };
    for other in sources {
        for name in [DEFAULT, TOOL_USE] {
            match (named.get(name), other.named.get(name)) {
                (_, None) => {}
                (Some(ours), Some(theirs)) if plain(ours) == plain(theirs) => {}
                (Some(_), Some(_)) => told.push(format!(
                    "{}: its chat template `{name}` is another than that of {file}, which counts",
                    other.file
                )),
                (None, Some(_)) => told.push(format!(
                    "{}: its chat template `{name}` does not count, those of {file} do",
                    other.file
                )),
            }
        }
    }
    match named.remove(DEFAULT) {
        Some(default) => Ok(Some(ChatTemplates {
            default,
            tool_use: named.remove(TOOL_USE),
        })),
        None => {
            let names: Vec<&str> = named.keys().map(String::as_str).collect();
            let message = format!(
                "has the chat templates {}, and none named `{DEFAULT}`",
                shorten(&names.join(", "))
            );
            Err(ModelError::template(&file, message))
        }
    }
}

/// The templates of a GGUF file: named ones have keys of their own.
pub(super) fn of_gguf(metadata: &Metadata) -> Result<Option<ChatTemplates>, ModelError> {
    const KEY: &str = "tokenizer.chat_template";
    let tool_use = metadata.string(&format!("{KEY}.{TOOL_USE}"))?;
    let default = metadata.string(KEY)?;
    Ok(default.map(|default| ChatTemplates {
        default: default.to_owned(),
        tool_use: tool_use.map(str::to_owned),
    }))
}

/// What Jinja makes of line ends: two texts that differ in them alone are one template.
fn plain(template: &str) -> String {
    let text = template.replace("\r\n", "\n").replace('\r', "\n");
    text.strip_suffix('\n').unwrap_or(&text).to_owned()
}

fn files(folder: &Path) -> Result<Source, ModelError> {
    let mut named = BTreeMap::new();
    let file = folder.join(FILE);
    if is_there(&file) {
        named.insert(DEFAULT.to_owned(), read_text(&file, TEMPLATE_BYTES_MAX)?);
    }
    let more = folder.join(FOLDER);
    if !more.is_dir() {
        return Ok(Source {
            file: FILE.to_owned(),
            named,
        });
    }
    let entries = std::fs::read_dir(&more).map_err(|e| ModelError::io(&more, e))?;
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let name = display_name(&path);
        let Some(name) = name.strip_suffix(".jinja") else {
            continue;
        };
        if named.len() == TEMPLATES_MAX {
            let message = format!("has more than {TEMPLATES_MAX} templates");
            return Err(ModelError::template(FOLDER, message));
        }
        let text = read_text(&path, TEMPLATE_BYTES_MAX)?;
        // Read after the file: one that is named `default` wins, as in transformers.
        named.insert(name.to_owned(), text);
    }
    let file = if is_there(&file) { FILE } else { FOLDER };
    Ok(Source {
        file: file.to_owned(),
        named,
    })
}

/// `chat_template` of a JSON file: a template, or a list of named ones.
fn of_field(object: Object<'_>) -> Result<Source, ModelError> {
    let file = object.file;
    let mut named = BTreeMap::new();
    let mut insert = |name: &str, template: &str| {
        if template.len() as u64 > TEMPLATE_BYTES_MAX {
            let bytes = template.len();
            let message =
                format!("{FIELD} of {bytes} bytes, at most {TEMPLATE_BYTES_MAX} are read");
            return Err(ModelError::template(file, message));
        }
        named.insert(name.to_owned(), template.to_owned());
        Ok(())
    };
    match object.get(FIELD) {
        None => {}
        Some(Value::String(template)) => insert(DEFAULT, template)?,
        Some(Value::Array(list)) if list.len() <= TEMPLATES_MAX => {
            for one in list {
                let text = |field| one.get(field).and_then(Value::as_str);
                match (text("name"), text("template")) {
                    // Of two with one name the last counts, as in transformers.
                    (Some(name), Some(template)) => insert(name, template)?,
                    _ => return Err(not_templates(file)),
                }
            }
            if list.is_empty() {
                return Err(not_templates(file));
            }
        }
        Some(_) => return Err(not_templates(file)),
    }
    Ok(Source {
        file: file.to_owned(),
        named,
    })
}

fn not_templates(file: &str) -> ModelError {
    let message = format!(
        "{FIELD}: expected a string, or a list of up to {TEMPLATES_MAX} templates with `name` and \
         `template`, one of them named `{DEFAULT}`"
    );
    ModelError::template(file, message)
}
