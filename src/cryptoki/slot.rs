//! Slots and tokens (PKCS#11 3.2 §5.5).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use cryptoki_sys as ck;

use super::backend::{Backend, SlotIds};
use super::login::{ATTEMPTS, given_pin, ticket};
use super::reseal::Threads;
use super::token::{Token, lock};
use super::{Module, SlotId, SlotInfo, TokenInfo};
use crate::channel::Channel;
use crate::error::{Error, ErrorKind, Result};
use crate::hsm::{
    Command, DomainToken, Log, MechanismInfo, MechanismType, PinRecord, Reply, Role, Ticket, mechanism_info, mechanisms,
};
use crate::store::Pin;

/// A slot, which outlives the tokens that are initialised in it.
pub(super) struct Slot {
    id: SlotId,
    threads: Threads,
    /// Opened at first use; None also while the slot has no token.
    token: RwLock<Option<Arc<Token>>>,
    /// Serialises C_InitToken.
    gate: Mutex<()>,
}

impl Slot {
    fn new(id: SlotId, threads: Threads) -> Arc<Self> {
        Arc::new(Self { id, threads, token: RwLock::new(None), gate: Mutex::new(()) })
    }

    /// The slot's present token; None if it is uninitialised.
    fn token(&self, backend: &dyn Backend) -> Result<Option<Arc<Token>>> {
        let present = self.token.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(token) = present {
            match token.check() {
                Ok(()) => return Ok(Some(token)),
                Err(error) if !token.is_removed() => return Err(error),
                Err(_) => {}
            }
        }
        let mut place = self.token.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(token) = &*place
            && !token.is_removed()
        {
            return Ok(Some(token.clone()));
        }
        *place = None;
        let Some(store) = backend.store(self.id)? else { return Ok(None) };
        let token = Arc::new(Token::open(self.id, store, backend.channel(self.id)?, self.threads)?);
        *place = Some(token.clone());
        Ok(Some(token))
    }

    /// The token is gone from the slot.
    fn remove_token(&self) {
        let token = self.token.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(token) = token {
            token.remove();
        }
    }
}

/// The slots as the last look at the back end showed them.
pub(super) struct Slots {
    threads: Threads,
    by_id: BTreeMap<SlotId, Arc<Slot>>,
    free: Option<SlotId>,
}

impl Slots {
    pub(super) fn new(threads: Threads) -> Self {
        Self { threads, by_id: BTreeMap::new(), free: None }
    }

    fn update(&mut self, ids: &SlotIds) {
        let mut before = std::mem::take(&mut self.by_id);
        for &id in ids.tokens.iter().chain(&ids.free) {
            self.by_id.insert(id, before.remove(&id).unwrap_or_else(|| Slot::new(id, self.threads)));
        }
        self.free = ids.free;
        for slot in before.into_values() {
            slot.remove_token();
        }
    }

    pub(super) fn clear(&mut self) {
        self.update(&SlotIds::default());
    }
}

impl Module {
    pub(super) fn slot(&self, slot: SlotId) -> Result<Arc<Slot>> {
        self.check_open()?;
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        slots.by_id.get(&slot).cloned().ok_or_else(|| ErrorKind::SlotIdInvalid.into())
    }

    /// The tokens that this process has open, as far as nobody is changing them. Waits for nobody.
    pub(super) fn open_tokens(&self) -> Vec<Arc<Token>> {
        let Ok(slots) = self.slots.try_read() else { return Vec::new() };
        slots.by_id.values().filter_map(|slot| slot.token.try_read().ok()?.clone()).collect()
    }

    /// The initialised token of a slot; CKR_TOKEN_NOT_RECOGNIZED if there is none.
    pub(super) fn token(&self, slot: SlotId) -> Result<Arc<Token>> {
        self.slot(slot)?.token(&*self.backend)?.ok_or_else(not_initialised)
    }

    /// Looks at the back end anew: what other processes made appears, what they destroyed is gone.
    pub(super) fn refresh_slots(&self) -> Result<()> {
        let ids = self.backend.slots()?;
        self.slots.write().unwrap_or_else(PoisonError::into_inner).update(&ids);
        Ok(())
    }

