//! Recovery of an embedded domain, on an HSM that is this process: the keys of the fresh HSM wait,
//! sealed under the SO PIN to be, until the operators have sent their shares.

use std::sync::Arc;

use super::super::command::{DomainChange, ObjectChange, PinCost, Role};
use super::cbor::{Decoder, Encoder, Malformed};
use super::execute::Executed;
use super::keys::{PrivateKey, PublicKey};
use super::opened::{Circumstances, Opened, OwnKeys};
use super::pin::{UnderPin, decode_cost, encode_cost};
use super::recovery::Contribution;
use super::refusal::Refusal;
use super::seal::{DomainId, Kind};
use super::state::State;
use super::token::PublicState;
use crate::error::{Error, ErrorKind, Result};

const WAITING: UnderPin = UnderPin { content_type: "application/vnd.conclave.recovery-keys", kind: Kind::RecoveryKeys };

impl Opened {
    /// Makes the keys of a fresh HSM: the claim message that a recovery command names it by, and
    /// the keys sealed under the SO PIN that the recovery will set.
    ///
    /// CKR_PIN_LEN_RANGE; CKR_FUNCTION_REJECTED for a domain that cannot be recovered.
    pub(in crate::hsm) fn begin_recovery(
        public: &PublicState,
        so_pin: &[u8],
        cost: PinCost,
        circumstances: &mut Circumstances,
    ) -> Result<(Vec<u8>, Vec<u8>)> {
        let state = public.state();
        check_recoverable(state)?;
        let own = OwnKeys::generate(&mut circumstances.entropy)?;
        let claim = own.claim(&state.name, &state.domain)?;
        let sealed = seal(&own, state, (so_pin, cost), circumstances)?;
        Ok((claim.message().to_vec(), sealed))
    }

    /// Recovers with the keys that [`Self::begin_recovery`] sealed, and sets the SO PIN: two steps
    /// of the domain, which are committed as one. All other PINs have ended.
    ///
    /// CKR_PIN_INCORRECT if the keys were sealed under another PIN; CKR_TOKEN_NOT_RECOGNIZED if
    /// they are damaged or of another domain; for the command and the shares see [`Self::recover`].
    pub(in crate::hsm) fn finish_recovery(
        public: &PublicState,
        so_pin: &[u8],
        cost: PinCost,
        sealed_keys: &[u8],
        command: &[u8],
        contributions: &[Vec<u8>],
        circumstances: &mut Circumstances,
    ) -> Result<(Self, DomainChange)> {
        let state = public.state();
        check_recoverable(state)?;
        let own = Arc::new(open(sealed_keys, state, so_pin)?);
        let contributions = contributions
            .iter()
            .map(|bytes| Contribution::decode(bytes))
            .collect::<std::result::Result<Vec<_>, _>>()?;
        let Executed { opened, entry, .. } = Self::recover(public, own, command, &contributions, circumstances)?;
        let (opened, mut change) = opened.set_pin(&Role::So, so_pin, None, cost, circumstances)?;
        change.entries.insert(0, entry);
        change.removed = state.users.iter().map(|user| user.role.clone()).filter(|role| *role != Role::So).collect();
        Ok((opened, change))
    }
}

impl Opened {
    /// Recovers a fleet's domain on a fresh HSM with these keys, which is then its only member. All PINs
    /// have ended. For the command and the shares see [`Self::recover`].
    pub(in crate::hsm) fn recover_fleet(
        public: &PublicState,
        own: Arc<OwnKeys>,
        command: &[u8],
        contributions: &[&[u8]],
    ) -> Result<DomainChange> {
        let contributions = contributions
            .iter()
            .map(|bytes| Contribution::decode(bytes))
            .collect::<std::result::Result<Vec<_>, _>>()?;
        let circumstances = &mut Circumstances::of_system();
        let Executed { token, entry, .. } = Self::recover(public, own, command, &contributions, circumstances)?;
        Ok(DomainChange {
            domain: token,
            entries: vec![entry],
            pins: Vec::new(),
            removed: public.state().users.iter().map(|user| user.role.clone()).collect(),
            objects: ObjectChange::default(),
        })
    }
}

fn check_recoverable(state: &State) -> std::result::Result<(), Refusal> {
    if state.embedded.is_none() {
        return Err(Refusal::Arguments("the domain is a fleet's, not an embedded one"));
    }
    if state.recovery.is_none() {
        return Err(Refusal::Unknown("the recovery set"));
    }
    Ok(())
}

fn seal(
    own: &OwnKeys,
    state: &State,
    (so_pin, cost): (&[u8], PinCost),
    circumstances: &mut Circumstances,
) -> Result<Vec<u8>> {
    let parameters = Parameters {
        domain: state.domain,
        serial: state.serial.clone(),
        id: own.id,
        cost,
        signing: own.signing.public()?,
        agreement: own.agreement.public()?,
    };
    let mut keys = Encoder::secret();
    keys.array(2).bytes(own.signing.scalar()).bytes(own.agreement.scalar());
    let (keys, entropy) = (keys.finish()?, &mut circumstances.entropy);
    WAITING.seal(&state.domain, &parameters.encode(), keys.expose(), (so_pin, cost), entropy)
}

fn open(sealed: &[u8], state: &State, so_pin: &[u8]) -> Result<OwnKeys> {
    let sealed = WAITING.parse(sealed).map_err(refused)?;
    let parameters = Parameters::decode(sealed.parameters).map_err(refused)?;
    if parameters.domain != state.domain || parameters.serial != state.serial {
        return Err(refused(Malformed("they are of another domain")));
    }
    let keys = sealed.open(&state.domain, so_pin, parameters.cost)?;
    let mut d = Decoder::new(keys.expose());
    d.array_of(2).map_err(refused)?;
    let (signing, agreement) = (d.bytes().map_err(refused)?, d.bytes().map_err(refused)?);
    d.end().map_err(refused)?;
    let (signing, agreement) = (PrivateKey::from_scalar(signing)?, PrivateKey::from_scalar(agreement)?);
    if signing.public()? != parameters.signing || agreement.public()? != parameters.agreement {
        return Err(refused(Malformed("they are others than it names")));
    }
    Ok(OwnKeys { id: parameters.id, signing, agreement })
}

/// What the message says in clear; all of it is authenticated.
struct Parameters {
    domain: DomainId,
    serial: String,
    id: [u8; 16],
    cost: PinCost,
    signing: PublicKey,
    agreement: PublicKey,
}

impl Parameters {
    fn encode(&self) -> Vec<u8> {
        let mut e = Encoder::new();
        e.array(6).bytes(&self.domain).text(&self.serial).bytes(&self.id);
        encode_cost(&mut e, self.cost);
        self.signing.encode(&mut e);
        self.agreement.encode(&mut e);
        e.finish()
    }

    fn decode(input: &[u8]) -> std::result::Result<Self, Malformed> {
        let mut d = Decoder::new(input);
        d.array_of(6)?;
        let parameters = Self {
            domain: d.fixed()?,
            serial: d.text()?.to_owned(),
            id: d.fixed()?,
            cost: decode_cost(&mut d)?,
            signing: PublicKey::decode(&mut d)?,
            agreement: PublicKey::decode(&mut d)?,
        };
        d.end()?;
        Ok(parameters)
    }
}

fn refused(why: Malformed) -> Error {
    ErrorKind::TokenNotRecognized.with(format!("the keys that wait for the recovery were refused: {}", why.0))
}
