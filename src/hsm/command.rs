//! The HSM's command set: what a host may ask, and what it gets back.
//!
//! An HSM keeps no durable state and no key of a user, so a command carries the records it uses.

mod replicate;

use std::sync::Arc;

pub use replicate::{Held, MessageKind, MessageView, Replicate};
use zeroize::Zeroizing;

use super::audit_reader::AuditVerifier;
use super::auditing::{AuditFlush, AuditStore};
use super::params::{Mechanism, Params};
use super::value::{AttributeType, Attributes, Template};
use crate::error::{ErrorKind, Result};

/// The permanent name of an object inside its token.
pub type ObjectId = [u8; 16];

/// A domain key's name, derived from the key: the kid of what is sealed under it.
pub type DomainKeyId = [u8; 16];

/// A sealed object as it leaves the HSM: opaque to the host, with its digest computed once.
#[derive(Clone, Eq)]
pub struct Sealed {
    bytes: Arc<[u8]>,
    digest: [u8; 32],
}

impl Sealed {
    pub fn new(bytes: Vec<u8>) -> Self {
        let digest = super::digest_of_record(&bytes);
        Self { bytes: bytes.into(), digest }
    }

    pub(super) fn copied(bytes: &[u8]) -> Self {
        Self { bytes: bytes.into(), digest: super::digest_of_record(bytes) }
    }

    /// With a name of another kind in the digest's place, as unique as that.
    pub(super) fn named(bytes: Vec<u8>, name: [u8; 32]) -> Self {
        Self { bytes: bytes.into(), digest: name }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The domain key that it says it is sealed under. None for what is not sealed under one.
    pub fn domain_key(&self) -> Option<DomainKeyId> {
        super::domain::key_id_of(&self.bytes).ok()
    }

    /// SHA-256 of the bytes, or their name: the key of the HSM's cache of opened records.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }
}

impl PartialEq for Sealed {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl std::fmt::Debug for Sealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sealed({} bytes)", self.bytes.len())
    }
}

/// What the store indexes of an object. For a private object `label` and `id` are keyed hashes.
/// The HSM compares them with the sealed copies when it opens the record.
#[derive(Debug, Clone, Eq)]
pub struct Columns {
    /// CKO_*.
    pub class: u64,
    /// CKK_* of a key, CKC_* of a certificate.
    pub key_type: Option<u64>,
    pub private: bool,
    pub label: Option<Vec<u8>>,
    pub id: Option<Vec<u8>>,
    /// One of a managed key's objects.
    pub managed: bool,
    /// Of a managed key, but for the public half of a pair: when time next demands something of it,
    /// in seconds since 1970, or [`Self::NEVER`].
    pub due: Option<u64>,
    /// Other Regions are still to be told something of it: also of what is left of a deleted replica.
    pub replicating: bool,
}

impl Columns {
    /// The largest number that a store keeps.
    pub const NEVER: u64 = i64::MAX.cast_unsigned();
}

impl PartialEq for Columns {
    fn eq(&self, other: &Self) -> bool {
        // libc's comparison of no bytes is slow where a pointer leads nowhere, as that of an empty Vec.
        let same = |a: &Option<Vec<u8>>, b: &Option<Vec<u8>>| match (a, b) {
            (Some(a), Some(b)) => a.len() == b.len() && (a.is_empty() || a == b),
            (a, b) => a.is_none() && b.is_none(),
        };
        self.class == other.class
            && self.key_type == other.key_type
            && self.private == other.private
            && self.managed == other.managed
            && self.due == other.due
            && self.replicating == other.replicating
            && same(&self.label, &other.label)
            && same(&self.id, &other.id)
    }
}

/// An object as the host and the store hold it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// CKA_UNIQUE_ID is this in hexadecimal.
    pub object: ObjectId,
    /// Starts at 1; +1 with each rewrite, which is a compare-and-set on it.
    pub generation: u64,
    pub columns: Columns,
    pub sealed: Sealed,
}

