//! Adapters that come and go while the server runs, under vLLM's names and in its words.
//!
//! Who loads files decides what is served: the routes are the admin port's, and a folder must lie under
//! an `--adapter-root`, links resolved. Without one, nothing is loaded. All of an adapter is read and
//! checked before the engine hears of it.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use plimsoll_crds::v1alpha1::adapters::AdapterScale;

use super::update::{ADAPTERS, allowed, blocking, flag, text};
use super::{done, fields, loaded};
use crate::adapters::AdapterPath;
use crate::args::served_name;
use crate::engine::control::ControlError;
use crate::http::app::App;
use crate::http::error::ApiError;
use crate::http::generator::uncontrolled;
use crate::model::ModelError;

const NAME: &str = "lora_name";
const PATH: &str = "lora_path";

/// `{"lora_name", "lora_path", "load_inplace"}`; in place, the one of its name goes, and requests that it
/// answers go on with the new one.
pub(super) async fn load(State(app): State<Arc<App>>, body: Body) -> Result<String, ApiError> {
    let mut fields = fields(body).await?;
    let name = text(&mut fields, NAME)?.filter(|name| !name.is_empty());
    let folder = text(&mut fields, PATH)?.filter(|path| !path.is_empty());
    let in_place = flag(&mut fields, "load_inplace", false)?;
    if flag(&mut fields, "is_3d_lora_weight", false)? {
        let why = "there are no experts here";
        return Err(ApiError::unsupported("is_3d_lora_weight", why));
    }
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
    let path = blocking(move || allowed((ADAPTERS, &roots), &folder, PATH)).await??;
    let at = AdapterPath {
        name: name.clone(),
        path,
        scale: AdapterScale::ONE,
    };
    open_and_load(&app, at, in_place).await?;
    Ok(format!(
        "Success: LoRA adapter '{name}' added successfully."
    ))
}

/// Why an adapter was not loaded; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub(in crate::http) enum NotLoaded {
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
            NotLoaded::Unread(_) => {
                ApiError::invalid(Some(PATH), why.to_string()).with_code("adapter_refused")
            }
            NotLoaded::Refused(error) => uncontrolled(&error),
        }
    }
}

/// Reads and checks all of an adapter, then has the engine load it.
pub(in crate::http) async fn open_and_load(
    app: &App,
    at: AdapterPath,
    in_place: bool,
) -> Result<(), NotLoaded> {
    let loaded = loaded(app).map_err(NotLoaded::NoEngine)?;
    let engine = Arc::clone(&loaded.engine);
    let opened = blocking(move || engine.open_adapter(&at)).await;
    let opened = opened.map_err(NotLoaded::NoEngine)?;
    let adapter = Arc::new(opened.map_err(NotLoaded::Unread)?);
    Ok(loaded
        .engine
        .load_adapter(adapter, in_place)
        .answer()
        .await?)
}

/// `{"lora_name"}`: no more requests are taken, those there are are finished.
pub(super) async fn unload(State(app): State<Arc<App>>, body: Body) -> Result<String, ApiError> {
    let mut fields = fields(body).await?;
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

/// Where clients of the API port look for these routes.
pub(in crate::http) const PATHS: [&str; 2] = ["/v1/load_lora_adapter", "/v1/unload_lora_adapter"];
