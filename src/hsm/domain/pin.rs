//! PIN records: a PIN's Argon2id key wraps the agreement key to which the secrets are encrypted.

use argon2::{Algorithm, Argon2, Block, Params, Version};
use zeroize::{Zeroize, Zeroizing};

use super::super::command::{PinCost, PinRecord, Role};
use super::super::crypto::{Entropy, SecretBytes};
use super::cbor::{Decoder, Encoder, Malformed};
use super::cose::{self, Form, Header, Message};
use super::keys::{Kid, PrivateKey, PublicKey};
use super::seal::{DomainId, Keys, Kind};
use super::state::{State, User, decode_role, encode_role};
use super::token::PublicState;
use crate::error::{Error, ErrorKind, Result};

const CONTENT_TYPE: &str = "application/vnd.conclave.pin-record";
/// Longer PINs are refused before they are hashed.
const LONGEST: usize = 255;

/// Bounds of the PIN hash's cost. Below the floor a stolen file is too cheap to search; above the
/// ceiling a hostile file would keep the process busy.
const MEMORY_KIB: std::ops::RangeInclusive<u32> = 1024..=1024 * 1024;
const PASSES: std::ops::RangeInclusive<u32> = 1..=64;
const LANES: std::ops::RangeInclusive<u32> = 1..=16;
const MOST_WORK: u64 = 4 * 1024 * 1024;

/// Makes a record for a new agreement key, and the entry that the state must have for it.
/// `signer` is the member that will sign the state.
pub(super) fn make(
    state: &State,
    signer: &PublicKey,
    role: &Role,
    generation: u64,
    pin: &[u8],
    cost: PinCost,
    entropy: &mut Entropy,
) -> Result<(PinRecord, User)> {
    check_pin_length(pin)?;
    check_cost(cost).map_err(|why| ErrorKind::ArgumentsBad.with(why.0))?;
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
    let salt = entropy.array()?;
    let mut header = Header::new(cose::A256GCM, CONTENT_TYPE);
    header.salt = Some(salt);
    header.parameters = Some(&encoded);
    let sealed = keys(pin, &salt, cost, &state.domain)?.seal(header, &[], key.scalar())?;
    let user = User { role: role.clone(), generation, agreement: Some(public), enrolment: None };
    Ok((PinRecord { role: role.clone(), generation, sealed }, user))
}

/// The agreement key that a record wraps.
///
/// Each vouches for the other. The state names the record with its public key, so that nobody gets
/// the secrets encrypted to a key of his own by swapping the record; the record names the member
/// that signs the state, so that nobody who lacks the PIN can offer its holder another state, with
/// secrets of his own, under the same name.
///
/// CKR_PIN_LEN_RANGE and CKR_PIN_INCORRECT speak of the PIN, CKR_USER_PIN_NOT_INITIALIZED of the
/// state, CKR_TOKEN_NOT_RECOGNIZED of the record.
pub(super) fn open(public: &PublicState, record: &PinRecord, pin: &[u8]) -> Result<PrivateKey> {
    check_pin_length(pin)?;
    let state = public.state();
    let user = state.user(&record.role).ok_or(ErrorKind::UserPinNotInitialized)?;
    let agreement = user.agreement.ok_or(ErrorKind::UserPinNotInitialized)?;
    let message = Message::decode(Form::Encrypt0, &record.sealed).map_err(|why| refused(why.0))?;
    let header = &message.header;
    let (Some(salt), Some(_), Some(encoded), None) = (&header.salt, &header.commitment, header.parameters, header.kid)
    else {
        return Err(refused("the headers are not those of a PIN record"));
    };
    if header.content_type != CONTENT_TYPE {
        return Err(refused("it is something else"));
    }
    let parameters = Parameters::decode(encoded).map_err(|why| refused(why.0))?;
    let expected = Parameters {
        domain: state.domain,
        serial: state.serial.clone(),
        role: record.role.clone(),
        generation: user.generation,
        cost: parameters.cost,
        agreement,
        signer: *public.exporter(),
    };
    if parameters != expected || record.generation != user.generation {
        return Err(refused("it is not the one that the domain state names"));
    }
    let opened = keys(pin, salt, parameters.cost, &state.domain)?.open(&message, &[])?;
    let scalar = opened.ok_or(ErrorKind::PinIncorrect)?;
    let key = PrivateKey::from_scalar(scalar.expose())?;
    if key.public()? == agreement { Ok(key) } else { Err(refused("it wraps another key")) }
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
        let PinCost { memory_kib, passes, lanes } = self.cost;
        e.list(&[memory_kib, passes, lanes], |e, n| {
            e.uint((*n).into());
        });
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
        d.array_of(3)?;
        let cost = PinCost { memory_kib: d.small()?, passes: d.small()?, lanes: d.small()? };
        let agreement = PublicKey::decode(&mut d)?;
        let signer = d.fixed()?;
        d.end()?;
        check_cost(cost)?;
        Ok(Self { domain, serial, role, generation, cost, agreement, signer })
    }
}

fn check_pin_length(pin: &[u8]) -> Result<()> {
    if pin.len() > LONGEST { Err(ErrorKind::PinLenRange.into()) } else { Ok(()) }
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
fn keys(pin: &[u8], salt: &[u8; 32], cost: PinCost, domain: &DomainId) -> Result<Keys> {
    let params =
        Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32)).map_err(|_| ErrorKind::GeneralError)?;
    // `Vec` would abort the process on failure, which a record's parameters must not achieve.
    let mut blocks = Vec::new();
    blocks.try_reserve_exact(params.block_count()).map_err(|_| ErrorKind::HostMemory)?;
    blocks.resize(params.block_count(), Block::default());
    let mut blocks = Zeroizing::new(blocks);
    let key = SecretBytes::fill(32, |key| {
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into_with_memory(pin, salt, key, blocks.as_mut_slice())
            .map_err(|_| ErrorKind::GeneralError.into())
    })?;
    blocks.zeroize();
    Keys::derive(key.expose(), salt, Kind::PinRecord, domain)
}

fn refused(why: &'static str) -> Error {
    ErrorKind::TokenNotRecognized.with(format!("the PIN record was refused: {why}"))
}
