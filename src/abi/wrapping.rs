//! Wrapping with CKM_AES_GCM, whose parameter is another structure in each function (PKCS#11 3.2
//! §6.13), and what a wrap hands back through it; and with CKM_KMS_WRAP.

use std::borrow::Cow;
use std::mem::size_of;

use cryptoki_sys as ck;

use super::params::{self, INVALID, field, whole};
use super::ptr::Caller;
use crate::cryptoki::Wrapped;
use crate::error::{ErrorKind, Result};
use crate::hsm::{CKM_KMS_WRAP, Mechanism, Params};

/// The longest tag, in bits.
const MAX_TAG_BITS: ck::CK_ULONG = 128;

/// What a function that wraps or unwraps was called with.
pub(super) struct Call<'c> {
    pub(super) pointer: ck::CK_MECHANISM_PTR,
    /// None for the functions that take no associated data of their own.
    pub(super) associated: Option<&'c [u8]>,
}

/// A buffer of the caller's.
type Buffer = (*mut u8, ck::CK_ULONG);

/// The fields that CK_GCM_WRAP_PARAMS and CK_GCM_MESSAGE_PARAMS share.
struct Gcm<'c> {
    iv: Buffer,
    fixed_bits: ck::CK_ULONG,
    generator: ck::CK_GENERATOR_FUNCTION,
    aad: &'c [u8],
    /// Where the tag is, unless it follows the wrapped key.
    tag: Option<Buffer>,
    tag_bits: ck::CK_ULONG,
}

