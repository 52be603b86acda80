//! A domain whose secrets are open: what it can seal and open, and how it goes on to its next state.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::super::command::{DomainToken, ObjectId, PinChange, PinCost, PinRecord, Role};
use super::super::crypto::{Entropy, SecretBytes};
use super::cbor::{Decoder, Encoder, Malformed};
use super::keys::PrivateKey;
use super::pin;
use super::seal::{self, IndexKey, KeyId, Sealer};
use super::state::{DomainKey, KeyStatus, Limits, Member, State};
use super::token::{self, PublicState, SUITE};
use crate::error::{ErrorKind, Result};

/// What a new state depends on besides the old one.
pub(in crate::hsm) struct Circumstances {
    pub(super) entropy: Entropy,
    /// Seconds since 1970.
    pub(super) now: u64,
}

impl Circumstances {
    /// The operating system's randomness and time.
    pub(in crate::hsm) fn of_system() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self { entropy: Entropy::System, now }
    }
}

/// A state with its secrets.
pub(in crate::hsm) struct Opened {
    public: Arc<PublicState>,
    secrets: Arc<StateSecrets>,
    sealers: Vec<Arc<Sealer>>,
    active: usize,
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
        let entropy = &mut circumstances.entropy;
        let domain = entropy.array()?;
        let secrets = StateSecrets {
            domain_keys: vec![Arc::new(SecretBytes::fill(32, |key| entropy.fill(key))?)],
            index: Arc::new(IndexKey::new(SecretBytes::fill(32, |key| entropy.fill(key))?)),
            signing: Some(Arc::new(PrivateKey::generate(entropy)?)),
            agreement: Some(Arc::new(PrivateKey::generate(entropy)?)),
            replication: vec![Arc::new(PrivateKey::generate(entropy)?)],
        };
        let member = Member {
            id: entropy.array()?,
            signing: secrets.signing()?.public()?,
            agreement: secrets.agreement()?.public()?,
        };
        let domain_key = DomainKey {
            id: seal::key_id(seal::DOMAIN_KEY, secrets.domain_keys[0].expose())?,
            status: KeyStatus::Active,
            created: circumstances.now,
            retires: None,
        };
        let mut state = State {
            domain,
            name: label.to_owned(),
            region: format!("local-{serial}"),
            partition: "local".to_owned(),
            serial: serial.to_owned(),
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
        };
        let (so_pin, so) = pin::make(&state, &state.members[0].signing, &Role::So, 1, so_pin, cost, entropy)?;
        state.set_user(so);
        let (domain, public) = token::export(&state, &secrets.encode()?, secrets.signing()?, entropy)?;
        Ok((Self::assemble(public, Arc::new(secrets))?, domain, so_pin))
    }

    /// Opens a verified state with a PIN. For the errors see [`check_pin`].
    pub(in crate::hsm) fn with_pin(public: &Arc<PublicState>, record: &PinRecord, pin: &[u8]) -> Result<Self> {
        let key = pin::open(public, record, pin)?;
        Self::with_key(Arc::clone(public), &key)
    }

    /// Goes on to a newer state, which [`PublicState::adopt`] has taken, with the member's own key.
    pub(in crate::hsm) fn advance(&self, newer: Arc<PublicState>) -> Result<Self> {
        if newer.hash() == self.public.hash() {
            return Self::assemble(newer, Arc::clone(&self.secrets));
        }
        Self::with_key(newer, self.secrets.agreement()?)
    }

    /// The next state, in which a role has a new PIN, and what is to be committed. The secrets are encrypted anew to the public
    /// keys of all PINs, which the state names, so no other PIN need be known.
    pub(in crate::hsm) fn change_pin(
        &self,
        role: &Role,
        pin: &[u8],
        cost: PinCost,
        circumstances: &mut Circumstances,
    ) -> Result<(Self, PinChange)> {
        if let Role::Named(name) = role
            && (name.is_empty() || name.len() > 255)
        {
            return Err(ErrorKind::ArgumentsBad.with("the user's name has a wrong length"));
        }
        let generation = match self.state().user(role) {
            Some(user) => user.generation.checked_add(1).ok_or(ErrorKind::GeneralError)?,
            None => 1,
        };
        let signer = self.secrets.signing()?.public()?;
        let (record, user) = pin::make(self.state(), &signer, role, generation, pin, cost, &mut circumstances.entropy)?;
        let (opened, domain) = self.next_version(circumstances, |state, _| {
            state.set_user(user);
            Ok(())
        })?;
        Ok((opened, PinChange { record, domain }))
    }

    /// The next state, as `change` makes it of this one: version, chain, signature and encryption
    /// are done here. A pure function of its arguments; the domain changes when the token is adopted.
    pub(in crate::hsm) fn next_version(
        &self,
        circumstances: &mut Circumstances,
        change: impl FnOnce(&mut State, &mut StateSecrets) -> Result<()>,
    ) -> Result<(Self, DomainToken)> {
        let mut state = self.state().clone();
        let mut secrets = StateSecrets::clone(&self.secrets);
        change(&mut state, &mut secrets)?;
        state.version = self.state().version.checked_add(1).ok_or(ErrorKind::GeneralError)?;
        state.previous = Some(*self.public.hash());
        secrets.check(&state)?;
        let (token, public) =
            token::export(&state, &secrets.encode()?, self.secrets.signing()?, &mut circumstances.entropy)?;
        Ok((Self::assemble(public, Arc::new(secrets))?, token))
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
    /// retired or a revocation excludes the record.
    pub(in crate::hsm) fn sealer_for(&self, id: &KeyId, object: &ObjectId, generation: u64) -> Result<&Arc<Sealer>> {
        self.state().check_generation(object, generation)?;
        let sealer = self.sealers.iter().find(|sealer| sealer.key_id() == id);
        sealer.ok_or_else(|| ErrorKind::DeviceError.with("the record's domain key is unknown or retired"))
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
        self.secrets.signing().unwrap()
    }

    fn with_key(public: Arc<PublicState>, key: &PrivateKey) -> Result<Self> {
        let encoded = public.open_secrets(key)?;
        let secrets = StateSecrets::decode(encoded.expose())?;
        secrets.check(public.state())?;
        Self::assemble(public, Arc::new(secrets))
    }

    /// State and secrets have been checked to belong together.
    fn assemble(public: Arc<PublicState>, secrets: Arc<StateSecrets>) -> Result<Self> {
        let state = public.state();
        let region: Arc<str> = Arc::from(&*state.region);
        let sealers = secrets.domain_keys.iter();
        let sealers = sealers.map(|key| Sealer::new(state.domain, Arc::clone(&region), Arc::clone(key)).map(Arc::new));
        let sealers = sealers.collect::<Result<Vec<_>>>()?;
        let active = state.domain_keys.iter().position(|key| key.status == KeyStatus::Active);
        let active = active.filter(|at| *at < sealers.len()).ok_or(ErrorKind::GeneralError)?;
        Ok(Self { public, secrets, sealers, active })
    }
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
    /// QHSK and QHAK of an embedded domain's one member; a fleet's HSMs keep theirs to themselves.
    pub(super) signing: Option<Arc<PrivateKey>>,
    pub(super) agreement: Option<Arc<PrivateKey>>,
    /// In the order of the state's replication keys.
    pub(super) replication: Vec<Arc<PrivateKey>>,
}

