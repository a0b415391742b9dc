//! The control queue's vocabulary: commands, each with the way of its answer.
//!
//! Commands wait in the inbox, in order and bounded, and are carried out one after the other by the
//! loop (`commands`). Whatever becomes of the engine, every asker is answered exactly once.

mod asking;

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::adapters::Dynamic;
use crate::engine::dynamic::AdapterRefused;
use crate::engine::rest::{Cause, PauseMode, SleepLevel, Tags};
use crate::engine::size::{Resized, Size};
use crate::engine::weights::{Abandoned, Updated};
use crate::forward::WeightCheck;
use crate::model::Replacement;
use crate::weights::piece::Piece;
pub use asking::Commands;

/// Commands that may wait; one more is refused at once.
pub const COMMANDS_MAX: usize = 16;
/// What somebody who finds the queue full is told to wait.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(2);

/// What the engine is told to do between two steps.
#[derive(Debug)]
pub enum Command {
    /// Every rank compares its weights with what it loaded; one entry per rank. Nothing is generated
    /// meanwhile. Not made for an asker who is gone.
    CheckWeights(Asker<Vec<WeightCheck>>),
    /// Stop computing; answered when nothing is computed any more. Commands that come while requests
    /// are waited for wait, too.
    Pause {
        mode: PauseMode,
        /// The KV cache means nothing afterwards: prefixes are forgotten, kept requests are computed
        /// again.
        clear_cache: bool,
        asker: Asker<()>,
    },
    /// Go on. An engine that was not paused, too, is answered.
    Resume(Asker<()>),
    /// Forget all prefixes; with `running`, what is computed of requests under way, too.
    ResetPrefixCache { running: bool, asker: Asker<()> },
    /// Give memory back; requests there are are treated as `mode` says.
    Sleep {
        level: SleepLevel,
        mode: PauseMode,
        cause: Cause,
        asker: Asker<()>,
    },
    /// Give back the memory of the KV cache alone. Only a paused engine that holds everything can.
    ReleaseKvCache(Asker<()>),
    /// Take what is away and of these tags; with the last of it, weights and answers are proved and
    /// requests go on. An engine that is awake is answered, too.
    Wake {
        tags: Tags,
        cause: Cause,
        asker: Asker<Woken>,
    },
    /// Write other weights over those in force, or in their place where they are away. Nothing that was computed with
    /// the old ones is used again; requests there are are treated as `mode` says.
    Update {
        weights: Arc<Replacement>,
        /// What they are called; None: as those before.
        version: Option<String>,
        mode: PauseMode,
        asker: Asker<Updated>,
    },
    /// The same with weights that are sent: stop computing, and take the memory of the weights where it
    /// is away. `whole`: every tensor must come; otherwise those that do not stay as they are.
    OpenPush {
        whole: bool,
        mode: PauseMode,
        asker: Asker<()>,
    },
    /// Write some rows of a tensor; a tensor's rows come in order, and whole before the next's.
    WritePush { piece: Arc<Piece>, asker: Asker<()> },
    /// What was written are the weights in force. Refused, and open still, while something is missing.
    ClosePush {
        version: Option<String>,
        asker: Asker<Updated>,
    },
    /// Nothing more comes.
    AbandonPush {
        why: String,
        asker: Asker<Abandoned>,
    },
    /// Call the weights in force otherwise.
    NameWeights { version: String, asker: Asker<()> },
    /// Copy an adapter into a slot, and answer requests with it from then on. `in_place`: where one of its
    /// name is there, it goes; requests that it answers are computed again with the new one.
    LoadAdapter {
        adapter: Arc<Dynamic>,
        in_place: bool,
        asker: Asker<()>,
    },
    /// Take no more requests for an adapter; those there are are finished first, and then its slot is
    /// free.
    UnloadAdapter { name: String, asker: Asker<()> },
    /// Give the KV cache the size that this has; nothing else of it may differ from what is in force.
    Resize {
        size: Arc<Size>,
        asker: Asker<Resized>,
    },
}

/// What a wake came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Woken {
    /// Some memory is still away.
    pub asleep: bool,
}

impl Command {
    pub fn refuse(self, why: ControlError) {
        match self {
            Command::CheckWeights(asker) => asker.answer(Err(why)),
            Command::Pause { asker, .. }
            | Command::Resume(asker)
            | Command::ResetPrefixCache { asker, .. }
            | Command::Sleep { asker, .. }
            | Command::ReleaseKvCache(asker)
            | Command::OpenPush { asker, .. }
            | Command::WritePush { asker, .. }
            | Command::LoadAdapter { asker, .. }
            | Command::UnloadAdapter { asker, .. }
            | Command::NameWeights { asker, .. } => asker.answer(Err(why)),
            Command::Wake { asker, .. } => asker.answer(Err(why)),
            Command::Update { asker, .. } | Command::ClosePush { asker, .. } => {
                asker.answer(Err(why));
            }
            Command::AbandonPush { asker, .. } => asker.answer(Err(why)),
            Command::Resize { asker, .. } => asker.answer(Err(why)),
        }
    }

