//! The changes that operators command, their arguments, and how each reads in plain words.

use super::super::command::{ObjectId, Role};
use super::cbor::{Decoded, Decoder, Encoder, Malformed};
use super::control::{ControlledKey, KeyControl, KeyUse};
use super::identity::Claim;
use super::keys::{Kid, PublicKey};
use super::rules::MAJORITY;
use super::seal::{DomainId, KeyId};
use super::state::{
    Enrolment, Hash, Limits, Member, Rule, StandingOrder, State, TrustedRegion, ascending, decode_role, encode_role,
    text,
};
use crate::hsm::replication::message;
use crate::text::hex;

/// A command with its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) enum Change {
    /// Hands the domain over to its operators. `rules` take the place of defaults.
    FoundDomain {
        region: String,
        members: Vec<Member>,
        operators: Vec<(Claim, Vec<String>)>,
        rules: Vec<Rule>,
    },
    AddOperator {
        operator: Claim,
        roles: Vec<String>,
    },
    RemoveOperator {
        id: [u8; 16],
    },
    /// New keys for the same id, person and roles.
    RekeyOperator {
        operator: Claim,
    },
    SetRule {
        rule: Rule,
    },
    AdmitHsm {
        hsm: Claim,
    },
    /// `retain`: for how many seconds the old domain keys still decrypt; None leaves it open.
    ExpelHsm {
        id: [u8; 16],
        retain: Option<u64>,
    },
    AdmitHost {
        host: Claim,
    },
    ExpelHost {
        id: [u8; 16],
    },
    CreateUser {
        role: Role,
        enrolment: Enrolment,
    },
    RemoveUser {
        role: Role,
    },
    ResetPin {
        role: Role,
        enrolment: Enrolment,
    },
    RotateDomainKey {
        retain: Option<u64>,
    },
    /// When a decrypt-only key goes (seconds since 1970); None: not until another command.
    ScheduleRetirement {
        key: KeyId,
        at: Option<u64>,
    },
    RotateReplicationKey,
    /// None ends the one in force.
    SetStandingOrder {
        order: Option<StandingOrder>,
    },
    SetLimits {
        limits: Limits,
    },
    AllowSuite {
        suite: u64,
        allowed: bool,
    },
    TrustRegion {
        region: TrustedRegion,
    },
    DistrustRegion {
        name: String,
    },
    TrustKey {
        object: ObjectId,
        trusted: bool,
    },
    /// `generation` is the lowest that is accepted from now on.
    RevokeKey {
        object: ObjectId,
        generation: u64,
    },
    MakeRecoverySet {
        threshold: u64,
        operators: Vec<[u8; 16]>,
    },
    /// Names the fresh HSM and the token it is to open.
    RecoverDomain {
        hsm: Claim,
        version: u64,
        state: Hash,
    },
    /// Forgets the replicas that a Region has of these keys: whatever waits for them waits no more.
    GiveUpReplica {
        keys: RegionKeys,
    },
    /// Makes a Region's replicas the primaries of these keys, without the old primary. Told to every
    /// Region that is to know of it.
    EmergencyPromote {
        keys: RegionKeys,
    },
    /// Lets an HSM instance use a key under dual control. Changes nothing that is kept.
    UseKey {
        key: ControlledKey,
        usage: KeyUse,
    },
    /// Gives a key under dual control other operators or another threshold: changes its record.
    SetDualControl {
        key: ControlledKey,
        control: KeyControl,
    },
}

/// Multi-Region keys, and a Region that has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) struct RegionKeys {
    /// Ascending; at least one.
    pub(in crate::hsm) key_ids: Vec<String>,
    pub(in crate::hsm) region: String,
}

/// The most keys of a command.
pub(super) const MAX_KEYS: usize = 10_000;

impl RegionKeys {
    fn encode(&self, e: &mut Encoder) {
        e.array(2);
        encode_texts(e, &self.key_ids);
        e.text(&self.region);
    }

    fn decode(d: &mut Decoder<'_>) -> Decoded<Self> {
        d.array_of(2)?;
        let keys = Self { key_ids: d.list(message::key_id)?, region: text(d)? };
        if keys.key_ids.is_empty() || keys.key_ids.len() > MAX_KEYS || !ascending(&keys.key_ids, |id| id) {
            return Err(Malformed("the keys are too many, none, or not in order"));
        }
        Ok(keys)
    }