    /// C_GetSlotList. `refresh` is for a call with a NULL list, which is when the list may change.
    /// Every slot always has a token, if perhaps an uninitialised one.
    pub fn slot_list(&self, _token_present: bool, refresh: bool) -> Result<Vec<SlotId>> {
        self.check_open()?;
        if refresh {
            self.refresh_slots()?;
        }
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        let tokens = slots.by_id.keys().copied().filter(|id| Some(*id) != slots.free);
        Ok(tokens.chain(slots.free).collect())
    }

    pub fn slot_info(&self, slot: SlotId) -> Result<SlotInfo> {
        let slot = self.slot(slot)?;
        let description = self.backend.describe(slot.id).unwrap_or_else(|| format!("Conclave slot {}", slot.id));
        Ok(SlotInfo { description, flags: ck::CKF_TOKEN_PRESENT })
    }

    pub fn token_info(&self, slot: SlotId) -> Result<TokenInfo> {
        let mut info = TokenInfo {
            label: String::new(),
            model: "Conclave".to_owned(),
            serial: String::new(),
            flags: ck::CKF_RNG | ck::CKF_LOGIN_REQUIRED | ck::CKF_DUAL_CRYPTO_OPERATIONS,
            session_count: 0,
            rw_session_count: 0,
            max_pin_len: self.settings.pin.max_len as u64,
            min_pin_len: self.settings.pin.min_len as u64,
            founded: false,
        };
        let Some(token) = self.slot(slot)?.token(&*self.backend)? else { return Ok(info) };
        let meta = token.meta()?;
        let so =
            pin_flags(meta.pin(&Role::So), [ck::CKF_SO_PIN_COUNT_LOW, ck::CKF_SO_PIN_FINAL_TRY, ck::CKF_SO_PIN_LOCKED]);
        let user = pin_flags(
            meta.pin(&Role::User),
            [ck::CKF_USER_PIN_COUNT_LOW, ck::CKF_USER_PIN_FINAL_TRY, ck::CKF_USER_PIN_LOCKED],
        );
        info.flags |= ck::CKF_TOKEN_INITIALIZED | so | user;
        if meta.pin(&Role::User).is_some() {
            info.flags |= ck::CKF_USER_PIN_INITIALIZED;
        }
        // As the signed state has them; the row beside it is for the eye.
        let domain = token.domain();
        info.label.clone_from(&domain.label);
        info.serial.clone_from(&domain.serial);
        info.founded = domain.founded;
        (info.session_count, info.rw_session_count) = token.session_counts();
        Ok(info)
    }

    /// CKR_NO_EVENT; blocking is not supported.
    pub fn wait_for_slot_event(&self, dont_block: bool) -> Result<SlotId> {
        self.check_open()?;
        Err(if dont_block { ErrorKind::NoEvent } else { ErrorKind::FunctionNotSupported }.into())
    }

    pub fn mechanism_list(&self, slot: SlotId) -> Result<Vec<MechanismType>> {
        self.slot(slot)?;
        Ok(mechanisms().map(|info| info.kind).collect())
    }

    pub fn mechanism_info(&self, slot: SlotId, kind: MechanismType) -> Result<MechanismInfo> {
        self.slot(slot)?;
        let mut info = mechanism_info(kind)?;
        if info.oracle_prone && !self.settings.hsm.allows_oracle(kind) {
            info.flags &= !ck::CKF_UNWRAP;
        }
        Ok(info)
    }

    /// Destroys a token with all its objects; its slot id is not used again. Needs no PIN: whoever
    /// may write the data directory can delete it anyway. CKR_SESSION_EXISTS;
    /// CKR_TOKEN_WRITE_PROTECTED if there are managed keys, which have a waiting period, unless
    /// they are to go with it.
    pub fn destroy_token(&self, slot: SlotId, with_managed_keys: bool) -> Result<()> {
        // One that cannot be opened is destroyed all the same.
        if let Ok(Some(token)) = self.slot(slot)?.token(&*self.backend) {
            if !with_managed_keys && let Ok(count @ 1..) = token.store.count_managed() {
                return Err(has_managed_keys(count));
            }
            token.remove_if_idle()?;
        }
        self.backend.destroy(slot)?;
        self.refresh_slots()
    }

