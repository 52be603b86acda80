//! Dual control of a key: who allows its uses, and the commands by which they do. These are about a
//! key's record and an HSM instance; the domain's state and its log never change by them.

use std::collections::BTreeSet;

use super::super::command::ObjectId;
use super::cbor::{Decoded, Decoder, Encoder, Malformed};
use super::keys::Kid;
use super::refusal::Refusal;
use super::state::{Operator, State, ascending, text};

/// No key needs more, and each is read by whoever signs.
const MOST_OPERATORS: usize = 64;
/// No approval covers more uses.
pub(in crate::hsm) const MOST_USES: u64 = 1_000_000;

/// The uses of a key that can be approved, in the model system's names.
pub(in crate::hsm) const ACTIONS: [&str; 9] = [
    "Encrypt",
    "Decrypt",
    "ReEncrypt",
    "Sign",
    "GenerateMac",
    "VerifyMac",
    "DeriveSharedSecret",
    "GenerateDataKey",
    "GenerateDataKeyPair",
];

/// Who allows the uses of a key: so many distinct persons of these operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) struct KeyControl {
    pub(in crate::hsm) threshold: u64,
    /// Of their signing keys, ascending.
    pub(in crate::hsm) operators: Vec<Kid>,
    /// From 1; +1 with each change, so that no command makes a change twice.
    pub(in crate::hsm) revision: u64,
}

impl KeyControl {
    /// The operators that are named by person (then all keys of that person), id or kid.
    pub(in crate::hsm) fn named(
        state: &State,
        names: &[String],
        threshold: u64,
        revision: u64,
    ) -> Result<Self, Refusal> {
        let mut operators = BTreeSet::new();
        for name in names {
            let hex = crate::text::hex;
            let known = |o: &&Operator| o.person == *name || hex(&o.id) == *name || hex(&o.signing.kid()) == *name;
            let before = operators.len();
            let kids: Vec<Kid> = state.operators.iter().filter(known).map(|o| o.signing.kid()).collect();
            operators.extend(&kids);
            if kids.is_empty() {
                return Err(Refusal::Control(format!("{name:?} is not an operator of the domain")));
            }
            if operators.len() == before {
                return Err(Refusal::Control(format!("{name:?} is named twice")));
            }
        }
        let control = Self { threshold, operators: operators.into_iter().collect(), revision };
        control.check(state).map(|()| control)
    }

    /// That this state's operators could approve anything.
    pub(in crate::hsm) fn check(&self, state: &State) -> Result<(), Refusal> {
        if state.log_head.is_none() {
            return Err(Refusal::NotFounded);
        }
        if self.operators.len() > MOST_OPERATORS {
            return Err(Refusal::Control(format!("at most {MOST_OPERATORS} operators' keys can be named")));
        }
        let mut persons = BTreeSet::new();
        for kid in &self.operators {
            let operator = state.operators.iter().find(|o| o.signing.kid() == *kid);
            persons.insert(&operator.ok_or(Refusal::UnknownSigner(*kid))?.person);
        }
        if self.threshold == 0 || self.threshold > persons.len() as u64 {
            let (threshold, persons) = (self.threshold, persons.len());
            return Err(Refusal::Control(format!("it cannot be {threshold} of {persons} persons")));
        }
        Ok(())
    }

    /// Whether these operators of the state are enough for the key.
    pub(super) fn met(&self, signers: &[&Operator]) -> Result<(), Refusal> {
        let mut persons = BTreeSet::new();
        for signer in signers {
            let kid = signer.signing.kid();
            if self.operators.binary_search(&kid).is_err() {
                return Err(Refusal::NotOfTheKey(kid));
            }
            persons.insert(&signer.person);
        }
        let (have, need) = (persons.len() as u64, self.threshold);
        if have < need || have == 0 {
            return Err(Refusal::QuorumNotMet(format!("{have} of {need} persons among the key's operators")));
        }
        Ok(())
    }

    pub(in crate::hsm) fn encode(&self, e: &mut Encoder) {
        e.array(3).uint(self.threshold).list(&self.operators, |e, kid| {
            e.bytes(kid);
        });
        e.uint(self.revision);
    }

