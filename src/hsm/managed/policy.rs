//! Who may do what with a managed key: its policy, as data, and the one decision over policy and
//! grants. A policy only allows; what nothing allows is refused. Without a policy the key's owner,
//! the principal that made it, may do everything.

use cryptoki_sys as ck;
use serde_json::{Value, json};

use super::attributes::{CKA_KMS_KEY_ID, CKA_KMS_OWNER, CKA_KMS_POLICY};
use super::condition::Condition;
use super::context::Context;
use super::grants::Grants;
use super::{Answer, Reason, Refused, states};
use crate::hsm::audit::Action;
use crate::hsm::domain::cbor::{Decoded, Decoder, Encoder, Malformed};
use crate::hsm::value::Attributes;

/// The longest policy in bytes, as JSON without spaces.
const LONGEST: usize = 32 * 1024;
/// The longest name of a user that may be named.
const LONGEST_USER: usize = 255;

/// In the place of a principal or an action: all of them.
const ALL: &str = "*";
const SO: &str = "so";
const USER: &str = "user";
const NAMED: &str = "user:";

/// What whoever is logged in may do: read what is no secret of a key.
const OPEN: &[Action] =
    &[Action::DescribeKey, Action::ListAliases, Action::GetPublicKey, Action::GetRotationStatus, Action::ListRotations];

/// What the token's owner may do with every key: see who may use it.
const OF_THE_OWNER: &[Action] = &[Action::GetKeyPolicy, Action::ListGrants];

/// No requests about a key of somebody, so that no policy can allow them.
const NOBODYS: &[Action] = &[
    Action::CreateKey,
    Action::ListKeys,
    Action::DeleteKey,
    Action::AnnounceExpiry,
    Action::ExpireKeyMaterial,
    Action::SynchronizeKey,
    Action::CreateUser,
    Action::RemoveUser,
    Action::ApproveUse,
    Action::GenerateRandom,
    Action::RecordsLost,
];

/// Whether a text has the form of one principal.
pub(super) fn is_principal(text: &str) -> bool {
    match text.strip_prefix(NAMED) {
        Some(name) => (1..=LONGEST_USER).contains(&name.len()) && !name.chars().any(char::is_control),
        None => text == SO || text == USER,
    }
}

/// Whether a principal ("" is nobody) may do something with a managed key, whatever state the key is
/// in. Of CreateGrant and RetireGrant, whether it may with some grant; `grants.rs` knows with which.
/// KMS_R_ACCESS_DENIED if nothing allows it.
pub(in crate::hsm) fn authorise(
    key: &Attributes,
    principal: &str,
    action: states::Action,
    context: Option<&Context<'_>>,
) -> Answer<()> {
    let action = action.named();
    let open = OPEN.contains(&action) && !principal.is_empty();
    if open || allows(key, principal, action, context)? || Grants::of(key)?.allows(principal, action, context) {
        return Ok(());
    }
    Err(denied(key, principal, action))
}

/// The same without the key's grants.
pub(super) fn allows(key: &Attributes, principal: &str, action: Action, context: Option<&Context<'_>>) -> Answer<bool> {
    if principal.is_empty() {
        return Ok(false);
    }
    if OF_THE_OWNER.contains(&action) && (principal == SO || principal == USER) {
        return Ok(true);
    }
    match Policy::of(key)? {
        Some(policy) => Ok(policy.allows(principal, action, context)),
        None => Ok(key.bytes(CKA_KMS_OWNER) == Some(principal.as_bytes())),
    }
}

pub(super) fn denied(key: &Attributes, principal: &str, action: Action) -> Refused {
    let text = |kind| key.bytes(kind).map(String::from_utf8_lossy).unwrap_or_default();
    let (id, label) = (text(CKA_KMS_KEY_ID), text(ck::CKA_LABEL));
    let name = action.name();
    let label = if label.is_empty() { String::new() } else { format!(" ({label:?})") };
    Reason::AccessDenied.with(format!(
        "neither the policy nor a grant of the key {id}{label} allows {principal:?} the action {name} as it was asked"
    ))
}

/// A policy: what any one of its statements allows is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) struct Policy<'a>(Vec<Statement<'a>>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Statement<'a> {
    principals: Vec<&'a str>,
    /// None: all.
    actions: Vec<Option<Action>>,
    condition: Option<Condition<'a>>,
}

impl<'a> Policy<'a> {
    /// A key's; CKR_DEVICE_ERROR for one that no HSM wrote.
    pub(in crate::hsm) fn of(key: &'a Attributes) -> Answer<Option<Self>> {
        let Some(encoded) = key.bytes(CKA_KMS_POLICY) else { return Ok(None) };
        Self::decode(encoded).map(Some).map_err(|why| Reason::Damaged.with(format!("a key's policy: {}", why.0)))
    }

