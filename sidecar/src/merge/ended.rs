//! Merges that are ended on their way: a signal takes what was written with it, and the next merge what
//! one left that could not (SIGKILL, a machine that lost its power).

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::select_all;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What ends a merge: SIGHUP comes where a terminal is closed.
const ENDING: [fn() -> SignalKind; 3] = [
    SignalKind::terminate,
    SignalKind::interrupt,
    SignalKind::hangup,
];
/// A file that is created while its folder is emptied has it emptied once more.
const TRIES: usize = 100;
/// As shells have it, of a process that a signal ended.
const BY_SIGNAL: i32 = 128;

/// The folder that is written now. It is held while that comes into being, gets its name or goes.
#[derive(Clone, Debug, Default)]
pub(super) struct Place(Arc<Mutex<Option<PathBuf>>>);

impl Place {
    /// Waits for ever where the process is being ended.
    pub(super) fn hold(&self) -> MutexGuard<'_, Option<PathBuf>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// From now on a signal removes what is at `place` and ends the process with 128 and its number. What the
/// process was told to ignore (`nohup`, a shell's background) it goes on ignoring.
///
/// # Errors
/// Without a thread or a handler for it.
pub(super) fn watch(place: &Place) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let inside = runtime.enter();
    let ignored = ignored(&fs::read_to_string("/proc/self/status")?);
    let kinds = ENDING.iter().map(|kind| kind());
    let heard = kinds.filter(|kind| ignored >> (kind.as_raw_value() - 1) & 1 == 0);
    let signals = heard.map(|kind| signal(kind).map(|signal| (kind, signal)));
    let signals = signals.collect::<io::Result<Vec<_>>>()?;
    drop(inside);
    if signals.is_empty() {
        return Ok(());
    }
    let place = place.clone();
    let ends = move || {
        let number = runtime.block_on(first(signals));
        let held = place.hold();
        match &*held {
            Some(path) => {
                remove(path);
                tracing::warn!(signal = number, "ended by a signal: nothing was written");
            }
            // It has not begun, or it has its name already.
            None => tracing::warn!(signal = number, "ended by a signal"),
        }
        // With the place held: nobody tells of files that are gone.
        std::process::exit(BY_SIGNAL + number)
    };
    let thread = std::thread::Builder::new().name("ended".to_owned());
    thread.spawn(ends).map(drop)
}

/// The signals that are ignored, a bit for each, of a `/proc` status.
fn ignored(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let bits = line.map(|bits| u64::from_str_radix(bits.trim(), 16));
    bits.and_then(Result::ok).unwrap_or_default()
}

/// The number of the one that comes first.
async fn first(signals: Vec<(SignalKind, Signal)>) -> i32 {
    let comes = |(kind, mut signal): (SignalKind, Signal)| {
        Box::pin(async move {
            signal.recv().await;
            kind.as_raw_value()
        })
    };
    select_all(signals.into_iter().map(comes)).await.0
}

fn remove(path: &Path) {
    let mut tries = (0..TRIES).map(|_| fs::remove_dir_all(path));
    let is_gone = |tried: &io::Result<()>| match tried {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    if !tries.any(|tried| is_gone(&tried)) {
        tracing::warn!(path = %path.display(), "could not be removed: remove it yourself");
    }
}

/// Says that a folder is written: no later merge takes it for one that was left. A file system without
/// locks has none, and the process's number has to do.
pub(super) fn claim(folder: &Path) -> io::Result<File> {
    let file = File::open(folder)?;
    let _ = file.try_lock();
    Ok(file)
}

/// Removes what merges left that would have written `name` into `parent`, and whose processes are gone;
/// names the others.
pub(super) fn sweep(parent: &Path, name: &OsStr) {
    // Whoever creates the folder says why there is none to be read.
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()) {
        let Some(pid) = path.file_name().and_then(|of| writer(of, name)) else {
            continue;
        };
        let is_ours = pid == std::process::id();
        let lives = !is_ours && Path::new(&format!("/proc/{pid}")).exists();
        let held = File::open(&path).map(|folder| folder.try_lock().is_err());
        let shown = path.display();
        if lives || held.unwrap_or(true) {
            tracing::info!(path = %shown, "another merge of this name is under way, or was ended: if it \
                was, remove this folder");
            continue;
        }
        remove(&path);
        tracing::info!(path = %shown, "removed: a merge that was ended left it");
    }
}

