//! `CK_MECHANISM` to [`Mechanism`]: the parameter's form comes from the mechanism's row.
#![allow(clippy::useless_conversion)] // CK_ULONG has 32 bits on some platforms.

use std::mem::size_of;

use cryptoki_sys as ck;

use super::ptr::{Caller, Plain};
use super::template;
use crate::error::{ErrorKind, Result};
use crate::hsm::{HkdfSalt, Mechanism, Oaep, ParamShape, Params, PrfData, Pss, Secret, Template, param_shape};

/// Longest password of PBKDF2 in bytes. A greater "length" is the pointer of the older structure.
const MAX_PASSWORD: ck::CK_ULONG = 1 << 16;
/// Most fields, and most additional keys, of an SP 800-108 derivation.
const MAX_SP800_108_ITEMS: ck::CK_ULONG = 64;

/// Handles that a derivation with additional keys writes back.
pub(super) type HandlePointers = Vec<ck::CK_OBJECT_HANDLE_PTR>;

/// The caller's mechanism; CKR_ARGUMENTS_BAD for NULL, CKR_MECHANISM_PARAM_INVALID.
pub(super) fn mechanism(caller: &Caller, pointer: ck::CK_MECHANISM_PTR) -> Result<Mechanism<'_>> {
    parse(caller, &caller.read(pointer)?, &mut Vec::new())
}

/// The caller's mechanism, None for NULL.
#[inline]
pub(super) fn optional_mechanism(caller: &Caller, pointer: ck::CK_MECHANISM_PTR) -> Result<Option<Mechanism<'_>>> {
    caller.get(pointer).map(|raw| parse(caller, &raw, &mut Vec::new())).transpose()
}

/// The mechanism of C_DeriveKey and where the handles of additional keys go.
pub(super) fn derivation(caller: &Caller, pointer: ck::CK_MECHANISM_PTR) -> Result<(Mechanism<'_>, HandlePointers)> {
    let mut handles = Vec::new();
    let mechanism = parse(caller, &caller.read(pointer)?, &mut handles)?;
    Ok((mechanism, handles))
}

/// Replaces an all-zero IV of CKM_AES_GCM in the caller's memory by one from `random`.
pub(super) fn generate_zero_iv(
    caller: &Caller,
    pointer: ck::CK_MECHANISM_PTR,
    random: impl FnOnce(&mut [u8]) -> Result<()>,
) -> Result<()> {
    let Some(raw) = caller.get(pointer).filter(|raw| raw.mechanism == ck::CKM_AES_GCM) else {
        return Ok(());
    };
    // pIv and ulIvLen are the first two fields in both sizes of the structure.
    let gcm = gcm(caller, &raw)?;
    let zero = caller.slice(gcm.pIv, gcm.ulIvLen).is_some_and(|iv| !iv.is_empty() && iv.iter().all(|byte| *byte == 0));
    if zero { caller.fill(gcm.pIv, gcm.ulIvLen, random) } else { Ok(()) }
}

/// A mechanism that is not known goes down without its parameter, to be refused there.
#[inline]
fn parse<'c>(caller: &'c Caller, raw: &ck::CK_MECHANISM, handles: &mut HandlePointers) -> Result<Mechanism<'c>> {
    let params = match param_shape(raw.mechanism) {
        Some(shape) => params(caller, raw, shape, handles)?,
        None => Params::None,
    };
    Ok(Mechanism { kind: raw.mechanism, params })
}

