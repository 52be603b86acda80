//! An opened object: its attributes, its secrets, and the parsed forms that mechanisms keep of it.

use std::any::{Any, TypeId};
use std::sync::OnceLock;

use cryptoki_sys as ck;

use super::crypto::SecretBytes;
use super::separation::Marks;
use super::value::{AttributeType, Attributes};
use crate::error::{ErrorKind, Result};

/// Secret attributes (CKA_VALUE of a secret key, CKA_PRIVATE_EXPONENT, CKA_PRIME_1, ...).
#[derive(Default)]
pub(super) struct Secrets(Vec<(AttributeType, SecretBytes)>);

impl Secrets {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn get(&self, kind: AttributeType) -> Option<&[u8]> {
        self.0.iter().find(|(k, _)| *k == kind).map(|(_, s)| s.expose())
    }

    /// Sets a secret, replacing the one it may have.
    pub(super) fn set(&mut self, kind: AttributeType, secret: SecretBytes) {
        self.remove(kind);
        self.0.push((kind, secret));
    }

    pub(super) fn remove(&mut self, kind: AttributeType) -> Option<SecretBytes> {
        let at = self.0.iter().position(|(k, _)| *k == kind)?;
        Some(self.0.remove(at).1)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (AttributeType, &SecretBytes)> {
        self.0.iter().map(|(kind, secret)| (*kind, secret))
    }

    /// The same secrets, in memory of their own.
    pub(super) fn duplicate(&self) -> Result<Self> {
        let copies = self.0.iter().map(|(kind, secret)| Ok((*kind, SecretBytes::copy_of(secret.expose())?)));
        copies.collect::<Result<_>>().map(Self)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// An opened object. Shared by the operations that use it; wiped when the last lets go.
pub(super) struct Key {
    pub(super) attributes: Attributes,
    pub(super) secrets: Secrets,
    /// What was decided of it when it was made.
    pub(super) marks: Marks,
    engines: Engines,
}

impl Key {
    pub(super) fn new(attributes: Attributes, secrets: Secrets) -> Self {
        Self { attributes, secrets, marks: 0, engines: Engines::default() }
    }

    pub(super) fn from_parts((attributes, secrets, marks): (Attributes, Secrets, Marks)) -> Self {
        Self { marks, ..Self::new(attributes, secrets) }
    }

    /// CKA_CLASS.
    pub(super) fn class(&self) -> ck::CK_OBJECT_CLASS {
        self.attributes.ulong(ck::CKA_CLASS).unwrap_or(ck::CK_UNAVAILABLE_INFORMATION)
    }

    /// CKA_KEY_TYPE.
    pub(super) fn key_type(&self) -> ck::CK_KEY_TYPE {
        self.attributes.ulong(ck::CKA_KEY_TYPE).unwrap_or(ck::CK_UNAVAILABLE_INFORMATION)
    }

    /// A secret attribute; CKR_KEY_TYPE_INCONSISTENT if the key has none such.
    pub(super) fn secret(&self, kind: AttributeType) -> Result<&[u8]> {
        self.secrets.get(kind).ok_or_else(|| ErrorKind::KeyTypeInconsistent.into())
    }

    /// A public byte-string attribute; CKR_KEY_TYPE_INCONSISTENT if the key has none such.
    pub(super) fn bytes(&self, kind: AttributeType) -> Result<&[u8]> {
        self.attributes.bytes(kind).ok_or_else(|| ErrorKind::KeyTypeInconsistent.into())
    }

    /// The parsed form `T` of this key, made on first use and kept: parsing an RSA key costs as
    /// much as a signature. `T` should be one type per family (an RSA private key, a keyed GCM).
    pub(super) fn engine<T: Any + Send + Sync>(&self, make: impl FnOnce(&Self) -> Result<T>) -> Result<&T> {
        self.engines.get_or_make(|| make(self))
    }
}

/// Parsed forms by type: a few slots, filled once, read without a lock.
#[derive(Default)]
struct Engines([OnceLock<Box<dyn Any + Send + Sync>>; 6]);

impl Engines {
    fn get_or_make<T: Any + Send + Sync>(&self, make: impl FnOnce() -> Result<T>) -> Result<&T> {
        if let Some(found) = self.find() {
            return Ok(found);
        }
        let mut made: Box<dyn Any + Send + Sync> = Box::new(make()?);
        for slot in &self.0 {
            match slot.set(made) {
                Ok(()) => break,
                Err(back) => made = back,
            }
        }
        self.find().ok_or_else(|| ErrorKind::GeneralError.with("a key has more parsed forms than slots"))
    }

    fn find<T: Any>(&self) -> Option<&T> {
        self.0
            .iter()
            .map_while(OnceLock::get)
            .find(|engine| (***engine).type_id() == TypeId::of::<T>())
            .and_then(|engine| engine.downcast_ref())
    }
}