/// Whose partial folder of `name` this is: `.NAME.PID.partial`.
fn writer(folder: &OsStr, name: &OsStr) -> Option<u32> {
    let rest = folder.as_bytes().strip_prefix(b".")?;
    let rest = rest.strip_prefix(name.as_bytes())?.strip_prefix(b".")?;
    let pid = std::str::from_utf8(rest.strip_suffix(b".partial")?).ok()?;
    crate::digits::number(pid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::testing::TempFolder;

    /// No process has it: Linux counts to 2^22.
    const NOBODY: u32 = u32::MAX - 1;

    #[test]
    fn what_dead_merges_of_this_name_left_goes_and_nothing_else() {
        let folder = TempFolder::new();
        let ours = std::process::id();
        let dead = format!(".out.{NOBODY}.partial");
        let reused = format!(".out.{ours}.partial");
        let alive = ".out.1.partial".to_owned();
        let others = [".out.x.partial", ".other.4294967294.partial", "out.1"].map(str::to_owned);
        let written = format!(".out.{}.partial", NOBODY - 1);
        for name in [&dead, &reused, &alive, &written]
            .into_iter()
            .chain(&others)
        {
            fs::create_dir(folder.path().join(name)).unwrap();
            fs::write(folder.path().join(name).join("model.safetensors"), [0]).unwrap();
        }
        // By a process of another container, whose number says nothing here.
        let held = claim(&folder.path().join(&written)).unwrap();
        sweep(folder.path(), OsStr::new("out"));
        let is_there = |name: &String| folder.path().join(name).is_dir();
        assert!(!is_there(&dead) && !is_there(&reused));
        assert!(is_there(&alive) && is_there(&written));
        assert!(others.iter().all(is_there));
        drop(held);
        sweep(folder.path(), OsStr::new("out"));
        assert!(!is_there(&written));
    }

    /// Whose value is the folder that a child of this very test holds.
    const HELD: &str = "PLIMSOLL_TEST_HELD_FOLDER";

    #[test]
    fn a_signal_takes_what_is_written_and_ends_the_process_as_shells_have_it() {
        if let Some(held) = std::env::var_os(HELD) {
            let (place, held) = (Place::default(), PathBuf::from(held));
            watch(&place).unwrap();
            *place.hold() = Some(held.clone());
            fs::write(held.join("ready"), []).unwrap();
            std::thread::park_timeout(std::time::Duration::from_secs(60));
            panic!("no signal came");
        }
        let folder = TempFolder::new();
        let held = folder.path().join("partial");
        fs::create_dir(&held).unwrap();
        let this = "merge::ended::tests::a_signal_takes_what_is_written_and_ends_the_process_as_shells_have_it";
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", this])
            .env(HELD, &held)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        while !held.join("ready").exists() {
            assert_eq!(child.try_wait().unwrap(), None, "it ended unasked");
            std::thread::yield_now();
        }
        // The others may be ignored where tests run: a shell's background ignores SIGINT, nohup SIGHUP.
        let pid = child.id().to_string();
        let killed = std::process::Command::new("kill").arg(&pid).status();
        assert!(killed.unwrap().success());
        assert_eq!(child.wait().unwrap().code(), Some(BY_SIGNAL + 15));
        assert!(!held.exists());
    }

    #[test]
    fn what_a_process_was_told_to_ignore_is_read_off_its_status() {
        assert_eq!(ignored("Name:\tx\nSigIgn:\t0000000000001001\n"), 0x1001);
        assert_eq!(ignored("Name:\tx\n"), 0);
    }
}
