//! The one error type of the crate: a closed set of kinds, each of which is one `CK_RV`.
//!
//! A detail may be attached for the log and for `KMS_LastError`; it never carries secrets.

use std::borrow::Cow;
use std::fmt;

use cryptoki_sys as ck;

pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong: a kind, and optionally a sentence that says with what.
#[derive(Debug, Clone)]
pub struct Error {
    kind: ErrorKind,
    detail: Option<Cow<'static, str>>,
}

impl Error {
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    pub fn detail(&self) -> Option<&str> {
        self.detail.as_deref()
    }

    /// The error of a `C_` function: see [`ErrorKind::standard`].
    #[must_use]
    pub fn into_standard(self) -> Self {
        Self { kind: self.kind.standard(), ..self }
    }
}

impl From<ErrorKind> for Error {
    fn from(kind: ErrorKind) -> Self {
        Self { kind, detail: None }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.detail {
            Some(detail) => write!(f, "{}: {detail}", self.kind.text()),
            None => f.write_str(self.kind.text()),
        }
    }
}

impl std::error::Error for Error {}

/// The standard's return codes, and the vendor's: of managed keys, named as the model system names
/// its errors.
mod codes {
    pub(super) use cryptoki_sys::*;

    const KMS_R: CK_RV = CKR_VENDOR_DEFINED | 0x4B4D_5300;
    pub(super) const KMS_R_DISABLED: CK_RV = KMS_R + 1;
    pub(super) const KMS_R_INVALID_STATE: CK_RV = KMS_R + 2;
    pub(super) const KMS_R_UNSUPPORTED: CK_RV = KMS_R + 3;
    pub(super) const KMS_R_LIMIT_EXCEEDED: CK_RV = KMS_R + 4;
    pub(super) const KMS_R_NOT_FOUND: CK_RV = KMS_R + 5;
    pub(super) const KMS_R_ALREADY_EXISTS: CK_RV = KMS_R + 6;
    pub(super) const KMS_R_INVALID_ALIAS_NAME: CK_RV = KMS_R + 7;
    pub(super) const KMS_R_INVALID_TAG: CK_RV = KMS_R + 8;
    pub(super) const KMS_R_INVALID_KEY_USAGE: CK_RV = KMS_R + 9;
    pub(super) const KMS_R_INCORRECT_KEY: CK_RV = KMS_R + 10;
    pub(super) const KMS_R_INVALID_CIPHERTEXT: CK_RV = KMS_R + 11;
    pub(super) const KMS_R_KEY_UNAVAILABLE: CK_RV = KMS_R + 12;
    pub(super) const KMS_R_INVALID_IMPORT_TOKEN: CK_RV = KMS_R + 13;
    pub(super) const KMS_R_EXPIRED_IMPORT_TOKEN: CK_RV = KMS_R + 14;
    pub(super) const KMS_R_INCORRECT_KEY_MATERIAL: CK_RV = KMS_R + 15;
    pub(super) const KMS_R_MALFORMED_POLICY: CK_RV = KMS_R + 16;
    pub(super) const KMS_R_INVALID_GRANT: CK_RV = KMS_R + 17;
    pub(super) const KMS_R_ACCESS_DENIED: CK_RV = KMS_R + 18;
    pub(super) const KMS_R_DRY_RUN: CK_RV = KMS_R + 19;
    pub(super) const KMS_R_REPLICATION_REFUSED: CK_RV = KMS_R + 20;
}