/// The mechanism as it was read.
enum Read<'c> {
    /// With one of the two structures.
    Gcm(Gcm<'c>),
    /// As every function reads it.
    Other(Mechanism<'c>),
}

impl<'c> Call<'c> {
    fn read(&self, caller: &'c Caller) -> Result<Read<'c>> {
        let raw = caller.read(self.pointer)?;
        let len = raw.ulParameterLen as usize;
        Ok(match (raw.mechanism, self.associated) {
            (ck::CKM_AES_GCM, Some(aad)) => {
                let message: ck::CK_GCM_MESSAGE_PARAMS = whole(caller, &raw)?;
                if message.ulTagBits > MAX_TAG_BITS {
                    return Err(INVALID.into());
                }
                Read::Gcm(Gcm {
                    iv: (message.pIv, message.ulIvLen),
                    fixed_bits: message.ulIvFixedBits,
                    generator: message.ivGenerator,
                    aad,
                    tag: Some((message.pTag, message.ulTagBits / 8)).filter(|(tag, _)| !tag.is_null()),
                    tag_bits: message.ulTagBits,
                })
            }
            (ck::CKM_AES_GCM, None) if len == size_of::<ck::CK_GCM_WRAP_PARAMS>() => {
                let wrap: ck::CK_GCM_WRAP_PARAMS = whole(caller, &raw)?;
                Read::Gcm(Gcm {
                    iv: (wrap.pIv, wrap.ulIvLen),
                    fixed_bits: wrap.ulIvFixedBits,
                    generator: wrap.ivGenerator,
                    aad: field(caller, wrap.pAAD, wrap.ulAADLen)?,
                    tag: None,
                    tag_bits: wrap.ulTagBits,
                })
            }
            (CKM_KMS_WRAP, associated) => {
                let context = field(caller, raw.pParameter.cast(), raw.ulParameterLen)?;
                let params = Params::KmsWrap { context, associated: associated.unwrap_or_default() };
                Read::Other(Mechanism { kind: CKM_KMS_WRAP, params })
            }
            (_, None) => Read::Other(params::mechanism(caller, self.pointer)?),
            (_, Some(_)) => {
                return Err(ErrorKind::MechanismInvalid.with("the mechanism authenticates no associated data"));
            }
        })
    }
}

impl<'c> Gcm<'c> {
    /// For the given IV.
    fn with_iv(&self, caller: &'c Caller) -> Result<Mechanism<'c>> {
        let iv = field(caller, self.iv.0, self.iv.1)?;
        let params = Params::Gcm { iv, aad: self.aad, tag_bits: self.tag_bits };
        Ok(Mechanism { kind: ck::CKM_AES_GCM, params })
    }

    /// As the generator says. A counter begins at zero with each call, so one key would repeat it.
    fn wrapping(&self, caller: &'c Caller) -> Result<Mechanism<'c>> {
        let iv = field(caller, self.iv.0, self.iv.1)?;
        let (fixed_bits, aad, tag_bits) = (self.fixed_bits, self.aad, self.tag_bits);
        match self.generator {
            ck::CKG_NO_GENERATE => self.with_iv(caller),
            ck::CKG_GENERATE | ck::CKG_GENERATE_RANDOM => {
                Ok(Mechanism { kind: ck::CKM_AES_GCM, params: Params::GcmGenerate { iv, fixed_bits, aad, tag_bits } })
            }
            _ => Err(INVALID.with("IVs are made at random: CKG_GENERATE or CKG_GENERATE_RANDOM")),
        }
    }
}

/// C_WrapKey and C_WrapKeyAuthenticated: `make` wraps into so many bytes at most. The caller's IV and
/// tag are written with the wrapped key, or not at all.
pub(super) fn wrap(
    caller: &Caller,
    call: &Call<'_>,
    (buffer, len): (*mut u8, *mut ck::CK_ULONG),
    make: impl FnOnce(&Mechanism<'_>, usize) -> Result<Wrapped>,
) -> Result<()> {
    let room = caller.room(buffer, len)?;
    let (mechanism, iv_place, tag_place) = match call.read(caller)? {
        Read::Gcm(gcm) => (gcm.wrapping(caller)?, gcm.iv, gcm.tag),
        Read::Other(mechanism) => (mechanism, (std::ptr::null_mut(), 0), None),
    };
    let tag_len = tag_place.map_or(0, |(_, len)| len as usize);
    // The caller's parameter is not read any more when its IV is written.
    let (wrapped, iv) = match make(&mechanism, room.len().saturating_add(tag_len))? {
        Wrapped::Needed(len) => return room.need(len.saturating_sub(tag_len)),
        Wrapped::Made { wrapped, iv } => (wrapped, iv),
    };
    drop(mechanism);
    let (wrapped, tag) = wrapped.split_at(wrapped.len().saturating_sub(tag_len));
    room.give(wrapped)?;
    if let Some((pointer, len)) = tag_place {
        caller.fill(pointer, len, |place| copy(place, tag))?;
    }
    match iv {
        Some(iv) => caller.fill(iv_place.0, iv_place.1, |place| copy(place, &iv)),
        None => Ok(()),
    }
}

fn copy(place: &mut [u8], from: &[u8]) -> Result<()> {
    if place.len() != from.len() {
        return Err(ErrorKind::GeneralError.into());
    }
    place.copy_from_slice(from);
    Ok(())
}

/// C_UnwrapKey and C_UnwrapKeyAuthenticated: the mechanism, and the wrapped key with its tag behind.
pub(super) fn unwrap<'c>(
    caller: &'c Caller,
    call: &Call<'c>,
    (pointer, len): (*const u8, ck::CK_ULONG),
) -> Result<(Mechanism<'c>, Cow<'c, [u8]>)> {
    let wrapped = caller.bytes(pointer, len)?;
    Ok(match call.read(caller)? {
        Read::Gcm(gcm) => {
            let wrapped = match gcm.tag {
                Some((tag, len)) => Cow::Owned([wrapped, field(caller, tag, len)?].concat()),
                None => Cow::Borrowed(wrapped),
            };
            (gcm.with_iv(caller)?, wrapped)
        }
        Read::Other(mechanism) => (mechanism, Cow::Borrowed(wrapped)),
    })
}
