//! Where the operator's key comes from: a Secret in its own namespace, made when it is not there
//! (a chart cannot: it would make another with each rendering), or a file, for a run by hand.
#![expect(
    clippy::disallowed_methods,
    reason = "the one Secret that the operator reads, and the only one it makes for itself"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use plimsoll_crds::names;
use sha2::{Digest, Sha256};
use tokio::time::{sleep, timeout};

use crate::args::Args;
use crate::token::{AdminKey, hex};

/// Field of the Secret.
const FIELD: &str = "key";
/// Random bytes of a key that is made here.
const RANDOM_BYTES: usize = 32;
/// How often is looked whether the key is another, and how long an answer may take.
const LOOK_EVERY: Duration = Duration::from_secs(15);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause before a key that cannot be had is asked for again.
const PAUSE: Duration = Duration::from_secs(5);

/// Where the key is.
#[derive(Clone)]
pub(crate) enum KeySource {
    File(PathBuf),
    Secret {
        secrets: Box<Api<Secret>>,
        name: String,
        /// Whether one is made where there is none.
        make: bool,
    },
}

/// Enough of a key to tell it from another, and nothing to compute a token from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint(String);

impl KeySource {
    pub(crate) fn of(args: &Args, client: &Client) -> KeySource {
        match &args.hmac_key_file {
            Some(path) => KeySource::File(path.clone()),
            None => KeySource::Secret {
                secrets: Box::new(Api::namespaced(client.clone(), &args.own_namespace(client))),
                name: args.key_secret.clone(),
                make: args.make_key,
            },
        }
    }

    /// The key, which is made if it is not there and may be. Waits for the API server for as long
    /// as it takes.
    ///
    /// # Errors
    /// What there is, is no key.
    pub(crate) async fn read(&self) -> anyhow::Result<(AdminKey, Fingerprint)> {
        loop {
            match self.found().await {
                Ok(Some(key)) => {
                    let fingerprint = fingerprint(&key);
                    let key = AdminKey::new(key)
                        .map_err(|error| anyhow::anyhow!("{}: {error}", self.words()))?;
                    return Ok((key, fingerprint));
                }
                Ok(None) => match self.make().await {
                    Ok(()) => continue,
                    Err(error) => tracing::warn!(error, "the key cannot be made"),
                },
                Err(error) => tracing::warn!(error, "the key cannot be read"),
            }
            sleep(PAUSE).await;
        }
    }

    /// Resolves when the key is another one than that with this fingerprint.
    pub(crate) async fn replaced(&self, known: &Fingerprint) {
        loop {
            sleep(LOOK_EVERY).await;
            match self.found().await {
                Ok(Some(key)) if fingerprint(&key) != *known => return,
                // Who deletes it wants another, if another is made.
                Ok(None) if self.makes() => return,
                Ok(_) => {}
                Err(error) => tracing::warn!(error, "the key cannot be read: it stays as it was"),
            }
        }
    }

    fn makes(&self) -> bool {
        matches!(self, KeySource::Secret { make: true, .. })
    }

    /// The key as it is now; none where its Secret does not exist.
    async fn found(&self) -> Result<Option<Vec<u8>>, String> {
        let failed = |error: String| format!("{}: {error}", self.words());
        let (secrets, name) = match self {
            KeySource::File(path) => {
                return fs::read(path).map(Some).map_err(|e| failed(e.to_string()));
            }
            KeySource::Secret { secrets, name, .. } => (secrets, name),
        };
        let found = match timeout(ANSWER_TIMEOUT, secrets.get_opt(name)).await {
            Ok(found) => found.map_err(|error| failed(error.to_string()))?,
            Err(_) => return Err(failed("the API server did not answer".to_owned())),
        };
        let Some(secret) = found else { return Ok(None) };
        match secret.data.unwrap_or_default().remove(FIELD) {
            Some(ByteString(key)) => Ok(Some(key)),
            None => Err(failed(format!("it has no field {FIELD:?}"))),
        }
    }

    async fn make(&self) -> Result<(), String> {
        let KeySource::Secret {
            secrets,
            name,
            make: true,
        } = self
        else {
            return Err(format!(
                "{} does not exist, and is not to be made (--make-key=false): make it with the \
                 field {FIELD:?}",
                self.words()
            ));
        };
        let key = random_hex().map_err(|error| format!("{}: {error}", self.words()))?;
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                labels: Some(BTreeMap::from([(
                    names::LABEL_MANAGED_BY.to_owned(),
                    names::MANAGER.to_owned(),
                )])),
                ..ObjectMeta::default()
            },
            type_: Some("Opaque".to_owned()),
            data: Some(BTreeMap::from([(
                FIELD.to_owned(),
                ByteString(key.into_bytes()),
            )])),
            ..Secret::default()
        };
        let params = PostParams::default();
        match timeout(ANSWER_TIMEOUT, secrets.create(&params, &secret)).await {
            Ok(Ok(_)) => {
                tracing::info!(secret = name, "a key was made");
                Ok(())
            }
            // Another was faster, or the answer was lost: what is there counts.
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => Ok(()),
            Ok(Err(error)) => Err(format!("{}: {error}", self.words())),
            Err(_) => Err(format!("{}: the API server did not answer", self.words())),
        }
    }

    fn words(&self) -> String {
        match self {
            KeySource::File(path) => format!("--hmac-key-file {}", path.display()),
            KeySource::Secret { name, .. } => format!("--key-secret {name}"),
        }
    }
}

/// A name that no other process has.
///
/// # Errors
/// The system has no random bytes.
pub(crate) fn random_name() -> anyhow::Result<String> {
    let random = random_hex().map_err(anyhow::Error::msg)?;
    Ok(format!("{}-{}", names::MANAGER, &random[..16]))
}

fn random_hex() -> Result<String, String> {
    let mut random = [0; RANDOM_BYTES];
    getrandom::fill(&mut random).map_err(|error| error.to_string())?;
    Ok(hex(&random))
}

fn fingerprint(key: &[u8]) -> Fingerprint {
    Fingerprint(hex(&Sha256::digest(key)[..8]))
}

#[cfg(test)]
mod tests;
