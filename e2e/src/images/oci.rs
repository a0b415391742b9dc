//! Writes one OCI image archive: one uncompressed layer, the same bytes for the same content.

use std::fs::{self, File};
use std::io::{BufWriter, Read as _, Seek as _, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

/// Who writes an image holds it: tests that run beside each other ask for the same one.
static WRITING: Mutex<()> = Mutex::new(());

/// An image to be written.
#[derive(Debug)]
pub(crate) struct Image {
    /// Full name and tag, such as `localhost/pause:1`.
    pub(crate) name: String,
    pub(crate) entrypoint: Vec<String>,
    /// `uid:gid`
    pub(crate) user: String,
    pub(crate) entries: Vec<Entry>,
}

/// One file or folder of an image.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Without a leading slash.
    path: String,
    mode: u32,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Folder,
    File(PathBuf),
    Text(String),
}

impl Entry {
    pub(crate) fn program(path: &str, source: PathBuf) -> Self {
        Self {
            path: path.to_owned(),
            mode: 0o755,
            content: Content::File(source),
        }
    }

    pub(crate) fn data(path: &str, source: PathBuf) -> Self {
        Self {
            path: path.to_owned(),
            mode: 0o644,
            content: Content::File(source),
        }
    }

    pub(crate) fn text(path: &str, text: &str) -> Self {
        Self {
            path: path.to_owned(),
            mode: 0o644,
            content: Content::Text(text.to_owned()),
        }
    }

    pub(crate) fn folder(path: &str, mode: u32) -> Self {
        Self {
            path: path.to_owned(),
            mode,
            content: Content::Folder,
        }
    }
}

impl Image {
    /// Writes `<name>.tar` into `folder`, unless the one there is newer than everything in it;
    /// returns its path.
    pub(crate) fn write(&self, folder: &Path) -> Result<PathBuf> {
        let file: String = self
            .name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
            .collect();
        let target = folder.join(format!("{file}.tar"));
        let _writing = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_fresh(&target) {
            return Ok(target);
        }
        let layer = folder.join(format!(".{file}-{}.layer", std::process::id()));
        let result = self.write_layer(&layer).and_then(|digest| {
            let unfinished = layer.with_extension("tar");
            self.write_archive(&layer, &digest, &unfinished)?;
            fs::rename(&unfinished, &target)?;
            Ok(())
        });
        let _ = fs::remove_file(&layer);
        result.with_context(|| format!("cannot write the image {}", self.name))?;
        Ok(target)
    }

    fn is_fresh(&self, target: &Path) -> bool {
        let changed = |path: &Path| fs::metadata(path).and_then(|facts| facts.modified()).ok();
        let Some(written) = changed(target) else {
            return false;
        };
        let own = std::env::current_exe().ok();
        let sources = self
            .entries
            .iter()
            .filter_map(|entry| match &entry.content {
                Content::File(source) => Some(source.as_path()),
                _ => None,
            });
        // What is in an image is decided by this program, so it counts as a source too.
        sources
            .chain(own.as_deref())
            .all(|path| changed(path).is_some_and(|at| at < written))
    }

    /// Writes the layer; returns its digest, `sha256:` included.
    fn write_layer(&self, path: &Path) -> Result<String> {
        let mut builder = Builder::new(BufWriter::new(File::create(path)?));
        for entry in &self.entries {
            let mut header = Header::new_gnu();
            header.set_mode(entry.mode);
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            match &entry.content {
                Content::Folder => {
                    header.set_entry_type(EntryType::Directory);
                    header.set_size(0);
                    builder.append_data(&mut header, &entry.path, std::io::empty())?;
                }
                Content::File(source) => {
                    let file = File::open(source)
                        .with_context(|| format!("cannot read {}", source.display()))?;
                    header.set_size(file.metadata()?.len());
                    builder.append_data(&mut header, &entry.path, file)?;
                }
                Content::Text(text) => {
                    header.set_size(text.len() as u64);
                    builder.append_data(&mut header, &entry.path, text.as_bytes())?;
                }
            }
        }
        builder.into_inner()?.flush()?;
        digest_of(path)
    }

    fn write_archive(&self, layer: &Path, digest: &str, target: &Path) -> Result<()> {
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {
                "Entrypoint": self.entrypoint,
                "Env": ["PATH=/"],
                "User": self.user,
                "WorkingDir": "/",
            },
            "rootfs": {"type": "layers", "diff_ids": [digest]},
        })
        .to_string();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": blob("application/vnd.oci.image.config.v1+json", &config),
            "layers": [{
                "mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": digest,
                "size": fs::metadata(layer)?.len(),
            }],
        })
        .to_string();
        let mut entry = blob("application/vnd.oci.image.manifest.v1+json", &manifest);
        entry["annotations"] = json!({"io.containerd.image.name": self.name});
        let index = json!({"schemaVersion": 2, "manifests": [entry]}).to_string();
        let mut builder = Builder::new(BufWriter::new(File::create(target)?));
        add(
            &mut builder,
            "oci-layout",
            br#"{"imageLayoutVersion":"1.0.0"}"#,
        )?;
        add(&mut builder, "index.json", index.as_bytes())?;
        for text in [&config, &manifest] {
            add(
                &mut builder,
                &blob_path(&digest_of_text(text)),
                text.as_bytes(),
            )?;
        }
        let mut file = File::open(layer)?;
        let mut header = plain_header(file.metadata()?.len());
        file.seek(SeekFrom::Start(0))?;
        builder.append_data(&mut header, blob_path(digest), file)?;
        builder.into_inner()?.flush()?;
        Ok(())
    }
}

/// `sha256:…` of a file.
pub(crate) fn digest_of(path: &Path) -> Result<String> {
    let mut file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        hash.update(&buffer[..count]);
    }
    Ok(format!("sha256:{}", hex(&hash.finalize())))
}

fn digest_of_text(text: &str) -> String {
    format!("sha256:{}", hex(&Sha256::digest(text.as_bytes())))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn blob(kind: &str, text: &str) -> Value {
    json!({"mediaType": kind, "digest": digest_of_text(text), "size": text.len()})
}

fn blob_path(digest: &str) -> String {
    digest.replace("sha256:", "blobs/sha256/")
}

fn add(builder: &mut Builder<BufWriter<File>>, path: &str, bytes: &[u8]) -> Result<()> {
    let mut header = plain_header(bytes.len() as u64);
    builder
        .append_data(&mut header, path, bytes)
        .map_err(Into::into)
}

fn plain_header(size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(size);
    header
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test")]

    use std::thread;

    use super::*;

    #[test]
    fn an_image_that_many_ask_for_at_once_is_written_for_all_of_them() {
        let folder = std::env::temp_dir().join(format!("plimsoll-images-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let one = || {
            let image = Image {
                name: "localhost/many:1".to_owned(),
                entrypoint: Vec::new(),
                user: "1:1".to_owned(),
                entries: vec![Entry::text("salt", &"salt".repeat(1 << 18))],
            };
            image.write(&folder).map(|path| digest_of(&path).unwrap())
        };
        let written: Vec<_> = thread::scope(|scope| {
            let askers: Vec<_> = (0..8).map(|_| scope.spawn(one)).collect();
            askers
                .into_iter()
                .map(|asker| asker.join().unwrap())
                .collect()
        });
        let left = fs::read_dir(&folder).unwrap().count();
        fs::remove_dir_all(&folder).unwrap();
        let first = written[0].as_ref().unwrap();
        assert!(written.iter().all(|other| other.as_ref().unwrap() == first));
        assert_eq!(left, 1, "nothing but the image is left");
    }
}
