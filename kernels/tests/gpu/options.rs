//! The command line of the test program.

use std::path::PathBuf;

pub(crate) const HELP: &str = "\
Runs every kernel against its CPU definition, and the checks of the emulator itself.

  --device emulator|cuda  where the kernels run (default: emulator)
  --mode plain|race|asan  how the emulated kernels are compiled: as they are, with the race checker,
                          or with AddressSanitizer and UBSan (default: plain)
  --seeds N               thread schedules: 0 in order, 1 reversed, others random (default: 3)
  --multiprocessors N     of the emulated card: launchers cut their work by it (default: 4)
  --library FILE          emulated kernels that are compiled already
  --first                 stop at the first failure
  --mutants               instead: break kernels one line at a time; the trials must notice
  --plant KERNEL          instead: one kernel with a planted bug, without and with it
  --list                  name what would run
  FILTER                  only trials (or mutants) whose `op: name` contains one of these texts";

/// Of the emulated card, where nothing else is asked for.
pub(crate) const MULTIPROCESSORS: u32 = 4;

/// How emulated kernels are compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mode {
    Plain,
    Race,
    Asan,
}

impl Mode {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Mode::Plain => "plain",
            Mode::Race => "race",
            Mode::Asan => "asan",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Device {
    Emulator,
    Cuda,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    Trials,
    Mutants,
    Plant(String),
}

#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) task: Task,
    pub(crate) device: Device,
    pub(crate) mode: Mode,
    pub(crate) seeds: u64,
    pub(crate) multiprocessors: u32,
    pub(crate) library: Option<PathBuf>,
    pub(crate) first: bool,
    pub(crate) list: bool,
    pub(crate) filters: Vec<String>,
}

impl Options {
    /// None when help was asked for.
    pub(crate) fn parse(
        mut words: impl Iterator<Item = String>,
    ) -> Result<Option<Options>, String> {
        let mut options = Options {
            task: Task::Trials,
            device: Device::Emulator,
            mode: Mode::Plain,
            seeds: 3,
            multiprocessors: MULTIPROCESSORS,
            library: None,
            first: false,
            list: false,
            filters: Vec::new(),
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} takes a value"));
            match word.as_str() {
                "--help" | "-h" => return Ok(None),
                "--list" => options.list = true,
                "--first" => options.first = true,
                "--mutants" => options.task = Task::Mutants,
                "--plant" => options.task = Task::Plant(value()?),
                "--device" => {
                    options.device = match value()?.as_str() {
                        "emulator" => Device::Emulator,
                        "cuda" => Device::Cuda,
                        other => return Err(format!("--device {other}: emulator or cuda")),
                    }
                }
                "--mode" => {
                    options.mode = match value()?.as_str() {
                        "plain" => Mode::Plain,
                        "race" => Mode::Race,
                        "asan" => Mode::Asan,
                        other => return Err(format!("--mode {other}: plain, race or asan")),
                    }
                }
                "--seeds" => {
                    let text = value()?;
                    options.seeds = match text.parse() {
                        Ok(seeds @ 1..=1000) => seeds,
                        _ => return Err(format!("--seeds {text}: 1 to 1000")),
                    }
                }
                "--multiprocessors" => {
                    let text = value()?;
                    options.multiprocessors = match text.parse() {
                        Ok(count @ 1..=1000) => count,
                        _ => return Err(format!("--multiprocessors {text}: 1 to 1000")),
                    }
                }
                "--library" => options.library = Some(value()?.into()),
                // What `cargo test` itself passes on.
                "--nocapture" | "--quiet" | "-q" => {}
                other if other.starts_with('-') => return Err(format!("{other} is not an option")),
                _ => options.filters.push(word),
            }
        }
        Ok(Some(options))
    }

    /// Whether something of this title is asked for.
    pub(crate) fn wants(&self, title: &str) -> bool {
        self.filters.is_empty()
            || self
                .filters
                .iter()
                .any(|filter| title.contains(filter.as_str()))
    }
}