fn params<'c>(
    caller: &'c Caller,
    raw: &ck::CK_MECHANISM,
    shape: ParamShape,
    handles: &mut HandlePointers,
) -> Result<Params<'c>> {
    let bytes = caller.slice(raw.pParameter.cast(), raw.ulParameterLen).ok_or(INVALID)?;
    Ok(match shape {
        ParamShape::None if bytes.is_empty() => Params::None,
        ParamShape::Iv16 if bytes.len() == 16 => Params::Iv(bytes),
        ParamShape::OptionalIv if bytes.is_empty() => Params::None,
        ParamShape::OptionalIv if matches!(bytes.len(), 4 | 8) => Params::Iv(bytes),
        ParamShape::None | ParamShape::Iv16 | ParamShape::OptionalIv => return Err(INVALID.into()),
        ParamShape::Ctr => {
            let ctr: ck::CK_AES_CTR_PARAMS = whole(caller, raw)?;
            Params::Ctr { counter_bits: u64::from(ctr.ulCounterBits), block: ctr.cb }
        }
        ParamShape::Gcm => {
            let gcm = gcm(caller, raw)?;
            Params::Gcm {
                iv: field(caller, gcm.pIv, gcm.ulIvLen)?,
                aad: field(caller, gcm.pAAD, gcm.ulAADLen)?,
                tag_bits: u64::from(gcm.ulTagBits),
            }
        }
        ParamShape::MacGeneral => Params::MacGeneral(u64::from(whole::<ck::CK_MAC_GENERAL_PARAMS>(caller, raw)?)),
        ParamShape::Pss => {
            let pss: ck::CK_RSA_PKCS_PSS_PARAMS = whole(caller, raw)?;
            Params::Pss(Pss { hash: pss.hashAlg, mgf: u64::from(pss.mgf), salt_len: u64::from(pss.sLen) })
        }
        ParamShape::Oaep => Params::Oaep(oaep(caller, &whole(caller, raw)?)?),
        ParamShape::RsaAesKeyWrap => {
            let wrap: ck::CK_RSA_AES_KEY_WRAP_PARAMS = whole(caller, raw)?;
            let inner = caller.get(wrap.pOAEPParams).ok_or(INVALID)?;
            Params::RsaAesKeyWrap { aes_bits: u64::from(wrap.ulAESKeyBits), oaep: oaep(caller, &inner)? }
        }
        ParamShape::Ecdh1 => {
            let ecdh: ck::CK_ECDH1_DERIVE_PARAMS = whole(caller, raw)?;
            Params::Ecdh1 {
                kdf: u64::from(ecdh.kdf),
                shared_data: field(caller, ecdh.pSharedData, ecdh.ulSharedDataLen)?,
                public_data: field(caller, ecdh.pPublicData, ecdh.ulPublicDataLen)?,
            }
        }
        ParamShape::OptionalEddsa if bytes.is_empty() => Params::None,
        ParamShape::OptionalEddsa => {
            let eddsa: ck::CK_EDDSA_PARAMS = whole(caller, raw)?;
            Params::Eddsa {
                prehash: eddsa.phFlag != ck::CK_FALSE,
                context: field(caller, eddsa.pContextData, eddsa.ulContextDataLen)?,
            }
        }
        ParamShape::Context => Params::Context(bytes),
        ParamShape::Hkdf => hkdf(caller, &whole(caller, raw)?)?,
        ParamShape::Pbkd2 => pbkd2(caller, &whole(caller, raw)?)?,
        ParamShape::Sp800108 => sp800_108(caller, &whole(caller, raw)?, handles)?,
    })
}

pub(super) const INVALID: ErrorKind = ErrorKind::MechanismParamInvalid;

/// A parameter that is one structure.
pub(super) fn whole<T: Plain>(caller: &Caller, raw: &ck::CK_MECHANISM) -> Result<T> {
    sized(caller, raw.pParameter.cast(), raw.ulParameterLen)
}

fn sized<T: Plain>(caller: &Caller, pointer: *const T, len: ck::CK_ULONG) -> Result<T> {
    caller.get(pointer).filter(|_| len as usize == size_of::<T>()).ok_or_else(|| INVALID.into())
}

pub(super) fn field(caller: &Caller, pointer: *const u8, len: ck::CK_ULONG) -> Result<&[u8]> {
    caller.slice(pointer, len).ok_or_else(|| INVALID.into())
}

