//! The processes that use an HSM of a fleet, and who is logged in in each.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::super::auditing::AuditMode;
use super::super::command::{DomainKeyId, PinRecord, Role, Ticket};
use super::super::core::{Client, Core, Guest};
use super::super::domain::{Opened, OwnKeys};
use super::super::login::{self, Seat};
use super::super::wire::Streams;
use super::super::{Hsm, Settings};
use super::ticket::{Login, refused};
use crate::error::{ErrorKind, Result};

/// Processes that are remembered; the one that was idle longest goes for another.
const MOST_GUESTS: usize = 16_384;
/// Logins of one process that are remembered.
const MOST_SEATS: usize = 8;
/// How long a process without a connection is remembered, in seconds.
const IDLE: u64 = 24 * 3600;

/// One process of a host.
pub(super) struct Visit {
    pub(super) client: Arc<Client>,
    pub(super) streams: Streams,
    public: Arc<Hsm>,
    seats: Mutex<Vec<Known>>,
    /// Seconds since 1970.
    used: AtomicU64,
    pub(super) connections: AtomicU64,
}

/// A ticket that was verified here.
struct Known {
    ticket: Ticket,
    login: Login,
    key: DomainKeyId,
    view: Arc<Hsm>,
}

impl Known {
    /// Whether the ticket may be used in this state at this time.
    fn is_good(&self, opened: &Opened, now: u64) -> bool {
        let issuer = opened.state().members.iter().any(|member| member.id == self.login.issuer);
        self.key == *opened.sealer().key_id() && self.login.expires > now && self.login.is_of(opened) && issuer
    }
}

impl Visit {
    pub(super) fn new(core: &Arc<Core>, settings: Settings, guest: Option<Guest>, host: &str) -> Result<Self> {
        let audit = if guest.is_some() { settings.audit } else { AuditMode::Off };
        let client = Arc::new(Client::new(guest, host, audit)?);
        let public = view(core, &client, settings, None);
        Ok(Self {
            client,
            streams: Streams::default(),
            public,
            seats: Mutex::default(),
            used: AtomicU64::new(0),
            connections: AtomicU64::new(0),
        })
    }

    /// The HSM as the ticket's holder sees it. CKR_USER_NOT_LOGGED_IN if the ticket is not, or no longer,
    /// good; it may then be renewed.
    pub(super) fn view(&self, core: &Arc<Core>, settings: Settings, ticket: &Ticket) -> Result<Arc<Hsm>> {
        if ticket.is_public() {
            return Ok(Arc::clone(&self.public));
        }
        let guest = self.client.guest.as_ref().ok_or_else(refused)?;
        let (opened, now) = (core.opened()?, core.clock.now());
        if let Some(known) = self.seats().iter().find(|known| known.ticket == *ticket) {
            return if known.is_good(&opened, now) { Ok(Arc::clone(&known.view)) } else { Err(refused()) };
        }
        let (login, key) = Login::open(ticket, &opened, guest)?;
        let known = self.know(core, settings, ticket, login, key);
        let (good, view) = (known.is_good(&opened, now), Arc::clone(&known.view));
        self.remember(known);
        if good { Ok(view) } else { Err(refused()) }
    }

    /// A new ticket for a login that goes on: of a ticket that is sealed under the active key, or was
    /// verified here while its key was. What ends a login is a logout, another PIN, or the user's removal.
    pub(super) fn renew(
        &self,
        core: &Arc<Core>,
        (settings, own): (Settings, &OwnKeys),
        ticket: &Ticket,
        record: &PinRecord,
    ) -> Result<Ticket> {
        let guest = self.client.guest.as_ref().ok_or_else(refused)?;
        let (opened, now) = (core.opened()?, core.clock.now());
        let known = self.seats().iter().find(|known| known.ticket == *ticket).map(|known| known.login.clone());
        let login = match known {
            Some(login) => login,
            None => Login::open(ticket, &opened, guest)?.0,
        };
        if !login.is_of(&opened) || record.role != login.role || record.generation != login.generation {
            return Err(refused());
        }
        let renewed = Login {
            issuer: *own.id(),
            issued: now,
            expires: now.saturating_add(opened.state().limits.login_ticket),
            ..login
        };
        let sealed = renewed.seal(&opened)?;
        let key = *opened.sealer().key_id();
        self.remember(self.know(core, settings, &sealed, renewed, key));
        Ok(sealed)
    }

    /// Keeps a login that was just begun here: it can be renewed though the domain key is rotated before its
    /// first use.
    pub(super) fn log_in(&self, core: &Arc<Core>, settings: Settings, ticket: &Ticket) {
        let (Some(guest), Ok(opened)) = (&self.client.guest, core.opened()) else { return };
        if let Ok((login, key)) = Login::open_given(ticket, &opened, guest) {
            self.remember(self.know(core, settings, ticket, login, key));
        }
    }