    /// The lines that name the keys.
    fn words(&self) -> impl Iterator<Item = String> {
        self.key_ids.iter().map(|id| format!("Key {}", id.escape_debug()))
    }
}

impl Change {
    /// The name in commands and rules.
    pub(in crate::hsm) fn name(&self) -> &'static str {
        match self {
            Self::FoundDomain { .. } => "found domain",
            Self::AddOperator { .. } => "add operator",
            Self::RemoveOperator { .. } => "remove operator",
            Self::RekeyOperator { .. } => "re-key operator",
            Self::SetRule { .. } => "set rule",
            Self::AdmitHsm { .. } => "admit HSM",
            Self::ExpelHsm { .. } => "expel HSM",
            Self::AdmitHost { .. } => "admit host",
            Self::ExpelHost { .. } => "expel host",
            Self::CreateUser { .. } => "create user",
            Self::RemoveUser { .. } => "remove user",
            Self::ResetPin { .. } => "reset PIN",
            Self::RotateDomainKey { .. } => "rotate domain key",
            Self::ScheduleRetirement { .. } => "schedule retirement",
            Self::RotateReplicationKey => "rotate RSK",
            Self::SetStandingOrder { .. } => "standing order",
            Self::SetLimits { .. } => "set limits",
            Self::AllowSuite { .. } => "allow suite",
            Self::TrustRegion { .. } => "trust Region",
            Self::DistrustRegion { .. } => "distrust Region",
            Self::TrustKey { .. } => "trust key",
            Self::RevokeKey { .. } => "revoke key",
            Self::MakeRecoverySet { .. } => "make recovery set",
            Self::RecoverDomain { .. } => "recover domain",
            Self::GiveUpReplica { .. } => "give up replica",
            Self::EmergencyPromote { .. } => "emergency promote",
            Self::UseKey { .. } => "use key",
            Self::SetDualControl { .. } => "set dual control",
        }
    }

    /// The key that a command is about instead of the domain: its own operators approve it.
    pub(in crate::hsm) fn key(&self) -> Option<&ControlledKey> {
        match self {
            Self::UseKey { key, .. } | Self::SetDualControl { key, .. } => Some(key),
            _ => None,
        }
    }

    /// The multi-Region keys that a command is about: it changes their records as well.
    pub(in crate::hsm) fn region_keys(&self) -> Option<&RegionKeys> {
        match self {
            Self::GiveUpReplica { keys } | Self::EmergencyPromote { keys } => Some(keys),
            _ => None,
        }
    }

    /// The arguments, an array.
    pub(super) fn encode_arguments(&self, e: &mut Encoder) {
        match self {
            Self::FoundDomain { region, members, operators, rules } => {
                e.array(4).text(region).list(members, |e, m| m.encode(e));
                e.list(operators, |e, (claim, roles)| {
                    e.array(2).bytes(claim.message());
                    encode_texts(e, roles);
                });
                e.list(rules, |e, r| r.encode(e));
            }
            Self::AddOperator { operator, roles } => {
                e.array(2).bytes(operator.message());
                encode_texts(e, roles);
            }
            Self::RekeyOperator { operator: claim }
            | Self::AdmitHsm { hsm: claim }
            | Self::AdmitHost { host: claim } => {
                e.array(1).bytes(claim.message());
            }
            Self::RemoveOperator { id } | Self::ExpelHost { id } => {
                e.array(1).bytes(id);
            }
            Self::SetRule { rule } => {
                rule.encode(e.array(1));
            }
            Self::ExpelHsm { id, retain } => {
                encode_optional(e.array(2).bytes(id), *retain);
            }
            Self::CreateUser { role, enrolment } | Self::ResetPin { role, enrolment } => {
                encode_role(e.array(3), role);
                enrolment.encode(e);
            }
            Self::RemoveUser { role } => encode_role(e.array(2), role),
            Self::RotateDomainKey { retain } => encode_optional(e.array(1), *retain),
            Self::ScheduleRetirement { key, at } => encode_optional(e.array(2).bytes(key), *at),
            Self::RotateReplicationKey => {
                e.array(0);
            }
            Self::SetStandingOrder { order } => {
                e.array(1).optional(*order, |e, order| order.encode(e));
            }
            Self::SetLimits { limits } => limits.encode(e.array(1)),
            Self::AllowSuite { suite, allowed } => {
                e.array(2).uint(*suite).bool(*allowed);
            }
            Self::TrustRegion { region } => region.encode(e.array(1)),
            Self::DistrustRegion { name } => {
                e.array(1).text(name);
            }
            Self::TrustKey { object, trusted } => {
                e.array(2).bytes(object).bool(*trusted);
            }
            Self::RevokeKey { object, generation } => {
                e.array(2).bytes(object).uint(*generation);
            }
            Self::MakeRecoverySet { threshold, operators } => {
                e.array(2).uint(*threshold).list(operators, |e, id| {
                    e.bytes(id);
                });
            }
            Self::RecoverDomain { hsm, version, state } => {
                e.array(3).bytes(hsm.message()).uint(*version).bytes(state);
            }
            Self::GiveUpReplica { keys } | Self::EmergencyPromote { keys } => keys.encode(e),
            Self::UseKey { key, usage } => {
                key.encode(e.array(2));
                usage.encode(e);
            }
            Self::SetDualControl { key, control } => {
                key.encode(e.array(2));
                control.encode(e);
            }
        }
    }

    pub(super) fn decode(name: &str, d: &mut Decoder<'_>) -> Decoded<Self> {
        Ok(match name {
            "found domain" => {
                d.array_of(4)?;
                Self::FoundDomain {
                    region: text(d)?,
                    members: d.list(Member::decode)?,
                    operators: d.list(|d| {
                        d.array_of(2)?;
                        Ok((claim(d)?, roles(d)?))
                    })?,
                    rules: d.list(Rule::decode)?,
                }
            }
            "add operator" => {
                d.array_of(2)?;
                Self::AddOperator { operator: claim(d)?, roles: roles(d)? }
            }
            "remove operator" => {
                d.array_of(1)?;
                Self::RemoveOperator { id: d.fixed()? }
            }
            "re-key operator" => {
                d.array_of(1)?;
                Self::RekeyOperator { operator: claim(d)? }
            }
            "set rule" => {
                d.array_of(1)?;
                Self::SetRule { rule: Rule::decode(d)? }
            }
            "admit HSM" => {
                d.array_of(1)?;
                Self::AdmitHsm { hsm: claim(d)? }
            }
            "expel HSM" => {
                d.array_of(2)?;
                Self::ExpelHsm { id: d.fixed()?, retain: d.optional(Decoder::uint)? }
            }
            "admit host" => {
                d.array_of(1)?;
                Self::AdmitHost { host: claim(d)? }
            }
            "expel host" => {
                d.array_of(1)?;
                Self::ExpelHost { id: d.fixed()? }
            }
            "create user" => {
                d.array_of(3)?;
                Self::CreateUser { role: decode_role(d)?, enrolment: Enrolment::decode(d)? }
            }
            "remove user" => {
                d.array_of(2)?;
                Self::RemoveUser { role: decode_role(d)? }
            }
            "reset PIN" => {
                d.array_of(3)?;
                Self::ResetPin { role: decode_role(d)?, enrolment: Enrolment::decode(d)? }
            }
            "rotate domain key" => {
                d.array_of(1)?;
                Self::RotateDomainKey { retain: d.optional(Decoder::uint)? }
            }
            "schedule retirement" => {
                d.array_of(2)?;
                Self::ScheduleRetirement { key: d.fixed()?, at: d.optional(Decoder::uint)? }
            }
            "rotate RSK" => {
                d.array_of(0)?;
                Self::RotateReplicationKey
            }
            "standing order" => {
                d.array_of(1)?;
                Self::SetStandingOrder { order: d.optional(StandingOrder::decode)? }
            }
            "set limits" => {
                d.array_of(1)?;
                Self::SetLimits { limits: Limits::decode(d)? }
            }
            "allow suite" => {
                d.array_of(2)?;
                Self::AllowSuite { suite: d.uint()?, allowed: d.bool()? }
            }
            "trust Region" => {
                d.array_of(1)?;
                Self::TrustRegion { region: TrustedRegion::decode(d)? }
            }
            "distrust Region" => {
                d.array_of(1)?;
                Self::DistrustRegion { name: text(d)? }
            }
            "trust key" => {
                d.array_of(2)?;
                Self::TrustKey { object: d.fixed()?, trusted: d.bool()? }
            }
            "revoke key" => {
                d.array_of(2)?;
                Self::RevokeKey { object: d.fixed()?, generation: d.uint()? }
            }
            "make recovery set" => {
                d.array_of(2)?;
                let set = Self::MakeRecoverySet { threshold: d.uint()?, operators: d.list(Decoder::fixed)? };
                match &set {
                    Self::MakeRecoverySet { operators, .. } if ascending(operators, |id| *id) => set,
                    _ => return Err(Malformed("operators are not in order")),
                }
            }
            "recover domain" => {
                d.array_of(3)?;
                Self::RecoverDomain { hsm: claim(d)?, version: d.uint()?, state: d.fixed()? }
            }
            "give up replica" => Self::GiveUpReplica { keys: RegionKeys::decode(d)? },
            "emergency promote" => Self::EmergencyPromote { keys: RegionKeys::decode(d)? },
            "use key" => {
                d.array_of(2)?;
                Self::UseKey { key: ControlledKey::decode(d)?, usage: KeyUse::decode(d)? }
            }
            "set dual control" => {
                d.array_of(2)?;
                Self::SetDualControl { key: ControlledKey::decode(d)?, control: KeyControl::decode(d)? }
            }
            _ => return Err(Malformed("an unknown command")),
        })
    }

    /// What happens if this is executed: the lines an operator reads before signing, with the names
    /// that the state he knows gives to ids. Names given by others are quoted, with everything
    /// escaped that could make a line look like something else.
    pub(super) fn words(&self, domain: &DomainId, state: Option<&State>) -> Vec<String> {
        match self {
            Self::FoundDomain { region, members, operators, rules } => {
                let mut lines = vec![
                    format!("Hand the domain {} over to its operators, for good.", hex(domain)),
                    format!("Its Region is called {region:?}; a new domain key is made."),
                ];
                for member in members {
                    lines.push(format!("HSM {} {}", hex(&member.id), keys(&member.signing, Some(&member.agreement))));
                }
                for (claim, roles) in operators {
                    lines.push(format!("Operator {}", operator(claim, roles)));
                }
                lines.extend(rules.iter().map(rule_words));
                lines.push(match rules.len() {
                    0 => "All commands have their default rules.".to_owned(),
                    _ => "All other commands have their default rules.".to_owned(),
                });
                lines
            }
            Self::AddOperator { operator: claim, roles } => {
                let mut lines = vec![format!("Add operator {}", operator(claim, roles))];
                lines.extend(state.and_then(|state| person_words(state, &claim.identity.name)));
                lines
            }
            Self::RemoveOperator { id } => vec![format!("Remove operator {}.", named(state, id))],
            Self::RekeyOperator { operator: claim } => {
                vec![format!("Give operator {} new keys: {}", hex(&claim.identity.id), party(claim))]
            }
            Self::SetRule { rule } => vec![rule_words(rule)],
            Self::AdmitHsm { hsm } => vec![
                format!("Admit the HSM {} {}", hex(&hsm.identity.id), party(hsm)),
                "It will know all keys of the domain.".to_owned(),
            ],
            Self::ExpelHsm { id, retain } => {
                vec![format!("Expel the HSM {}; make new domain and replication keys.", hex(id)), old_key(*retain)]
            }
            Self::AdmitHost { host } => vec![format!("Admit the host {} {}", hex(&host.identity.id), party(host))],
            Self::ExpelHost { id } => vec![format!("Expel the host {}.", named(state, id))],
            Self::CreateUser { role, enrolment } => {
                vec![format!("Create {}.", role_words(role)), enrolment_words(enrolment)]
            }
            Self::RemoveUser { role } => vec![format!("Remove {}.", role_words(role))],
            Self::ResetPin { role, enrolment } => vec![
                format!("End the PIN of {} at once, and let a new one be set.", role_words(role)),
                enrolment_words(enrolment),
            ],
            Self::RotateDomainKey { retain } => vec!["Make a new domain key.".to_owned(), old_key(*retain)],
            Self::ScheduleRetirement { key, at: Some(at) } => vec![format!(
                "Destroy domain key {} on {}; what is not sealed anew by then is lost.",
                hex(key),
                date(*at)
            )],
            Self::ScheduleRetirement { key, at: None } => {
                vec![format!("Keep domain key {} for decryption, without an end.", hex(key))]
            }
            Self::RotateReplicationKey => {
                vec!["Make a new replication signing key; the last one is kept beside it.".to_owned()]
            }
            Self::SetStandingOrder { order: Some(order) } => vec![
                format!(
                    "Let the domain key be rotated every {}, within {} of when it is due, until {}.",
                    span(order.interval),
                    span(order.window),
                    date(order.until)
                ),
                old_key(order.retain),
            ],
            Self::SetStandingOrder { order: None } => vec!["End the standing order.".to_owned()],
            Self::SetLimits { limits } => {
                let Limits { session_key, handshake, login_ticket, offer, proposal, approval } = limits;
                let named = [
                    ("session key", session_key),
                    ("handshake", handshake),
                    ("login ticket", login_ticket),
                    ("offer", offer),
                    ("proposal", proposal),
                    ("approval", approval),
                ];
                let limits = named.map(|(name, limit)| format!("{name} {}", span(*limit)));
                vec![format!("Set the lifetimes: {}.", limits.join(", "))]
            }
            Self::AllowSuite { suite, allowed: true } => vec![format!("Allow suite {suite}.")],
            Self::AllowSuite { suite, allowed: false } => vec![format!("Allow suite {suite} no more.")],
            Self::TrustRegion { region } => vec![format!(
                "Trust the Region {:?}, domain {}, with the replication keys {}.",
                region.name,
                hex(&region.domain),
                region.replication_keys.iter().map(|key| kid(&key.kid())).collect::<Vec<_>>().join(", ")
            )],
            Self::DistrustRegion { name } => vec![format!("Trust the Region {name:?} no more.")],
            Self::TrustKey { object, trusted: true } => {
                vec![format!("Let the key {} count as trusted to wrap others (CKA_TRUSTED).", hex(object))]
            }
            Self::TrustKey { object, trusted: false } => {
                vec![format!("Let the key {} count as trusted no more.", hex(object))]
            }
            Self::RevokeKey { object, generation } => {
                vec![format!("Accept no record of the key {} older than generation {generation}.", hex(object))]
            }
            Self::MakeRecoverySet { threshold, operators } => vec![
                format!("Make a recovery key; any {threshold} of these operators can open the domain with it:"),
                operators.iter().map(|id| named(state, id)).collect::<Vec<_>>().join(", "),
            ],
            Self::RecoverDomain { hsm, version, state } => vec![
                format!("Recover the domain from version {version}, state {},", hex(state)),
                format!("on the HSM {} {}", hex(&hsm.identity.id), party(hsm)),
                "All other HSMs are expelled and all PINs end; keys of the domain are made anew.".to_owned(),
            ],
            Self::GiveUpReplica { keys } => {
                let lines = [
                    format!("Give up the replicas that the Region {:?} has of these keys:", keys.region),
                    "their rotation and deletion wait for it no more.".to_owned(),
                ];
                lines.into_iter().chain(keys.words()).collect()
            }
            Self::EmergencyPromote { keys } => {
                let here = state.is_some_and(|state| state.region == keys.region);
                let lines = [
                    format!("Make the Region {:?} the primary of these keys, without their old primary:", keys.region),
                    match here {
                        true => "all other Regions get them anew from here.".to_owned(),
                        false => "this Region takes them from there.".to_owned(),
                    },
                ];
                lines.into_iter().chain(keys.words()).collect()
            }
            Self::UseKey { key, usage } => {
                let mut lines = usage.words(key);
                lines.push(format!("It needs {}.", key.control.words(state)));
                lines
            }
            Self::SetDualControl { key, control } => vec![
                format!("From now on each use of {} needs", key.words()),
                format!("{}.", control.words(state)),
                format!("This change needs {}.", key.control.words(state)),
            ],
        }
    }
}

