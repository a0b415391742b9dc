//! `/quota` of the admin port: other quotas, or another bound on the KV cache, for this engine alone;
//! and how every change of its size is carried out.
//!
//! ```text
//! POST /quota {"revision": 7, "ranks": [{"rank": 0, "limit": "3Gi"}], "kvCache": {"size": "512Mi"}}
//! ```
//! 200 it is in force, 202 it is on its way (`GET /quota` has the outcome), 400 it makes no sense, 409
//! its revision is older than one that was told, or something newer was asked for before it was carried
//! out, 422 it cannot hold, with the numbers. What is left out
//! stays. On CPUs the bound is the container's memory limit as it is at that moment: a growth by hand
//! while the resource lowers it may pass the limit that comes. While pushed weights come it is carried out,
//! too, between two pieces. It is in force until the operator asks for other memory than it did before, or
//! the container starts again.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use plimsoll_crds::v1alpha1::{TargetOutcome, quantity};
use plimsoll_planner::Bytes;
use serde_json::{Map, Value, json};

use super::app::App;
use super::control;
use super::control::sent::SentBody;
use super::error::ApiError;
use crate::engine::control::ControlError;
use crate::resizes::{ByHand, HandReport, NotBegun, OVERTAKEN, Resize, Resizes};

/// A change that is over so soon is answered with its outcome.
const PROMPT: Duration = Duration::from_millis(500);
/// An engine that takes no command yet is asked again so soon.
const AGAIN: Duration = Duration::from_secs(1);

type Answer = Result<(StatusCode, Json<Value>), ApiError>;

pub(super) fn routes() -> Router<Arc<App>> {
    Router::new().route("/quota", get(read).post(ask))
}

async fn read(State(app): State<Arc<App>>) -> Result<Json<Value>, ApiError> {
    Ok(Json(body(&resizes(&app)?.by_hand())))
}

async fn ask(State(app): State<Arc<App>>, body: SentBody) -> Answer {
    let resizes = resizes(&app)?;
    let mut fields = body.fields().await?;
    let ranks = resizes.by_hand().planned.request.ranks.len();
    let asked = by_hand(&mut fields, ranks)?;
    control::done(&fields)?;
    resizes.ask(&asked).map_err(|why| not_begun(&why))?;
    carry_out(&app).await;
    let report = resizes.by_hand();
    tracing::info!(revision = ?report.revision, outcome = ?report.outcome, why = report.message,
        "asked for other memory");
    let status = match report.outcome {
        TargetOutcome::Applied => StatusCode::OK,
        TargetOutcome::Deferred => StatusCode::ACCEPTED,
        TargetOutcome::Refused if report.message == OVERTAKEN => return Err(overtaken()),
        TargetOutcome::Refused => return Err(refused(report.message)),
    };
    Ok((status, Json(self::body(&report))))
}

fn not_begun(why: &NotBegun) -> ApiError {
    match why {
        NotBegun::Older { .. } => ApiError {
            status: StatusCode::CONFLICT,
            ..ApiError::invalid(Some("revision"), why.to_string()).with_code("older_revision")
        },
        NotBegun::Refused(message) => refused(message.clone()),
    }
}

/// The resource spoke, or somebody else, before it was carried out.
fn overtaken() -> ApiError {
    ApiError {
        status: StatusCode::CONFLICT,
        ..ApiError::invalid(None, OVERTAKEN).with_code("overtaken")
    }
}

/// It was understood, and cannot be.
fn refused(message: String) -> ApiError {
    ApiError {
        status: StatusCode::UNPROCESSABLE_ENTITY,
        ..ApiError::invalid(None, message).with_code("quota_refused")
    }
}

fn body(report: &HandReport) -> Value {
    let (request, plan) = (&report.planned.request, &report.planned.plan);
    let rank = |(rank, of): (&plimsoll_planner::RankPlan, &plimsoll_planner::RankCapacity)| {
        json!({
            "rank": rank.rank,
            "quotaBytes": of.quota.map(Bytes::get),
            "budgetBytes": rank.budget.get(),
            "plannedBytes": rank.total().get(),
        })
    };
    let ranks: Vec<Value> = plan.ranks.iter().zip(&request.ranks).map(rank).collect();
    json!({
        "revision": report.revision,
        "outcome": report.outcome,
        "message": report.message,
        "overageBytes": report.overage.get(),
        "kvCache": {
            "sizeBytes": request.kv.size.map(Bytes::get),
            "blocks": plan.kv_blocks,
            "tokens": plan.kv_tokens,
        },
        "ranks": ranks,
    })
}

