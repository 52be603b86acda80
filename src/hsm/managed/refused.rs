//! Why a request about a managed key is refused. Nothing has changed then.

use std::borrow::Cow;

use crate::error::{Error, ErrorKind};

/// A reason. A `KMS_` function gives its vendor code, `KMS_R_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::hsm) enum Reason {
    Disabled,
    InvalidState,
    Unsupported,
    LimitExceeded,
    NotFound,
    InvalidTag,
    InvalidKeyUsage,
    IncorrectKeyMaterial,
    /// Neither the key's policy nor a grant allows it.
    AccessDenied,
    MalformedPolicy,
    InvalidGrant,
    InvalidAliasName,
    /// A message of another Region that this one does not follow.
    Replication,
    /// An attribute that nobody sets: CKR_ATTRIBUTE_READ_ONLY everywhere.
    ReadOnly,
    /// An argument out of range, which is no matter of the key: CKR_ARGUMENTS_BAD everywhere.
    Arguments,
    /// A sealed record that says what no HSM writes: CKR_DEVICE_ERROR everywhere.
    Damaged,
}

impl Reason {
    pub(in crate::hsm) fn with(self, detail: impl Into<Cow<'static, str>>) -> Refused {
        Refused { reason: self, detail: detail.into() }
    }

    fn kind(self) -> ErrorKind {
        match self {
            Self::Disabled => ErrorKind::KmsDisabled,
            Self::InvalidState => ErrorKind::KmsInvalidState,
            Self::Unsupported => ErrorKind::KmsUnsupported,
            Self::LimitExceeded => ErrorKind::KmsLimitExceeded,
            Self::NotFound => ErrorKind::KmsNotFound,
            Self::InvalidTag => ErrorKind::KmsInvalidTag,
            Self::InvalidKeyUsage => ErrorKind::KmsInvalidKeyUsage,
            Self::IncorrectKeyMaterial => ErrorKind::KmsIncorrectKeyMaterial,
            Self::AccessDenied => ErrorKind::KmsAccessDenied,
            Self::MalformedPolicy => ErrorKind::KmsMalformedPolicy,
            Self::InvalidGrant => ErrorKind::KmsInvalidGrant,
            Self::InvalidAliasName => ErrorKind::KmsInvalidAliasName,
            Self::Replication => ErrorKind::KmsReplicationRefused,
            Self::ReadOnly => ErrorKind::AttributeReadOnly,
            Self::Arguments => ErrorKind::ArgumentsBad,
            Self::Damaged => ErrorKind::DeviceError,
        }
    }
}

/// A refusal with its sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) struct Refused {
    reason: Reason,
    detail: Cow<'static, str>,
}

impl Refused {
    pub(in crate::hsm) fn reason(&self) -> Reason {
        self.reason
    }

    pub(in crate::hsm) fn detail(&self) -> &str {
        &self.detail
    }

    /// The error of a `C_` function.
    pub(in crate::hsm) fn into_standard(self) -> Error {
        self.reason.kind().standard().with(self.detail)
    }
}

/// The error of a `KMS_` function.
impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        refused.reason.kind().with(refused.detail)
    }
}

pub(super) type Answer<T> = Result<T, Refused>;
