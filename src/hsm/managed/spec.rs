//! Key specs: what kinds of managed keys there are, and what each may be for. A row each.

use cryptoki_sys as ck;

use super::attributes::{CKM_KMS_ENVELOPE, CKM_KMS_WRAP, Usage};
use crate::hsm::params::MechanismType;
use crate::hsm::value::{Attributes, Value};

/// One kind of key.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::hsm) struct Spec {
    /// The model system's name, where it has one.
    pub(in crate::hsm) name: &'static str,
    /// Another name that requests may use; empty if there is none.
    also: &'static str,
    pub(in crate::hsm) key_type: ck::CK_KEY_TYPE,
    /// The mechanism that generates it.
    pub(in crate::hsm) generator: MechanismType,
    pub(in crate::hsm) size: Size,
    pub(in crate::hsm) purposes: &'static [Purpose],
}

/// The parameters of a key's generation.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::hsm) enum Size {
    /// Length of a secret key, in bytes.
    Secret(u64),
    /// Length of an RSA modulus, in bits.
    Modulus(u64),
    /// CKA_EC_PARAMS: the DER of the curve's OID.
    Curve(&'static [u8]),
}

/// A usage that keys of a spec can have.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::hsm) struct Purpose {
    pub(in crate::hsm) usage: Usage,
    /// The model system's names.
    pub(in crate::hsm) algorithms: &'static [&'static str],
    /// Mechanisms that name the version of the key in what they give, for keys that rotate.
    pub(in crate::hsm) versioned: &'static [MechanismType],
    /// Mechanisms of the standard.
    pub(in crate::hsm) mechanisms: &'static [MechanismType],
}

impl Purpose {
    /// CKA_ALLOWED_MECHANISMS: nothing else is ever done with such a key by the standard's functions.
    /// `standard` says whether a key that could rotate gives that up for the standard's mechanisms.
    pub(in crate::hsm) fn allowed(&self, standard: bool) -> Vec<MechanismType> {
        if standard || self.versioned.is_empty() {
            [self.versioned, self.mechanisms].concat()
        } else {
            self.versioned.to_vec()
        }
    }
}

impl Spec {
    pub(in crate::hsm) const ALL: &[Self] = SPECS;

    /// By either name.
    pub(in crate::hsm) fn named(name: &str) -> Option<&'static Self> {
        SPECS.iter().find(|spec| spec.name == name || (!name.is_empty() && spec.also == name))
    }

    /// What to say where a name is none.
    pub(in crate::hsm) fn none_such() -> String {
        let names: Vec<_> = SPECS.iter().map(|spec| spec.name).collect();
        format!("there is no such key spec; there are {}", names.join(", "))
    }

    pub(in crate::hsm) fn is_symmetric(&self) -> bool {
        matches!(self.size, Size::Secret(_))
    }

    pub(in crate::hsm) fn purpose(&self, usage: Usage) -> Option<&'static Purpose> {
        self.purposes.iter().find(|purpose| purpose.usage == usage)
    }

    /// Whether a key, of any class, is of this spec by its type and size.
    pub(in crate::hsm) fn fits(&self, key: &Attributes) -> bool {
        key.ulong(ck::CKA_KEY_TYPE) == Some(self.key_type)
            && match self.size {
                Size::Secret(len) => key.ulong(ck::CKA_VALUE_LEN) == Some(len),
                Size::Modulus(bits) => {
                    let len = bits.div_ceil(8) as usize;
                    // The top bit is set, or it would be shorter.
                    key.bytes(ck::CKA_MODULUS).is_some_and(|n| n.len() == len && n.first().is_some_and(|b| *b >= 0x80))
                }
                Size::Curve(params) => key.bytes(ck::CKA_EC_PARAMS) == Some(params),
            }
    }

    /// Adds the parameters to the template of a secret key, or of a public key.
    pub(super) fn parametrize(&self, template: &mut Attributes) {
        match self.size {
            Size::Secret(len) => template.set(ck::CKA_VALUE_LEN, Value::Ulong(len)),
            Size::Modulus(bits) => template.set(ck::CKA_MODULUS_BITS, Value::Ulong(bits)),
            Size::Curve(params) => template.set(ck::CKA_EC_PARAMS, Value::Bytes(params.to_vec())),
        }
    }
}

/// Of the modes of AES only GCM is for managed keys: the others do not authenticate, and some give
/// the block function away.
const AES: &[Purpose] = &[Purpose {
    usage: Usage::EncryptDecrypt,
    algorithms: &["SYMMETRIC_DEFAULT"],
    versioned: &[CKM_KMS_ENVELOPE, CKM_KMS_WRAP],
    mechanisms: &[ck::CKM_AES_GCM],
}];

