//! A domain whose secrets are open: what it can seal and open, and how it goes on to its next state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use subtle::ConstantTimeEq;

use super::super::command::{DomainChange, DomainToken, ObjectChange, ObjectId, PinCost, PinRecord, Role};
use super::super::crypto::{Entropy, SecretBytes};
use super::cbor::{Decoder, Encoder, Malformed};
use super::execute::{Executed, Made};
use super::identity::{Claim, Identity, Party};
use super::keys::{PrivateKey, PublicKey};
use super::log::{Step, enrolment_hash, is_enrolment_code};
use super::pin;
use super::refusal::Refusal;
use super::seal::{self, DomainId, IndexKey, KeyId, Sealer};
use super::state::{DomainKey, KeyStatus, Limits, Member, State, User};
use super::token::{self, PublicState, SUITE};
use crate::error::{Error, ErrorKind, Result};
use crate::text::hex;

/// What a new state depends on besides the old one.
pub(in crate::hsm) struct Circumstances {
    pub(in crate::hsm) entropy: Entropy,
    /// Seconds since 1970.
    pub(in crate::hsm) now: u64,
}

impl Circumstances {
    /// The operating system's randomness and time.
    pub(in crate::hsm) fn of_system() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self { entropy: Entropy::System, now }
    }
}

/// The PINs of a named user that the SO makes count on from the state's version times two to this:
/// further than any user of that name got before.
const FRESH_GENERATIONS: u32 = 20;

/// A state with its secrets.
pub(in crate::hsm) struct Opened {
    public: Arc<PublicState>,
    secrets: Arc<StateSecrets>,
    /// The member's own keys; those of an embedded member are among the secrets.
    own: Option<Arc<OwnKeys>>,
    sealers: Vec<Arc<Sealer>>,
    active: usize,
}

/// QHSK and QHAK of an HSM of a fleet: in its memory, and gone with it.
pub(in crate::hsm) struct OwnKeys {
    pub(super) id: [u8; 16],
    pub(super) signing: PrivateKey,
    pub(super) agreement: PrivateKey,
}

/// A member's QHSK.
pub(in crate::hsm) enum SigningKey {
    Own(Arc<OwnKeys>),
    Embedded(Arc<PrivateKey>),
}

impl std::ops::Deref for SigningKey {
    type Target = PrivateKey;

    fn deref(&self) -> &PrivateKey {
        match self {
            Self::Own(own) => &own.signing,
            Self::Embedded(key) => key,
        }
    }
}

fn no_keys() -> Error {
    ErrorKind::GeneralError.with("the state holds no member's keys")
}

impl OwnKeys {
    pub(in crate::hsm) fn generate(entropy: &mut Entropy) -> Result<Self> {
        Ok(Self {
            id: entropy.array()?,
            signing: PrivateKey::generate(entropy)?,
            agreement: PrivateKey::generate(entropy)?,
        })
    }

    pub(in crate::hsm) fn id(&self) -> &[u8; 16] {
        &self.id
    }

    /// QHSK.
    pub(in crate::hsm) fn signing(&self) -> &PrivateKey {
        &self.signing
    }

    /// The public halves of QHSK and QHAK.
    pub(in crate::hsm) fn public(&self) -> Result<[PublicKey; 2]> {
        Ok([self.signing.public()?, self.agreement.public()?])
    }

    /// What an admission or a recovery names this HSM by.
    pub(in crate::hsm) fn claim(&self, name: &str, domain: &DomainId) -> Result<Claim> {
        let (signing, agreement) = (self.signing.public()?, Some(self.agreement.public()?));
        let identity = Identity { party: Party::Hsm, id: self.id, name: name.to_owned(), signing, agreement };
        identity.sign(domain, &self.signing)
    }
}

