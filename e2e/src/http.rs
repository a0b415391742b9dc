//! A small HTTP/1.1 client: one request per connection, over TCP or a Unix socket, bodies bounded,
//! answers as a whole or line by line.

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// No answer that the tests read is larger.
const LARGEST_BODY: u64 = 256 << 20;

/// Whom to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    method: &'static str,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    timeout: Duration,
}

/// A request that was sent; the server works on it until this value goes.
pub(crate) struct Sent {
    writer: Box<dyn Write + Send>,
    reader: Box<dyn Read + Send>,
}

/// An answer whose body is still to be read.
pub(crate) struct Streamed {
    pub(crate) status: u16,
    body: BufReader<Box<dyn Read + Send>>,
}

/// A whole answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Request {
    pub(crate) fn new(method: &'static str, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            headers: Vec::new(),
            body: Vec::new(),
            timeout: Duration::from_secs(30),
        }
    }

    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn body(mut self, kind: &str, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self.header("content-type", kind)
    }

    /// The longest silence of the other side.
    pub(crate) fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sends the request and reads the whole answer.
    pub(crate) fn send(&self, target: &Target) -> Result<Answer> {
        let mut streamed = self.open(target)?;
        let mut bytes = Vec::new();
        streamed
            .body
            .by_ref()
            .take(LARGEST_BODY)
            .read_to_end(&mut bytes)?;
        Ok(Answer {
            status: streamed.status,
            body: String::from_utf8_lossy(&bytes).into_owned(),
        })
    }

    /// Sends the request and reads the answer's head.
    pub(crate) fn open(&self, target: &Target) -> Result<Streamed> {
        let Sent { writer, reader } = self.begin(target)?;
        read_head(BufReader::new(reader), writer)
    }

    /// Sends the request and reads nothing.
    pub(crate) fn begin(&self, target: &Target) -> Result<Sent> {
        let (mut writer, reader) = self.connect(target)?;
        let mut head = format!(
            "{} {} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {}\r\n",
            self.method,
            self.path,
            self.body.len()
        );
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        writer.write_all(format!("{head}\r\n").as_bytes())?;
        // A server that refuses a body early may close before it has read it; its answer counts.
        let _ = writer.write_all(&self.body);
        Ok(Sent { writer, reader })
    }

    fn connect(&self, target: &Target) -> Result<(Box<dyn Write + Send>, Box<dyn Read + Send>)> {
        let patience = Some(self.timeout);
        Ok(match target {
            Target::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, Duration::from_secs(5))
                    .with_context(|| format!("cannot connect to {address}"))?;
                stream.set_read_timeout(patience)?;
                stream.set_write_timeout(patience)?;
                (Box::new(stream.try_clone()?), Box::new(stream))
            }
            Target::Unix(path) => {
                let stream = UnixStream::connect(path)
                    .with_context(|| format!("cannot connect to {}", path.display()))?;
                stream.set_read_timeout(patience)?;
                stream.set_write_timeout(patience)?;
                (Box::new(stream.try_clone()?), Box::new(stream))
            }
        })
    }
}

impl Streamed {
    /// The next line of the body, without its end; none when the body ends.
    pub(crate) fn line(&mut self) -> Result<Option<String>> {
        let mut line = String::new();
        if self.body.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        Ok(Some(line.trim_end_matches(['\r', '\n']).to_owned()))
    }
}

impl Answer {
    pub(crate) fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.body).with_context(|| {
            format!(
                "not JSON: {}",
                self.body.chars().take(200).collect::<String>()
            )
        })
    }
}

fn read_head(
    mut reader: BufReader<Box<dyn Read + Send>>,
    writer: Box<dyn Write + Send>,
) -> Result<Streamed> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status = line.split(' ').nth(1).and_then(|word| word.parse().ok());
    let status: u16 = status.with_context(|| format!("no HTTP answer: {line:?}"))?;
    let mut headers = Vec::new();
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            bail!("the connection ended inside the answer's head");
        }
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let find = |wanted: &str| {
        headers
            .iter()
            .find(|(name, _)| name == wanted)
            .map(|(_, v)| v.clone())
    };
    let chunked = find("transfer-encoding").is_some_and(|value| value.contains("chunked"));
    let length: Option<u64> = find("content-length").and_then(|value| value.parse().ok());
    let body: Box<dyn Read + Send> = if chunked {
        Box::new(Chunked {
            inner: reader,
            left: 0,
            done: false,
            _writer: writer,
        })
    } else {
        Box::new(Whole {
            inner: reader.take(length.unwrap_or(u64::MAX)),
            _writer: writer,
        })
    };
    Ok(Streamed {
        status,
        body: BufReader::new(body),
    })
}

/// Keeps the writing half open while the answer is read.
struct Whole {
    inner: std::io::Take<BufReader<Box<dyn Read + Send>>>,
    _writer: Box<dyn Write + Send>,
}

impl Read for Whole {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.inner.read(buffer)
    }
}

struct Chunked {
    inner: BufReader<Box<dyn Read + Send>>,
    left: u64,
    done: bool,
    _writer: Box<dyn Write + Send>,
}

impl Read for Chunked {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.left == 0 && !self.done {
            let mut line = String::new();
            self.inner.read_line(&mut line)?;
            if line.trim().is_empty() {
                line.clear();
                self.inner.read_line(&mut line)?;
            }
            let size = line.trim().split(';').next().unwrap_or_default();
            self.left = u64::from_str_radix(size, 16)
                .map_err(|_| std::io::Error::other(format!("not a chunk size: {line:?}")))?;
            self.done = self.left == 0;
        }
        if self.done {
            return Ok(0);
        }
        let room = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let count = self.inner.read(&mut buffer[..room])?;
        if count == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= count as u64;
        Ok(count)
    }
}
