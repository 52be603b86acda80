//! Who is logged in, PINs, and their counted attempts (PKCS#11 3.2 §5.6 C_Login, §5.5 C_SetPIN).

use std::time::{Duration, Instant};

use cryptoki_sys as ck;

use super::token::{Token, lock};
use super::{Module, SessionHandle};
use crate::error::{ErrorKind, Result};
use crate::hsm::{Command, DomainChange, Log, Reply, Role, Ticket};
use crate::store::{Meta, Pin};

/// Wrong PINs in a row after which a role is locked.
pub(super) const ATTEMPTS: u32 = 10;

/// How long attempts that are under way have to succeed before a PIN counts as locked: from the last
/// commit on, and in all.
const PATIENCE: Duration = Duration::from_secs(1);
const LONGEST_PATIENCE: Duration = Duration::from_secs(10);

/// What is longer is no PIN of any token, and is refused before it costs a hash or an attempt.
const LONGEST_PIN: usize = 255;

/// How often a change of the domain is tried again when other processes change it meanwhile: of four that
/// do so without a pause, each loses three times in four.
const RETRIES: usize = 64;

/// Who holds the login of a token in this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Holder {
    So,
    /// [`Role::User`] or [`Role::Named`].
    User(Role),
}

impl Holder {
    /// The holder that a user type and a name stand for. CKR_USER_TYPE_INVALID.
    pub(super) fn named(user: ck::CK_USER_TYPE, name: Option<&[u8]>) -> Result<Self> {
        match (user, name.filter(|name| !name.is_empty())) {
            (ck::CKU_SO, None) => Ok(Self::So),
            (ck::CKU_USER, None) => Ok(Self::User(Role::User)),
            (ck::CKU_USER, Some(name)) => {
                let name = std::str::from_utf8(name).map_err(|_| ErrorKind::ArgumentsBad.with("user name"))?;
                Ok(Self::User(Role::Named(name.to_owned())))
            }
            _ => Err(ErrorKind::UserTypeInvalid.into()),
        }
    }

    pub(super) fn role(&self) -> Role {
        match self {
            Self::So => Role::So,
            Self::User(role) => role.clone(),
        }
    }
}

/// The login state of a token, and a session's copy of it.
#[derive(Debug, Clone)]
pub(super) struct Credentials {
    /// +1 with every login and logout of this process.
    pub(super) epoch: u32,
    pub(super) ticket: Ticket,
    pub(super) holder: Option<Holder>,
}

impl Credentials {
    pub(super) fn nobody(epoch: u32) -> Self {
        Self { epoch, ticket: Ticket::public(), holder: None }
    }

    pub(super) fn is_so(&self) -> bool {
        self.holder == Some(Holder::So)
    }

    /// The SO never sees private objects.
    pub(super) fn sees_private(&self) -> bool {
        matches!(self.holder, Some(Holder::User(_)))
    }

    /// Whether this login began after that of `epoch`.
    pub(super) fn is_after(&self, epoch: u32) -> bool {
        self.epoch.wrapping_sub(epoch).cast_signed() > 0
    }

    /// CKR_USER_ALREADY_LOGGED_IN, CKR_USER_ANOTHER_ALREADY_LOGGED_IN.
    fn require_nobody_but(&self, wanted: &Holder) -> Result<()> {
        match &self.holder {
            None => Ok(()),
            Some(holder) if holder == wanted => Err(ErrorKind::UserAlreadyLoggedIn.into()),
            Some(_) => Err(ErrorKind::UserAnotherAlreadyLoggedIn.into()),
        }
    }
}

impl Token {
    /// Runs `check` as one counted attempt at a role's PIN. The attempt is on disk before the PIN
    /// is hashed, and stays there unless the check succeeds. CKR_PIN_LOCKED,
    /// CKR_USER_PIN_NOT_INITIALIZED.
    pub(super) fn attempt<T>(&self, role: &Role, mut check: impl FnMut(&Meta, &Pin) -> Result<T>) -> Result<T> {
        let missing = || ErrorKind::UserPinNotInitialized.into();
        if self.meta()?.pin(role).is_none() {
            return Err(missing());
        }
        self.begin_attempt(role)?;
        let mut tries = 1..RETRIES;
        let value = loop {
            let meta = self.meta()?;
            let pin = meta.pin(role).ok_or_else(missing)?;
            match check(&meta, pin) {
                Ok(value) => break value,
                // Others went on with the domain meanwhile: what was read is old by now.
                Err(error)
                    if error.kind() != ErrorKind::PinIncorrect
                        && tries.next().is_some()
                        && self.meta().is_ok_and(|now| now.domain.version > meta.domain.version) => {}
                // What was refused may be put right by hand.
                Err(error) => {
                    if !self.channel.looked_at_pin(&error) {
                        self.store.take_back_attempt(role)?;
                    }
                    self.store.forget();
                    return Err(error);
                }
            }
        };
        self.store.end_attempt(role)?;
        Ok(value)
    }
}

