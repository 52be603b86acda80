//! CKA_KMS_*: the vendor attributes that make a key a managed one.

use cryptoki_sys as ck;

use crate::hsm::attribute::{self, Form, HSM_ONLY, MODIFY, Missing, Notes, Rule};
use crate::hsm::value::AttributeType;

/// "KMS" in the middle, without the bit that marks attributes whose values are templates
/// (CKF_ARRAY_ATTRIBUTE), which K has.
const BASE: AttributeType = ck::CKA_VENDOR_DEFINED | (0x4B4D_5300 & !ck::CKF_ARRAY_ATTRIBUTE);

/// An envelope of [`envelope.rs`](super::envelope): the parameter is the encryption context.
pub const CKM_KMS_ENVELOPE: ck::CK_MECHANISM_TYPE = ck::CKM_VENDOR_DEFINED | 0x0b4d_5301;
/// A key in an envelope, with its attributes, for C_WrapKeyAuthenticated.
pub const CKM_KMS_WRAP: ck::CK_MECHANISM_TYPE = ck::CKM_VENDOR_DEFINED | 0x0b4d_5302;

macro_rules! attributes {
    ($($(#[doc = $doc:literal])* $name:ident = $number:literal, $form:ident $(, $notes:ident)?;)*) => {
        $($(#[doc = $doc])* pub const $name: AttributeType = BASE + $number;)*

        /// The rows of the attribute table. Each exists on managed keys only; whoever sees the key
        /// reads them all.
        pub(in crate::hsm) const RULES: &[Rule] = &[$(rule($name, Form::$form, HSM_ONLY $(| $notes)?),)*];
    };
}

attributes! {
    /// True: the key has the life cycle of a managed key.
    CKA_KMS_MANAGED = 0, Bool;
    /// `xxxxxxxx-xxxx-4xxx-yxxx-xxxxxxxxxxxx`, or `mrk-` and 32 hexadecimal digits.
    CKA_KMS_KEY_ID = 1, Text;
    /// [`Usage`].
    CKA_KMS_USAGE = 2, Ulong;
    /// The name of a key spec.
    CKA_KMS_SPEC = 3, Text;
    /// [`Origin`].
    CKA_KMS_ORIGIN = 4, Ulong;
    /// [`KeyState`] as it was last decided; what is shown is the state at the time.
    CKA_KMS_STATE = 5, Ulong;
    CKA_KMS_DESCRIPTION = 6, Text, MODIFY;
    /// CBOR map of text to text.
    CKA_KMS_TAGS = 7, Bytes;
    /// The version of the material that encrypts, from 1.
    CKA_KMS_VERSION = 8, Ulong;
    /// Seconds since 1970, as all times here.
    CKA_KMS_CREATED = 9, Ulong;
    /// Only in PendingDeletion.
    CKA_KMS_DELETION_DATE = 10, Ulong;
    /// Days; absent while rotation is off.
    CKA_KMS_ROTATION_PERIOD = 11, Ulong;
    /// When the newest version was made; absent before the first rotation.
    CKA_KMS_ROTATED = 12, Ulong;
    /// End of the imported material's validity, 0 if it has none; absent while there is no
    /// imported material.
    CKA_KMS_VALID_TO = 13, Ulong;
    /// Commitment to the imported material, which survives its deletion.
    CKA_KMS_MATERIAL = 14, Bytes;
    CKA_KMS_MULTI_REGION = 15, Bool;
    /// The principal that made the key.
    CKA_KMS_OWNER = 16, Text;
    /// CBOR, as written by `policy.rs`; absent if the owner may do everything.
    CKA_KMS_POLICY = 17, Bytes;
    /// CBOR, as written by `replication.rs`; absent on a multi-Region key that is the primary of term 1
    /// and never had to do with another Region.
    CKA_KMS_REPLICATION = 18, Bytes;
    /// Days of the waiting period; only while the key waits for its deletion.
    CKA_KMS_DELETION_WINDOW = 19, Ulong;
    /// When the next rotation by period is due; absent while rotation is off.
    CKA_KMS_NEXT_ROTATION = 20, Ulong;
    /// CBOR, as written by `grants.rs`; absent while there are none.
    CKA_KMS_GRANTS = 21, Bytes;
    /// Whose approvals each use needs; absent where it needs none.
    CKA_KMS_DUAL_CONTROL = 22, Bytes;
    /// True: imported material of a multi-Region key goes to its replicas. Absent otherwise.
    CKA_KMS_REPLICATE_IMPORTED = 23, Bool;
}

/// Whether an attribute is one of this table, or may become one.
pub(in crate::hsm) fn is_ours(kind: AttributeType) -> bool {
    kind & !0xff == BASE
}

const fn rule(kind: AttributeType, form: Form, notes: Notes) -> Rule {
    let classes = attribute::PUBLIC | attribute::PRIVATE | attribute::SECRET;
    Rule { kind, form, classes, types: &[], notes, default: Missing::Absent }
}

macro_rules! coded {
    ($(#[doc = $doc:literal])+ $type:ident { $($variant:ident = $code:literal, $name:literal;)* }) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(in crate::hsm) enum $type { $($variant = $code,)* }

        impl $type {
            pub(in crate::hsm) const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The value of its attribute.
            pub(in crate::hsm) fn code(self) -> u64 {
                self as u64
            }

            pub(in crate::hsm) fn from_code(code: u64) -> Option<Self> {
                Self::ALL.iter().copied().find(|known| known.code() == code)
            }

            /// The model system's name.
            pub(in crate::hsm) fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            pub(in crate::hsm) fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|known| known.name() == name)
            }
        }
    };
}

coded! {
    /// What a key is for, for ever.
    Usage {
        EncryptDecrypt = 1, "ENCRYPT_DECRYPT";
        SignVerify = 2, "SIGN_VERIFY";
        GenerateVerifyMac = 3, "GENERATE_VERIFY_MAC";
        KeyAgreement = 4, "KEY_AGREEMENT";
    }
}

coded! {
    /// Where the material comes from.
    Origin {
        Hsm = 1, "HSM";
        External = 2, "EXTERNAL";
    }
}

coded! {
    /// Where a key is in its life.
    KeyState {
        Enabled = 1, "Enabled";
        Disabled = 2, "Disabled";
        PendingDeletion = 3, "PendingDeletion";
        PendingReplicaDeletion = 4, "PendingReplicaDeletion";
        PendingImport = 5, "PendingImport";
        Creating = 6, "Creating";
        Updating = 7, "Updating";
    }
}
