//! The kernels that this program carries: one fatbin per op, and what is known of those that are
//! missing.

use super::GpuError;

/// Code in every fatbin: real architectures, then the virtual one that newer cards compile. As in
/// `build/nvcc.rs`, and compared with it by a test.
pub const TARGETS: [&str; 5] = ["80", "86", "89", "90a", "100"];
pub const VIRTUAL_TARGET: u32 = 80;

/// One op's kernels.
#[derive(Debug)]
pub struct Image {
    pub op: &'static str,
    /// Hash of the sources of this program.
    pub sources: &'static str,
    pub state: State,
}

#[derive(Debug)]
pub enum State {
    Embedded(&'static [u8]),
    /// Made from sources with this hash.
    Stale(&'static str),
    /// Built where nvcc was not found.
    Absent,
}

static IMAGES: &[Image] = include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// The CUDA release whose nvcc made them, e.g. 13.0; the newest, where there are several.
const RELEASE: Option<(u32, u32)> = include!(concat!(env!("OUT_DIR"), "/release.rs"));

/// All of them, by name.
pub fn all() -> &'static [Image] {
    IMAGES
}

/// The fatbin of an op, for a card of this capability.
///
/// # Errors
/// When there is none, when it is stale, or when it has no code for the card.
pub fn find(op: &'static str, capability: u32) -> Result<&'static [u8], GpuError> {
    let image = IMAGES.iter().find(|image| image.op == op);
    let bytes = bytes(op, image)?;
    check_card(op, capability)?;
    Ok(bytes)
}

/// What an op's image has to load.
///
/// # Errors
/// When it is absent or stale.
pub fn bytes<'a>(op: &'static str, image: Option<&'a Image>) -> Result<&'a [u8], GpuError> {
    match image {
        None => Err(GpuError::NoKernels { op }),
        Some(image) => match image.state {
            State::Embedded(bytes) => Ok(bytes),
            State::Absent => Err(GpuError::NoKernels { op }),
            State::Stale(found) => Err(GpuError::Stale {
                op,
                found: found.to_owned(),
                expected: image.sources.to_owned(),
            }),
        },
    }
}

/// Whether a card of `capability` (90 for 9.0) finds code: its own, an older one of the same major
/// number, or the virtual one, which its driver compiles.
///
/// # Errors
/// Otherwise, with the targets.
pub fn check_card(op: &'static str, capability: u32) -> Result<(), GpuError> {
    if capability >= VIRTUAL_TARGET {
        return Ok(());
    }
    Err(GpuError::NoCode {
        op,
        capability,
        targets: TARGETS.map(|target| format!("sm_{target}")).join(", "),
    })
}

/// Whether a driver for CUDA `version` (13000 for 13.0, as cuDriverGetVersion answers) loads what this
/// program carries. A driver runs code of every release of its own major number and of older ones.
///
/// # Errors
/// Otherwise, with both versions.
pub fn check_driver(version: i32) -> Result<(), GpuError> {
    check_release(version, RELEASE)
}

fn check_release(version: i32, release: Option<(u32, u32)>) -> Result<(), GpuError> {
    let version = u32::try_from(version).unwrap_or(0);
    match release {
        Some((major, minor)) if version / 1000 < major => Err(GpuError::OldDriver {
            driver: format!("{}.{}", version / 1000, version % 1000 / 10),
            release: format!("{major}.{minor}"),
            needs: major,
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_older_than_the_kernels_is_named() {
        let said =
            |version, release| check_release(version, release).map_err(|error| error.to_string());
        assert_eq!(
            said(12_080, Some((13, 0))),
            Err("the driver is for CUDA 12.8, the embedded kernels were made by CUDA 13.0; install a \
                 driver for CUDA 13 or newer"
                .to_owned())
        );
        for (version, release) in [
            (13_000, Some((13, 0))),
            (13_000, Some((13, 1))),
            (14_020, Some((13, 0))),
            (12_000, None),
        ] {
            assert_eq!(said(version, release), Ok(()), "{version}");
        }
        assert!(said(-1, Some((13, 0))).is_err());
    }
}
