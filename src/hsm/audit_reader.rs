//! Reading the audit log: rows as JSON, and whether a log is whole.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Hsm;
use super::audit::{self, Verifier};
use super::command::{DomainToken, Reply};
use super::domain::keys::{Kid, PublicKey};
use super::domain::{Circumstances, PublicState, members_ever};
use crate::error::Result;
use crate::text::hex;

/// How many findings, and how many open chains, a report names; it counts all.
const NAMED: usize = 1000;

/// A row of the log as a line of JSON, without a line end. One that cannot be read is given as it is.
pub fn audit_line(id: u64, instance: &[u8; 16], row: &[u8]) -> String {
    match audit::line(instance, row) {
        Ok(line) => format!("{{\"id\":{id},{}", line.get(1..).unwrap_or_default()),
        Err(_) => {
            let (instance, bytes) = (hex(instance), hex(row));
            serde_json::json!({ "id": id, "row": "damaged", "instance": instance, "bytes": bytes }).to_string()
        }
    }
}

/// What verifying a log has shown.
#[derive(Debug, Clone, Serialize)]
pub struct AuditReport {
    /// Nothing is wrong. Chains that are not closed are no damage.
    pub ok: bool,
    pub rows: u64,
    pub chains: u64,
    pub events: u64,
    pub heads: u64,
    /// Whether the log was compared with a head that was kept elsewhere.
    pub head_checked: bool,
    /// How much is wrong, and the first 1000 of it.
    pub damage_count: u64,
    pub damage: Vec<AuditDamage>,
    /// How many chains were not closed, and the first 1000 of them, ascending by time.
    pub open_count: u64,
    pub open: Vec<AuditOpenChain>,
}

/// What is wrong with a row, or with a chain.
#[derive(Debug, Clone, Serialize)]
pub struct AuditDamage {
    /// Of the row that shows it; None if the end of the log does.
    pub id: Option<u64>,
    /// The chain, in hexadecimal.
    pub instance: String,
    pub seq: Option<u64>,
    pub what: String,
}

/// A chain that was not closed: its HSM still runs, or ended without a chance to.
#[derive(Debug, Clone, Serialize)]
pub struct AuditOpenChain {
    pub instance: String,
    pub host: String,
    /// The newest record.
    pub seq: u64,
    /// Of its newest row, as in a line of the log.
    pub time: String,
    /// How many records at the end no head vouches for.
    pub unsigned: u64,
}

type Lookup = Box<dyn Fn(&Kid) -> Option<PublicKey> + Send>;

/// Reads a log row by row. Its memory is that of the chains that are open.
pub struct AuditVerifier {
    verifier: Verifier<Lookup>,
    damage: Vec<AuditDamage>,
    damage_count: u64,
    head_checked: bool,
}

impl AuditVerifier {
    /// For the log of a domain that the caller knows by the hash of its newest state: needs no HSM.
    /// `origin` is the token that the domain's log begins with. CKR_TOKEN_NOT_RECOGNIZED if the tokens and
    /// entries are not of that domain.
    pub fn of_domain(
        newest: &DomainToken,
        hash: &[u8; 48],
        origin: Option<&DomainToken>,
        entries: &[Vec<u8>],
    ) -> Result<Self> {
        Self::of_state(&*PublicState::of_fingerprint(newest, hash)?, origin, entries)
    }

    fn of_state(held: &PublicState, origin: Option<&DomainToken>, entries: &[Vec<u8>]) -> Result<Self> {
        let members = members_ever(held, origin, entries, Circumstances::of_system().now)?;
        let keys: BTreeMap<Kid, PublicKey> = members.into_iter().map(|key| (key.kid(), key)).collect();
        let lookup: Lookup = Box::new(move |kid: &Kid| keys.get(kid).copied());
        let verifier = Verifier::new(held.state().domain, lookup);
        Ok(Self { verifier, damage: Vec::new(), damage_count: 0, head_checked: false })
    }

    /// Also demands what a head kept elsewhere vouches for; before the first row. CKR_DATA_INVALID,
    /// CKR_SIGNATURE_INVALID.
    pub fn keep(&mut self, head: &[u8]) -> Result<()> {
        self.verifier.keep(head)?;
        self.head_checked = true;
        Ok(())
    }

    /// Takes the next row.
    pub fn row(&mut self, id: u64, instance: &[u8; 16], row: &[u8]) {
        for finding in self.verifier.row(instance, row) {
            self.found(Some(id), &finding);
        }
    }

    /// After the last row.
    pub fn finish(mut self) -> AuditReport {
        let none = Verifier::new([0; 16], Box::new(|_: &Kid| None) as Lookup);
        let report = std::mem::replace(&mut self.verifier, none).finish();
        for finding in &report.findings {
            self.found(None, finding);
        }
        let open = report.open.iter().take(NAMED).map(|chain| AuditOpenChain {
            instance: hex(&chain.instance),
            host: chain.host.clone(),
            seq: chain.seq,
            time: audit::time(chain.at),
            unsigned: chain.unsigned,
        });
        AuditReport {
            ok: self.damage_count == 0,
            rows: report.counts.rows,
            chains: report.counts.chains,
            events: report.counts.events,
            heads: report.counts.heads,
            head_checked: self.head_checked,
            damage_count: self.damage_count,
            damage: self.damage,
            open_count: report.open.len() as u64,
            open: open.collect(),
        }
    }

    fn found(&mut self, id: Option<u64>, finding: &audit::Finding) {
        self.damage_count += 1;
        if self.damage.len() < NAMED {
            let audit::Finding { instance, seq, damage, .. } = finding;
            self.damage.push(AuditDamage { id, instance: hex(instance), seq: *seq, what: damage.to_string() });
        }
    }
}

impl std::fmt::Debug for AuditVerifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AuditVerifier(..)")
    }
}

impl Hsm {
    /// What verifies the log of this domain, for all HSMs that are or were members of it. `origin` is the
    /// token that the domain's log begins with; None before there is one.
    pub(super) fn audit_verifier(&self, origin: Option<&DomainToken>, entries: &[Vec<u8>]) -> Result<Reply> {
        let verifier = AuditVerifier::of_state(&*self.public()?, origin, entries)?;
        Ok(Reply::AuditVerifier(Box::new(verifier)))
    }
}
