//! How each value of the domain reads as JSON: bytes as lower-case hexadecimal, times in seconds.

use serde_json::{Map, Value, json};

use super::super::super::command::Role;
use super::super::identity::{Claim, Party};
use super::super::keys::PublicKey;
use super::super::rules::MAJORITY;
use super::super::seal::DomainId;
use super::super::state::{Limits, Member, Rule, StandingOrder, TrustedRegion};
use crate::error::{Error, ErrorKind, Result};
use crate::text::hex;

/// As long as the binary form allows (`state::text`).
const LONGEST_TEXT: usize = 255;
const MAJORITY_NAME: &str = "majority";

/// A value that is written as JSON and read back the same. `at` names it in an error.
pub(super) trait Form: Sized {
    fn write(&self) -> Value;
    fn read(value: &Value, at: &str) -> Result<Self>;
}

/// CKR_ARGUMENTS_BAD, with what is wrong. The value itself is never repeated.
pub(super) fn bad(at: &str, why: &str) -> Error {
    ErrorKind::ArgumentsBad.with(format!("{at}: {why}"))
}

/// The members of an object. Each is asked for once; none may be left over.
pub(super) struct Fields<'a> {
    map: &'a Map<String, Value>,
    asked: Vec<&'static str>,
    at: String,
}

impl<'a> Fields<'a> {
    /// `at` is empty for the request itself.
    pub(super) fn of(value: &'a Value, at: &str) -> Result<Self> {
        let what = if at.is_empty() { "the request" } else { at };
        let map = value.as_object().ok_or_else(|| bad(what, "must be an object"))?;
        Ok(Self { map, asked: Vec::new(), at: at.to_owned() })
    }

    /// The member as it stands, null included.
    pub(super) fn given(&mut self, name: &'static str) -> Option<&'a Value> {
        self.asked.push(name);
        self.map.get(name)
    }

    /// Absent and null are the same.
    pub(super) fn maybe<T: Form>(&mut self, name: &'static str) -> Result<Option<T>> {
        match self.given(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => T::read(value, &self.path(name)).map(Some),
        }
    }

    pub(super) fn read<T: Form>(&mut self, name: &'static str) -> Result<T> {
        self.maybe(name)?.ok_or_else(|| self.missing(name))
    }

    pub(super) fn missing(&self, name: &str) -> Error {
        bad(&self.path(name), "is missing")
    }

    pub(super) fn path(&self, name: &str) -> String {
        if self.at.is_empty() { name.to_owned() } else { format!("{}.{name}", self.at) }
    }

    /// Refuses members that nobody asked for.
    pub(super) fn end(self) -> Result<()> {
        match self.map.keys().find(|name| !self.asked.contains(&name.as_str())) {
            Some(name) => Err(bad(&self.path(&format!("{name:?}")), "there is no such field here")),
            None => Ok(()),
        }
    }
}

impl Form for bool {
    fn write(&self) -> Value {
        (*self).into()
    }

    fn read(value: &Value, at: &str) -> Result<Self> {
        value.as_bool().ok_or_else(|| bad(at, "must be true or false"))
    }
}

impl Form for u64 {
    fn write(&self) -> Value {
        (*self).into()
    }

    fn read(value: &Value, at: &str) -> Result<Self> {
        value.as_u64().ok_or_else(|| bad(at, "must be a whole number, not negative"))
    }
}

impl Form for String {
    fn write(&self) -> Value {
        self.as_str().into()
    }

    fn read(value: &Value, at: &str) -> Result<Self> {
        let text = value.as_str().ok_or_else(|| bad(at, "must be a text"))?;
        if text.len() > LONGEST_TEXT { Err(bad(at, "is longer than 255 bytes")) } else { Ok(text.to_owned()) }
    }
}

impl Form for Vec<u8> {
    fn write(&self) -> Value {
        hex(self).into()
    }

    fn read(value: &Value, at: &str) -> Result<Self> {
        let digits = value.as_str().and_then(|text| {
            let digits: Option<Self> = text.bytes().map(digit).collect();
            digits.filter(|digits| digits.len().is_multiple_of(2))
        });
        let digits = digits.ok_or_else(|| bad(at, "must be bytes in lower-case hexadecimal"))?;
        Ok(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
    }
}

fn digit(character: u8) -> Option<u8> {
    match character {
        b'0'..=b'9' => Some(character - b'0'),
        b'a'..=b'f' => Some(character - b'a' + 10),
        _ => None,
    }
}

impl<const N: usize> Form for [u8; N] {
    fn write(&self) -> Value {
        hex(self).into()
    }

    fn read(value: &Value, at: &str) -> Result<Self> {
        let bytes: Vec<u8> = Form::read(value, at)?;
        bytes.try_into().map_err(|_| bad(at, &format!("must be {N} bytes, {} hexadecimal digits", 2 * N)))
    }
}

/// Lists of anything; bytes have a form of their own.
pub(super) fn write_list<T: Form>(items: &[T]) -> Value {
    items.iter().map(Form::write).collect()
}

pub(super) fn read_list<T>(value: &Value, at: &str, read: impl Fn(&Value, &str) -> Result<T>) -> Result<Vec<T>> {
    let items = value.as_array().ok_or_else(|| bad(at, "must be a list"))?;
    items.iter().enumerate().map(|(n, item)| read(item, &format!("{at}[{n}]"))).collect()
}

impl Form for PublicKey {
    fn write(&self) -> Value {
        hex(self.spki()).into()
    }

    fn read(value: &Value, at: &str) -> Result<Self> {
        let spki: Vec<u8> = Form::read(value, at)?;
        Self::from_spki(&spki).map_err(|_| bad(at, "must be a P-384 SubjectPublicKeyInfo, 120 bytes, uncompressed"))
    }
}

impl Form for Claim {
    fn write(&self) -> Value {
        hex(self.message()).into()
    }

