//! How much of an adapter is left in weights of a narrow type.

/// Of the tensors that adapters change.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    pub tensors: usize,
    pub numbers: u64,
    /// Those that are not what they were.
    pub changed: u64,
    /// Squares of what was added, as it is stored.
    applied: f64,
    /// Squares of what should have been.
    intended: f64,
}

impl Figures {
    pub(super) fn of(tensors: usize) -> Figures {
        Figures {
            tensors,
            ..Figures::default()
        }
    }

    /// Counts numbers: as they were, as the adapters make them, and as they are stored.
    pub(super) fn count(&mut self, before: &[f32], merged: &[f32], stored: &[f32]) {
        for ((before, merged), stored) in before.iter().zip(merged).zip(stored) {
            let (applied, intended) = (stored - before, merged - before);
            self.changed += u64::from(applied != 0.0);
            self.applied += f64::from(applied) * f64::from(applied);
            self.intended += f64::from(intended) * f64::from(intended);
        }
        self.numbers += before.len() as u64;
    }

    pub(super) fn add(&mut self, other: &Figures) {
        self.tensors += other.tensors;
        self.numbers += other.numbers;
        self.changed += other.changed;
        self.applied += other.applied;
        self.intended += other.intended;
    }

    /// Of the numbers, 0 to 1.
    #[expect(
        clippy::cast_precision_loss,
        reason = "a share is shown with a few digits"
    )]
    pub fn changed_share(&self) -> f64 {
        self.changed as f64 / (self.numbers as f64).max(1.0)
    }

    /// The length of what was added to that of what was meant; 1 where nothing was lost.
    pub fn norm_ratio(&self) -> f64 {
        match self.intended > 0.0 {
            true => (self.applied / self.intended).sqrt(),
            false => 1.0,
        }
    }
}
