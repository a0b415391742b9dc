//! The admin port's bearer token: what the mounted file says now. Its Secret is rewritten when the
//! operator's key is replaced, and a pod that went on asking for the old token would never be heard
//! again.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::{HeaderMap, header};
use sha2::{Digest, Sha256};

/// Fewer characters than this are no token.
const LEAST_CHARACTERS: usize = 16;
/// More than any token has; a file that grew by mistake is not read to its end.
const MOST_BYTES: u64 = 4096;

/// A token, as its hash: comparing hashes takes the same time wherever they differ, and the token
/// itself is not kept.
type Hash = [u8; 32];

/// The token that requests must bring.
#[derive(Clone, Debug)]
pub struct Token {
    file: Option<Arc<Path>>,
    held: Arc<Mutex<Hash>>,
}

impl Token {
    /// A token that stays what it is.
    pub fn fixed(token: &str) -> Token {
        Token {
            file: None,
            held: Arc::new(Mutex::new(hash(token))),
        }
    }

    /// The token that a file holds, at any time.
    ///
    /// # Errors
    /// The file cannot be read, or holds too little to be a token.
    pub fn file(path: &Path) -> Result<Token, String> {
        let token = read(path)?;
        Ok(Token {
            file: Some(Arc::from(path)),
            held: Arc::new(Mutex::new(hash(&token))),
        })
    }

    /// Whether a request with these headers may pass. Reads the file: 64 bytes in memory.
    pub(super) async fn admits(&self, headers: &HeaderMap) -> bool {
        if let Some(path) = &self.file {
            self.read_again(path.to_path_buf()).await;
        }
        let given = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map_or("", |(_, token)| token.trim());
        let held = *self.held.lock().unwrap_or_else(PoisonError::into_inner);
        hash(given)
            .iter()
            .zip(held)
            .fold(0, |differs, (a, b)| differs | (a ^ b))
            == 0
    }

    /// Takes over what the file holds now. A file that cannot be read leaves the token as it was:
    /// nobody gets in by its absence, and who was let in still is.
    async fn read_again(&self, path: PathBuf) {
        let answer = tokio::task::spawn_blocking(move || read(&path)).await;
        let token = match answer {
            Ok(Ok(token)) => token,
            Ok(Err(error)) => {
                tracing::warn!(error, "the admin token stays as it was");
                return;
            }
            Err(_) => return,
        };
        let new = hash(&token);
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if *held != new {
            *held = new;
            tracing::info!("the admin token was replaced");
        }
    }
}

fn hash(token: &str) -> Hash {
    Sha256::digest(token.as_bytes()).into()
}

fn read(path: &Path) -> Result<String, String> {
    let failed = |why: String| format!("--admin-token-file: {}: {why}", path.display());
    let size = fs::metadata(path).map_err(|error| failed(error.to_string()))?;
    // A pipe would be waited for.
    if !size.is_file() {
        return Err(failed("it is not a regular file".to_owned()));
    }
    if size.len() > MOST_BYTES {
        return Err(failed(format!(
            "{} bytes are no token; write at most {MOST_BYTES}",
            size.len()
        )));
    }
    let text = fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    let token = text.trim();
    if token.len() < LEAST_CHARACTERS {
        return Err(failed(format!(
            "it holds {} characters, at least {LEAST_CHARACTERS} are needed",
            token.len()
        )));
    }
    Ok(token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn admits(token: &Token, given: &str) -> bool {
        let mut headers = HeaderMap::new();
        let value = format!("Bearer {given}").parse().unwrap();
        headers.insert(header::AUTHORIZATION, value);
        token.admits(&headers).await
    }

    /// A file of a test, which goes with it.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(test: &str) -> Scratch {
            let name = format!("plimsoll-token-{}-{test}", std::process::id());
            Scratch(std::env::temp_dir().join(name))
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.0);
        }
    }

    const FIRST: &str = "0123456789abcdef";
    const SECOND: &str = "fedcba9876543210";

    #[tokio::test]
    async fn a_token_that_is_replaced_in_its_file_is_asked_for_from_then_on() {
        let scratch = Scratch::new("replaced");
        let path = &scratch.0;
        fs::write(path, FIRST).unwrap();
        let token = Token::file(path).unwrap();
        assert!(admits(&token, FIRST).await);
        fs::write(path, format!("{SECOND}\n")).unwrap();
        assert!(!admits(&token, FIRST).await, "the old one opens no longer");
        assert!(admits(&token, SECOND).await);
        // What cannot be a token, or is not there for a moment, changes nothing.
        for broken in ["short", &"x".repeat(5000)] {
            fs::write(path, broken).unwrap();
            assert!(admits(&token, SECOND).await);
            assert!(!admits(&token, broken).await);
        }
        fs::remove_file(path).unwrap();
        assert!(admits(&token, SECOND).await);
        assert!(!admits(&token, "").await);
    }

    #[test]
    fn a_file_that_holds_no_token_is_refused_at_the_start() {
        let scratch = Scratch::new("refused");
        let path = &scratch.0;
        assert!(Token::file(path).unwrap_err().contains("token"));
        fs::write(path, "  short  ").unwrap();
        let refused = Token::file(path).unwrap_err();
        assert!(refused.contains("holds 5 characters"), "{refused}");
    }
}
