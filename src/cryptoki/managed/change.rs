//! Changes of managed keys: the records a change needs, its commit, and what goes with a key.

use std::time::{Duration, Instant};

use super::super::login::Credentials;
use super::super::token::Token;
use super::super::{Module, SessionHandle};
use super::request::Request;
use super::resolve::{Alias, KeyObjects, unknown};
use super::unexpected;
use crate::error::{Error, ErrorKind, Result};
use crate::hsm::{Command, KeyRecords, Manage, ObjectChange, Reply};

/// How long a change is tried again when others change the key meanwhile.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(2);
/// Aliases of one key.
const ALIASES: usize = 50;

/// What a request is about, as it is stored now.
#[derive(Default)]
struct Subject {
    keys: Option<KeyObjects>,
    alias: Option<Alias>,
    target: Option<KeyObjects>,
}

impl Subject {
    /// KMS_R_NOT_FOUND, KMS_R_LIMIT_EXCEEDED, CKR_ARGUMENTS_BAD.
    fn find(token: &Token, login: &Credentials, action: Manage, request: &Request) -> Result<Self> {
        let target = || {
            let target = token.key_objects(login, request.name("TargetKeyId")?)?;
            Ok::<_, Error>(target)
        };
        match action {
            Manage::CreateKey => Ok(Self::default()),
            Manage::CreateAlias => {
                let alias = token.alias(login, request.name("AliasName")?)?;
                let keys = target()?;
                if alias.is_none() {
                    token.check_alias_limit(login, &keys.id)?;
                }
                Ok(Self { keys: Some(keys), alias, target: None })
            }
            Manage::UpdateAlias | Manage::DeleteAlias => {
                let name = request.name("AliasName")?;
                let alias = token.alias(login, name)?.ok_or_else(|| unknown(name))?;
                let keys = match token.key_objects(login, &alias.key_id) {
                    // The key is gone, and its alias was made while it went.
                    Err(error) if error.kind() == ErrorKind::KmsNotFound && action == Manage::DeleteAlias => None,
                    keys => Some(keys?),
                };
                let target = if action == Manage::UpdateAlias { Some(target()?) } else { None };
                if let Some(target) = &target
                    && target.id != alias.key_id
                {
                    token.check_alias_limit(login, &target.id)?;
                }
                Ok(Self { keys, alias: Some(alias), target })
            }
            _ => Ok(Self { keys: Some(token.key_objects(login, request.name("KeyId")?)?), ..Self::default() }),
        }
    }
}

impl Module {
    /// Changes a managed key as a JSON request asks, and answers what is told of it: a key id, a
    /// grant id, or nothing. Needs a read/write session with a login. With `dry_run` nothing
    /// changes, and KMS_R_DRY_RUN says that it would have.
    pub fn manage(&self, session: SessionHandle, action: Manage, request: &str, dry_run: bool) -> Result<String> {
        let session = self.session(session)?;
        let state = session.enter()?;
        state.credentials.require_login()?;
        session.require_rw()?;
        let names = Request::parse(request)?;
        let (token, login) = (&session.token, &state.credentials);
        let limit = (action == Manage::CreateKey).then_some(self.settings.max_managed_keys);
        token.change_keys(login, action != Manage::CreateAlias, || {
            let subject = Subject::find(token, login, action, &names)?;
            let command = Command::Manage {
                action,
                keys: subject.keys.as_ref().map(KeyObjects::records),
                alias: subject.alias.as_ref().map(|alias| &alias.record),
                target: subject.target.as_ref().map(KeyObjects::records),
                request,
                dry_run,
            };
            let Reply::Managed { mut change, told } = token.ask(login, command)? else { return Err(unexpected()) };
            change.limit = limit;
            Ok((change, told))
        })
    }
}

impl Token {
    /// Makes a change of what is stored now and commits it; makes it anew if others were first.
    /// `again` says whether an object that is there already was another's, too.
    pub(in crate::cryptoki) fn change_keys<T>(
        &self,
        login: &Credentials,
        again: bool,
        mut make: impl FnMut() -> Result<(ObjectChange, T)>,
    ) -> Result<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (change, told) = make()?;
            if change == ObjectChange::default() {
                return Ok(told);
            }
            match self.commit(login, &change) {
                Ok(()) => return Ok(told),
                Err(error) if Instant::now() < deadline => match error.kind() {
                    ErrorKind::FunctionFailed | ErrorKind::ObjectHandleInvalid => {}
                    ErrorKind::KmsAlreadyExists if again => {}
                    _ => return Err(error),
                },
                Err(error) => return Err(error),
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Commits a change, and forgets the handles of what it deleted.
    fn commit(&self, _login: &Credentials, change: &ObjectChange) -> Result<()> {
        self.store.commit_change(change)?;
        for object in change.delete.iter().map(|(object, _)| object).chain(&change.purge) {
            self.objects.forget(object);
        }
        Ok(())
    }

    /// A key goes with its aliases, as they are now.
    pub(super) fn with_aliases(
        &self,
        login: &Credentials,
        id: &str,
        keys: KeyRecords<'_>,
        mut change: ObjectChange,
    ) -> Result<ObjectChange> {
        if change.delete.iter().any(|(object, _)| *object == keys.key.object) {
            for alias in self.aliases_of(login, id, usize::MAX)? {
                let generation = self.store.get(&alias.object)?.map(|record| record.generation);
                change.delete.extend(generation.map(|generation| (alias.object, generation)));
            }
        }
        Ok(change)
    }

    fn check_alias_limit(&self, login: &Credentials, id: &str) -> Result<()> {
        if self.aliases_of(login, id, ALIASES)?.len() >= ALIASES {
            return Err(ErrorKind::KmsLimitExceeded.with(format!("key {id} has {ALIASES} aliases already")));
        }
        Ok(())
    }
}
