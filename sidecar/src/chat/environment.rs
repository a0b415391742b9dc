//! The Jinja dialect of Hugging Face's chat templates: what transformers gives them.

use std::fmt;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Value};

use super::{clock, python};

/// Steps a template may take: a thousand messages through the longest published template take
/// about a tenth.
pub(super) const FUEL: u64 = 5_000_000;

/// What `raise_exception` was called with, as the source of the error it makes.
#[derive(Debug)]
pub(super) struct Raised(pub(super) String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

/// # Errors
/// None in practice: the syntax is Jinja's own.
pub(super) fn new() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_fuel(Some(FUEL));
    environment.set_debug(false);
    environment.set_syntax(
        SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()?,
    );
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", |format: &str| clock::strftime_now(format));
    environment.add_filter("tojson", |value: &Value, options: Kwargs| {
        let indent: Option<usize> = options.get("indent")?;
        // transformers passes these on to json.dumps; the defaults are the ones it uses.
        let _: Option<Value> = options.get("ensure_ascii")?;
        let _: Option<Value> = options.get("sort_keys")?;
        options.assert_all_used()?;
        python::json(value, indent)
    });
    // Python writes these three with a capital.
    environment.set_formatter(|output, state, value| match value.kind() {
        ValueKind::None => output.write_str("None").map_err(Error::from),
        ValueKind::Bool => output
            .write_str(if value.is_true() { "True" } else { "False" })
            .map_err(Error::from),
        _ => minijinja::escape_formatter(output, state, value),
    });
    Ok(environment)
}

fn raise_exception(message: &str) -> Result<Value, Error> {
    let raised = Raised(message.to_owned());
    Err(Error::new(ErrorKind::InvalidOperation, message.to_owned()).with_source(raised))
}

/// Training templates mark the assistant's part with `{% generation %}`, a tag of transformers'
/// own that writes nothing: it becomes a condition that always holds.
pub(super) fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(end) = rest[start..].find("%}").map(|end| start + end) else {
            break;
        };
        let tag = &rest[start + 2..end];
        let replacement = match tag.trim_matches(['-', '+']).trim() {
            "generation" => tag.replace("generation", "if true"),
            "endgeneration" => tag.replace("endgeneration", "endif"),
            _ => tag.to_owned(),
        };
        out.push_str(&rest[..start + 2]);
        out.push_str(&replacement);
        rest = &rest[end..];
    }
    out + rest
}
