//! A body of pushed tensors on its way into the engine, piece by piece. A body that fails before any of
//! it is written can be sent again; afterwards its update ends with it. Of an update that somebody else
//! ended it writes nothing more, and leaves whichever is open then alone.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::http::header;
use futures::StreamExt;
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::abandoned::{abandoned, says};
use crate::engine::control::Reply;
use crate::http::app::App;
use crate::http::bodies::Held;
use crate::http::error::ApiError;
use crate::http::generator::{Generator, uncontrolled};
use crate::http::prompt::blocking;
use crate::http::updates::{AtWork, ENDED, How};
use crate::model::ModelError;
use crate::weights::piece::Piece;
use crate::weights::stream::{HEADER_COST, SafetensorsStream, Step};

/// Pieces that there are at once: one comes while the one before it is written.
const PIECES: usize = 2;
/// What counts as getting on.
const PROGRESS_BYTES: usize = 64 << 10;

/// What a body brought.
pub(super) struct Sent {
    pub(super) tensors: usize,
    pub(super) bytes: u64,
}

/// Writes a whole body.
///
/// # Errors
/// What is wrong with it, and what became of its update.
pub(super) async fn receive(
    app: &App,
    engine: Arc<dyn Generator>,
    work: AtWork,
    request: Request,
) -> Result<Sent, ApiError> {
    let mut body = Receiving {
        app,
        engine,
        work,
        held: Held::default(),
        writing: None,
        ends: false,
        tensors: 0,
        bytes: 0,
    };
    match body.receive(request).await {
        Ok(()) => {
            body.ends = false;
            let (tensors, bytes) = (body.tensors, body.bytes);
            Ok(Sent { tensors, bytes })
        }
        Err(error) => Err(body.refuse(error).await),
    }
}

/// A body on its way into the engine.
struct Receiving<'a> {
    app: &'a App,
    engine: Arc<dyn Generator>,
    work: AtWork,
    /// Of the host's budget for bodies.
    held: Held,
    /// The piece that ranks write now.
    writing: Option<Reply<()>>,
    /// The engine was asked to open the update, or to write a part of this: if it ends now, so does the
    /// update.
    ends: bool,
    tensors: usize,
    bytes: u64,
}

