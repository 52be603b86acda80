//! Grants: what one principal may do with a managed key besides what its policy allows, until the
//! grant is retired or revoked.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use super::attributes::{CKA_KMS_GRANTS, CKA_KMS_KEY_ID};
use super::condition::Condition;
use super::context::Context;
use super::metadata::KeyId;
use super::policy::{self, denied, is_principal};
use super::{Answer, Reason, Refused};
use crate::hsm::audit::Action;
use crate::hsm::domain::cbor::{Decoded, Decoder, Encoder, Malformed};
use crate::hsm::value::Attributes;

/// The most grants of a key.
pub(in crate::hsm) const MAX_GRANTS: usize = 100;
/// The most pairs of a constraint, and its longest encoding in bytes.
const MAX_PAIRS: usize = 8;
const MAX_CONSTRAINT: usize = 1024;
/// The longest name in characters.
const MAX_NAME: usize = 256;

/// The operations that a grant can have, and whether they take an encryption context.
const OPERATIONS: &[(Action, bool)] = &[
    (Action::Encrypt, true),
    (Action::Decrypt, true),
    (Action::ReEncrypt, true),
    (Action::GenerateDataKey, true),
    (Action::GenerateDataKeyWithoutPlaintext, true),
    (Action::GenerateDataKeyPair, true),
    (Action::GenerateDataKeyPairWithoutPlaintext, true),
    (Action::WrapKey, true),
    (Action::UnwrapKey, true),
    (Action::Sign, false),
    (Action::Verify, false),
    (Action::GenerateMac, false),
    (Action::VerifyMac, false),
    (Action::DeriveSharedSecret, false),
    (Action::DescribeKey, false),
    (Action::CreateGrant, false),
    (Action::RetireGrant, false),
];
/// Those that a constraint does not concern. With one, a grant has no others that take no context.
const UNCONSTRAINED: &[Action] = &[Action::DescribeKey, Action::CreateGrant, Action::RetireGrant];

/// A key's, in the order in which they were made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::hsm) struct Grants<'a>(Vec<Grant<'a>>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Grant<'a> {
    id: Cow<'a, str>,
    grantee: &'a str,
    /// Who may retire it, besides the grantee if that is among the operations.
    retiring: Option<&'a str>,
    /// In the order of [`OPERATIONS`], each once.
    operations: Vec<Action>,
    constraint: Option<Condition<'a>>,
    name: Option<&'a str>,
    /// Who made it.
    issuer: Cow<'a, str>,
    /// Seconds since 1970.
    created: u64,
}

/// Who asks to make a grant.
#[derive(Debug, Clone, Copy)]
pub(in crate::hsm) struct Issuer<'a> {
    pub(in crate::hsm) principal: &'a str,
    /// For a new id.
    pub(in crate::hsm) random: [u8; 16],
    /// Seconds since 1970.
    pub(in crate::hsm) now: u64,
}

impl<'a> Grants<'a> {
    /// A key's; CKR_DEVICE_ERROR for what no HSM wrote.
    pub(in crate::hsm) fn of(key: &'a Attributes) -> Answer<Self> {
        let Some(encoded) = key.bytes(CKA_KMS_GRANTS) else { return Ok(Self::default()) };
        Self::decode(encoded).map_err(|why| Reason::Damaged.with(format!("a key's grants: {}", why.0)))
    }

    pub(in crate::hsm) fn allows(&self, principal: &str, action: Action, context: Option<&Context<'_>>) -> bool {
        self.0.iter().any(|grant| {
            grant.allows(principal, action, context)
                || (action == Action::RetireGrant && grant.retiring == Some(principal))
        })
    }

    /// With a grant that CreateGrant's request asks for; also gives its id. A request that was made
    /// before, by its Name and all else, gives that grant's id and changes nothing.
    ///
    /// KMS_R_INVALID_GRANT, KMS_R_LIMIT_EXCEEDED; KMS_R_ACCESS_DENIED unless the policy allows the
    /// issuer to make grants, or a grant of his does that has all of these operations and demands no
    /// less of the context.
    pub(in crate::hsm) fn create(
        key: &'a Attributes,
        request: &'a Map<String, Value>,
        by: &Issuer<'a>,
    ) -> Answer<(Self, String)> {
        let mut grants = Self::of(key)?;
        let grant = Grant::from_json(request, by).map_err(|why| Reason::InvalidGrant.with(why))?;
        let may = policy::allows(key, by.principal, Action::CreateGrant, None)?
            || grants.0.iter().any(|held| held.passes_on(&grant));
        if !may {
            return Err(denied(key, by.principal, Action::CreateGrant));
        }
        if let Some(held) = grants.0.iter().find(|held| held.is_retry(&grant)) {
            let id = held.id.to_string();
            return Ok((grants, id));
        }
        if grants.0.len() >= MAX_GRANTS {
            return Err(Reason::LimitExceeded.with(format!("a key has at most {MAX_GRANTS} grants")));
        }
        let id = grant.id.to_string();
        grants.0.push(grant);
        Ok((grants, id))
    }

