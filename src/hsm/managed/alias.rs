//! An alias: a name for a key, a record of its own that no search finds.

use cryptoki_sys as ck;

use super::metadata::KeyId;
use super::{Answer, CKO_KMS_ALIAS, Reason};
use crate::hsm::command::ObjectId;
use crate::hsm::key::{Key, Secrets};
use crate::hsm::value::{Attributes, Value};
use crate::text::hex;

const PREFIX: &str = "alias/";
/// The longest name, in bytes.
const MAX_LEN: usize = 256;

/// KMS_R_INVALID_ALIAS_NAME unless it is "alias/" and letters, digits, '/', '_' and '-'.
pub(in crate::hsm) fn check_name(name: &str) -> Answer<()> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'_' | b'-');
    match name.strip_prefix(PREFIX) {
        Some(rest) if !rest.is_empty() && name.len() <= MAX_LEN && rest.bytes().all(allowed) => Ok(()),
        _ => Err(Reason::InvalidAliasName
            .with("an alias is \"alias/\" and letters, digits, '/', '_' or '-', of at most 256 bytes")),
    }
}

/// The object of an alias. `object` is the tag of its name.
pub(in crate::hsm) fn make(name: &str, key: &KeyId, object: &ObjectId) -> Key {
    let text = |text: &str| Value::Bytes(text.as_bytes().to_vec());
    let attributes: Attributes = [
        (ck::CKA_CLASS, Value::Ulong(CKO_KMS_ALIAS)),
        (ck::CKA_TOKEN, Value::Bool(true)),
        (ck::CKA_PRIVATE, Value::Bool(true)),
        (ck::CKA_LABEL, text(name)),
        (ck::CKA_ID, text(key.as_str())),
        (ck::CKA_UNIQUE_ID, text(&hex(object))),
    ]
    .into_iter()
    .collect();
    Key::new(attributes, Secrets::new())
}

/// Name and key id of the object of an alias; None if it is something else.
pub(in crate::hsm) fn read(alias: &Attributes) -> Option<(&str, &str)> {
    let text = |kind| alias.bytes(kind).and_then(|bytes| std::str::from_utf8(bytes).ok());
    let is_alias = alias.ulong(ck::CKA_CLASS) == Some(CKO_KMS_ALIAS);
    text(ck::CKA_LABEL).zip(text(ck::CKA_ID)).filter(|_| is_alias)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let longest = format!("alias/{}", "x".repeat(250));
        for name in ["alias/a", "alias/app/Keys_1-b", "alias//", &longest] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", "a", "alias/", "Alias/a", "alias/a b", "alias/ä", "alias/a:b", &(longest.clone() + "x")] {
            assert_eq!(check_name(name).unwrap_err().reason(), Reason::InvalidAliasName, "{name}");
        }
    }
}
