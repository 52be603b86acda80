//! The HSM's command set: what a host may ask, and what it gets back.
//!
//! An HSM keeps no durable state and no key of a user, so a command carries the records it uses.

mod domain;
mod objects;
mod operation;
mod replicate;

use std::sync::Arc;

use zeroize::Zeroizing;

pub use self::domain::{DomainChange, DomainToken, DomainView, Log, OldKey, PinCost, PinRecord, Role, Ticket};
pub use self::objects::{Columns, DomainKeyId, KeyRecords, ObjectChange, ObjectId, Place, Record, Sealed, View};
pub use self::operation::{ApprovalRequest, Function, Operation, Outcome};
pub use self::replicate::{Held, MessageKind, MessageView, Replicate};
use super::audit_reader::AuditVerifier;
use super::auditing::{AuditFlush, AuditStore};
use super::params::Mechanism;
use super::value::{AttributeType, Template};
use crate::error::ErrorKind;

/// What [`Command::Manage`] does to a managed key, or tells of it. Each takes and gives JSON in the
/// words of the model system (`hsm/managed/request.rs`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manage {
    CreateKey,
    DescribeKey,
    EnableKey,
    DisableKey,
    ScheduleKeyDeletion,
    CancelKeyDeletion,
    UpdateDescription,
    TagKey,
    UntagKey,
    SetRotation,
    GetRotationStatus,
    RotateKey,
    DeleteImportedKeyMaterial,
    CreateAlias,
    UpdateAlias,
    DeleteAlias,
    PutKeyPolicy,
    GetKeyPolicy,
    CreateGrant,
    RetireGrant,
    RevokeGrant,
    ListGrants,
    /// Lets a Region have a replica.
    ReplicateKey,
    UpdatePrimaryRegion,
    DescribeReplicas,
}

/// What an envelope is made or opened with.
#[derive(Debug, Clone, Copy)]
pub struct Envelope<'a> {
    pub key: &'a Record,
    /// The encryption context, a JSON object of strings; empty for none.
    pub context: &'a [u8],
}

/// Which index column [`Command::IndexTag`] is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IndexColumn {
    Label,
    Id,
    /// The name of an alias; the first 16 bytes are its object id.
    Alias,
}

