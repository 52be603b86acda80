//! Attribute values in the form the layers exchange: typed, owned, with no pointers.

use cryptoki_sys as ck;

pub type AttributeType = ck::CK_ATTRIBUTE_TYPE;

/// One attribute's value. Integers are host-independent; the ABI converts to and from `CK_ULONG`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Bool(bool),
    Ulong(u64),
    /// Byte strings, big integers, RFC 2279 strings and dates (8 ASCII digits, or empty).
    Bytes(Vec<u8>),
    /// `CKA_ALLOWED_MECHANISMS`.
    Mechanisms(Vec<u64>),
    /// `CKA_WRAP_TEMPLATE` and its like.
    Template(Attributes),
}

/// A set of attributes, sorted by type, each at most once. Never holds key material.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes(Vec<(AttributeType, Value)>);

impl Attributes {
    pub fn new() -> Self {
        Self::default()
    }

    /// Room for the attributes of a usual key.
    pub(super) fn of_key() -> Self {
        Self(Vec::with_capacity(40))
    }

    /// From items in strictly ascending order of their types.
    pub(super) fn from_sorted(items: Vec<(AttributeType, Value)>) -> Self {
        debug_assert!(items.is_sorted_by(|a, b| a.0 < b.0));
        Self(items)
    }

    pub fn get(&self, kind: AttributeType) -> Option<&Value> {
        self.position(kind).ok().map(|at| &self.0[at].1)
    }

    /// Sets the attribute, replacing a value it may have.
    pub fn set(&mut self, kind: AttributeType, value: Value) {
        match self.position(kind) {
            Ok(at) => self.0[at].1 = value,
            Err(at) => self.0.insert(at, (kind, value)),
        }
    }

    /// Sets the attribute unless it is there.
    pub fn set_default(&mut self, kind: AttributeType, value: Value) {
        if let Err(at) = self.position(kind) {
            self.0.insert(at, (kind, value));
        }
    }

    pub fn remove(&mut self, kind: AttributeType) -> Option<Value> {
        self.position(kind).ok().map(|at| self.0.remove(at).1)
    }

    pub fn contains(&self, kind: AttributeType) -> bool {
        self.position(kind).is_ok()
    }

    /// The boolean, false where it is absent.
    pub fn flag(&self, kind: AttributeType) -> bool {
        matches!(self.get(kind), Some(Value::Bool(true)))
    }

    pub fn ulong(&self, kind: AttributeType) -> Option<u64> {
        match self.get(kind) {
            Some(Value::Ulong(n)) => Some(*n),
            _ => None,
        }
    }

    pub fn bytes(&self, kind: AttributeType) -> Option<&[u8]> {
        match self.get(kind) {
            Some(Value::Bytes(b)) => Some(b),
            _ => None,
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (AttributeType, &Value)> {
        self.0.iter().map(|(kind, value)| (*kind, value))
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn position(&self, kind: AttributeType) -> std::result::Result<usize, usize> {
        self.0.binary_search_by_key(&kind, |(k, _)| *k)
    }
}

impl FromIterator<(AttributeType, Value)> for Attributes {
    fn from_iter<I: IntoIterator<Item = (AttributeType, Value)>>(items: I) -> Self {
        let mut set = Self::new();
        for (kind, value) in items {
            set.set(kind, value);
        }
        set
    }
}

/// A caller's template as it stands in the caller's memory: nothing checked but pointers and
/// lengths. `hsm` turns it into typed values by the attribute table.
#[derive(Debug, Clone, Default)]
pub struct Template<'a>(pub Vec<(AttributeType, Raw<'a>)>);

/// The value of one attribute of a [`Template`].
#[derive(Clone)]
pub enum Raw<'a> {
    /// The caller's bytes, in the caller's `CK_ULONG` and `CK_BBOOL` formats; may be key material.
    Bytes(&'a [u8]),
    /// The value of an attribute with CKF_ARRAY_ATTRIBUTE that holds `CK_ATTRIBUTE`s.
    Template(Template<'a>),
}

impl std::fmt::Debug for Raw<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bytes(b) => write!(f, "[{} bytes]", b.len()),
            Self::Template(t) => t.fmt(f),
        }
    }
}

impl<'a> Template<'a> {
    pub fn get(&self, kind: AttributeType) -> Option<&Raw<'a>> {
        self.0.iter().find(|(k, _)| *k == kind).map(|(_, raw)| raw)
    }
}
