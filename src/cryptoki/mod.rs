//! What PKCS#11 calls the library and the token: slots, sessions, handles, login and operation
//! state. It holds handles and sealed records, never key material.
//!
//! [`Module`] has one method per group of C_ functions; the ABI translates and calls it.

use cryptoki_sys as ck;
use zeroize::Zeroizing;

use crate::error::{ErrorKind, Result};
use crate::hsm::{AttributeType, Function, Mechanism, MechanismInfo, MechanismType, Outcome, Template, Value};

pub type SlotId = ck::CK_SLOT_ID;
pub type SessionHandle = ck::CK_SESSION_HANDLE;
pub type ObjectHandle = ck::CK_OBJECT_HANDLE;

/// What C_Initialize was told that matters below the ABI.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// CKF_LIBRARY_CANT_CREATE_OS_THREADS.
    pub no_threads: bool,
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

/// The library between C_Initialize and C_Finalize.
pub struct Module {}

macro_rules! later {
    () => {
        Err(ErrorKind::FunctionNotSupported.into())
    };
}

#[allow(unused_variables)]
impl Module {
    /// Reads the configuration and finds the slots. Does nothing that grows with the number of keys.
    pub fn new(options: Options) -> Result<Self> {
        later!()
    }

    /// Closes all sessions and lets go of everything. A late caller finds it empty, not freed.
    pub fn finalize(&self) {}

    /// Whether an all-zero IV of CKM_AES_GCM is replaced by a generated one (`gcm_zero_iv`).
    pub fn generates_zero_iv(&self) -> bool {
        false
    }

    // Slots and tokens (PKCS#11 3.2 §5.5)

    pub fn slot_list(&self, token_present: bool) -> Result<Vec<SlotId>> {
        later!()
    }
    pub fn slot_info(&self, slot: SlotId) -> Result<SlotInfo> {
        later!()
    }
    pub fn token_info(&self, slot: SlotId) -> Result<TokenInfo> {
        later!()
    }
    /// CKR_NO_EVENT; blocking is not supported.
    pub fn wait_for_slot_event(&self, dont_block: bool) -> Result<SlotId> {
        later!()
    }
    pub fn mechanism_list(&self, slot: SlotId) -> Result<Vec<MechanismType>> {
        later!()
    }
    pub fn mechanism_info(&self, slot: SlotId, kind: MechanismType) -> Result<MechanismInfo> {
        later!()
    }
    /// `pin` is None for a NULL pointer (protected authentication path, which there is none).
    /// `label` is 32 bytes, blank padded.
    pub fn init_token(&self, slot: SlotId, pin: Option<&[u8]>, label: &[u8; 32]) -> Result<()> {
        later!()
    }
    pub fn init_pin(&self, session: SessionHandle, pin: Option<&[u8]>) -> Result<()> {
        later!()
    }
    pub fn set_pin(&self, session: SessionHandle, old: Option<&[u8]>, new: Option<&[u8]>) -> Result<()> {
        later!()
    }

    // Sessions (§5.6)

    pub fn open_session(&self, slot: SlotId, flags: ck::CK_FLAGS) -> Result<SessionHandle> {
        later!()
    }
    pub fn close_session(&self, session: SessionHandle) -> Result<()> {
        later!()
    }
    pub fn close_all_sessions(&self, slot: SlotId) -> Result<()> {
        later!()
    }
    pub fn session_info(&self, session: SessionHandle) -> Result<SessionInfo> {
        later!()
    }
    /// CKF_ENCRYPT | ... as C_SessionCancel has them.
    pub fn session_cancel(&self, session: SessionHandle, flags: ck::CK_FLAGS) -> Result<()> {
        later!()
    }
    pub fn operation_state(&self, session: SessionHandle) -> Result<Vec<u8>> {
        later!()
    }
    pub fn set_operation_state(
        &self,
        session: SessionHandle,
        state: &[u8],
        encryption_key: ObjectHandle,
        authentication_key: ObjectHandle,
    ) -> Result<()> {
        later!()
    }
    /// C_Login, and C_LoginUser with a `username`.
    pub fn login(
        &self,
        session: SessionHandle,
        user: ck::CK_USER_TYPE,
        pin: Option<&[u8]>,
        username: Option<&[u8]>,
    ) -> Result<()> {
        later!()
    }
    pub fn logout(&self, session: SessionHandle) -> Result<()> {
        later!()
    }

    // Objects (§5.7)