#[derive(Debug)]
pub enum Command<'a> {
    /// Makes a new domain of one, governed by the SO PIN.
    Found {
        label: &'a str,
        serial: &'a str,
        so_pin: &'a [u8],
        cost: PinCost,
    },
    /// Takes the domain token's public part, before anybody logged in or when a newer one is seen.
    Adopt {
        domain: &'a DomainToken,
        log: Log<'a>,
    },
    Login {
        pin: &'a [u8],
        record: &'a PinRecord,
        domain: &'a DomainToken,
        log: Log<'a>,
    },
    /// Ends the login: the domain's secrets and all opened private objects are wiped.
    Logout,
    /// Checks the PIN of an already logged-in user (CKU_CONTEXT_SPECIFIC).
    CheckPin {
        pin: &'a [u8],
        record: &'a PinRecord,
    },
    /// The SO gives a role a new PIN (C_InitPIN).
    InitPin {
        role: Role,
        pin: &'a [u8],
        cost: PinCost,
    },
    /// The SO who governs the token makes a named user.
    CreateUser {
        name: &'a str,
        pin: &'a [u8],
        cost: PinCost,
    },
    RemoveUser {
        name: &'a str,
    },
    /// The holder changes the PIN; needs no login.
    SetPin {
        old: &'a [u8],
        new: &'a [u8],
        record: &'a PinRecord,
        domain: &'a DomainToken,
        log: Log<'a>,
        cost: PinCost,
    },

    /// All that is public of the domain, as JSON.
    DescribeDomain,
    /// A proposal as JSON asks for it, without signatures. `key` is the one under dual control that
    /// it is about: the secret key, or the private half of a pair.
    Propose {
        request: &'a str,
        key: Option<&'a Record>,
    },
    /// Takes "use key" or "set dual control", which the key's own operators signed. The first answers
    /// Done, the second the change.
    Approve {
        proposal: &'a [u8],
        keys: KeyRecords<'a>,
    },
    /// What a proposal says, who signed it, and whether that is enough, as JSON.
    DescribeCommand {
        proposal: &'a [u8],
    },
    /// The proposal with one more signature, raw `r ‖ s`, by the holder of a key (DER
    /// SubjectPublicKeyInfo).
    AddSignature {
        proposal: &'a [u8],
        signer: &'a [u8],
        signature: &'a [u8],
    },
    /// Executes a command that a quorum signed.
    Execute {
        proposal: &'a [u8],
        /// The keys that the command names, in its order; none for a command about the domain alone.
        keys: &'a [Held<'a>],
    },
    /// Does one thing that the standing order or a deadline asks for now.
    Housekeeping,
    /// Sets the PIN that operators opened an enrolment for.
    SetEnrolledPin {
        role: Role,
        code: Option<&'a [u8]>,
        pin: &'a [u8],
        cost: PinCost,
    },
    /// What brings an older version of the domain to the newest of a history.
    Import {
        history: &'a [u8],
    },
    /// Makes the keys of a fresh HSM for a domain that is to be recovered.
    BeginRecovery {
        pin: &'a [u8],
        cost: PinCost,
    },
    /// Recovers the domain with those keys, the operators' command and their shares.
    FinishRecovery {
        pin: &'a [u8],
        cost: PinCost,
        sealed: &'a [u8],
        command: &'a [u8],
        contributions: &'a [&'a [u8]],
    },

    /// Whether a managed key that changed since an operation with it began still permits it.
    CheckUse {
        key: &'a Record,
        function: Function,
    },

    /// Whether a use of a key needs no approval or has one: Done, or what is to be approved. Takes
    /// nothing.
    FindApproval {
        key: &'a Record,
        action: &'a str,
        input: &'a [u8],
    },

    /// Records that a use of a key was not approved.
    Unapproved {
        key: &'a Record,
        action: &'a str,
        refused: ErrorKind,
    },

    Create {
        template: &'a Template<'a>,
        place: Place,
    },
    GenerateKey {
        mechanism: &'a Mechanism<'a>,
        template: &'a Template<'a>,
        place: Place,
    },
    GenerateKeyPair {
        mechanism: &'a Mechanism<'a>,
        public: &'a Template<'a>,
        public_place: Place,
        private: &'a Template<'a>,
        private_place: Place,
    },
    Copy {
        source: &'a Record,
        template: &'a Template<'a>,
        place: Place,
    },
    SetAttributes {
        record: &'a Record,
        template: &'a Template<'a>,
    },
    /// Seals a token object's record anew under the active domain key, with the next generation.
    /// Answers the new record, or [`Reply::Done`] if there is nothing to do.
    Reseal {
        record: &'a Record,
    },
    /// Answers whether the object may be destroyed.
    CheckDestroy {
        record: &'a Record,
    },
    View {
        record: &'a Record,
    },
    /// One secret attribute of a key that is neither sensitive nor unextractable.
    Reveal {
        record: &'a Record,
        attribute: AttributeType,
    },
    /// The keyed hash under which a private object's label or id is indexed.
    IndexTag {
        column: IndexColumn,
        value: &'a [u8],
    },

    Wrap {
        mechanism: &'a Mechanism<'a>,
        wrapping: &'a Record,
        key: &'a Record,
        /// What is longer is not handed out: the answer is [`Reply::Needed`].
        room: usize,
    },
    Unwrap {
        mechanism: &'a Mechanism<'a>,
        unwrapping: &'a Record,
        /// The record of the version that wrapped, where that is not the newest of a managed key.
        version: Option<&'a Record>,
        wrapped: &'a [u8],
        template: &'a Template<'a>,
        place: Place,
    },
    Derive {
        mechanism: &'a Mechanism<'a>,
        base: &'a Record,
        /// The key that `HkdfSalt::Key` names.
        salt_key: Option<&'a Record>,
        template: &'a Template<'a>,
        place: Place,
        /// One place for each additional key of SP 800-108.
        additional_places: &'a [Place],
    },

    /// Changes a managed key or tells of it. With `dry_run` nothing is made, and
    /// KMS_R_DRY_RUN says that it would have been.
    Manage {
        action: Manage,
        /// None for [`Manage::CreateKey`].
        keys: Option<KeyRecords<'a>>,
        /// The alias that the action is about, where it exists.
        alias: Option<&'a Record>,
        /// The key that [`Manage::UpdateAlias`] is to name.
        target: Option<KeyRecords<'a>>,
        /// JSON.
        request: &'a str,
        dry_run: bool,
    },
    /// What time demands of a managed key now: answers the change, or Done.
    KeepTime {
        keys: KeyRecords<'a>,
    },
    /// A blob of at most 4096 bytes.
    EnvelopeEncrypt {
        with: Envelope<'a>,
        plaintext: &'a [u8],
        dry_run: bool,
    },
    EnvelopeDecrypt {
        with: Envelope<'a>,
        /// The record of the version that the blob names, where that is not the newest.
        version: Option<&'a Record>,
        blob: &'a [u8],
        dry_run: bool,
    },
    ReEncrypt {
        from: Envelope<'a>,
        version: Option<&'a Record>,
        blob: &'a [u8],
        to: Envelope<'a>,
        dry_run: bool,
    },
    GenerateDataKey {
        with: Envelope<'a>,
        len: usize,
        with_plaintext: bool,
        dry_run: bool,
    },
    GenerateDataKeyPair {
        with: Envelope<'a>,
        /// The name of a key spec.
        spec: &'a str,
        with_plaintext: bool,
        dry_run: bool,
    },
    ImportParameters {
        key: &'a Record,
        /// The name of a wrapping algorithm.
        algorithm: &'a str,
        /// The name of the wrapping key's spec.
        spec: &'a str,
        dry_run: bool,
    },
    ImportMaterial {
        keys: KeyRecords<'a>,
        token: &'a [u8],
        wrapped: &'a [u8],
        /// Seconds since 1970; None if the material does not expire.
        valid_to: Option<u64>,
        dry_run: bool,
    },

    /// A step of the exchange with other Regions.
    Replicate(Replicate<'a>),

    /// Begins this instance's chain of the audit log, if there is none and one is to be written. Needs a
    /// login.
    BeginAudit {
        /// The name of the host, as it is recorded.
        host: &'a str,
        store: &'a dyn AuditStore,
    },
    /// Stores audit records that wait.
    FlushAudit {
        flush: AuditFlush,
        store: &'a dyn AuditStore,
    },
    /// What verifies the audit log, for all HSMs that ever were members of the domain.
    AuditVerifier {
        /// The token that the domain's log begins with; None before the founding.
        origin: Option<&'a DomainToken>,
        /// The log.
        entries: &'a [Vec<u8>],
    },
    /// A signed head for the whole log as it is now, to be kept elsewhere. Needs a login.
    AuditHead {
        host: &'a str,
        store: &'a dyn AuditStore,
    },

    Random {
        output: &'a mut [u8],
    },
}

