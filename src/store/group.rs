//! Group commit: the threads of a process that write at the same time share one fsync.
//!
//! Whoever finds no leader becomes it, waits for the write lock, and commits what all have handed
//! in by then. The others sleep until their write is done, or take over.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::write::{Answer, Write};
use crate::error::{Error, ErrorKind, Result};

/// How many writes one transaction takes at most.
const BATCH: usize = 256;

#[derive(Default)]
pub(super) struct Group {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    next: u64,
    pending: Vec<(u64, Write)>,
    done: HashMap<u64, Result<Answer>>,
    led: bool,
}

impl Group {
    /// Has the write committed. `commit` waits for the lock until the deadline, takes the batch and
    /// answers one result per write.
    pub(super) fn submit(
        &self,
        write: Write,
        deadline: Instant,
        commit: impl Fn(&mut Batch<'_>) -> Result<Vec<Result<Answer>>>,
    ) -> Result<Answer> {
        let mut state = self.lock();
        let ticket = state.next;
        state.next += 1;
        state.pending.push((ticket, write));
        loop {
            if let Some(result) = state.done.remove(&ticket) {
                return result;
            }
            let waiting = state.pending.iter().position(|(pending, _)| *pending == ticket);
            if !state.led {
                state.led = true;
                drop(state);
                let mut batch = Batch { group: self, tickets: Vec::new() };
                let outcome = commit(&mut batch);
                let not_begun = batch.publish(outcome);
                state = self.lock();
                if let Some(error) = not_begun {
                    // The lock was not to be had; the others try for themselves.
                    state.pending.retain(|(pending, _)| *pending != ticket);
                    return Err(error);
                }
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match waiting {
                Some(own) if left.is_zero() => {
                    state.pending.remove(own);
                    return Err(ErrorKind::FunctionFailed.with("other writes kept the store busy; nothing was changed"));
                }
                Some(_) => state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
                // It is being committed: how that ends must be known.
                None => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The lead, and what the leader is to commit. Dropping it gives up the lead.
pub(super) struct Batch<'a> {
    group: &'a Group,
    tickets: Vec<u64>,
}

impl Batch<'_> {
    /// The writes handed in so far, in order. One that begins a chain of the audit log is alone: somebody
    /// else is asked within its transaction, and may be slow.
    pub(super) fn take(&mut self) -> Vec<Write> {
        let mut state = self.group.lock();
        let asks = |(_, write): &(u64, Write)| matches!(write, Write::OpenAudit(_));
        let size = match state.pending.iter().take(BATCH).position(asks) {
            Some(0) => 1,
            Some(before) => before,
            None => state.pending.len().min(BATCH),
        };
        let (tickets, writes) = state.pending.drain(..size).unzip();
        self.tickets = tickets;
        writes
    }

    /// Hands out the results. Answers the error if it came before the batch was taken.
    fn publish(mut self, outcome: Result<Vec<Result<Answer>>>) -> Option<Error> {
        let tickets = std::mem::take(&mut self.tickets);
        if tickets.is_empty() {
            return outcome.err();
        }
        let mut state = self.group.lock();
        match outcome {
            Ok(results) => state.done.extend(tickets.into_iter().zip(results)),
            Err(error) => state.done.extend(tickets.into_iter().map(|ticket| (ticket, Err(error.clone())))),
        }
        None
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        let mut state = self.group.lock();
        // Left over only if the commit panicked.
        let lost = || Err(ErrorKind::GeneralError.with("the commit did not end"));
        state.done.extend(self.tickets.drain(..).map(|ticket| (ticket, lost())));
        state.led = false;
        drop(state);
        self.group.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_asks_somebody_else_is_alone_in_its_transaction() {
        let group = Group::default();
        let plain = || Write::PutRecovery(Vec::new());
        let asking = || Write::OpenAudit(Mutex::default());
        group.lock().pending.extend((0..).zip([plain(), plain(), asking(), asking(), plain()]));
        let sizes = std::iter::from_fn(|| {
            let mut batch = Batch { group: &group, tickets: Vec::new() };
            let size = batch.take().len();
            batch.tickets.clear();
            (size > 0).then_some(size)
        });
        assert_eq!(sizes.collect::<Vec<_>>(), [2, 1, 1, 1]);
    }
}