impl Opened {
    /// Makes an embedded domain of one, governed by the SO PIN, whose record comes with the token.
    pub(in crate::hsm) fn found(
        label: &str,
        serial: &str,
        so_pin: &[u8],
        cost: PinCost,
        circumstances: &mut Circumstances,
    ) -> Result<(Self, DomainToken, PinRecord)> {
        if label.len() > 255 || serial.len() > 64 {
            return Err(ErrorKind::ArgumentsBad.with("the label or serial number is too long"));
        }
        let own = OwnKeys::generate(&mut circumstances.entropy)?;
        let (mut state, mut secrets) = first_state(label, &format!("local-{serial}"), &own, circumstances)?;
        serial.clone_into(&mut state.serial);
        state.embedded = Some(own.id);
        secrets.signing = Some(Arc::new(own.signing));
        secrets.agreement = Some(Arc::new(own.agreement));
        let entropy = &mut circumstances.entropy;
        let (so_pin, so) = pin::make(&state, &state.members[0].signing, &Role::So, 1, so_pin, cost, entropy)?;
        state.set_user(so);
        let (domain, public) = token::export(&state, &secrets.encode()?, secrets.signing()?, entropy)?;
        Ok((Self::assemble(public, Arc::new(secrets), None)?, domain, so_pin))
    }

    /// Makes a fleet's domain with this HSM as its only member, to be founded by its operators. Its
    /// serial number is the beginning of the domain's id.
    pub(in crate::hsm) fn provision(
        label: &str,
        own: Arc<OwnKeys>,
        circumstances: &mut Circumstances,
    ) -> Result<(Self, DomainToken)> {
        if label.len() > 255 {
            return Err(ErrorKind::ArgumentsBad.with("the label is too long"));
        }
        let (mut state, secrets) = first_state(label, "local-fleet", &own, circumstances)?;
        state.serial = hex(&state.domain[..8]);
        let (token, public) = token::export(&state, &secrets.encode()?, &own.signing, &mut circumstances.entropy)?;
        Ok((Self::assemble(public, Arc::new(secrets), Some(own))?, token))
    }

    /// Opens a verified state as its embedded member, with a PIN. For the errors see [`check_pin`].
    pub(in crate::hsm) fn with_pin(public: &Arc<PublicState>, record: &PinRecord, pin: &[u8]) -> Result<Self> {
        if public.state().embedded.is_none() {
            let why = "the domain has no embedded member: only the HSMs of its fleet open it";
            return Err(ErrorKind::TokenNotRecognized.with(why));
        }
        let key = pin::open(public, record, pin)?;
        Self::with_key(Arc::clone(public), &key, None)
    }

    /// Opens a verified state as the member of a fleet that these keys make it.
    pub(in crate::hsm) fn as_member(public: Arc<PublicState>, own: Arc<OwnKeys>) -> Result<Self> {
        Self::with_key(public, &own.agreement, Some(Arc::clone(&own)))
    }

    /// Goes on to a newer state, which [`PublicState::adopt`] has taken, with the member's own key.
    pub(in crate::hsm) fn advance(&self, newer: Arc<PublicState>) -> Result<Self> {
        if newer.hash() == self.public.hash() {
            return Self::assemble(newer, Arc::clone(&self.secrets), self.own.clone());
        }
        match &self.own {
            Some(own) => Self::as_member(newer, Arc::clone(own)),
            None => Self::with_key(newer, self.secrets.agreement()?, None),
        }
    }

    /// The next state, in which a role has a new PIN, and what is to be committed. The secrets are
    /// encrypted anew to the public keys of all PINs, which the state names, so no other PIN need
    /// be known. In a founded domain the caller is the holder, whose old PIN was right.
    pub(in crate::hsm) fn change_pin(
        &self,
        role: &Role,
        pin: &[u8],
        cost: PinCost,
        circumstances: &mut Circumstances,
    ) -> Result<(Self, DomainChange)> {
        if self.state().log_head.is_some() {
            return self.set_pin(role, pin, None, cost, circumstances);
        }
        if let Role::Named(name) = role
            && (name.is_empty() || name.len() > 255)
        {
            return Err(ErrorKind::ArgumentsBad.with("the user's name has a wrong length"));
        }
        let (record, user) = self.make_pin(role, pin, cost, circumstances)?;
        let (opened, domain) = self.next_version(circumstances, |state| {
            state.set_user(user);
            Ok(())
        })?;
        Ok((
            opened,
            DomainChange {
                domain,
                entries: Vec::new(),
                pins: vec![record],
                removed: Vec::new(),
                objects: ObjectChange::default(),
            },
        ))
    }

