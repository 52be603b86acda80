//! The HSM boundary. Key material exists in the clear below this module only, and its private
//! submodules are the only place that can name a type which holds it.

mod approvals;
mod attribute;
mod audit;
mod audit_reader;
mod auditing;
mod build;
mod cache;
mod command;
mod core;
mod crypto;
#[allow(dead_code, reason = "what only a fleet's HSMs do is not reached by a host yet")]
mod domain;
mod draft;
mod enveloping;
mod ephemeral;
mod governing;
mod importing;
mod key;
mod login;
#[allow(dead_code, reason = "tests look at what no command does")]
mod managed;
mod managing;
mod mechanism;
mod member;
mod objects;
mod params;
mod permit;
mod quota;
mod random;
mod record;
mod replicating;
mod replication;
mod reseal;
mod separation;
#[allow(dead_code, reason = "a fleet's HSMs and hosts use it")]
pub mod session;
mod transient;
mod users;
mod value;
pub mod wire;
mod wrapping;

pub use audit_reader::{AuditDamage, AuditOpenChain, AuditReport, AuditVerifier, audit_line};
pub use auditing::{AuditBatch, AuditFlush, AuditMode, AuditOpening, AuditStatus, AuditStore, AuditTip};
pub use command::{
    ApprovalRequest, Columns, Command, DomainChange, DomainKeyId, DomainToken, DomainView, Envelope, Function, Held,
    IndexColumn, KeyRecords, Log, Manage, MessageKind, MessageView, ObjectChange, ObjectId, OldKey, Operation, Outcome,
    PinCost, PinRecord, Place, Record, Replicate, Reply, Role, Sealed, Ticket, View,
};
pub use crypto::Wiped;
pub use domain::governance;
pub use managed::{
    CKA_KMS_CREATED, CKA_KMS_DELETION_DATE, CKA_KMS_DELETION_WINDOW, CKA_KMS_DESCRIPTION, CKA_KMS_DUAL_CONTROL,
    CKA_KMS_GRANTS, CKA_KMS_KEY_ID, CKA_KMS_MANAGED, CKA_KMS_MATERIAL, CKA_KMS_MULTI_REGION, CKA_KMS_NEXT_ROTATION,
    CKA_KMS_ORIGIN, CKA_KMS_OWNER, CKA_KMS_POLICY, CKA_KMS_REPLICATE_IMPORTED, CKA_KMS_REPLICATION, CKA_KMS_ROTATED,
    CKA_KMS_ROTATION_PERIOD, CKA_KMS_SPEC, CKA_KMS_STATE, CKA_KMS_TAGS, CKA_KMS_USAGE, CKA_KMS_VALID_TO,
    CKA_KMS_VERSION, CKM_KMS_ENVELOPE, CKM_KMS_WRAP, CKO_KMS_ALIAS, CKO_KMS_DELETED_REPLICA, CKO_KMS_KEY_VERSION,
    EnvelopeName, HIDDEN_CLASSES, check_context, decrypted_len, encrypted_len, envelope_name, newest_version,
    outstanding_messages, state_at, state_name, usage_name, version_object, wants_managed, wrapped_key_name,
};
pub use mechanism::{MechanismInfo, key_type_name, mechanism_info, mechanisms, param_shape};
pub use member::{
    Answer as MemberAnswer, Change as MemberChange, Clear, Connection, Member, MemberFigures, PinFigures, Then,
};
pub use params::{HkdfSalt, Mechanism, MechanismType, Oaep, ParamShape, Params, PrfData, Pss, Secret};
pub use replicating::replication_message;
pub use value::{AttributeType, Attributes, Raw, Template, Value};

use std::sync::Arc;

use cryptoki_sys as ck;

use crate::error::Result;

/// What the configuration says of the HSM's rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The rules of `separation.rs`; off for compatibility tests only.
    pub key_separation: bool,
    /// Whether C_UnwrapKey takes CKM_RSA_PKCS.
    pub pkcs1_unwrap: bool,
    /// Whether C_UnwrapKey takes CKM_AES_CBC_PAD.
    pub cbc_pad_unwrap: bool,
    /// Whether uses of managed keys are recorded.
    pub audit: AuditMode,
}