fn claim(d: &mut Decoder<'_>) -> Decoded<Claim> {
    Claim::decode(d.bytes()?)
}

fn roles(d: &mut Decoder<'_>) -> Decoded<Vec<String>> {
    d.list(text)
}

fn encode_texts(e: &mut Encoder, texts: &[String]) {
    e.list(texts, |e, t| {
        e.text(t);
    });
}

fn encode_optional(e: &mut Encoder, value: Option<u64>) {
    e.optional(value, |e, value| {
        e.uint(value);
    });
}

/// An id with the name of the operator or host that has it.
fn named(state: Option<&State>, id: &[u8; 16]) -> String {
    let operators = state.iter().flat_map(|state| &state.operators).map(|o| (&o.id, &o.person));
    let hosts = state.iter().flat_map(|state| &state.hosts).map(|h| (&h.id, &h.name));
    match operators.chain(hosts).find(|(other, _)| *other == id) {
        Some((_, name)) => format!("{} {name:?}", hex(id)),
        None => hex(id),
    }
}

fn operator(claim: &Claim, roles: &[String]) -> String {
    let roles: Vec<_> = roles.iter().map(|role| format!("{role:?}")).collect();
    format!("{} {} as {}.", hex(&claim.identity.id), party(claim), roles.join(", "))
}