    pub fn create_object(&self, session: SessionHandle, template: &Template<'_>) -> Result<ObjectHandle> {
        later!()
    }
    pub fn copy_object(
        &self,
        session: SessionHandle,
        object: ObjectHandle,
        template: &Template<'_>,
    ) -> Result<ObjectHandle> {
        later!()
    }
    pub fn destroy_object(&self, session: SessionHandle, object: ObjectHandle) -> Result<()> {
        later!()
    }
    pub fn object_size(&self, session: SessionHandle, object: ObjectHandle) -> Result<u64> {
        later!()
    }
    /// Calls `read` with the object's attributes.
    pub fn with_attributes<R>(
        &self,
        session: SessionHandle,
        object: ObjectHandle,
        read: impl FnOnce(&dyn AttributeSource) -> R,
    ) -> Result<R> {
        later!()
    }
    pub fn set_attributes(&self, session: SessionHandle, object: ObjectHandle, template: &Template<'_>) -> Result<()> {
        later!()
    }
    pub fn find_init(&self, session: SessionHandle, template: &Template<'_>) -> Result<()> {
        later!()
    }
    /// Fills `found` from its start; answers how many.
    pub fn find(&self, session: SessionHandle, found: &mut [ObjectHandle]) -> Result<usize> {
        later!()
    }
    pub fn find_final(&self, session: SessionHandle) -> Result<()> {
        later!()
    }

    // Operations (§5.8 to §5.16)

    /// C_EncryptInit and its like. A NULL mechanism cancels the active operation. `key` is ignored
    /// for a digest.
    pub fn init(
        &self,
        session: SessionHandle,
        function: Function,
        mechanism: Option<&Mechanism<'_>>,
        key: ObjectHandle,
    ) -> Result<()> {
        later!()
    }
    /// C_Encrypt, C_Decrypt, C_Digest, C_Sign, C_SignRecover, C_VerifyRecover.
    pub fn one_shot(
        &self,
        session: SessionHandle,
        function: Function,
        input: &[u8],
        output: Option<&mut [u8]>,
    ) -> Result<Outcome> {
        later!()
    }
    /// C_EncryptUpdate, C_DecryptUpdate; C_DigestUpdate, C_SignUpdate, C_VerifyUpdate (no output).
    pub fn update(
        &self,
        session: SessionHandle,
        function: Function,
        input: &[u8],
        output: Option<&mut [u8]>,
    ) -> Result<Outcome> {
        later!()
    }
    /// C_EncryptFinal, C_DecryptFinal, C_DigestFinal, C_SignFinal.
    pub fn finish(&self, session: SessionHandle, function: Function, output: Option<&mut [u8]>) -> Result<Outcome> {
        later!()
    }
    pub fn verify(&self, session: SessionHandle, data: &[u8], signature: &[u8]) -> Result<()> {
        later!()
    }
    pub fn verify_final(&self, session: SessionHandle, signature: &[u8]) -> Result<()> {
        later!()
    }
    pub fn digest_key(&self, session: SessionHandle, key: ObjectHandle) -> Result<()> {
        later!()
    }
    /// C_DigestEncryptUpdate (cipher Encrypt, other Digest), C_DecryptDigestUpdate,
    /// C_SignEncryptUpdate, C_DecryptVerifyUpdate.
    pub fn dual_update(
        &self,
        session: SessionHandle,
        cipher: Function,
        other: Function,
        input: &[u8],
        output: Option<&mut [u8]>,
    ) -> Result<Outcome> {
        later!()
    }

    // Keys (§5.18) and random numbers (§5.19)

    pub fn generate_key(
        &self,
        session: SessionHandle,
        mechanism: &Mechanism<'_>,
        template: &Template<'_>,
    ) -> Result<ObjectHandle> {
        later!()
    }
    /// Public handle, private handle.
    pub fn generate_key_pair(
        &self,
        session: SessionHandle,
        mechanism: &Mechanism<'_>,
        public: &Template<'_>,
        private: &Template<'_>,
    ) -> Result<(ObjectHandle, ObjectHandle)> {
        later!()
    }
    pub fn wrap_key(
        &self,
        session: SessionHandle,
        mechanism: &Mechanism<'_>,
        wrapping: ObjectHandle,
        key: ObjectHandle,
        output: Option<&mut [u8]>,
    ) -> Result<Outcome> {
        later!()
    }
    pub fn unwrap_key(
        &self,
        session: SessionHandle,
        mechanism: &Mechanism<'_>,
        unwrapping: ObjectHandle,
        wrapped: &[u8],
        template: &Template<'_>,
    ) -> Result<ObjectHandle> {
        later!()
    }
    /// The derived key, then the additional keys of SP 800-108.
    pub fn derive_key(
        &self,
        session: SessionHandle,
        mechanism: &Mechanism<'_>,
        base: ObjectHandle,
        template: &Template<'_>,
    ) -> Result<Vec<ObjectHandle>> {
        later!()
    }
    pub fn seed_random(&self, session: SessionHandle, seed: &[u8]) -> Result<()> {
        later!()
    }
    pub fn generate_random(&self, session: SessionHandle, output: &mut [u8]) -> Result<()> {
        later!()
    }
}
