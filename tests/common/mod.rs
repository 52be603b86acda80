//! The module through its C ABI, for tests: loaded from the rlib, one test at a time.
// Each test file uses a part of it.
#![allow(dead_code, unreachable_pub, unused_imports)]

use std::ffi::c_void;
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cryptoki_sys as ck;
use tempfile::TempDir;

pub const SO_PIN: &[u8] = b"so-pin-123456";
pub const USER_PIN: &[u8] = b"user-pin-123456";

/// One library to a process, so one test at a time.
static ONE: Mutex<()> = Mutex::new(());

/// The function table, and a data directory of its own.
pub struct Library {
    pub f: ck::CK_FUNCTION_LIST_3_2,
    home: TempDir,
    _one: MutexGuard<'static, ()>,
}

/// Calls a function of the table: `call!(library, C_Logout(session))` is the `CK_RV`.
macro_rules! call {
    ($library:expr, $name:ident($($argument:expr),* $(,)?)) => {
        // SAFETY: the test passes pointers that are NULL or valid.
        unsafe { ($library.f.$name.unwrap())($($argument),*) }
    };
}
pub(crate) use call;

impl Library {
    /// The table, with an empty data directory; not initialised.
    pub fn load() -> Self {
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let home = tempfile::tempdir().unwrap();
        // SAFETY: tests that read the environment hold the same lock.
        unsafe {
            std::env::set_var("CONCLAVE_HOME", home.path());
            std::env::set_var("XDG_CONFIG_HOME", home.path().join("config"));
            std::env::remove_var("CONCLAVE_CONF");
        }
        Self { f: table(), home, _one: one }
    }

    /// With a configuration file's text.
    pub fn load_with(configuration: &str) -> Self {
        let library = Self::load();
        let path = library.home.path().join("conclave.toml");
        std::fs::write(&path, configuration).unwrap();
        // SAFETY: as in `load`.
        unsafe { std::env::set_var("CONCLAVE_CONF", path) };
        library
    }

    /// Loaded and initialised.
    pub fn start() -> Self {
        let library = Self::load();
        library.initialize();
        library
    }

    pub fn initialize(&self) {
        assert_eq!(call!(self, C_Initialize(ptr::null_mut())), ck::CKR_OK);
    }

    /// Started, with a token on the first slot; its session is read-write and logged in.
    pub fn with_token() -> (Self, Session) {
        let library = Self::start();
        let session = library.make_token();
        (library, session)
    }

    /// Initialises the first slot's token and its user PIN; answers a session of the user's.
    pub fn make_token(&self) -> Session {
        let slot = self.slots(true)[0];
        let mut label = [b' '; 32];
        label[..4].copy_from_slice(b"test");
        let (mut so, mut user) = (SO_PIN.to_vec(), USER_PIN.to_vec());
        let len = so.len() as ck::CK_ULONG;
        assert_eq!(call!(self, C_InitToken(slot, so.as_mut_ptr(), len, label.as_mut_ptr())), ck::CKR_OK);
        let session = self.open(slot);
        let len = user.len() as ck::CK_ULONG;
        assert_eq!(self.login(session, ck::CKU_SO, SO_PIN), ck::CKR_OK);
        assert_eq!(call!(self, C_InitPIN(session, user.as_mut_ptr(), len)), ck::CKR_OK);
        assert_eq!(call!(self, C_Logout(session)), ck::CKR_OK);
        assert_eq!(self.login(session, ck::CKU_USER, USER_PIN), ck::CKR_OK);
        session
    }

    pub fn slots(&self, present: bool) -> Vec<ck::CK_SLOT_ID> {
        let mut count = 0;
        let present = ck::CK_BBOOL::from(present);
        assert_eq!(call!(self, C_GetSlotList(present, ptr::null_mut(), &raw mut count)), ck::CKR_OK);
        let mut slots = vec![0; count as usize];
        assert_eq!(call!(self, C_GetSlotList(present, slots.as_mut_ptr(), &raw mut count)), ck::CKR_OK);
        slots.truncate(count as usize);
        slots
    }

    /// A read-write session.
    pub fn open(&self, slot: ck::CK_SLOT_ID) -> Session {
        let mut session = 0;
        let flags = ck::CKF_SERIAL_SESSION | ck::CKF_RW_SESSION;
        assert_eq!(call!(self, C_OpenSession(slot, flags, ptr::null_mut(), None, &raw mut session)), ck::CKR_OK);
        session
    }

    pub fn login(&self, session: Session, user: ck::CK_USER_TYPE, pin: &[u8]) -> ck::CK_RV {
        let mut pin = pin.to_vec();
        call!(self, C_Login(session, user, pin.as_mut_ptr(), pin.len() as ck::CK_ULONG))
    }

    /// Generates a secret key.
    pub fn generate(&self, session: Session, mechanism: ck::CK_MECHANISM_TYPE, template: &Template) -> Made {
        let mut mechanism = Mechanism::new(mechanism);
        let (at, count) = template.parts();
        let mut key = 0;
        match call!(self, C_GenerateKey(session, mechanism.raw(), at, count, &raw mut key)) {
            ck::CKR_OK => Ok(key),
            rv => Err(rv),
        }
    }