/// Whether a name is a further person, however much it looks like one that is there.
fn person_words(state: &State, name: &str) -> Option<String> {
    let mut persons: Vec<_> = state.operators.iter().map(|operator| operator.person.as_str()).collect();
    if persons.contains(&name) {
        return Some("That is an operator already: all keys of one person count as one.".to_owned());
    }
    persons.sort_unstable();
    persons.dedup();
    let quoted: Vec<_> = persons.iter().map(|person| format!("{person:?}")).collect();
    (!quoted.is_empty()).then(|| format!("That is a new person, who counts beside {}.", quoted.join(", ")))
}

fn party(claim: &Claim) -> String {
    let identity = &claim.identity;
    format!("{:?} {}", identity.name, keys(&identity.signing, identity.agreement.as_ref()))
}

fn keys(signing: &PublicKey, agreement: Option<&PublicKey>) -> String {
    match agreement {
        Some(agreement) => format!("(signs with {}, agrees with {})", kid(&signing.kid()), kid(&agreement.kid())),
        None => format!("(signs with {})", kid(&signing.kid())),
    }
}

pub(super) fn rule_words(rule: &Rule) -> String {
    let alternatives = rule.alternatives.iter().map(|alternative| {
        let places = alternative.iter().map(|(role, minimum)| match *minimum {
            MAJORITY => format!("{role:?} a majority, at least 2"),
            minimum => format!("{role:?} {minimum}"),
        });
        places.collect::<Vec<_>>().join(" and ")
    });
    format!("The command {:?} needs: {}.", rule.command, alternatives.collect::<Vec<_>>().join(", or "))
}

