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

    /// Gives those that go on now; they have to be armed.
    pub(super) fn leave(&self) -> Vec<Arc<Slot>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.inside = state.inside.saturating_sub(1);
        self.next(&mut state)
    }

    /// A connection was closed. If it was its turn, it is that of those whom this gives.
    pub(super) fn pass(&self) -> Vec<Arc<Slot>> {
        self.next(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Who has waited longest, if there is a place, and all that only wait for their end.
    fn next(&self, state: &mut State) -> Vec<Arc<Slot>> {
        let mut next = Vec::new();
        if state.waiting.iter().any(|slot| slot.doomed().is_some()) {
            let (live, ended): (VecDeque<_>, VecDeque<_>) =
                state.waiting.drain(..).partition(|slot| slot.doomed().is_none());
            (next, state.waiting) = (ended.into(), live);
        }
        if state.inside < self.limit {
            next.extend(state.waiting.pop_front());
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    use super::super::connection::Connection;
    use super::super::metrics::Closed;
    use super::super::slots::Peer;
    use super::*;

    fn slot(token: u64) -> Arc<Slot> {
        let (end, _) = UnixStream::pair().unwrap();
        Arc::new(Slot::new(token, OwnedFd::from(end), Peer::User(0), Connection::new(false)))
    }

    #[test]
    fn whoever_ends_while_it_waits_holds_up_nobody() {
        let gate = Gate::new(1);
        let slots: Vec<_> = (0..6).map(slot).collect();
        let tokens = |next: Vec<Arc<Slot>>| next.iter().map(|slot| slot.token).collect::<Vec<_>>();
        assert!(gate.enter(&slots[0]));
        assert!(slots[1..].iter().all(|slot| !gate.enter(slot)));
        assert!(tokens(gate.pass()).is_empty());
        [1, 2, 4].iter().for_each(|doomed: &usize| slots[*doomed].doom(Closed::Expelled));
        assert_eq!(tokens(gate.leave()), [1, 2, 4, 3]);
        // It was closed in place of entering.
        assert_eq!(tokens(gate.pass()), [5]);
        assert!(gate.enter(&slots[5]));
        assert!(tokens(gate.leave()).is_empty());
    }
}
