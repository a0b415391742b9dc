//! Starts the real binary on a fixture model and speaks HTTP to it, with the standard library.
#![allow(dead_code, reason = "each test binary uses its part")]

pub(crate) mod documents;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

const WAIT: Duration = Duration::from_secs(120);

pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/models")
        .join(name)
}

/// A fixture with one file replaced; removed when dropped.
pub(crate) struct ModelCopy(PathBuf);

impl ModelCopy {
    pub(crate) fn new(model: &str, file: &str, content: &str) -> ModelCopy {
        // Tests of one program run side by side: each copy has a folder of its own.
        static COPIES: AtomicU32 = AtomicU32::new(0);
        let copy = COPIES.fetch_add(1, Ordering::Relaxed);
        let name = format!("plimsoll-{model}-{file}-{}-{copy}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        for entry in fs::read_dir(fixture(model)).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
        }
        fs::write(folder.join(file), content).unwrap();
        ModelCopy(folder)
    }

    pub(crate) fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for ModelCopy {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn binary() -> Command {
    Command::new(env!("CARGO_BIN_EXE_plimsoll-sidecar"))
}

/// A running sidecar; killed when dropped.
pub(crate) struct Served {
    child: Child,
    pub(crate) api: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) probes: SocketAddr,
    /// Of whoever waits for a line.
    log: Mutex<Receiver<String>>,
}

/// Small enough for a laptop that does other things too.
pub(crate) const SMALL: [&str; 8] = [
    "--dtype",
    "float32",
    "--max-num-seqs",
    "4",
    "--max-num-batched-tokens",
    "64",
    "--threads",
    "1",
];

/// Whichever ports are free.
pub(crate) const FREE_PORTS: [&str; 6] = ["--port", "0", "--admin-port", "0", "--probe-port", "0"];

/// Two ranks with quotas that the tiny models fit.
pub(crate) const SPLIT: [&str; 6] = [
    "--tensor-parallel-size",
    "2",
    "--quota",
    "0=8Mi",
    "--quota",
    "1=9Mi",
];

/// Requests are answered, and all of the memory is taken: what is measured from then on is theirs.
pub(crate) const READY: &str = "\"message\":\"ready\"";

impl Served {
    /// `serve MODEL` on free ports, once it is ready.
    pub(crate) fn start(model: &str, flags: &[&str]) -> Served {
        let served = Served::start_unready(model, flags);
        served.wait_for(READY);
        served
    }

    /// `serve MODEL` once it listens; MODEL is a fixture or a path.
    pub(crate) fn start_unready(model: &str, flags: &[&str]) -> Served {
        Served::launch(
            Served::command()
                .arg(fixture(model))
                .args(SMALL)
                .args(flags),
        )
    }

    /// As [`Served::start`], with the command changed by `around` before it is run.
    pub(crate) fn start_inside(
        model: &str,
        flags: &[&str],
        around: impl FnOnce(&Command) -> Command,
    ) -> Served {
        let mut command = Served::command();
        command.arg(model).args(SMALL).args(flags);
        let served = Served::launch(&mut around(&command));
        served.wait_for(READY);
        served
    }

    /// `serve --config FOLDER`, once it is ready.
    pub(crate) fn start_config(folder: &Path) -> Served {
        let served = Served::launch(Served::command().arg("--config").arg(folder));
        served.wait_for(READY);
        served
    }

    /// `serve` on free ports, with a log that is read here.
    pub(crate) fn command() -> Command {
        let mut command = binary();
        command
            .args(["--log-format", "json", "serve"])
            .args(FREE_PORTS);
        command
    }

    /// Without waiting for the model.
    pub(crate) fn launch(command: &mut Command) -> Served {
        let piped = command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = piped.spawn().unwrap();
        let stderr = child.stderr.take().unwrap();
        let (sender, log) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut served = Served {
            child,
            api: nowhere,
            admin: nowhere,
            probes: nowhere,
            log: Mutex::new(log),
        };
        let line: Value =
            serde_json::from_str(&served.wait_for("\"message\":\"listening\"")).unwrap();
        served.api = line["api"].as_str().unwrap().parse().unwrap();
        served.admin = line["admin"].as_str().unwrap().parse().unwrap();
        served.probes = line["probes"].as_str().unwrap().parse().unwrap();
        served
    }

    /// The next line of the log that holds `part`.
    pub(crate) fn wait_for(&self, part: &str) -> String {
        let end = Instant::now() + WAIT;
        let (mut seen, log) = (String::new(), self.log.lock().unwrap());
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match log.recv_timeout(left) {
                Ok(line) if line.contains(part) => return line,
                Ok(line) => seen.push_str(&(line + "\n")),
                Err(error) => panic!("{part} is not in the log ({error}):\n{seen}"),
            }
        }
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        call(
            self.api,
            &format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"),
        )
    }

    /// From the admin port, with a header line or "".
    pub(crate) fn get_admin(&self, path: &str, header: &str) -> Answer {
        call(
            self.admin,
            &format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{header}\r\n"),
        )
    }

    pub(crate) fn post(&self, path: &str, body: &str) -> Answer {
        call(self.api, &post_text(path, body))
    }

    pub(crate) fn post_admin(&self, path: &str, body: &str) -> Answer {
        call(self.admin, &post_text(path, body))
    }

    /// Puts JSON to the admin port.
    pub(crate) fn put_admin(&self, path: &str, body: &str) -> Answer {
        let put = post_text(path, body).replacen("POST", "PUT", 1);
        call(self.admin, &put)
    }

    /// From the port of probes: the status.
    pub(crate) fn probe(&self, path: &str) -> u16 {
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        call(self.probes, &request).status
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn terminate(&self) {
        let kill = format!("kill -TERM {}", self.child.id());
        assert!(
            Command::new("sh")
                .args(["-c", &kill])
                .status()
                .unwrap()
                .success()
        );
    }

    /// The exit status, once the process has ended by itself.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let end = Instant::now() + WAIT;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < end, "the process did not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn post_text(path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The events of a stream, `[DONE]` included as a string.
    pub(crate) fn events(&self) -> Vec<Value> {
        let lines = self
            .body
            .lines()
            .filter_map(|line| line.strip_prefix("data: "));
        lines
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| line.into()))
            .collect()
    }
}

pub(crate) fn open(address: SocketAddr, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(WAIT)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

fn call(address: SocketAddr, request: &str) -> Answer {
    let mut bytes = Vec::new();
    open(address, request).read_to_end(&mut bytes).unwrap();
    answer(&bytes)
}

/// Splits head and body, and undoes chunked encoding.
pub(crate) fn answer(bytes: &[u8]) -> Answer {
    let text = String::from_utf8_lossy(bytes);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or(0);
    let chunked = head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked");
    let body = if chunked {
        joined(body)
    } else {
        body.to_owned()
    };
    Answer { status, body }
}

fn joined(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap_or(0);
        if size == 0 || after.len() < size {
            break;
        }
        body.push_str(&after[..size]);
        rest = after[size..].trim_start_matches("\r\n");
    }
    body
}
