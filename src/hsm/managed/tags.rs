//! Tags of a managed key: names and values that its users give it.

use super::{Answer, Reason};
use crate::hsm::domain::cbor::{Decoded, Decoder, Encoder, Malformed};

/// The most tags of a key.
pub(in crate::hsm) const MAX_TAGS: usize = 50;
/// The longest name and value, in characters.
const MAX_NAME: usize = 128;
const MAX_VALUE: usize = 256;

/// Names and values, each name once, in the order of their encodings: shorter names first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::hsm) struct Tags(Vec<(String, String)>);

impl Tags {
    /// With these tags set, replacing values that some may have. KMS_R_INVALID_TAG for a name or
    /// value that is not allowed or a name given twice, KMS_R_LIMIT_EXCEEDED for too many.
    pub(in crate::hsm) fn with(&self, given: &[(&str, &str)]) -> Answer<Self> {
        let mut tags = self.clone();
        for (at, (name, value)) in given.iter().enumerate() {
            check("name", name, 1, MAX_NAME)?;
            check("value", value, 0, MAX_VALUE)?;
            if given[..at].iter().any(|(earlier, _)| earlier == name) {
                return Err(Reason::InvalidTag.with("a tag is given twice"));
            }
            match tags.position(name) {
                Ok(found) => tags.0[found].1 = (*value).to_owned(),
                Err(free) => tags.0.insert(free, ((*name).to_owned(), (*value).to_owned())),
            }
        }
        if tags.0.len() > MAX_TAGS {
            return Err(Reason::LimitExceeded.with(format!("a key has at most {MAX_TAGS} tags")));
        }
        Ok(tags)
    }

    /// Without the tags of these names, whether or not it has them.
    pub(in crate::hsm) fn without(&self, names: &[&str]) -> Self {
        let mut tags = self.clone();
        tags.0.retain(|(name, _)| !names.contains(&name.as_str()));
        tags
    }

    pub(in crate::hsm) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut e = Encoder::new();
        e.map(self.0.len());
        for (name, value) in &self.0 {
            e.text(name).text(value);
        }
        e.finish()
    }

    pub(super) fn decode(encoded: &[u8]) -> Decoded<Self> {
        let mut d = Decoder::new(encoded);
        let mut map = d.map()?;
        let mut tags = Vec::new();
        while let Some((name, value)) = map.next_with(Decoder::text)? {
            tags.push((name.to_owned(), value.text()?.to_owned()));
            if tags.len() > MAX_TAGS {
                return Err(Malformed("too many tags"));
            }
        }
        map.end()?;
        d.end()?;
        Ok(Self(tags))
    }

    fn position(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(known, _)| (known.len(), known.as_str()).cmp(&(name.len(), name)))
    }
}

fn check(what: &str, text: &str, least: usize, most: usize) -> Answer<()> {
    if !(least..=most).contains(&text.chars().count()) || text.chars().any(char::is_control) {
        return Err(
            Reason::InvalidTag.with(format!("a tag's {what} has {least} to {most} characters, none of them control"))
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_set_replaced_and_removed() {
        let tags = Tags::default().with(&[("team", "a"), ("b", "")]).unwrap().with(&[("team", "c")]).unwrap();
        assert_eq!(tags.iter().collect::<Vec<_>>(), [("b", ""), ("team", "c")]);
        assert_eq!(Tags::decode(&tags.encode()), Ok(tags.clone()));
        assert_eq!(tags.without(&["b", "x"]).iter().collect::<Vec<_>>(), [("team", "c")]);
    }

    #[test]
    fn limits() {
        let reason = |tags: &Tags, given: &[(&str, &str)]| tags.with(given).unwrap_err().reason();
        let none = Tags::default();
        let names: Vec<String> = (0..51).map(|n| format!("n{n}")).collect();
        let all: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
        assert_eq!(reason(&none, &all), Reason::LimitExceeded);
        let full = none.with(&all[..50]).unwrap();
        assert!(full.with(&all[..50]).is_ok());
        assert_eq!(reason(&full, &all[50..]), Reason::LimitExceeded);
        for (name, value) in [("", ""), (&*"é".repeat(129), ""), ("a", &*"v".repeat(257)), ("a\0", "")] {
            assert_eq!(reason(&none, &[(name, value)]), Reason::InvalidTag);
        }
        assert_eq!(reason(&none, &[("a", "1"), ("a", "2")]), Reason::InvalidTag);
        assert!(none.with(&[(&"é".repeat(128), &"v".repeat(256))]).is_ok());
    }
}
