//! [`Member`] as the server's HSM.

use std::sync::Arc;

use super::service::{Callbacks, Cipher, Clear, Figures, Id, Party, Reply, Service, Standing, Then};
use crate::error::Result;
use crate::hsm::session::Link;
use crate::hsm::{self, Connection, Member, Wiped};

impl Service for Arc<Member> {
    fn clear(&self, frame: &[u8], admin: bool) -> Clear {
        let answer = Member::clear(self, frame, admin);
        let then = match answer.then {
            hsm::Then::Close => Then::Close,
            hsm::Then::KeepOpen => Then::KeepOpen,
            hsm::Then::Linked(connection, link) => Then::Linked(connection, link),
            hsm::Then::Admin(connection) => Then::Admin(connection),
        };
        Clear { bytes: answer.bytes, then, refused: answer.refused.map(|refused| refused.to_string()) }
    }

    fn standing(&self) -> Standing {
        let (member, version) = Member::standing(self);
        Standing { member, version }
    }

    fn figures(&self) -> Figures {
        let figures = Member::figures(self);
        Figures {
            logins: figures.pins.logins,
            wrong_pins: figures.pins.wrong,
            locked_pins: figures.pins.locked,
            streams: figures.streams,
            clients: figures.guests,
            cached_records: figures.cached,
            imported_expiry: figures.imported_expiry,
        }
    }

    fn tidy(&self) {
        Member::tidy(self);
    }
}

impl Party for Connection {
    fn host(&self) -> Option<(Id, &str)> {
        Self::host(self)
    }

    fn valid_until(&self) -> Option<u64> {
        Self::valid_until(self)
    }

    fn request(&mut self, message: &[u8], callbacks: &mut dyn Callbacks) -> Reply {
        let answer = Self::request(self, message, callbacks);
        Reply { message: answer.message, close: answer.close }
    }
}

impl Cipher for Link {
    fn open(&mut self, frame: &[u8], message: &mut Wiped) -> Result<bool> {
        Self::open(self, frame, message)
    }

    fn seal(&mut self, message: &[u8], out: &mut Vec<u8>) -> Result<()> {
        Self::seal(self, message, out)
    }

    fn next_request(&mut self) {
        self.begin_request();
    }
}