    /// Nobody waits for the answer any more.
    pub fn is_unheard(&self) -> bool {
        match self {
            Command::CheckWeights(asker) => asker.is_gone(),
            Command::Pause { asker, .. }
            | Command::Resume(asker)
            | Command::ResetPrefixCache { asker, .. }
            | Command::Sleep { asker, .. }
            | Command::ReleaseKvCache(asker)
            | Command::OpenPush { asker, .. }
            | Command::WritePush { asker, .. }
            | Command::LoadAdapter { asker, .. }
            | Command::UnloadAdapter { asker, .. }
            | Command::NameWeights { asker, .. } => asker.is_gone(),
            Command::Wake { asker, .. } => asker.is_gone(),
            Command::Update { asker, .. } | Command::ClosePush { asker, .. } => asker.is_gone(),
            Command::AbandonPush { asker, .. } => asker.is_gone(),
            Command::Resize { asker, .. } => asker.is_gone(),
        }
    }

    /// Whether it makes sense while the last requests end.
    pub(super) fn fits_drain(&self) -> bool {
        match self {
            Command::CheckWeights(_) => true,
            Command::Pause { .. }
            | Command::Resume(_)
            | Command::ResetPrefixCache { .. }
            | Command::Sleep { .. }
            | Command::ReleaseKvCache(_)
            | Command::Wake { .. }
            | Command::Update { .. }
            | Command::OpenPush { .. }
            | Command::WritePush { .. }
            | Command::ClosePush { .. }
            | Command::AbandonPush { .. }
            | Command::NameWeights { .. }
            | Command::LoadAdapter { .. }
            | Command::UnloadAdapter { .. }
            | Command::Resize { .. } => false,
        }
    }
}

/// Why a command was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    #[error("the engine is still loading")]
    Loading,
    #[error("the engine is shutting down and takes no commands")]
    Draining,
    #[error("the engine ended before it came to this")]
    Ended,
    #[error("the engine failed: {message}")]
    Failed { message: String },
    /// Not as things stand; the message says what to do first.
    #[error("{message}")]
    WrongState { message: String },
    /// The wake gave back what it took, or brought back something else than was loaded. It can be
    /// repeated.
    #[error("the engine is not awake: {message}")]
    NotWoken { message: String },
    /// Weights were written, and what is there is not to be served. It can be repeated.
    #[error("the engine is out of service: {message}")]
    NotUpdated { message: String },
    /// The machine did not give the memory: the size is what it was. It can be repeated.
    #[error("the KV cache was not resized: {message}")]
    NotResized { message: String },
    /// An adapter was not loaded, or not unloaded; what is served is what it was.
    #[error(transparent)]
    Adapter(#[from] AdapterRefused),
    #[error("{limit} commands wait already; retry in {} s", retry_after.as_secs())]
    QueueFull { limit: usize, retry_after: Duration },
}

/// Who asked. Dropped without an answer it says that the engine ended, so that nobody is left with a
/// channel that closes and does not say why.
#[derive(Debug)]
pub struct Asker<T>(Option<oneshot::Sender<Result<T, ControlError>>>);

impl<T> Asker<T> {
    /// An asker and where the answer comes.
    pub fn pair() -> (Asker<T>, Reply<T>) {
        let (sender, receiver) = oneshot::channel();
        (Asker(Some(sender)), Reply(receiver))
    }

    pub fn answer(mut self, answer: Result<T, ControlError>) {
        self.send(answer);
    }

    /// Nobody waits for the answer any more.
    pub fn is_gone(&self) -> bool {
        self.0.as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    fn send(&mut self, answer: Result<T, ControlError>) {
        if let Some(sender) = self.0.take() {
            // Whoever asked may be gone.
            let _ = sender.send(answer);
        }
    }
}

impl<T> Drop for Asker<T> {
    fn drop(&mut self) {
        let why = match thread::panicking() {
            true => ControlError::Failed {
                message: "the engine's own thread panicked".to_owned(),
            },
            false => ControlError::Ended,
        };
        self.send(Err(why));
    }
}

/// An answer on its way.
#[derive(Debug)]
pub struct Reply<T>(oneshot::Receiver<Result<T, ControlError>>);

impl<T> Reply<T> {
    /// Waits for the answer. It comes at the latest when the engine ends.
    ///
    /// # Errors
    /// [`ControlError`]: why the command was not carried out.
    pub async fn answer(self) -> Result<T, ControlError> {
        self.0.await.unwrap_or(Err(ControlError::Ended))
    }

    /// As [`Reply::answer`], for threads that may block.
    ///
    /// # Errors
    /// As [`Reply::answer`].
    pub fn wait(self) -> Result<T, ControlError> {
        self.0.blocking_recv().unwrap_or(Err(ControlError::Ended))
    }

    /// The answer, if it is there; it is taken.
    pub fn poll(&mut self) -> Option<Result<T, ControlError>> {
        self.0.try_recv().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_asker_is_answered_once_whatever_becomes_of_it() {
        let (asker, reply) = Asker::pair();
        asker.answer(Ok(1));
        assert_eq!(reply.wait(), Ok(1));

        let (asker, reply) = Asker::<()>::pair();
        drop(asker);
        assert_eq!(reply.wait(), Err(ControlError::Ended));

        let (asker, reply) = Asker::<()>::pair();
        let ended = thread::spawn(move || {
            let _held = asker;
            panic!("a bug");
        });
        assert!(ended.join().is_err());
        assert!(matches!(reply.wait(), Err(ControlError::Failed { .. })));

        let (asker, reply) = Asker::<()>::pair();
        assert!(!asker.is_gone());
        drop(reply);
        assert!(asker.is_gone());
    }
}