    /// Without the grant that its retiring principal, its grantee, or whom the policy allows it gives up.
    /// KMS_R_NOT_FOUND, KMS_R_ACCESS_DENIED.
    pub(in crate::hsm) fn retire(key: &'a Attributes, id: &str, principal: &str) -> Answer<Self> {
        let grants = Self::of(key)?;
        let by_policy = policy::allows(key, principal, Action::RetireGrant, None)?;
        let Some(grant) = grants.0.iter().find(|grant| grant.id == id) else {
            return Err(if by_policy { unknown(key, id) } else { denied(key, principal, Action::RetireGrant) });
        };
        if by_policy || grant.may_be_retired_by(principal) {
            Ok(grants.without(id))
        } else {
            Err(denied(key, principal, Action::RetireGrant))
        }
    }

    /// Without the grant, which whom the policy allows it takes back.
    pub(in crate::hsm) fn revoke(key: &'a Attributes, id: &str, principal: &str) -> Answer<Self> {
        if !policy::allows(key, principal, Action::RevokeGrant, None)? {
            return Err(denied(key, principal, Action::RevokeGrant));
        }
        let grants = Self::of(key)?;
        if grants.0.iter().all(|grant| grant.id != id) {
            return Err(unknown(key, id));
        }
        Ok(grants.without(id))
    }

    /// As ListGrants tells them.
    pub(in crate::hsm) fn to_json(&self) -> Value {
        self.0.iter().map(Grant::to_json).collect()
    }

    /// The attribute's value; None if there are no grants.
    pub(in crate::hsm) fn encode(&self) -> Option<Vec<u8>> {
        if self.0.is_empty() {
            return None;
        }
        let mut e = Encoder::new();
        e.list(&self.0, |e, grant| grant.encode(e));
        Some(e.finish())
    }

    fn decode(encoded: &'a [u8]) -> Decoded<Self> {
        let mut d = Decoder::new(encoded);
        let grants = d.list(Grant::decode)?;
        d.end().map(|()| Self(grants))
    }

    fn without(mut self, id: &str) -> Self {
        self.0.retain(|grant| grant.id != id);
        self
    }
}

impl<'a> Grant<'a> {
    fn allows(&self, principal: &str, action: Action, context: Option<&Context<'_>>) -> bool {
        self.grantee == principal
            && self.operations.contains(&action)
            && (UNCONSTRAINED.contains(&action)
                || self.constraint.as_ref().is_none_or(|constraint| constraint.holds(context)))
    }

    /// Whether its grantee may make this grant of it.
    fn passes_on(&self, grant: &Grant<'_>) -> bool {
        self.allows(&grant.issuer, Action::CreateGrant, None)
            && grant.operations.iter().all(|operation| self.operations.contains(operation))
            && self
                .constraint
                .as_ref()
                .is_none_or(|mine| grant.constraint.as_ref().is_some_and(|theirs| theirs.implies(mine)))
    }

    fn may_be_retired_by(&self, principal: &str) -> bool {
        self.retiring == Some(principal)
            || (self.grantee == principal && self.operations.contains(&Action::RetireGrant))
    }

