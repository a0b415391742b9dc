//! Answers that are not streamed: the pieces of each choice joined, and their JSON, which is written
//! as it is sent, so that a long answer is never whole as text beside what it is made of.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use hyper::body::{Frame, SizeHint};
use serde::Serialize;

use super::answers::{Head, Naming};
use super::app::Loaded;
use super::choice::{Piece, Scored};
use super::types::{EndReason, Usage};
use super::unsent::Share;

/// Bytes that are written at once, and a token more.
const PIECE: usize = 16 << 10;

/// A choice of an answer that is not streamed.
#[derive(Debug, Default)]
pub struct Whole {
    text: String,
    scored: Vec<Scored>,
    end: Option<EndReason>,
}

impl Whole {
    pub fn add(&mut self, piece: Piece) {
        self.text.push_str(&piece.text);
        self.scored.extend(piece.scored);
        self.end = self.end.or(piece.end);
    }
}

/// An object that is an answer by itself; room for it, and for its JSON beside it, was taken.
pub fn object(of: impl Serialize, share: Arc<Share>) -> Response {
    let json = Bytes::from(value(&of));
    drop(of);
    share.settle(json.len());
    let sent = Sent {
        json,
        _share: Arc::clone(&share),
    };
    as_json(Body::new(sent), share)
}

/// Bytes that are counted until they are sent.
#[derive(Debug)]
struct Sent {
    json: Bytes,
    _share: Arc<Share>,
}

impl hyper::body::Body for Sent {
    type Data = Bytes;
    type Error = Infallible;

    /// Piece by piece: all is counted until the last one is asked for.
    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let length = self.json.len().min(PIECE);
        let piece = (length > 0).then(|| self.json.split_to(length));
        Poll::Ready(piece.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.json.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.json.len() as u64)
    }
}

/// What is told of each token of a choice, as one list.
#[derive(Clone, Copy, Debug)]
enum List {
    Chat,
    Tokens,
    Logprobs,
    Top,
    Offsets,
}

/// A part of an answer that is still to be written, and how far it is.
#[derive(Debug)]
enum Part {
    Json(Vec<u8>),
    /// The inside of a string.
    Text {
        choice: usize,
        at: usize,
    },
    List {
        choice: usize,
        list: List,
        at: usize,
    },
}

/// An answer on its way; it holds its share of the memory for answers until it is sent.
#[derive(Debug)]
struct Written {
    loaded: Arc<Loaded>,
    head: Head,
    choices: Vec<Whole>,
    parts: VecDeque<Part>,
    /// Made already: an answer that fits one piece tells its length.
    first: Option<Bytes>,
    _share: Arc<Share>,
}

