//! The encryption context: names and values that the caller gives again to decrypt. Not secret;
//! it is authenticated with the ciphertext, and goes to the audit log.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};

use super::super::domain::cbor::{Decoded, Decoder, Encoder, Malformed};
use crate::error::{ErrorKind, Result};

/// The longest encoding, in bytes.
pub(in crate::hsm) const MAX_LEN: usize = 8192;

/// The most pairs.
pub(in crate::hsm) const MAX_PAIRS: usize = 100;

/// A context in its one encoding, a CBOR map from text to text: the order in which the pairs were
/// given does not matter, every byte of them does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) struct Context<'a>(Cow<'a, [u8]>);

impl Context<'static> {
    /// What a caller who gives none has.
    pub(in crate::hsm) const EMPTY: Self = Self(Cow::Borrowed(&[0xa0]));

    /// CKR_ARGUMENTS_BAD for an empty name, a name given twice, or too much.
    pub(in crate::hsm) fn from_pairs<'p>(pairs: impl IntoIterator<Item = (&'p str, &'p str)>) -> Result<Self> {
        let mut sorted = Vec::new();
        let mut given = 0;
        for (name, value) in pairs {
            given += name.len() + value.len();
            if sorted.len() == MAX_PAIRS || given > MAX_LEN {
                return Err(bad(TOO_LONG));
            }
            sorted.push((name, value));
        }
        // The bytewise order of encoded texts: the length is in front.
        sorted.sort_unstable_by_key(|(name, _)| (name.len(), *name));
        if sorted.first().is_some_and(|(name, _)| name.is_empty()) {
            return Err(bad("an empty name"));
        }
        if sorted.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return Err(bad("a name twice"));
        }
        let mut e = Encoder::new();
        e.map(sorted.len());
        for (name, value) in sorted {
            e.text(name).text(value);
        }
        let encoded = e.finish();
        if encoded.len() > MAX_LEN { Err(bad(TOO_LONG)) } else { Ok(Self(Cow::Owned(encoded))) }
    }

    /// As a caller gives it: a JSON object of strings in UTF-8, or nothing for none.
    pub(in crate::hsm) fn given(json: &[u8]) -> Result<Self> {
        if json.is_empty() {
            return Ok(Self::EMPTY);
        }
        Self::from_json(std::str::from_utf8(json).map_err(|_| bad("bytes that are not UTF-8"))?)
    }

    /// From a JSON object of strings. CKR_ARGUMENTS_BAD also for other JSON.
    pub(in crate::hsm) fn from_json(json: &str) -> Result<Self> {
        let mut reader = serde_json::Deserializer::from_str(json);
        let pairs = (&mut reader).deserialize_map(Pairs).and_then(|pairs| reader.end().map(|()| pairs));
        // serde_json's words may repeat what it read.
        let pairs = pairs.map_err(|_| bad("something else than a JSON object of at most 100 strings"))?;
        Self::from_pairs(pairs.iter().map(|(name, value)| (&**name, &**value)))
    }
}

impl<'a> Context<'a> {
    /// From the encoding itself; CKR_ARGUMENTS_BAD for any other.
    pub(in crate::hsm) fn decode(encoded: &'a [u8]) -> Result<Self> {
        if encoded.len() > MAX_LEN {
            return Err(bad(TOO_LONG));
        }
        let mut d = Decoder::new(encoded);
        let read = Self::read(&mut d).and_then(|context| d.end().map(|()| context));
        read.map_err(|_| bad("something else than a deterministic CBOR map of texts"))
    }

    /// The encoding as an item of a larger structure.
    pub(super) fn read(d: &mut Decoder<'a>) -> Decoded<Self> {
        let before = d.remaining();
        let mut map = d.map()?;
        let mut pairs = 0;
        while let Some((name, value)) = map.next_with(Decoder::text)? {
            value.text()?;
            pairs += 1;
            if name.is_empty() || pairs > MAX_PAIRS {
                return Err(Malformed("an empty name or too many pairs"));
            }
        }
        map.end()?;
        let encoded = before.get(..before.len() - d.remaining().len()).filter(|encoded| encoded.len() <= MAX_LEN);
        encoded.map(|encoded| Self(Cow::Borrowed(encoded))).ok_or(Malformed(TOO_LONG))
    }

