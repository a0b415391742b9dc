//! A sequence's block table: where its tokens lie, and the names of its full blocks.

use super::blocks::{BlockId, BlockPool, Move};
use super::prefix::BlockHash;

/// Blocks in the order of a sequence's tokens. Token `i` lies in block `i / block_size`.
#[derive(Debug)]
pub struct BlockTable {
    blocks: Vec<BlockId>,
    /// Names of the full blocks known so far; `names[i]` covers tokens up to `(i + 1) * size`.
    names: Vec<BlockHash>,
    /// Blocks whose names the pool has been told.
    named: usize,
    /// The parent of the first block: before the adapter's and the weights' names are in it, before the
    /// latter's, and as it is.
    salt: BlockHash,
    salted: BlockHash,
    root: BlockHash,
    block_size: usize,
}

impl BlockTable {
    pub fn new(block_size: usize, salt: &str) -> BlockTable {
        let salt = BlockHash::root(salt);
        BlockTable {
            blocks: Vec::new(),
            names: Vec::new(),
            named: 0,
            salt,
            salted: salt,
            root: salt,
            block_size,
        }
    }

    /// Blocks that are named once [`BlockTable::use_weights`] is told are those of this adapter's load.
    pub fn use_adapter(&mut self, adapter: &str) {
        self.salted = self.salt.with_adapter(adapter);
    }

    /// Blocks that are named from now on are those of these weights.
    pub fn use_weights(&mut self, weights: &str) {
        self.root = self.salted.with_weights(weights);
        self.names.clear();
    }

    pub fn blocks(&self) -> &[BlockId] {
        &self.blocks
    }

    /// Tokens that the blocks can hold.
    pub fn capacity(&self) -> usize {
        self.blocks.len() * self.block_size
    }

    /// Blocks missing before `tokens` tokens have room.
    pub fn missing(&self, tokens: usize) -> usize {
        tokens
            .div_ceil(self.block_size)
            .saturating_sub(self.blocks.len())
    }

    /// The slot of a token: block x block size + offset.
    pub fn slot(&self, token: usize) -> u64 {
        let block = u64::from(self.blocks[token / self.block_size]);
        block * self.block_size as u64 + (token % self.block_size) as u64
    }

    /// Takes blocks until `tokens` tokens have room. Takes none when the pool has too few.
    pub fn grow(&mut self, pool: &mut BlockPool, tokens: usize) -> bool {
        let missing = self.missing(tokens);
        if missing > pool.available() as usize {
            return false;
        }
        for _ in 0..missing {
            self.blocks.extend(pool.take());
        }
        true
    }

    fn hash_full_blocks(&mut self, tokens: &[u32]) {
        let full = tokens.len() / self.block_size;
        while self.names.len() < full {
            let start = self.names.len() * self.block_size;
            let parent = self.names.last().copied().unwrap_or(self.root);
            self.names
                .push(parent.next(&tokens[start..start + self.block_size]));
        }
    }

    /// The blocks that hold a prefix of `tokens` already, at most all but the last token: its
    /// logits must be computed anyway. The table must be empty.
    pub fn find_prefix(&mut self, pool: &BlockPool, tokens: &[u32]) -> Vec<BlockId> {
        self.hash_full_blocks(tokens);
        let usable = tokens.len().saturating_sub(1) / self.block_size;
        self.names[..usable]
            .iter()
            .map_while(|name| pool.find(*name))
            .collect()
    }

    /// Starts the table with blocks that [`BlockTable::find_prefix`] found.
    pub fn adopt(&mut self, pool: &mut BlockPool, prefix: &[BlockId]) {
        debug_assert!(
            self.blocks.is_empty(),
            "only an empty table adopts a prefix"
        );
        prefix.iter().for_each(|block| pool.hold(*block));
        self.blocks.extend_from_slice(prefix);
        self.named = prefix.len();
    }

    /// Tells the pool the names of the blocks that `computed` tokens fill. `tokens` are the
    /// sequence's, at least `computed` of them.
    pub fn name_computed(&mut self, pool: &mut BlockPool, tokens: &[u32], computed: usize) {
        let full = computed / self.block_size;
        if full <= self.named {
            return;
        }
        self.hash_full_blocks(&tokens[..computed.max(self.names.len() * self.block_size)]);
        for index in self.named..full {
            pool.name(self.blocks[index], self.names[index]);
        }
        self.named = full;
    }

    /// Its blocks are where these moves, which ascend by where they come from, put them.
    pub fn follow(&mut self, moves: &[Move]) {
        for block in &mut self.blocks {
            if let Ok(at) = moves.binary_search_by_key(block, |one| one.from) {
                *block = moves[at].to;
            }
        }
    }

    /// Lets go of all blocks.
    pub fn clear(&mut self, pool: &mut BlockPool) {
        pool.release(&self.blocks);
        self.blocks.clear();
        self.named = 0;
    }
}
