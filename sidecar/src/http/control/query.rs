//! Parameters of a control route's address: each is taken by name, and what nobody took is refused.

use axum::extract::{FromRequestParts, Request};
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::Response;

use crate::engine::rest::{PauseMode, Tags};
use crate::http::error::{ApiError, shown};

/// What stands behind the `?`, decoded.
#[derive(Clone, Debug, Default)]
pub(in crate::http) struct Query(Vec<(String, String)>);

impl<S: Sync> FromRequestParts<S> for Query {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Query, ApiError> {
        Ok(Query::parse(parts.uri.query().unwrap_or_default()))
    }
}

impl Query {
    pub(super) fn parse(text: &str) -> Query {
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name), decoded(value))
        };
        Query(
            text.split('&')
                .filter(|p| !p.is_empty())
                .map(pair)
                .collect(),
        )
    }

    /// Every value of a parameter.
    pub(super) fn all(&mut self, name: &str) -> Vec<String> {
        let taken = self.0.extract_if(.., |(of, _)| of == name);
        taken.map(|(_, value)| value).collect()
    }

    /// Its value, if it is there.
    ///
    /// # Errors
    /// 400 where it is there twice.
    pub(super) fn only(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        let mut values = self.all(name);
        let value = values.pop();
        match values.is_empty() {
            true => Ok(value),
            false => Err(bad(name, "is there twice".to_owned())),
        }
    }

    /// Its value, or `default`, as one of the `known`.
    ///
    /// # Errors
    /// 400 with `param` as vLLM spells it.
    pub(super) fn one_of<T: Copy>(
        &mut self,
        name: &str,
        default: T,
        known: &[(&str, T)],
    ) -> Result<T, ApiError> {
        let Some(value) = self.only(name)? else {
            return Ok(default);
        };
        let found = known.iter().find(|(word, _)| *word == value);
        found.map(|(_, value)| *value).ok_or_else(|| {
            let words: Vec<&str> = known.iter().map(|(word, _)| *word).collect();
            bad(
                name,
                format!("{} is none of {}", shown(&value), words.join(", ")),
            )
        })
    }

    /// # Errors
    /// As [`Query::one_of`].
    pub(super) fn flag(&mut self, name: &str, default: bool) -> Result<bool, ApiError> {
        let known = [
            ("true", true),
            ("false", false),
            ("True", true),
            ("False", false),
            ("1", true),
            ("0", false),
        ];
        self.one_of(name, default, &known)
    }

    /// # Errors
    /// As [`Query::one_of`].
    pub(super) fn mode(&mut self) -> Result<PauseMode, ApiError> {
        let known = [PauseMode::Abort, PauseMode::Wait, PauseMode::Keep];
        let known = known.map(|mode| (mode.name(), mode));
        self.one_of("mode", PauseMode::Abort, &known)
    }

    /// # Errors
    /// 400 that names what nobody took.
    pub(super) fn done(&self) -> Result<(), ApiError> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(bad(name, "this route does not know it".to_owned())),
        }
    }
}

/// In front of routes that take no parameter.
///
/// # Errors
/// As [`Query::done`].
pub(in crate::http) async fn none(
    query: Query,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    query.done()?;
    Ok(next.run(request).await)
}

/// Tags by their names; none at all is all of them.
///
/// # Errors
/// 400 with `param`.
pub(super) fn tags(names: &[String], param: &str) -> Result<Tags, ApiError> {
    if names.is_empty() {
        return Ok(Tags::ALL);
    }
    let mut tags = Tags {
        weights: false,
        kv_cache: false,
    };
    for name in names {
        match name.as_str() {
            "weights" => tags.weights = true,
            "kv_cache" => tags.kv_cache = true,
            other => {
                let message = format!("{param}: {} is none of weights, kv_cache", shown(other));
                return Err(ApiError::invalid(Some(param), message));
            }
        }
    }
    Ok(tags)
}

fn bad(name: &str, why: String) -> ApiError {
    let param = format!("query.{name}");
    ApiError::invalid(Some(&param), format!("{param}: {why}"))
}

/// `%20` and `+` as the characters that they stand for.
fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes
            .get(at + 1..at + 3)
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
        match (bytes[at], hex) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
                continue;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_taken_by_name_and_what_is_left_is_named() {
        let mut query = Query::parse("tags=weights&tags=kv%5Fcache&a+b=c%zz&x");
        assert_eq!(query.all("tags"), ["weights", "kv_cache"]);
        assert_eq!(query.all("a b"), ["c%zz"]);
        let error = query.done().unwrap_err();
        assert_eq!(error.param.as_deref(), Some("query.x"));
        assert_eq!(query.all("x"), [""]);
        assert!(query.done().is_ok());
        let mut query = Query::parse("x=1&y=2&x=1");
        let error = query.only("x").unwrap_err();
        assert_eq!(error.message, "query.x: is there twice");
        assert_eq!(query.only("y").unwrap().as_deref(), Some("2"));
        assert_eq!(query.only("y").unwrap(), None);
    }
}
