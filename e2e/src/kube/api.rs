//! The API server as JSON, through the socket of a `kubectl proxy`: one cheap question instead of a
//! whole kubectl for each look at an object.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::Value;

use crate::http::{Request, Target};
use crate::kube::Kubectl;
use crate::process;
use crate::wait;

/// A way to ask one API server.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    target: Target,
}

impl Api {
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self {
            target: Target::Unix(socket),
        }
    }

    /// One object or list; an error names the HTTP status.
    pub(crate) fn get(&self, path: &str) -> Result<Value> {
        match self.find(path)? {
            Some(object) => Ok(object),
            None => bail!("GET {path}: not found"),
        }
    }

    /// As `get`, with none for what is not there.
    pub(crate) fn find(&self, path: &str) -> Result<Option<Value>> {
        let answer = Request::new("GET", path).send(&self.target)?;
        match answer.status {
            200 => answer.json().map(Some),
            404 => Ok(None),
            status => bail!("GET {path}: {status} {}", answer.body.trim()),
        }
    }

    /// The items of a list.
    pub(crate) fn list(&self, path: &str) -> Result<Vec<Value>> {
        Ok(self.get(path)?["items"]
            .as_array()
            .cloned()
            .unwrap_or_default())
    }

    /// Any text that the API server serves, such as a pod's log.
    pub(crate) fn text(&self, path: &str) -> Result<String> {
        let answer = Request::new("GET", path).send(&self.target)?;
        if answer.status != 200 {
            bail!("GET {path}: {} {}", answer.status, answer.body.trim());
        }
        Ok(answer.body)
    }

    /// Deletes an object; what is not there is deleted already.
    pub(crate) fn delete(&self, path: &str) -> Result<()> {
        let answer = Request::new("DELETE", path).send(&self.target)?;
        match answer.status {
            200 | 202 | 404 => Ok(()),
            status => bail!("DELETE {path}: {status} {}", answer.body.trim()),
        }
    }

    /// A merge patch.
    pub(crate) fn merge(&self, path: &str, patch: &Value) -> Result<Value> {
        let answer = Request::new("PATCH", path)
            .body("application/merge-patch+json", patch.to_string())
            .send(&self.target)?;
        if answer.status != 200 {
            bail!("PATCH {path}: {} {}", answer.status, answer.body.trim());
        }
        answer.json()
    }
}

/// A `kubectl proxy` of our own in front of any cluster; it ends with this value.
#[derive(Debug)]
pub(crate) struct Proxy {
    child: Child,
    folder: PathBuf,
}

impl Proxy {
    pub(crate) fn start(kubectl: &Kubectl) -> Result<(Self, Api)> {
        let folder = std::env::temp_dir().join(format!("plimsoll-e2e-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        // The socket speaks with the kubeconfig's rights: nobody else may open it.
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700))?;
        let socket = folder.join("api.sock");
        let mut command = kubectl.command(&["proxy"]);
        command.arg(format!("--unix-socket={}", socket.display()));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
        let mut proxy = Self { child, folder };
        let api = Api::new(socket);
        wait::until(
            "the API server answers",
            Duration::from_secs(20),
            Duration::from_millis(100),
            || {
                // What it had to say stands on our own standard error.
                if let Some(status) = proxy.child.try_wait()? {
                    bail!("kubectl proxy ended at once: {status}");
                }
                Ok(api
                    .get("/version")
                    .map(drop)
                    .map_err(|error| error.to_string()))
            },
        )?;
        Ok((proxy, api))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        process::end(&mut self.child);
        let _ = fs::remove_dir_all(&self.folder);
    }
}