    /// Takes a policy as JSON. `changers` are the principals that could change it if it allows them.
    /// KMS_R_MALFORMED_POLICY says which statement is wrong; also for one that nobody could change.
    pub(in crate::hsm) fn from_json(value: &'a Value, changers: &[String]) -> Answer<Self> {
        if value.to_string().len() > LONGEST {
            return Err(Reason::MalformedPolicy.with("a policy has at most 32 KiB"));
        }
        let wrong = || Reason::MalformedPolicy.with("a policy is {\"Statement\": [{…}, …]} and nothing more");
        let object = value.as_object().filter(|object| object.len() == 1).ok_or_else(wrong)?;
        let statements = object.get("Statement").and_then(Value::as_array).ok_or_else(wrong)?;
        let read = |(at, statement): (usize, &'a Value)| {
            Statement::from_json(statement)
                .map_err(|why| Reason::MalformedPolicy.with(format!("statement {} of the policy: {why}", at + 1)))
        };
        let policy = Self(statements.iter().enumerate().map(read).collect::<Answer<_>>()?);
        if !changers.iter().any(|principal| policy.allows(principal, Action::PutKeyPolicy, None)) {
            return Err(Reason::MalformedPolicy.with(
                "nobody could change this policy: no statement without a Context allows PutKeyPolicy to a user of \
                 this token who has a PIN, or may set one",
            ));
        }
        Ok(policy)
    }

    pub(in crate::hsm) fn to_json(&self) -> Value {
        json!({ "Statement": self.0.iter().map(Statement::to_json).collect::<Value>() })
    }

    pub(in crate::hsm) fn allows(&self, principal: &str, action: Action, context: Option<&Context<'_>>) -> bool {
        self.0.iter().any(|statement| statement.allows(principal, action, context))
    }

    pub(in crate::hsm) fn encode(&self) -> Vec<u8> {
        let mut e = Encoder::new();
        e.list(&self.0, |e, statement| statement.encode(e));
        e.finish()
    }

    fn decode(encoded: &'a [u8]) -> Decoded<Self> {
        let mut d = Decoder::new(encoded);
        let statements = d.list(Statement::decode)?;
        d.end().map(|()| Self(statements))
    }
}

impl<'a> Statement<'a> {
    fn allows(&self, principal: &str, action: Action, context: Option<&Context<'_>>) -> bool {
        self.principals.iter().any(|allowed| *allowed == ALL || *allowed == principal)
            && self.actions.iter().any(|allowed| allowed.is_none_or(|allowed| allowed == action))
            && self.condition.as_ref().is_none_or(|condition| condition.holds(context))
    }

    /// An error is a sentence.
    fn from_json(value: &'a Value) -> Result<Self, String> {
        let object = value.as_object().ok_or("it is no object")?;
        if let Some(name) = object.keys().find(|name| !["Principal", "Action", "Context"].contains(&name.as_str())) {
            return Err(format!("there is no member {name:?}, only Principal, Action and Context"));
        }
        let principals = texts(object.get("Principal"), "Principal")?;
        if let Some(wrong) = principals.iter().find(|text| **text != ALL && !is_principal(text)) {
            return Err(format!("{wrong:?} is no principal: \"so\", \"user\", \"user:NAME\", or \"*\" for all"));
        }
        let named = |name: &str| {
            allowable(name).ok_or_else(|| format!("{name:?} is no action that a policy can allow (\"*\" for all)"))
        };
        let actions = texts(object.get("Action"), "Action")?.into_iter().map(named).collect::<Result<_, _>>()?;
        let condition = object.get("Context").map(|context| Condition::from_json(context, EQUALS, SUBSET));
        let condition = condition.transpose().map_err(|why| format!("Context: {why}"))?;
        Ok(Self { principals, actions, condition })
    }

    fn to_json(&self) -> Value {
        let actions = self.actions.iter().map(|action| action.map_or(ALL, Action::name));
        let mut written = json!({ "Principal": self.principals, "Action": actions.collect::<Vec<_>>() });
        if let Some(condition) = &self.condition {
            written["Context"] = condition.to_json(EQUALS, SUBSET);
        }
        written
    }

    fn encode(&self, e: &mut Encoder) {
        e.array(3);
        e.list(&self.principals, |e, principal| {
            e.text(principal);
        });
        e.list(&self.actions, |e, action| {
            e.text(action.map_or(ALL, Action::name));
        });
        e.optional(self.condition.as_ref(), |e, condition| condition.encode(e));
    }

    fn decode(d: &mut Decoder<'a>) -> Decoded<Self> {
        d.array_of(3)?;
        Ok(Self {
            principals: d.list(Decoder::text)?,
            actions: d.list(|d| allowable(d.text()?).ok_or(Malformed("an unknown action")))?,
            condition: d.optional(Condition::decode)?,
        })
    }
}

const EQUALS: &str = "Equals";
const SUBSET: &str = "Subset";

/// The action of that name, Some(None) for all of them.
#[expect(clippy::option_option, reason = "None is a name that means nothing")]
fn allowable(name: &str) -> Option<Option<Action>> {
    if name == ALL {
        return Some(None);
    }
    Action::of_name(name).filter(|action| !NOBODYS.contains(action)).map(Some)
}

/// A list of at least one text. An error is a sentence.
pub(super) fn texts<'a>(value: Option<&'a Value>, name: &str) -> Result<Vec<&'a str>, String> {
    let texts: Option<Vec<_>> =
        value.and_then(Value::as_array).and_then(|list| list.iter().map(Value::as_str).collect());
    texts.filter(|texts| !texts.is_empty()).ok_or_else(|| format!("{name} must be a list of texts, of one at least"))
}

#[cfg(test)]
mod tests;
