//! CBOR in core deterministic encoding (RFC 8949 §4.2.1), the encoding of every structure.
//!
//! [`Encoder`] writes nothing else and [`Decoder`] accepts nothing else: heads are shortest,
//! lengths definite, map keys ascending in the bytewise order of their encodings, text is UTF-8.
//! That equals "decode, encode again, compare". Both are driven by the structure that is expected,
//! so hostile input can neither nest without bound nor claim a length that is not there. Nothing is
//! copied on the way in, and [`Encoder::secret`] writes into secret memory, so that key material
//! passes through no other buffer.
//!
//! Structures are maps with small unsigned keys, written in ascending order, or arrays:
//! ```text
//! let mut e = Encoder::new();
//! e.map(2).uint(1).bytes(id).uint(2).array(list.len());
//! for n in &list { e.uint(*n); }
//! let bytes = e.finish();
//!
//! let mut d = Decoder::new(&bytes);
//! let mut m = d.map()?;
//! let id = m.field(1)?.fixed::<16>()?;
//! let list = m.field(2)?.list(|d| d.uint())?;
//! m.end()?;
//! d.end()?;
//! ```

use super::super::crypto::SecretBytes;
use crate::error::{Error, ErrorKind, Result};

/// Where an [`Encoder`] writes.
pub(in crate::hsm) trait Sink {
    fn put(&mut self, bytes: &[u8]);
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// A growing buffer in secret memory. Running out of memory is reported at the end.
pub(in crate::hsm) struct SecretBuffer {
    bytes: Result<SecretBytes>,
    used: usize,
}

impl Sink for SecretBuffer {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        let end = self.used + bytes.len();
        if self.bytes.as_ref().is_ok_and(|buffer| buffer.len() < end) {
            self.grow(end);
        }
        if let Ok(buffer) = &mut self.bytes
            && let Some(place) = buffer.expose_mut().get_mut(self.used..end)
        {
            place.copy_from_slice(bytes);
            self.used = end;
        }
    }
}

impl SecretBuffer {
    #[cold]
    fn grow(&mut self, end: usize) {
        let Ok(buffer) = &self.bytes else { return };
        self.bytes = SecretBytes::fill(end.max(2 * buffer.len()), |new| {
            new[..self.used].copy_from_slice(&buffer.expose()[..self.used]);
            Ok(())
        });
    }
}

/// A buffer of the caller's. What does not fit is counted and not written.
pub(in crate::hsm) struct Cursor<'a> {
    out: &'a mut [u8],
    used: usize,
}

impl Sink for Cursor<'_> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        let end = self.used + bytes.len();
        if let Some(place) = self.out.get_mut(self.used..end) {
            place.copy_from_slice(bytes);
        }
        self.used = end;
    }
}

/// Writes items one after the other. The caller keeps map keys in ascending order.
pub(in crate::hsm) struct Encoder<S = Vec<u8>> {
    out: S,
}

impl Encoder {
    /// Into ordinary memory.
    pub(in crate::hsm) fn new() -> Self {
        Self { out: Vec::with_capacity(256) }
    }

    pub(in crate::hsm) fn finish(self) -> Vec<u8> {
        self.out
    }
}

impl<'a> Encoder<Cursor<'a>> {
    /// Into `out`.
    pub(in crate::hsm) fn over(out: &'a mut [u8]) -> Self {
        Self { out: Cursor { out, used: 0 } }
    }

    /// Bytes that were to be written so far: more than the buffer's if it was too short.
    pub(in crate::hsm) fn used(&self) -> usize {
        self.out.used
    }
}

impl Encoder<SecretBuffer> {
    /// Into secret memory.
    pub(in crate::hsm) fn secret() -> Self {
        Self { out: SecretBuffer { bytes: SecretBytes::fill(1024, |_| Ok(())), used: 0 } }
    }

    pub(in crate::hsm) fn finish(self) -> Result<SecretBytes> {
        let mut bytes = self.out.bytes?;
        bytes.truncate(self.out.used);
        Ok(bytes)
    }
}

impl<S: Sink> Encoder<S> {
    /// Onto what is written already.
    pub(in crate::hsm) fn onto(out: S) -> Self {
        Self { out }
    }

    pub(in crate::hsm) fn into_sink(self) -> S {
        self.out
    }

    pub(in crate::hsm) fn uint(&mut self, value: u64) -> &mut Self {
        self.head(UNSIGNED, value)
    }

