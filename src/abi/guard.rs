//! What every C_ function does around its one line: catches panics, finds the library, and turns
//! the result into a `CK_RV`.

use std::panic::{AssertUnwindSafe, catch_unwind};

use cryptoki_sys as ck;

use super::global;
use super::last_error;
use crate::cryptoki::Module;
use crate::error::{Error, ErrorKind, Result};

/// The body of a C_ function: `entry!(C_Name, |caller, module| result)`. A `_` for the module makes
/// it one that works before C_Initialize.
macro_rules! entry {
    ($function:ident, |_, _| $body:expr) => {
        $crate::abi::guard::without_module(stringify!($function), || $body)
    };
    ($function:ident, |$caller:ident, _| $body:expr) => {
        $crate::abi::guard::without_module(stringify!($function), || {
            // SAFETY: the pointers are those of this C_ function's caller, used while it runs.
            let $caller = &unsafe { $crate::abi::ptr::Caller::new() };
            $body
        })
    };
    ($function:ident, |_, $module:ident| $body:expr) => {
        $crate::abi::guard::with_module(stringify!($function), |$module| $body)
    };
    ($function:ident, |$caller:ident, $module:ident| $body:expr) => {
        $crate::abi::guard::with_module(stringify!($function), |$module| {
            // SAFETY: as above.
            let $caller = &unsafe { $crate::abi::ptr::Caller::new() };
            $body
        })
    };
}
pub(super) use entry;

/// Runs `body` with the library; CKR_CRYPTOKI_NOT_INITIALIZED outside C_Initialize … C_Finalize.
#[inline]
pub(super) fn with_module(function: &'static str, body: impl FnOnce(&Module) -> Result<()>) -> ck::CK_RV {
    without_module(function, || global::with(body))
}

/// Runs `body`; a panic becomes CKR_GENERAL_ERROR.
#[inline]
pub(super) fn without_module(function: &'static str, body: impl FnOnce() -> Result<()>) -> ck::CK_RV {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => ck::CKR_OK,
        Ok(Err(error)) => failed(function, &error),
        Err(payload) => panicked(function, payload),
    }
}

/// As [`without_module`], for a function whose failure is not remembered.
pub(super) fn unrecorded(body: impl FnOnce() -> Result<()>) -> ck::CK_RV {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => ck::CKR_OK,
        Ok(Err(error)) => error.kind().rv(),
        Err(payload) => {
            std::mem::forget(payload);
            ck::CKR_GENERAL_ERROR
        }
    }
}

#[cold]
fn failed(function: &'static str, error: &Error) -> ck::CK_RV {
    // Callers of the standard's functions know no codes but the standard's.
    let standard = function.starts_with("C_").then(|| error.clone().into_standard());
    let error = standard.as_ref().unwrap_or(error);
    // A subscriber of the log is foreign code too.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        last_error::set(function, error);
        tracing::debug!(function, code = error.kind().name(), "{error}");
    }));
    error.kind().rv()
}

#[cold]
fn panicked(function: &'static str, payload: Box<dyn std::any::Any + Send>) -> ck::CK_RV {
    let _ = catch_unwind(AssertUnwindSafe(|| {
        let message = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("no message");
        last_error::set(function, &ErrorKind::GeneralError.into());
        tracing::error!(function, "panic: {message}");
    }));
    // The payload's own destructor could panic.
    std::mem::forget(payload);
    ck::CKR_GENERAL_ERROR
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_general_error() {
        assert_eq!(without_module("C_Test", || panic!("on purpose")), ck::CKR_GENERAL_ERROR);
        assert_eq!(without_module("C_Test", || std::panic::panic_any(7)), ck::CKR_GENERAL_ERROR);
    }

    #[test]
    fn the_last_error_is_a_sentence() {
        assert_eq!(without_module("C_Sign", || Err(ErrorKind::PinLocked.with("ten failures"))), ck::CKR_PIN_LOCKED);
        let sentence = last_error::with(|text| String::from_utf8(text.to_vec()).unwrap());
        assert_eq!(sentence, "C_Sign: CKR_PIN_LOCKED: the PIN is locked: ten failures");
    }

    #[test]
    fn functions_of_the_standard_give_its_codes() {
        let disabled = || Err(ErrorKind::KmsDisabled.with("since yesterday"));
        assert_eq!(without_module("C_Sign", disabled), ck::CKR_KEY_FUNCTION_NOT_PERMITTED);
        assert_eq!(without_module("KMS_Encrypt", disabled), ErrorKind::KmsDisabled.rv());
    }
}
