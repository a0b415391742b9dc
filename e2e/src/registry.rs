//! A small registry of our own for tests of pulling: the reading half of the OCI distribution API
//! over plain HTTP, on the host's side of the test bridge. Nodes know it as [`NAME`]. What it
//! serves comes from archives that `images` writes; how, a test says: slowly, or to who may.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;
use tar::Archive;

use crate::cluster::{REGISTRY, REGISTRY_NAME};

/// A request's head is a few hundred bytes.
const LARGEST_HEAD: u64 = 64 * 1024;
/// A slow blob comes in this many pieces.
const PIECES: u32 = 64;

/// How a repository is served.
#[derive(Debug, Clone)]
pub(crate) enum Manner {
    Plain,
    /// Each blob takes this long.
    Slow(Duration),
    /// To who sends this `Authorization` header.
    Secured(String),
}

/// The running registry; it ends with this value.
#[derive(Debug)]
pub(crate) struct Registry {
    shelf: Arc<Shelf>,
    address: SocketAddr,
}

#[derive(Debug, Default)]
struct Shelf {
    repositories: Mutex<BTreeMap<String, Repository>>,
    over: AtomicBool,
    refused: AtomicU32,
}

#[derive(Debug, Clone)]
struct Repository {
    manner: Manner,
    /// Digest of its one manifest, whatever the tag.
    manifest: String,
    blobs: BTreeMap<String, Arc<Vec<u8>>>,
}

/// What is asked for.
struct Asked {
    head_only: bool,
    path: String,
    authorization: Option<String>,
}

impl Registry {
    /// Starts with nothing on its shelf.
    pub(crate) fn start() -> Result<Self> {
        Self::start_at(REGISTRY)
    }

    fn start_at(address: &str) -> Result<Self> {
        let listener = TcpListener::bind(address).with_context(|| address.to_owned())?;
        let address = listener.local_addr()?;
        let shelf = Arc::new(Shelf::default());
        let served = Arc::clone(&shelf);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if served.over.load(Ordering::Relaxed) {
                    return;
                }
                let shelf = Arc::clone(&served);
                // A puller that hangs up is its own affair.
                thread::spawn(move || shelf.serve(stream).ok());
            }
        });
        Ok(Self { shelf, address })
    }

    /// Puts an image's archive on the shelf; returns the reference that pods pull it by.
    pub(crate) fn offer(&self, repository: &str, archive: &Path, manner: Manner) -> Result<String> {
        let read = Repository::read(archive, manner)
            .with_context(|| format!("cannot serve {}", archive.display()))?;
        let mut all = self.shelf.lock();
        all.insert(repository.to_owned(), read);
        Ok(reference(repository))
    }

    /// How often somebody was refused for lack of an authorization.
    pub(crate) fn refused(&self) -> u32 {
        self.shelf.refused.load(Ordering::Relaxed)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.shelf.over.store(true, Ordering::Relaxed);
        // It waits for a connection, and sees by this one that it is over.
        drop(TcpStream::connect(self.address));
    }
}

/// How pods call an image, whether it is there or not.
pub(crate) fn reference(repository: &str) -> String {
    format!("{REGISTRY_NAME}/{repository}:1")
}

impl Repository {
    fn read(archive: &Path, manner: Manner) -> Result<Self> {
        let mut blobs = BTreeMap::new();
        let mut index = Vec::new();
        for entry in Archive::new(File::open(archive)?).entries()? {
            let mut entry = entry?;
            let path = entry.path()?.to_string_lossy().into_owned();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            if let Some(digest) = path.strip_prefix("blobs/sha256/") {
                blobs.insert(format!("sha256:{digest}"), Arc::new(bytes));
            } else if path == "index.json" {
                index = bytes;
            }
        }
        let index: Value = serde_json::from_slice(&index)?;
        let manifest = index["manifests"][0]["digest"].as_str();
        Ok(Self {
            manner,
            manifest: manifest.context("no manifest")?.to_owned(),
            blobs,
        })
    }
}