/// Both sizes of the structure: that of 2.40 as first published has no ulIvBits.
fn gcm(caller: &Caller, raw: &ck::CK_MECHANISM) -> Result<ck::CK_GCM_PARAMS> {
    const WORD: usize = size_of::<ck::CK_ULONG>();
    if raw.ulParameterLen as usize != 5 * WORD {
        return whole(caller, raw);
    }
    let bytes = field(caller, raw.pParameter.cast(), raw.ulParameterLen)?;
    let short: *const ShortGcmParams = bytes.as_ptr().cast();
    let short = caller.get(short).ok_or(INVALID)?;
    Ok(ck::CK_GCM_PARAMS {
        pIv: short.iv,
        ulIvLen: short.iv_len,
        ulIvBits: 0,
        pAAD: short.aad,
        ulAADLen: short.aad_len,
        ulTagBits: short.tag_bits,
    })
}

#[repr(C)]
#[derive(Clone, Copy)]
struct ShortGcmParams {
    iv: ck::CK_BYTE_PTR,
    iv_len: ck::CK_ULONG,
    aad: ck::CK_BYTE_PTR,
    aad_len: ck::CK_ULONG,
    tag_bits: ck::CK_ULONG,
}

// SAFETY: a C structure of integers and pointers.
unsafe impl Plain for ShortGcmParams {}

/// A source of 0 is taken for "no label", as many callers mean it.
fn oaep<'c>(caller: &'c Caller, raw: &ck::CK_RSA_PKCS_OAEP_PARAMS) -> Result<Oaep<'c>> {
    let label = field(caller, raw.pSourceData.cast(), raw.ulSourceDataLen)?;
    if raw.source != ck::CKZ_DATA_SPECIFIED && !(raw.source == 0 && label.is_empty()) {
        return Err(INVALID.with("the OAEP source is not CKZ_DATA_SPECIFIED"));
    }
    Ok(Oaep { hash: raw.hashAlg, mgf: u64::from(raw.mgf), label })
}

/// The salt counts only where there is an extract step (PKCS#11 3.2 §6.62).
fn hkdf<'c>(caller: &'c Caller, raw: &ck::CK_HKDF_PARAMS) -> Result<Params<'c>> {
    let extract = raw.bExtract != ck::CK_FALSE;
    let salt = match raw.ulSaltType {
        _ if !extract => HkdfSalt::None,
        ck::CKF_HKDF_SALT_NULL => HkdfSalt::None,
        ck::CKF_HKDF_SALT_DATA => HkdfSalt::Data(field(caller, raw.pSalt, raw.ulSaltLen)?),
        ck::CKF_HKDF_SALT_KEY => HkdfSalt::Key(raw.hSaltKey),
        _ => return Err(INVALID.with("the type of the HKDF salt is unknown")),
    };
    Ok(Params::Hkdf {
        extract,
        expand: raw.bExpand != ck::CK_FALSE,
        prf: raw.prfHashMechanism,
        salt,
        info: field(caller, raw.pInfo, raw.ulInfoLen)?,
    })
}

/// CK_PKCS5_PBKD2_PARAMS2, and CK_PKCS5_PBKD2_PARAMS of the same size, whose ulPasswordLen is a
/// pointer to the length.
fn pbkd2<'c>(caller: &'c Caller, raw: &ck::CK_PKCS5_PBKD2_PARAMS2) -> Result<Params<'c>> {
    if raw.saltSource != ck::CKZ_SALT_SPECIFIED || raw.ulPrfDataLen != 0 {
        return Err(INVALID.with("the salt is not CKZ_SALT_SPECIFIED, or the PRF has data"));
    }
    let mut password_len = raw.ulPasswordLen;
    if password_len > MAX_PASSWORD {
        let pointer = std::ptr::with_exposed_provenance(password_len as usize);
        password_len = caller.probe(pointer).filter(|len| *len <= MAX_PASSWORD).ok_or(INVALID)?;
    }
    Ok(Params::Pbkd2 {
        prf: u64::from(raw.prf),
        salt: field(caller, raw.pSaltSourceData.cast(), raw.ulSaltSourceDataLen)?,
        iterations: u64::from(raw.iterations),
        password: Secret(field(caller, raw.pPassword, password_len)?),
    })
}

