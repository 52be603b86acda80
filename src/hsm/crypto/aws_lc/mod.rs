//! AWS-LC for the data plane: safe types over `aws-lc-sys`, one file per primitive.
//!
//! All `unsafe` of the mechanisms is here. A wrapper checks every length that the C code trusts,
//! owns what it allocates, and turns a failure into an [`Error`](crate::error::Error).
