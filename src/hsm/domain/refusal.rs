//! Why a command, a log entry or what comes with it is refused. Nothing has changed then.

use super::cbor::Malformed;
use super::keys::Kid;
use crate::error::{Error, ErrorKind};

/// One reason each; the text is for those who may know, the operators and the hosts of the domain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::hsm) enum Refusal {
    #[error("malformed: {0}")]
    Malformed(&'static str),
    #[error("the command is for another domain")]
    OtherDomain,
    #[error("the command was made for other operators, rules, trusted Regions or limits than those in force")]
    OtherGovernance,
    #[error("the command is not valid yet")]
    NotYetValid,
    #[error("the command has expired")]
    Expired,
    #[error("the command's validity is longer than the domain's limit, or ends before it begins")]
    Validity,
    #[error("the command was executed before")]
    Replayed,
    #[error("unknown signer {}", short(.0))]
    UnknownSigner(Kid),
    #[error("signer {} appears twice", short(.0))]
    RepeatedSigner(Kid),
    #[error("the signature of {} does not verify", short(.0))]
    BadSignature(Kid),
    #[error("signer {} is not one of the key's operators", short(.0))]
    NotOfTheKey(Kid),
    #[error("quorum not met: {0}")]
    QuorumNotMet(String),
    #[error("the dual control is not one: {0}")]
    Control(String),
    #[error("the command is about a key, not about the domain")]
    AboutAKey,
    #[error("the key is not, or no longer, as the command says")]
    OtherKey,
    #[error("the approval is for another HSM instance, or for one that has ended")]
    OtherInstance,
    #[error("the domain is not founded: the SO governs it")]
    NotFounded,
    #[error("the domain is founded already")]
    AlreadyFounded,
    #[error("the rule of \"{0}\" could not be met by the operators there would be")]
    LocksOut(String),
    #[error("\"{0}\" would need more persons than it takes to change operators or rules")]
    RuleTooStrong(String),
    #[error("the rule is not one: {0}")]
    BadRule(&'static str),
    #[error("there is no proof of possession of the new key")]
    NoPossession,
    #[error("the key is in use already")]
    KeyInUse,
    #[error("{0} is unknown")]
    Unknown(&'static str),
    #[error("{0} exists already")]
    Exists(&'static str),
    #[error("the last member cannot be expelled")]
    LastMember,
    #[error("an HSM does not carry out its own expulsion")]
    OwnExpulsion,
    #[error("the arguments do not fit: {0}")]
    Arguments(&'static str),
    #[error("a recovery set of {threshold} needs at least as many share holders, there would be {holders}")]
    ShareHolders { threshold: u64, holders: usize },
    #[error("recovery begins on an HSM that is not a member")]
    NotARecovery,
    #[error("the recovery names another version or state")]
    OtherState,
    #[error("the share is not of this recovery set")]
    BadShare,
    #[error("{have} shares of {need}")]
    TooFewShares { have: usize, need: u64 },
    #[error("no PIN may be set for this role now")]
    NoEnrolment,
    #[error("the enrolment has ended")]
    EnrolmentEnded,
    #[error("the enrolment code is wrong")]
    EnrolmentCode,
    #[error("no standing order allows this now")]
    NoStandingOrder,
    #[error("the entry is dated before the state it changes")]
    Backdated,
    #[error("the entry is dated in the future")]
    InTheFuture,
    #[error("the entry does not say exactly what its command makes")]
    Results,
    #[error("the log does not lead from the state held to the token's")]
    LogMismatch,
    #[error("the log between the state held and the token's is missing or incomplete")]
    LogMissing,
}

impl From<Malformed> for Refusal {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed.0)
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let kind = match refusal {
            Refusal::Malformed(_) => ErrorKind::DataInvalid,
            _ => ErrorKind::FunctionRejected,
        };
        kind.with(refusal.to_string())
    }
}

/// The beginning of a key's name, enough to find it in a list.
fn short(kid: &Kid) -> String {
    kid[..8].iter().map(|byte| format!("{byte:02x}")).collect()
}