impl StateSecrets {
    fn signing(&self) -> Result<&PrivateKey> {
        self.signing.as_deref().ok_or_else(|| ErrorKind::GeneralError.with("the state holds no member's keys"))
    }

    fn agreement(&self) -> Result<&PrivateKey> {
        self.agreement.as_deref().ok_or_else(|| ErrorKind::GeneralError.with("the state holds no member's keys"))
    }

    fn encode(&self) -> Result<SecretBytes> {
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
    fn check(&self, state: &State) -> Result<()> {
        let mut same = self.domain_keys.len() == state.domain_keys.len()
            && self.replication.len() == state.replication_keys.len()
            && self.index.id()? == state.index_key;
        for (key, entry) in self.domain_keys.iter().zip(&state.domain_keys) {
            same &= seal::key_id(seal::DOMAIN_KEY, key.expose())? == entry.id;
        }
        for (key, public) in self.replication.iter().zip(&state.replication_keys) {
            same &= key.public()? == *public;
        }
        if let (Some(signing), Some(agreement)) = (&self.signing, &self.agreement) {
            let (signing, agreement) = (signing.public()?, agreement.public()?);
            same &= state.members.iter().any(|m| m.signing == signing && m.agreement == agreement);
        }
        if same { Ok(()) } else { Err(Malformed("the secrets are not those of the state").into()) }
    }
}
