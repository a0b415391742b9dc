//! What this program and this machine have for a GPU: the kernels that are embedded, the cards that
//! the driver finds. Always there, so that nobody else asks how the program was built.

use crate::card::Found;

/// The cards of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cards {
    /// The program was built without the CUDA driver.
    BuiltWithout,
    /// No driver, no card, or a card that does not open; in words.
    None(String),
    Found(Vec<Found>),
}

/// One op's embedded kernels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Embedded {
    pub op: &'static str,
    /// Bytes of its fatbin; None where the program was built without nvcc.
    pub bytes: Option<usize>,
}

/// Looks for cards. Loads the driver when it is there.
#[cfg(feature = "driver")]
pub fn find() -> Cards {
    match crate::gpu::driver::cards() {
        Ok(found) => Cards::Found(found),
        Err(error) => Cards::None(error.to_string()),
    }
}

/// Looks for cards: this program was built without the driver.
#[cfg(not(feature = "driver"))]
pub const fn find() -> Cards {
    Cards::BuiltWithout
}

/// The kernels that this program carries.
#[cfg(feature = "driver")]
pub fn embedded() -> Vec<Embedded> {
    use crate::gpu::image;
    image::all()
        .iter()
        .map(|image| Embedded {
            op: image.op,
            bytes: image::bytes(image.op, Some(image)).ok().map(<[u8]>::len),
        })
        .collect()
}

/// The kernels that this program carries: none.
#[cfg(not(feature = "driver"))]
pub const fn embedded() -> Vec<Embedded> {
    Vec::new()
}
