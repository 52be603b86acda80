//! A mechanism with its parameter, as parsed from the caller's memory: safe types, still borrowing.

use cryptoki_sys as ck;

pub type MechanismType = ck::CK_MECHANISM_TYPE;

/// `CK_MECHANISM` in safe form.
#[derive(Debug, Clone)]
pub struct Mechanism<'a> {
    pub kind: MechanismType,
    pub params: Params<'a>,
}

/// Which form a mechanism's parameter has; a column of the mechanism table. The ABI picks the
/// parser by it and refuses anything else with CKR_MECHANISM_PARAM_INVALID.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParamShape {
    /// No parameter.
    None,
    /// 16 bytes of IV.
    Iv16,
    /// 8 bytes of IV for CKM_AES_KEY_WRAP, 4 for KWP, or none.
    OptionalIv,
    /// `CK_AES_CTR_PARAMS`.
    Ctr,
    /// `CK_GCM_PARAMS`, in the sizes of 2.40 (with or without ulIvBits) and later.
    Gcm,
    /// `CK_MAC_GENERAL_PARAMS`.
    MacGeneral,
    /// `CK_RSA_PKCS_PSS_PARAMS`.
    Pss,
    /// `CK_RSA_PKCS_OAEP_PARAMS`.
    Oaep,
    /// `CK_RSA_AES_KEY_WRAP_PARAMS`.
    RsaAesKeyWrap,
    /// `CK_ECDH1_DERIVE_PARAMS`.
    Ecdh1,
    /// `CK_EDDSA_PARAMS`, or none for pure Ed25519.
    OptionalEddsa,
    /// `CK_HKDF_PARAMS`.
    Hkdf,
    /// `CK_PKCS5_PBKD2_PARAMS2` (and the older struct, whose password length is a pointer).
    Pbkd2,
    /// `CK_SP800_108_KDF_PARAMS`.
    Sp800108,
    /// An encryption context: a JSON object of strings, or nothing.
    Context,
}

#[derive(Debug, Clone)]
pub enum Params<'a> {
    None,
    /// An IV of the shapes `Iv16` and `OptionalIv`.
    Iv(&'a [u8]),
    Ctr {
        counter_bits: u64,
        block: [u8; 16],
    },
    Gcm {
        iv: &'a [u8],
        aad: &'a [u8],
        tag_bits: u64,
    },
    /// CKM_AES_GCM of a wrap under an IV that is made in the HSM: as long as `iv`, of which it keeps
    /// the first bits.
    GcmGenerate {
        iv: &'a [u8],
        fixed_bits: u64,
        aad: &'a [u8],
        tag_bits: u64,
    },
    /// Length in bytes.
    MacGeneral(u64),
    Pss(Pss),
    Oaep(Oaep<'a>),
    RsaAesKeyWrap {
        aes_bits: u64,
        oaep: Oaep<'a>,
    },
    Ecdh1 {
        kdf: u64,
        shared_data: &'a [u8],
        public_data: &'a [u8],
    },
    Eddsa {
        prehash: bool,
        context: &'a [u8],
    },
    Hkdf {
        extract: bool,
        expand: bool,
        prf: MechanismType,
        salt: HkdfSalt<'a>,
        info: &'a [u8],
    },
    /// `prf` is a CKP_PKCS5_PBKD2_*; the password is the caller's secret.
    Pbkd2 {
        prf: u64,
        salt: &'a [u8],
        iterations: u64,
        password: Secret<'a>,
    },
    Sp800108 {
        prf: MechanismType,
        data: Vec<PrfData<'a>>,
        /// Templates of CK_DERIVED_KEY, whose handles the ABI writes back.
        additional: Vec<super::value::Template<'a>>,
    },
    /// JSON of an encryption context.
    Context(&'a [u8]),
    /// The same with the associated data of C_WrapKeyAuthenticated.
    KmsWrap {
        context: &'a [u8],
        associated: &'a [u8],
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pss {
    pub hash: MechanismType,
    /// A CKG_MGF1_*.
    pub mgf: u64,
    /// Bytes.
    pub salt_len: u64,
}

#[derive(Debug, Clone, Copy)]
pub struct Oaep<'a> {
    pub hash: MechanismType,
    /// A CKG_MGF1_*.
    pub mgf: u64,
    pub label: &'a [u8],
}

#[derive(Debug, Clone, Copy)]
pub enum HkdfSalt<'a> {
    None,
    Data(&'a [u8]),
    /// A key's handle; the host resolves it to a record (`Derive::salt_key`).
    Key(ck::CK_OBJECT_HANDLE),
}

/// One CK_PRF_DATA_PARAM of SP 800-108 (PKCS#11 3.2 §6.42).
#[derive(Debug, Clone, Copy)]
pub enum PrfData<'a> {
    /// CK_SP800_108_ITERATION_VARIABLE of the counter KDF.
    Counter {
        little_endian: bool,
        bits: u64,
    },
    /// CK_SP800_108_DKM_LENGTH.
    Length {
        sum_of_segments: bool,
        little_endian: bool,
        bits: u64,
    },
    Bytes(&'a [u8]),
}

/// Caller's bytes that must not show in a log.
#[derive(Clone, Copy)]
pub struct Secret<'a>(pub &'a [u8]);

impl std::fmt::Debug for Secret<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{} secret bytes]", self.0.len())
    }
}

impl<'a> Mechanism<'a> {
    pub fn new(kind: MechanismType) -> Self {
        Self { kind, params: Params::None }
    }
}
