//! HMAC with SHA-1, SHA-2 and SHA-3 (PKCS#11 3.2 §6.22).

use std::sync::{Arc, OnceLock};

use cryptoki_sys as ck;

use super::generic_secret::{self, MAX_GENERATED};
use super::mac::{MAX_MAC, MacOperation, Scheme, State};
use super::{KeyType, Row};
use crate::error::{ErrorKind, Result};
use crate::hsm::command::{Function, Operation};
use crate::hsm::crypto::aws_lc::digest::Hash;
use crate::hsm::crypto::aws_lc::hmac::{HmacKey, HmacState};
use crate::hsm::key::Key;
use crate::hsm::params::{Mechanism, MechanismType, ParamShape, Params};

macro_rules! hmacs {
    ($($hash:ident: $mac:ident, $general:ident, $key_gen:ident, $key_type:ident;)*) => {
        pub(super) const ROWS: &[Row] = &[$(
            mac(ck::$mac, stringify!($mac), ParamShape::None, &[ck::CKK_GENERIC_SECRET, ck::$key_type]),
            mac(ck::$general, stringify!($general), ParamShape::MacGeneral, &[ck::CKK_GENERIC_SECRET, ck::$key_type]),
            Row {
                kind: ck::$key_gen,
                name: stringify!($key_gen),
                min_key: 1,
                max_key: MAX_GENERATED as u64,
                params: ParamShape::None,
                key_types: &[ck::$key_type],
                generate: Some(generic_secret::generate),
                ..Row::NONE
            },
        )*];

        pub(super) const KEY_TYPES: &[KeyType] = &[$(generic_secret::octets(ck::$key_type, stringify!($key_type)),)*];

        /// The hash of an HMAC mechanism of either form, and of its own key type.
        fn hash(kind: MechanismType) -> Option<(Hash, ck::CK_KEY_TYPE)> {
            match kind {
                $(ck::$mac | ck::$general => Some((Hash::$hash, ck::$key_type)),)*
                _ => None,
            }
        }

        /// The hash of a full-length HMAC mechanism that is named as a PRF, and its own key type.
        pub(super) fn prf(kind: MechanismType) -> Option<(Hash, ck::CK_KEY_TYPE)> {
            match kind {
                $(ck::$mac => Some((Hash::$hash, ck::$key_type)),)*
                _ => None,
            }
        }
    };
}

hmacs! {
    Sha1: CKM_SHA_1_HMAC, CKM_SHA_1_HMAC_GENERAL, CKM_SHA_1_KEY_GEN, CKK_SHA_1_HMAC;
    Sha224: CKM_SHA224_HMAC, CKM_SHA224_HMAC_GENERAL, CKM_SHA224_KEY_GEN, CKK_SHA224_HMAC;
    Sha256: CKM_SHA256_HMAC, CKM_SHA256_HMAC_GENERAL, CKM_SHA256_KEY_GEN, CKK_SHA256_HMAC;
    Sha384: CKM_SHA384_HMAC, CKM_SHA384_HMAC_GENERAL, CKM_SHA384_KEY_GEN, CKK_SHA384_HMAC;
    Sha512: CKM_SHA512_HMAC, CKM_SHA512_HMAC_GENERAL, CKM_SHA512_KEY_GEN, CKK_SHA512_HMAC;
    Sha512_224: CKM_SHA512_224_HMAC, CKM_SHA512_224_HMAC_GENERAL, CKM_SHA512_224_KEY_GEN, CKK_SHA512_224_HMAC;
    Sha512_256: CKM_SHA512_256_HMAC, CKM_SHA512_256_HMAC_GENERAL, CKM_SHA512_256_KEY_GEN, CKK_SHA512_256_HMAC;
    Sha3_224: CKM_SHA3_224_HMAC, CKM_SHA3_224_HMAC_GENERAL, CKM_SHA3_224_KEY_GEN, CKK_SHA3_224_HMAC;
    Sha3_256: CKM_SHA3_256_HMAC, CKM_SHA3_256_HMAC_GENERAL, CKM_SHA3_256_KEY_GEN, CKK_SHA3_256_HMAC;
    Sha3_384: CKM_SHA3_384_HMAC, CKM_SHA3_384_HMAC_GENERAL, CKM_SHA3_384_KEY_GEN, CKK_SHA3_384_HMAC;
    Sha3_512: CKM_SHA3_512_HMAC, CKM_SHA3_512_HMAC_GENERAL, CKM_SHA3_512_KEY_GEN, CKK_SHA3_512_HMAC;
}

const fn mac(
    kind: MechanismType,
    name: &'static str,
    params: ParamShape,
    key_types: &'static [ck::CK_KEY_TYPE],
) -> Row {
    Row {
        kind,
        name,
        min_key: 1,
        max_key: generic_secret::MAX_SECRET as u64,
        params,
        key_types,
        sign: Some(begin),
        ..Row::NONE
    }
}

fn begin(mechanism: &Mechanism<'_>, function: Function, key: Arc<Key>) -> Result<Box<dyn Operation>> {
    let (hash, _) = hash(mechanism.kind).ok_or(ErrorKind::MechanismInvalid)?;
    let len = match mechanism.params {
        Params::MacGeneral(len) => usize::try_from(len).unwrap_or(usize::MAX),
        _ => hash.len(),
    };
    if !(1..=hash.len()).contains(&len) {
        return Err(ErrorKind::MechanismParamInvalid.into());
    }
    MacOperation::begin(hash, key, function, len)
}

impl Scheme for Hash {
    type State = HmacState;

    fn start(self, key: &Key) -> Result<HmacState> {
        let slots = key.engine(|_| Ok(KeyedHmacs::default()))?;
        let slot = slots.0.get(self as usize).ok_or(ErrorKind::GeneralError)?;
        if let Some(keyed) = slot.get() {
            return Ok(keyed.start());
        }
        let keyed = HmacKey::new(self, key.secret(ck::CKA_VALUE)?)?;
        Ok(slot.get_or_init(|| keyed).start())
    }
}

/// A key's keyed HMACs by hash: a generic secret may be used with all of them.
#[derive(Default)]
struct KeyedHmacs([OnceLock<HmacKey>; Hash::COUNT]);

impl State for HmacState {
    fn update(&mut self, input: &[u8]) -> Result<()> {
        Self::update(self, input)
    }

    fn finish(&mut self, out: &mut [u8; MAX_MAC]) -> Result<()> {
        Self::finish(self, out)
    }
}
