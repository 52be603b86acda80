//! SHA-1, SHA-2 and SHA-3 (PKCS#11 3.2 §6.20).

use cryptoki_sys as ck;

use super::{Row, room};
use crate::error::{ErrorKind, Result};
use crate::hsm::command::{Operation, Outcome};
use crate::hsm::crypto::aws_lc::digest::{Digester, Hash, MAX_DIGEST};
use crate::hsm::params::{Mechanism, MechanismType, ParamShape, Params};

macro_rules! digests {
    ($($mechanism:ident = $hash:ident;)*) => {
        pub(super) const ROWS: &[Row] = &[$(row(ck::$mechanism, stringify!($mechanism)),)*];

        /// The hash that a mechanism names; CKR_MECHANISM_PARAM_INVALID for any other mechanism.
        pub(super) fn hash(kind: MechanismType) -> Result<Hash> {
            match kind {
                $(ck::$mechanism => Ok(Hash::$hash),)*
                _ => Err(ErrorKind::MechanismParamInvalid.into()),
            }
        }

        fn mechanism(hash: Hash) -> MechanismType {
            match hash {
                $(Hash::$hash => ck::$mechanism,)*
            }
        }
    };
}

digests! {
    CKM_SHA_1 = Sha1;
    CKM_SHA224 = Sha224;
    CKM_SHA256 = Sha256;
    CKM_SHA384 = Sha384;
    CKM_SHA512 = Sha512;
    CKM_SHA512_224 = Sha512_224;
    CKM_SHA512_256 = Sha512_256;
    CKM_SHA3_224 = Sha3_224;
    CKM_SHA3_256 = Sha3_256;
    CKM_SHA3_384 = Sha3_384;
    CKM_SHA3_512 = Sha3_512;
}

const fn row(kind: MechanismType, name: &'static str) -> Row {
    Row { kind, name, params: ParamShape::None, digest: Some(begin), ..Row::NONE }
}

fn begin(mechanism: &Mechanism<'_>) -> Result<Box<dyn Operation>> {
    Ok(Box::new(DigestOperation(Digester::new(hash(mechanism.kind)?)?)))
}

/// Resumes a digest from what [`Operation::save`] gave; CKR_SAVED_STATE_INVALID for anything else.
pub(in crate::hsm) fn resume(state: &[u8]) -> Result<Box<dyn Operation>> {
    let (kind, state) = state.split_first_chunk().ok_or(ErrorKind::SavedStateInvalid)?;
    let hash = hash(MechanismType::from_le_bytes(*kind)).map_err(|_| ErrorKind::SavedStateInvalid)?;
    Ok(Box::new(DigestOperation(Digester::resume(hash, state)?)))
}

struct DigestOperation(Digester);

impl Operation for DigestOperation {
    fn update(&mut self, input: &[u8], _output: Option<&mut [u8]>) -> Result<Outcome> {
        self.0.update(input)?;
        Ok(Outcome::Written(0))
    }

    fn finish(&mut self, output: Option<&mut [u8]>) -> Result<Outcome> {
        self.one_shot(&[], output)
    }

    fn one_shot(&mut self, input: &[u8], output: Option<&mut [u8]>) -> Result<Outcome> {
        let len = self.0.hash().len();
        let Some(output) = room(output, len) else {
            return Ok(Outcome::Needed(len));
        };
        self.0.update(input)?;
        let mut digest = [0; MAX_DIGEST];
        self.0.finish(&mut digest)?;
        output.copy_from_slice(&digest[..len]);
        Ok(Outcome::Written(len))
    }

    fn rest(&mut self) -> bool {
        self.0.reset().is_ok()
    }

    fn restart(&mut self, _params: &Params<'_>) -> Result<bool> {
        Ok(true)
    }

    fn is_private(&self) -> bool {
        false
    }