const RSA: &[Purpose] = &[
    Purpose {
        usage: Usage::EncryptDecrypt,
        algorithms: &["RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256"],
        versioned: &[],
        mechanisms: &[ck::CKM_RSA_PKCS_OAEP],
    },
    Purpose {
        usage: Usage::SignVerify,
        algorithms: &[
            "RSASSA_PKCS1_V1_5_SHA_256",
            "RSASSA_PKCS1_V1_5_SHA_384",
            "RSASSA_PKCS1_V1_5_SHA_512",
            "RSASSA_PSS_SHA_256",
            "RSASSA_PSS_SHA_384",
            "RSASSA_PSS_SHA_512",
        ],
        versioned: &[],
        mechanisms: &[
            ck::CKM_RSA_PKCS,
            ck::CKM_SHA256_RSA_PKCS,
            ck::CKM_SHA384_RSA_PKCS,
            ck::CKM_SHA512_RSA_PKCS,
            ck::CKM_RSA_PKCS_PSS,
            ck::CKM_SHA256_RSA_PKCS_PSS,
            ck::CKM_SHA384_RSA_PKCS_PSS,
            ck::CKM_SHA512_RSA_PKCS_PSS,
        ],
    },
];

const ED25519: &[Purpose] = &[Purpose {
    usage: Usage::SignVerify,
    algorithms: &["ED25519_SHA_512", "ED25519_PH_SHA_512"],
    versioned: &[],
    mechanisms: &[ck::CKM_EDDSA],
}];

macro_rules! ecdsa {
    ($algorithm:literal, $mechanism:ident) => {
        Purpose {
            usage: Usage::SignVerify,
            algorithms: &[$algorithm],
            versioned: &[],
            mechanisms: &[ck::CKM_ECDSA, ck::$mechanism],
        }
    };
}

const AGREEMENT: Purpose = Purpose {
    usage: Usage::KeyAgreement,
    algorithms: &["ECDH"],
    versioned: &[],
    mechanisms: &[ck::CKM_ECDH1_DERIVE, ck::CKM_ECDH1_COFACTOR_DERIVE],
};

macro_rules! mac {
    ($name:literal, $algorithm:literal, $key_type:ident, $generator:ident, $mechanism:ident, $len:literal) => {
        Spec {
            name: $name,
            also: "",
            key_type: ck::$key_type,
            generator: ck::$generator,
            size: Size::Secret($len),
            purposes: &[Purpose {
                usage: Usage::GenerateVerifyMac,
                algorithms: &[$algorithm],
                versioned: &[],
                mechanisms: &[ck::$mechanism],
            }],
        }
    };
}

const fn rsa(name: &'static str, bits: u64) -> Spec {
    Spec {
        name,
        also: "",
        key_type: ck::CKK_RSA,
        generator: ck::CKM_RSA_PKCS_KEY_PAIR_GEN,
        size: Size::Modulus(bits),
        purposes: RSA,
    }
}

const fn ec(name: &'static str, params: &'static [u8], purposes: &'static [Purpose]) -> Spec {
    Spec {
        name,
        also: "",
        key_type: ck::CKK_EC,
        generator: ck::CKM_EC_KEY_PAIR_GEN,
        size: Size::Curve(params),
        purposes,
    }
}

const SPECS: &[Spec] = &[
    Spec {
        name: "AES_256",
        also: "SYMMETRIC_DEFAULT",
        key_type: ck::CKK_AES,
        generator: ck::CKM_AES_KEY_GEN,
        size: Size::Secret(32),
        purposes: AES,
    },
    rsa("RSA_2048", 2048),
    rsa("RSA_3072", 3072),
    rsa("RSA_4096", 4096),
    ec(
        "ECC_NIST_P256",
        &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07],
        &[ecdsa!("ECDSA_SHA_256", CKM_ECDSA_SHA256), AGREEMENT],
    ),
    ec(
        "ECC_NIST_P384",
        &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22],
        &[ecdsa!("ECDSA_SHA_384", CKM_ECDSA_SHA384), AGREEMENT],
    ),
    ec(
        "ECC_NIST_P521",
        &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x23],
        &[ecdsa!("ECDSA_SHA_512", CKM_ECDSA_SHA512), AGREEMENT],
    ),
    ec("ECC_SECG_P256K1", &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x0a], &[ecdsa!("ECDSA_SHA_256", CKM_ECDSA_SHA256)]),
    Spec {
        name: "ECC_ED25519",
        also: "ECC_NIST_EDWARDS25519",
        key_type: ck::CKK_EC_EDWARDS,
        generator: ck::CKM_EC_EDWARDS_KEY_PAIR_GEN,
        size: Size::Curve(&[0x06, 0x03, 0x2b, 0x65, 0x70]),
        purposes: ED25519,
    },
    mac!("HMAC_224", "HMAC_SHA_224", CKK_SHA224_HMAC, CKM_SHA224_KEY_GEN, CKM_SHA224_HMAC, 28),
    mac!("HMAC_256", "HMAC_SHA_256", CKK_SHA256_HMAC, CKM_SHA256_KEY_GEN, CKM_SHA256_HMAC, 32),
    mac!("HMAC_384", "HMAC_SHA_384", CKK_SHA384_HMAC, CKM_SHA384_KEY_GEN, CKM_SHA384_HMAC, 48),
    mac!("HMAC_512", "HMAC_SHA_512", CKK_SHA512_HMAC, CKM_SHA512_KEY_GEN, CKM_SHA512_HMAC, 64),
];
