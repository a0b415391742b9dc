//! What can go wrong in a pass over one resource. A refused spec is no error: it is an outcome.

use crate::children::ChildKind;
use crate::facts::Holder;

/// Why a pass over a resource ended early; it is tried again with a growing pause.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{verb} {kind} {name}: {}", words(source))]
    Api {
        verb: &'static str,
        kind: &'static str,
        name: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("{verb} {kind} {name}: the API server did not answer within {seconds} s")]
    Timeout {
        verb: &'static str,
        kind: &'static str,
        name: String,
        seconds: u64,
    },
    /// An object stands where one of ours should, and is not this resource's.
    #[error("{kind} {name} {}", whose(*holder))]
    Taken {
        kind: &'static str,
        name: String,
        holder: Holder,
    },
    /// The ReplicaSet of a new revision, or the inspect pod, is invalid, in the API server's words.
    #[error("{0}")]
    Refused(String),
    #[error("the resource has no {0}")]
    Incomplete(&'static str),
    #[error("encode {what}: {source}")]
    Encode {
        what: &'static str,
        #[source]
        source: serde_json::Error,
    },
}

impl Error {
    /// The `reason` label of `plimsoll_operator_reconcile_errors_total`.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Error::Api { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => match status.code {
                    409 => "conflict",
                    403 => "forbidden",
                    404 => "not_found",
                    422 | 400 => "invalid",
                    429 => "throttled",
                    _ => "api",
                },
                _ => "network",
            },
            Error::Timeout { .. } => "timeout",
            Error::Taken { .. } => "taken",
            Error::Refused(_) => "refused",
            Error::Incomplete(_) => "incomplete",
            Error::Encode { .. } => "encode",
        }
    }

    /// Whether the object was gone: its deletion is under way, so nothing is wrong.
    pub(crate) fn is_gone(&self) -> bool {
        self.code() == Some(404)
    }

    /// Whether the object itself is the trouble: the API server would say the same to anybody.
    pub(crate) fn is_invalid(&self) -> bool {
        // A field that its kind does not have is answered so, with a code that blames the server.
        const NO_SUCH_FIELD: &str = "failed to create typed patch object";
        // The same when it is created.
        const UNFIT: &str = "cannot be handled as a";
        match self {
            Error::Api { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => {
                    status.code == 422
                        || (status.code == 400 && status.message.contains(UNFIT))
                        || (status.code == 500 && status.message.contains(NO_SUCH_FIELD))
                }
                _ => false,
            },
            _ => false,
        }
    }

    /// Whether the API server blames a field below `path`.
    pub(crate) fn blames(&self, path: &str) -> bool {
        let Error::Api { source, .. } = self else {
            return false;
        };
        let kube::Error::Api(status) = source.as_ref() else {
            return false;
        };
        let causes = status.details.iter().flat_map(|details| &details.causes);
        causes
            .into_iter()
            .any(|cause| cause.field.starts_with(path))
    }

    /// Whether the namespace is being deleted, so that nothing new can be made in it ever again.
    pub(crate) fn namespace_ends(&self) -> bool {
        matches!(self, Error::Api { source, .. } if namespace_ends(source))
    }

    /// Whether admission or validation refused an object of this kind: trying again will not help
    /// before something else changes.
    pub(crate) fn refuses(&self, of: ChildKind) -> bool {
        matches!(self, Error::Api { kind, .. } if *kind == of.name())
            && matches!(self.code(), Some(400 | 403 | 422))
    }

    /// HTTP status of the API server's answer, if it answered.
    pub(crate) fn code(&self) -> Option<u16> {
        match self {
            Error::Api { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => Some(status.code),
                _ => None,
            },
            _ => None,
        }
    }
}

fn whose(holder: Holder) -> &'static str {
    match holder {
        Holder::Predecessor => {
            "belongs to a resource of the same name that was deleted; it is waited for until it is \
             gone, which the garbage collector sees to"
        }
        Holder::Stranger => {
            "exists and was not made for this resource: it is left as it is, and nothing is built \
             on it; delete or rename it, or create the resource under another name"
        }
    }
}

/// Whether the API server refused because the namespace is being deleted.
pub(crate) fn namespace_ends(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else {
        return false;
    };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    status.code == 403
        && causes
            .into_iter()
            .any(|cause| cause.reason == "NamespaceTerminating")
}

/// Characters that are told of somebody else's words.
const WORDS_CHARS: usize = 1000;

/// What the API server said, or what kept it from answering. Never what it sent: a decoder quotes
/// the value it stopped at, which may be a password.
pub(crate) fn words(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => bounded(&status.message),
        kube::Error::SerdeError(error) => format!(
            "the answer cannot be decoded ({:?} error in line {}, column {})",
            error.classify(),
            error.line(),
            error.column()
        ),
        other => bounded(&other.to_string()),
    }
}

/// The first characters of words that others wrote.
pub(crate) fn bounded(words: &str) -> String {
    words.chars().take(WORDS_CHARS).collect()
}