    pub(in crate::hsm) fn int(&mut self, value: i64) -> &mut Self {
        match u64::try_from(value) {
            Ok(value) => self.head(UNSIGNED, value),
            Err(_) => self.head(NEGATIVE, !value as u64),
        }
    }

    pub(in crate::hsm) fn bytes(&mut self, value: &[u8]) -> &mut Self {
        self.head(BYTES, value.len() as u64).raw(value)
    }

    /// The head of a byte string; its `len` bytes follow.
    pub(in crate::hsm) fn bytes_head(&mut self, len: usize) -> &mut Self {
        self.head(BYTES, len as u64)
    }

    pub(in crate::hsm) fn text(&mut self, value: &str) -> &mut Self {
        self.head(TEXT, value.len() as u64).raw(value.as_bytes())
    }

    pub(in crate::hsm) fn bool(&mut self, value: bool) -> &mut Self {
        self.raw(&[if value { TRUE } else { FALSE }])
    }

    pub(in crate::hsm) fn null(&mut self) -> &mut Self {
        self.raw(&[NULL])
    }

    /// The value that `write` writes, or null.
    pub(in crate::hsm) fn optional<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) -> &mut Self {
        match value {
            Some(value) => write(self, value),
            None => {
                self.null();
            }
        }
        self
    }

    /// The head of an array; its `len` items follow.
    pub(in crate::hsm) fn array(&mut self, len: usize) -> &mut Self {
        self.head(ARRAY, len as u64)
    }

    /// The head of a map; its `len` pairs of key and value follow, keys ascending.
    pub(in crate::hsm) fn map(&mut self, len: usize) -> &mut Self {
        self.head(MAP, len as u64)
    }

    /// A whole array whose items `write` writes.
    pub(in crate::hsm) fn list<T>(&mut self, items: &[T], mut write: impl FnMut(&mut Self, &T)) -> &mut Self {
        self.array(items.len());
        for item in items {
            write(self, item);
        }
        self
    }

    pub(in crate::hsm) fn tag(&mut self, tag: u64) -> &mut Self {
        self.head(TAG, tag)
    }

    /// An item that is encoded already.
    pub(in crate::hsm) fn raw(&mut self, encoded: &[u8]) -> &mut Self {
        self.out.put(encoded);
        self
    }

    #[inline]
    fn head(&mut self, major: u8, value: u64) -> &mut Self {
        let major = major << 5;
        match value {
            0..=23 => self.raw(&[major | value as u8]),
            24..=0xff => self.raw(&[major | 24, value as u8]),
            0x100..=0xffff => {
                let v = (value as u16).to_be_bytes();
                self.raw(&[major | 25, v[0], v[1]])
            }
            0x1_0000..=0xffff_ffff => {
                let v = (value as u32).to_be_bytes();
                self.raw(&[major | 26, v[0], v[1], v[2], v[3]])
            }
            _ => {
                let mut head = [major | 27; 9];
                head[1..].copy_from_slice(&value.to_be_bytes());
                self.raw(&head)
            }
        }
    }
}

/// Why input was refused; becomes CKR_DEVICE_ERROR where a caller does not say better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::hsm) struct Malformed(pub(in crate::hsm) &'static str);

impl From<Malformed> for Error {
    fn from(malformed: Malformed) -> Self {
        ErrorKind::DeviceError.with(format!("malformed structure: {}", malformed.0))
    }
}

pub(in crate::hsm) type Decoded<T> = std::result::Result<T, Malformed>;

/// Reads items one after the other; each method fails unless the next item is what it names.
#[derive(Clone)]
pub(in crate::hsm) struct Decoder<'a> {
    rest: &'a [u8],
}

/// The type of the next item, for the places where more than one is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::hsm) enum Type {
    Uint,
    Negative,
    Bytes,
    Text,
    Array,
    Map,
    Tag,
    Bool,
    Null,
}

impl<'a> Decoder<'a> {
    pub(in crate::hsm) fn new(input: &'a [u8]) -> Self {
        Self { rest: input }
    }