    /// Forgets a login, and all that it was renewed from.
    pub(super) fn log_out(&self, ticket: &Ticket) {
        let mut seats = self.seats();
        let role = seats.iter().find(|known| known.ticket == *ticket).map(|known| known.login.role.clone());
        let (gone, kept) = std::mem::take(&mut *seats)
            .into_iter()
            .partition(|known| known.ticket == *ticket || Some(&known.login.role) == role.as_ref());
        *seats = kept;
        drop(seats);
        let gone: Vec<Known> = gone;
        drop(gone);
    }

    fn know(&self, core: &Arc<Core>, settings: Settings, ticket: &Ticket, login: Login, key: DomainKeyId) -> Known {
        let principal = login.role.principal();
        let seat = Seat { ticket: ticket.clone(), role: login.role.clone(), principal };
        let view = view(core, &self.client, settings, Some(seat));
        Known { ticket: ticket.clone(), login, key, view }
    }

    fn remember(&self, known: Known) {
        let mut seats = self.seats();
        seats.retain(|other| other.ticket != known.ticket);
        if seats.len() >= MOST_SEATS {
            seats.remove(0);
        }
        seats.push(known);
    }

    fn seats(&self) -> MutexGuard<'_, Vec<Known>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn view(core: &Arc<Core>, client: &Arc<Client>, settings: Settings, seat: Option<Seat>) -> Arc<Hsm> {
    let login = login::Login::seated(seat);
    Arc::new(Hsm { settings, core: Arc::clone(core), client: Arc::clone(client), login })
}

/// All of them.
#[derive(Default)]
pub(super) struct Guests(Mutex<HashMap<Guest, Arc<Visit>>>);

impl Guests {
    /// What is kept for a process, which is there now.
    pub(super) fn enter(&self, core: &Arc<Core>, settings: Settings, guest: Guest, host: &str) -> Result<Arc<Visit>> {
        let now = core.clock.now();
        let mut guests = self.guests();
        if let Some(visit) = guests.get(&guest) {
            visit.used.store(now, Ordering::Relaxed);
            return Ok(Arc::clone(visit));
        }
        if guests.len() >= MOST_GUESTS {
            let idle = |visit: &Visit| visit.connections.load(Ordering::Relaxed) == 0;
            let longest = guests.iter().filter(|(_, visit)| idle(visit));
            let longest = longest.min_by_key(|(_, visit)| visit.used.load(Ordering::Relaxed)).map(|(guest, _)| *guest);
            let longest = longest.ok_or_else(|| ErrorKind::DeviceMemory.with("too many processes use this HSM"))?;
            guests.remove(&longest);
        }
        let visit = Arc::new(Visit::new(core, settings, Some(guest), host)?);
        visit.used.store(now, Ordering::Relaxed);
        guests.insert(guest, Arc::clone(&visit));
        Ok(visit)
    }

    /// Forgets who has had no connection for long.
    pub(super) fn tidy(&self, now: u64) {
        let gone: Vec<Arc<Visit>> = {
            let mut guests = self.guests();
            let idle = |visit: &Visit| {
                visit.connections.load(Ordering::Relaxed) == 0
                    && visit.used.load(Ordering::Relaxed).saturating_add(IDLE) < now
            };
            guests.extract_if(|_, visit| idle(visit)).map(|(_, visit)| visit).collect()
        };
        drop(gone);
    }

    /// Forgets the processes of hosts that are not in the state, and what was opened and approved under
    /// another. Who `stays` keeps a login though the holder changed its PIN.
    pub(super) fn adopted(&self, opened: &Opened, stays: impl Fn(&Role) -> bool) {
        let state = opened.state();
        let mut guests = self.guests();
        guests.retain(|guest, _| state.hosts.iter().any(|host| host.id == guest.host));
        for visit in guests.values() {
            visit.client.cache.clear();
            visit.client.approvals.governed_by(&state.governance());
            for known in visit.seats().iter_mut().filter(|known| stays(&known.login.role)) {
                if let Some(user) = state.user(&known.login.role) {
                    known.login.generation = user.generation;
                }
            }
        }
    }

    pub(super) fn streams(&self) -> usize {
        self.guests().values().map(|visit| visit.streams.len()).sum()
    }

    pub(super) fn clear(&self) {
        let all = std::mem::take(&mut *self.guests());
        drop(all);
    }

    pub(super) fn len(&self) -> usize {
        self.guests().len()
    }

    fn guests(&self) -> MutexGuard<'_, HashMap<Guest, Arc<Visit>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
