//! A mechanism's parameter that outlives the caller's: of an operation that is begun again.

use crate::hsm::{Mechanism, MechanismType, Oaep, Params, Pss};

/// A mechanism of C_EncryptInit and its like.
pub(super) struct Owned {
    kind: MechanismType,
    params: OwnedParams,
}

enum OwnedParams {
    None,
    Iv(Vec<u8>),
    Ctr { counter_bits: u64, block: [u8; 16] },
    Gcm { iv: Vec<u8>, aad: Vec<u8>, tag_bits: u64 },
    MacGeneral(u64),
    Pss(Pss),
    Oaep { hash: MechanismType, mgf: u64, label: Vec<u8> },
    Eddsa { prehash: bool, context: Vec<u8> },
    Context(Vec<u8>),
}

impl Owned {
    /// None for a parameter that no streaming operation takes.
    pub(super) fn of(mechanism: &Mechanism<'_>) -> Option<Self> {
        let params = match &mechanism.params {
            Params::None => OwnedParams::None,
            Params::Iv(iv) => OwnedParams::Iv(iv.to_vec()),
            Params::Ctr { counter_bits, block } => OwnedParams::Ctr { counter_bits: *counter_bits, block: *block },
            Params::Gcm { iv, aad, tag_bits } => {
                OwnedParams::Gcm { iv: iv.to_vec(), aad: aad.to_vec(), tag_bits: *tag_bits }
            }
            Params::MacGeneral(len) => OwnedParams::MacGeneral(*len),
            Params::Pss(pss) => OwnedParams::Pss(*pss),
            Params::Oaep(Oaep { hash, mgf, label }) => {
                OwnedParams::Oaep { hash: *hash, mgf: *mgf, label: label.to_vec() }
            }
            Params::Eddsa { prehash, context } => OwnedParams::Eddsa { prehash: *prehash, context: context.to_vec() },
            Params::Context(context) => OwnedParams::Context(context.to_vec()),
            _ => return None,
        };
        Some(Self { kind: mechanism.kind, params })
    }

    pub(super) fn mechanism(&self) -> Mechanism<'_> {
        let params = match &self.params {
            OwnedParams::None => Params::None,
            OwnedParams::Iv(iv) => Params::Iv(iv),
            OwnedParams::Ctr { counter_bits, block } => Params::Ctr { counter_bits: *counter_bits, block: *block },
            OwnedParams::Gcm { iv, aad, tag_bits } => Params::Gcm { iv, aad, tag_bits: *tag_bits },
            OwnedParams::MacGeneral(len) => Params::MacGeneral(*len),
            OwnedParams::Pss(pss) => Params::Pss(*pss),
            OwnedParams::Oaep { hash, mgf, label } => Params::Oaep(Oaep { hash: *hash, mgf: *mgf, label }),
            OwnedParams::Eddsa { prehash, context } => Params::Eddsa { prehash: *prehash, context },
            OwnedParams::Context(context) => Params::Context(context),
        };
        Mechanism { kind: self.kind, params }
    }

    /// Takes another parameter, if what an HSM found good of the present one is true of that as well: it
    /// differs in the bytes of an IV, a counter block or associated data.
    pub(super) fn take(&mut self, params: &Params<'_>) -> bool {
        match (&mut self.params, params) {
            (OwnedParams::None, Params::None) => true,
            (OwnedParams::Iv(mine), Params::Iv(iv)) if mine.len() == iv.len() => {
                mine.copy_from_slice(iv);
                true
            }
            (OwnedParams::Ctr { counter_bits: mine, block: place }, Params::Ctr { counter_bits, block })
                if mine == counter_bits =>
            {
                *place = *block;
                true
            }
            (OwnedParams::Gcm { iv: mine, aad: place, tag_bits: bits }, Params::Gcm { iv, aad, tag_bits })
                if mine.len() == iv.len() && bits == tag_bits =>
            {
                mine.copy_from_slice(iv);
                place.clear();
                place.extend_from_slice(aad);
                true
            }
            (OwnedParams::MacGeneral(mine), Params::MacGeneral(len)) => mine == len,
            (OwnedParams::Pss(mine), Params::Pss(pss)) => mine == pss,
            (OwnedParams::Oaep { hash: h, mgf: m, label: l }, Params::Oaep(Oaep { hash, mgf, label })) => {
                h == hash && m == mgf && l == label
            }
            (OwnedParams::Eddsa { prehash: p, context: c }, Params::Eddsa { prehash, context }) => {
                p == prehash && c == context
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use cryptoki_sys as ck;

    use super::*;

    #[test]
    fn another_iv_is_taken_another_form_is_not() {
        let gcm = |iv, aad, tag_bits| Params::Gcm { iv, aad, tag_bits };
        let mut owned = Owned::of(&Mechanism { kind: ck::CKM_AES_GCM, params: gcm(&[1; 12], b"a", 128) }).unwrap();
        assert!(owned.take(&gcm(&[2; 12], b"longer", 128)));
        assert!(!owned.take(&gcm(&[2; 13], b"a", 128)) && !owned.take(&gcm(&[2; 12], b"a", 96)));
        assert!(!owned.take(&Params::None) && !owned.take(&Params::Iv(&[0; 12])));
        assert!(matches!(owned.mechanism().params, Params::Gcm { iv, aad: b"longer", .. } if iv == [2; 12]));
        let mut pss = Pss { hash: ck::CKM_SHA256, mgf: 1, salt_len: 32 };
        let mut owned = Owned::of(&Mechanism { kind: ck::CKM_RSA_PKCS_PSS, params: Params::Pss(pss) }).unwrap();
        assert!(owned.take(&Params::Pss(pss)));
        pss.salt_len = 1000;
        assert!(!owned.take(&Params::Pss(pss)), "which an HSM may refuse");
    }
}
