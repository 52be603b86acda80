//! What is sealed under a PIN. Of a PIN record, the agreement key to which the secrets are encrypted.

use argon2::{Algorithm, Argon2, Block, Params, Version};
use zeroize::Zeroize;

use super::super::command::{PinCost, PinRecord, Role};
use super::super::crypto::{Entropy, SecretBytes};
use super::cbor::{Decoder, Encoder, Malformed};
use super::cose::{self, Form, Header, Message};
use super::keys::{Kid, PrivateKey, PublicKey};
use super::seal::{DomainId, Keys, Kind};
use super::state::{State, User, decode_role, encode_role};
use super::token::PublicState;
use crate::error::{Error, ErrorKind, Result};

const PIN_RECORD: UnderPin = UnderPin { content_type: "application/vnd.conclave.pin-record", kind: Kind::PinRecord };
/// Longer PINs are refused before they are hashed.
const LONGEST: usize = 255;

/// Bounds of the PIN hash's cost. Below the floor a stolen file is too cheap to search; above the
/// ceiling a hostile file would keep the process busy.
const MEMORY_KIB: std::ops::RangeInclusive<u32> = 1024..=1024 * 1024;
const PASSES: std::ops::RangeInclusive<u32> = 1..=64;
const LANES: std::ops::RangeInclusive<u32> = 1..=16;
const MOST_WORK: u64 = 4 * 1024 * 1024;

/// Makes a record for a new agreement key, and the entry that the state must have for it.
/// `signer` is the embedded member, or in a fleet the one that makes the record.
pub(super) fn make(
    state: &State,
    signer: &PublicKey,
    role: &Role,
    generation: u64,
    pin: &[u8],
    cost: PinCost,
    entropy: &mut Entropy,
) -> Result<(PinRecord, User)> {
    let key = PrivateKey::generate(entropy)?;
    let public = key.public()?;
    let parameters = Parameters {
        domain: state.domain,
        serial: state.serial.clone(),
        role: role.clone(),
        generation,
        cost,
        agreement: public,
        signer: signer.kid(),
    };
    let encoded = parameters.encode();
    let sealed = PIN_RECORD.seal(&state.domain, &encoded, key.scalar(), (pin, cost), entropy)?;
    let user = User { role: role.clone(), generation, agreement: Some(public), enrolment: None };
    Ok((PinRecord { role: role.clone(), generation, sealed }, user))
}

/// The agreement key that a record wraps.
///
/// Each vouches for the other. The state names the record with its public key, so that nobody gets
/// the secrets encrypted to a key of his own by swapping the record; the record names the embedded
/// member, whose keys must be among the secrets, so that nobody who lacks the PIN can offer its holder
/// another state, with secrets of his own, under the same name.
///
/// An HSM of a fleet holds a state that it has verified, so there the record's signer does not matter,
/// nor a serial number that another token of the domain once had.
///
/// CKR_PIN_LEN_RANGE and CKR_PIN_INCORRECT speak of the PIN, CKR_USER_PIN_NOT_INITIALIZED of the
/// state, CKR_TOKEN_NOT_RECOGNIZED of the record.
pub(super) fn open(public: &PublicState, record: &PinRecord, pin: &[u8]) -> Result<PrivateKey> {
    check_pin_length(pin)?;
    let state = public.state();
    let user = state.user(&record.role).ok_or(ErrorKind::UserPinNotInitialized)?;
    let agreement = user.agreement.ok_or(ErrorKind::UserPinNotInitialized)?;
    let sealed = PIN_RECORD.parse(&record.sealed).map_err(|why| refused(why.0))?;
    let parameters = Parameters::decode(sealed.parameters).map_err(|why| refused(why.0))?;
    let (serial, signer) = match state.embedded_member() {
        Some(member) => (state.serial.clone(), member.signing.kid()),
        None => (parameters.serial.clone(), parameters.signer),
    };
    let expected = Parameters {
        domain: state.domain,
        serial,
        role: record.role.clone(),
        generation: user.generation,
        cost: parameters.cost,
        agreement,
        signer,
    };
    if parameters != expected || record.generation != user.generation {
        return Err(refused("it is not the one that the domain state names"));
    }
    let scalar = sealed.open(&state.domain, pin, parameters.cost)?;
    let key = PrivateKey::from_scalar(scalar.expose())?;
    if key.public()? == agreement { Ok(key) } else { Err(refused("it wraps another key")) }
}

/// What a record says that its hash costs. CKR_TOKEN_NOT_RECOGNIZED.
pub(super) fn cost(record: &PinRecord) -> Result<PinCost> {
    let sealed = PIN_RECORD.parse(&record.sealed).map_err(|why| refused(why.0))?;
    Ok(Parameters::decode(sealed.parameters).map_err(|why| refused(why.0))?.cost)
}

/// What a record says in clear; all of it is authenticated.
#[derive(PartialEq, Eq)]
struct Parameters {
    domain: DomainId,
    serial: String,
    role: Role,
    generation: u64,
    cost: PinCost,
    agreement: PublicKey,
    signer: Kid,
}

impl Parameters {
    fn encode(&self) -> Vec<u8> {
        let mut e = Encoder::new();
        e.array(8).bytes(&self.domain).text(&self.serial);
        encode_role(&mut e, &self.role);
        e.uint(self.generation);
        encode_cost(&mut e, self.cost);
        self.agreement.encode(&mut e);
        e.bytes(&self.signer);
        e.finish()
    }