macro_rules! kinds {
    ($($name:ident = $rv:ident, $text:literal;)*) => {
        /// Every way a call can fail. The mapping to `CK_RV` is one to one.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum ErrorKind { $($name,)* }

        impl ErrorKind {
            /// The return code of the C ABI (PKCS#11 3.2 §5.1).
            pub fn rv(self) -> ck::CK_RV {
                match self { $(Self::$name => codes::$rv,)* }
            }

            /// What a return code says; None for one that is no kind.
            pub(crate) fn of_rv(rv: ck::CK_RV) -> Option<Self> {
                match rv { $(codes::$rv => Some(Self::$name),)* _ => None }
            }

            /// The code's name in the standard, or in `conclave.h`.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($rv),)* }
            }

            fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

impl ErrorKind {
    /// Attaches a sentence for the log. Never put a secret into it.
    pub fn with(self, detail: impl Into<Cow<'static, str>>) -> Error {
        Error { kind: self, detail: Some(detail.into()) }
    }

    /// What a function of the standard gives, whose callers know no vendor codes.
    #[must_use]
    pub fn standard(self) -> Self {
        match self {
            Self::KmsDisabled
            | Self::KmsInvalidState
            | Self::KmsUnsupported
            | Self::KmsInvalidKeyUsage
            | Self::KmsKeyUnavailable
            | Self::KmsAccessDenied => Self::KeyFunctionNotPermitted,
            Self::KmsLimitExceeded
            | Self::KmsInvalidTag
            | Self::KmsAlreadyExists
            | Self::KmsInvalidAliasName
            | Self::KmsMalformedPolicy
            | Self::KmsInvalidGrant => Self::AttributeValueInvalid,
            Self::KmsNotFound => Self::KeyHandleInvalid,
            Self::KmsIncorrectKey | Self::KmsInvalidCiphertext => Self::EncryptedDataInvalid,
            Self::KmsInvalidImportToken | Self::KmsExpiredImportToken | Self::KmsIncorrectKeyMaterial => {
                Self::WrappedKeyInvalid
            }
            Self::KmsDryRun | Self::KmsReplicationRefused => Self::FunctionRejected,
            other => other,
        }
    }
}

kinds! {
    ActionProhibited = CKR_ACTION_PROHIBITED, "the object does not allow this action";
    ArgumentsBad = CKR_ARGUMENTS_BAD, "an argument is not valid";
    AttributeReadOnly = CKR_ATTRIBUTE_READ_ONLY, "the attribute cannot be set here";
    AttributeSensitive = CKR_ATTRIBUTE_SENSITIVE, "the attribute is sensitive and cannot be read";
    AttributeTypeInvalid = CKR_ATTRIBUTE_TYPE_INVALID, "the object has no such attribute";
    AttributeValueInvalid = CKR_ATTRIBUTE_VALUE_INVALID, "the value is not valid for the attribute";
    BufferTooSmall = CKR_BUFFER_TOO_SMALL, "the output buffer is too small";
    CantLock = CKR_CANT_LOCK, "the requested locking is not available";
    CryptokiAlreadyInitialized = CKR_CRYPTOKI_ALREADY_INITIALIZED, "the library is already initialised";
    CryptokiNotInitialized = CKR_CRYPTOKI_NOT_INITIALIZED, "the library is not initialised";
    CurveNotSupported = CKR_CURVE_NOT_SUPPORTED, "the curve is not supported";
    DataInvalid = CKR_DATA_INVALID, "the data is not valid for the mechanism";
    DataLenRange = CKR_DATA_LEN_RANGE, "the data has a length the mechanism does not take";
    DeviceError = CKR_DEVICE_ERROR, "the HSM or its store failed";
    DeviceMemory = CKR_DEVICE_MEMORY, "the HSM is out of memory";
    DeviceRemoved = CKR_DEVICE_REMOVED, "the token was removed or initialised anew";
    DomainParamsInvalid = CKR_DOMAIN_PARAMS_INVALID, "the domain parameters are not valid";
    EncryptedDataInvalid = CKR_ENCRYPTED_DATA_INVALID, "the encrypted data is not valid";
    EncryptedDataLenRange = CKR_ENCRYPTED_DATA_LEN_RANGE, "the encrypted data has a length the mechanism does not produce";
    FunctionCanceled = CKR_FUNCTION_CANCELED, "the function was cancelled";
    FunctionFailed = CKR_FUNCTION_FAILED, "the function failed and changed nothing; it may be tried again";
    FunctionNotParallel = CKR_FUNCTION_NOT_PARALLEL, "there is no function running in parallel";
    FunctionNotSupported = CKR_FUNCTION_NOT_SUPPORTED, "the function is not supported";
    FunctionRejected = CKR_FUNCTION_REJECTED, "the request was refused";
    GeneralError = CKR_GENERAL_ERROR, "an internal error occurred";
    HostMemory = CKR_HOST_MEMORY, "the host is out of memory";
    KeyChanged = CKR_KEY_CHANGED, "a key is not the one used when the state was saved";
    KeyFunctionNotPermitted = CKR_KEY_FUNCTION_NOT_PERMITTED, "the key's attributes do not permit this function";
    KeyHandleInvalid = CKR_KEY_HANDLE_INVALID, "the key handle is not valid";
    KeyIndigestible = CKR_KEY_INDIGESTIBLE, "the key cannot be digested";
    KeyNeeded = CKR_KEY_NEEDED, "the saved state needs a key to be supplied";
    KeyNotNeeded = CKR_KEY_NOT_NEEDED, "a key was supplied that the saved state does not need";
    KeyNotWrappable = CKR_KEY_NOT_WRAPPABLE, "this key may not be wrapped by that key";
    KeySizeRange = CKR_KEY_SIZE_RANGE, "the key has a size the mechanism does not take";
    KeyTypeInconsistent = CKR_KEY_TYPE_INCONSISTENT, "the key's type does not fit the mechanism";
    KeyUnextractable = CKR_KEY_UNEXTRACTABLE, "the key is not extractable";
    LibraryLoadFailed = CKR_LIBRARY_LOAD_FAILED, "a library that is needed could not be loaded";
    MechanismInvalid = CKR_MECHANISM_INVALID, "the mechanism is not supported for this";
    MechanismParamInvalid = CKR_MECHANISM_PARAM_INVALID, "the mechanism's parameter is not valid";
    NeedToCreateThreads = CKR_NEED_TO_CREATE_THREADS, "the library needs to create threads";
    NoEvent = CKR_NO_EVENT, "there is no slot event";
    ObjectHandleInvalid = CKR_OBJECT_HANDLE_INVALID, "the object handle is not valid";
    OperationActive = CKR_OPERATION_ACTIVE, "an operation is already active in this session";
    OperationCancelFailed = CKR_OPERATION_CANCEL_FAILED, "the operation cannot be cancelled";
    OperationNotInitialized = CKR_OPERATION_NOT_INITIALIZED, "no operation of this kind is active";
    PinExpired = CKR_PIN_EXPIRED, "the PIN has expired";
    PinIncorrect = CKR_PIN_INCORRECT, "the PIN is not correct";
    PinInvalid = CKR_PIN_INVALID, "the PIN has characters that are not allowed";
    PinLenRange = CKR_PIN_LEN_RANGE, "the PIN is too short or too long";
    PinLocked = CKR_PIN_LOCKED, "the PIN is locked";
    PublicKeyInvalid = CKR_PUBLIC_KEY_INVALID, "the public key is not valid";
    RandomNoRng = CKR_RANDOM_NO_RNG, "there is no random number generator";
    RandomSeedNotSupported = CKR_RANDOM_SEED_NOT_SUPPORTED, "the generator takes no seed";
    SavedStateInvalid = CKR_SAVED_STATE_INVALID, "the saved state is not valid";
    SessionAsyncNotSupported = CKR_SESSION_ASYNC_NOT_SUPPORTED, "asynchronous sessions are not supported";
    SessionClosed = CKR_SESSION_CLOSED, "the session was closed during the call";
    SessionCount = CKR_SESSION_COUNT, "there are too many sessions";
    SessionExists = CKR_SESSION_EXISTS, "a session with the token is open";
    SessionHandleInvalid = CKR_SESSION_HANDLE_INVALID, "the session handle is not valid";
    SessionParallelNotSupported = CKR_SESSION_PARALLEL_NOT_SUPPORTED, "sessions must be opened with CKF_SERIAL_SESSION";
    SessionReadOnly = CKR_SESSION_READ_ONLY, "the session is read-only";
    SessionReadOnlyExists = CKR_SESSION_READ_ONLY_EXISTS, "a read-only session exists, so the SO cannot log in";
    SessionReadWriteSoExists = CKR_SESSION_READ_WRITE_SO_EXISTS, "an SO session exists, so no read-only session can be opened";
    SignatureInvalid = CKR_SIGNATURE_INVALID, "the signature does not verify";
    SignatureLenRange = CKR_SIGNATURE_LEN_RANGE, "the signature has a wrong length";
    SlotIdInvalid = CKR_SLOT_ID_INVALID, "there is no such slot";
    StateUnsaveable = CKR_STATE_UNSAVEABLE, "the operation's state cannot be saved";
    TemplateIncomplete = CKR_TEMPLATE_INCOMPLETE, "the template lacks an attribute";
    TemplateInconsistent = CKR_TEMPLATE_INCONSISTENT, "the template contradicts itself or the object";
    TokenNotPresent = CKR_TOKEN_NOT_PRESENT, "there is no token in the slot";
    TokenNotRecognized = CKR_TOKEN_NOT_RECOGNIZED, "the token is not initialised or not readable";
    TokenResourceExceeded = CKR_TOKEN_RESOURCE_EXCEEDED, "the token is full";
    TokenWriteProtected = CKR_TOKEN_WRITE_PROTECTED, "the token cannot be written";
    UnwrappingKeyHandleInvalid = CKR_UNWRAPPING_KEY_HANDLE_INVALID, "the unwrapping key's handle is not valid";
    UnwrappingKeySizeRange = CKR_UNWRAPPING_KEY_SIZE_RANGE, "the unwrapping key has a size the mechanism does not take";
    UnwrappingKeyTypeInconsistent = CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT, "the unwrapping key's type does not fit the mechanism";
    UserAlreadyLoggedIn = CKR_USER_ALREADY_LOGGED_IN, "this user is already logged in";
    UserAnotherAlreadyLoggedIn = CKR_USER_ANOTHER_ALREADY_LOGGED_IN, "another user is logged in";
    UserNotLoggedIn = CKR_USER_NOT_LOGGED_IN, "the user is not logged in";
    UserPinNotInitialized = CKR_USER_PIN_NOT_INITIALIZED, "the user's PIN is not initialised";
    UserTypeInvalid = CKR_USER_TYPE_INVALID, "the user type is not valid";
    WrappedKeyInvalid = CKR_WRAPPED_KEY_INVALID, "the wrapped key is not valid";
    WrappedKeyLenRange = CKR_WRAPPED_KEY_LEN_RANGE, "the wrapped key has a length the mechanism does not produce";
    WrappingKeyHandleInvalid = CKR_WRAPPING_KEY_HANDLE_INVALID, "the wrapping key's handle is not valid";
    WrappingKeySizeRange = CKR_WRAPPING_KEY_SIZE_RANGE, "the wrapping key has a size the mechanism does not take";
    WrappingKeyTypeInconsistent = CKR_WRAPPING_KEY_TYPE_INCONSISTENT, "the wrapping key's type does not fit the mechanism";
    KmsDisabled = KMS_R_DISABLED, "the key is disabled";
    KmsInvalidState = KMS_R_INVALID_STATE, "the key's state does not allow this";
    KmsUnsupported = KMS_R_UNSUPPORTED, "keys of this kind do not support this";
    KmsLimitExceeded = KMS_R_LIMIT_EXCEEDED, "a limit is reached";
    KmsNotFound = KMS_R_NOT_FOUND, "there is no such key, alias, grant or user";
    KmsAlreadyExists = KMS_R_ALREADY_EXISTS, "it exists already";
    KmsInvalidAliasName = KMS_R_INVALID_ALIAS_NAME, "the alias is not a valid name";
    KmsInvalidTag = KMS_R_INVALID_TAG, "a tag is not valid";
    KmsInvalidKeyUsage = KMS_R_INVALID_KEY_USAGE, "the key is not for this usage";
    KmsIncorrectKey = KMS_R_INCORRECT_KEY, "another key encrypted this";
    KmsInvalidCiphertext = KMS_R_INVALID_CIPHERTEXT, "the ciphertext or its encryption context is not valid";
    KmsKeyUnavailable = KMS_R_KEY_UNAVAILABLE, "the version of the key is not available";
    KmsInvalidImportToken = KMS_R_INVALID_IMPORT_TOKEN, "the import token is not valid for the key";
    KmsExpiredImportToken = KMS_R_EXPIRED_IMPORT_TOKEN, "the import token has expired";
    KmsIncorrectKeyMaterial = KMS_R_INCORRECT_KEY_MATERIAL, "the material is not what was imported into the key before";
    KmsMalformedPolicy = KMS_R_MALFORMED_POLICY, "the policy is not valid";
    KmsInvalidGrant = KMS_R_INVALID_GRANT, "the grant is not valid";
    KmsAccessDenied = KMS_R_ACCESS_DENIED, "the key's policy does not allow this";
    KmsDryRun = KMS_R_DRY_RUN, "the request would have been carried out";
    KmsReplicationRefused = KMS_R_REPLICATION_REFUSED, "the message of another Region was refused";
}
