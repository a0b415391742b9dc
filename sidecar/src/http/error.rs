//! Errors in the shape that OpenAI's clients read: `{"error":{message,type,param,code}}`.
//!
//! Owns the status, code and headers of every refusal of the API port. Messages name the field,
//! the numbers and the way out; they never repeat a prompt.

use std::fmt;
use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// A refusal or failure of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    pub status: StatusCode,
    /// `error.type`: whose mistake it is.
    pub kind: &'static str,
    pub message: String,
    /// The request field at fault.
    pub param: Option<String>,
    pub code: Option<&'static str>,
    /// Seconds for the `Retry-After` header.
    pub retry_after: Option<u32>,
}

/// Seconds a client is asked to wait while the model loads or the server drains.
const RETRY_AFTER_UNAVAILABLE_SECONDS: u32 = 5;
/// Seconds a client is asked to wait while others fill what there is for all.
const RETRY_AFTER_BUSY_SECONDS: u32 = 2;

impl ApiError {
    /// 400: the request as a whole, or the field `param`, cannot be used.
    pub fn invalid(param: Option<&str>, message: impl Into<String>) -> ApiError {
        ApiError {
            status: StatusCode::BAD_REQUEST,
            kind: "invalid_request_error",
            message: message.into(),
            param: param.map(str::to_owned),
            code: None,
            retry_after: None,
        }
    }

    pub fn with_code(mut self, code: &'static str) -> ApiError {
        self.code = Some(code);
        self
    }

    /// 400: a parameter of the API that this server does not implement.
    pub fn unsupported(param: &str, why: &str) -> ApiError {
        ApiError::invalid(Some(param), format!("{param}: {why}")).with_code("unsupported_parameter")
    }

    /// 400: the prompt does not fit the context, or leaves less than the `least` that its completion
    /// needs. (More tokens than are left may be asked for: they are cut off.)
    pub fn context_length(param: &str, limit: u32, prompt: usize, least: u32) -> ApiError {
        let over = (prompt as u64 + u64::from(least)).saturating_sub(u64::from(limit));
        let needed = match least {
            0 => String::new(),
            least => format!(" and the completion needs at least {least}"),
        };
        let message = format!(
            "this model's maximum context length is {limit} tokens, but {prompt} are in the \
             {param}{needed}; shorten the {param} by {over} or more"
        );
        ApiError::invalid(Some(param), message).with_code("context_length_exceeded")
    }

    /// 404: `model` is none of the served names.
    pub fn model_not_found(asked: &str, served: &[String]) -> ApiError {
        let message = format!(
            "the model {} does not exist; served: {}",
            shown(asked),
            served.join(", ")
        );
        ApiError {
            status: StatusCode::NOT_FOUND,
            ..ApiError::invalid(Some("model"), message).with_code("model_not_found")
        }
    }

    /// 404: the adapter that `model` names is asked for, and cannot be loaded.
    pub fn adapter_not_loaded(asked: &str, why: &str) -> ApiError {
        let message = format!(
            "the model {} does not exist: an adapter of that name is asked for, and could not be loaded, \
             which is tried again: {why}",
            shown(asked)
        );
        ApiError {
            status: StatusCode::NOT_FOUND,
            ..ApiError::invalid(Some("model"), message).with_code("model_not_found")
        }
    }

    /// 503: the adapter that `model` names was not there in time.
    pub fn adapter_loading(asked: &str, waited: Duration) -> ApiError {
        let message = format!(
            "the adapter {} is being loaded, and was not there after {} s; retry",
            shown(asked),
            waited.as_secs()
        );
        ApiError::unavailable("adapters_loading", message)
    }

    /// 404: the adapter that `model` names went between two looks at it.
    pub fn no_adapter(asked: &str) -> ApiError {
        let message = format!("the model {} does not exist, or not any more", shown(asked));
        ApiError {
            status: StatusCode::NOT_FOUND,
            ..ApiError::invalid(Some("model"), message).with_code("model_not_found")
        }
    }

    /// 503: the adapter that the request was half answered with was unloaded in a sleep.
    pub fn adapter_unloaded(name: &str) -> ApiError {
        let message = format!(
            "the adapter {} was unloaded while the engine slept, and with it went the requests that \
             waited for the wake",
            shown(name)
        );
        ApiError {
            retry_after: None,
            ..ApiError::unavailable("adapter_unloaded", message)
        }
    }

    /// 413: the body is larger than `limit` bytes.
    pub fn too_large(limit: usize) -> ApiError {
        let message = format!("the request body is larger than {limit} bytes");
        ApiError {
            status: StatusCode::PAYLOAD_TOO_LARGE,
            ..ApiError::invalid(None, message).with_code("request_too_large")
        }
    }

