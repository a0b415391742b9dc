//! Admin tokens: an HMAC of the resource's uid under the operator's own key. The operator can
//! compute every token, so it need not read a Secret but that of its key.

use std::fmt;
use std::fmt::Write as _;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Fewer bytes than this are no key.
const LEAST_KEY_BYTES: usize = 16;

/// The operator's key.
#[derive(Clone)]
pub(crate) struct AdminKey(Vec<u8>);

impl fmt::Debug for AdminKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminKey(..)")
    }
}

impl AdminKey {
    /// # Errors
    /// Too little to be a key.
    pub(crate) fn new(key: Vec<u8>) -> Result<AdminKey, String> {
        match key.len() {
            0..LEAST_KEY_BYTES => Err(format!(
                "{} bytes are no key; write at least {LEAST_KEY_BYTES}",
                key.len()
            )),
            _ => Ok(AdminKey(key)),
        }
    }

    /// The token of the resource with this uid: 64 hexadecimal digits.
    pub(crate) fn token(&self, uid: &str) -> String {
        let mac = Hmac::<Sha256>::new_from_slice(&self.0);
        let mut mac = mac.expect("HMAC takes keys of any length");
        mac.update(uid.as_bytes());
        hex(&mac.finalize().into_bytes())
    }
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a String cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_hmac_sha256() {
        // RFC 4231, test case 2, with the key repeated to the least length in the second line.
        let key = AdminKey(b"Jefe".to_vec());
        assert_eq!(
            key.token("what do ya want for nothing?"),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        let key = AdminKey::new(b"0123456789abcdef".to_vec()).unwrap();
        assert_ne!(key.token("a"), key.token("b"));
        assert_eq!(key.token("a"), key.token("a"));
    }

    #[test]
    fn short_keys_are_refused_and_keys_are_never_printed() {
        assert!(
            AdminKey::new(b"short".to_vec())
                .unwrap_err()
                .contains("5 bytes")
        );
        let key = AdminKey::new(b"0123456789abcdef".to_vec()).unwrap();
        assert!(!format!("{key:?}").contains("0123"));
    }
}
