//! Importing key material.

use super::super::{Module, SessionHandle};
use super::unexpected;
use crate::error::Result;
use crate::hsm::{Command, Reply};

/// What material is wrapped with.
pub struct ImportParameters {
    /// DER SubjectPublicKeyInfo of the wrapping key.
    pub public_key: Vec<u8>,
    pub token: Vec<u8>,
    /// Until when both are good, in seconds since 1970.
    pub expires: u64,
}

impl Module {
    /// Makes a wrapping key of a spec, and the token that names it. Nothing is stored.
    pub fn import_parameters(
        &self,
        session: SessionHandle,
        key: &str,
        algorithm: &str,
        spec: &str,
        dry_run: bool,
    ) -> Result<ImportParameters> {
        self.with_keys(session, |keys| {
            let key = keys.named(key)?;
            let command = Command::ImportParameters { key: &key.record, algorithm, spec, dry_run };
            match keys.token.ask(keys.login, command)? {
                Reply::ImportParameters { public_key, token, expires } => {
                    Ok(ImportParameters { public_key, token, expires })
                }
                _ => Err(unexpected()),
            }
        })
    }

    /// Imports wrapped material, which expires at `valid_to` (seconds since 1970) if that is given.
    pub fn import_material(
        &self,
        session: SessionHandle,
        key: &str,
        token: &[u8],
        wrapped: &[u8],
        valid_to: Option<u64>,
        dry_run: bool,
    ) -> Result<()> {
        let session = self.session(session)?;
        let state = session.enter()?;
        state.credentials.require_user()?;
        session.require_rw()?;
        let login = &state.credentials;
        session.token.change_keys(login, true, || {
            let found = session.token.key_objects(login, key)?;
            let command = Command::ImportMaterial { keys: found.records(), token, wrapped, valid_to, dry_run };
            match session.token.ask(login, command)? {
                Reply::Managed { change, .. } => Ok((change, ())),
                _ => Err(unexpected()),
            }
        })
    }
}
