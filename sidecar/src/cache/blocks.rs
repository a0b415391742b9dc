//! The block pool: which blocks of the KV cache are held, kept for a prefix, or free.
//!
//! ```text
//! held    references > 0, in no list
//! cached  references = 0, named by a hash, in the free list: given up when its turn comes
//! free    references = 0, no name, in the free list
//! ```
//! The free list runs from the block to take next to the one released last. Block 0 is the null
//! block: padding in block tables points to it, it is never given out.
//!
//! A pool grows and shrinks at its end. What is held there moves to free blocks before it, and names
//! go with it; what is only cached there is given up.

use std::collections::HashMap;

use super::prefix::BlockHash;

/// A block's index; 0 is the null block.
pub type BlockId = u32;
pub const NULL_BLOCK: BlockId = 0;

#[derive(Clone, Copy, Debug, Default)]
struct Block {
    references: u32,
    name: Option<BlockHash>,
    /// Neighbours in the free list; the null block closes the ring.
    before: BlockId,
    after: BlockId,
}

/// A held block that gets another place: whoever holds it, and its contents, follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    pub from: BlockId,
    pub to: BlockId,
}

#[derive(Debug)]
pub struct BlockPool {
    /// `blocks[0]` is the null block and the free list's anchor.
    blocks: Vec<Block>,
    /// Named blocks, held or cached.
    names: HashMap<BlockHash, BlockId>,
    free: u32,
    cached: u32,
}

impl BlockPool {
    /// A pool of `blocks` blocks, the null block included.
    pub fn new(blocks: u32) -> BlockPool {
        let mut pool = BlockPool {
            blocks: vec![Block::default(); blocks.max(1) as usize],
            names: HashMap::with_capacity(blocks as usize),
            free: 0,
            cached: 0,
        };
        for id in 1..blocks.max(1) {
            pool.link_before(NULL_BLOCK, id);
        }
        pool
    }

    /// Blocks there are, without the null block.
    pub fn total(&self) -> u32 {
        u32::try_from(self.blocks.len() - 1).unwrap_or(u32::MAX)
    }

    /// Blocks that can be taken now, cached ones included.
    pub fn available(&self) -> u32 {
        self.free
    }

    /// Blocks held by at least one sequence.
    pub fn used(&self) -> u32 {
        self.total() - self.free
    }

    /// Blocks that nobody holds and a prefix may bring back.
    pub fn cached(&self) -> u32 {
        self.cached
    }

    /// Takes the block that was released longest ago; its name is forgotten.
    pub fn take(&mut self) -> Option<BlockId> {
        let id = self.blocks[NULL_BLOCK as usize].after;
        if id == NULL_BLOCK {
            return None;
        }
        self.unlink(id);
        let block = &mut self.blocks[id as usize];
        block.references = 1;
        if let Some(name) = block.name.take() {
            self.names.remove(&name);
            self.cached -= 1;
        }
        Some(id)
    }

    /// The block with this name, if any sequence computed it and it was not given up.
    pub fn find(&self, name: BlockHash) -> Option<BlockId> {
        self.names.get(&name).copied()
    }

    pub fn references(&self, id: BlockId) -> u32 {
        self.blocks[id as usize].references
    }

    /// Holds a block that [`BlockPool::find`] found.
    pub fn hold(&mut self, id: BlockId) {
        assert_ne!(id, NULL_BLOCK, "the null block cannot be held");
        if self.blocks[id as usize].references == 0 {
            self.unlink(id);
            self.cached -= u32::from(self.blocks[id as usize].name.is_some());
        }
        self.blocks[id as usize].references += 1;
    }

    /// Names a held block whose tokens are all computed. The first block of a name keeps it: a
    /// second one with the same contents stays unnamed.
    pub fn name(&mut self, id: BlockId, name: BlockHash) {
        debug_assert!(
            self.references(id) > 0,
            "block {id} is named while nobody holds it"
        );
        if self.blocks[id as usize].name.is_none() && !self.names.contains_key(&name) {
            self.names.insert(name, id);
            self.blocks[id as usize].name = Some(name);
        }
    }

    /// Lets go of a sequence's blocks, given in its order. The last ones become the first to be
    /// taken, so that prefixes live longest; blocks without a name go before all named ones.
    pub fn release(&mut self, blocks: &[BlockId]) {
        for id in blocks.iter().rev() {
            let block = &mut self.blocks[*id as usize];
            assert!(
                block.references > 0,
                "block {id} is released while nobody holds it"
            );
            block.references -= 1;
            if block.references > 0 {
                continue;
            }
            if block.name.is_some() {
                self.cached += 1;
                self.link_before(NULL_BLOCK, *id);
            } else {
                let first = self.blocks[NULL_BLOCK as usize].after;
                self.link_before(first, *id);
            }
        }
    }

