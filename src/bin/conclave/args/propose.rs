//! Arguments of `conclave proposal new`: every command that operators may give.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::times;

#[derive(Args)]
pub(crate) struct ProposalNew {
    #[command(flatten)]
    pub(crate) options: ProposalOptions,
    /// Any command as JSON (`-` is the standard input).
    #[arg(long, value_name = "FILE")]
    pub(crate) request: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) command: Option<NewCommand>,
}

/// What every proposal may be told.
#[derive(Args)]
pub(crate) struct ProposalOptions {
    /// The token's label, serial number or slot id; not needed if there is only one.
    #[arg(long, global = true)]
    pub(crate) token: Option<String>,
    /// Where to write the proposal (`-` is the standard output); else it is kept with the pending ones.
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) out: Option<PathBuf>,
    /// How long it may be executed; the domain's limit for approvals (24 h) if not given.
    #[arg(long, value_name = "SPAN", value_parser = times::span, global = true)]
    pub(crate) valid_for: Option<u64>,
    /// When that begins; now if not given.
    #[arg(long, value_name = "TIME", value_parser = times::instant, global = true)]
    pub(crate) valid_from: Option<u64>,
}

#[derive(Subcommand)]
pub(crate) enum NewCommand {
    /// Add an operator by a claim.
    #[command(alias = "add operator")]
    AddOperator {
        /// The file of the claim.
        #[arg(long, value_name = "FILE")]
        claim: PathBuf,
        /// Such as officer,operator.
        #[arg(long, value_name = "ROLE,…", value_delimiter = ',', required = true)]
        roles: Vec<String>,
    },
    /// Remove an operator.
    #[command(alias = "remove operator")]
    RemoveOperator {
        /// The person's name, or the id in hexadecimal.
        #[arg(long, value_name = "NAME|ID")]
        operator: String,
    },
    /// Give an operator the new keys of a claim (conclave operator rekey).
    #[command(alias = "re-key operator")]
    RekeyOperator {
        /// The file of the claim.
        #[arg(long, value_name = "FILE")]
        claim: PathBuf,
    },
    /// Set what a command needs. Several --needs are alternatives.
    #[command(alias = "set rule")]
    SetRule {
        /// The command's name, such as "admit host".
        #[arg(long, value_name = "COMMAND")]
        rule: String,
        /// Persons by role, such as officer=2,operator=majority.
        #[arg(long, value_name = "ROLE=NUMBER,…", required = true)]
        needs: Vec<String>,
    },
    /// Admit an HSM by a claim.
    #[command(name = "admit-hsm", alias = "admit HSM")]
    AdmitHsm {
        /// The file of the claim.
        #[arg(long, value_name = "FILE")]
        claim: PathBuf,
    },
    /// Expel an HSM; domain and replication keys are made anew.
    #[command(name = "expel-hsm", alias = "expel HSM")]
    ExpelHsm {
        /// The HSM's id in hexadecimal.
        #[arg(long)]
        id: String,
        /// How long the old domain key still decrypts; without it, until another command.
        #[arg(long, value_name = "SPAN", value_parser = times::span)]
        retain: Option<u64>,
    },
    /// Admit a service host by a claim.
    #[command(alias = "admit host")]
    AdmitHost {
        /// The file of the claim.
        #[arg(long, value_name = "FILE")]
        claim: PathBuf,
    },
    /// Expel a service host.
    #[command(alias = "expel host")]
    ExpelHost {
        /// The host's name, or the id in hexadecimal.
        #[arg(long, value_name = "NAME|ID")]
        host: String,
    },
    /// Create a user, who may set a PIN once.
    #[command(alias = "create user")]
    CreateUser(Enrol),
    /// End a PIN at once; a new one may be set once.
    #[command(name = "reset-pin", alias = "reset PIN")]
    ResetPin(Enrol),
    /// Remove a user.
    #[command(alias = "remove user")]
    RemoveUser {
        /// `user`, or the name of a named user.
        #[arg(long)]
        user: String,
    },
    /// Make a new domain key.
    #[command(alias = "rotate domain key")]
    RotateDomainKey {
        /// How long the old one still decrypts; without it, until another command.
        #[arg(long, value_name = "SPAN", value_parser = times::span)]
        retain: Option<u64>,
    },
    /// Set when a domain key that only decrypts is destroyed.
    #[command(alias = "schedule retirement")]
    ScheduleRetirement {
        /// The domain key's id in hexadecimal, or its beginning.
        #[arg(long, value_name = "ID")]
        key: String,
        /// When; without it the key is kept until another command.
        #[arg(long, value_name = "TIME", value_parser = times::instant)]
        at: Option<u64>,
    },
    /// Make a new replication signing key.
    #[command(name = "rotate-rsk", alias = "rotate RSK")]
    RotateReplicationKey,
    /// Let the domain key be rotated at regular times without another signature.
    #[command(alias = "standing order")]
    StandingOrder {
        /// End the order in force.
        #[arg(long, conflicts_with_all = ["interval", "window", "retain", "until"])]
        end: bool,
        /// The age at which the active key is rotated.
        #[arg(long, value_name = "SPAN", value_parser = times::span, required_unless_present = "end")]
        interval: Option<u64>,
        /// How much later than due a rotation may come.
        #[arg(long, value_name = "SPAN", value_parser = times::span, required_unless_present = "end")]
        window: Option<u64>,
        /// How long an old key still decrypts; without it, until another command.
        #[arg(long, value_name = "SPAN", value_parser = times::span)]
        retain: Option<u64>,
        /// When the order ends.
        #[arg(long, value_name = "TIME", value_parser = times::instant, required_unless_present = "end")]
        until: Option<u64>,
    },
    /// Set limits; those not given stay.
    #[command(alias = "set limits")]
    SetLimits {
        /// How long a session's key is used.
        #[arg(long, value_name = "SPAN", value_parser = times::span)]
        session_key: Option<u64>,
        /// How long a handshake may take.
        #[arg(long, value_name = "SPAN", value_parser = times::span)]
        handshake: Option<u64>,
        /// How long a login lasts without use.
        #[arg(long, value_name = "SPAN", value_parser = times::span)]
        login_ticket: Option<u64>,
        /// How long an offer stands.
        #[arg(long, value_name = "SPAN", value_parser = times::span)]
        offer: Option<u64>,
        /// The longest that a proposal may be valid.
        #[arg(long, value_name = "SPAN", value_parser = times::span)]
        proposal: Option<u64>,
        /// How long a proposal is valid if it does not say.
        #[arg(long, value_name = "SPAN", value_parser = times::span)]
        approval: Option<u64>,
    },
    /// Allow a cipher suite, or forbid it.
    #[command(alias = "allow suite")]
    AllowSuite {
        /// Its number.
        #[arg(long, value_name = "NUMBER")]
        suite: u64,
        /// Forbid it.
        #[arg(long)]
        forbid: bool,
    },
    /// Trust another Region, or its new replication keys.
    #[command(alias = "trust Region")]
    TrustRegion {
        /// What `conclave region show --json` says there (`-` is the standard input).
        #[arg(long, value_name = "FILE", required_unless_present = "domain", conflicts_with = "domain")]
        region: Option<PathBuf>,
        /// That Region's newest domain token.
        #[arg(long, value_name = "FILE")]
        domain: Option<PathBuf>,
    },
    /// Trust a Region no longer.
    #[command(alias = "distrust Region")]
    DistrustRegion {
        /// The Region's name.
        #[arg(long)]
        name: String,
    },
    /// Forget a Region's replicas of multi-Region keys: their primaries wait for them no longer.
    #[command(alias = "give up replica")]
    GiveUpReplica {
        /// The id of a multi-Region key; give the option once for each.
        #[arg(long = "key", value_name = "ID", required = true)]
        keys: Vec<String>,
        /// The Region that has the replicas.
        #[arg(long, value_name = "NAME")]
        region: String,
    },
    /// Say, without the Region that has the primaries now, where the primaries of multi-Region keys are.
    #[command(alias = "emergency promote")]
    EmergencyPromote {
        /// The id of a multi-Region key; give the option once for each.
        #[arg(long = "key", value_name = "ID", required = true)]
        keys: Vec<String>,
        /// This Region makes its own replicas the primaries; elsewhere the name of the one that did.
        #[arg(long, value_name = "NAME")]
        region: String,
    },
    /// Mark a key as trusted (CKA_TRUSTED): it may wrap every extractable key.
    #[command(alias = "trust key")]
    TrustKey {
        /// The object's label, CKA_ID or unique id.
        #[arg(long)]
        object: String,
        /// Trust it no longer.
        #[arg(long)]
        distrust: bool,
        /// Where the user's PIN comes from, to find a private object by its label.
        #[arg(long, value_name = "SOURCE", default_value = "none")]
        pin: String,
    },
    /// Refuse older generations of an object from now on.
    #[command(alias = "revoke key")]
    RevokeKey {
        /// The object's unique id.
        #[arg(long, value_name = "ID")]
        object: String,
        /// The lowest that is accepted.
        #[arg(long, value_name = "NUMBER")]
        generation: u64,
    },
    /// Approve uses of a key under dual control by one HSM instance. The key's own operators sign it.
    #[command(alias = "use key")]
    UseKey {
        /// The key's id, alias/NAME, or unique id.
        #[arg(long)]
        key: String,
        /// What is to be done with it, such as Sign or Decrypt.
        #[arg(long)]
        action: String,
        /// SHA-256 of the one input that is approved, in hexadecimal.
        #[arg(long, value_name = "SHA256", conflicts_with = "any")]
        digest: Option<String>,
        /// Approve any input.
        #[arg(long, required_unless_present = "digest")]
        any: bool,
        /// How many times.
        #[arg(long, value_name = "NUMBER", default_value_t = 1)]
        count: u64,
        /// The HSM instance, as the application that is to use the key shows it (KMS_DescribeDomain).
        #[arg(long, value_name = "ID")]
        instance: String,
        /// Where the user's PIN comes from, to open the key.
        #[arg(long, value_name = "SOURCE", default_value = "prompt")]
        pin: String,
    },
    /// Give a key under dual control other operators. Those it has now sign it.
    #[command(alias = "set dual control")]
    SetDualControl {
        /// The key's id, alias/NAME, or unique id.
        #[arg(long)]
        key: String,
        /// Persons' names, or ids of operators or their keys; give the option once for each.
        #[arg(long = "operator", value_name = "NAME|ID", required = true)]
        operators: Vec<String>,
        /// How many different persons each use needs.
        #[arg(long, value_name = "NUMBER")]
        threshold: u64,
        /// Where the user's PIN comes from, to open the key.
        #[arg(long, value_name = "SOURCE", default_value = "prompt")]
        pin: String,
    },
}

#[derive(Args)]
pub(crate) struct Enrol {
    /// `user`, `SO`, or the name of a named user.
    #[arg(long)]
    pub(crate) user: String,
    /// Where the code comes from that the user has to give with his PIN; `new` makes one. Without it
    /// the SO sets the PIN.
    #[arg(long, value_name = "SOURCE")]
    pub(crate) code: Option<String>,
    /// How long the user has for it; 7 days if not given.
    #[arg(long, value_name = "SPAN", value_parser = times::span)]
    pub(crate) window: Option<u64>,
}
