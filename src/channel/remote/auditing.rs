//! The audit log of a process that several HSMs serve: each writes a chain of its own, and the host
//! stores the rows of all.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::connection::{Broken, Connection};
use super::pool::Place;
use crate::error::{Error, ErrorKind};
use crate::hsm::session::HsmId;
use crate::hsm::wire::{Answer, Callback, Response, Room, decode_reply, encode_response};
use crate::hsm::{AuditBatch, AuditMode, AuditStatus, AuditTip};
use crate::store::Store;

/// What waits at an HSM longer than this is due, whatever the HSM said when it was asked last.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long an HSM that is asked within a transaction may take: every host's writes wait for it.
const INSIDE: Duration = Duration::from_secs(1);

/// What the HSMs said last.
pub(super) struct Audits(Mutex<State>);

struct State {
    /// As the host's own configuration has it, until an HSM says.
    mode: AuditMode,
    /// The name of the host, once its calls are to be recorded.
    host: Option<String>,
    hsms: Vec<Chain>,
}

#[derive(Clone, Copy, Default)]
struct Chain {
    /// Who said so: another HSM at the same address begins anew.
    id: HsmId,
    status: AuditStatus,
    waiting: Option<Instant>,
}

impl Audits {
    pub(super) fn new(hsms: usize) -> Self {
        Self(Mutex::new(State { mode: AuditMode::On, host: None, hsms: vec![Chain::default(); hsms] }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What an HSM says with each reply.
    pub(super) fn heard(&self, place: Place, id: &HsmId, status: AuditStatus) {
        let mut state = self.lock();
        state.mode = status.mode;
        let Some(chain) = state.hsms.get_mut(place) else { return };
        if chain.id == *id && chain.status == status {
            return;
        }
        chain.waiting = match status.waiting {
            true => chain.waiting.filter(|_| chain.id == *id).or_else(|| Some(Instant::now())),
            false => None,
        };
        (chain.id, chain.status) = (*id, status);
    }

    /// The connection to an HSM is gone: what it holds is stored when it is met again, if it is.
    pub(super) fn lost(&self, place: Place) {
        if let Some(chain) = self.lock().hsms.get_mut(place) {
            *chain = Chain::default();
        }
    }

    /// How it is with all of them.
    pub(super) fn status(&self) -> AuditStatus {
        let state = self.lock();
        let mut all = AuditStatus { mode: state.mode, open: state.host.is_some(), ..AuditStatus::default() };
        for chain in &state.hsms {
            let late = chain.waiting.is_some_and(|since| since.elapsed() >= PATIENCE);
            all.waiting |= chain.status.waiting;
            all.due |= chain.status.due || (chain.status.waiting && late);
        }
        all
    }

    /// From now on HSMs record in the name of this host.
    pub(super) fn begin(&self, host: &str) {
        self.lock().host = Some(host.to_owned());
    }

    pub(super) fn end(&self) {
        self.lock().host = None;
    }

    /// The name of the host, if the chain of this HSM is still to be begun.
    pub(super) fn wanted(&self, place: Place, id: &HsmId) -> Option<String> {
        let state = self.lock();
        let host = state.host.as_ref().filter(|_| state.mode != AuditMode::Off)?;
        let open = state.hsms.get(place).is_some_and(|chain| chain.id == *id && chain.status.open);
        (!open).then(|| host.clone())
    }

    /// The HSMs with rows to be stored, or with an open chain.
    pub(super) fn places(&self, open: bool) -> Vec<Place> {
        let state = self.lock();
        let wanted = |chain: &&Chain| if open { chain.status.open } else { chain.status.waiting };
        state.hsms.iter().enumerate().filter(|(_, chain)| wanted(chain)).map(|(place, _)| place).collect()
    }
}

/// Does what an HSM asks of the store in the middle of a request, and answers it.
pub(super) fn answer(mut connection: Connection, store: &dyn Store, callback: Callback) -> Result<Connection, Broken> {
    match callback {
        Callback::Append(batch) => {
            let stored = store.append_audit(&batch);
            respond(&mut connection, &response(stored))?;
            Ok(connection)
        }
        Callback::Open => open(connection, store),
        Callback::Opening(_) | Callback::Abort => Err(unexpected().into()),
    }
}

/// A connection during a transaction, and what came of it.
struct Inside {
    connection: Connection,
    aborted: bool,
    broken: Option<Broken>,
}

impl Inside {
    /// Asks the HSM for the rows that begin its chain after these tips.
    fn ask(&mut self, tips: Vec<AuditTip>) -> crate::error::Result<AuditBatch<'static>> {
        match self.exchange(tips) {
            Ok(Callback::Opening(batch)) => Ok(batch),
            Ok(Callback::Abort) => {
                self.aborted = true;
                Err(ErrorKind::FunctionFailed.with("the HSM began no chain of the audit log"))
            }
            Ok(_) => Err(unexpected()),
            Err(broken) => {
                let error = ErrorKind::DeviceError.with(broken.to_string());
                self.broken = Some(broken);
                Err(error)
            }
        }
    }

    fn exchange(&mut self, tips: Vec<AuditTip>) -> Result<Callback, Broken> {
        let before = self.connection.wait_for(INSIDE)?;
        respond(&mut self.connection, &Response::Tips(tips))?;
        let next = next(&mut self.connection)?;
        self.connection.wait_for(before)?;
        Ok(next)
    }
}

/// A transaction in which the HSM is asked in between, by whichever thread commits it.
fn open(connection: Connection, store: &dyn Store) -> Result<Connection, Broken> {
    let place = Arc::new(Mutex::new(Some(Inside { connection, aborted: false, broken: None })));
    let within = Arc::clone(&place);
    let opened = store.open_audit(Box::new(move |tips| {
        let mut held = within.lock().unwrap_or_else(PoisonError::into_inner);
        held.as_mut().ok_or_else(|| Error::from(ErrorKind::GeneralError))?.ask(tips)
    }));
    let held = place.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Inside { mut connection, aborted, broken } = held.ok_or_else(|| Error::from(ErrorKind::GeneralError))?;
    if let Some(broken) = broken {
        return Err(broken);
    }
    let answer = if aborted { Response::Stored } else { response(opened) };
    respond(&mut connection, &answer)?;
    Ok(connection)
}

fn respond(connection: &mut Connection, response: &Response) -> Result<(), Broken> {
    encode_response(response, &mut connection.request)?;
    connection.go_on()
}

fn next(connection: &mut Connection) -> Result<Callback, Broken> {
    connection.receive()?;
    let room = Room::new();
    match decode_reply(connection.message(), &room)? {
        (_, Answer::Callback(callback)) => Ok(callback),
        _ => Err(unexpected().into()),
    }
}

fn response(done: crate::error::Result<()>) -> Response {
    match done {
        Ok(()) => Response::Stored,
        Err(error) => Response::Failed(error),
    }
}

fn unexpected() -> Error {
    ErrorKind::DeviceError.with("the HSM asked something else of the audit log")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_too_long_is_due_and_a_new_hsm_begins_anew() {
        let audits = Audits::new(2);
        assert!(!audits.status().open && audits.wanted(0, &[1; 16]).is_none());
        audits.begin("host");
        assert_eq!(audits.wanted(0, &[1; 16]).as_deref(), Some("host"));
        let status = AuditStatus { open: true, waiting: true, ..AuditStatus::default() };
        audits.heard(0, &[1; 16], status);
        assert!(audits.status().open && audits.status().waiting && !audits.status().due);
        assert!(audits.wanted(0, &[1; 16]).is_none());
        assert_eq!(audits.wanted(0, &[2; 16]).as_deref(), Some("host"), "another HSM at the same address");
        assert_eq!((audits.places(false), audits.places(true)), (vec![0], vec![0]));
        std::thread::sleep(PATIENCE);
        audits.heard(0, &[1; 16], status);
        assert!(audits.status().due);
        audits.lost(0);
        assert!(!audits.status().waiting);
        audits.end();
        assert!(!audits.status().open);
    }
}
