//! Addresses of messages: "REGION", or "REGION/INSTANCE" for one process of that Region. The
//! carriers and the proxy share this file.

use std::fmt;
use std::str::FromStr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// Of a message, in bytes.
pub(crate) const MAX_MESSAGE: usize = 64 * 1024 * 1024;

/// What may be a Region's name in a domain's state.
const MAX_REGION: usize = 255;
const MAX_INSTANCE: usize = 64;

/// All but RFC 3986's unreserved characters.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Whom a message is for, or from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) region: String,
    /// None for whoever answers for the Region.
    pub(crate) instance: Option<String>,
}

impl Address {
    /// Fails, with a sentence, for names that no address can have.
    pub(crate) fn new(region: &str, instance: Option<&str>) -> Result<Self, String> {
        check("a Region's name", region, MAX_REGION)?;
        if let Some(instance) = instance {
            check("an instance's name", instance, MAX_INSTANCE)?;
        }
        Ok(Self { region: region.to_owned(), instance: instance.map(str::to_owned) })
    }

    /// As in a URL's path and in a header: both names percent-encoded.
    pub(crate) fn encoded(&self) -> String {
        let region = encode(&self.region);
        match &self.instance {
            Some(instance) => format!("{region}/{}", encode(instance)),
            None => region,
        }
    }

    pub(crate) fn decode(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((region, instance)) => Self::new(&decode(region)?, Some(&decode(instance)?)),
            None => Self::new(&decode(text)?, None),
        }
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((region, instance)) => Self::new(region, Some(instance)),
            None => Self::new(text, None),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.region)?;
        self.instance.as_ref().map_or(Ok(()), |instance| write!(f, "/{instance}"))
    }
}

pub(crate) fn encode(name: &str) -> String {
    utf8_percent_encode(name, RESERVED).to_string()
}

pub(crate) fn decode(text: &str) -> Result<String, String> {
    let decoded = percent_decode_str(text).decode_utf8();
    decoded.map(|name| name.into_owned()).map_err(|_| "a name is not UTF-8".to_owned())
}

fn check(what: &str, name: &str, max: usize) -> Result<(), String> {
    if name.is_empty() || name.len() > max {
        return Err(format!("{what} has 1 to {max} bytes"));
    }
    // Dots alone are no names in a path.
    if name.chars().any(|c| c.is_control() || c == '/') || matches!(name, "." | "..") {
        return Err(format!("{what} has no control characters and no \"/\", and is neither \".\" nor \"..\""));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_their_encoding() {
        for text in ["eu", "eu-west-1/0123456789abcdef", "Zürich & co?#%/a b", "...", "eu/..."] {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
            assert_eq!(Address::decode(&address.encoded()), Ok(address.clone()));
            assert!(address.encoded().bytes().all(|c| c.is_ascii_alphanumeric() || b"-._~%/".contains(&c)));
        }
    }

    #[test]
    fn names_that_no_address_has_are_refused() {
        let long = "r".repeat(MAX_REGION + 1);
        for text in ["", "/", "eu/", "/i", "eu/a/b", "e\nu", "eu/\u{7f}", ".", "..", "eu/..", &long] {
            assert!(text.parse::<Address>().is_err(), "{text:?}");
        }
        for text in ["%2e%2E", "a%2Fb", "eu%0a", "%ff", "", "eu/x/y"] {
            assert!(Address::decode(text).is_err(), "{text:?}");
        }
    }
}