    /// Forgets every name: nothing computed so far is found again.
    pub fn forget(&mut self) {
        self.names.clear();
        self.cached = 0;
        self.blocks.iter_mut().for_each(|block| block.name = None);
    }

    /// Makes room for `blocks` blocks, so that growing until there are so many moves nothing.
    pub fn reserve(&mut self, blocks: u32) {
        let more = blocks.saturating_sub(self.count()) as usize;
        self.blocks.reserve_exact(more);
        self.names.reserve(more);
    }

    /// Adds blocks at the end until there are `blocks`, the null block included. New ones are taken
    /// before any that a prefix may bring back.
    pub fn grow(&mut self, blocks: u32) {
        let before = self.count();
        assert!(blocks >= before, "{before} blocks grow to {blocks}");
        self.blocks.reserve_exact((blocks - before) as usize);
        self.blocks.resize(blocks as usize, Block::default());
        for id in (before..blocks).rev() {
            let first = self.blocks[NULL_BLOCK as usize].after;
            self.link_before(first, id);
        }
    }

    /// Gives up the blocks from `blocks` on. Held ones move to free blocks before them, with their
    /// names: unnamed ones first, then those cached longest. The moves ascend by where they come
    /// from; no block that one reads is one that another writes.
    ///
    /// # Panics
    /// When fewer blocks are left than are held.
    pub fn shrink(&mut self, blocks: u32) -> Vec<Move> {
        let before = self.count();
        assert!(
            (self.used() + 1..=before).contains(&blocks),
            "{before} blocks, {} of them held, shrink to {blocks}",
            self.used()
        );
        let mut moves = Vec::new();
        for id in blocks..before {
            if self.blocks[id as usize].references > 0 {
                moves.push(Move { from: id, to: id });
                continue;
            }
            self.unlink(id);
            if let Some(name) = self.blocks[id as usize].name.take() {
                self.names.remove(&name);
                self.cached -= 1;
            }
        }
        for Move { from, to } in &mut moves {
            let Some(place) = self.take() else {
                unreachable!("{blocks} blocks have room for all that are held");
            };
            *to = place;
            let Block {
                references, name, ..
            } = self.blocks[*from as usize];
            self.blocks[place as usize].references = references;
            self.blocks[place as usize].name = name;
            if let Some(name) = name {
                self.names.insert(name, place);
            }
        }
        self.blocks.truncate(blocks as usize);
        self.blocks.shrink_to_fit();
        self.names.shrink_to(blocks as usize);
        moves
    }

    /// Blocks there are, with the null block.
    fn count(&self) -> u32 {
        self.total() + 1
    }

    fn unlink(&mut self, id: BlockId) {
        let Block { before, after, .. } = self.blocks[id as usize];
        self.blocks[before as usize].after = after;
        self.blocks[after as usize].before = before;
        self.free -= 1;
    }

    /// Puts a block in front of `next`; in front of the null block is the end of the list.
    fn link_before(&mut self, next: BlockId, id: BlockId) {
        let before = self.blocks[next as usize].before;
        self.blocks[id as usize].before = before;
        self.blocks[id as usize].after = next;
        self.blocks[before as usize].after = id;
        self.blocks[next as usize].before = id;
        self.free += 1;
    }

    /// A fault for tests: the block's name still leads to where it was.
    #[cfg(test)]
    pub(crate) fn misname(&mut self, Move { from, to }: Move) -> bool {
        let name = self.blocks[to as usize].name;
        name.is_some_and(|name| self.names.insert(name, from).is_some())
    }

    /// Checks every invariant by recounting; `holders` counts the tables that hold each block.
    ///
    /// # Panics
    /// When one does not hold.
    #[cfg(test)]
    pub(crate) fn check(&self, holders: &HashMap<BlockId, u32>) {
        let mut listed = std::collections::HashSet::new();
        let mut id = self.blocks[NULL_BLOCK as usize].after;
        while id != NULL_BLOCK {
            assert!(listed.insert(id), "block {id} is twice in the free list");
            assert_eq!(
                self.blocks[self.blocks[id as usize].after as usize].before,
                id
            );
            id = self.blocks[id as usize].after;
        }
        assert_eq!(listed.len(), self.free as usize);
        let mut cached = 0;
        for (id, block) in (0..).zip(&self.blocks).skip(1) {
            assert_eq!(
                block.references,
                holders.get(&id).copied().unwrap_or(0),
                "block {id}"
            );
            assert_eq!(listed.contains(&id), block.references == 0, "block {id}");
            cached += u32::from(block.references == 0 && block.name.is_some());
            assert!(
                block
                    .name
                    .is_none_or(|name| self.names.get(&name) == Some(&id))
            );
        }
        assert_eq!(cached, self.cached);
        assert_eq!(
            self.names.len(),
            self.blocks.iter().filter(|b| b.name.is_some()).count()
        );
        assert!(
            !holders.contains_key(&NULL_BLOCK),
            "a table holds the null block"
        );
    }
}