    pub(in crate::hsm) fn decode(d: &mut Decoder<'_>) -> Decoded<Self> {
        d.array_of(3)?;
        let control = Self { threshold: d.uint()?, operators: d.list(Decoder::fixed)?, revision: d.uint()? };
        if !ascending(&control.operators, |kid| *kid) {
            return Err(Malformed("operators are not in order"));
        }
        Ok(control)
    }

    /// In plain words, with the names of those that the state knows.
    pub(super) fn words(&self, state: Option<&State>) -> String {
        let named = self.operators.iter().map(|kid| {
            let known = state.and_then(|state| state.operators.iter().find(|o| o.signing.kid() == *kid));
            let short = crate::text::hex(&kid[..16]);
            known.map_or_else(|| short.clone(), |operator| format!("{:?} ({short})", operator.person))
        });
        format!("{} of {}", self.threshold, named.collect::<Vec<_>>().join(", "))
    }
}

/// A key under dual control as its record says, at the time of the proposal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) struct ControlledKey {
    /// The secret key, or the private half of a pair.
    pub(in crate::hsm) object: ObjectId,
    /// CKA_KMS_KEY_ID.
    pub(in crate::hsm) id: String,
    /// CKA_LABEL, at most 255 bytes of it.
    pub(in crate::hsm) label: String,
    /// Whose signatures the command needs.
    pub(in crate::hsm) control: KeyControl,
}

impl ControlledKey {
    pub(super) fn encode(&self, e: &mut Encoder) {
        e.array(4).bytes(&self.object).text(&self.id).text(&self.label);
        self.control.encode(e);
    }

    pub(super) fn decode(d: &mut Decoder<'_>) -> Decoded<Self> {
        d.array_of(4)?;
        Ok(Self { object: d.fixed()?, id: text(d)?, label: text(d)?, control: KeyControl::decode(d)? })
    }

    /// Such as `the key "root CA" 0b1c…`.
    pub(super) fn words(&self) -> String {
        match self.label.as_str() {
            "" => format!("the key {:?}", self.id),
            label => format!("the key {label:?} ({})", self.id.escape_debug()),
        }
    }
}

/// What an approval allows of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) struct KeyUse {
    /// One of [`ACTIONS`].
    pub(in crate::hsm) action: String,
    /// SHA-256 of the only input; None for any.
    pub(in crate::hsm) digest: Option<[u8; 32]>,
    /// The HSM instance: the approval is of no use to another, and dies with it.
    pub(in crate::hsm) instance: [u8; 16],
    /// How many times.
    pub(in crate::hsm) count: u64,
}

impl KeyUse {
    pub(in crate::hsm) fn check(&self) -> Result<(), Refusal> {
        if !ACTIONS.contains(&self.action.as_str()) {
            return Err(Refusal::Control(format!(
                "there is no action {:?}; there are {}",
                self.action,
                ACTIONS.join(", ")
            )));
        }
        if self.count == 0 || self.count > MOST_USES {
            return Err(Refusal::Control(format!("an approval is for 1 to {MOST_USES} uses")));
        }
        Ok(())
    }

    pub(super) fn encode(&self, e: &mut Encoder) {
        e.array(4).text(&self.action).optional(self.digest, |e, digest| {
            e.bytes(&digest);
        });
        e.bytes(&self.instance).uint(self.count);
    }

    pub(super) fn decode(d: &mut Decoder<'_>) -> Decoded<Self> {
        d.array_of(4)?;
        Ok(Self { action: text(d)?, digest: d.optional(Decoder::fixed)?, instance: d.fixed()?, count: d.uint()? })
    }

    /// The lines about `key`, in plain words.
    pub(super) fn words(&self, key: &ControlledKey) -> Vec<String> {
        let times = if self.count == 1 { "once".to_owned() } else { format!("{} times", self.count) };
        vec![
            format!("Let the HSM instance {} use {},", crate::text::hex(&self.instance), key.words()),
            format!("for {}, {times}.", self.action.escape_debug()),
            match &self.digest {
                Some(digest) => format!("Only on the input whose SHA-256 is {}.", crate::text::hex(digest)),
                None => "On ANY input.".to_owned(),
            },
        ]
    }
}
