//! Managed keys: the life cycle of a cloud KMS key inside a token.

mod context;
mod envelope;