impl Token {
    /// Counts an attempt. Others that are under way count too until they succeed, so a PIN that seems
    /// locked may only be in use by many at once: then the store moves.
    fn begin_attempt(&self, role: &Role) -> Result<()> {
        let begun = Instant::now();
        let mut moved = (self.store.counter(), Instant::now());
        loop {
            match self.store.begin_attempt(role, ATTEMPTS) {
                Err(error) if error.kind() == ErrorKind::PinLocked => {
                    let counter = self.store.counter();
                    if counter != moved.0 {
                        moved = (counter, Instant::now());
                    }
                    if moved.1.elapsed() >= PATIENCE || begun.elapsed() >= LONGEST_PATIENCE {
                        return Err(error);
                    }
                    std::thread::sleep(PATIENCE / 50);
                }
                begun => return begun.map(|_| ()),
            }
        }
    }
}

/// A PIN to be checked. No PIN pad: a NULL PIN is an error.
pub(super) fn given_pin(pin: Option<&[u8]>) -> Result<&[u8]> {
    let pin = pin.ok_or_else(|| ErrorKind::ArgumentsBad.with("there is no protected authentication path"))?;
    if pin.len() > LONGEST_PIN {
        return Err(ErrorKind::PinIncorrect.into());
    }
    Ok(pin)
}

