//! AWS-LC for the data plane: safe types over `aws-lc-sys`, one file per primitive.
//!
//! All `unsafe` of the mechanisms is here. A wrapper checks every length that the C code trusts,
//! owns what it allocates, and turns a failure into an [`Error`](crate::error::Error).

pub(in crate::hsm) mod aes;
mod bignum;
pub(in crate::hsm) mod cmac;
pub(in crate::hsm) mod digest;
pub(in crate::hsm) mod ec;
pub(in crate::hsm) mod ed25519;
pub(in crate::hsm) mod gcm;
pub(in crate::hsm) mod hmac;
pub(in crate::hsm) mod kdf;
pub(in crate::hsm) mod mlkem;
pub(in crate::hsm) mod pkey;
pub(in crate::hsm) mod random;
pub(in crate::hsm) mod rsa;
pub(in crate::hsm) mod x25519;

use std::os::raw::c_int;

use crate::error::{Error, ErrorKind, Result};

/// AWS-LC's "1 is success" as a result. For calls that fail only if memory runs out or the
/// library is broken; a failure that the input can cause is mapped where it happens.
fn check(status: c_int) -> Result<()> {
    if status == 1 { Ok(()) } else { Err(failure()) }
}

/// The error of a call that should not have failed. Empties the thread's error queue.
#[cold]
fn failure() -> Error {
    clear_errors();
    ErrorKind::DeviceError.with("a primitive of AWS-LC failed")
}

/// Empties the thread's queue of AWS-LC errors, which a failed call has filled.
fn clear_errors() {
    // SAFETY: takes no arguments; touches thread-local state of the library only.
    unsafe { aws_lc_sys::ERR_clear_error() }
}

/// Wipes bytes; no compiler leaves it out.
pub(super) fn cleanse_bytes(bytes: &mut [u8]) {
    // SAFETY: pointer and length are those of one exclusively borrowed slice.
    unsafe { aws_lc_sys::OPENSSL_cleanse(bytes.as_mut_ptr().cast(), bytes.len()) }
}

/// Wipes a plain C struct in place.
fn cleanse<T: Copy>(value: &mut T) {
    // SAFETY: the pointer and length are those of one valid, exclusively borrowed value. Callers
    // pass C structs of integers and nullable pointers, for which all zeros is a valid value.
    unsafe { aws_lc_sys::OPENSSL_cleanse(std::ptr::from_mut(value).cast(), size_of::<T>()) }
}