impl Record {
    /// Whether it is of a session object, which no store has.
    pub fn is_transient(&self) -> bool {
        // What the domain key seals begins with the head of a tag.
        matches!(self.sealed.as_bytes().first(), None | Some(0 | 1))
    }
}

/// What is to be committed of a change to managed keys: all of it or nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObjectChange {
    pub insert: Vec<Record>,
    /// Each in the place of the record with the generation before.
    pub replace: Vec<Record>,
    /// Object and generation of what is to go.
    pub delete: Vec<(ObjectId, u64)>,
    /// What goes whether or not it is there.
    pub purge: Vec<ObjectId>,
    /// The most managed keys that there may be then.
    pub limit: Option<u64>,
}

/// The objects of one managed key.
#[derive(Debug, Clone, Copy)]
pub struct KeyRecords<'a> {
    /// The secret key, or the private half of a pair.
    pub key: &'a Record,
    /// The public half of a pair, once there is one.
    pub public: Option<&'a Record>,
}

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

/// Where a new object lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Sealed under a key of this HSM instance's memory; gone with it.
    Session,
    /// Sealed under the domain key.
    Token,
}

/// Everything about an object that may be read: no key material.
#[derive(Debug, Clone)]
pub struct View {
    pub attributes: Attributes,
    /// Secret attributes the object has, and whether [`Command::Reveal`] would give them.
    pub secrets: Vec<(AttributeType, bool)>,
}

/// Proof of a login, as the HSM gave it. Opaque to the host.
#[derive(Clone, PartialEq, Eq)]
pub struct Ticket(pub(super) Arc<[u8]>);

impl Ticket {
    /// The ticket of nobody: public objects only.
    pub fn public() -> Self {
        Self(Arc::from([]))
    }

    pub fn is_public(&self) -> bool {
        self.0.is_empty()
    }
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is_public() { "Ticket(public)" } else { "Ticket(..)" })
    }
}

/// Whose PIN it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Role {
    So,
    User,
    /// A named user of C_LoginUser.
    Named(String),
}

impl Role {
    /// The name in policies, grants and the audit log.
    pub(crate) fn principal(&self) -> Arc<str> {
        match self {
            Self::So => Arc::from("so"),
            Self::User => Arc::from("user"),
            Self::Named(name) => Arc::from(format!("user:{name}")),
        }
    }
}

/// A PIN record as stored: opaque to the host but for its owner and generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinRecord {
    pub role: Role,
    /// +1 with each change of the PIN.
    pub generation: u64,
    pub sealed: Vec<u8>,
}

/// A domain token as stored: the state, public part in clear, secrets sealed to its recipients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainToken {
    pub version: u64,
    pub bytes: Vec<u8>,
}

/// What a change of the domain leaves to commit, all at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainChange {
    pub domain: DomainToken,
    /// Of the log, in order: one for each version up to that of `domain`. Empty while the SO
    /// governs the domain, for the one next version.
    pub entries: Vec<Vec<u8>>,
    /// PINs that were set.
    pub pins: Vec<PinRecord>,
    /// Whose PIN is no longer one.
    pub removed: Vec<Role>,
    /// Keys that the command is about.
    pub objects: ObjectChange,
}

impl DomainChange {
    /// The version that the change was made from; None for what cannot be a change.
    pub fn base(&self) -> Option<u64> {
        let steps = u64::try_from(self.entries.len().max(1)).ok()?;
        self.domain.version.checked_sub(steps)
    }
}

/// Entries of the log: one for each version after `after`, as far as they go.
#[derive(Debug, Clone, Copy, Default)]
pub struct Log<'a> {
    pub after: u64,
    pub entries: &'a [Vec<u8>],
}