    fn decode(input: &[u8]) -> std::result::Result<Self, Malformed> {
        let mut d = Decoder::new(input);
        d.array_of(8)?;
        let domain = d.fixed()?;
        let serial = d.text()?.to_owned();
        let role = decode_role(&mut d)?;
        let generation = d.uint()?;
        let cost = decode_cost(&mut d)?;
        let agreement = PublicKey::decode(&mut d)?;
        let signer = d.fixed()?;
        d.end()?;
        Ok(Self { domain, serial, role, generation, cost, agreement, signer })
    }
}

/// A form of message that is sealed under a PIN: a COSE_Encrypt0 whose parameters are authenticated.
#[derive(Clone, Copy)]
pub(super) struct UnderPin {
    pub(super) content_type: &'static str,
    pub(super) kind: Kind,
}

/// Such a message, taken apart.
pub(super) struct SealedUnderPin<'a> {
    form: UnderPin,
    message: Message<'a>,
    salt: [u8; 32],
    /// Not authenticated before [`Self::open`].
    pub(super) parameters: &'a [u8],
}

impl UnderPin {
    pub(super) fn seal(
        self,
        domain: &DomainId,
        parameters: &[u8],
        plaintext: &[u8],
        (pin, cost): (&[u8], PinCost),
        entropy: &mut Entropy,
    ) -> Result<Vec<u8>> {
        check_pin_length(pin)?;
        check_cost(cost).map_err(|why| ErrorKind::ArgumentsBad.with(why.0))?;
        let salt = entropy.array()?;
        let mut header = Header::new(cose::A256GCM, self.content_type);
        header.salt = Some(salt);
        header.parameters = Some(parameters);
        keys(self.kind, pin, &salt, cost, domain)?.seal(header, &[], plaintext)
    }

    pub(super) fn parse(self, sealed: &[u8]) -> std::result::Result<SealedUnderPin<'_>, Malformed> {
        let message = Message::decode(Form::Encrypt0, sealed)?;
        let header = message.header;
        let (Some(salt), Some(_), Some(parameters), None) =
            (header.salt, header.commitment, header.parameters, header.kid)
        else {
            return Err(Malformed("the headers are not those of what is sealed under a PIN"));
        };
        if header.content_type != self.content_type {
            return Err(Malformed("it is something else"));
        }
        Ok(SealedUnderPin { form: self, message, salt, parameters })
    }
}

impl SealedUnderPin<'_> {
    /// The plaintext; CKR_PIN_INCORRECT, CKR_PIN_LEN_RANGE. The cost has been checked.
    pub(super) fn open(&self, domain: &DomainId, pin: &[u8], cost: PinCost) -> Result<SecretBytes> {
        check_pin_length(pin)?;
        let opened = keys(self.form.kind, pin, &self.salt, cost, domain)?.open(&self.message, &[])?;
        opened.ok_or_else(|| ErrorKind::PinIncorrect.into())
    }
}

fn check_pin_length(pin: &[u8]) -> Result<()> {
    if pin.len() > LONGEST { Err(ErrorKind::PinLenRange.into()) } else { Ok(()) }
}

pub(super) fn encode_cost(e: &mut Encoder, cost: PinCost) {
    let PinCost { memory_kib, passes, lanes } = cost;
    e.list(&[memory_kib, passes, lanes], |e, n| {
        e.uint((*n).into());
    });
}

/// Reads a cost and refuses one that is out of bounds.
pub(super) fn decode_cost(d: &mut Decoder<'_>) -> std::result::Result<PinCost, Malformed> {
    d.array_of(3)?;
    let cost = PinCost { memory_kib: d.small()?, passes: d.small()?, lanes: d.small()? };
    check_cost(cost)?;
    Ok(cost)
}

fn check_cost(cost: PinCost) -> std::result::Result<(), Malformed> {
    let PinCost { memory_kib, passes, lanes } = cost;
    let work = u64::from(memory_kib) * u64::from(passes);
    if MEMORY_KIB.contains(&memory_kib) && PASSES.contains(&passes) && LANES.contains(&lanes) && work <= MOST_WORK {
        Ok(())
    } else {
        Err(Malformed("the cost of the PIN hash is out of bounds"))
    }
}

/// Argon2id, then the derivation of sealed objects with the same salt.
fn keys(kind: Kind, pin: &[u8], salt: &[u8; 32], cost: PinCost, domain: &DomainId) -> Result<Keys> {
    let params =
        Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32)).map_err(|_| ErrorKind::GeneralError)?;
    // `Vec` would abort the process on failure, which a record's parameters must not achieve.
    let mut blocks = Vec::new();
    blocks.try_reserve_exact(params.block_count()).map_err(|_| ErrorKind::HostMemory)?;
    blocks.resize(params.block_count(), Block::default());
    let mut blocks = Blocks(blocks);
    let key = SecretBytes::fill(32, |key| {
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into_with_memory(pin, salt, key, blocks.0.as_mut_slice())
            .map_err(|_| ErrorKind::GeneralError.into())
    })?;
    drop(blocks);
    Keys::derive(key.expose(), salt, kind, domain)
}

/// What a hash leaves behind, wiped once: a `Zeroizing<Vec<_>>` goes over it twice.
struct Blocks(Vec<Block>);

impl Drop for Blocks {
    fn drop(&mut self) {
        self.0.iter_mut().zeroize();
    }
}

fn refused(why: &'static str) -> Error {
    ErrorKind::TokenNotRecognized.with(format!("the PIN record was refused: {why}"))
}