    /// C_InitToken. On a free slot it makes a token; on another it checks the SO PIN, erases all
    /// objects and starts anew with a new serial number.
    ///
    /// `pin` is None for a NULL pointer (protected authentication path, which there is none).
    /// `label` is 32 bytes, blank padded.
    pub fn init_token(&self, slot: SlotId, pin: Option<&[u8]>, label: &[u8; 32]) -> Result<()> {
        let slot = self.slot(slot)?;
        let label = std::str::from_utf8(label).map_err(|_| ErrorKind::ArgumentsBad.with("the label is not UTF-8"))?;
        let label = label.trim_end_matches([' ', '\0']);
        self.backend.check_init(slot.id)?;
        let _gate = lock(&slot.gate);
        let Some(token) = slot.token(&*self.backend)? else {
            let pin = self.new_pin(pin)?;
            let founded = self.found(slot.id, label, pin)?;
            // The token is opened by whoever needs it first.
            return self.backend.create(slot.id, label, &founded.serial, &founded.domain, &founded.so_pin).map(drop);
        };
        if token.session_counts().0 != 0 {
            return Err(ErrorKind::SessionExists.into());
        }
        if token.domain().founded {
            let why = "the domain is governed by its operators: nobody initialises its token anew";
            return Err(ErrorKind::TokenWriteProtected.with(why));
        }
        let has_managed = || match token.store.count_managed()? {
            0 => Ok(()),
            count => Err(has_managed_keys(count)),
        };
        has_managed()?;
        let pin = given_pin(pin)?;
        self.check_so_pin(&token, pin)?;
        let founded = self.found(slot.id, label, pin)?;
        // Nobody opens a session between here and the reset.
        let mut place = slot.token.write().unwrap_or_else(PoisonError::into_inner);
        token.remove_if_idle()?;
        *place = None;
        // Another process may have made one since.
        has_managed()?;
        token.store.reset(label, &founded.serial, &founded.domain, Some(&founded.so_pin))
    }

    /// One counted attempt at the SO PIN, in an HSM instance of its own.
    fn check_so_pin(&self, token: &Token, pin: &[u8]) -> Result<()> {
        let _gate = lock(&token.gate);
        let channel = self.backend.channel(token.slot)?;
        token.attempt(&Role::So, |meta, record| {
            let log = Log::default();
            channel.call(&Ticket::public(), Command::Adopt { domain: &meta.domain, log })?;
            let login = Command::Login { pin, record: &record.record, domain: &meta.domain, log };
            ticket(channel.call(&Ticket::public(), login)?)
        })?;
        channel.call(&Ticket::public(), Command::Logout).map(drop)
    }

    /// A new domain of one under a new serial number.
    fn found(&self, slot: SlotId, label: &str, so_pin: &[u8]) -> Result<Founded> {
        let channel = self.backend.channel(slot)?;
        let serial = new_serial(&*channel)?;
        let cost = self.settings.pin.cost;
        match channel.call(&Ticket::public(), Command::Found { label, serial: &serial, so_pin, cost })? {
            Reply::Founded { domain, so_pin } => Ok(Founded { serial, domain, so_pin }),
            _ => Err(ErrorKind::GeneralError.with("the HSM answered a founding with something else")),
        }
    }
}

struct Founded {
    serial: String,
    domain: DomainToken,
    so_pin: PinRecord,
}

/// 16 hexadecimal digits.
fn new_serial(channel: &dyn Channel) -> Result<String> {
    let mut bytes = [0; 8];
    channel.call(&Ticket::public(), Command::Random { output: &mut bytes })?;
    Ok(format!("{:016x}", u64::from_be_bytes(bytes)))
}

/// Count low, final try, locked, as the failure counter has it.
fn pin_flags(pin: Option<&Pin>, [low, last, locked]: [ck::CK_FLAGS; 3]) -> ck::CK_FLAGS {
    match pin.map_or(0, |pin| pin.failures) {
        0 => 0,
        failures if failures >= ATTEMPTS => locked,
        failures if failures + 1 == ATTEMPTS => low | last,
        _ => low,
    }
}

fn has_managed_keys(count: u64) -> Error {
    ErrorKind::TokenWriteProtected.with(format!(
        "the token has managed keys ({count}), which go only after a waiting period; \
         \"conclave token destroy --with-managed-keys\" destroys token and keys at once"
    ))
}

fn not_initialised() -> Error {
    ErrorKind::TokenNotRecognized.with("the token is not initialised")
}