impl Receiving<'_> {
    async fn receive(&mut self, request: Request) -> Result<(), ApiError> {
        let announced = request.headers().get(header::CONTENT_LENGTH);
        let announced = announced.and_then(|length| length.to_str().ok()?.parse().ok());
        let mut stream = SafetensorsStream::new(announced);
        let mut frames = request.into_body().into_data_stream();
        let patience = self.app.limits.push_timeout;
        let (mut left, mut since) = (patience, 0);
        loop {
            let began = Instant::now();
            let frame = tokio::time::timeout(left, frames.next()).await;
            let frame = frame.map_err(|_| stalled(&stream, patience))?;
            let Some(frame) = frame else { break };
            let frame = frame.map_err(|error| {
                let at = at_tensor(&stream);
                ApiError::invalid(None, format!("the body could not be read{at}: {error}"))
            })?;
            since += frame.len();
            left = left.saturating_sub(began.elapsed());
            if since >= PROGRESS_BYTES {
                (left, since) = (patience, 0);
            }
            let mut chunk = &frame[..];
            while self.take(&mut stream, &mut chunk).await? {}
        }
        stream.end().map_err(refused)?;
        self.written().await
    }

    /// False when the chunk is taken.
    async fn take(
        &mut self,
        stream: &mut SafetensorsStream,
        chunk: &mut &[u8],
    ) -> Result<bool, ApiError> {
        match stream.feed(chunk).map_err(refused)? {
            Step::Taken => return Ok(false),
            Step::HeaderBegins(length) => self.hold(length * HEADER_COST).await?,
            Step::Tensors(infos) => {
                let pushable = self.engine.pushable();
                let mut infos_of = infos.iter();
                infos_of
                    .try_for_each(|info| pushable.check(info))
                    .map_err(refused)?;
                self.tensors = infos.len();
                drop(infos);
                self.hold(stream.piece_bytes() * PIECES).await?;
            }
            Step::Piece(piece) => self.write(piece).await?,
        }
        Ok(true)
    }

    /// Of the budget for bodies, instead of what was held.
    async fn hold(&mut self, bytes: usize) -> Result<(), ApiError> {
        self.held = Held::default();
        self.app.bodies.take(&mut self.held, bytes, None).await
    }

    async fn write(&mut self, piece: Piece) -> Result<(), ApiError> {
        let kept = self.engine.pushable().kept(&piece.tensor().name);
        let looked_at = move || {
            let Some((row, number)) = piece.wrong_number(kept) else {
                return Ok(piece);
            };
            let name = &piece.tensor().name;
            let kept = kept.kept_as();
            let message = format!("tensor `{name}`: row {row} has {number}, which is no {kept}");
            Err(ApiError::invalid(None, message).with_code("weights_refused"))
        };
        let piece = Arc::new(blocking(looked_at).await?);
        self.written().await?;
        if !self.work.told {
            self.open().await?;
        }
        let bytes = piece.bytes() as u64;
        self.writing = Some(self.work.ask(|| self.engine.write_push(piece))?);
        self.ends = true;
        self.bytes += bytes;
        Ok(())
    }

    /// A client that leaves before the answer leaves an update behind that the engine will open.
    async fn open(&mut self) -> Result<(), ApiError> {
        let How { whole, mode, .. } = self.work.how;
        let opened = self.work.ask(|| self.engine.open_push(whole, mode))?;
        self.ends = true;
        opened.answer().await.map_err(|error| {
            self.ends = false;
            self.work.untell();
            uncontrolled(&error)
        })
    }

    /// Waits until the piece under way is written.
    async fn written(&mut self) -> Result<(), ApiError> {
        match self.writing.take() {
            None => Ok(()),
            Some(reply) => reply.answer().await.map_err(|error| uncontrolled(&error)),
        }
    }

    /// A body that fails before any of it is written can be sent again; otherwise the update ends.
    async fn refuse(&mut self, mut error: ApiError) -> ApiError {
        let ended = std::mem::take(&mut self.ends);
        let ours = match ended {
            true => self.work.close(),
            false => self.work.stands(),
        };
        if !ours {
            if error.message != ENDED {
                error.message = format!("{}; {ENDED}", error.message);
            }
            return error;
        }
        if !ended {
            let open = if self.work.told {
                "; nothing of this body was written"
            } else {
                ""
            };
            error.message = format!("{}{open}; the update is open still", error.message);
            return error;
        }
        let left = abandoned(&self.app.updates, &self.engine, error.message.clone()).await;
        error.message = format!("{}; the update has ended: {}", error.message, says(&left));
        error
    }
}

impl Drop for Receiving<'_> {
    /// The client has left in the middle.
    fn drop(&mut self) {
        // Where the process ends, so does the engine.
        if self.ends && self.work.close() && Handle::try_current().is_ok() {
            drop(abandoned(
                &self.app.updates,
                &self.engine,
                "the client left".to_owned(),
            ));
        }
    }
}

fn refused(error: ModelError) -> ApiError {
    ApiError::invalid(None, error.to_string()).with_code("weights_refused")
}

fn at_tensor(stream: &SafetensorsStream) -> String {
    let info = stream.unfinished();
    info.map_or(String::new(), |info| format!(", at tensor `{}`", info.name))
}

fn stalled(stream: &SafetensorsStream, patience: Duration) -> ApiError {
    let at = at_tensor(stream);
    let message = format!(
        "less than {PROGRESS_BYTES} bytes of the body came within {} s{at}",
        patience.as_secs()
    );
    ApiError {
        message,
        ..ApiError::body_timeout(patience.as_secs())
    }
}
