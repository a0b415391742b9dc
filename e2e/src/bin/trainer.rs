//! A trainer beside an engine, as small as one can be: it uses the memory that the engine gives back,
//! pushes changed weights on 127.0.0.1, and is then killed in the middle of the next push.
//!
//! It says on its standard output how far it is; the test reads that. Its second life only looks on.
#![expect(clippy::print_stdout, reason = "what the test reads")]

#[path = "../changed.rs"]
mod changed;

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;
use std::{env, fs, thread};

const ENGINE: &str = "127.0.0.1:8000";
const VERSION: &str = "trained-1";
/// Bytes of a chunk of a push.
const CHUNK: usize = 256 << 10;
const PAGE: usize = 4096;

fn main() -> io::Result<()> {
    // A second life: the weights have the name that the first gave them.
    if !ask("GET", "/weight_info", "")?.contains("\"default\"") {
        println!("looks on");
        return rest();
    }
    let text = |name: &str| env::var(name).map_err(io::Error::other);
    let bytes: usize = text("TRAINER_BYTES")?.parse().map_err(io::Error::other)?;
    let first = fs::read(text("TRAINER_WEIGHTS")?)?;
    let weights = changed::weights(&first)?;
    println!("before {}", complete()?);

    ask("POST", "/sleep?level=2&mode=keep", "")?;
    println!("computed {} over {bytes} bytes", computed(bytes));
    ask("POST", "/wake_up?tags=weights", "")?;
    ask(
        "POST",
        "/start_weight_update",
        &format!(r#"{{"weight_version": "{VERSION}"}}"#),
    )?;
    let mut push = begin_push()?;
    send(&mut push, &weights)?;
    push.write_all(b"0\r\n\r\n")?;
    answer(push, "/update_weights")?;
    ask("POST", "/finish_weight_update", "")?;
    ask("POST", "/wake_up?tags=kv_cache", "")?;
    println!("pushed {}", complete()?);

    ask(
        "POST",
        "/start_weight_update",
        r#"{"weight_version": "never"}"#,
    )?;
    let mut push = begin_push()?;
    send(&mut push, &first[..first.len() / 2])?;
    println!("half sent");
    rest()
}

/// Until it is killed.
fn rest() -> io::Result<()> {
    loop {
        io::stdout().flush()?;
        thread::park();
    }
}

/// Something that needs every page of so many bytes.
fn computed(bytes: usize) -> u64 {
    let mut pages = vec![0u8; bytes];
    for (page, cells) in pages.chunks_mut(PAGE).enumerate() {
        cells[0] = u8::try_from(page % 251).unwrap_or_default();
    }
    pages.chunks(PAGE).map(|cells| u64::from(cells[0])).sum()
}

/// A greedy answer's text, as JSON.
fn complete() -> io::Result<String> {
    let body = r#"{"prompt": [5, 6, 7], "max_tokens": 24, "temperature": 0, "ignore_eos": true}"#;
    let answer = ask("POST", "/v1/completions", body)?;
    let answer: serde_json::Value = serde_json::from_str(&answer).map_err(io::Error::other)?;
    Ok(answer["choices"][0]["text"].to_string())
}

/// The body of an answer, which must be a 200.
fn ask(method: &str, path: &str, body: &str) -> io::Result<String> {
    let mut stream = connect()?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: engine\r\nconnection: close\r\ncontent-type: \
         application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )?;
    answer(stream, path)
}

fn begin_push() -> io::Result<TcpStream> {
    let mut stream = connect()?;
    stream.write_all(
        b"POST /update_weights HTTP/1.1\r\nhost: engine\r\nconnection: close\r\ncontent-type: \
          application/octet-stream\r\ntransfer-encoding: chunked\r\n\r\n",
    )?;
    Ok(stream)
}

fn send(push: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    for chunk in bytes.chunks(CHUNK) {
        write!(push, "{:x}\r\n", chunk.len())?;
        push.write_all(chunk)?;
        push.write_all(b"\r\n")?;
    }
    Ok(())
}

fn connect() -> io::Result<TcpStream> {
    let stream = TcpStream::connect(ENGINE)?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    Ok(stream)
}

fn answer(mut stream: TcpStream, path: &str) -> io::Result<String> {
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    match text.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => Ok(body.to_owned()),
        _ => Err(io::Error::other(format!("{path}: {text}"))),
    }
}
