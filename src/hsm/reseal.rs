//! Sealing records anew under the active domain key, so that none is lost when an older one retires.

use super::command::{Record, Reply, Sealed, Ticket};
use super::domain::{Circumstances, key_id_of};
use super::member::session_object;
use super::transient::Transient;
use super::{Access, Hsm, record};
use crate::error::{ErrorKind, Result};

impl Hsm {
    /// The record under the active domain key and with the next generation; `Reply::Done` if it is
    /// under that already, or was never under a domain key. Whoever opened the domain may ask: the
    /// object does not leave the HSM.
    ///
    /// CKR_USER_NOT_LOGGED_IN; CKR_DEVICE_ERROR for a record that is refused, be it damaged, revoked
    /// or under a key that is retired.
    pub(super) fn reseal(&self, ticket: &Ticket, record: &Record) -> Result<Reply> {
        if self.access(ticket) == Access::Public {
            return Err(ErrorKind::UserNotLoggedIn.into());
        }
        if Transient::made(record) || session_object::made(record.sealed.as_bytes()) {
            return Ok(Reply::Done);
        }
        let epoch = self.core.cache.epoch();
        let domain = self.opened()?;
        let key_id = key_id_of(record.sealed.as_bytes())?;
        if key_id == *domain.sealer().key_id() {
            return Ok(Reply::Done);
        }
        let now = Circumstances::of_system().now;
        let sealer = domain.sealer_for(&key_id, &record.object, record.generation, now)?;
        let generation = record.generation.checked_add(1).ok_or(ErrorKind::DeviceError)?;
        let key = record::open(record, sealer)?;
        self.check_row(&key, record)?;
        let sealed = Sealed::new(record::seal(&key, &record.object, generation, domain.sealer())?);
        let new = Record { generation, sealed, columns: record.columns.clone(), object: record.object };
        // A key in use stays parsed.
        if let Some(open) = self.core.cache.get(record.sealed.digest()).filter(|open| open.verified) {
            self.core.cache.put(open.resealed(new.clone()), epoch);
            self.core.cache.forget(record.sealed.digest());
        }
        Ok(Reply::Records(vec![new]))
    }
}