impl Default for Settings {
    fn default() -> Self {
        Self { key_separation: true, pkcs1_unwrap: false, cbc_pad_unwrap: false, audit: AuditMode::On }
    }
}

impl Settings {
    /// Whether a mechanism whose unwrap is a padding oracle may be used.
    pub fn allows_oracle(&self, mechanism: MechanismType) -> bool {
        match mechanism {
            ck::CKM_RSA_PKCS => self.pkcs1_unwrap,
            _ => self.cbc_pad_unwrap,
        }
    }
}

/// In whose name a command is executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Public,
    User,
    So,
}

/// An HSM as one login of one process sees it: the command set over the domain's keys and the records it
/// is given.
pub struct Hsm {
    settings: Settings,
    core: Arc<core::Core>,
    client: Arc<core::Client>,
    login: login::Login,
}

impl Hsm {
    /// An embedded HSM, of this process alone.
    pub fn new(settings: Settings) -> Result<Self> {
        Ok(Self {
            settings,
            core: Arc::default(),
            client: Arc::new(core::Client::new(None, "", settings.audit, cache::Cache::default())?),
            login: login::Login::default(),
        })
    }

    /// Executes one command in the name of the ticket's holder.
    pub fn call(&self, ticket: &Ticket, command: Command<'_>) -> Result<Reply> {
        match &self.core.own {
            Some(own) => self.call_member(own, ticket, command),
            None => self.execute_command(ticket, command),
        }
    }

