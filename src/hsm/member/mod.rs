//! An HSM of a fleet: it makes its keys when it starts, holds the domain open while it is a member, and
//! serves any process of any host of the domain. It keeps nothing but in memory.

mod adopting;
mod commands;
mod connection;
mod guests;
mod pins;
pub(super) mod session_object;
#[cfg(test)]
mod tests;
mod ticket;

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

pub use self::adopting::Change;
pub use self::connection::{Answer, Clear, Connection, Then};
use self::guests::{Guests, Visit};
pub use self::pins::PinFigures;
pub(super) use self::pins::Pins;
use super::core::Core;
use super::crypto::Entropy;
use super::domain::OwnKeys;
use super::session::{Seen, Status};
use super::{Settings, random};
use crate::error::Result;

/// An HSM of a fleet.
pub struct Member {
    settings: Settings,
    core: Arc<Core>,
    /// What the operator typed in: a domain is taken only if its history has a state with this hash.
    fingerprint: Option<[u8; 48]>,
    guests: Guests,
    /// What operators' connections use.
    admin: Arc<Visit>,
    seen: Seen,
    told: Mutex<Told>,
    watcher: OnceLock<Watcher>,
}

type Watcher = Box<dyn Fn(&Change) + Send + Sync>;

/// What hosts announced of the store.
#[derive(Debug, Clone, Copy)]
struct Told {
    /// The highest stamp.
    stamp: u64,
    /// How often one was announced.
    heard: u64,
}

/// What an HSM counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemberFigures {
    pub pins: PinFigures,
    /// Host processes that it knows.
    pub guests: u64,
    /// Streaming operations under way.
    pub streams: u64,
    /// Token objects that are held opened.
    pub cached: u64,
    /// The soonest expiry of imported key material that was used, in seconds since 1970.
    pub imported_expiry: Option<u64>,
}

impl Member {
    /// Makes the HSM's keys. `fingerprint` is that of the domain it is to join; without one it takes none,
    /// but may begin one.
    pub fn new(settings: Settings, name: &str, fingerprint: Option<[u8; 48]>) -> Result<Self> {
        let own = Arc::new(OwnKeys::generate(&mut Entropy::System)?);
        let core = Arc::new(Core::of_member(own, name));
        let admin = Arc::new(Visit::of_operators(&core, settings)?);
        Ok(Self {
            settings,
            core,
            fingerprint,
            guests: Guests::default(),
            admin,
            seen: Seen::default(),
            // No two HSMs count from the same number, nor one that was restarted.
            told: Mutex::new(Told { stamp: 0, heard: u64::from_ne_bytes(random::array()?) }),
            watcher: OnceLock::new(),
        })
    }

    /// Its id in a domain's state.
    pub fn id(&self) -> Result<[u8; 16]> {
        self.own().map(|own| *own.id())
    }

    /// SHA-256 of the SubjectPublicKeyInfo of QHSK and of QHAK.
    pub fn fingerprints(&self) -> Result<[[u8; 32]; 2]> {
        Ok(self.own()?.public()?.map(|key| key.kid()))
    }

    /// What it tells anybody who can connect.
    pub fn status(&self) -> Result<Status> {
        let own = self.own()?;
        let held = self.core.held();
        let public = held.public.as_ref();
        Ok(Status {
            hsm: *own.id(),
            kid: own.signing().public()?.kid(),
            domain: public.map(|public| public.state().domain),
            version: public.map_or(0, |public| public.state().version),
            hash: public.map(|public| *public.hash()),
            member: held.opened.is_some(),
        })
    }

    /// Whether it is a member of the domain that it holds, and that domain's version.
    pub fn standing(&self) -> (bool, Option<u64>) {
        let held = self.core.held();
        (held.opened.is_some(), held.public.as_ref().map(|public| public.state().version))
    }

    /// Calls this whenever the domain moved. Only the first watcher counts.
    pub fn on_change(&self, watcher: impl Fn(&Change) + Send + Sync + 'static) {
        // A second watcher is a mistake of the caller's, and changes nothing.
        let _ = self.watcher.set(Box::new(watcher));
    }

    pub fn figures(&self) -> MemberFigures {
        MemberFigures {
            pins: self.core.pins.figures(),
            guests: self.guests.len() as u64,
            streams: self.guests.streams() as u64,
            cached: self.core.cache.len() as u64,
            imported_expiry: self.core.expiries.soonest(self.core.clock.now()),
        }
    }

    /// Forgets processes that have had no connection for long. To be called now and then.
    pub fn tidy(&self) {
        self.guests.tidy(self.core.clock.now());
    }

    /// Wipes what the domain opened and all that is kept for hosts. The HSM is no member any more.
    pub fn wipe(&self) {
        let opened = self.core.held_mut().opened.take();
        drop(opened);
        self.guests.clear();
        self.core.cache.clear();
    }

    fn own(&self) -> Result<&Arc<OwnKeys>> {
        self.core.own.as_ref().ok_or_else(|| crate::error::ErrorKind::GeneralError.into())
    }

    fn told(&self) -> Told {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn announced(&self, stamp: u64) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.stamp = told.stamp.max(stamp);
        told.heard = told.heard.wrapping_add(1);
    }
}
