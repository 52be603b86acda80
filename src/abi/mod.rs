//! The C ABI: pointers end here.
//!
//! [`entry`] has the exported functions, one line each over one guard: catch panics, check pointers
//! and lengths, translate to safe types, translate the result to a `CK_RV`. There is no logic. [`vendor`]
//! has the `KMS_` functions in the same way.

pub mod entry;
mod exit;
mod fork;
mod global;
mod guard;
mod info;
mod last_error;
pub mod lists;
mod params;
mod ptr;
mod template;
pub mod vendor;
mod wrapping;
