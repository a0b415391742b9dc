//! The process that renders, seen from the engine: started when it is needed, asked one chat at a
//! time, replaced when a template was the end of it.

use std::io::{self, BufReader, BufWriter};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use super::template::{Inputs, Known, OUTPUT_BYTES_MAX};
use super::turns::Turns;
use super::worker::{CPU_SECONDS, FAILED, MEMORY_BYTES, READY, REFUSED, RENDERED, known, texts};
use super::{ChatError, frames};

/// How long a chat waits for those before it.
const PATIENCE: Duration = Duration::from_secs(5);
/// An answer: a prompt, and the lengths around it.
const ANSWER_BYTES_MAX: u64 = OUTPUT_BYTES_MAX as u64 + 64;

/// Why there is no process.
#[derive(Debug)]
pub(super) enum NotStarted {
    /// The template does not parse.
    Template(String),
    /// The machine does not give one.
    Machine(io::Error),
}

/// Templates that run in a process of their own. Chats take turns: together they take the memory
/// of one. Nobody waits longer than [`PATIENCE`] for it.
#[derive(Debug)]
pub(super) struct Confined {
    program: PathBuf,
    sources: Vec<String>,
    worker: Turns<Worker>,
}

impl Confined {
    /// `program` is this one: it is started as `PROGRAM render-chat`. Also what each template says
    /// of itself.
    pub(super) fn start(
        program: &Path,
        sources: &[String],
    ) -> Result<(Confined, Vec<Known>), NotStarted> {
        let (worker, known) = Worker::start(program, sources)?;
        let confined = Confined {
            program: program.to_owned(),
            sources: sources.to_vec(),
            worker: Turns::new(worker),
        };
        Ok((confined, known))
    }

    /// With the template of the number `which`.
    ///
    /// # Errors
    /// [`ChatError`].
    pub(super) fn render(&self, which: usize, inputs: &Inputs) -> Result<String, ChatError> {
        let failed = |message: String| Err(ChatError::Failed { message });
        let mut turn = self.worker.take(PATIENCE).ok_or(ChatError::Busy)?;
        let mut worker = match turn.held.take().and_then(Worker::alive) {
            Some(worker) => worker,
            None => match Worker::start(&self.program, &self.sources) {
                Ok((worker, _)) => worker,
                Err(NotStarted::Template(message)) => return failed(message),
                Err(NotStarted::Machine(error)) => {
                    return failed(format!("no process could be started for it: {error}"));
                }
            },
        };
        let asked = texts(which, inputs).and_then(|texts| {
            let texts: Vec<Option<&str>> = texts.iter().map(Option::as_deref).collect();
            worker.ask(&texts)
        });
        match asked {
            Ok((kind, text)) => {
                turn.held = Some(worker);
                match kind.as_str() {
                    RENDERED => Ok(text),
                    REFUSED => Err(ChatError::Refused { message: text }),
                    _ => failed(text),
                }
            }
            Err(error) => failed(worker.last_words(&error)),
        }
    }
}

#[derive(Debug)]
struct Worker {
    child: Child,
    input: BufWriter<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Worker {
    fn start(program: &Path, sources: &[String]) -> Result<(Worker, Vec<Known>), NotStarted> {
        let mut child = Command::new(program)
            .arg("render-chat")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // A signal from the terminal is for the engine, which ends it by its input.
            .process_group(0)
            .spawn()
            .map_err(NotStarted::Machine)?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(NotStarted::Machine(io::Error::other("no pipes")));
        };
        let mut worker = Worker {
            child,
            input: BufWriter::new(input),
            output: BufReader::new(output),
        };
        let texts: Vec<Option<&str>> = sources.iter().map(|source| Some(&**source)).collect();
        match worker.ask(&texts) {
            Ok((kind, text)) if kind == READY => match known(&text) {
                Ok(known) if known.len() == sources.len() => Ok((worker, known)),
                Ok(_) => {
                    let error = frames::invalid("another number of templates");
                    Err(NotStarted::Machine(error))
                }
                Err(error) => Err(NotStarted::Machine(error.into())),
            },
            Ok((kind, message)) if kind == FAILED => Err(NotStarted::Template(message)),
            Ok((kind, _)) => {
                let message = format!("an answer of the kind {kind:?}");
                Err(NotStarted::Machine(frames::invalid(&message)))
            }
            // Its own code does not die before it answers; what a template holds may kill it.
            Err(error) if has_ended(&error) && worker.killed().is_some() => {
                Err(NotStarted::Template(worker.last_words(&error)))
            }
            Err(error) => Err(NotStarted::Machine(error)),
        }
    }

    /// Itself, unless somebody ended it while it was idle.
    fn alive(mut self) -> Option<Worker> {
        matches!(self.child.try_wait(), Ok(None)).then_some(self)
    }

    fn ask(&mut self, texts: &[Option<&str>]) -> io::Result<(String, String)> {
        frames::write(&mut self.input, texts)?;
        let answer = frames::read(&mut self.output, |bytes| {
            if bytes > ANSWER_BYTES_MAX {
                return Err(frames::invalid("an answer that is too long"));
            }
            Ok(())
        })?;
        match <[_; 2]>::try_from(answer) {
            Ok([Some(kind), Some(text)]) => Ok((kind, text)),
            _ => Err(frames::invalid("an answer of another form")),
        }
    }

    /// The signal that ended it, when one did. Only for one whose pipes have ended: it waits.
    fn killed(&mut self) -> Option<i32> {
        self.child.wait().ok()?.signal()
    }

    fn last_words(&mut self, error: &io::Error) -> String {
        if !has_ended(error) {
            return error.to_string();
        }
        match self.killed() {
            Some(signal) if signal == Signal::XCPU.as_raw() => {
                format!("it computed for more than {CPU_SECONDS} s")
            }
            _ => format!(
                "it needed more than {} MiB of memory beside the messages, or nested too deeply",
                MEMORY_BYTES >> 20
            ),
        }
    }
}

/// A pipe to it has no other end any more.
fn has_ended(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | UnexpectedEof)
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Already gone is fine; what matters is that nothing stays behind.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
