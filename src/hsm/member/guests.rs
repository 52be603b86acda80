//! The processes that use an HSM of a fleet, and who is logged in in each.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::super::auditing::AuditMode;
use super::super::cache::Cache;
use super::super::command::{DomainKeyId, PinRecord, Role, Ticket};
use super::super::core::{Client, Core, Guest};
use super::super::domain::{Opened, OwnKeys};
use super::super::login::{self, Seat};
use super::super::quota::Quota;
use super::super::wire::{MAX_HELD, Streams};
use super::super::{Hsm, Settings};
use super::ticket::{Login, refused};
use crate::error::{ErrorKind, Result};

/// Processes that are remembered; the one that was idle longest goes for another.
const MOST_GUESTS: usize = 16_384;
/// Of these, of one host.
const MOST_OF_A_HOST: usize = 4096;
/// Logins of one process that are remembered.
const MOST_SEATS: usize = 8;
/// How long a process without a connection is remembered, in seconds.
const IDLE: u64 = 24 * 3600;
/// How long an operation of such a process stays open.
const LEFT_OPEN: Duration = Duration::from_secs(3600);
/// What operations and opened session objects may take in memory, in bytes: of one host, and of all.
const OPERATIONS: [usize; 2] = [256 << 20, 512 << 20];
const OBJECTS: [usize; 2] = [32 << 20, 128 << 20];

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
    pub(super) fn of_operators(core: &Arc<Core>, settings: Settings) -> Result<Self> {
        let client = Client::new(None, "", AuditMode::Off, Cache::default())?;
        Ok(Self::new(core, settings, client, Quota::new(MAX_HELD)))
    }

    fn of_guest(core: &Arc<Core>, settings: Settings, guest: Guest, host: &str, share: &Share) -> Result<Self> {
        let cache = Cache::within(Arc::clone(&share.objects));
        let client = Client::new(Some(guest), host, settings.audit, cache)?;
        Ok(Self::new(core, settings, client, Quota::within(&share.operations, MAX_HELD)))
    }

    fn new(core: &Arc<Core>, settings: Settings, client: Client, operations: Arc<Quota>) -> Self {
        let client = Arc::new(client);
        let public = view(core, &client, settings, None);
        Self {
            client,
            streams: Streams::within(operations),
            public,
            seats: Mutex::default(),
            used: AtomicU64::new(0),
            connections: AtomicU64::new(0),
        }
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
pub(super) struct Guests(Mutex<Present>);

struct Present {
    visits: HashMap<Guest, Arc<Visit>>,
    /// What all hosts may take, and each.
    whole: Share,
    shares: HashMap<[u8; 16], Share>,
}

/// Of memory.
struct Share {
    operations: Arc<Quota>,
    objects: Arc<Quota>,
}

impl Default for Present {
    fn default() -> Self {
        let whole = Share { operations: Quota::new(OPERATIONS[1]), objects: Quota::new(OBJECTS[1]) };
        Self { visits: HashMap::new(), whole, shares: HashMap::new() }
    }
}

impl Present {
    /// Makes room for one more process of a host: of those without a connection, the one that came longest
    /// ago goes, one of the same host if that has its share.
    fn make_room(&mut self, host: &[u8; 16]) -> Result<Option<Arc<Visit>>> {
        let of_host = self.visits.keys().filter(|guest| guest.host == *host).count();
        let is_full = of_host >= MOST_OF_A_HOST;
        if !is_full && self.visits.len() < MOST_GUESTS {
            return Ok(None);
        }
        let goes = |(guest, visit): &(&Guest, &Arc<Visit>)| {
            visit.connections.load(Ordering::Relaxed) == 0 && (!is_full || guest.host == *host)
        };
        let longest = self.visits.iter().filter(goes).min_by_key(|(_, visit)| visit.used.load(Ordering::Relaxed));
        let longest = longest.map(|(guest, _)| *guest);
        let longest = longest.ok_or_else(|| ErrorKind::DeviceMemory.with("too many processes use this HSM"))?;
        Ok(self.visits.remove(&longest))
    }

    fn share(&mut self, host: [u8; 16]) -> &Share {
        let whole = &self.whole;
        self.shares.entry(host).or_insert_with(|| Share {
            operations: Quota::within(&whole.operations, OPERATIONS[0]),
            objects: Quota::within(&whole.objects, OBJECTS[0]),
        })
    }
}

impl Guests {
    /// What is kept for a process, which is there now.
    pub(super) fn enter(&self, core: &Arc<Core>, settings: Settings, guest: Guest, host: &str) -> Result<Arc<Visit>> {
        let now = core.clock.now();
        let mut present = self.present();
        if let Some(visit) = present.visits.get(&guest) {
            visit.used.store(now, Ordering::Relaxed);
            return Ok(Arc::clone(visit));
        }
        let gone = present.make_room(&guest.host)?;
        let visit = Arc::new(Visit::of_guest(core, settings, guest, host, present.share(guest.host))?);
        visit.used.store(now, Ordering::Relaxed);
        present.visits.insert(guest, Arc::clone(&visit));
        drop(present);
        drop(gone);
        Ok(visit)
    }

    /// Forgets who has had no connection for long, and before that what such a process left open; of
    /// exchanges with other Regions what has ended.
    pub(super) fn tidy(&self, now: u64) {
        let idle = |visit: &Visit| visit.connections.load(Ordering::Relaxed) == 0;
        let long = |visit: &Visit| visit.used.load(Ordering::Relaxed).saturating_add(IDLE) < now;
        let (gone, left): (Vec<Arc<Visit>>, Vec<Arc<Visit>>) = {
            let mut present = self.present();
            let gone =
                present.visits.extract_if(|_, visit| idle(visit) && long(visit)).map(|(_, visit)| visit).collect();
            (gone, present.visits.values().cloned().collect())
        };
        drop(gone);
        for visit in left {
            visit.client.exchanges.tidy(now);
            if idle(&visit) && !visit.streams.is_empty() {
                visit.streams.sweep(LEFT_OPEN);
            }
        }
    }

    /// Forgets the processes of hosts that are not in the state, and what was opened and approved under
    /// another. Who `stays` keeps a login though the holder changed its PIN.
    pub(super) fn adopted(&self, opened: &Opened, stays: impl Fn(&Role) -> bool) {
        let state = opened.state();
        let mut present = self.present();
        let stays_host = |id: &[u8; 16]| state.hosts.iter().any(|host| host.id == *id);
        present.visits.retain(|guest, _| stays_host(&guest.host));
        present.shares.retain(|host, _| stays_host(host));
        for visit in present.visits.values() {
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
        self.present().visits.values().map(|visit| visit.streams.len()).sum()
    }

    pub(super) fn clear(&self) {
        let all = std::mem::take(&mut self.present().visits);
        drop(all);
    }

    pub(super) fn len(&self) -> usize {
        self.present().visits.len()
    }

    fn present(&self) -> MutexGuard<'_, Present> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::crypto::Entropy;
    use super::*;

    #[test]
    fn a_host_of_many_processes_pushes_out_its_own() {
        let own = Arc::new(OwnKeys::generate(&mut Entropy::System).unwrap());
        let (core, guests) = (Arc::new(Core::of_member(own, "one")), Guests::default());
        let guest = |host: u8, number: usize| {
            let mut process = [0; 32];
            process[..8].copy_from_slice(&number.to_be_bytes());
            Guest { host: [host; 16], process }
        };
        let enter = |guest| guests.enter(&core, Settings::default(), guest, "host").unwrap();
        drop(enter(guest(2, 0)));
        enter(guest(1, 0)).connections.store(1, Ordering::Relaxed);
        (1..=MOST_OF_A_HOST).for_each(|number| drop(enter(guest(1, number))));
        assert_eq!(guests.len(), MOST_OF_A_HOST + 1);
        assert!([guest(2, 0), guest(1, 0)].iter().all(|guest| guests.present().visits.contains_key(guest)));
    }
}