    /// Fails unless all input was read.
    pub(in crate::hsm) fn end(&self) -> Decoded<()> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed("trailing bytes")) }
    }

    /// What was not read yet.
    pub(in crate::hsm) fn remaining(&self) -> &'a [u8] {
        self.rest
    }

    pub(in crate::hsm) fn peek(&self) -> Decoded<Type> {
        let first = *self.rest.first().ok_or(Malformed("truncated"))?;
        match (first >> 5, first) {
            (UNSIGNED, _) => Ok(Type::Uint),
            (NEGATIVE, _) => Ok(Type::Negative),
            (BYTES, _) => Ok(Type::Bytes),
            (TEXT, _) => Ok(Type::Text),
            (ARRAY, _) => Ok(Type::Array),
            (MAP, _) => Ok(Type::Map),
            (TAG, _) => Ok(Type::Tag),
            (_, TRUE | FALSE) => Ok(Type::Bool),
            (_, NULL) => Ok(Type::Null),
            _ => Err(Malformed("a float or an unassigned simple value")),
        }
    }

    pub(in crate::hsm) fn uint(&mut self) -> Decoded<u64> {
        self.head(UNSIGNED, "an unsigned integer was expected")
    }

    /// An unsigned integer that fits a smaller type.
    pub(in crate::hsm) fn small<T: TryFrom<u64>>(&mut self) -> Decoded<T> {
        T::try_from(self.uint()?).map_err(|_| Malformed("an integer is out of range"))
    }

    pub(in crate::hsm) fn int(&mut self) -> Decoded<i64> {
        let range = Malformed("an integer is out of range");
        if self.peek()? == Type::Negative {
            let value = self.head(NEGATIVE, "an integer was expected")?;
            return i64::try_from(value).map(|v| !v).map_err(|_| range);
        }
        i64::try_from(self.uint()?).map_err(|_| range)
    }

    pub(in crate::hsm) fn bytes(&mut self) -> Decoded<&'a [u8]> {
        let len = self.head(BYTES, "a byte string was expected")?;
        self.take(len)
    }

    /// A byte string of exactly `N` bytes.
    pub(in crate::hsm) fn fixed<const N: usize>(&mut self) -> Decoded<[u8; N]> {
        self.bytes()?.try_into().map_err(|_| Malformed("a byte string has a wrong length"))
    }

    pub(in crate::hsm) fn text(&mut self) -> Decoded<&'a str> {
        let len = self.head(TEXT, "a text string was expected")?;
        std::str::from_utf8(self.take(len)?).map_err(|_| Malformed("text is not UTF-8"))
    }

    pub(in crate::hsm) fn bool(&mut self) -> Decoded<bool> {
        match self.take(1)? {
            [TRUE] => Ok(true),
            [FALSE] => Ok(false),
            _ => Err(Malformed("a boolean was expected")),
        }
    }

    /// What `read` reads, or None for null.
    pub(in crate::hsm) fn optional<T>(&mut self, read: impl FnOnce(&mut Self) -> Decoded<T>) -> Decoded<Option<T>> {
        if self.rest.first() == Some(&NULL) {
            self.rest = &self.rest[1..];
            return Ok(None);
        }
        read(self).map(Some)
    }

    /// The head of an array; the caller reads that many items.
    pub(in crate::hsm) fn array(&mut self) -> Decoded<usize> {
        let len = self.head(ARRAY, "an array was expected")?;
        // An item takes a byte at least, so a longer claim is false; callers may allocate by it.
        match usize::try_from(len) {
            Ok(len) if len <= self.rest.len() => Ok(len),
            _ => Err(Malformed("truncated")),
        }
    }

    /// The head of an array of exactly `len` items.
    pub(in crate::hsm) fn array_of(&mut self, len: usize) -> Decoded<()> {
        if self.array()? == len { Ok(()) } else { Err(Malformed("an array has a wrong length")) }
    }

    /// A whole array whose items `read` reads.
    pub(in crate::hsm) fn list<T>(&mut self, mut read: impl FnMut(&mut Self) -> Decoded<T>) -> Decoded<Vec<T>> {
        (0..self.array()?).map(|_| read(self)).collect()
    }

    /// The head of a map; read its pairs through what it gives.
    pub(in crate::hsm) fn map(&mut self) -> Decoded<Map<'_, 'a>> {
        let left = self.map_len()?;
        Ok(Map { decoder: self, left, last: &[] })
    }

    /// The head of a map that was checked before; the caller reads that many pairs.
    pub(in crate::hsm) fn map_len(&mut self) -> Decoded<u64> {
        self.head(MAP, "a map was expected")
    }

    pub(in crate::hsm) fn tag(&mut self, tag: u64) -> Decoded<()> {
        if self.head(TAG, "a tag was expected")? == tag { Ok(()) } else { Err(Malformed("a tag is wrong")) }
    }

    fn head(&mut self, major: u8, expected: &'static str) -> Decoded<u64> {
        let first = self.take(1)?[0];
        if first >> 5 != major {
            return Err(Malformed(expected));
        }
        let (value, least) = match first & 0x1f {
            n @ 0..=23 => return Ok(n.into()),
            24 => (u64::from(self.take(1)?[0]), 24),
            25 => (self.be(2)?, 0x100),
            26 => (self.be(4)?, 0x1_0000),
            27 => (self.be(8)?, 0x1_0000_0000),
            _ => return Err(Malformed("an indefinite or reserved length")),
        };
        if value < least {
            return Err(Malformed("a head is not shortest"));
        }
        Ok(value)
    }

    fn be(&mut self, len: u64) -> Decoded<u64> {
        Ok(self.take(len)?.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn take(&mut self, len: u64) -> Decoded<&'a [u8]> {
        let (taken, rest) =
            usize::try_from(len).ok().and_then(|len| self.rest.split_at_checked(len)).ok_or(Malformed("truncated"))?;
        self.rest = rest;
        Ok(taken)
    }
}