    fn execute_command(&self, ticket: &Ticket, command: Command<'_>) -> Result<Reply> {
        match command {
            Command::Found { label, serial, so_pin, cost } => self.found(label, serial, so_pin, cost),
            Command::Adopt { domain, log } => self.adopt(domain, log),
            Command::Login { pin, record, domain, log } => self.log_in(pin, record, domain, log),
            Command::Logout => self.log_out(),
            Command::CheckPin { pin, record } => self.check_pin(ticket, pin, record),
            Command::InitPin { role, pin, cost } => self.init_pin(ticket, &role, pin, cost),
            Command::CreateUser { name, pin, cost } => self.create_user(ticket, name, pin, cost),
            Command::RemoveUser { name } => self.remove_user(ticket, name),
            Command::SetPin { old, new, record, domain, log, cost } => {
                self.set_pin((old, new), record, (domain, log), cost)
            }
            Command::DescribeDomain => self.describe_domain(),
            Command::Propose { request, key } => self.propose(ticket, request, key),
            Command::CheckUse { key, function } => self.check_use(ticket, key, function),
            Command::FindApproval { key, action, input } => self.find_approval(ticket, key, action, input),
            Command::Unapproved { key, action, refused } => self.unapproved(ticket, key, action, refused),
            Command::Approve { proposal, keys } => self.approve(ticket, proposal, keys),
            Command::DescribeCommand { proposal } => self.describe_command(proposal),
            Command::AddSignature { proposal, signer, signature } => self.add_signature(proposal, signer, signature),
            Command::Execute { proposal, keys } => self.execute(ticket, proposal, keys),
            Command::Housekeeping => self.housekeeping(),
            Command::SetEnrolledPin { role, code, pin, cost } => self.set_enrolled_pin(ticket, &role, code, pin, cost),
            Command::Import { history } => self.import(ticket, history),
            Command::BeginRecovery { pin, cost } => self.begin_recovery(pin, cost),
            Command::FinishRecovery { pin, cost, sealed, command, contributions } => {
                self.finish_recovery(pin, cost, sealed, command, contributions)
            }
            Command::Create { template, place } => self.create(ticket, template, place),
            Command::GenerateKey { mechanism, template, place } => self.generate(ticket, mechanism, template, place),
            Command::GenerateKeyPair { mechanism, public, public_place, private, private_place } => {
                self.generate_pair(ticket, mechanism, (public, public_place), (private, private_place))
            }
            Command::Copy { source, template, place } => self.copy(ticket, source, template, place),
            Command::SetAttributes { record, template } => self.set_attributes(ticket, record, template),
            Command::Reseal { record } => self.reseal(ticket, record),
            Command::CheckDestroy { record } => self.check_destroy(ticket, record),
            Command::View { record } => self.view(ticket, record),
            Command::Reveal { record, attribute } => self.reveal(ticket, record, attribute),
            Command::IndexTag { column, value } => self.index_tag(ticket, column, value),
            Command::Wrap { mechanism, wrapping, key, room } => self.wrap(ticket, mechanism, (wrapping, key), room),
            Command::Unwrap { mechanism, unwrapping, version, wrapped, template, place } => {
                self.unwrap(ticket, mechanism, (unwrapping, version), wrapped, (template, place))
            }
            Command::Derive { mechanism, base, salt_key, template, place, additional_places } => {
                self.derive(ticket, mechanism, (base, salt_key), template, (place, additional_places))
            }
            Command::Manage { action, keys, alias, target, request, dry_run } => {
                self.manage(ticket, action, (keys, alias, target), request, dry_run)
            }
            Command::KeepTime { keys } => self.keep_time(ticket, keys),
            Command::EnvelopeEncrypt { with, plaintext, dry_run } => {
                self.envelope_encrypt(ticket, with, plaintext, dry_run)
            }
            Command::EnvelopeDecrypt { with, version, blob, dry_run } => {
                self.envelope_decrypt(ticket, with, (version, blob), dry_run)
            }
            Command::ReEncrypt { from, version, blob, to, dry_run } => {
                self.reencrypt(ticket, (from, version, blob), to, dry_run)
            }
            Command::GenerateDataKey { with, len, with_plaintext, dry_run } => {
                self.generate_data_key(ticket, with, len, (with_plaintext, dry_run))
            }
            Command::GenerateDataKeyPair { with, spec, with_plaintext, dry_run } => {
                self.generate_data_key_pair(ticket, with, spec, (with_plaintext, dry_run))
            }
            Command::ImportParameters { key, algorithm, spec, dry_run } => {
                self.import_parameters(ticket, key, (algorithm, spec), dry_run)
            }
            Command::ImportMaterial { keys, token, wrapped, valid_to, dry_run } => {
                self.import_material(ticket, keys, (token, wrapped), valid_to, dry_run)
            }
            Command::Replicate(step) => self.replicate(ticket, step),
            Command::BeginAudit { host, store } => self.begin_audit(host, store),
            Command::FlushAudit { flush, store } => self.flush_audit(flush, store),
            Command::AuditVerifier { origin, entries } => self.audit_verifier(origin, entries),
            Command::AuditHead { host, store } => self.audit_head(ticket, host, store),
            Command::Random { output } => random::fill(output).map(|()| Reply::Done),
        }
    }
}

/// Makes the tables that are otherwise made when first used. A child that is forked meanwhile would
/// wait for them for ever.
pub fn prepare_tables() {
    let _ = param_shape(0);
    let _ = attribute::form_of(0);
}

/// Makes what a thread needs before it draws random numbers.
pub fn prepare_thread() -> Result<()> {
    crypto::aws_lc::random::fill(&mut [0])
}

/// To be called first in a forked child (pthread_atfork): it forgets its parent's secret memory,
/// which reads as zeros there, and begins its own. Async-signal-safe.
pub fn after_fork_in_child() {
    crypto::after_fork_in_child();
    random::after_fork_in_child();
}

/// Begins a digest, which needs no HSM.
pub fn begin_digest(mechanism: &Mechanism<'_>) -> Result<Box<dyn Operation>> {
    mechanism::begin_digest(mechanism)
}

/// Continues a digest from what [`Operation::save`] gave.
pub fn resume_digest(state: &[u8]) -> Result<Box<dyn Operation>> {
    mechanism::resume_digest(state)
}

fn digest_of_record(bytes: &[u8]) -> [u8; 32] {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).into()
}

#[cfg(test)]
mod tests;