    /// The next state of a domain that its SO governs, with a user who was not there. KMS_R_ALREADY_EXISTS.
    pub(in crate::hsm) fn create_user(
        &self,
        role: &Role,
        pin: &[u8],
        cost: PinCost,
        circumstances: &mut Circumstances,
    ) -> Result<DomainChange> {
        if self.state().user(role).is_some() {
            return Err(ErrorKind::KmsAlreadyExists.with("there is a user of this name"));
        }
        let generation = self.state().version.saturating_add(1) << FRESH_GENERATIONS;
        let (record, user) = self.make_pin_record(role, generation, pin, cost, circumstances)?;
        let (_, domain) = self.next_version(circumstances, |state| {
            state.set_user(user);
            Ok(())
        })?;
        Ok(DomainChange {
            domain,
            entries: Vec::new(),
            pins: vec![record],
            removed: Vec::new(),
            objects: ObjectChange::default(),
        })
    }

    /// The next state of a domain that its SO governs, without a user. KMS_R_NOT_FOUND.
    pub(in crate::hsm) fn remove_user(&self, role: &Role, circumstances: &mut Circumstances) -> Result<DomainChange> {
        let (_, domain) = self.next_version(circumstances, |state| {
            let before = state.users.len();
            state.users.retain(|user| user.role != *role);
            if state.users.len() == before {
                return Err(ErrorKind::KmsNotFound.with("there is no user of this name"));
            }
            Ok(())
        })?;
        Ok(DomainChange {
            domain,
            entries: Vec::new(),
            pins: Vec::new(),
            removed: vec![role.clone()],
            objects: ObjectChange::default(),
        })
    }

    /// Whether a code is the one that the role's enrolment asks for. CKR_PIN_INCORRECT if not.
    pub(in crate::hsm) fn check_code(&self, role: &Role, code: &[u8]) -> Result<()> {
        let state = self.state();
        let wanted = state.user(role).and_then(|user| user.enrolment.as_ref()).and_then(|enrolment| enrolment.code);
        let shown = enrolment_hash(&state.domain, code);
        match wanted.is_some_and(|wanted| bool::from(shown.ct_eq(&wanted))) && is_enrolment_code(code) {
            true => Ok(()),
            false => Err(ErrorKind::PinIncorrect.with(Refusal::EnrolmentCode.to_string())),
        }
    }

    /// Sets a role's PIN in a founded domain: an enrolment that a command opened, with the code it
    /// asks for, or a change by the holder.
    pub(in crate::hsm) fn set_pin(
        &self,
        role: &Role,
        pin: &[u8],
        code: Option<&[u8]>,
        cost: PinCost,
        circumstances: &mut Circumstances,
    ) -> Result<(Self, DomainChange)> {
        let (record, user) = self.make_pin(role, pin, cost, circumstances)?;
        let agreement = user.agreement.ok_or(ErrorKind::GeneralError)?;
        let step = Step::SetPin { role: role.clone(), agreement, code: code.map(<[u8]>::to_vec) };
        let Executed { opened, token, entry } = self.step(step, Made::default(), circumstances)?;
        Ok((
            opened,
            DomainChange {
                domain: token,
                entries: vec![entry],
                pins: vec![record],
                removed: Vec::new(),
                objects: ObjectChange::default(),
            },
        ))
    }

    fn make_pin(
        &self,
        role: &Role,
        pin: &[u8],
        cost: PinCost,
        circumstances: &mut Circumstances,
    ) -> Result<(PinRecord, User)> {
        let generation = match self.state().user(role) {
            Some(user) => user.generation.checked_add(1).ok_or(ErrorKind::GeneralError)?,
            None if *role == Role::So || *role == Role::User => 1,
            None => 1,
        };
        self.make_pin_record(role, generation, pin, cost, circumstances)
    }

    fn make_pin_record(
        &self,
        role: &Role,
        generation: u64,
        pin: &[u8],
        cost: PinCost,
        circumstances: &mut Circumstances,
    ) -> Result<(PinRecord, User)> {
        let signer = match self.state().embedded_member() {
            Some(member) => member.signing,
            None => self.signing()?.public()?,
        };
        pin::make(self.state(), &signer, role, generation, pin, cost, &mut circumstances.entropy)
    }