/// The pairs of a map, in order.
pub(in crate::hsm) struct Map<'d, 'a> {
    decoder: &'d mut Decoder<'a>,
    left: u64,
    /// The encoding of the last key.
    last: &'a [u8],
}

impl<'a> Map<'_, 'a> {
    /// The value of the key, which must be the next; unknown and missing fields fail here.
    pub(in crate::hsm) fn field(&mut self, key: u64) -> Decoded<&mut Decoder<'a>> {
        match self.next_with(Decoder::uint)? {
            Some((found, value)) if found == key => Ok(value),
            Some(_) => Err(Malformed("an unknown, missing or misplaced field")),
            None => Err(Malformed("a field is missing")),
        }
    }

    /// The next key as `read` reads it, and its value; None at the end.
    pub(in crate::hsm) fn next_with<K>(
        &mut self,
        read: impl FnOnce(&mut Decoder<'a>) -> Decoded<K>,
    ) -> Decoded<Option<(K, &mut Decoder<'a>)>> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let before = self.decoder.rest;
        let key = read(self.decoder)?;
        let encoded = &before[..before.len() - self.decoder.rest.len()];
        if encoded <= self.last {
            return Err(Malformed("map keys are not in order"));
        }
        self.last = encoded;
        Ok(Some((key, self.decoder)))
    }

    /// Fails unless all pairs were read.
    pub(in crate::hsm) fn end(self) -> Decoded<()> {
        if self.left == 0 { Ok(()) } else { Err(Malformed("an unknown field")) }
    }
}

const UNSIGNED: u8 = 0;
const NEGATIVE: u8 = 1;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;
const TAG: u8 = 6;
const FALSE: u8 = 0xf4;
const TRUE: u8 = 0xf5;
const NULL: u8 = 0xf6;

#[cfg(test)]
mod tests {
    use ciborium::Value;
    use proptest::prelude::*;

    use super::*;

    fn encode(e: &mut Encoder<impl Sink>, value: &Value) {
        match value {
            Value::Integer(n) => match i128::from(*n) {
                n if n < 0 => e.int(n as i64),
                n => e.uint(n as u64),
            },
            Value::Bytes(b) => e.bytes(b),
            Value::Text(t) => e.text(t),
            Value::Bool(b) => e.bool(*b),
            Value::Array(items) => e.list(items, encode),
            Value::Map(pairs) => {
                e.map(pairs.len());
                for (key, value) in pairs {
                    encode(e, key);
                    encode(e, value);
                }
                e
            }
            Value::Tag(tag, inner) => {
                e.tag(*tag);
                encode(e, inner);
                e
            }
            _ => e.null(),
        };
    }

