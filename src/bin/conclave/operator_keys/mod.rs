//! An operator's two keys, where they are held: a file, or any PKCS#11 token.
//!
//! For commands that work on paper. One that opens the module of this process as well would have two
//! copies of SQLite on the same files if the keys are in a Conclave token, and POSIX locks do not
//! hold between those.

mod file;
mod token;

use conclave::hsm::governance::OperatorKeys;

use crate::args::KeySource;
use crate::output::Failure;
use crate::pin;

pub(crate) use file::{FileKeys, random};
pub(crate) use token::TokenKeys;

/// What follows the label of the signing key in that of the agreement key.
const AGREEMENT: &str = " agreement";

/// Opens the keys that the arguments name; asks for the passphrase or PIN.
pub(crate) fn open(source: &KeySource) -> Result<Box<dyn OperatorKeys>, Failure> {
    if let Some(path) = &source.keys {
        return Ok(Box::new(FileKeys::open(path, &source.passphrase)?));
    }
    let (Some(module), Some(label)) = (&source.pkcs11, &source.label) else {
        return Err(Failure::usage("say where your keys are: --keys FILE, or --pkcs11 MODULE --label LABEL"));
    };
    let pin = pin::read(&source.pin, "PIN of the token with your keys", false)?;
    Ok(Box::new(TokenKeys::open(module, source.token_label.as_deref(), label, &pin)?))
}