    /// The next state of a domain that its SO governs, as `change` makes it of this one: version,
    /// chain, signature and encryption are done here. A pure function of its arguments; the domain
    /// changes when the token is adopted.
    pub(in crate::hsm) fn next_version(
        &self,
        circumstances: &mut Circumstances,
        change: impl FnOnce(&mut State) -> Result<()>,
    ) -> Result<(Self, DomainToken)> {
        let mut state = self.state().clone();
        if state.log_head.is_some() {
            return Err(ErrorKind::TokenWriteProtected.with("the domain is governed by its operators"));
        }
        change(&mut state)?;
        state.version = self.state().version.checked_add(1).ok_or(ErrorKind::GeneralError)?;
        state.previous = Some(*self.public.hash());
        state.changed = circumstances.now.max(state.changed);
        self.export(&state, Arc::clone(&self.secrets), circumstances)
    }

    /// The token of a next state, and this HSM in it.
    pub(super) fn export(
        &self,
        state: &State,
        secrets: Arc<StateSecrets>,
        circumstances: &mut Circumstances,
    ) -> Result<(Self, DomainToken)> {
        secrets.check(state)?;
        let entropy = &mut circumstances.entropy;
        let (token, public) = token::export(state, &secrets.encode()?, self.signing()?, entropy)?;
        Ok((Self::assemble(public, secrets, self.own.clone())?, token))
    }

    /// QHSK.
    pub(in crate::hsm) fn signing(&self) -> Result<&PrivateKey> {
        match &self.own {
            Some(own) => Ok(&own.signing),
            None => self.secrets.signing(),
        }
    }

    /// QHSK, to be kept beyond this.
    pub(in crate::hsm) fn signing_key(&self) -> Result<SigningKey> {
        match (&self.own, &self.secrets.signing) {
            (Some(own), _) => Ok(SigningKey::Own(Arc::clone(own))),
            (None, Some(key)) => Ok(SigningKey::Embedded(Arc::clone(key))),
            (None, None) => Err(no_keys()),
        }
    }

    /// The replication signing key (RSK) that signs: the newest.
    pub(in crate::hsm) fn replication_key(&self) -> Result<&PrivateKey> {
        self.secrets.replication.last().map(|key| &**key).ok_or_else(|| ErrorKind::GeneralError.into())
    }

    pub(super) fn secrets(&self) -> &Arc<StateSecrets> {
        &self.secrets
    }

    pub(in crate::hsm) fn public(&self) -> &Arc<PublicState> {
        &self.public
    }

    pub(in crate::hsm) fn state(&self) -> &State {
        self.public.state()
    }

    /// Seals under the active domain key.
    pub(in crate::hsm) fn sealer(&self) -> &Arc<Sealer> {
        &self.sealers[self.active]
    }

    /// The sealer of the domain key that a record names (`seal::key_id_of`), unless the key is
    /// retired, its deadline has passed (`now` in seconds since 1970), or a revocation excludes the
    /// record.
    pub(in crate::hsm) fn sealer_for(
        &self,
        id: &KeyId,
        object: &ObjectId,
        generation: u64,
        now: u64,
    ) -> Result<&Arc<Sealer>> {
        let state = self.state();
        state.check_generation(object, generation)?;
        let found = state.domain_keys.iter().zip(&self.sealers).find(|(entry, _)| entry.id == *id);
        let (entry, sealer) =
            found.ok_or_else(|| ErrorKind::DeviceError.with("the record's domain key is unknown or retired"))?;
        // The domain's clock does not go back, whatever the system's does.
        if entry.retires.is_some_and(|deadline| deadline <= now.max(state.changed)) {
            return Err(ErrorKind::DeviceError.with("the deadline of the record's domain key has passed"));
        }
        Ok(sealer)
    }

    pub(in crate::hsm) fn index_key(&self) -> &IndexKey {
        &self.secrets.index
    }

    #[cfg(test)]
    pub(super) fn encoded_secrets_for_tests(&self) -> SecretBytes {
        self.secrets.encode().unwrap()
    }

