//! A parsed template and one run of it: variables in, a prompt out, bounded in steps and output.
//!
//! What steps and output do not bound (strings that double, lists in lists) the process around it
//! does, see `worker`.

use std::collections::{BTreeSet, HashMap};
use std::time::{SystemTime, UNIX_EPOCH};

use super::jinja::{Cause, Jinja, Stop};
use super::{ChatError, Ordered};
use crate::model_error::shorten;

/// Bytes of a rendered prompt: far more than any context holds.
pub(super) const OUTPUT_BYTES_MAX: usize = 16 << 20;
pub(super) const NAME: &str = "chat_template";

/// What a template is rendered with.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Inputs {
    pub(super) variables: Vec<(String, Ordered)>,
    /// Characters in the variables that stand for the texts of special tokens.
    pub(super) hidden: HashMap<char, String>,
}

/// What a template says of itself once it is parsed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Known {
    /// Texts that it looks for in others.
    pub(super) needles: BTreeSet<String>,
    /// Names of variables and fields that it reads.
    pub(super) reads: BTreeSet<String>,
}

#[derive(Debug)]
pub(super) struct Template(Jinja);

impl Template {
    /// # Errors
    /// Why the template does not parse.
    pub(super) fn parse(source: &str) -> Result<Template, String> {
        match Jinja::parse(source) {
            Ok(jinja) => Ok(Template(jinja)),
            Err(stop) => Err(format!("does not parse: {}", describe(&stop))),
        }
    }

    pub(super) fn known(&self) -> Known {
        Known {
            needles: self.0.needles().clone(),
            reads: self.0.reads().clone(),
        }
    }

    /// # Errors
    /// [`ChatError`].
    pub(super) fn render(&self, inputs: Inputs) -> Result<String, ChatError> {
        let Inputs { variables, hidden } = inputs;
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        self.0
            .render(variables, hidden, OUTPUT_BYTES_MAX, now)
            .map_err(|stop| explain(&stop))
    }
}

fn explain(stop: &Stop) -> ChatError {
    let message = match stop.cause {
        Cause::Raised => {
            return ChatError::Refused {
                message: shorten(&stop.message),
            };
        }
        Cause::Steps => {
            format!("{}; it loops, or the chat is too long", stop.message)
        }
        Cause::Full => format!("it wrote more than {OUTPUT_BYTES_MAX} bytes"),
        Cause::Failed => describe(stop),
    };
    ChatError::Failed { message }
}

/// One line: what and where.
fn describe(stop: &Stop) -> String {
    let detail = shorten(&stop.message);
    match stop.line {
        Some(line) => format!("{detail} (line {line} of the template)"),
        None => detail,
    }
}
