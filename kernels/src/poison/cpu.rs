//! One memset.

pub(super) fn run(bytes: &mut [u8]) {
    bytes.fill(super::BYTE);
}
