//! Adapters that come and go while the server runs, under vLLM's and SGLang's names and in their words.
//!
//! Who loads files decides what is served: a folder must lie under an `--adapter-root`, links resolved.
//! Without one, nothing is loaded. All of an adapter is read and checked before the engine hears of it.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use plimsoll_crds::v1alpha1::adapters::AdapterScale;
use serde_json::{Map, Value, json};

use super::roots::{ADAPTERS, allowed, unopened};
use super::sent::SentBody;
use super::update::{blocking, flag, text};
use super::{done, loaded};
use crate::adapters::{AdapterPath, Dynamic};
use crate::args::served_name;
use crate::engine::control::ControlError;
use crate::http::app::{App, Loaded};
use crate::http::error::ApiError;
use crate::http::generator::uncontrolled;
use crate::model::ModelError;

const NAME: &str = "lora_name";
const PATH: &str = "lora_path";

/// `{"lora_name", "lora_path", "load_inplace"}`; in place, the one of its name goes, and requests that it
/// answers go on with the new one.
pub(super) async fn load(State(app): State<Arc<App>>, body: SentBody) -> Result<String, ApiError> {
    let mut fields = body.fields().await?;
    if flag(&mut fields, "is_3d_lora_weight", false)? {
        let why = "there are no experts here";
        return Err(ApiError::unsupported("is_3d_lora_weight", why));
    }
    let in_place = flag(&mut fields, "load_inplace", false)?;
    let (at, name) = named(&app, fields).await?;
    open_and_load(&app, at, in_place).await?;
    Ok(format!(
        "Success: LoRA adapter '{name}' added successfully."
    ))
}

/// The adapter that the fields name, all of them, where it may lie.
async fn named(
    app: &App,
    mut fields: Map<String, Value>,
) -> Result<(AdapterPath, String), ApiError> {
    let name = text(&mut fields, NAME)?.filter(|name| !name.is_empty());
    let folder = text(&mut fields, PATH)?.filter(|path| !path.is_empty());
    done(&fields)?;
    let Some((name, folder)) = name.zip(folder) else {
        let message = "Both 'lora_name' and 'lora_path' must be provided.";
        return Err(ApiError::invalid(Some(NAME), message));
    };
    let invalid = |why: String| ApiError::invalid(Some(NAME), format!("{NAME}: {why}"));
    let name = served_name(&name).map_err(invalid)?;
    app.check_names([name.as_str()].into_iter())
        .map_err(invalid)?;
    let roots = app.adapter_roots.clone();
    let path = blocking(move || allowed(ADAPTERS, &roots, &folder, PATH)).await??;
    let at = AdapterPath {
        name: name.clone(),
        path,
        scale: AdapterScale::ONE,
    };
    Ok((at, name))
}

/// Why an adapter was not loaded; nothing was changed.
#[derive(Debug, thiserror::Error)]
enum NotLoaded {
    #[error("{}", .0.message)]
    NoEngine(ApiError),
    #[error("nothing was changed: {0}")]
    Unread(ModelError),
    #[error(transparent)]
    Refused(#[from] ControlError),
}

impl From<NotLoaded> for ApiError {
    fn from(why: NotLoaded) -> ApiError {
        match why {
            NotLoaded::NoEngine(error) => error,
            NotLoaded::Unread(ref error) => unopened(error, PATH).unwrap_or_else(|| {
                ApiError::invalid(Some(PATH), why.to_string()).with_code("adapter_refused")
            }),
            NotLoaded::Refused(error) => uncontrolled(&error),
        }
    }
}

/// Has the engine load an adapter that was read and checked.
pub(in crate::http) async fn load_opened(
    loaded: &Loaded,
    adapter: Dynamic,
    in_place: bool,
) -> Result<(), ControlError> {
    let answer = loaded.engine.load_adapter(Arc::new(adapter), in_place);
    answer.answer().await
}

/// Reads and checks all of an adapter, then has the engine load it.
async fn open_and_load(app: &App, at: AdapterPath, in_place: bool) -> Result<(), NotLoaded> {
    let loaded = loaded(app).map_err(NotLoaded::NoEngine)?;
    let engine = Arc::clone(&loaded.engine);
    let opened = blocking(move || engine.open_adapter(&at)).await;
    let opened = opened.map_err(NotLoaded::NoEngine)?;
    let adapter = opened.map_err(NotLoaded::Unread)?;
    Ok(load_opened(&loaded, adapter, in_place).await?)
}

/// `{"lora_name"}`: no more requests are taken, those there are are finished.
pub(super) async fn unload(
    State(app): State<Arc<App>>,
    body: SentBody,
) -> Result<String, ApiError> {
    let mut fields = body.fields().await?;
    let name = text(&mut fields, NAME)?.filter(|name| !name.is_empty());
    // vLLM's own number of it, which names nothing here.
    fields.remove("lora_int_id");
    done(&fields)?;
    let Some(name) = name else {
        let message = "'lora_name' needs to be provided to unload a LoRA adapter.";
        return Err(ApiError::invalid(Some(NAME), message));
    };
    let answer = loaded(&app)?.engine.unload_adapter(name.clone());
    let unloaded = answer.answer().await;
    unloaded.map_err(|error| uncontrolled(&error))?;
    Ok(format!(
        "Success: LoRA adapter '{name}' removed successfully."
    ))
}

/// SGLang's `{"lora_name", "lora_path", "pinned"}`: nothing is ever evicted here, so all are pinned.
pub(super) async fn load_sglang(State(app): State<Arc<App>>, body: SentBody) -> Told {
    let loaded = async {
        let mut fields = body.fields().await?;
        flag(&mut fields, "pinned", false)?;
        let (at, _) = named(&app, fields).await?;
        Ok(open_and_load(&app, at, false).await?)
    };
    told(&app, loaded.await)
}

/// SGLang's `{"lora_name"}`.
pub(super) async fn unload_sglang(State(app): State<Arc<App>>, body: SentBody) -> Told {
    let unloaded = async {
        let mut fields = body.fields().await?;
        let name = text(&mut fields, NAME)?.filter(|name| !name.is_empty());
        done(&fields)?;
        let name = name.ok_or_else(|| ApiError::invalid(Some(NAME), "lora_name: is missing"))?;
        let answer = loaded(&app)?.engine.unload_adapter(name).answer().await;
        answer.map_err(|error| uncontrolled(&error))
    };
    told(&app, unloaded.await)
}

/// What SGLang says of both: it knows one code for all that is not done.
type Told = (StatusCode, Json<Value>);

fn told(app: &App, outcome: Result<(), ApiError>) -> Told {
    let dynamic = app.dynamic();
    let there = dynamic.adapters.iter().filter(|of| !of.leaving);
    let there = there.map(|of| (of.name.clone(), of.path.display().to_string().into()));
    let there: Map<String, Value> = there.collect();
    let (status, why) = match outcome {
        Ok(()) => (StatusCode::OK, None),
        Err(error) => (StatusCode::BAD_REQUEST, Some(error.message)),
    };
    let told = json!({
        "success": why.is_none(), "error_message": why, "loaded_adapters": there,
    });
    (status, Json(told))
}