#[derive(Debug)]
pub enum Reply {
    Done,
    Domain(DomainView),
    Text(String),
    Recovering {
        /// What names the fresh HSM in the command.
        claim: Vec<u8>,
        /// Its keys, sealed under the PIN.
        sealed: Vec<u8>,
    },
    Founded {
        domain: DomainToken,
        so_pin: PinRecord,
    },
    LoggedIn(Ticket),
    Changed(DomainChange),
    /// One record, two for a pair (public first), more for a derivation with additional keys.
    Records(Vec<Record>),
    View(Arc<View>),
    Secret(Zeroizing<Vec<u8>>),
    Bytes(Vec<u8>),
    Wrapped {
        wrapped: Vec<u8>,
        /// The IV, where it was made here.
        iv: Option<Vec<u8>>,
    },
    /// How many bytes it would be.
    Needed(usize),
    /// What is to be committed, and what is told of it: JSON, or a name.
    Managed {
        change: ObjectChange,
        told: String,
    },
    /// Of an exchange: what is to be committed, what is to be sent after that, and what is told (JSON).
    Replicated {
        change: ObjectChange,
        message: Option<Vec<u8>>,
        told: String,
    },
    /// The key is under dual control: nothing was done, and may be tried again once this is approved.
    ApprovalWanted(ApprovalRequest),
    DataKey {
        plaintext: Option<Zeroizing<Vec<u8>>>,
        blob: Vec<u8>,
    },
    DataKeyPair {
        /// DER SubjectPublicKeyInfo.
        public: Vec<u8>,
        /// DER PKCS#8.
        private: Option<Zeroizing<Vec<u8>>>,
        blob: Vec<u8>,
    },
    AuditVerifier(Box<AuditVerifier>),
    ImportParameters {
        /// DER SubjectPublicKeyInfo of the wrapping key.
        public_key: Vec<u8>,
        token: Vec<u8>,
        /// Seconds since 1970.
        expires: u64,
    },
}