impl Module {
    /// A PIN to be set: CKR_PIN_LEN_RANGE.
    pub(super) fn new_pin<'a>(&self, pin: Option<&'a [u8]>) -> Result<&'a [u8]> {
        let pin = pin.ok_or_else(|| ErrorKind::ArgumentsBad.with("there is no protected authentication path"))?;
        let policy = &self.settings.pin;
        if !(policy.min_len..=policy.max_len).contains(&pin.len()) {
            return Err(ErrorKind::PinLenRange.into());
        }
        Ok(pin)
    }

    /// C_Login, and C_LoginUser with a `username`.
    pub fn login(
        &self,
        session: SessionHandle,
        user: ck::CK_USER_TYPE,
        pin: Option<&[u8]>,
        username: Option<&[u8]>,
    ) -> Result<()> {
        if user == ck::CKU_CONTEXT_SPECIFIC {
            return self.authenticate_operation(session, pin);
        }
        let holder = Holder::named(user, username)?;
        let session = self.session(session)?;
        drop(session.enter()?);
        let token = &session.token;

        let _gate = lock(&token.gate);
        let credentials = token.credentials();
        let before = credentials.epoch;
        credentials.require_nobody_but(&holder)?;
        let (all, rw) = token.session_counts();
        if holder == Holder::So && all != rw {
            return Err(ErrorKind::SessionReadOnlyExists.into());
        }
        let pin = given_pin(pin)?;
        let mut opened = false;
        let ticket = token.attempt(&holder.role(), |meta, record| {
            let (after, entries) = token.log_to(meta)?;
            let log = Log { after, entries: &entries };
            let login = Command::Login { pin, record: &record.record, domain: &meta.domain, log };
            let ticket = ticket(token.channel.call(&Ticket::public(), login)?)?;
            opened = true;
            Ok(ticket)
        });
        match ticket {
            Ok(ticket) => {
                token.begin_login(holder, ticket, before)?;
                token.housekeep();
                token.look_after_due_keys(&token.credentials(), self.settings.leaves_due_keys);
                token.reseal_in_background(self.settings.threads);
                Ok(())
            }
            Err(error) => {
                if opened {
                    token.log_out_of_hsm();
                    token.channel.settle();
                }
                Err(error)
            }
        }
    }

    /// C_Login with CKU_CONTEXT_SPECIFIC: authorises the active operations whose key has
    /// CKA_ALWAYS_AUTHENTICATE, once.
    fn authenticate_operation(&self, session: SessionHandle, pin: Option<&[u8]>) -> Result<()> {
        let session = self.session(session)?;
        let mut state = session.enter()?;
        if !state.operations.want_authentication() {
            return Err(ErrorKind::OperationNotInitialized.into());
        }
        let Some(Holder::User(role)) = state.credentials.holder.clone() else {
            return Err(ErrorKind::UserNotLoggedIn.into());
        };
        let pin = given_pin(pin)?;
        let token = &session.token;
        let _gate = lock(&token.gate);
        token.attempt(&role, |_, record| {
            token.channel.call(&state.credentials.ticket, Command::CheckPin { pin, record: &record.record })
        })?;
        state.operations.authenticate();
        Ok(())
    }

    pub fn logout(&self, session: SessionHandle) -> Result<()> {
        let session = self.session(session)?;
        match session.enter() {
            // What is wrong with the store does not keep anybody logged in.
            Err(error) if !matches!(error.kind(), ErrorKind::SessionHandleInvalid | ErrorKind::DeviceRemoved) => {}
            entered => drop(entered?),
        }
        let gate = lock(&session.token.gate);
        let ended = session.token.clear_login();
        drop(gate);
        session.token.channel.settle();
        if !ended {
            return Err(ErrorKind::UserNotLoggedIn.into());
        }
        self.settle_logout(&session.token);
        Ok(())
    }

    /// C_InitPIN: the SO gives the user a PIN, and unlocks it by that.
    pub fn init_pin(&self, session: SessionHandle, pin: Option<&[u8]>) -> Result<()> {
        let session = self.session(session)?;
        let credentials = session.enter()?.credentials.clone();
        if !credentials.is_so() {
            return Err(ErrorKind::UserNotLoggedIn.into());
        }
        let pin = self.new_pin(pin)?;
        let token = &session.token;
        let _gate = lock(&token.gate);
        retry(|| {
            token.look_anew()?;
            let command = Command::InitPin { role: Role::User, pin, cost: self.settings.pin.cost };
            let change = changed(token.channel.call(&credentials.ticket, command)?)?;
            token.store.commit_domain(&change)
        })?;
        token.check()
    }

    /// C_SetPIN: of whoever is logged in; of the user in a public session.
    pub fn set_pin(&self, session: SessionHandle, old: Option<&[u8]>, new: Option<&[u8]>) -> Result<()> {
        let session = self.session(session)?;
        let credentials = session.enter()?.credentials.clone();
        session.require_rw()?;
        let role = credentials.holder.as_ref().map_or(Role::User, Holder::role);
        if old.is_none() {
            return Err(ErrorKind::ArgumentsBad.with("there is no protected authentication path"));
        }
        let new = self.new_pin(new)?;
        let old = given_pin(old)?;
        let token = &session.token;
        let _gate = lock(&token.gate);
        retry(|| {
            let change = token.attempt(&role, |meta, record| {
                let (after, entries) = token.log_to(meta)?;
                changed(token.channel.call(
                    &credentials.ticket,
                    Command::SetPin {
                        old,
                        new,
                        record: &record.record,
                        domain: &meta.domain,
                        log: Log { after, entries: &entries },
                        cost: self.settings.pin.cost,
                    },
                )?)
            })?;
            token.store.commit_domain(&change)
        })?;
        token.check()
    }
}

/// Tries again while the store says that nothing was changed, bounded.
pub(super) fn retry(mut change: impl FnMut() -> Result<()>) -> Result<()> {
    for _ in 1..RETRIES {
        match change() {
            Err(error) if error.kind() == ErrorKind::FunctionFailed => {}
            done => return done,
        }
    }
    change()
}

pub(super) fn ticket(reply: Reply) -> Result<Ticket> {
    match reply {
        Reply::LoggedIn(ticket) => Ok(ticket),
        _ => Err(ErrorKind::GeneralError.with("the HSM answered a login with something else")),
    }
}

/// What is to be committed of a change of the domain.
pub(super) fn changed(reply: Reply) -> Result<DomainChange> {
    match reply {
        Reply::Changed(change) => Ok(change),
        _ => Err(ErrorKind::GeneralError.with("the HSM answered a change of the domain with something else")),
    }
}
