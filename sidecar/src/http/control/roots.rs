//! Folders that whoever controls the engine names: each must lie under a root that the server was started
//! with, links resolved, and so must its files.
//!
//! Where something lies elsewhere, the answer does not tell whether it is there.

use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use axum::http::StatusCode;
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use crate::http::error::{ApiError, shown};
use crate::model::ModelError;
use crate::weights::file::is_there;
use crate::weights::gguf::split::PartName;

/// A flag with folders, what lies in them, and the codes of what may not be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Root {
    flag: &'static str,
    what: &'static str,
    none: &'static str,
    outside: &'static str,
}

pub(super) const WEIGHTS: Root = Root {
    flag: "--weights-root",
    what: "weights",
    none: "no_weights_root",
    outside: "outside_weights_root",
};

pub(super) const ADAPTERS: Root = Root {
    flag: "--adapter-root",
    what: "adapters",
    none: "no_adapter_root",
    outside: "outside_adapter_root",
};

/// The folder (or file) without links, if it and its files lie under a root.
///
/// # Errors
/// 400 for what is no path of something there, 403 for what may not be read, 503 where no more files can
/// be opened.
pub(super) fn allowed(
    root: Root,
    roots: &[PathBuf],
    asked: &str,
    param: &str,
) -> Result<PathBuf, ApiError> {
    if roots.is_empty() {
        let Root { flag, what, .. } = root;
        let why = format!(
            "this server reads no {what} but its own: start it with {flag} and the folder under which \
             others will lie"
        );
        return Err(forbidden(param, &why, root.none));
    }
    if !Path::new(asked).is_absolute() {
        let why = format!("{param}: must be an absolute path");
        return Err(ApiError::invalid(Some(param), why).with_code("path_not_absolute"));
    }
    let search = Search { root, roots, param };
    let asked = Path::new(asked);
    let folder = search.resolve(asked)?;
    if let Some(name) = PartName::of(asked).filter(|_| !folder.is_dir()) {
        for part in name.paths().filter(|part| is_there(part)) {
            search.resolve(&part)?;
        }
        // Its name, which a link's end may not have, tells the others.
        let (parent, file) = (asked.parent(), asked.file_name());
        let parent = search.resolve(parent.unwrap_or(Path::new("/")))?;
        return Ok(parent.join(file.unwrap_or_default()));
    }
    if folder.is_dir() {
        let entries = folder.read_dir();
        let entries = entries.map_err(|error| search.unreadable(&folder, &error))?;
        for entry in entries {
            let path = entry.map_err(|error| search.unreadable(&folder, &error))?;
            let path = path.path();
            let ending = path.extension().and_then(OsStr::to_str);
            if matches!(ending, Some("json" | "safetensors" | "gguf")) {
                search.resolve(&path)?;
            }
        }
    }
    Ok(folder)
}

fn forbidden(param: &str, why: &str, code: &'static str) -> ApiError {
    ApiError {
        status: StatusCode::FORBIDDEN,
        ..ApiError::invalid(Some(param), format!("{param}: {why}")).with_code(code)
    }
}

struct Search<'a> {
    root: Root,
    roots: &'a [PathBuf],
    param: &'a str,
}

impl Search<'_> {
    fn resolve(&self, path: &Path) -> Result<PathBuf, ApiError> {
        match path.canonicalize() {
            Ok(real) if self.holds(&real)? => Ok(real),
            Ok(_) => Err(self.outside(path)),
            Err(error) => {
                let mut above = path.ancestors().skip(1);
                let near = above.find_map(|folder| folder.canonicalize().ok());
                match near {
                    Some(near) if !self.holds(&near)? => Err(self.outside(path)),
                    Some(_) | None => Err(self.unreadable(path, &error)),
                }
            }
        }
    }

    fn holds(&self, real: &Path) -> Result<bool, ApiError> {
        for root in self.roots {
            match root.canonicalize() {
                Ok(root) if real.starts_with(&root) => return Ok(true),
                Ok(_) => {}
                Err(error) => out_of_files(&error, self.param).map_or(Ok(()), Err)?,
            }
        }
        Ok(false)
    }

    fn outside(&self, path: &Path) -> ApiError {
        let why = format!(
            "{} lies under no {}, links resolved",
            shown_path(path),
            self.root.flag
        );
        forbidden(self.param, &why, self.root.outside)
    }

    fn unreadable(&self, path: &Path, error: &io::Error) -> ApiError {
        out_of_files(error, self.param).unwrap_or_else(|| {
            let param = self.param;
            let why = format!("{param}: {}: {error}", shown_path(path));
            ApiError::invalid(Some(param), why).with_code("path_unreadable")
        })
    }
}

fn shown_path(path: &Path) -> String {
    shown(&path.display().to_string())
}

