//! A streaming operation with a managed key, recorded when it ends, or as soon as it gives something.

use std::sync::Arc;

use zeroize::Zeroize;

use crate::error::{Error, ErrorKind, Result};
use crate::hsm::audit;
use crate::hsm::auditing::Recorder;
use crate::hsm::command::{ApprovalRequest, Function, Operation, Outcome};
use crate::hsm::key::Key;
use crate::hsm::permit::Recorded;

/// The longest message of a signature or MAC, in bytes.
const MAX_MESSAGE: usize = 4096;

/// Delegates, counts, and records.
pub(in crate::hsm) struct Watched {
    inner: Box<dyn Operation>,
    key: Arc<Key>,
    action: audit::Action,
    /// Who began it.
    principal: Arc<str>,
    recorder: Arc<Recorder>,
    /// How much more input it takes; None for any amount.
    room: Option<usize>,
    progress: Progress,
    /// A part gave output, so the use is recorded. A failure that follows is, too.
    gave: bool,
}

#[derive(PartialEq, Eq)]
enum Progress {
    Begun,
    Fed,
    /// It was told that its key's operators have to approve it.
    Unapproved,
    Over,
}

impl Watched {
    pub(in crate::hsm) fn new(
        inner: Box<dyn Operation>,
        (function, action): (Function, audit::Action),
        key: Arc<Key>,
        principal: Arc<str>,
        recorder: Arc<Recorder>,
    ) -> Self {
        let signs = matches!(function, Function::Sign | Function::Verify | Function::SignRecover);
        let room = signs.then_some(MAX_MESSAGE);
        Self { inner, key, action, principal, recorder, room, progress: Progress::Begun, gave: false }
    }

    /// Refuses what is too much. What is taken is counted by [`Self::took`].
    fn check_room(&self, more: usize) -> Result<()> {
        match self.room {
            Some(room) if more > room => {
                Err(ErrorKind::DataLenRange.with("a managed key signs messages of at most 4096 bytes, or a digest"))
            }
            _ => Ok(()),
        }
    }

    fn took(&mut self, len: usize) {
        self.room = self.room.map(|room| room.saturating_sub(len));
        self.progress = Progress::Fed;
    }

    /// Records how it ended, once. A success that cannot be recorded is none.
    fn end<T>(&mut self, outcome: Result<T>) -> Result<T> {
        if self.progress == Progress::Over {
            return outcome;
        }
        self.progress = Progress::Over;
        if self.gave && outcome.is_ok() {
            return outcome;
        }
        self.record(outcome)
    }

    fn record<T>(&self, outcome: Result<T>) -> Result<T> {
        let what = Recorded::of(self.action, &self.key.attributes);
        let recorded = self.recorder.record(&self.principal, &what, &outcome);
        outcome.and_then(|done| recorded.map(|()| done))
    }

    /// Records the use when its first output is about to be given: there may be no end.
    fn giving(&mut self, outcome: Outcome, output: Option<&mut [u8]>) -> Result<Outcome> {
        if self.gave || !matches!(outcome, Outcome::Written(written) if written > 0) {
            return Ok(outcome);
        }
        self.gave = true;
        let recorded = self.record(Ok(outcome));
        if recorded.is_err() {
            self.progress = Progress::Over;
            output.into_iter().for_each(|output| output.zeroize());
        }
        recorded
    }

    /// The end of an operation that writes to `output`.
    fn end_writing(&mut self, outcome: Result<Outcome>, output: Option<&mut [u8]>) -> Result<Outcome> {
        if matches!(outcome, Ok(Outcome::Needed(_))) {
            return outcome;
        }
        let ended = self.end(outcome);
        if let (Err(_), Some(output)) = (&ended, output) {
            output.zeroize();
        }
        ended
    }
}

impl Operation for Watched {
    fn update(&mut self, input: &[u8], mut output: Option<&mut [u8]>) -> Result<Outcome> {
        let outcome = self.check_room(input.len()).and_then(|()| self.inner.update(input, output.as_deref_mut()));
        match outcome {
            Ok(Outcome::Needed(_)) => outcome,
            Ok(written) => {
                self.took(input.len());
                self.giving(written, output)
            }
            Err(error) => self.end(Err(error)),
        }
    }

    fn finish(&mut self, mut output: Option<&mut [u8]>) -> Result<Outcome> {
        let outcome = self.inner.finish(output.as_deref_mut());
        self.end_writing(outcome, output)
    }

    fn one_shot(&mut self, input: &[u8], mut output: Option<&mut [u8]>) -> Result<Outcome> {
        let outcome = self.check_room(input.len()).and_then(|()| self.inner.one_shot(input, output.as_deref_mut()));
        self.end_writing(outcome, output)
    }

    fn verify(&mut self, signature: &[u8]) -> Result<()> {
        let outcome = self.inner.verify(signature);
        self.end(outcome)
    }

    fn verify_one_shot(&mut self, input: &[u8], signature: &[u8]) -> Result<()> {
        let outcome = self.check_room(input.len()).and_then(|()| self.inner.verify_one_shot(input, signature));
        self.end(outcome)
    }

    fn held(&self) -> usize {
        self.inner.held()
    }

    fn is_private(&self) -> bool {
        self.inner.is_private()
    }

    fn approval(&mut self, input: Option<&[u8]>) -> Result<Option<ApprovalRequest>> {
        self.check_room(input.map_or(0, <[u8]>::len))?;
        let wanted = self.inner.approval(input)?;
        if wanted.is_some() {
            self.progress = Progress::Unapproved;
        }
        Ok(wanted)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let abandoned: Error = match self.progress {
            Progress::Begun | Progress::Over => return,
            Progress::Fed => ErrorKind::FunctionCanceled.with("the operation was not ended"),
            Progress::Unapproved => ErrorKind::KeyFunctionNotPermitted.with("the key's operators did not approve"),
        };
        let _ = self.end::<()>(Err(abandoned));
    }
}
