//! The name of a full block: a hash over its tokens, everything before them, and a salt.

use sha2::{Digest, Sha256};

/// Two blocks with this name hold the same keys and values. 128 bits of SHA-256: a collision
/// would show one user another one's text, so it must not be constructible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlockHash([u8; 16]);

impl BlockHash {
    /// The parent of a sequence's first block. Sequences share blocks only with an equal salt.
    pub fn root(salt: &str) -> BlockHash {
        Self::cut(Sha256::new_with_prefix(b"root").chain_update(salt.as_bytes()))
    }

    /// This root for sequences with an adapter, by a name that no other load has.
    pub fn with_adapter(self, adapter: &str) -> BlockHash {
        let hash = Sha256::new_with_prefix(self.0).chain_update(b"adapter");
        Self::cut(hash.chain_update(adapter.as_bytes()))
    }

    /// This root for blocks that were computed with these weights: others are not shared.
    pub fn with_weights(self, weights: &str) -> BlockHash {
        Self::cut(Sha256::new_with_prefix(self.0).chain_update(weights.as_bytes()))
    }

    /// The block of `tokens` after this one.
    pub fn next(self, tokens: &[u32]) -> BlockHash {
        let mut hash = Sha256::new_with_prefix(self.0);
        for token in tokens {
            hash.update(token.to_le_bytes());
        }
        Self::cut(hash)
    }

    fn cut(hash: Sha256) -> BlockHash {
        let digest = hash.finalize();
        let mut name = [0; 16];
        name.copy_from_slice(&digest[..16]);
        BlockHash(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_depends_on_salt_parent_and_every_token() {
        let root = BlockHash::root("");
        let name = root.next(&[1, 2]).next(&[3, 4]);
        assert_eq!(name, BlockHash::root("").next(&[1, 2]).next(&[3, 4]));
        assert_ne!(name, BlockHash::root("a").next(&[1, 2]).next(&[3, 4]));
        assert_ne!(name, root.with_weights("a").next(&[1, 2]).next(&[3, 4]));
        assert_ne!(root.with_weights("a"), root.with_weights("b"));
        let adapted = root.with_adapter("1 a");
        assert_ne!(root, adapted);
        assert_ne!(root.with_weights("1 a"), adapted);
        assert_ne!(root.with_adapter("2 a"), adapted);
        assert_ne!(name, root.next(&[3, 4]));
        assert_ne!(name, root.next(&[2, 1]).next(&[3, 4]));
        assert_ne!(name, root.next(&[1, 2]).next(&[4, 3]));
    }
}