/// A chat's choices as the answer to its request.
pub fn chat(
    loaded: Arc<Loaded>,
    head: Head,
    choices: Vec<Whole>,
    usage: Usage,
    share: Arc<Share>,
) -> Response {
    let mut parts = Vec::new();
    for (index, whole) in choices.iter().enumerate() {
        parts.push(json(format!(
            r#"{{"index":{index},"message":{{"role":"assistant","content":""#
        )));
        parts.push(text(index));
        parts.push(json(r#"","refusal":null},"logprobs":"#));
        if head.logprobs && !whole.scored.is_empty() {
            parts.push(json(r#"{"content":["#));
            parts.push(list(index, List::Chat));
            parts.push(json(r#"],"refusal":null}"#));
        } else {
            parts.push(json("null"));
        }
        parts.push(end(&whole.end.unwrap_or(EndReason::Stop)));
    }
    let parts = framed("chat.completion", &head, parts, usage, choices.len());
    respond(loaded, head, choices, parts, share)
}

/// A completion's.
pub fn completion(
    loaded: Arc<Loaded>,
    head: Head,
    choices: Vec<Whole>,
    usage: Usage,
    share: Arc<Share>,
) -> Response {
    let mut parts = Vec::new();
    for (index, whole) in choices.iter().enumerate() {
        parts.push(json(r#"{"text":""#));
        parts.push(text(index));
        parts.push(json(format!(r#"","index":{index},"logprobs":"#)));
        if head.logprobs && !whole.scored.is_empty() {
            for (name, one) in [
                (r#"{"tokens":["#, List::Tokens),
                (r#"],"token_logprobs":["#, List::Logprobs),
                (r#"],"top_logprobs":["#, List::Top),
                (r#"],"text_offset":["#, List::Offsets),
            ] {
                parts.push(json(name));
                parts.push(list(index, one));
            }
            parts.push(json("]}"));
        } else {
            parts.push(json("null"));
        }
        parts.push(end(&whole.end));
    }
    let parts = framed("text_completion", &head, parts, usage, choices.len());
    respond(loaded, head, choices, parts, share)
}

fn json(text: impl Into<Vec<u8>>) -> Part {
    Part::Json(text.into())
}

fn text(choice: usize) -> Part {
    Part::Text { choice, at: 0 }
}

fn list(choice: usize, list: List) -> Part {
    Part::List {
        choice,
        list,
        at: 0,
    }
}

fn end(reason: &impl Serialize) -> Part {
    json(format!(r#","finish_reason":{}}},"#, value(reason)))
}

/// Our own types always serialise.
fn value(of: &impl Serialize) -> String {
    serde_json::to_string(of).unwrap_or_default()
}

/// The choices' parts with what stands before and behind them.
fn framed(
    object: &str,
    head: &Head,
    choices: Vec<Part>,
    usage: Usage,
    count: usize,
) -> VecDeque<Part> {
    let mut parts = VecDeque::from(choices);
    // Choices end in a comma, the last in none.
    if let Some(Part::Json(last)) = parts.back_mut().filter(|_| count > 0) {
        last.pop();
    }
    parts.push_front(json(format!(
        r#"{{"id":{},"object":"{object}","created":{},"model":{},"choices":["#,
        value(&head.id),
        head.created,
        value(&head.model)
    )));
    parts.push_back(json(format!(r#"],"usage":{}}}"#, value(&usage))));
    parts
}

fn respond(
    loaded: Arc<Loaded>,
    head: Head,
    choices: Vec<Whole>,
    parts: VecDeque<Part>,
    share: Arc<Share>,
) -> Response {
    let mut written = Written {
        loaded,
        head,
        choices,
        parts,
        first: None,
        _share: Arc::clone(&share),
    };
    written.first = written.piece();
    as_json(Body::new(written), share)
}

fn as_json(body: Body, share: Arc<Share>) -> Response {
    let mut response = Response::new(body);
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response.extensions_mut().insert(share);
    response
}

impl Written {
    /// The next bytes; None at the end.
    fn piece(&mut self) -> Option<Bytes> {
        let mut out = Vec::new();
        let Written {
            loaded,
            head,
            choices,
            parts,
            ..
        } = self;
        let naming = head.naming(&loaded.tokenizer);
        while out.len() < PIECE {
            let Some(part) = parts.front_mut() else { break };
            let over = match part {
                Part::Json(bytes) => {
                    out.append(bytes);
                    true
                }
                Part::Text { choice, at } => {
                    let text = &choices[*choice].text;
                    let to = text.floor_char_boundary(*at + PIECE);
                    let quoted = value(&&text[*at..to]);
                    out.extend_from_slice(&quoted.as_bytes()[1..quoted.len() - 1]);
                    *at = to;
                    to == text.len()
                }
                Part::List { choice, list, at } => {
                    let scored = &choices[*choice].scored;
                    if *at > 0 {
                        out.push(b',');
                    }
                    let naming = naming.as_ref();
                    let entry = naming.zip(scored.get(*at)).map(|(n, s)| list.entry(n, s));
                    out.extend_from_slice(entry.unwrap_or_default().as_bytes());
                    *at += 1;
                    *at >= scored.len()
                }
            };
            if over {
                parts.pop_front();
            }
        }
        (!out.is_empty()).then(|| Bytes::from(out))
    }
}

impl List {
    fn entry(self, naming: &Naming<'_>, scored: &Scored) -> String {
        match self {
            List::Chat => value(&naming.chat(scored)),
            List::Tokens => value(&naming.key(scored.id)),
            List::Logprobs => value(&naming.logprob(scored)),
            List::Top => value(&naming.top(scored)),
            List::Offsets => value(&scored.offset),
        }
    }
}

impl hyper::body::Body for Written {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.first.take().or_else(|| self.piece());
        Poll::Ready(piece.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.parts.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        let first = self.first.as_ref().map_or(0, |bytes| bytes.len() as u64);
        match self.parts.is_empty() {
            true => SizeHint::with_exact(first),
            false => SizeHint::default(),
        }
    }
}