    /// Whether a request of this name and content was made before by the same principal.
    fn is_retry(&self, grant: &Grant<'_>) -> bool {
        let content = |grant: &Grant<'_>| {
            let mut content = grant.to_json();
            content["GrantId"] = Value::Null;
            content["CreationDate"] = Value::Null;
            content
        };
        self.name.is_some() && self.name == grant.name && content(self) == content(grant)
    }

    /// An error is a sentence.
    fn from_json(request: &'a Map<String, Value>, by: &Issuer<'a>) -> Result<Self, String> {
        const MEMBERS: &[&str] =
            &["KeyId", "GranteePrincipal", "RetiringPrincipal", "Operations", "Constraints", "Name"];
        if let Some(name) = request.keys().find(|name| !MEMBERS.contains(&name.as_str())) {
            return Err(format!("there is no member {name:?}"));
        }
        let principal = |name: &str| match request.get(name) {
            None => Ok(None),
            Some(value) => match value.as_str().filter(|text| is_principal(text)) {
                Some(text) => Ok(Some(text)),
                None => Err(format!("{name} must be \"so\", \"user\" or \"user:NAME\"")),
            },
        };
        let grantee = principal("GranteePrincipal")?.ok_or("GranteePrincipal is missing")?;
        let retiring = principal("RetiringPrincipal")?;
        let asked = policy::texts(request.get("Operations"), "Operations")?;
        let known = |name: &str| OPERATIONS.iter().any(|(action, _)| action.name() == name);
        if let Some(name) = asked.iter().find(|name| !known(name)) {
            let known: Vec<_> = OPERATIONS.iter().map(|(action, _)| action.name()).collect();
            return Err(format!("{name:?} is no operation that can be granted: those are {}", known.join(", ")));
        }
        let operations = OPERATIONS.iter().filter(|(action, _)| asked.contains(&action.name()));
        let constraint = request.get("Constraints").map(|value| Condition::from_json(value, EQUALS, SUBSET));
        let constraint = constraint.transpose().map_err(|why| format!("Constraints: {why}"))?;
        if let Some(constraint) = &constraint {
            let (pairs, len) = (constraint.context().pairs().count(), constraint.context().encoded().len());
            if pairs > MAX_PAIRS || len > MAX_CONSTRAINT {
                return Err(format!("a constraint has at most {MAX_PAIRS} pairs and {MAX_CONSTRAINT} bytes"));
            }
            let without = |(action, takes): &&(Action, bool)| !takes && !UNCONSTRAINED.contains(action);
            if let Some((action, _)) = operations.clone().find(without) {
                return Err(format!(
                    "{} takes no encryption context, so it cannot be granted with Constraints",
                    action.name()
                ));
            }
        }
        let name = match request.get("Name") {
            None => None,
            Some(name) => Some(
                name.as_str()
                    .filter(|name| is_name(name))
                    .ok_or_else(|| format!("Name must be 1 to {MAX_NAME} of the characters A-Z a-z 0-9 : / _ -"))?,
            ),
        };
        Ok(Self {
            id: Cow::Owned(KeyId::new(by.random, false).as_str().to_owned()),
            grantee,
            retiring,
            operations: operations.map(|(action, _)| *action).collect(),
            constraint,
            name,
            issuer: Cow::Borrowed(by.principal),
            created: by.now,
        })
    }

    fn to_json(&self) -> Value {
        let operations: Vec<&str> = self.operations.iter().map(|operation| operation.name()).collect();
        let mut written = json!({
            "GrantId": self.id,
            "GranteePrincipal": self.grantee,
            "Operations": operations,
            "IssuingPrincipal": self.issuer,
            "CreationDate": self.created,
        });
        if let Some(retiring) = self.retiring {
            written["RetiringPrincipal"] = retiring.into();
        }
        if let Some(constraint) = &self.constraint {
            written["Constraints"] = constraint.to_json(EQUALS, SUBSET);
        }
        if let Some(name) = self.name {
            written["Name"] = name.into();
        }
        written
    }

    fn encode(&self, e: &mut Encoder) {
        e.array(8).text(&self.id).text(self.grantee);
        e.optional(self.retiring, |e, retiring| {
            e.text(retiring);
        });
        e.list(&self.operations, |e, operation| {
            e.text(operation.name());
        });
        e.optional(self.constraint.as_ref(), |e, constraint| constraint.encode(e));
        e.optional(self.name, |e, name| {
            e.text(name);
        });
        e.text(&self.issuer).uint(self.created);
    }

    fn decode(d: &mut Decoder<'a>) -> Decoded<Self> {
        d.array_of(8)?;
        Ok(Self {
            id: Cow::Borrowed(d.text()?),
            grantee: d.text()?,
            retiring: d.optional(Decoder::text)?,
            operations: d.list(|d| Action::of_name(d.text()?).ok_or(Malformed("an unknown operation")))?,
            constraint: d.optional(Condition::decode)?,
            name: d.optional(Decoder::text)?,
            issuer: Cow::Borrowed(d.text()?),
            created: d.uint()?,
        })
    }
}

const EQUALS: &str = "EncryptionContextEquals";
const SUBSET: &str = "EncryptionContextSubset";

fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b':' | b'/' | b'_' | b'-'))
}

fn unknown(key: &Attributes, id: &str) -> Refused {
    let key = key.bytes(CKA_KMS_KEY_ID).map(String::from_utf8_lossy).unwrap_or_default();
    Reason::NotFound.with(format!("the key {key} has no grant {id:?}"))
}

#[cfg(test)]
mod tests;