pub(super) fn role_words(role: &Role) -> String {
    match role {
        Role::So => "the security officer (SO)".to_owned(),
        Role::User => "the user".to_owned(),
        Role::Named(name) => format!("the user {name:?}"),
    }
}

fn enrolment_words(enrolment: &Enrolment) -> String {
    let who = match enrolment.code {
        Some(hash) => format!("whoever shows the code with the hash {}", hex(&hash[..16])),
        None => "whoever opened the token as SO".to_owned(),
    };
    format!("The PIN may be set once, until {}, by {who}.", date(enrolment.until))
}

fn old_key(retain: Option<u64>) -> String {
    match retain {
        Some(retain) => {
            format!("The old key decrypts for {} more; what is not sealed anew by then is lost.", span(retain))
        }
        None => "The old key keeps decrypting without an end.".to_owned(),
    }
}

fn kid(kid: &Kid) -> String {
    hex(&kid[..16])
}

/// Such as "30 days".
/// The largest unit that gives a whole number, such as "36 hours".
pub(super) fn span(seconds: u64) -> String {
    let units = [(86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second")];
    let unit = units.iter().find(|(unit, _)| seconds > 0 && seconds.is_multiple_of(*unit));
    let (count, name) = unit.map_or((seconds, "second"), |(unit, name)| (seconds / unit, name));
    if count == 1 { format!("1 {name}") } else { format!("{count} {name}s") }
}

/// Such as "2026-01-31 23:59:59 UTC"; times too far off are given in seconds since 1970.
pub(super) fn date(seconds: u64) -> String {
    if seconds / 86_400 > 2_932_896 {
        return format!("second {seconds} after 1970");
    }
    let (date, time) = crate::text::utc(seconds);
    format!("{date} {time} UTC")
}