    pub fn create(&self, session: Session, template: &Template) -> Made {
        let (at, count) = template.parts();
        let mut object = 0;
        match call!(self, C_CreateObject(session, at, count, &raw mut object)) {
            ck::CKR_OK => Ok(object),
            rv => Err(rv),
        }
    }

    /// One attribute's value, asked for in two calls.
    pub fn attribute(
        &self,
        session: Session,
        object: ck::CK_OBJECT_HANDLE,
        kind: ck::CK_ATTRIBUTE_TYPE,
    ) -> Result<Vec<u8>, ck::CK_RV> {
        let mut attribute = ck::CK_ATTRIBUTE { type_: kind, pValue: ptr::null_mut(), ulValueLen: 0 };
        match call!(self, C_GetAttributeValue(session, object, &raw mut attribute, 1)) {
            ck::CKR_OK => {}
            rv => return Err(rv),
        }
        let mut value = vec![0u8; attribute.ulValueLen as usize];
        attribute.pValue = value.as_mut_ptr().cast();
        match call!(self, C_GetAttributeValue(session, object, &raw mut attribute, 1)) {
            ck::CKR_OK => Ok(value),
            rv => Err(rv),
        }
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        call!(self, C_Finalize(ptr::null_mut()));
        // SAFETY: as in `load`.
        unsafe { std::env::remove_var("CONCLAVE_CONF") };
    }
}

pub type Session = ck::CK_SESSION_HANDLE;
pub type Made = Result<ck::CK_OBJECT_HANDLE, ck::CK_RV>;

fn table() -> ck::CK_FUNCTION_LIST_3_2 {
    let mut interface = ptr::null_mut();
    // SAFETY: NULL asks for the default interface; the result is static.
    unsafe {
        let rv = conclave::abi::entry::C_GetInterface(ptr::null_mut(), ptr::null_mut(), &raw mut interface, 0);
        assert_eq!(rv, ck::CKR_OK);
        (*interface).pFunctionList.cast::<ck::CK_FUNCTION_LIST_3_2>().read()
    }
}

/// A template that owns its values.
#[derive(Default)]
pub struct Template {
    values: Vec<Box<[u8]>>,
    attributes: Vec<ck::CK_ATTRIBUTE>,
}

impl Template {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn bytes(mut self, kind: ck::CK_ATTRIBUTE_TYPE, value: &[u8]) -> Self {
        let mut value: Box<[u8]> = value.into();
        let at = value.as_mut_ptr().cast();
        self.attributes.push(ck::CK_ATTRIBUTE { type_: kind, pValue: at, ulValueLen: value.len() as ck::CK_ULONG });
        self.values.push(value);
        self
    }

    pub fn flag(self, kind: ck::CK_ATTRIBUTE_TYPE, value: bool) -> Self {
        self.bytes(kind, &[u8::from(value)])
    }

    pub fn ulong(self, kind: ck::CK_ATTRIBUTE_TYPE, value: ck::CK_ULONG) -> Self {
        self.bytes(kind, &value.to_ne_bytes())
    }

    pub fn nested(mut self, kind: ck::CK_ATTRIBUTE_TYPE, mut inner: Self) -> Self {
        let len = size_of_val(&inner.attributes[..]) as ck::CK_ULONG;
        let at = inner.attributes.as_mut_ptr().cast();
        self.attributes.push(ck::CK_ATTRIBUTE { type_: kind, pValue: at, ulValueLen: len });
        self.values.append(&mut inner.values);
        let bytes = Box::leak(inner.attributes.into_boxed_slice());
        debug_assert_eq!(bytes.as_mut_ptr().cast::<c_void>(), at);
        self
    }

    pub fn parts(&self) -> (*mut ck::CK_ATTRIBUTE, ck::CK_ULONG) {
        (self.attributes.as_ptr().cast_mut(), self.attributes.len() as ck::CK_ULONG)
    }
}

/// A mechanism that owns its parameter.
pub struct Mechanism {
    _parameter: Box<[u8]>,
    raw: ck::CK_MECHANISM,
}

impl Mechanism {
    pub fn new(kind: ck::CK_MECHANISM_TYPE) -> Self {
        Self::with(kind, &[])
    }

    pub fn with(kind: ck::CK_MECHANISM_TYPE, parameter: &[u8]) -> Self {
        let mut parameter: Box<[u8]> = parameter.into();
        let at = if parameter.is_empty() { ptr::null_mut() } else { parameter.as_mut_ptr().cast() };
        let len = parameter.len() as ck::CK_ULONG;
        Self { _parameter: parameter, raw: ck::CK_MECHANISM { mechanism: kind, pParameter: at, ulParameterLen: len } }
    }

    /// The parameter is a structure, which must outlive the mechanism's use.
    pub fn of<T>(kind: ck::CK_MECHANISM_TYPE, parameter: &mut T) -> Self {
        let raw = ck::CK_MECHANISM {
            mechanism: kind,
            pParameter: ptr::from_mut(parameter).cast(),
            ulParameterLen: size_of::<T>() as ck::CK_ULONG,
        };
        Self { _parameter: Box::default(), raw }
    }

    pub fn raw(&mut self) -> *mut ck::CK_MECHANISM {
        &raw mut self.raw
    }
}
