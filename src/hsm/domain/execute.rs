//! Executing commands: a state and a command give the next state's token and the log's next entry.
//! Nothing changes until the token is adopted.

use std::sync::Arc;

use sha2::{Digest, Sha384};

use super::super::command::DomainToken;
use super::super::crypto::{Entropy, SecretBytes};
use super::apply::{self, Needs};
use super::change::Change;
use super::command::SignedCommand;
use super::identity::Party;
use super::keys::{Agreement, PrivateKey, PublicKey};
use super::log::{self, Entry, Results, Step};
use super::opened::{Circumstances, Opened, OwnKeys, StateSecrets};
use super::recovery::{Contribution, RecoverySet};
use super::refusal::Refusal;
use super::seal;
use super::state::{Hash, State};
use super::token::{self, PublicState};
use crate::error::{ErrorKind, Result};

/// What is to be committed, all at once and only if the store still has the version before.
pub(in crate::hsm) struct Executed {
    /// This HSM once the token is adopted.
    pub(in crate::hsm) opened: Opened,
    pub(in crate::hsm) token: DomainToken,
    /// Of the log.
    pub(in crate::hsm) entry: Vec<u8>,
}

/// New secrets, with their public side.
#[derive(Default)]
pub(super) struct Made {
    domain_key: Option<Arc<SecretBytes>>,
    replication: Option<Arc<PrivateKey>>,
    results: Results,
}

impl Made {
    fn new(state: &State, needs: &Needs, entropy: &mut Entropy) -> Result<Self> {
        let mut made = Self::default();
        if needs.domain_key {
            let key = SecretBytes::fill(32, |key| entropy.fill(key))?;
            made.results.domain_key = Some(seal::key_id(seal::DOMAIN_KEY, key.expose())?);
            made.domain_key = Some(Arc::new(key));
        }
        if needs.replication_key {
            let key = PrivateKey::generate(entropy)?;
            made.results.replication_key = Some(key.public()?);
            made.replication = Some(Arc::new(key));
        }
        if let Some((threshold, holders)) = &needs.recovery {
            let holders: Vec<_> = holders.iter().collect();
            made.results.recovery = Some(RecoverySet::make(state, *threshold, &holders, entropy)?);
        }
        Ok(made)
    }

    /// The secrets of the next state, in its order, out of those of the last and the new ones.
    fn merge(&self, old: &State, secrets: &StateSecrets, new: &State) -> Result<StateSecrets> {
        let missing = || ErrorKind::GeneralError.with("a secret of the next state is missing");
        let mut merged = StateSecrets { domain_keys: Vec::new(), replication: Vec::new(), ..secrets.clone() };
        for entry in &new.domain_keys {
            let at = old.domain_keys.iter().position(|key| key.id == entry.id);
            let made = self.domain_key.as_ref().filter(|_| self.results.domain_key == Some(entry.id));
            let key = at.and_then(|at| secrets.domain_keys.get(at)).or(made);
            merged.domain_keys.push(Arc::clone(key.ok_or_else(missing)?));
        }
        for public in &new.replication_keys {
            let at = old.replication_keys.iter().position(|key| key == public);
            let made = self.replication.as_ref().filter(|_| self.results.replication_key == Some(*public));
            let key = at.and_then(|at| secrets.replication.get(at)).or(made);
            merged.replication.push(Arc::clone(key.ok_or_else(missing)?));
        }
        // The embedded member's keys go with it.
        if new.embedded.is_none() {
            (merged.signing, merged.agreement) = (None, None);
        }
        Ok(merged)
    }
}

impl Opened {
    /// Verifies and executes a command.
    pub(in crate::hsm) fn execute(&self, command: &[u8], circumstances: &mut Circumstances) -> Result<Executed> {
        let command = SignedCommand::decode(command)?;
        let state = self.state();
        command.verify(state, circumstances.now.max(state.changed))?;
        let change = &command.proposal().change;
        match change {
            Change::RecoverDomain { .. } => return Err(Refusal::NotARecovery.into()),
            Change::ExpelHsm { id, .. } => {
                let own = self.signing()?.public()?;
                if state.members.len() > 1 && state.members.iter().any(|m| m.id == *id && m.signing == own) {
                    return Err(Refusal::OwnExpulsion.into());
                }
            }
            _ => {}
        }
        let made = Made::new(state, &Needs::of(state, change)?, &mut circumstances.entropy)?;
        let step = Step::Command { results: Box::new(made.results.clone()), command: Box::new(command) };
        self.step(step, made, circumstances)
    }

    /// What the standing order and the deadlines ask for now, one step at a time; None if nothing.
    pub(in crate::hsm) fn housekeeping(&self, circumstances: &mut Circumstances) -> Result<Option<Executed>> {
        let state = self.state();
        if state.log_head.is_none() {
            return Ok(None);
        }
        let at = circumstances.now.max(state.changed);
        let retired = log::due_retirements(state, at).next();
        let step = if let Some(domain_key) = retired {
            (Step::Retire { domain_key }, Made::default())
        } else if log::rotation_is_due(state, at) {
            let needs = Needs { domain_key: true, ..Needs::default() };
            let made = Made::new(state, &needs, &mut circumstances.entropy)?;
            (Step::Rotate { domain_key: made.results.domain_key.ok_or(ErrorKind::GeneralError)? }, made)
        } else {
            return Ok(None);
        };
        self.step(step.0, step.1, circumstances).map(Some)
    }