    fn read(value: &Value, at: &str) -> Result<Self> {
        let message: Vec<u8> = Form::read(value, at)?;
        Self::decode(&message).map_err(|_| bad(at, "is not a claim"))
    }
}

/// A claim that its own signing key signed for this domain.
pub(super) fn checked(claim: Claim, party: Party, domain: &DomainId, at: &str) -> Result<Claim> {
    match claim.verify(party, domain) {
        Ok(_) => Ok(claim),
        Err(_) => Err(bad(at, "is not a claim for this domain by the kind of party that the command is about")),
    }
}

impl Form for Role {
    fn write(&self) -> Value {
        match self {
            Self::So => "SO".into(),
            Self::User => "user".into(),
            Self::Named(name) => json!({ "named": name }),
        }
    }

    fn read(value: &Value, at: &str) -> Result<Self> {
        match value.as_str() {
            Some("SO") => return Ok(Self::So),
            Some("user") => return Ok(Self::User),
            Some(_) => return Err(bad(at, "must be \"SO\", \"user\" or {\"named\": NAME}")),
            None => {}
        }
        let mut fields = Fields::of(value, at)?;
        let name = fields.read("named")?;
        fields.end().map(|()| Self::Named(name))
    }
}

impl Form for Member {
    fn write(&self) -> Value {
        json!({ "id": self.id.write(), "signing": self.signing.write(), "agreement": self.agreement.write() })
    }

    fn read(value: &Value, at: &str) -> Result<Self> {
        let mut fields = Fields::of(value, at)?;
        let (id, signing, agreement) = (fields.read("id")?, fields.read("signing")?, fields.read("agreement")?);
        fields.end().map(|()| Self { id, signing, agreement })
    }
}

impl Form for Rule {
    fn write(&self) -> Value {
        let alternatives = self.alternatives.iter().map(|alternative| {
            let places = alternative.iter().map(|(role, minimum)| match *minimum {
                MAJORITY => (role.clone(), MAJORITY_NAME.into()),
                minimum => (role.clone(), minimum.into()),
            });
            Value::Object(places.collect())
        });
        json!({ "command": self.command, "alternatives": alternatives.collect::<Value>() })
    }

    fn read(value: &Value, at: &str) -> Result<Self> {
        let mut fields = Fields::of(value, at)?;
        let command = fields.read("command")?;
        let path = fields.path("alternatives");
        let given = fields.given("alternatives").ok_or_else(|| fields.missing("alternatives"))?;
        let alternatives = read_list(given, &path, read_alternative)?;
        fields.end().map(|()| Self { command, alternatives })
    }
}

/// Roles with a minimum each, ascending by role.
fn read_alternative(value: &Value, at: &str) -> Result<Vec<(String, u64)>> {
    let map = value.as_object().ok_or_else(|| bad(at, "must be an object of roles, such as {\"officer\": 2}"))?;
    let mut places = Vec::new();
    for (role, minimum) in map {
        let minimum = match minimum.as_u64() {
            Some(minimum @ 1..=255) => minimum,
            None if minimum.as_str() == Some(MAJORITY_NAME) => MAJORITY,
            _ => return Err(bad(&format!("{at}.{role:?}"), "must be a number from 1 to 255, or \"majority\"")),
        };
        places.push((role.clone(), minimum));
    }
    places.sort_unstable();
    Ok(places)
}

impl Form for StandingOrder {
    fn write(&self) -> Value {
        let Self { interval, window, retain, until } = self;
        json!({ "interval": interval, "window": window, "retain": retain, "until": until })
    }

    fn read(value: &Value, at: &str) -> Result<Self> {
        let mut fields = Fields::of(value, at)?;
        let order = Self {
            interval: fields.read("interval")?,
            window: fields.read("window")?,
            retain: fields.maybe("retain")?,
            until: fields.read("until")?,
        };
        fields.end().map(|()| order)
    }
}

impl Form for TrustedRegion {
    fn write(&self) -> Value {
        let replication_keys = write_list(&self.replication_keys);
        json!({ "name": self.name, "domain": self.domain.write(), "replication_keys": replication_keys })
    }

    fn read(value: &Value, at: &str) -> Result<Self> {
        let mut fields = Fields::of(value, at)?;
        let (name, domain) = (fields.read("name")?, fields.read("domain")?);
        let path = fields.path("replication_keys");
        let keys = fields.given("replication_keys").ok_or_else(|| fields.missing("replication_keys"))?;
        let replication_keys = read_list(keys, &path, PublicKey::read)?;
        fields.end().map(|()| Self { name, domain, replication_keys })
    }
}

pub(super) fn write_limits(limits: &Limits) -> Value {
    let Limits { session_key, handshake, login_ticket, offer, proposal, approval } = limits;
    json!({
        "session_key": session_key, "handshake": handshake, "login_ticket": login_ticket,
        "offer": offer, "proposal": proposal, "approval": approval,
    })
}

/// Those not given stay as they are.
pub(super) fn read_limits(value: &Value, at: &str, held: &Limits) -> Result<Limits> {
    let mut fields = Fields::of(value, at)?;
    let limits = Limits {
        session_key: fields.maybe("session_key")?.unwrap_or(held.session_key),
        handshake: fields.maybe("handshake")?.unwrap_or(held.handshake),
        login_ticket: fields.maybe("login_ticket")?.unwrap_or(held.login_ticket),
        offer: fields.maybe("offer")?.unwrap_or(held.offer),
        proposal: fields.maybe("proposal")?.unwrap_or(held.proposal),
        approval: fields.maybe("approval")?.unwrap_or(held.approval),
    };
    fields.end().map(|()| limits)
}
