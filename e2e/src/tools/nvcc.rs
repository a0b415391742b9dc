//! The CUDA compiler, which needs neither a card nor a driver.

use std::path::PathBuf;

use anyhow::Result;

use crate::paths;
use crate::process;
use crate::progress::Progress;

/// nvcc, installed by `kernels/setup-nvcc` when it is absent.
pub(crate) fn ensure(progress: &Progress) -> Result<PathBuf> {
    let script = paths::repository().join("kernels/setup-nvcc");
    progress.step("the CUDA compiler (kernels/setup-nvcc)", || {
        let path = process::stdout_of(&mut process::command(&script, [""; 0]))?;
        Ok(PathBuf::from(path.trim()))
    })
}
