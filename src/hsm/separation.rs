//! The rules that close the classic attacks on the PKCS#11 API: what wraps does not decrypt, and
//! what is sensitive is wrapped only by keys that can do nothing else with it.
//!
//! Decided at creation and kept in the sealed record as [`Marks`], so that no later change of an
//! attribute and no older record can undo it.

use cryptoki_sys as ck;

use super::attribute::{self, Classes, PRIVATE, PUBLIC, SECRET};
use super::key::Key;
use super::params::{Mechanism, Params};
use super::value::{AttributeType, Attributes, Template, Value};
use super::{draft, mechanism};
use crate::error::{ErrorKind, Result};

/// What was decided of a key when it was made; sealed with it, inherited by copies.
pub(super) type Marks = u64;
/// It may wrap sensitive keys: it wraps and does nothing that would read what it wrapped, was
/// generated here, always sensitive, never extractable.
pub(super) const WRAP_ONLY: Marks = 1;
/// It was made to wrap or unwrap, not to decrypt: it never decrypts.
pub(super) const MADE_TO_WRAP: Marks = 1 << 1;
/// It was made to decrypt: it never comes to wrap or unwrap.
pub(super) const MADE_TO_DECRYPT: Marks = 1 << 2;
/// It was made to wrap or unwrap with CKM_AES_GCM and nothing else, and wraps under IVs made here.
pub(super) const GCM_ONLY: Marks = 1 << 3;

/// What a template explicitly asks of a key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Usages {
    wraps: bool,
    decrypts: bool,
    any: bool,
}

