//! Weights pushed as safetensors, in vLLM's phases: start, tensors in any number of bodies, finish. A
//! body is never held whole: rows go to the engine as they come.
//!
//! What is sent is looked at before any of it is written: names, shapes and types when a body's header
//! is there, numbers piece by piece. Until a first piece is written the engine serves on.

use std::sync::{Arc, Weak};
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::query::Query;
use super::{done, fields, loaded, update};
use crate::engine::control::{ControlError, Reply};
use crate::engine::rest::PauseMode;
use crate::engine::weights::{Abandoned, Updated};
use crate::http::app::App;
use crate::http::bodies::Held;
use crate::http::error::ApiError;
use crate::http::generator::{Generator, uncontrolled};
use crate::http::prompt::blocking;
use crate::http::updates::{self, AtWork, How, Overdue};
use crate::metrics::Phase;
use crate::model::ModelError;
use crate::weights::piece::Piece;
use crate::weights::stream::{HEADER_COST, SafetensorsStream, Step};

type Answer = Result<Json<Value>, ApiError>;

/// How long an update may stand with nobody at work, where it does not say.
const PATIENCE_SECONDS: u64 = 120;
const PATIENCE_SECONDS_MAX: u64 = 3600;
/// Pieces that there are at once: one comes while the one before it is written.
const PIECES: usize = 2;
/// What counts as getting on.
const PROGRESS_BYTES: usize = 64 << 10;

/// Opens an update. The engine hears of it with the first tensor.
pub(super) async fn start(State(app): State<Arc<App>>, body: Body) -> Answer {
    let _counted = app.metrics.updating(Phase::Start);
    let mut fields = fields(body).await?;
    // Older clients of vLLM send it; names are always those of checkpoints.
    fields.remove("is_checkpoint_format");
    let how = How {
        version: update::version(&mut fields, "weight_version")?,
        mode: mode(&mut fields)?,
        whole: !update::flag(&mut fields, "partial", false)?,
        patience: patience(&mut fields)?,
    };
    done(&fields)?;
    let updating = loaded(&app)?.engine.rest().updating;
    let id = app.updates.begin(how, updating)?;
    tokio::spawn(watch(Arc::downgrade(&app), id));
    Ok(Json(
        json!({"message": "Weight update started", "update_id": id.to_string()}),
    ))
}

fn mode(fields: &mut Map<String, Value>) -> Result<PauseMode, ApiError> {
    let known = [PauseMode::Abort, PauseMode::Wait, PauseMode::Keep];
    let Some(word) = update::text(fields, "mode")? else {
        return Ok(PauseMode::Keep);
    };
    let found = known.into_iter().find(|mode| mode.name() == word);
    found.ok_or_else(|| ApiError::invalid(Some("mode"), "mode: must be abort, wait or keep"))
}

fn patience(fields: &mut Map<String, Value>) -> Result<Duration, ApiError> {
    let name = "idle_timeout_seconds";
    let seconds = match fields.remove(name) {
        None | Some(Value::Null) => Some(PATIENCE_SECONDS),
        Some(value) => value.as_u64(),
    };
    let seconds = seconds.filter(|seconds| (1..=PATIENCE_SECONDS_MAX).contains(seconds));
    seconds.map(Duration::from_secs).ok_or_else(|| {
        let message = format!("{name}: must be a whole number, 1 to {PATIENCE_SECONDS_MAX}");
        ApiError::invalid(Some(name), message)
    })
}

/// Ends the update when nobody works on it for too long.
pub(in crate::http) async fn watch(app: Weak<App>, id: u64) {
    loop {
        let Some(overdue) = app.upgrade().map(|app| app.updates.overdue(id)) else {
            return;
        };
        match overdue {
            Overdue::Gone => return,
            Overdue::In(time) => tokio::time::sleep(time).await,
            Overdue::Now { told, after } => {
                let loaded = app.upgrade().and_then(|app| app.peek()).filter(|_| told);
                if let Some(loaded) = loaded {
                    let why = format!("nobody sent anything for {} s", after.as_secs());
                    // Whatever comes of it is the engine's to say.
                    let _ = loaded.engine.abandon_push(why).answer().await;
                }
                return;
            }
        }
    }
}

/// Tensors, or the name of a folder that has some.
pub(super) async fn update_weights(State(app): State<Arc<App>>, request: Request) -> Response {
    if !sends_tensors(request.headers()) {
        return update::vllm(app, request.into_body()).await.into_response();
    }
    match tensors(app, request).await {
        Ok(answer) => answer.into_response(),
        Err(error) => {
            let mut response = error.into_response();
            // The rest of the body, which nobody reads, is no next request.
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
            response
        }
    }
}

fn sends_tensors(headers: &HeaderMap) -> bool {
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    let kind = kind
        .unwrap_or_default()
        .split(';')
        .next()
        .unwrap_or_default();
    let kinds = [
        "application/octet-stream",
        "application/safetensors",
        "application/x-safetensors",
    ];
    kinds
        .iter()
        .any(|known| kind.trim().eq_ignore_ascii_case(known))
}