    pub(in crate::hsm) fn encoded(&self) -> &[u8] {
        &self.0
    }

    pub(in crate::hsm) fn is_empty(&self) -> bool {
        self.0.len() == 1
    }

    /// Names and values, in the order of the encoding.
    pub(in crate::hsm) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut d = Decoder::new(&self.0);
        let mut left = d.map_len().unwrap_or(0);
        std::iter::from_fn(move || {
            left = left.checked_sub(1)?;
            Some((d.text().ok()?, d.text().ok()?))
        })
    }
}

const TOO_LONG: &str = "more than 100 pairs or 8192 bytes";

pub(super) fn bad(what: &str) -> crate::error::Error {
    ErrorKind::ArgumentsBad.with(format!("an encryption context has {what}"))
}

/// Reads a JSON object with every pair, those with the same name as well.
struct Pairs;

impl<'de> Visitor<'de> for Pairs {
    type Value = Vec<(String, String)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry()? {
            if pairs.len() == MAX_PAIRS {
                return Err(serde::de::Error::custom(TOO_LONG));
            }
            pairs.push(pair);
        }
        Ok(pairs)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn order_does_not_matter(pairs in proptest::collection::btree_map("[a-zé]{1,40}", ".{0,40}", 0..12), turn: usize) {
            let mut given: Vec<_> = pairs.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            let first = Context::from_pairs(given.iter().copied()).unwrap();
            let turn = turn % given.len().max(1);
            given.rotate_left(turn);
            let again = Context::from_pairs(given.iter().copied()).unwrap();
            prop_assert_eq!(&first, &again);
            prop_assert_eq!(&Context::decode(first.encoded()).unwrap(), &first);
            let json = serde_json::to_string(&pairs).unwrap();
            prop_assert_eq!(&Context::from_json(&json).unwrap(), &first);
            let mut read: Vec<_> = first.pairs().collect();
            read.sort_unstable();
            given.sort_unstable();
            prop_assert_eq!(read, given);
            let theirs: ciborium::Value = ciborium::from_reader(first.encoded()).unwrap();
            prop_assert_eq!(theirs.as_map().unwrap().len(), pairs.len());
        }

        #[test]
        fn decodes_only_what_it_would_encode(bytes in proptest::collection::vec(any::<u8>(), 0..12)) {
            if let Ok(context) = Context::decode(&bytes) {
                let again = Context::from_pairs(context.pairs()).unwrap();
                prop_assert_eq!(again.encoded(), &bytes[..]);
            }
        }
    }

    #[test]
    fn limits() {
        let refused = |made: Result<Context<'_>>| made.unwrap_err().kind() == ErrorKind::ArgumentsBad;
        assert_eq!(Context::from_pairs([]).unwrap(), Context::EMPTY);
        assert!(Context::from_json(" {} ").unwrap().is_empty());
        let names: Vec<String> = (0..=MAX_PAIRS).map(|n| n.to_string()).collect();
        let pairs = |count| names[..count].iter().map(|name| (name.as_str(), ""));
        assert_eq!(Context::from_pairs(pairs(MAX_PAIRS)).unwrap().pairs().count(), MAX_PAIRS);
        assert!(refused(Context::from_pairs(pairs(MAX_PAIRS + 1))));
        let long = "x".repeat(MAX_LEN - 1 - 2 - 3);
        let longest = Context::from_pairs([("k", long.as_str())]).unwrap();
        assert_eq!(longest.encoded().len(), MAX_LEN);
        assert_eq!(Context::decode(longest.encoded()).unwrap(), longest);
        let longer = long + "x";
        assert!(refused(Context::from_pairs([("k", longer.as_str())])));
        for json in
            ["", "[]", "{", r#"{"":"v"}"#, r#"{"a":"1","a":"1"}"#, r#"{"a":1}"#, r#"{"a":null}"#, r#"{"a":"1"} x"#]
        {
            assert!(refused(Context::from_json(json)), "{json}");
        }
        assert!(refused(Context::from_pairs([("a", "1"), ("b", "2"), ("a", "2")])));
        for encoded in ["a16061 78", "a2616161786161 6179", "a1616101", "bf6161617 8ff", "a2616261 786161 6179", "a0a0"]
        {
            assert!(refused(Context::decode(&hex::decode(encoded.replace(' ', "")).unwrap())), "{encoded}");
        }
    }
}