/// The counter mode of SP 800-108 (§6.42): fields of the PRF's input, and templates of more keys.
fn sp800_108<'c>(
    caller: &'c Caller,
    raw: &ck::CK_SP800_108_KDF_PARAMS,
    handles: &mut HandlePointers,
) -> Result<Params<'c>> {
    if raw.ulNumberOfDataParams > MAX_SP800_108_ITEMS || raw.ulAdditionalDerivedKeys > MAX_SP800_108_ITEMS {
        return Err(INVALID.into());
    }
    let fields = caller.elements(raw.pDataParams, raw.ulNumberOfDataParams).ok_or(INVALID)?;
    let keys = caller.elements(raw.pAdditionalDerivedKeys, raw.ulAdditionalDerivedKeys).ok_or(INVALID)?;
    let data = fields.iter().map(|field| prf_data(caller, &field)).collect::<Result<Vec<_>>>()?;
    let mut additional: Vec<Template<'c>> = Vec::with_capacity(keys.len());
    for key in keys.iter() {
        if key.phKey.is_null() {
            return Err(INVALID.into());
        }
        additional.push(template::read(caller, key.pTemplate, key.ulAttributeCount)?);
        handles.push(key.phKey);
    }
    Ok(Params::Sp800108 { prf: raw.prfType, data, additional })
}

fn prf_data<'c>(caller: &'c Caller, raw: &ck::CK_PRF_DATA_PARAM) -> Result<PrfData<'c>> {
    match raw.type_ {
        ck::CK_SP800_108_ITERATION_VARIABLE => {
            let format: ck::CK_SP800_108_COUNTER_FORMAT = sized(caller, raw.pValue.cast(), raw.ulValueLen)?;
            let little_endian = format.bLittleEndian != ck::CK_FALSE;
            Ok(PrfData::Counter { little_endian, bits: u64::from(format.ulWidthInBits) })
        }
        ck::CK_SP800_108_DKM_LENGTH => {
            let format: ck::CK_SP800_108_DKM_LENGTH_FORMAT = sized(caller, raw.pValue.cast(), raw.ulValueLen)?;
            let sum_of_segments = match format.dkmLengthMethod {
                ck::CK_SP800_108_DKM_LENGTH_SUM_OF_KEYS => false,
                ck::CK_SP800_108_DKM_LENGTH_SUM_OF_SEGMENTS => true,
                _ => return Err(INVALID.with("the method of the DKM length is unknown")),
            };
            let little_endian = format.bLittleEndian != ck::CK_FALSE;
            Ok(PrfData::Length { sum_of_segments, little_endian, bits: u64::from(format.ulWidthInBits) })
        }
        ck::CK_SP800_108_BYTE_ARRAY => Ok(PrfData::Bytes(field(caller, raw.pValue.cast(), raw.ulValueLen)?)),
        _ => Err(INVALID.with("a field of the PRF's input is not supported")),
    }
}

#[cfg(test)]
mod tests {
    use std::ptr;

    use super::*;

    fn caller() -> Caller {
        // SAFETY: the tests pass their own memory.
        unsafe { Caller::new() }
    }

