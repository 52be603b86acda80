//! The hash functions under the names that mechanisms and their parameters give them.

use cryptoki_sys as ck;

use crate::hsm::crypto::aws_lc::digest::Hash;

/// One hash under all its names.
pub(super) struct Names {
    pub(super) hash: Hash,
    /// CKM_*, as in the parameters of PSS and OAEP.
    pub(super) digest: u64,
    /// CKG_MGF1_*.
    pub(super) mgf: u64,
    /// CKM_*_RSA_PKCS and CKM_*_RSA_PKCS_PSS.
    pub(super) rsa_pkcs: u64,
    pub(super) rsa_pss: u64,
    /// CKM_ECDSA_*.
    pub(super) ecdsa: u64,
    /// CKD_*_KDF (X9.63) and CKD_*_KDF_SP800.
    pub(super) kdf_x963: u64,
    pub(super) kdf_sp800: u64,
}

macro_rules! names {
    ($($hash:ident: $digest:ident $mgf:ident $rsa_pkcs:ident $rsa_pss:ident $ecdsa:ident $x963:ident $sp800:ident;)*) => {
        &[$(Names {
            hash: Hash::$hash,
            digest: ck::$digest,
            mgf: ck::$mgf,
            rsa_pkcs: ck::$rsa_pkcs,
            rsa_pss: ck::$rsa_pss,
            ecdsa: ck::$ecdsa,
            kdf_x963: ck::$x963,
            kdf_sp800: ck::$sp800,
        },)*]
    };
}

#[rustfmt::skip]
static NAMES: &[Names] = names! {
    Sha1: CKM_SHA_1 CKG_MGF1_SHA1 CKM_SHA1_RSA_PKCS CKM_SHA1_RSA_PKCS_PSS CKM_ECDSA_SHA1 CKD_SHA1_KDF CKD_SHA1_KDF_SP800;
    Sha224: CKM_SHA224 CKG_MGF1_SHA224 CKM_SHA224_RSA_PKCS CKM_SHA224_RSA_PKCS_PSS CKM_ECDSA_SHA224 CKD_SHA224_KDF CKD_SHA224_KDF_SP800;
    Sha256: CKM_SHA256 CKG_MGF1_SHA256 CKM_SHA256_RSA_PKCS CKM_SHA256_RSA_PKCS_PSS CKM_ECDSA_SHA256 CKD_SHA256_KDF CKD_SHA256_KDF_SP800;
    Sha384: CKM_SHA384 CKG_MGF1_SHA384 CKM_SHA384_RSA_PKCS CKM_SHA384_RSA_PKCS_PSS CKM_ECDSA_SHA384 CKD_SHA384_KDF CKD_SHA384_KDF_SP800;
    Sha512: CKM_SHA512 CKG_MGF1_SHA512 CKM_SHA512_RSA_PKCS CKM_SHA512_RSA_PKCS_PSS CKM_ECDSA_SHA512 CKD_SHA512_KDF CKD_SHA512_KDF_SP800;
    Sha3_224: CKM_SHA3_224 CKG_MGF1_SHA3_224 CKM_SHA3_224_RSA_PKCS CKM_SHA3_224_RSA_PKCS_PSS CKM_ECDSA_SHA3_224 CKD_SHA3_224_KDF CKD_SHA3_224_KDF_SP800;
    Sha3_256: CKM_SHA3_256 CKG_MGF1_SHA3_256 CKM_SHA3_256_RSA_PKCS CKM_SHA3_256_RSA_PKCS_PSS CKM_ECDSA_SHA3_256 CKD_SHA3_256_KDF CKD_SHA3_256_KDF_SP800;
    Sha3_384: CKM_SHA3_384 CKG_MGF1_SHA3_384 CKM_SHA3_384_RSA_PKCS CKM_SHA3_384_RSA_PKCS_PSS CKM_ECDSA_SHA3_384 CKD_SHA3_384_KDF CKD_SHA3_384_KDF_SP800;
    Sha3_512: CKM_SHA3_512 CKG_MGF1_SHA3_512 CKM_SHA3_512_RSA_PKCS CKM_SHA3_512_RSA_PKCS_PSS CKM_ECDSA_SHA3_512 CKD_SHA3_512_KDF CKD_SHA3_512_KDF_SP800;
};

/// The hash whose name in `column` is `name`.
pub(super) fn find(column: fn(&Names) -> u64, name: u64) -> Option<Hash> {
    NAMES.iter().find(|names| column(names) == name).map(|names| names.hash)
}

/// All names of a hash that has them.
#[cfg(test)]
pub(super) fn of(hash: Hash) -> &'static Names {
    NAMES.iter().find(|names| names.hash == hash).unwrap()
}