    /// 413: the body has so many values that they would take `bytes` of memory.
    pub fn too_many_values(bytes: usize, limit: usize) -> ApiError {
        let message = format!(
            "the values of the request body would take {bytes} bytes, at most {limit} are there \
             for all requests; send fewer at a time"
        );
        ApiError {
            status: StatusCode::PAYLOAD_TOO_LARGE,
            ..ApiError::invalid(None, message).with_code("request_too_large")
        }
    }

    /// 415: the body is not announced as JSON.
    pub fn not_json(announced: &str) -> ApiError {
        let message = format!(
            "the request's content type is {announced}, this endpoint takes application/json: \
             send the header `Content-Type: application/json`"
        );
        ApiError {
            status: StatusCode::UNSUPPORTED_MEDIA_TYPE,
            ..ApiError::invalid(None, message).with_code("unsupported_media_type")
        }
    }

    /// 503: there is no room for this request now, for the reason `why`.
    pub fn busy(why: &str) -> ApiError {
        ApiError {
            retry_after: Some(RETRY_AFTER_BUSY_SECONDS),
            ..ApiError::unavailable("busy", format!("{why}; retry"))
        }
    }

    /// 408: the body did not arrive in time.
    pub fn body_timeout(seconds: u64) -> ApiError {
        let message = format!("the request body did not arrive within {seconds} s");
        ApiError {
            status: StatusCode::REQUEST_TIMEOUT,
            ..ApiError::invalid(None, message).with_code("request_timeout")
        }
    }

    /// 401: the admin port without its token.
    pub fn unauthorized() -> ApiError {
        let message = "this port needs the header `Authorization: Bearer TOKEN`";
        ApiError {
            status: StatusCode::UNAUTHORIZED,
            ..ApiError::invalid(None, message).with_code("invalid_api_key")
        }
    }

    /// 429: the engine's queue is full.
    pub fn queue_full(waiting: usize, retry_after: u32) -> ApiError {
        ApiError {
            status: StatusCode::TOO_MANY_REQUESTS,
            kind: "rate_limit_error",
            message: format!(
                "the queue is full ({waiting} requests wait); retry after {retry_after} s"
            ),
            param: None,
            code: Some("queue_full"),
            retry_after: Some(retry_after),
        }
    }

    /// 503: loading, draining or failed; `code` says which.
    pub fn unavailable(code: &'static str, message: impl Into<String>) -> ApiError {
        ApiError {
            status: StatusCode::SERVICE_UNAVAILABLE,
            kind: "server_error",
            message: message.into(),
            param: None,
            code: Some(code),
            retry_after: Some(RETRY_AFTER_UNAVAILABLE_SECONDS),
        }
    }

    /// 500: the engine failed this request.
    pub fn engine(message: impl Into<String>) -> ApiError {
        ApiError {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            kind: "server_error",
            message: message.into(),
            param: None,
            code: Some("engine_error"),
            retry_after: None,
        }
    }

    /// A refusal that may come before the body has: the connection cannot be used further.
    fn leaves_body(&self) -> bool {
        let early = [
            StatusCode::PAYLOAD_TOO_LARGE,
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            StatusCode::REQUEST_TIMEOUT,
        ];
        early.contains(&self.status) || self.code == Some("busy")
    }

    /// The JSON body, also sent as the last event of a stream that fails midway.
    pub fn body(&self) -> Value {
        json!({"error": {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        }})
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.status.as_u16(), self.message)
    }
}

impl std::error::Error for ApiError {}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        if let Some(seconds) = self.retry_after {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.leaves_body() {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer");
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

/// A value of the request as an error shows it: quoted, one line, at most 64 characters.
pub fn shown(value: &str) -> String {
    const LONGEST: usize = 64;
    let mut text: String = value.chars().take(LONGEST).collect();
    if value.chars().nth(LONGEST).is_some() {
        text.push('…');
    }
    format!("{text:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_that_is_too_long_is_told_by_how_much() {
        for (prompt, least, expected) in [
            (
                512,
                1,
                "512 are in the prompt and the completion needs at least 1; shorten the prompt by 1",
            ),
            (600, 1, "shorten the prompt by 89"),
            (600, 0, "600 are in the prompt; shorten the prompt by 88"),
        ] {
            let error = ApiError::context_length("prompt", 512, prompt, least);
            assert!(error.message.contains(expected), "{}", error.message);
            let start = "this model's maximum context length is 512 tokens, ";
            assert!(error.message.starts_with(start), "{}", error.message);
            assert!(!error.message.contains("max_tokens"), "{}", error.message);
            assert_eq!(error.code, Some("context_length_exceeded"));
        }
    }
}
