//! People with keys, and a domain that they govern: what the tests of governance share.

use std::sync::Arc;

use super::super::super::command::{DomainToken, PinRecord};
use super::super::super::crypto::Entropy;
use super::super::change::Change;
use super::super::command::{Proposal, SignedCommand};
use super::super::execute::Executed;
use super::super::identity::{Claim, Identity, Party};
use super::super::keys::PrivateKey;
use super::super::opened::OwnKeys;
use super::super::refusal::Refusal;
use super::super::seal::DomainId;
use super::super::state::{Rule, State};
use super::super::{Circumstances, Opened};
use super::CHEAP;
use crate::error::Result;

pub(in crate::hsm) const NOW: u64 = 1_800_000_000;
pub(in crate::hsm) const DAY: u64 = 24 * 3600;
pub(in crate::hsm) const SO_PIN: &[u8] = b"so-pin-1";

pub(in crate::hsm) fn at(now: u64) -> Circumstances {
    Circumstances { entropy: Entropy::System, now }
}

/// Somebody with an operator's two keys.
pub(in crate::hsm) struct Person {
    pub(in crate::hsm) id: [u8; 16],
    pub(in crate::hsm) name: String,
    pub(in crate::hsm) roles: Vec<String>,
    pub(in crate::hsm) signing: PrivateKey,
    pub(in crate::hsm) agreement: PrivateKey,
}

impl Person {
    pub(in crate::hsm) fn new(entropy: &mut Entropy, name: &str, roles: &[&str]) -> Self {
        Self {
            id: entropy.array().unwrap(),
            name: name.to_owned(),
            roles: roles.iter().map(|&role| role.to_owned()).collect(),
            signing: PrivateKey::generate(entropy).unwrap(),
            agreement: PrivateKey::generate(entropy).unwrap(),
        }
    }

    pub(in crate::hsm) fn both(name: &str) -> Self {
        Self::new(&mut Entropy::System, name, &["officer", "operator"])
    }

    pub(in crate::hsm) fn claim(&self, domain: &DomainId) -> Claim {
        let identity = Identity {
            party: Party::Operator,
            id: self.id,
            name: self.name.clone(),
            signing: self.signing.public().unwrap(),
            agreement: Some(self.agreement.public().unwrap()),
        };
        identity.sign(domain, &self.signing).unwrap()
    }
}

/// A host's claim to this key.
pub(in crate::hsm) fn host(entropy: &mut Entropy, name: &str, key: &PrivateKey, domain: &DomainId) -> Claim {
    let (id, signing) = (entropy.array().unwrap(), key.public().unwrap());
    Identity { party: Party::Host, id, name: name.to_owned(), signing, agreement: None }.sign(domain, key).unwrap()
}

/// Anna, Ben and Cleo, each officer and operator.
pub(in crate::hsm) fn three(entropy: &mut Entropy) -> Vec<Person> {
    ["Anna", "Ben", "Cleo"].map(|name| Person::new(entropy, name, &["officer", "operator"])).into()
}

pub(in crate::hsm) fn propose(state: &State, change: Change, circumstances: &mut Circumstances) -> Proposal {
    let validity = (circumstances.now - 60, circumstances.now + DAY);
    Proposal::new(state, change, validity, &mut circumstances.entropy).unwrap()
}

pub(in crate::hsm) fn sign(proposal: Proposal, signers: &[&Person]) -> Vec<u8> {
    let mut command = SignedCommand::unsigned(proposal);
    signers.iter().for_each(|person| command.sign(&person.signing).unwrap());
    command.encode()
}

/// Proposes, signs and executes.
pub(in crate::hsm) fn run(opened: &Opened, change: Change, signers: &[&Person], now: u64) -> Result<Executed> {
    let mut circumstances = at(now);
    let command = sign(propose(opened.state(), change, &mut circumstances), signers);
    opened.execute(&command, &mut circumstances)
}

/// That the command is refused, for this reason.
#[track_caller]
pub(in crate::hsm) fn refused<T>(result: Result<T>, why: &Refusal) {
    let error = result.err().expect("it was not refused");
    assert_eq!(error.detail().unwrap_or_default(), why.to_string());
}

pub(in crate::hsm) fn founding(state: &State, persons: &[Person], rules: Vec<Rule>) -> Change {
    Change::FoundDomain {
        region: "eu-north".to_owned(),
        members: state.members.clone(),
        operators: persons.iter().map(|p| (p.claim(&state.domain), p.roles.clone())).collect(),
        rules,
    }
}

/// An embedded domain, governed by its SO.
pub(in crate::hsm) struct Embedded {
    pub(in crate::hsm) opened: Opened,
    pub(in crate::hsm) token: DomainToken,
    pub(in crate::hsm) so_pin: PinRecord,
}

pub(in crate::hsm) fn embedded() -> Embedded {
    let (opened, token, so_pin) = Opened::found("demo", "00112233445566aa", SO_PIN, CHEAP, &mut at(NOW)).unwrap();
    Embedded { opened, token, so_pin }
}

/// The same, handed over to three people.
pub(in crate::hsm) struct Governed {
    pub(in crate::hsm) before: Embedded,
    pub(in crate::hsm) people: Vec<Person>,
    pub(in crate::hsm) founded: Executed,
}

impl Governed {
    pub(in crate::hsm) fn opened(&self) -> &Opened {
        &self.founded.opened
    }

    pub(in crate::hsm) fn state(&self) -> &State {
        self.founded.opened.state()
    }
}

pub(in crate::hsm) fn governed() -> Governed {
    let before = embedded();
    let people = three(&mut Entropy::System);
    let change = founding(before.opened.state(), &people, Vec::new());
    let founded = run(&before.opened, change, &people.iter().collect::<Vec<_>>(), NOW).unwrap();
    Governed { before, people, founded }
}

/// An HSM of a fleet with a domain of its own, founded by three people.
pub(in crate::hsm) fn fleet() -> (Executed, Vec<Person>) {
    let mut circumstances = at(NOW);
    let own = Arc::new(OwnKeys::generate(&mut circumstances.entropy).unwrap());
    let (opened, _) = Opened::provision("fleet", own, &mut circumstances).unwrap();
    let people = three(&mut circumstances.entropy);
    let change = founding(opened.state(), &people, Vec::new());
    let founded = run(&opened, change, &people.iter().collect::<Vec<_>>(), NOW).unwrap();
    (founded, people)
}