impl Shelf {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Repository>> {
        self.repositories
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, mut stream: TcpStream) -> Result<()> {
        let asked = read_request(&stream)?;
        let mut parts = asked.path.trim_start_matches("/v2/").splitn(3, '/');
        let name = parts.next().unwrap_or_default().to_owned();
        let (what, which) = (
            parts.next().unwrap_or_default(),
            parts.next().unwrap_or_default(),
        );
        let Some(repository) = self.lock().get(&name).cloned() else {
            let code = if name.is_empty() {
                "200 OK"
            } else {
                "404 Not Found"
            };
            return empty(&mut stream, code, "");
        };
        if let Manner::Secured(wanted) = &repository.manner
            && asked.authorization.as_ref() != Some(wanted)
        {
            self.refused.fetch_add(1, Ordering::Relaxed);
            let challenge = "www-authenticate: Basic realm=\"test\"\r\n";
            return empty(&mut stream, "401 Unauthorized", challenge);
        }
        let is_manifest = what == "manifests";
        let digest = match is_manifest && !which.starts_with("sha256:") {
            true => repository.manifest.as_str(),
            false => which,
        };
        let Some(blob) = repository.blobs.get(digest) else {
            return empty(&mut stream, "404 Not Found", "");
        };
        let kind = match is_manifest {
            true => "application/vnd.oci.image.manifest.v1+json",
            false => "application/octet-stream",
        };
        let head = format!(
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: {kind}\r\n\
             content-length: {}\r\ndocker-content-digest: {digest}\r\n\r\n",
            blob.len()
        );
        stream.write_all(head.as_bytes())?;
        match &repository.manner {
            _ if asked.head_only => Ok(()),
            Manner::Slow(duration) if !is_manifest => dribble(&mut stream, blob, *duration),
            Manner::Plain | Manner::Slow(_) | Manner::Secured(_) => {
                stream.write_all(blob).map_err(Into::into)
            }
        }
    }
}

fn read_request(stream: &TcpStream) -> Result<Asked> {
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut lines = BufReader::new(stream.take(LARGEST_HEAD)).lines();
    let first = lines.next().context("no request")??;
    let mut words = first.split(' ');
    let head_only = words.next() == Some("HEAD");
    let path = words.next().unwrap_or_default();
    let path = path.split('?').next().unwrap_or_default().to_owned();
    let mut authorization = None;
    for line in lines {
        let line = line?;
        match line.split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("authorization") => {
                authorization = Some(value.to_owned());
            }
            _ if line.is_empty() => break,
            _ => {}
        }
    }
    Ok(Asked {
        head_only,
        path,
        authorization,
    })
}

fn empty(stream: &mut TcpStream, code: &str, header: &str) -> Result<()> {
    let head = format!("HTTP/1.1 {code}\r\nconnection: close\r\n{header}content-length: 0\r\n\r\n");
    stream.write_all(head.as_bytes()).map_err(Into::into)
}

/// Evenly over a time: what a test is about, not a wait.
fn dribble(stream: &mut TcpStream, bytes: &[u8], duration: Duration) -> Result<()> {
    let piece = bytes.len().div_ceil(PIECES as usize).max(1);
    for piece in bytes.chunks(piece) {
        stream.write_all(piece)?;
        stream.flush()?;
        thread::sleep(duration / PIECES);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::http::{Request, Target};
    use crate::images::oci::{Entry, Image};

    #[test]
    fn an_image_is_served_slowly_or_to_who_may_and_what_is_not_there_is_not_found() {
        let folder = std::env::temp_dir().join(format!("plimsoll-registry-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let image = Image {
            name: reference("a"),
            entrypoint: Vec::new(),
            user: "1:1".to_owned(),
            entries: vec![Entry::text("salt", "salt")],
        };
        let archive = image.write(&folder).unwrap();
        let registry = Registry::start_at("127.0.0.1:0").unwrap();
        let target = Target::Tcp(registry.address);
        let get = |path: &str| Request::new("GET", path).send(&target).unwrap();
        assert_eq!(get("/v2/").status, 200);
        assert_eq!(get("/v2/a/manifests/1").status, 404);
        let slow = Manner::Slow(Duration::from_millis(200));
        registry.offer("a", &archive, slow).unwrap();
        let manifest = get("/v2/a/manifests/1").json().unwrap();
        let layer = manifest["layers"][0]["digest"].as_str().unwrap();
        let began = Instant::now();
        let blob = get(&format!("/v2/a/blobs/{layer}"));
        assert!(
            began.elapsed() >= Duration::from_millis(150),
            "it came at once"
        );
        assert!(blob.body.contains("salt"));
        assert_eq!(get("/v2/a/blobs/sha256:0").status, 404);
        let secured = Manner::Secured("Basic x".to_owned());
        registry.offer("b", &archive, secured).unwrap();
        assert_eq!(
            (get("/v2/b/manifests/1").status, registry.refused()),
            (401, 1)
        );
        let allowed = Request::new("GET", "/v2/b/manifests/1").header("authorization", "Basic x");
        assert_eq!(allowed.send(&target).unwrap().status, 200);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