    #[cfg(test)]
    pub(super) fn signing_for_tests(&self) -> &PrivateKey {
        self.signing().unwrap()
    }

    /// QHSK and QHAK of an embedded domain.
    #[cfg(test)]
    pub(super) fn own_keys_for_tests(&self) -> [&PrivateKey; 2] {
        [self.secrets.signing().unwrap(), self.secrets.agreement().unwrap()]
    }

    fn with_key(public: Arc<PublicState>, key: &PrivateKey, own: Option<Arc<OwnKeys>>) -> Result<Self> {
        let secrets = StateSecrets::open(&public, key)?;
        Self::assemble(public, Arc::new(secrets), own)
    }

    /// State and secrets have been checked to belong together.
    pub(super) fn assemble(
        public: Arc<PublicState>,
        secrets: Arc<StateSecrets>,
        own: Option<Arc<OwnKeys>>,
    ) -> Result<Self> {
        let state = public.state();
        let keys = state.domain_keys.iter().zip(&secrets.domain_keys);
        let sealers = keys
            .map(|(entry, key)| Sealer::new(state.domain, Arc::from(&*entry.region), Arc::clone(key)).map(Arc::new));
        let sealers = sealers.collect::<Result<Vec<_>>>()?;
        let active = state.domain_keys.iter().position(|key| key.status == KeyStatus::Active);
        let active = active.filter(|at| *at < sealers.len()).ok_or(ErrorKind::GeneralError)?;
        Ok(Self { public, secrets, own, sealers, active })
    }
}

/// The first state of a domain with one member, whose keys it does not hold.
fn first_state(
    name: &str,
    region: &str,
    own: &OwnKeys,
    circumstances: &mut Circumstances,
) -> Result<(State, StateSecrets)> {
    let entropy = &mut circumstances.entropy;
    let secrets = StateSecrets {
        domain_keys: vec![Arc::new(SecretBytes::fill(32, |key| entropy.fill(key))?)],
        index: Arc::new(IndexKey::new(SecretBytes::fill(32, |key| entropy.fill(key))?)),
        signing: None,
        agreement: None,
        replication: vec![Arc::new(PrivateKey::generate(entropy)?)],
    };
    let member = Member { id: own.id, signing: own.signing.public()?, agreement: own.agreement.public()? };
    let domain_key = DomainKey {
        id: seal::key_id(seal::DOMAIN_KEY, secrets.domain_keys[0].expose())?,
        status: KeyStatus::Active,
        created: circumstances.now,
        retires: None,
        region: region.to_owned(),
    };
    let state = State {
        domain: entropy.array()?,
        name: name.to_owned(),
        region: region.to_owned(),
        partition: "local".to_owned(),
        serial: String::new(),
        embedded: None,
        version: 1,
        previous: None,
        log_head: None,
        members: vec![member],
        recipients: Vec::new(),
        operators: Vec::new(),
        hosts: Vec::new(),
        users: Vec::new(),
        rules: Vec::new(),
        domain_keys: vec![domain_key],
        index_key: secrets.index.id()?,
        replication_keys: vec![secrets.replication[0].public()?],
        trusted_regions: Vec::new(),
        revoked: BTreeMap::new(),
        nonces: BTreeMap::new(),
        limits: Limits::default(),
        suites: vec![SUITE],
        changed: circumstances.now,
        standing_order: None,
        trusted_keys: BTreeSet::new(),
        recovery: None,
    };
    Ok((state, secrets))
}

/// What checking the PIN of a record would cost, as the record says. CKR_TOKEN_NOT_RECOGNIZED.
pub(in crate::hsm) fn pin_cost(record: &PinRecord) -> Result<PinCost> {
    pin::cost(record)
}

/// Checks a PIN against its record and the state; opens nothing.
///
/// CKR_PIN_INCORRECT and CKR_PIN_LEN_RANGE speak of the PIN, CKR_USER_PIN_NOT_INITIALIZED of a
/// role that has none, CKR_TOKEN_NOT_RECOGNIZED of a record that is not the one the state names.
pub(in crate::hsm) fn check_pin(public: &PublicState, record: &PinRecord, pin: &[u8]) -> Result<()> {
    pin::open(public, record, pin).map(|_| ())
}