    fn decode(d: &mut Decoder<'_>) -> Decoded<Value> {
        Ok(match d.peek()? {
            Type::Uint => Value::from(d.uint()?),
            Type::Negative => Value::from(d.int()?),
            Type::Bytes => Value::Bytes(d.bytes()?.to_vec()),
            Type::Text => Value::Text(d.text()?.to_owned()),
            Type::Bool => Value::Bool(d.bool()?),
            Type::Null => d.optional(decode)?.unwrap_or(Value::Null),
            Type::Array => Value::Array(d.list(decode)?),
            Type::Map => {
                let mut map = d.map()?;
                let mut pairs = Vec::new();
                while let Some((key, value)) = map.next_with(decode)? {
                    pairs.push((key, decode(value)?));
                }
                map.end()?;
                Value::Map(pairs)
            }
            Type::Tag => {
                let mut ahead = d.clone();
                let tag = ahead.head(TAG, "")?;
                d.tag(tag)?;
                Value::Tag(tag, Box::new(decode(d)?))
            }
        })
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<u64>().prop_map(Value::from),
            (0u64..300).prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            proptest::collection::vec(any::<u8>(), 0..300).prop_map(Value::Bytes),
            "[a-zé]{0,30}".prop_map(Value::Text),
            any::<bool>().prop_map(Value::Bool),
            Just(Value::Null),
        ];
        leaf.prop_recursive(3, 40, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
                proptest::collection::btree_map(any::<u16>(), inner.clone(), 0..6)
                    .prop_map(|m| Value::Map(m.into_iter().map(|(k, v)| (Value::from(k), v)).collect())),
                (any::<u32>(), inner).prop_map(|(t, v)| Value::Tag(t.into(), Box::new(v))),
            ]
        })
    }

    proptest! {
        #[test]
        fn agrees_with_another_implementation(value in values()) {
            let mut theirs = Vec::new();
            ciborium::into_writer(&value, &mut theirs).unwrap();
            let mut ours = Encoder::new();
            encode(&mut ours, &value);
            prop_assert_eq!(&ours.finish(), &theirs);
            let mut room = vec![0; theirs.len()];
            let mut over = Encoder::over(&mut room);
            encode(&mut over, &value);
            prop_assert_eq!(over.used(), theirs.len());
            prop_assert_eq!(&room, &theirs);
            let mut none = Encoder::over(&mut []);
            encode(&mut none, &value);
            prop_assert_eq!(none.used(), theirs.len());
            let mut secret = Encoder::secret();
            encode(&mut secret, &value);
            let secret = secret.finish().unwrap();
            prop_assert_eq!(secret.expose(), &theirs[..]);
            let mut d = Decoder::new(&theirs);
            prop_assert_eq!(decode(&mut d).unwrap(), value);
            prop_assert!(d.end().is_ok());
        }

        #[test]
        fn accepts_only_what_it_would_write(input in proptest::collection::vec(any::<u8>(), 0..40)) {
            let mut d = Decoder::new(&input);
            if let Ok(value) = decode(&mut d) {
                let read = &input[..input.len() - d.rest.len()];
                let mut e = Encoder::new();
                encode(&mut e, &value);
                prop_assert_eq!(&e.finish()[..], read);
            }
        }
    }

    #[test]
    fn refuses_what_is_not_deterministic() {
        let refused = [
            "1800",               // 0 in two bytes
            "190017",             // 23 in three bytes
            "1b00000000ffffffff", // a 32-bit value in nine bytes
            "5f4100ff",           // an indefinite byte string
            "9f00ff",             // an indefinite array
            "a2020001 00",        // keys in descending order
            "a201000100",         // a key twice
            "61ff",               // text that is not UTF-8
            "f97e00",             // a float
            "1c",                 // a reserved length
            "9b7fffffffffffffff", // an array longer than its input
            "5b7fffffffffffffff", // a byte string longer than its input
            "f7",                 // undefined
            "f814",               // false in two bytes
        ];
        for text in refused {
            let input = hex::decode(text.replace(' ', "")).unwrap();
            assert!(decode(&mut Decoder::new(&input)).is_err(), "{text}");
        }
    }

    #[test]
    fn fields_are_in_order_and_known() {
        let mut e = Encoder::new();
        e.map(3).uint(1).uint(7).uint(2).text("x").uint(4).bool(true);
        let bytes = e.finish();
        let mut d = Decoder::new(&bytes);
        let mut m = d.map().unwrap();
        assert_eq!(m.field(1).unwrap().small::<u8>(), Ok(7));
        assert_eq!(m.field(2).unwrap().text(), Ok("x"));
        assert_eq!(m.field(4).unwrap().bool(), Ok(true));
        m.end().unwrap();
        d.end().unwrap();

        let mut d = Decoder::new(&bytes);
        let mut m = d.map().unwrap();
        m.field(1).unwrap().uint().unwrap();
        assert!(m.field(3).is_err());
        let mut d = Decoder::new(&bytes);
        let mut m = d.map().unwrap();
        m.field(1).unwrap().uint().unwrap();
        assert!(m.end().is_err());
    }
}
