//! What time demands of managed keys: deletions, expiries of imported material, rotations.
//!
//! Nobody sits in an embedded token, so logins look after a few keys, uses rotate the key they use,
//! and `conclave key rotate --due` from cron looks after all.

use std::sync::Arc;

use serde_json::json;

use super::super::login::Credentials;
use super::super::token::Token;
use super::super::{Module, SessionHandle};
use super::resolve::KeyObjects;
use super::{now, unexpected};
use crate::error::Result;
use crate::hsm::{Command, ObjectChange, ObjectId, Reply};
use crate::text::utc;

/// Keys that a login looks after.
const PER_LOGIN: usize = 64;
/// Days before an expiry in which it is announced.
const ANNOUNCED: u64 = 30;
/// What may be due of one key at once: its material expires, and it goes.
const STEPS: usize = 4;

/// What was done because its time had come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DueReport {
    pub deleted: u64,
    pub expired: u64,
    pub rotated: u64,
    /// Keys for which it failed; the log says why.
    pub failed: u64,
}

impl DueReport {
    fn count(&mut self, change: &ObjectChange, key: &ObjectId) {
        if change.delete.iter().any(|(object, _)| object == key) {
            self.deleted += 1;
        } else if change.insert.is_empty() {
            self.expired += 1;
        } else {
            self.rotated += 1;
        }
    }
}

impl Module {
    /// Does what time demands of all keys; `progress` is told how many were looked at, of how many.
    /// With `dry_run` it is only counted.
    pub fn run_due(
        &self,
        session: SessionHandle,
        dry_run: bool,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<DueReport> {
        let session = self.session(session)?;
        let login = session.enter()?.credentials.clone();
        login.require_user()?;
        session.require_rw()?;
        let token = &session.token;
        let due = token.store.due(now(), usize::MAX)?;
        let mut report = DueReport::default();
        for (done, found) in due.iter().enumerate() {
            token.look_after(&login, &found.object, dry_run, &mut report)?;
            progress(done as u64 + 1, due.len() as u64);
        }
        Ok(report)
    }

    /// The keys whose imported material expires within so many days, as JSON: the first to expire
    /// first.
    pub fn due_keys(&self, session: SessionHandle, within_days: u64) -> Result<String> {
        let session = self.session(session)?;
        let login = session.enter()?.credentials.clone();
        login.require_user()?;
        let keys = session.token.expiring(&login, within_days, usize::MAX)?;
        Ok(json!({ "Keys": keys }).to_string())
    }
}

impl Token {
    /// After a login: does what is due of a few keys unless it is left to another, and warns of what
    /// expires soon. The login does not depend on it.
    pub(in crate::cryptoki) fn look_after_due_keys(self: &Arc<Self>, login: &Credentials, left: bool) {
        if login.require_user().is_err() {
            return;
        }
        let work = || -> Result<DueReport> {
            let mut report = DueReport::default();
            for found in self.store.due(now(), if left { 0 } else { PER_LOGIN })? {
                self.look_after(login, &found.object, false, &mut report)?;
            }
            for key in self.expiring(login, ANNOUNCED, PER_LOGIN)? {
                let expires = key["ValidTo"].as_u64().map(|valid_to| utc(valid_to).0);
                tracing::warn!(
                    slot = self.slot,
                    key = key["KeyId"].as_str(),
                    expires,
                    "imported material expires soon"
                );
            }
            Ok(report)
        };
        match work() {
            Ok(report) if report == DueReport::default() => {}
            Ok(DueReport { deleted, expired, rotated, failed }) => {
                tracing::info!(slot = self.slot, deleted, expired, rotated, failed, "managed keys were looked after");
            }
            Err(error) => tracing::warn!(slot = self.slot, %error, "managed keys were not looked after"),
        }
    }

    /// What is due of one key. Fails only if it would for all others, too.
    fn look_after(
        self: &Arc<Self>,
        login: &Credentials,
        object: &ObjectId,
        dry_run: bool,
        report: &mut DueReport,
    ) -> Result<()> {
        let count = if dry_run { Some(&mut *report) } else { None };
        match self.keep_time(login, object, count) {
            Ok(done) => {
                if !dry_run {
                    report.deleted += done.deleted;
                    report.expired += done.expired;
                    report.rotated += done.rotated;
                }
                Ok(())
            }
            Err(error) if self.is_over(&error) => Err(error),
            Err(error) => {
                tracing::warn!(slot = self.slot, %error, "what is due of a managed key was not done");
                report.failed += 1;
                Ok(())
            }
        }
    }

    /// Does what time demands of a key, or only counts its first step in `dry_run`.
    pub(super) fn keep_time(
        self: &Arc<Self>,
        login: &Credentials,
        object: &ObjectId,
        dry_run: Option<&mut DueReport>,
    ) -> Result<DueReport> {
        let mut report = DueReport::default();
        if let Some(counted) = dry_run {
            if let Some((_, change)) = self.due_change(login, object)? {
                counted.count(&change, object);
            }
            return Ok(report);
        }
        for _ in 0..STEPS {
            let done = self.change_keys(login, true, || {
                let Some((keys, change)) = self.due_change(login, object)? else {
                    return Ok((ObjectChange::default(), None));
                };
                let change = self.with_aliases(login, &keys.id, keys.records(), change)?;
                Ok((change.clone(), Some(change)))
            })?;
            match done {
                Some(change) => report.count(&change, object),
                None => break,
            }
        }
        Ok(report)
    }

    /// The change that time demands of a key now.
    fn due_change(
        self: &Arc<Self>,
        login: &Credentials,
        object: &ObjectId,
    ) -> Result<Option<(KeyObjects, ObjectChange)>> {
        let Some(keys) = self.key_objects_of(login, object)? else { return Ok(None) };
        match self.ask(login, Command::KeepTime { keys: keys.records() })? {
            Reply::Done => Ok(None),
            Reply::Managed { change, .. } => Ok(Some((keys, change))),
            _ => Err(unexpected()),
        }
    }
}