/// What only an HSM of the domain knows. The state commits to all of it: key ids are derived from
/// keys, and the rest has public halves.
#[derive(Clone)]
pub(in crate::hsm) struct StateSecrets {
    /// In the order of the state's domain keys.
    pub(super) domain_keys: Vec<Arc<SecretBytes>>,
    pub(super) index: Arc<IndexKey>,
    /// QHSK and QHAK of the embedded member; a fleet's HSMs keep theirs to themselves.
    pub(super) signing: Option<Arc<PrivateKey>>,
    pub(super) agreement: Option<Arc<PrivateKey>>,
    /// In the order of the state's replication keys.
    pub(super) replication: Vec<Arc<PrivateKey>>,
}

impl StateSecrets {
    /// The secrets of a verified state, for the holder of a recipient's key.
    pub(super) fn open(public: &PublicState, key: &PrivateKey) -> Result<Self> {
        let secrets = Self::decode(public.open_secrets(key)?.expose())?;
        secrets.check(public.state())?;
        Ok(secrets)
    }

    fn signing(&self) -> Result<&PrivateKey> {
        self.signing.as_deref().ok_or_else(no_keys)
    }

    fn agreement(&self) -> Result<&PrivateKey> {
        self.agreement.as_deref().ok_or_else(no_keys)
    }

    pub(super) fn encode(&self) -> Result<SecretBytes> {
        let mut e = Encoder::secret();
        e.map(4);
        e.uint(1).list(&self.domain_keys, |e, key| {
            e.bytes(key.expose());
        });
        e.uint(2).bytes(self.index.secret().expose());
        e.uint(3).optional(self.signing.as_ref().zip(self.agreement.as_ref()), |e, (signing, agreement)| {
            e.array(2).bytes(signing.scalar()).bytes(agreement.scalar());
        });
        e.uint(4).list(&self.replication, |e, key| {
            e.bytes(key.scalar());
        });
        e.finish()
    }

    fn decode(input: &[u8]) -> Result<Self> {
        let mut d = Decoder::new(input);
        let mut m = d.map()?;
        let domain_keys = m.field(1)?.list(Decoder::bytes)?;
        let index = m.field(2)?.bytes()?;
        let own = m.field(3)?.optional(|d| {
            d.array_of(2)?;
            Ok((d.bytes()?, d.bytes()?))
        })?;
        let replication = m.field(4)?.list(Decoder::bytes)?;
        m.end()?;
        d.end()?;
        let symmetric = |key: &[u8]| match key.len() {
            32 => SecretBytes::copy_of(key),
            _ => Err(Malformed("a key of the domain has a wrong length").into()),
        };
        let private = |scalar: &[u8]| PrivateKey::from_scalar(scalar).map(Arc::new);
        Ok(Self {
            domain_keys: domain_keys.into_iter().map(|key| symmetric(key).map(Arc::new)).collect::<Result<_>>()?,
            index: Arc::new(IndexKey::new(symmetric(index)?)),
            signing: own.map(|(signing, _)| private(signing)).transpose()?,
            agreement: own.map(|(_, agreement)| private(agreement)).transpose()?,
            replication: replication.into_iter().map(private).collect::<Result<_>>()?,
        })
    }

    /// That these are the secrets the state commits to.
    pub(super) fn check(&self, state: &State) -> Result<()> {
        let mut same = self.domain_keys.len() == state.domain_keys.len()
            && self.replication.len() == state.replication_keys.len()
            && self.index.id()? == state.index_key;
        for (key, entry) in self.domain_keys.iter().zip(&state.domain_keys) {
            same &= seal::key_id(seal::DOMAIN_KEY, key.expose())? == entry.id;
        }
        for (key, public) in self.replication.iter().zip(&state.replication_keys) {
            same &= key.public()? == *public;
        }
        let own = self.signing.as_ref().zip(self.agreement.as_ref());
        let own = own.map(|(signing, agreement)| Ok::<_, Error>((signing.public()?, agreement.public()?)));
        same &= own.transpose()? == state.embedded_member().map(|member| (member.signing, member.agreement));
        if same { Ok(()) } else { Err(Malformed("the secrets are not those of the state").into()) }
    }
}