    /// Parses `parameter` in the shape `shape`, without the mechanism's row.
    fn with<T, R>(
        shape: ParamShape,
        parameter: &mut T,
        read: impl FnOnce(std::result::Result<Params<'_>, ErrorKind>) -> R,
    ) -> R {
        let caller = caller();
        let len = size_of::<T>() as ck::CK_ULONG;
        let raw = ck::CK_MECHANISM { mechanism: 0, pParameter: ptr::from_mut(parameter).cast(), ulParameterLen: len };
        read(params(&caller, &raw, shape, &mut Vec::new()).map_err(|error| error.kind()))
    }

    fn refused<T>(shape: ParamShape, parameter: &mut T) {
        with(shape, parameter, |got| assert_eq!(got.err(), Some(INVALID), "{shape:?}"));
    }

    #[test]
    fn a_parameter_of_another_size_is_refused() {
        use ParamShape as S;
        for shape in [
            S::None,
            S::Iv16,
            S::OptionalIv,
            S::Ctr,
            S::Gcm,
            S::MacGeneral,
            S::Pss,
            S::Oaep,
            S::RsaAesKeyWrap,
            S::Ecdh1,
            S::OptionalEddsa,
            S::Hkdf,
            S::Pbkd2,
            S::Sp800108,
        ] {
            refused(shape, &mut [0u8; 7]);
            refused(shape, &mut [0u8; 200]);
        }
        with(S::OptionalIv, &mut [0u8; 8], |got| assert!(matches!(got, Ok(Params::Iv(iv)) if iv.len() == 8)));
        with(S::OptionalIv, &mut [0u8; 0], |got| assert!(matches!(got, Ok(Params::None))));
    }

    #[test]
    fn gcm_has_two_sizes() {
        let (mut iv, mut aad) = ([1u8; 12], [2u8; 3]);
        let mut long = ck::CK_GCM_PARAMS {
            pIv: iv.as_mut_ptr(),
            ulIvLen: 12,
            ulIvBits: 96,
            pAAD: aad.as_mut_ptr(),
            ulAADLen: 3,
            ulTagBits: 128,
        };
        let mut short = ShortGcmParams { iv: long.pIv, iv_len: 12, aad: long.pAAD, aad_len: 3, tag_bits: 128 };
        let check = |got: std::result::Result<Params<'_>, ErrorKind>| {
            let Ok(Params::Gcm { iv, aad, tag_bits }) = got else { panic!() };
            assert_eq!((iv, aad, tag_bits), (&[1u8; 12][..], &[2u8; 3][..], 128));
        };
        with(ParamShape::Gcm, &mut long, check);
        with(ParamShape::Gcm, &mut short, check);
        long.ulIvLen = ck::CK_ULONG::MAX;
        refused(ParamShape::Gcm, &mut long);
        short.iv = ptr::null_mut();
        refused(ParamShape::Gcm, &mut short);
    }

    #[test]
    fn an_all_zero_gcm_iv_is_replaced_in_place() {
        let caller = caller();
        for (iv, expected) in
            [([0u8; 12], [7u8; 12]), ([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])]
        {
            let mut iv = iv;
            let mut gcm = ck::CK_GCM_PARAMS { pIv: iv.as_mut_ptr(), ulIvLen: 12, ulTagBits: 128, ..Default::default() };
            let mut raw = ck::CK_MECHANISM {
                mechanism: ck::CKM_AES_GCM,
                pParameter: (&raw mut gcm).cast(),
                ulParameterLen: size_of_val(&gcm) as ck::CK_ULONG,
            };
            generate_zero_iv(&caller, &raw mut raw, |iv| {
                iv.fill(7);
                Ok(())
            })
            .unwrap();
            assert_eq!(iv, expected);
        }
    }

