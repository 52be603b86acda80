//! How many workers may do one thing at once. Who is too many waits without one.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use super::slots::Slot;

pub(super) struct Gate {
    limit: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    inside: usize,
    waiting: VecDeque<Arc<Slot>>,
}

impl Gate {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, state: Mutex::default() }
    }

    /// False: the connection waits, and [`Self::leave`] of another gives it back.
    pub(super) fn enter(&self, slot: &Arc<Slot>) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let free = state.inside < self.limit;
        match free {
            true => state.inside += 1,
            false => state.waiting.push_back(Arc::clone(slot)),
        }
        free
    }

    /// Gives the connection that has waited longest; it has to be armed.
    pub(super) fn leave(&self) -> Option<Arc<Slot>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.inside = state.inside.saturating_sub(1);
        state.waiting.pop_front()
    }
}