    /// Takes a step whose command, if it is one, has been verified. The clock may have been set
    /// back; the domain's does not go back.
    pub(super) fn step(&self, step: Step, made: Made, circumstances: &mut Circumstances) -> Result<Executed> {
        let entry = Entry { at: circumstances.now.max(self.state().changed), step };
        let state = entry.make(self.state())?;
        let secrets = made.merge(self.state(), self.secrets(), &state)?;
        let (opened, token) = self.export(&state, Arc::new(secrets), circumstances)?;
        Ok(Executed { opened, token, entry: entry.encode() })
    }

    /// On a fresh HSM, whose keys the command names: opens the token that the command names with
    /// the operators' shares, and makes the next state with this HSM as its only member.
    pub(in crate::hsm) fn recover(
        public: &PublicState,
        own: Arc<OwnKeys>,
        command: &[u8],
        contributions: &[Contribution],
        circumstances: &mut Circumstances,
    ) -> Result<Executed> {
        let state = public.state();
        let (hash, command, hsm) =
            recovery_command(state, public.hash(), command, circumstances.now.max(state.changed))?;
        if hsm != own.agreement.public()? {
            return Err(Refusal::NotARecovery.into());
        }
        let set = state.recovery.as_ref().ok_or(Refusal::Unknown("the recovery set"))?;
        let key = set.combine(&state.domain, &hash, &own.agreement, contributions)?;
        let secrets = StateSecrets::open(public, &key)?;

        let made = Made::new(state, &Needs::of(state, &command.proposal().change)?, &mut circumstances.entropy)?;
        let step = Step::Command { results: Box::new(made.results.clone()), command: Box::new(command) };
        let entry = Entry { at: circumstances.now.max(state.changed), step };
        let next = entry.make(state)?;
        let mut secrets = made.merge(state, &secrets, &next)?;
        // An embedded member's keys are among the secrets.
        let embedded = next.embedded.is_some();
        let copy = |key: &PrivateKey| PrivateKey::from_scalar(key.scalar()).map(Arc::new);
        secrets.signing = embedded.then(|| copy(&own.signing)).transpose()?;
        secrets.agreement = embedded.then(|| copy(&own.agreement)).transpose()?;
        secrets.check(&next)?;
        let (token, public) = token::export(&next, &secrets.encode()?, &own.signing, &mut circumstances.entropy)?;
        let opened = Self::assemble(public, Arc::new(secrets), (!embedded).then_some(own))?;
        Ok(Executed { opened, token, entry: entry.encode() })
    }
}

/// Why a command could not be executed in this state, whoever signed it: what the change itself would find.
pub(super) fn obstacle(state: &State, change: &Change, now: u64) -> Option<String> {
    let tried = || -> Result<()> {
        match change {
            Change::UseKey { usage, .. } => return Ok(usage.check()?),
            Change::SetDualControl { control, .. } => return Ok(control.check(state)?),
            _ => {}
        }
        let needs = Needs::of(state, change)?;
        let made = Made::new(state, &needs, &mut Entropy::System)?;
        apply::apply(state, &state.hash(), change, now.max(state.changed), &made.results)?;
        Ok(())
    };
    tried().err().map(|error| error.detail().map_or_else(|| error.to_string(), str::to_owned))
}

/// An operator's part in a recovery: opens his share if the command verifies against the newest
/// state he knows, which it must name, and encrypts it to the HSM that the command names.
pub(in crate::hsm) fn contribute(
    public: &PublicState,
    command: &[u8],
    key: &dyn Agreement,
    circumstances: &mut Circumstances,
) -> Result<Contribution> {
    let state = public.state();
    let (hash, _, hsm) = recovery_command(state, public.hash(), command, circumstances.now)?;
    let own = key.public()?;
    let operator = state.operators.iter().find(|operator| operator.agreement == own);
    let operator = operator.ok_or(Refusal::Unknown("the operator"))?;
    let set = state.recovery.as_ref().ok_or(Refusal::Unknown("the recovery set"))?;
    set.contribute(&state.domain, operator, key, (&hash, &hsm), &mut circumstances.entropy)
}

/// A verified recovery command with its hash and the agreement key of the HSM it names.
fn recovery_command(state: &State, held: &Hash, bytes: &[u8], at: u64) -> Result<(Hash, SignedCommand, PublicKey)> {
    let command = SignedCommand::decode(bytes)?;
    command.verify(state, at)?;
    let Change::RecoverDomain { hsm, version, state: named } = &command.proposal().change else {
        return Err(Refusal::NotARecovery.into());
    };
    if *version != state.version || named != held {
        return Err(Refusal::OtherState.into());
    }
    hsm.verify(Party::Hsm, &state.domain)?;
    let agreement = hsm.agreement()?;
    Ok((Sha384::digest(bytes).into(), command, agreement))
}
