//! Jinja2, the language of chat templates, as transformers sets it up: the same text or an error,
//! never another text.
//!
//! Why not a crate: those for Rust are dialects of their own. What a macro sees, which kinds
//! compare, what walks only once, how numbers, quotes and `None` are written differ in ways that
//! no filter or method added from outside can mend. This one is held to the original by
//! `chat/tests/dialect.rs`, case by case. No files, no other templates, no attributes that begin
//! with an underscore, nothing that changes what it was given.
//!
//! `lexer`, `parser` (with `expressions`, `applications`, `statements`) and `syntax` make the tree; `interpret`
//! and `evaluate` run it on `value`s.

mod access;
mod applications;
mod arguments;
mod arithmetic;
mod call;
mod clock;
mod compare;
mod error;
mod evaluate;
mod expressions;
mod filters;
mod format;
mod functions;
mod hidden;
mod interpret;
mod json;
mod lexer;
mod literal;
mod methods;
mod parser;
mod reads;
mod scope;
mod spec;
mod statements;
mod strings;
mod syntax;
mod tests_of_values;
mod text;
mod text_methods;
mod value;

use std::collections::{BTreeSet, HashMap};

use crate::chat::Ordered;
// What the files of this folder name of each other where they call in circles, as an interpreter
// does.
use access::{attribute, item};
use call::{Closure, Looping};
use compare::equal;
pub(super) use error::{Cause, Stop};
use filters::exists as filter_exists;
use functions::named as function_named;
use interpret::Interpreter;
use lexer::Token;
use tests_of_values::holds as test_holds;

/// Steps that any chat may take, and those for each byte of its variables: chats are rendered one
/// at a time, so a short one must not take what only a long one needs. Published templates take
/// 2,098 with chats of a few messages, 45,000 with a hundred, and 2.7 million with a thousand: some
/// look back over all messages from each (tests hold the shares).
const STEPS_LEAST: u64 = 300_000;
const STEPS_PER_BYTE: u64 = 128;
/// However long a chat is.
const STEPS_MAX: u64 = 5_000_000;

/// Steps that a template may take with these variables.
fn steps_for(variables: &[(String, Ordered)]) -> u64 {
    let bytes = |(name, value): &(String, Ordered)| (name.len() + value.size()) as u64;
    let bytes: u64 = variables.iter().map(bytes).sum();
    STEPS_MAX.min(STEPS_LEAST + STEPS_PER_BYTE.saturating_mul(bytes))
}

/// A parsed template.
#[derive(Debug)]
pub(super) struct Jinja {
    body: syntax::Body,
    needles: BTreeSet<String>,
    reads: BTreeSet<String>,
}

impl Jinja {
    /// # Errors
    /// Where the template is none, or uses what this engine does not have.
    pub(super) fn parse(source: &str) -> Result<Jinja, Stop> {
        let mut parser = parser::Parser::new(lexer::tokens(source)?);
        let body = parser.template().map_err(|stop| stop.at(parser.line()))?;
        let needles = std::mem::take(&mut parser.needles);
        let reads = reads::reads(&body);
        Ok(Jinja {
            body,
            needles,
            reads,
        })
    }

    /// Texts that the template looks for in others: what it splits at, asks for with `in`, and the
    /// like.
    pub(super) fn needles(&self) -> &BTreeSet<String> {
        &self.needles
    }

    /// Names that the template reads: of variables and of fields.
    pub(super) fn reads(&self) -> &BTreeSet<String> {
        &self.reads
    }

    /// Steps that these variables take, of those they may take.
    #[cfg(test)]
    pub(super) fn steps(&self, variables: Vec<(String, Ordered)>, now: u64) -> (u64, u64) {
        let most = steps_for(&variables);
        let mut interpreter = Interpreter::new(STEPS_MAX, usize::MAX, now);
        let _ = interpreter.run(&self.body, variables);
        (STEPS_MAX - interpreter.steps_left(), most)
    }

    /// Renders with these variables, at `now` (seconds since 1970). `hidden`: characters that stand
    /// for other texts. At most `bytes_max` are written.
    ///
    /// # Errors
    /// Where Jinja2 has one, where this engine lacks something, and beyond the bounds.
    pub(super) fn render(
        &self,
        variables: Vec<(String, Ordered)>,
        hidden: HashMap<char, String>,
        bytes_max: usize,
        now: u64,
    ) -> Result<String, Stop> {
        let steps = steps_for(&variables);
        hidden::with(hidden, || {
            Interpreter::new(steps, bytes_max, now).run(&self.body, variables)
        })
    }
}
