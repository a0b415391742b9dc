//! Why a rendering ends before its end.

/// What stopped a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cause {
    /// It called `raise_exception`.
    Raised,
    /// Its steps are used up.
    Steps,
    /// It wrote too much.
    Full,
    /// It did what Jinja2 refuses too, or what this engine does not know.
    Failed,
}

#[derive(Debug, Clone)]
pub(crate) struct Stop {
    pub(crate) cause: Cause,
    pub(crate) message: String,
    /// Line of the template, once known.
    pub(crate) line: Option<usize>,
}

impl Stop {
    pub(super) fn new(cause: Cause, message: impl Into<String>) -> Stop {
        Stop {
            cause,
            message: message.into(),
            line: None,
        }
    }

    /// The innermost line wins.
    pub(super) fn at(mut self, line: usize) -> Stop {
        self.line.get_or_insert(line);
        self
    }
}

pub(super) fn failed<T>(message: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::new(Cause::Failed, message))
}

/// Jinja2 has it and this engine does not: an error by name, never another text.
pub(super) fn unsupported<T>(what: &str) -> Result<T, Stop> {
    failed(format!("{what} is not supported in chat templates here"))
}
