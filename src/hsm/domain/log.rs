//! The log of a founded domain: one entry for each version, each signed by operators or made under
//! leave that they gave. Whoever holds a state and the entries after it can compute every state
//! since, so no HSM can claim a change that nobody signed.

use sha2::{Digest, Sha384};

use super::super::command::{DomainToken, Role};
use super::apply;
use super::cbor::{Decoded, Decoder, Encoder, Malformed};
use super::change::Change;
use super::command::SignedCommand;
use super::keys::PublicKey;
use super::recovery::RecoverySet;
use super::refusal::Refusal;
use super::seal::{DomainId, KeyId};
use super::state::{Hash, KeyStatus, Operator, State, decode_role, encode_role};
use super::token::PublicState;
use crate::error::ErrorKind;

/// Clocks of peers may differ by this, in seconds.
const SKEW: u64 = 60;
const LARGEST: usize = 2 * 1024 * 1024;
/// The fewest bytes of an enrolment code.
const SHORTEST_CODE: usize = 16;

/// One step of the domain, from one version to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) struct Entry {
    /// When it was made, seconds since 1970.
    pub(in crate::hsm) at: u64,
    pub(in crate::hsm) step: Step,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) enum Step {
    /// A quorum's command and what the HSM made for it.
    Command { command: Box<SignedCommand>, results: Box<Results> },
    /// The holder of a role set a PIN. The code is the one that a command asked for.
    SetPin { role: Role, agreement: PublicKey, code: Option<Vec<u8>> },
    /// A new domain key under the standing order.
    Rotate { domain_key: KeyId },
    /// A decrypt-only key went at the deadline that a command gave it.
    Retire { domain_key: KeyId },
}

/// The public side of what an HSM made for a command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::hsm) struct Results {
    pub(super) domain_key: Option<KeyId>,
    pub(super) replication_key: Option<PublicKey>,
    pub(super) recovery: Option<RecoverySet>,
}

/// What an entry makes of a state.
pub(in crate::hsm) struct Stepped {
    pub(in crate::hsm) state: State,
    /// Who signed; nobody if the entry is not a command.
    pub(in crate::hsm) signers: Vec<Operator>,
}

impl Entry {
    /// Verifies the entry against the state and the clock, and computes the next state.
    pub(in crate::hsm) fn follow(&self, state: &State, now: u64) -> Result<Stepped, Refusal> {
        if self.at > now.saturating_add(SKEW) {
            return Err(Refusal::InTheFuture);
        }
        let signers = match &self.step {
            Step::Command { command, .. } => command.verify(state, self.at)?,
            _ => Vec::new(),
        };
        Ok(Stepped { state: self.make(state)?, signers })
    }

    /// The next state, for whoever has verified the command.
    pub(super) fn make(&self, old: &State) -> Result<State, Refusal> {
        if self.at < old.changed {
            return Err(Refusal::Backdated);
        }
        let hash = old.hash();
        let mut state = match &self.step {
            Step::Command { command, results } => {
                let proposal = command.proposal();
                let mut state = apply::apply(old, &hash, &proposal.change, self.at, results)?;
                state.nonces.retain(|_, until| *until >= self.at);
                state.nonces.insert(proposal.nonce, proposal.not_after);
                state
            }
            _ if old.log_head.is_none() => return Err(Refusal::NotFounded),
            Step::SetPin { role, agreement, code } => apply::set_pin(old, role, *agreement, code.as_deref(), self.at)?,
            Step::Rotate { domain_key } => {
                let order = old.standing_order.filter(|_| rotation_is_due(old, self.at));
                let order = order.ok_or(Refusal::NoStandingOrder)?;
                let mut state = old.clone();
                apply::rotate(&mut state, *domain_key, self.at, order.retain)?;
                state
            }
            Step::Retire { domain_key } => {
                if !due_retirements(old, self.at).any(|key| key == *domain_key) {
                    return Err(Refusal::NoStandingOrder);
                }
                let mut state = old.clone();
                state.domain_keys.retain(|key| key.id != *domain_key);
                state
            }
        };
        let before = old.log_head.unwrap_or(hash);
        state.log_head = Some(Sha384::new().chain_update(before).chain_update(self.encode()).finalize().into());
        state.version = old.version.checked_add(1).ok_or(Refusal::Arguments("no version is left"))?;
        state.previous = Some(hash);
        state.changed = self.at;
        Ok(state)
    }

    pub(in crate::hsm) fn encode(&self) -> Vec<u8> {
        let mut e = Encoder::new();
        match &self.step {
            Step::Command { command, results } => {
                e.array(4).uint(0).uint(self.at).bytes(&command.encode()).array(3);
                e.optional(results.domain_key, |e, id| {
                    e.bytes(&id);
                });
                e.optional(results.replication_key, |e, key| key.encode(e));
                e.optional(results.recovery.as_ref(), |e, set| set.encode(e));
            }
            Step::SetPin { role, agreement, code } => {
                encode_role(e.array(6).uint(1).uint(self.at), role);
                agreement.encode(&mut e);
                e.optional(code.as_ref(), |e, code| {
                    e.bytes(code);
                });
            }
            Step::Rotate { domain_key } => {
                e.array(3).uint(2).uint(self.at).bytes(domain_key);
            }
            Step::Retire { domain_key } => {
                e.array(3).uint(3).uint(self.at).bytes(domain_key);
            }
        }
        e.finish()
    }

