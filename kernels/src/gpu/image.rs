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
