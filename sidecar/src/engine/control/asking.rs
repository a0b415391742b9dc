//! Who takes commands, and the short way to each.

use std::sync::Arc;

use super::{Asker, Command, Reply, Woken};
use crate::adapters::Dynamic;
use crate::engine::rest::{Cause, PauseMode, SleepLevel, Tags};
use crate::engine::size::{Resized, Size};
use crate::engine::weights::{Abandoned, Updated};
use crate::forward::WeightCheck;
use crate::model::Replacement;
use crate::weights::piece::Piece;

/// Who takes commands: an engine's handle, and what stands in for one.
pub trait Commands {
    /// Queues a command; it is answered in any case, at once when it cannot be queued.
    fn command(&self, command: Command);

    /// [`Command::CheckWeights`].
    fn check_weights(&self) -> Reply<Vec<WeightCheck>> {
        ask(self, Command::CheckWeights)
    }

    /// [`Command::Pause`].
    fn pause(&self, mode: PauseMode, clear_cache: bool) -> Reply<()> {
        ask(self, |asker| Command::Pause {
            mode,
            clear_cache,
            asker,
        })
    }

    /// [`Command::Resume`].
    fn resume(&self) -> Reply<()> {
        ask(self, Command::Resume)
    }

    /// [`Command::ResetPrefixCache`].
    fn reset_prefix_cache(&self, running: bool) -> Reply<()> {
        ask(self, |asker| Command::ResetPrefixCache { running, asker })
    }

    /// [`Command::Sleep`], by hand.
    fn sleep(&self, level: SleepLevel, mode: PauseMode) -> Reply<()> {
        self.sleep_for(Cause::Hand, level, mode)
    }

    /// [`Command::Sleep`].
    fn sleep_for(&self, cause: Cause, level: SleepLevel, mode: PauseMode) -> Reply<()> {
        ask(self, |asker| Command::Sleep {
            level,
            mode,
            cause,
            asker,
        })
    }

    /// [`Command::ReleaseKvCache`].
    fn release_kv_cache(&self) -> Reply<()> {
        ask(self, Command::ReleaseKvCache)
    }

    /// [`Command::Wake`], by hand.
    fn wake(&self, tags: Tags) -> Reply<Woken> {
        self.wake_for(Cause::Hand, tags)
    }

    /// [`Command::Wake`].
    fn wake_for(&self, cause: Cause, tags: Tags) -> Reply<Woken> {
        ask(self, |asker| Command::Wake { tags, cause, asker })
    }

    /// [`Command::Update`].
    fn update(
        &self,
        weights: Arc<Replacement>,
        version: Option<String>,
        mode: PauseMode,
    ) -> Reply<Updated> {
        ask(self, |asker| Command::Update {
            weights,
            version,
            mode,
            asker,
        })
    }

    /// [`Command::OpenPush`].
    fn open_push(&self, whole: bool, mode: PauseMode) -> Reply<()> {
        ask(self, |asker| Command::OpenPush { whole, mode, asker })
    }

    /// [`Command::WritePush`].
    fn write_push(&self, piece: Arc<Piece>) -> Reply<()> {
        ask(self, |asker| Command::WritePush { piece, asker })
    }

    /// [`Command::ClosePush`].
    fn close_push(&self, version: Option<String>) -> Reply<Updated> {
        ask(self, |asker| Command::ClosePush { version, asker })
    }

    /// [`Command::AbandonPush`].
    fn abandon_push(&self, why: String) -> Reply<Abandoned> {
        ask(self, |asker| Command::AbandonPush { why, asker })
    }

    /// [`Command::NameWeights`].
    fn name_weights(&self, version: String) -> Reply<()> {
        ask(self, |asker| Command::NameWeights { version, asker })
    }

    /// [`Command::LoadAdapter`].
    fn load_adapter(&self, adapter: Arc<Dynamic>, in_place: bool) -> Reply<()> {
        ask(self, |asker| Command::LoadAdapter {
            adapter,
            in_place,
            asker,
        })
    }

    /// [`Command::UnloadAdapter`].
    fn unload_adapter(&self, name: String) -> Reply<()> {
        ask(self, |asker| Command::UnloadAdapter { name, asker })
    }

    /// [`Command::Resize`].
    fn resize(&self, size: Arc<Size>) -> Reply<Resized> {
        ask(self, |asker| Command::Resize { size, asker })
    }
}

fn ask<T>(who: &(impl Commands + ?Sized), command: impl FnOnce(Asker<T>) -> Command) -> Reply<T> {
    let (asker, reply) = Asker::pair();
    who.command(command(asker));
    reply
}