/// What a host needs to know of the domain state that its HSM holds.
#[derive(Debug, Clone, Default)]
pub struct DomainView {
    pub domain: [u8; 16],
    pub version: u64,
    /// The token's, as the state has them.
    pub label: String,
    pub serial: String,
    /// Operators govern it, no longer the SO.
    pub founded: bool,
    /// The domain key that seals.
    pub active_key: DomainKeyId,
    /// Those that only decrypt.
    pub old_keys: Vec<OldKey>,
    /// The state took the PIN from whoever was logged in.
    pub login_ended: bool,
}

/// A domain key that only decrypts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OldKey {
    pub id: DomainKeyId,
    /// When it goes, seconds since 1970.
    pub retires: Option<u64>,
}

/// Cost of the PIN hash (Argon2id).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PinCost {
    pub memory_kib: u32,
    pub passes: u32,
    pub lanes: u32,
}

impl Default for PinCost {
    fn default() -> Self {
        Self { memory_kib: 19 * 1024, passes: 2, lanes: 1 }
    }
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

/// What an operation does; decides which usage attribute the key needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Function {
    Encrypt,
    Decrypt,
    Digest,
    Sign,
    SignRecover,
    Verify,
    VerifyRecover,
}

/// A use of a key under dual control that its operators have not approved yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApprovalRequest {
    /// The key.
    pub object: ObjectId,
    /// The model system's name of what is done with it, such as "Sign".
    pub action: String,
    /// SHA-256 of the input.
    pub digest: [u8; 32],
}

/// The result of a call with an output buffer (PKCS#11 3.2 §5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The output was written and is this long.
    Written(usize),
    /// No buffer was given, or it is too small: this many bytes are needed, and nothing changed.
    Needed(usize),
}

/// A streaming operation: an object the channel hands out, fed until it is finished.
///
/// `output` is None when the caller only asks for the length. A method that answers
/// [`Outcome::Needed`] has changed nothing and may be called again. After an error, or after
/// `finish` or `one_shot` wrote, the operation is over. Methods that do not fit the operation's
/// [`Function`] answer CKR_FUNCTION_NOT_SUPPORTED.
pub trait Operation: Send {
    /// Takes a part of the input. Ciphers may write; digests, signatures and verifications
    /// write nothing (`Written(0)`).
    fn update(&mut self, input: &[u8], output: Option<&mut [u8]>) -> Result<Outcome>;

    /// Ends the operation and writes what is left: last block, tag, digest, signature.
    fn finish(&mut self, output: Option<&mut [u8]>) -> Result<Outcome>;

    /// The whole in one call. Input and output may not overlap (the ABI copies if they do).
    fn one_shot(&mut self, input: &[u8], output: Option<&mut [u8]>) -> Result<Outcome>;

    /// Ends a verification.
    fn verify(&mut self, _signature: &[u8]) -> Result<()> {
        Err(ErrorKind::FunctionNotSupported.into())
    }

    /// A verification in one call.
    fn verify_one_shot(&mut self, input: &[u8], signature: &[u8]) -> Result<()> {
        self.update(input, None)?;
        self.verify(signature)
    }

    /// Forgets what an operation that is over worked on, to be begun anew by [`Self::restart`].
    /// False if it cannot be; then it is to be dropped.
    fn rest(&mut self) -> bool {
        false
    }

    /// Begins anew after [`Self::rest`], for the same function, mechanism and key, with this
    /// parameter. False if only a new operation can take it.
    fn restart(&mut self, _params: &Params<'_>) -> Result<bool> {
        Ok(false)
    }

    /// What must be approved before `one_shot` (with this input), `finish` or a verification gives a
    /// result; None if nothing must, or it was.
    fn approval(&mut self, _input: Option<&[u8]>) -> Result<Option<ApprovalRequest>> {
        Ok(None)
    }

    /// How many bytes of input it keeps until it ends.
    fn held(&self) -> usize {
        0
    }

    /// Whether it uses a private object.
    fn is_private(&self) -> bool {
        true
    }

    /// The state for C_GetOperationState, where it can be saved.
    fn save(&self) -> Result<Vec<u8>> {
        Err(ErrorKind::StateUnsaveable.into())
    }
}
