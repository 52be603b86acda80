//! Objects that the library makes itself: one for each mechanism, one for each profile it meets
//! (PKCS#11 3.2 §4.3.2 mechanism objects, §4.4 profile objects). They are token objects, public,
//! and cannot be changed.

use cryptoki_sys as ck;

use crate::hsm::{Attributes, Columns, ObjectId, Record, Sealed, Value, View, mechanisms};

/// The profiles that the module meets in full.
const PROFILES: [ck::CK_PROFILE_ID; 2] = [ck::CKP_BASELINE_PROVIDER, ck::CKP_EXTENDED_PROVIDER];

/// A search must ask for these classes to find their objects.
pub(super) fn is_hidden_class(class: u64) -> bool {
    [ck::CKO_MECHANISM, ck::CKO_PROFILE].contains(&class)
}

pub(super) fn objects() -> impl Iterator<Item = (Record, View)> {
    let mechanisms = mechanisms().map(|info| object(ck::CKO_MECHANISM, ck::CKA_MECHANISM_TYPE, info.kind));
    let profiles = PROFILES.into_iter().map(|profile| object(ck::CKO_PROFILE, ck::CKA_PROFILE_ID, profile));
    mechanisms.chain(profiles)
}

fn object(class: ck::CK_OBJECT_CLASS, kind: ck::CK_ATTRIBUTE_TYPE, value: u64) -> (Record, View) {
    let mut id: ObjectId = [0; 16];
    id[..8].copy_from_slice(&class.to_be_bytes());
    id[8..].copy_from_slice(&value.to_be_bytes());
    let unique: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    let attributes: Attributes = [
        (ck::CKA_CLASS, Value::Ulong(class)),
        (ck::CKA_TOKEN, Value::Bool(true)),
        (ck::CKA_PRIVATE, Value::Bool(false)),
        (ck::CKA_MODIFIABLE, Value::Bool(false)),
        (ck::CKA_COPYABLE, Value::Bool(false)),
        (ck::CKA_DESTROYABLE, Value::Bool(false)),
        (ck::CKA_LABEL, Value::Bytes(Vec::new())),
        (ck::CKA_UNIQUE_ID, Value::Bytes(unique.into_bytes())),
        (kind, Value::Ulong(value)),
    ]
    .into_iter()
    .collect();
    let columns = Columns {
        class,
        key_type: None,
        private: false,
        label: None,
        id: None,
        managed: false,
        due: None,
        replicating: false,
    };
    let record = Record { object: id, generation: 1, columns, sealed: Sealed::new(Vec::new()) };
    (record, View { attributes, secrets: Vec::new() })
}