    fn save(&self) -> Result<Vec<u8>> {
        let state = self.0.save().ok_or(ErrorKind::StateUnsaveable)?;
        let mut saved = mechanism(self.0.hash()).to_le_bytes().to_vec();
        saved.extend(state);
        Ok(saved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(kind: MechanismType, parts: &[&[u8]]) -> String {
        let mut operation = begin(&Mechanism::new(kind)).unwrap();
        for part in parts {
            operation.update(part, None).unwrap();
        }
        let mut out = [0; MAX_DIGEST];
        let Outcome::Written(len) = operation.finish(Some(&mut out)).unwrap() else { panic!("too small") };
        hex::encode(&out[..len])
    }

    /// FIPS 180-4 and FIPS 202, the example "abc", whole and in parts.
    #[test]
    fn abc() {
        for (kind, expected) in [
            (ck::CKM_SHA_1, "a9993e364706816aba3e25717850c26c9cd0d89d"),
            (ck::CKM_SHA224, "23097d223405d8228642a477bda255b32aadbce4bda0b3f7e36c9da7"),
            (ck::CKM_SHA256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            (
                ck::CKM_SHA384,
                "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7",
            ),
            (
                ck::CKM_SHA512,
                "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd\
                 454d4423643ce80e2a9ac94fa54ca49f",
            ),
            (ck::CKM_SHA512_224, "4634270f707b6a54daae7530460842e20e37ed265ceee9a43e8924aa"),
            (ck::CKM_SHA512_256, "53048e2681941ef99b2e29b76b4c7dabe4c2d0c634fc6d46e0e2f13107e7af23"),
            (ck::CKM_SHA3_224, "e642824c3f8cf24ad09234ee7d3c766fc9a3a5168d0c94ad73b46fdf"),
            (ck::CKM_SHA3_256, "3a985da74fe225b2045c172d6bd390bd855f086e3e9d525b46bfe24511431532"),
            (
                ck::CKM_SHA3_384,
                "ec01498288516fc926459f58e2c6ad8df9b473cb0fc08c2596da7cf0e49be4b298d88cea927ac7f539f1edf228376d25",
            ),
            (
                ck::CKM_SHA3_512,
                "b751850b1a57168a5693cd924b6b096e08f621827444f70d884f5d0240d2712e10e116e9192af3c91a7ec57647e39340\
                 57340b4cf408d5a56592f8274eec53f0",
            ),
        ] {
            assert_eq!(digest(kind, &[b"abc"]), expected, "{kind:#x}");
            assert_eq!(digest(kind, &[b"a", b"", b"bc"]), expected, "{kind:#x}");
        }
    }

    #[test]
    fn a_saved_state_continues_where_it_was() {
        let input: Vec<u8> = (0..1000u32).map(|i| i as u8).collect();
        for row in ROWS {
            for split in [0, 1, 63, 64, 65, 127, 128, 129, 500, 1000] {
                let mut operation = begin(&Mechanism::new(row.kind)).unwrap();
                operation.update(&input[..split], None).unwrap();
                let Ok(saved) = operation.save() else {
                    assert!(row.name.contains("SHA3"), "{}", row.name);
                    continue;
                };
                let mut resumed = resume(&saved).unwrap();
                let mut out = [0; MAX_DIGEST];
                let Outcome::Written(len) = resumed.one_shot(&input[split..], Some(&mut out)).unwrap() else {
                    panic!("too small")
                };
                assert_eq!(hex::encode(&out[..len]), digest(row.kind, &[&input]), "{} at {split}", row.name);
                assert!(resume(&saved[..saved.len() - 1]).is_err());
                assert!(resume(&[&saved[..], &[0]].concat()).is_err());
            }
        }
        assert!(resume(&[]).is_err());
        assert!(resume(&ck::CKM_SHA3_256.to_le_bytes()).is_err());
    }

    #[test]
    fn a_short_buffer_changes_nothing() {
        let mut operation = begin(&Mechanism::new(ck::CKM_SHA256)).unwrap();
        operation.update(b"a", None).unwrap();
        assert_eq!(operation.finish(None).unwrap(), Outcome::Needed(32));
        assert_eq!(operation.finish(Some(&mut [0; 31])).unwrap(), Outcome::Needed(32));
        operation.update(b"bc", None).unwrap();
        let mut out = [0; 40];
        assert_eq!(operation.finish(Some(&mut out)).unwrap(), Outcome::Written(32));
        assert_eq!(hex::encode(&out[..32]), digest(ck::CKM_SHA256, &[b"abc"]));
    }
}