impl Usages {
    /// Reads the usage flags that are true in the templates (of both halves of a pair).
    pub(super) fn asked(templates: &[&Template<'_>]) -> Result<Self> {
        let mut usages = Self::default();
        for template in templates {
            for (kind, _) in &template.0 {
                let (wraps, decrypts) = match *kind {
                    ck::CKA_WRAP | ck::CKA_UNWRAP => (true, false),
                    ck::CKA_ENCRYPT | ck::CKA_DECRYPT => (false, true),
                    ck::CKA_SIGN | ck::CKA_VERIFY | ck::CKA_SIGN_RECOVER | ck::CKA_VERIFY_RECOVER | ck::CKA_DERIVE => {
                        (false, false)
                    }
                    _ => continue,
                };
                if draft::bool_in(template, *kind)? == Some(true) {
                    usages.any = true;
                    usages.wraps |= wraps;
                    usages.decrypts |= decrypts;
                }
            }
        }
        Ok(usages)
    }
}

/// The default of a usage flag: true if keys of this type can do it, unless the template asked
/// for the other side of wrap and decrypt.
pub(super) fn default_usage(kind: AttributeType, class: Classes, sub: Option<u64>, asked: Usages) -> bool {
    let able = sub.is_some_and(|sub| attribute::usages_of(class, sub).contains(&kind));
    let separate = match kind {
        ck::CKA_WRAP | ck::CKA_UNWRAP => asked.decrypts,
        ck::CKA_ENCRYPT | ck::CKA_DECRYPT => asked.wraps,
        _ => false,
    };
    able && !separate
}

/// The marks of a new secret or private key. A public key has those of its private half.
pub(super) fn marks_of_new(attributes: &Attributes, class: Classes) -> Marks {
    if class & (PRIVATE | SECRET) == 0 {
        return 0;
    }
    let wraps = attributes.flag(ck::CKA_WRAP) || attributes.flag(ck::CKA_UNWRAP);
    // A secret key that encrypts could make the key stream of what it wrapped.
    let reads = attributes.flag(ck::CKA_DECRYPT) || (class == SECRET && attributes.flag(ck::CKA_ENCRYPT));
    let confined = attributes.flag(ck::CKA_LOCAL)
        && attributes.flag(ck::CKA_ALWAYS_SENSITIVE)
        && attributes.flag(ck::CKA_NEVER_EXTRACTABLE);
    let mut marks = 0;
    if reads {
        marks |= MADE_TO_DECRYPT;
    } else if wraps {
        marks |= MADE_TO_WRAP;
        if confined {
            marks |= WRAP_ONLY;
        }
        if class == SECRET && only_gcm(attributes) {
            marks |= GCM_ONLY;
        }
    }
    marks
}

/// A list that is not empty only gets shorter, so that this stays true, also of copies.
fn only_gcm(attributes: &Attributes) -> bool {
    matches!(attributes.get(ck::CKA_ALLOWED_MECHANISMS), Some(Value::Mechanisms(list)) if list[..] == [ck::CKM_AES_GCM])
}

/// DECRYPT cannot be added to a wrapping key, nor WRAP to a decrypting one.
pub(super) fn check_change(current: &Key, changed: &Attributes) -> Result<()> {
    let gains = |kind| changed.flag(kind) && !current.attributes.flag(kind);
    let secret = current.class() == ck::CKO_SECRET_KEY;
    let reads = gains(ck::CKA_DECRYPT) || (secret && gains(ck::CKA_ENCRYPT));
    let wraps = gains(ck::CKA_UNWRAP) || (secret && gains(ck::CKA_WRAP));
    let wrapper = current.marks & MADE_TO_WRAP != 0
        || (secret && current.attributes.flag(ck::CKA_WRAP))
        || current.attributes.flag(ck::CKA_UNWRAP);
    let decrypter = current.marks & MADE_TO_DECRYPT != 0 || current.attributes.flag(ck::CKA_DECRYPT);
    let both = wraps && reads;
    if both || (reads && wrapper) || (wraps && decrypter) {
        return Err(ErrorKind::TemplateInconsistent
            .with("a key that wraps cannot come to decrypt, nor one that decrypts to wrap"));
    }
    Ok(())
}

/// Whether `wrapping` may wrap `key` with this mechanism. The caller has checked CKA_WRAP.
pub(super) fn check_wrap(wrapping: &Key, key: &Key, mechanism: &Mechanism<'_>, separation: bool) -> Result<()> {
    let attributes = &key.attributes;
    check_wrappable(wrapping, key)?;
    let trusted = wrapping.attributes.flag(ck::CKA_TRUSTED);
    if !separation {
        return Ok(());
    }
    // Whoever repeats an IV with a key that is known gets the key stream of another wrap.
    let made_here = matches!(mechanism.params, Params::GcmGenerate { tag_bits, .. } if tag_bits >= LEAST_TAG);
    if wrapping.marks & GCM_ONLY != 0 && !made_here {
        return Err(ErrorKind::MechanismParamInvalid.with(
            "a key for CKM_AES_GCM alone wraps under IVs made here (CKG_GENERATE), with tags of 96 bits or more",
        ));
    }
    if !attributes.flag(ck::CKA_SENSITIVE) {
        return Ok(());
    }
    let secret = wrapping.class() == ck::CKO_SECRET_KEY;
    let reads = wrapping.attributes.flag(ck::CKA_DECRYPT) || (secret && wrapping.attributes.flag(ck::CKA_ENCRYPT));
    // A secret key made neither to wrap nor to decrypt may have a copy that came to decrypt.
    let confined = !secret || wrapping.marks & MADE_TO_WRAP != 0;
    if !(wrapping.marks & WRAP_ONLY != 0 || (trusted && confined && !reads)) {
        return Err(ErrorKind::KeyNotWrappable.with(
            "a sensitive key is wrapped only by a trusted key, or by one made here to wrap and nothing else \
             (CKA_WRAP without CKA_ENCRYPT and CKA_DECRYPT, sensitive, not extractable)",
        ));
    }
    // Under a key stream with the caller's IV, two wraps give the difference of the keys; a block
    // cipher's mode gives a short last block away to whoever wraps guesses of it, and the key stream
    // of a GCM wrap to whoever wraps its counter blocks.
    let gcm = mechanism.kind == ck::CKM_AES_GCM && wrapping.marks & GCM_ONLY == 0;
    if is_malleable(mechanism.kind) || gcm {
        return Err(ErrorKind::KeyNotWrappable.with(
            "a sensitive key is wrapped with CKM_AES_KEY_WRAP, CKM_AES_KEY_WRAP_KWP or an RSA mechanism, or with \
             CKM_AES_GCM by a key that was made with CKA_ALLOWED_MECHANISMS of it alone",
        ));
    }
    let needed = strength(key).min(112);
    if strength(wrapping) < needed {
        return Err(ErrorKind::WrappingKeySizeRange.with("the wrapping key is weaker than the key"));
    }
    Ok(())
}

/// Whether `wrapping`, a managed key, may wrap `key` together with its attributes. Nothing that it
/// decrypts is a wrapped key, so that it may decrypt; but a sensitive key is not wrapped by material
/// that somebody may know outside.
pub(super) fn check_wrap_managed(wrapping: &Key, key: &Key, separation: bool) -> Result<()> {
    check_wrappable(wrapping, key)?;
    let is = |kind| wrapping.attributes.flag(kind);
    let confined = is(ck::CKA_LOCAL) && is(ck::CKA_ALWAYS_SENSITIVE) && is(ck::CKA_NEVER_EXTRACTABLE);
    if separation && key.attributes.flag(ck::CKA_SENSITIVE) && !confined && !is(ck::CKA_TRUSTED) {
        return Err(ErrorKind::KeyNotWrappable
            .with("a sensitive key is wrapped only by a trusted key, or by one whose material was made here"));
    }
    Ok(())
}

/// What every wrap asks of both keys.
fn check_wrappable(wrapping: &Key, key: &Key) -> Result<()> {
    let attributes = &key.attributes;
    if !matches!(key.class(), ck::CKO_SECRET_KEY | ck::CKO_PRIVATE_KEY) {
        return Err(ErrorKind::KeyNotWrappable.with("only secret and private keys are wrapped"));
    }
    if !attributes.flag(ck::CKA_EXTRACTABLE) {
        return Err(ErrorKind::KeyUnextractable.into());
    }
    if attributes.flag(ck::CKA_WRAP_WITH_TRUSTED) && !wrapping.attributes.flag(ck::CKA_TRUSTED) {
        return Err(ErrorKind::KeyNotWrappable.with("CKA_WRAP_WITH_TRUSTED asks for a trusted wrapping key"));
    }
    if let Some(Value::Template(wanted)) = wrapping.attributes.get(ck::CKA_WRAP_TEMPLATE)
        && !draft::matches(attributes, wanted)
    {
        return Err(ErrorKind::KeyHandleInvalid.with("the key does not match CKA_WRAP_TEMPLATE"));
    }
    Ok(())
}

/// Raw RSA with a private key is decryption whatever it is called: a key that unwraps and does not
/// decrypt does not do it as a signature either.
pub(super) fn check_use(key: &Key, mechanism: ck::CK_MECHANISM_TYPE) -> Result<()> {
    let unwraps = key.marks & MADE_TO_WRAP != 0 || key.attributes.flag(ck::CKA_UNWRAP);
    let reads = key.attributes.flag(ck::CKA_DECRYPT);
    if mechanism == ck::CKM_RSA_X_509 && key.class() == ck::CKO_PRIVATE_KEY && unwraps && !reads {
        return Err(ErrorKind::KeyFunctionNotPermitted
            .with("CKM_RSA_X_509 with a key that unwraps would read what was wrapped"));
    }
    Ok(())
}

/// Whether a change of what was wrapped with the mechanism gives another key, not an error.
fn is_malleable(mechanism: ck::CK_MECHANISM_TYPE) -> bool {
    matches!(mechanism, ck::CKM_AES_ECB | ck::CKM_AES_CBC | ck::CKM_AES_CBC_PAD | ck::CKM_AES_CTR)
}

/// The shortest GCM tag that is not forged by trying, in bits.
const LEAST_TAG: u64 = 96;

/// Whether `unwrapping` may unwrap with this mechanism. With one that accepts everything, a key
/// that does not decrypt would do it all the same: the caller changes the ciphertext or the IV
/// until the new key has an attribute that tells of a guess (zeros that are cut off, a check
/// value, the public key). CKM_AES_CBC_PAD is off unless configured, which then is meant.
pub(super) fn check_unwrap(unwrapping: &Key, mechanism: &Mechanism<'_>) -> Result<()> {
    if unwrapping.attributes.flag(ck::CKA_DECRYPT) {
        return Ok(());
    }
    if is_malleable(mechanism.kind) && mechanism.kind != ck::CKM_AES_CBC_PAD {
        return Err(ErrorKind::KeyFunctionNotPermitted
            .with("a key without CKA_DECRYPT unwraps only with mechanisms that authenticate what was wrapped"));
    }
    match mechanism.params {
        Params::Gcm { tag_bits, .. } if tag_bits < LEAST_TAG => {
            Err(ErrorKind::MechanismParamInvalid.with("a key without CKA_DECRYPT unwraps with tags of 96 bits or more"))
        }
        _ => Ok(()),
    }
}

/// What an unwrap gives is as secret as what the unwrapping key could have wrapped: if that key
/// does not decrypt, neither does unwrapping with it show the plaintext.
pub(super) fn check_unwrapped(unwrapping: &Key, new: &Attributes) -> Result<()> {
    let decrypts = unwrapping.attributes.flag(ck::CKA_DECRYPT);
    if !decrypts && !new.flag(ck::CKA_SENSITIVE) {
        return Err(
            ErrorKind::TemplateInconsistent.with("a key unwrapped by a key without CKA_DECRYPT must be CKA_SENSITIVE")
        );
    }
    Ok(())
}

/// The marks of a public key made with a private half: it wraps only if that half unwraps only.
pub(super) fn marks_of_public(private: Marks) -> Marks {
    private & (WRAP_ONLY | MADE_TO_WRAP)
}

fn strength(key: &Key) -> u32 {
    mechanism::key_type(key.key_type()).map_or(0, |row| (row.strength)(key))
}

/// Whether the class takes part in the rules at all.
pub(super) fn concerns(class: Classes) -> bool {
    class & (PUBLIC | PRIVATE | SECRET) != 0
}
