//! Commands in words, as tests compare them.

use crate::engine::control::Command;

pub(super) fn said(command: &Command) -> String {
    match command {
        Command::Pause {
            mode, clear_cache, ..
        } => format!("pause {} {clear_cache}", mode.name()),
        Command::Sleep { level, mode, .. } => {
            format!("sleep {} {}", level.number(), mode.name())
        }
        Command::Wake { tags, .. } => format!("wake {} {}", tags.weights, tags.kv_cache),
        Command::ResetPrefixCache { running, .. } => format!("reset {running}"),
        Command::Resume(_) => "resume".to_owned(),
        Command::ReleaseKvCache(_) => "release".to_owned(),
        Command::CheckWeights(_) => "check".to_owned(),
        Command::Update { version, mode, .. } => {
            let version = version.as_deref().unwrap_or("-");
            format!("update {version} {}", mode.name())
        }
        Command::NameWeights { version, .. } => format!("name {version}"),
    }
}