/// 503 with the limit, where an error is that no more files can be opened: the path may be good.
fn out_of_files(error: &io::Error, param: &str) -> Option<ApiError> {
    let is = |errno: Errno| error.raw_os_error() == Some(errno.raw_os_error());
    let limit = match (is(Errno::MFILE), is(Errno::NFILE)) {
        (true, _) => match getrlimit(Resource::Nofile).current {
            Some(most) => {
                format!("the {most} that this process may have (RLIMIT_NOFILE, `ulimit -n`)")
            }
            None => "as many as this process may have".to_owned(),
        },
        (_, true) => "as many as this machine has (fs.file-max)".to_owned(),
        (false, false) => return None,
    };
    let message = format!(
        "{param}: nothing was changed: no more files can be opened, {limit} are open; retry when \
         connections have ended, or allow more files, or fewer connections (--max-connections)"
    );
    Some(ApiError {
        param: Some(param.to_owned()),
        ..ApiError::unavailable("too_many_open_files", message)
    })
}

/// The same, of files of a model or an adapter.
pub(super) fn unopened(error: &ModelError, param: &str) -> Option<ApiError> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(refused) = error
            .downcast_ref()
            .and_then(|error| out_of_files(error, param))
        {
            return Some(refused);
        }
        cause = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(asked: &str) -> (u16, &'static str, String) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/adapters");
        let error = allowed(ADAPTERS, &[root], asked, "lora_path").unwrap_err();
        (error.status.as_u16(), error.code.unwrap(), error.message)
    }

    #[test]
    fn what_is_malformed_is_a_400_and_what_lies_elsewhere_a_403_whether_it_is_there_or_not() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/adapters");
        let under = |name: &str| format!("{root}/{name}");
        for (asked, status, code, says) in [
            (
                "plain".to_owned(),
                400,
                "path_not_absolute",
                "must be an absolute path",
            ),
            (under("nowhere"), 400, "path_unreadable", "No such file"),
            (
                under("nowhere/deep"),
                400,
                "path_unreadable",
                "No such file",
            ),
            (under("plain\0"), 400, "path_unreadable", "NUL"),
            (
                under("plain/adapter_config.json/x"),
                400,
                "path_unreadable",
                "Not a directory",
            ),
            (under(&"x".repeat(300)), 400, "path_unreadable", "too long"),
            (
                "/etc".to_owned(),
                403,
                "outside_adapter_root",
                "lies under no --adapter-root",
            ),
            (
                "/etc/nowhere".to_owned(),
                403,
                "outside_adapter_root",
                "lies under no --adapter-root",
            ),
            (
                "/nowhere".to_owned(),
                403,
                "outside_adapter_root",
                "lies under no --adapter-root",
            ),
            (
                under("../models"),
                403,
                "outside_adapter_root",
                "lies under no --adapter-root",
            ),
        ] {
            let (got, found, message) = told(&asked);
            assert_eq!((got, found), (status, code), "{asked:?}: {message}");
            assert!(message.contains(says), "no {says} in {message}");
            assert!(message.starts_with("lora_path: "), "{message}");
        }
    }

    #[test]
    fn each_root_has_codes_of_its_own() {
        for (root, none, outside) in [
            (WEIGHTS, "no_weights_root", "outside_weights_root"),
            (ADAPTERS, "no_adapter_root", "outside_adapter_root"),
        ] {
            let code = |roots: &[PathBuf]| allowed(root, roots, "/etc", "p").unwrap_err();
            assert_eq!(
                (code(&[]).status.as_u16(), code(&[]).code),
                (403, Some(none))
            );
            let elsewhere = [PathBuf::from("/proc")];
            assert_eq!(code(&elsewhere).code, Some(outside));
        }
    }

    #[test]
    fn who_has_no_files_left_is_told_the_limit_wherever_it_shows() {
        let error = || io::Error::from(Errno::MFILE);
        let refused = out_of_files(&error(), "lora_path").unwrap();
        let of_file = ModelError::io(Path::new("/x"), error());
        let root = [PathBuf::from("/")];
        let search = Search {
            root: ADAPTERS,
            roots: &root,
            param: "lora_path",
        };
        for refused in [
            refused,
            unopened(&of_file, "lora_path").unwrap(),
            unopened(&of_file.of_adapter("x"), "lora_path").unwrap(),
            search.unreadable(Path::new("/x"), &error()),
        ] {
            assert_eq!(
                (refused.status.as_u16(), refused.code),
                (503, Some("too_many_open_files"))
            );
            let limit = getrlimit(Resource::Nofile).current.unwrap().to_string();
            assert!(refused.message.contains(&limit), "{}", refused.message);
        }
        assert!(out_of_files(&io::Error::from(Errno::ACCESS), "x").is_none());
    }
}
