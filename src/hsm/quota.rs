//! How much memory somebody may take, of what there is for all.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that may be taken, counted as they are taken and given back.
#[derive(Debug)]
pub(super) struct Quota {
    most: usize,
    taken: AtomicUsize,
    /// What this is a part of.
    whole: Option<Arc<Self>>,
}

impl Quota {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, taken: AtomicUsize::new(0), whole: None })
    }

    /// At most so much of another.
    pub(super) fn within(whole: &Arc<Self>, most: usize) -> Arc<Self> {
        Arc::new(Self { most, taken: AtomicUsize::new(0), whole: Some(Arc::clone(whole)) })
    }

    /// False, and nothing is taken, if there is not so much left.
    pub(super) fn take(&self, bytes: usize) -> bool {
        let enough = |taken: usize| taken.checked_add(bytes).filter(|taken| *taken <= self.most);
        if self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, enough).is_err() {
            return false;
        }
        let taken = self.whole.as_ref().is_none_or(|whole| whole.take(bytes));
        if !taken {
            self.taken.fetch_sub(bytes, Ordering::Relaxed);
        }
        taken
    }

    /// Of what was taken.
    pub(super) fn give_back(&self, bytes: usize) {
        self.taken.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(whole) = &self.whole {
            whole.give_back(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_takes_no_more_than_its_share_and_than_there_is() {
        let whole = Quota::new(10);
        let (one, other) = (Quota::within(&whole, 6), Quota::within(&whole, 6));
        assert!(!one.take(7) && one.take(6) && !one.take(1));
        assert!(!other.take(5) && other.take(4) && !whole.take(1));
        one.give_back(6);
        assert!(other.take(2) && whole.take(4) && !one.take(1));
    }
}