    #[test]
    fn pbkdf2_takes_both_structures() {
        let (mut salt, mut password) = (*b"salt", *b"password");
        let mut len: ck::CK_ULONG = 8;
        let mut new = ck::CK_PKCS5_PBKD2_PARAMS2 {
            saltSource: ck::CKZ_SALT_SPECIFIED,
            pSaltSourceData: salt.as_mut_ptr().cast(),
            ulSaltSourceDataLen: 4,
            iterations: 1000,
            prf: ck::CKP_PKCS5_PBKD2_HMAC_SHA256,
            pPassword: password.as_mut_ptr(),
            ulPasswordLen: 8,
            ..Default::default()
        };
        let mut old =
            ck::CK_PKCS5_PBKD2_PARAMS2 { ulPasswordLen: (&raw mut len).expose_provenance() as ck::CK_ULONG, ..new };
        let check = |got: std::result::Result<Params<'_>, ErrorKind>| {
            let Ok(Params::Pbkd2 { salt, password, iterations, .. }) = got else { panic!() };
            assert_eq!((salt, password.0, iterations), (&b"salt"[..], &b"password"[..], 1000));
        };
        with(ParamShape::Pbkd2, &mut new, check);
        with(ParamShape::Pbkd2, &mut old, check);
        for wrong in [ck::CK_ULONG::MAX, MAX_PASSWORD + 1, 1 << 46] {
            new.ulPasswordLen = wrong;
            refused(ParamShape::Pbkd2, &mut new);
        }
    }

    #[test]
    fn an_oaep_source_of_none_has_no_label() {
        let mut label = [5u8; 4];
        let mut oaep =
            ck::CK_RSA_PKCS_OAEP_PARAMS { hashAlg: ck::CKM_SHA256, mgf: ck::CKG_MGF1_SHA256, ..Default::default() };
        with(ParamShape::Oaep, &mut oaep, |got| assert!(matches!(got, Ok(Params::Oaep(o)) if o.label.is_empty())));
        (oaep.pSourceData, oaep.ulSourceDataLen) = (label.as_mut_ptr().cast(), 4);
        refused(ParamShape::Oaep, &mut oaep);
        oaep.source = ck::CKZ_DATA_SPECIFIED;
        with(ParamShape::Oaep, &mut oaep, |got| assert!(matches!(got, Ok(Params::Oaep(o)) if o.label == [5; 4])));
        let mut wrap = ck::CK_RSA_AES_KEY_WRAP_PARAMS { ulAESKeyBits: 256, pOAEPParams: &raw mut oaep };
        with(ParamShape::RsaAesKeyWrap, &mut wrap, |got| assert!(got.is_ok()));
        wrap.pOAEPParams = ptr::null_mut();
        refused(ParamShape::RsaAesKeyWrap, &mut wrap);
    }

    #[test]
    fn sp800_108_fields_and_additional_keys_are_read() {
        let mut counter = ck::CK_SP800_108_COUNTER_FORMAT { bLittleEndian: ck::CK_FALSE, ulWidthInBits: 32 };
        let mut label = *b"label";
        let mut fields = [
            ck::CK_PRF_DATA_PARAM {
                type_: ck::CK_SP800_108_ITERATION_VARIABLE,
                pValue: (&raw mut counter).cast(),
                ulValueLen: size_of_val(&counter) as ck::CK_ULONG,
            },
            ck::CK_PRF_DATA_PARAM {
                type_: ck::CK_SP800_108_BYTE_ARRAY,
                pValue: label.as_mut_ptr().cast(),
                ulValueLen: 5,
            },
        ];
        let mut handle = 0;
        let mut keys = [ck::CK_DERIVED_KEY { pTemplate: ptr::null_mut(), ulAttributeCount: 0, phKey: &raw mut handle }];
        let mut kdf = ck::CK_SP800_108_KDF_PARAMS {
            prfType: ck::CKM_SHA256_HMAC,
            ulNumberOfDataParams: 2,
            pDataParams: fields.as_mut_ptr(),
            ulAdditionalDerivedKeys: 1,
            pAdditionalDerivedKeys: keys.as_mut_ptr(),
        };
        with(ParamShape::Sp800108, &mut kdf, |got| {
            let Ok(Params::Sp800108 { data, additional, .. }) = got else { panic!() };
            assert!(matches!(data[..], [PrfData::Counter { bits: 32, .. }, PrfData::Bytes(b"label")]));
            assert_eq!(additional.len(), 1);
        });
        kdf.ulNumberOfDataParams = ck::CK_ULONG::MAX;
        refused(ParamShape::Sp800108, &mut kdf);
        kdf.ulNumberOfDataParams = 2;
        fields[0].ulValueLen = 8;
        kdf.pDataParams = fields.as_mut_ptr();
        refused(ParamShape::Sp800108, &mut kdf);
        fields[0].ulValueLen = 16;
        kdf.pDataParams = fields.as_mut_ptr();
        keys[0].phKey = ptr::null_mut();
        kdf.pAdditionalDerivedKeys = keys.as_mut_ptr();
        refused(ParamShape::Sp800108, &mut kdf);
    }
}