    pub(in crate::hsm) fn decode(input: &[u8]) -> Result<Self, Refusal> {
        if input.len() > LARGEST {
            return Err(Refusal::Malformed("the entry is too large"));
        }
        let mut d = Decoder::new(input);
        let entry = match d.array()? {
            4 => Self::decode_command(&mut d)?,
            6 => Self::decode_pin(&mut d)?,
            3 => Self::decode_key(&mut d)?,
            _ => return Err(Refusal::Malformed("an unknown entry")),
        };
        d.end()?;
        Ok(entry)
    }

    fn decode_command(d: &mut Decoder<'_>) -> Result<Self, Refusal> {
        kind(d, 0)?;
        let at = d.uint()?;
        let command = Box::new(SignedCommand::decode(d.bytes()?)?);
        d.array_of(3)?;
        let results = Box::new(Results {
            domain_key: d.optional(Decoder::fixed)?,
            replication_key: d.optional(PublicKey::decode)?,
            recovery: d.optional(RecoverySet::decode)?,
        });
        Ok(Self { at, step: Step::Command { command, results } })
    }

    fn decode_pin(d: &mut Decoder<'_>) -> Decoded<Self> {
        kind(d, 1)?;
        let at = d.uint()?;
        let role = decode_role(d)?;
        let agreement = PublicKey::decode(d)?;
        let code = d.optional(|d| d.bytes().map(<[u8]>::to_vec))?;
        Ok(Self { at, step: Step::SetPin { role, agreement, code } })
    }

    fn decode_key(d: &mut Decoder<'_>) -> Decoded<Self> {
        let kind = d.uint()?;
        let at = d.uint()?;
        let domain_key = d.fixed()?;
        match kind {
            2 => Ok(Self { at, step: Step::Rotate { domain_key } }),
            3 => Ok(Self { at, step: Step::Retire { domain_key } }),
            _ => Err(Malformed("an unknown entry")),
        }
    }
}

fn kind(d: &mut Decoder<'_>, expected: u64) -> Decoded<()> {
    if d.uint()? == expected { Ok(()) } else { Err(Malformed("an unknown entry")) }
}

/// Whether a command among these entries, which have been verified, ended the PIN of a role: who has
/// logged in with it before is not who may set the next one.
pub(in crate::hsm) fn ends_pin(entries: &[Vec<u8>], role: &Role) -> bool {
    entries.iter().filter_map(|entry| Entry::decode(entry).ok()).any(|entry| match entry.step {
        Step::Command { command, .. } => match &command.proposal().change {
            Change::ResetPin { role: ended, .. } | Change::RemoveUser { role: ended } => ended == role,
            Change::RecoverDomain { .. } => true,
            _ => false,
        },
        _ => false,
    })
}

/// The state that the entries make of this one, each verified.
pub(in crate::hsm) fn replay(state: &State, entries: &[Vec<u8>], now: u64) -> Result<State, Refusal> {
    let mut state = state.clone();
    for entry in entries {
        state = Entry::decode(entry)?.follow(&state, now)?.state;
    }
    Ok(state)
}

/// The signing keys of all HSMs that are or were members: those of the state held, and of every state
/// that the entries make of the one the log begins with. CKR_TOKEN_NOT_RECOGNIZED if that log does not
/// lead to the state held.
pub(in crate::hsm) fn members_ever(
    held: &PublicState,
    origin: Option<&DomainToken>,
    entries: &[Vec<u8>],
    now: u64,
) -> crate::error::Result<Vec<PublicKey>> {
    let signing = |state: &State| state.members.iter().map(|member| member.signing).collect::<Vec<_>>();
    let mut keys = signing(held.state());
    if let Some(origin) = origin {
        let mut state = PublicState::first_seen(origin)?.state().clone();
        keys.extend(signing(&state));
        for entry in entries {
            state = Entry::decode(entry)?.follow(&state, now)?.state;
            keys.extend(signing(&state));
        }
        if state.hash() != *held.hash() {
            return Err(ErrorKind::TokenNotRecognized.with("the stored log does not lead to the domain's state"));
        }
    }
    Ok(keys)
}

/// Whether it is long enough for an enrolment code, whose hash is public.
pub(in crate::hsm) fn is_enrolment_code(code: &[u8]) -> bool {
    code.len() >= SHORTEST_CODE
}

/// What an enrolment code is compared by.
pub(in crate::hsm) fn enrolment_hash(domain: &DomainId, code: &[u8]) -> Hash {
    let mut e = Encoder::new();
    e.array(3).text("enrolment").bytes(domain).bytes(code);
    Sha384::digest(e.finish()).into()
}

/// Whether the standing order allows a rotation at this time: the active key is older than the
/// interval, and this is within the window after one of its multiples.
pub(in crate::hsm) fn rotation_is_due(state: &State, at: u64) -> bool {
    let active = state.domain_keys.iter().find(|key| key.status == KeyStatus::Active);
    let (Some(order), Some(active)) = (state.standing_order, active) else { return false };
    let age = at.saturating_sub(active.created);
    at <= order.until
        && age >= order.interval
        && age.checked_rem(order.interval).is_some_and(|late| late <= order.window)
}

/// The decrypt-only domain keys whose deadline has come.
pub(in crate::hsm) fn due_retirements(state: &State, at: u64) -> impl Iterator<Item = KeyId> {
    let due = move |retires: Option<u64>| retires.is_some_and(|deadline| deadline <= at);
    let keys = state.domain_keys.iter().filter(move |key| key.status == KeyStatus::DecryptOnly && due(key.retires));
    keys.map(|key| key.id)
}
