//! What PKCS#11 calls the library and the token: slots, sessions, handles, login and operation
//! state. It holds handles and sealed records, never key material.
//!
//! [`Module`] has one method per group of C_ functions; the ABI translates and calls it. The methods
//! are in one file per section of the standard.
//!
//! Locks are taken in this order, and none is held while the HSM computes but the session's own and,
//! for PINs, a gate: session, gate, slot, `Token::held`, `Token::login`, session objects, object
//! names, object shard.

mod approvals;
mod audit;
mod backend;
mod builtin;
mod domain;
mod find;
mod handle;
mod key;
mod login;
mod managed;
mod object;
mod objects;
mod operation;
mod reseal;
mod session;
mod slot;
mod token;
mod users;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use cryptoki_sys as ck;
use zeroize::Zeroizing;

use self::backend::Backend;
use self::handle::Handles;
pub use self::key::Wrapped;
pub use self::managed::{
    DataKey, DataKeyPair, DueReport, ImportParameters, KeyQuery, Pending, longest_answer, longest_offer,
};
use self::reseal::Threads;
use self::session::Sessions;
use self::slot::Slots;
use crate::config::{Config, PinPolicy, ZeroIv};
use crate::error::{ErrorKind, Result};
use crate::hsm::{self, AttributeType, Value, View};
use crate::log;

pub type SlotId = ck::CK_SLOT_ID;
pub type SessionHandle = ck::CK_SESSION_HANDLE;
pub type ObjectHandle = ck::CK_OBJECT_HANDLE;

/// What C_Initialize was told that matters below the ABI.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// What each thread of the library's own calls first, and ends if it is refused. None: there are
    /// to be no such threads (CKF_LIBRARY_CANT_CREATE_OS_THREADS).
    pub enter_thread: Option<fn() -> Result<()>>,
    /// A login leaves what is due of managed keys to `run_due`, which then can tell of all that was done.
    pub leaves_due_keys: bool,
}

/// `CK_SLOT_INFO` without padding.
#[derive(Debug, Clone)]
pub struct SlotInfo {
    pub description: String,
    pub flags: ck::CK_FLAGS,
}

/// `CK_TOKEN_INFO` without padding.
#[derive(Debug, Clone)]
pub struct TokenInfo {
    pub label: String,
    pub model: String,
    pub serial: String,
    pub flags: ck::CK_FLAGS,
    pub session_count: u64,
    pub rw_session_count: u64,
    pub max_pin_len: u64,
    pub min_pin_len: u64,
    /// Operators govern the token's domain, no longer its SO.
    pub founded: bool,
}

/// An object that [`Module::sealed_under`] found.
pub struct SealedObject {
    /// CKA_UNIQUE_ID.
    pub unique_id: String,
    /// None if the login does not see the object.
    pub view: Option<Arc<View>>,
}

/// `CK_SESSION_INFO`.
#[derive(Debug, Clone, Copy)]
pub struct SessionInfo {
    pub slot: SlotId,
    pub state: ck::CK_STATE,
    pub flags: ck::CK_FLAGS,
    pub device_error: u64,
}

/// An attribute as C_GetAttributeValue finds it.
pub enum Readable<'a> {
    Value(&'a Value),
    /// The value of a key that is neither sensitive nor unextractable.
    Secret(Zeroizing<Vec<u8>>),
}

/// The attributes of one object.
pub trait AttributeSource {
    /// CKR_ATTRIBUTE_SENSITIVE, CKR_ATTRIBUTE_TYPE_INVALID.
    fn read(&self, kind: AttributeType) -> Result<Readable<'_>>;
}

/// What the configuration says about this layer.
#[derive(Debug, Clone, Copy)]
struct Settings {
    pin: PinPolicy,
    generates_zero_iv: bool,
    hsm: hsm::Settings,
    threads: Threads,
    /// For the operators' approval of a use of a key.
    approval_wait: Duration,
    max_managed_keys: u64,
    leaves_due_keys: bool,
}

/// The library between C_Initialize and C_Finalize.
pub struct Module {
    closed: AtomicBool,
    settings: Settings,
    backend: Box<dyn Backend>,
    handles: Handles,
    slots: RwLock<Slots>,
    sessions: Sessions,
}

impl Module {
    /// Reads the configuration and finds the slots. Does nothing that grows with the number of keys.
    pub fn new(options: Options) -> Result<Self> {
        let config = configure().inspect_err(log::early)?;
        Self::configured(&config, options).inspect_err(|error| tracing::error!(%error, "the library does not start"))
    }

    fn configured(config: &Config, options: Options) -> Result<Self> {
        let hsm = hsm::Settings {
            key_separation: config.key_separation,
            pkcs1_unwrap: config.pkcs1_unwrap,
            cbc_pad_unwrap: config.cbc_pad_unwrap,
            audit: config.audit,
        };
        if !hsm.key_separation {
            tracing::warn!("key_separation is off: keys that wrap may decrypt what they wrapped");
        }
        for (on, what) in [(hsm.pkcs1_unwrap, "CKM_RSA_PKCS"), (hsm.cbc_pad_unwrap, "CKM_AES_CBC_PAD")] {
            if on {
                tracing::warn!("unwrapping with {what} is on: whoever may unwrap with a key can decrypt with it");
            }
        }
        let settings = Settings {
            pin: config.pin,
            generates_zero_iv: config.gcm_zero_iv == ZeroIv::Generate,
            hsm,
            threads: options.enter_thread.map_or(Threads::Forbidden, Threads::Allowed),
            approval_wait: config.approval_wait,
            max_managed_keys: config.max_managed_keys,
            leaves_due_keys: options.leaves_due_keys,
        };
        Self::over(backend::open(config, hsm)?, settings)
    }

    fn over(backend: Box<dyn Backend>, settings: Settings) -> Result<Self> {
        let module = Self {
            closed: AtomicBool::new(false),
            settings,
            backend,
            handles: Handles::new(),
            slots: RwLock::new(Slots::new(settings.threads)),
            sessions: Sessions::new(),
        };
        module.refresh_slots()?;
        Ok(module)
    }

    /// Closes all sessions and lets go of everything. A late caller finds it empty, not freed.
    /// Does not wait for calls that are inside; they end on what they hold.
    pub fn finalize(&self) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        self.abandon_sessions();
        self.slots.write().unwrap_or_else(std::sync::PoisonError::into_inner).clear();
        self.backend.close();
    }

    /// CKR_CRYPTOKI_NOT_INITIALIZED after [`Self::finalize`].
    fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(ErrorKind::CryptokiNotInitialized.into());
        }
        Ok(())
    }

    /// Whether an all-zero IV of CKM_AES_GCM is replaced by a generated one (`gcm_zero_iv`).
    pub fn generates_zero_iv(&self) -> bool {
        self.settings.generates_zero_iv
    }
}

/// Whoever lets go of the library ends its logins, and with them the chains of the audit log.
impl Drop for Module {
    fn drop(&mut self) {
        self.finalize();
    }
}

fn configure() -> Result<Config> {
    let config = Config::load()?;
    log::install(config.log_level, config.log.as_deref())
        .map_err(|error| ErrorKind::GeneralError.with(format!("the log cannot be written: {error}")))?;
    Ok(config)
}

#[cfg(test)]
mod tests;
