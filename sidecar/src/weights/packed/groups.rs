//! Which columns of a packed matrix share a scale, and the order in which they lie together.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

/// The group of each column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Groups {
    /// So many columns each, the last one what is left.
    Even(usize),
    /// As the file lists them (`desc_act`), as many columns each as of `Even(size)`.
    Given {
        size: usize,
        /// The columns, group by group; matrices with the same have it once.
        order: Arc<[u32]>,
    },
}

impl Groups {
    /// Each column's, of a list whose groups have the columns that they should.
    pub(super) fn given(groups: &[u32], size: usize) -> Groups {
        let columns = 0..u32::try_from(groups.len()).unwrap_or(u32::MAX);
        let mut order: Vec<u32> = columns.collect();
        order.sort_by_key(|col| groups[*col as usize]);
        Groups::Given {
            size,
            order: order.into(),
        }
    }

    /// The list is one that another matrix has, where there is one like it.
    pub(super) fn share(&mut self, known: &mut HashSet<Arc<[u32]>>) {
        let Groups::Given { order, .. } = self else {
            return;
        };
        match known.get(&**order) {
            Some(known) => *order = Arc::clone(known),
            None => drop(known.insert(Arc::clone(order))),
        }
    }

    /// The columns group by group, where that is not how they lie.
    pub(super) fn order(&self) -> Option<&[u32]> {
        match self {
            Groups::Even(_) => None,
            Groups::Given { order, .. } => Some(order),
        }
    }

    /// Columns of a group.
    pub(super) fn size(&self) -> usize {
        match self {
            Groups::Even(size) | Groups::Given { size, .. } => *size,
        }
    }

    /// Each column's.
    pub(super) fn of(&self, cols: &Range<usize>) -> Vec<usize> {
        match self {
            Groups::Even(size) => cols.clone().map(|col| col / size).collect(),
            Groups::Given { size, order } => {
                let mut all = vec![0; order.len()];
                for (at, col) in order.iter().enumerate() {
                    all[*col as usize] = at / size;
                }
                all[cols.clone()].to_vec()
            }
        }
    }
}
