//! What the host reads of a request: the names of the keys and the alias that it is about.

use serde_json::{Map, Value};

use crate::error::{Error, ErrorKind, Result};

/// A JSON object; the rest of it is read by the HSM.
pub(super) struct Request(Map<String, Value>);

impl Request {
    /// An empty text is an empty object. CKR_ARGUMENTS_BAD.
    pub(super) fn parse(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Ok(Self(Map::new()));
        }
        match serde_json::from_str(text) {
            Ok(Value::Object(members)) => Ok(Self(members)),
            Ok(_) => Err(bad("a request is a JSON object")),
            Err(error) => Err(bad(format!("the request is not JSON: {error}"))),
        }
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<&str>> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(bad(format!("{name} is not a string"))),
        }
    }

    /// A member that must be there.
    pub(super) fn name(&self, name: &str) -> Result<&str> {
        self.text(name)?.ok_or_else(|| bad(format!("{name} is missing")))
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<u64>> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_u64() {
                Some(number) => Ok(Some(number)),
                None => Err(bad(format!("{name} is not a number"))),
            },
        }
    }

    /// CKR_ARGUMENTS_BAD for a member that is none of these.
    pub(super) fn only(&self, known: &[&str]) -> Result<()> {
        match self.0.keys().find(|name| !known.contains(&name.as_str())) {
            Some(name) => Err(bad(format!("{name} is no member of this request"))),
            None => Ok(()),
        }
    }

    /// Limit and Marker: how many to list at most, and the place to go on from.
    pub(super) fn page(&self, most: usize) -> Result<(usize, u64)> {
        let limit = match self.number("Limit")? {
            None => most.min(100),
            Some(limit) => match usize::try_from(limit) {
                Ok(limit) if (1..=most).contains(&limit) => limit,
                _ => return Err(bad(format!("Limit is from 1 to {most}"))),
            },
        };
        let after = match self.text("Marker")? {
            None => 0,
            Some(marker) => marker.parse().map_err(|_| bad("Marker is not one that an earlier answer gave"))?,
        };
        Ok((limit, after))
    }
}

fn bad(why: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    ErrorKind::ArgumentsBad.with(why)
}
