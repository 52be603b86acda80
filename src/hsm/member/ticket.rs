//! Login tickets: what a right PIN yields at an HSM of a fleet, and any member accepts.

use super::super::command::DomainKeyId;
use super::super::command::{Role, Ticket};
use super::super::core::Guest;
use super::super::crypto::SecretBytes;
use super::super::domain::cbor::{Decoded, Decoder, Encoder};
use super::super::domain::{Kind, Opened, decode_role, encode_role, key_id_of};
use crate::error::{Error, ErrorKind, Result};

/// What a ticket says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Login {
    pub(super) role: Role,
    pub(super) guest: Guest,
    /// The HSM that gave it.
    pub(super) issuer: [u8; 16],
    /// Of the PIN record.
    pub(super) generation: u64,
    /// Seconds since 1970.
    pub(super) issued: u64,
    pub(super) expires: u64,
}

impl Login {
    /// Sealed under the active domain key. It opens for its process only.
    pub(super) fn seal(&self, opened: &Opened) -> Result<Ticket> {
        let mut e = Encoder::new();
        e.array(7);
        encode_role(&mut e, &self.role);
        e.bytes(&self.guest.host).bytes(&self.guest.process).bytes(&self.issuer);
        e.uint(self.generation).uint(self.issued).uint(self.expires);
        let sealed = opened.sealer().seal(Kind::LoginTicket, &place(&self.guest), 1, &e.finish())?;
        Ok(Ticket(sealed.into()))
    }

    /// Opens what is sealed under the active domain key for this process, with the key's id.
    /// CKR_USER_NOT_LOGGED_IN for anything else.
    pub(super) fn open(ticket: &Ticket, opened: &Opened, guest: &Guest) -> Result<(Self, DomainKeyId)> {
        match key_id_of(&ticket.0) {
            Ok(key_id) if key_id == *opened.sealer().key_id() => Self::open_given(ticket, opened, guest),
            _ => Err(refused()),
        }
    }

    /// Opens what this HSM has sealed itself in the same request, when the key may not be the active one any more.
    pub(super) fn open_given(ticket: &Ticket, opened: &Opened, guest: &Guest) -> Result<(Self, DomainKeyId)> {
        let key_id = key_id_of(&ticket.0).map_err(|_| refused())?;
        let content = opened.sealer().open(Kind::LoginTicket, &place(guest), 1, &ticket.0).map_err(|_| refused())?;
        let login = Self::decode(&content).map_err(|_| refused())?;
        if login.guest == *guest { Ok((login, key_id)) } else { Err(refused()) }
    }

    fn decode(content: &SecretBytes) -> Decoded<Self> {
        let mut d = Decoder::new(content.expose());
        d.array_of(7)?;
        let login = Self {
            role: decode_role(&mut d)?,
            guest: Guest { host: d.fixed()?, process: d.fixed()? },
            issuer: d.fixed()?,
            generation: d.uint()?,
            issued: d.uint()?,
            expires: d.uint()?,
        };
        d.end()?;
        Ok(login)
    }

    /// Whether the state still knows the user, with the PIN that was given.
    pub(super) fn is_of(&self, opened: &Opened) -> bool {
        let user = opened.state().user(&self.role);
        user.is_some_and(|user| user.generation == self.generation && user.agreement.is_some())
    }
}

/// The object that a process's tickets are sealed as.
fn place(guest: &Guest) -> [u8; 16] {
    let mut place = [0; 16];
    place.iter_mut().zip(&guest.process).for_each(|(to, from)| *to = *from);
    place
}

pub(super) fn refused() -> Error {
    ErrorKind::UserNotLoggedIn.with("the login has ended, or is not known here")
}