async fn tensors(app: Arc<App>, request: Request) -> Answer {
    let _counted = app.metrics.updating(Phase::Update);
    let mut query = Query::parse(request.uri().query().unwrap_or_default());
    let id = query.all("update_id").pop();
    query.done()?;
    let loaded = loaded(&app)?;
    let work = app.updates.work(id.as_deref())?;
    let mut body = Receiving {
        app: &app,
        engine: &*loaded.engine,
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
            Ok(Json(
                json!({"message": "Weights updated", "tensors": tensors, "bytes": bytes}),
            ))
        }
        Err(error) => Err(body.refuse(error).await),
    }
}

/// A body on its way into the engine.
struct Receiving<'a> {
    app: &'a App,
    engine: &'a (dyn Generator + 'static),
    work: AtWork,
    /// Of the host's budget for bodies.
    held: Held,
    /// The piece that ranks write now.
    writing: Option<Reply<()>>,
    /// A part of it is written: if it ends now, so does the update.
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
        let dtype = self.engine.pushable().dtype();
        let looked_at = move || {
            let Some((row, number)) = piece.wrong_number(dtype) else {
                return Ok(piece);
            };
            let name = &piece.tensor().name;
            let message = format!("tensor `{name}`: row {row} has {number}, which is no {dtype}");
            Err(ApiError::invalid(None, message).with_code("weights_refused"))
        };
        let piece = Arc::new(blocking(looked_at).await?);
        self.written().await?;
        if !self.work.told {
            let How { whole, mode, .. } = self.work.how;
            let opened = self.engine.open_push(whole, mode).answer().await;
            opened.map_err(|error| uncontrolled(&error))?;
            self.work.tell();
        }
        self.bytes += piece.bytes() as u64;
        self.ends = true;
        self.writing = Some(self.engine.write_push(piece));
        Ok(())
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
        if !self.ends {
            let open = if self.work.told {
                "; nothing of this body was written"
            } else {
                ""
            };
            error.message = format!("{}{open}; the update is open still", error.message);
            return error;
        }
        self.ends = false;
        self.work.close();
        let left = self
            .engine
            .abandon_push(error.message.clone())
            .answer()
            .await;
        error.message = format!("{}; the update has ended: {}", error.message, says(&left));
        error
    }
}

impl Drop for Receiving<'_> {
    /// The client has left in the middle.
    fn drop(&mut self) {
        if self.ends {
            self.work.close();
            drop(self.engine.abandon_push("the client left".to_owned()));
        }
    }
}

fn says(left: &Result<Abandoned, ControlError>) -> String {
    match left {
        Ok(Abandoned::Unharmed) => "the weights before it are in force".to_owned(),
        Ok(Abandoned::Away) => "the weights are given back, as before it".to_owned(),
        Ok(Abandoned::OutOfService) => "the engine is out of service until every tensor is pushed \
             again, or the files' weights are read (POST /collective_rpc, reload_weights)"
            .to_owned(),
        Err(error) => error.to_string(),
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

pub(super) async fn finish(State(app): State<Arc<App>>, mut query: Query, body: Body) -> Answer {
    let _counted = app.metrics.updating(Phase::Finish);
    let id = query.all("update_id").pop();
    query.done()?;
    let mut fields = fields(body).await?;
    let version = update::version(&mut fields, "weight_version")?;
    done(&fields)?;
    let engine = Arc::clone(&loaded(&app)?.engine);
    let work = app.updates.work(id.as_deref())?;
    if !work.told {
        return Err(updates::conflict(
            "no tensor has come: push some first".to_owned(),
        ));
    }
    let version = version.or_else(|| work.how.version.clone());
    let closed = engine.close_push(version).answer().await;
    // Where something is missing it stays open.
    if closed.is_ok() || !engine.rest().updating {
        work.close();
    }
    let Updated { version, .. } = closed.map_err(|error| uncontrolled(&error))?;
    Ok(Json(
        json!({"message": "Weight update finished", "weight_version": version}),
    ))
}

/// Whoever is at work on it.
pub(super) async fn abort(State(app): State<Arc<App>>, mut query: Query) -> Answer {
    let id = query.all("update_id").pop();
    query.done()?;
    let engine = Arc::clone(&loaded(&app)?.engine);
    let told = match app.updates.end(id.as_deref()) {
        // One that the engine has, and nobody here any more, is ended, too.
        Err(_) if id.is_none() && engine.rest().updating => true,
        told => told?,
    };
    let left = match told {
        false => Ok(Abandoned::Unharmed),
        true => {
            engine
                .abandon_push("it was aborted by hand".to_owned())
                .answer()
                .await
        }
    };
    let what = says(&left);
    left.map_err(|error| uncontrolled(&error))?;
    Ok(Json(
        json!({"message": format!("Weight update aborted: {what}")}),
    ))
}