/// What a body asks for, of an engine with so many ranks.
fn by_hand(fields: &mut Map<String, Value>, ranks: usize) -> Result<ByHand, ApiError> {
    let revision = match fields.remove("revision") {
        None | Some(Value::Null) => None,
        Some(value) => Some(value.as_u64().ok_or_else(|| {
            let message = "revision: must be a whole number from 0 on";
            ApiError::invalid(Some("revision"), message)
        })?),
    };
    let quotas = match fields.remove("ranks") {
        None | Some(Value::Null) => None,
        Some(rows) => Some(quotas(rows, ranks)?),
    };
    let kv_cache = match fields.remove("kvCache") {
        None | Some(Value::Null) => None,
        Some(Value::Object(mut cache)) => {
            let size = cache.remove("size").unwrap_or_default();
            control::done(&cache)?;
            Some(bytes("kvCache.size", &size)?)
        }
        Some(_) => {
            let message = "kvCache: must be an object with a size";
            return Err(ApiError::invalid(Some("kvCache"), message));
        }
    };
    if quotas.is_none() && kv_cache.is_none() && fields.is_empty() {
        let message =
            "nothing is asked for: give ranks, each with its limit, or kvCache with its size";
        return Err(ApiError::invalid(None, message));
    }
    Ok(ByHand {
        revision,
        quotas,
        kv_cache,
    })
}

/// One limit per rank, in order of rank.
fn quotas(rows: Value, ranks: usize) -> Result<Vec<Bytes>, ApiError> {
    let bad = |message: String| ApiError::invalid(Some("ranks"), format!("ranks: {message}"));
    let Value::Array(rows) = rows else {
        return Err(bad("must be a list of {rank, limit}".to_owned()));
    };
    let mut quotas: Vec<Option<Bytes>> = vec![None; ranks];
    for row in rows {
        let Value::Object(mut row) = row else {
            return Err(bad("must be a list of {rank, limit}".to_owned()));
        };
        let named = row.remove("rank").unwrap_or_default();
        let rank = named.as_u64().and_then(|rank| usize::try_from(rank).ok());
        let Some(rank) = rank.filter(|rank| *rank < ranks) else {
            let named: String = named.to_string().chars().take(40).collect();
            return Err(bad(format!(
                "rank {named} does not exist; this engine has ranks 0 to {}",
                ranks.saturating_sub(1)
            )));
        };
        let limit = row.remove("limit").unwrap_or_default();
        control::done(&row)?;
        let limit = bytes(&format!("ranks[rank={rank}].limit"), &limit)?;
        if quotas[rank].replace(limit).is_some() {
            return Err(bad(format!("rank {rank} is there twice; give it once")));
        }
    }
    let missing = quotas.iter().position(Option::is_none);
    if let Some(rank) = missing {
        return Err(bad(format!(
            "rank {rank} is missing; give a limit for each of the {ranks} ranks"
        )));
    }
    Ok(quotas.into_iter().flatten().collect())
}

/// A quantity as Kubernetes writes it, or a whole number of bytes.
fn bytes(field: &str, value: &Value) -> Result<Bytes, ApiError> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Null => String::new(),
        Value::Bool(_) | Value::Array(_) | Value::Object(_) => {
            let message = format!("{field}: must be a quantity such as 700Mi");
            return Err(ApiError::invalid(Some(field), message));
        }
    };
    quantity::bytes(&text)
        .map_err(|error| ApiError::invalid(Some(field), format!("{field}: {error}")))
}

/// Has the engine carry out the change that was begun last, if there is one, beside who asked; waits a
/// little for its end.
pub(super) async fn carry_out(app: &Arc<App>) {
    let Some(resizes) = app.resizes.get().cloned() else {
        return;
    };
    let Some(resize) = resizes.due() else { return };
    let app = Arc::clone(app);
    let carried = tokio::spawn(async move {
        let outcome = carried_out(&app, &resizes, &resize).await;
        tracing::info!(
            blocks = resize.size().plan.kv_blocks,
            ?outcome,
            "another size"
        );
        resizes.settle(&resize, outcome);
    });
    // It goes on if this takes longer.
    let _ = tokio::time::timeout(PROMPT, carried).await;
}

/// Ends once the engine answers, ends itself, or something newer is asked for.
async fn carried_out(app: &App, resizes: &Resizes, resize: &Resize) -> Result<(), String> {
    loop {
        let refused = match app.peek() {
            None => ControlError::Loading,
            // Queued while nothing newer can be begun: commands come in the order of changes.
            Some(loaded) => {
                let ask = || loaded.engine.resize(resize.size());
                match resizes.while_wanted(resize, ask) {
                    None => return Err(OVERTAKEN.to_owned()),
                    Some(reply) => match reply.answer().await {
                        Ok(_) => return Ok(()),
                        Err(error) => error,
                    },
                }
            }
        };
        match refused {
            ControlError::Loading | ControlError::QueueFull { .. } if resizes.wants(resize) => {
                tokio::time::sleep(AGAIN).await;
            }
            error => return Err(error.to_string()),
        }
    }
}

fn resizes(app: &App) -> Result<&Arc<Resizes>, ApiError> {
    let opening = || ApiError::unavailable("model_loading", "the model is being opened");
    app.resizes.get().ok_or_else(opening)
}
