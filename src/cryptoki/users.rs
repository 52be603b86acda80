//! Named users (C_LoginUser): the SO makes and removes them until operators govern.

use serde_json::{Value, json};

use super::login::changed;
use super::token::{Token, lock};
use super::{Module, SessionHandle};
use crate::error::{ErrorKind, Result};
use crate::hsm::{Command, Reply, Role, Ticket};

impl Module {
    /// Makes a user with a PIN. CKR_USER_NOT_LOGGED_IN but for the SO, KMS_R_ALREADY_EXISTS,
    /// CKR_PIN_LEN_RANGE; CKR_TOKEN_WRITE_PROTECTED where operators govern.
    pub fn create_user(&self, session: SessionHandle, name: &[u8], pin: Option<&[u8]>) -> Result<()> {
        let name = user_name(name)?;
        let pin = self.new_pin(pin)?;
        let cost = self.settings.pin.cost;
        self.change_users(session, || Command::CreateUser { name, pin, cost })
    }

    /// Removes a user with his PIN; his logins end. What he owns stays, and so do policies and grants
    /// that name him. KMS_R_NOT_FOUND, and as [`Self::create_user`].
    pub fn remove_user(&self, session: SessionHandle, name: &[u8]) -> Result<()> {
        let name = user_name(name)?;
        self.change_users(session, || Command::RemoveUser { name })
    }

    /// Who can log in, as KMS_ListUsers tells it.
    pub fn list_users(&self, session: SessionHandle) -> Result<String> {
        let session = self.session(session)?;
        drop(session.enter()?);
        Ok(session.token.list_users()?.to_string())
    }

    fn change_users<'a>(&self, session: SessionHandle, command: impl Fn() -> Command<'a>) -> Result<()> {
        let session = self.session(session)?;
        let credentials = session.enter()?.credentials.clone();
        if !credentials.is_so() {
            return Err(ErrorKind::UserNotLoggedIn.with("users are made and removed by the SO"));
        }
        let token = &session.token;
        let _gate = lock(&token.gate);
        super::login::retry(|| {
            token.look_anew()?;
            let change = changed(token.audited(true, || token.channel.call(&credentials.ticket, command()))?)?;
            token.store.commit_domain(&change)
        })?;
        token.check()
    }
}

impl Token {
    /// `{"Users": [{"Principal", "HasPin", "FailedAttempts"?, "EnrolmentEnds"?}]}`: all who log in, the
    /// SO first. Needs no login.
    pub(super) fn list_users(&self) -> Result<Value> {
        let described = match self.channel.call(&Ticket::public(), Command::DescribeDomain)? {
            Reply::Text(text) => serde_json::from_str::<Value>(&text).map_err(|_| unreadable())?,
            _ => return Err(unreadable()),
        };
        let pins = self.meta()?.pins;
        let users = described["users"].as_array().ok_or_else(unreadable)?.iter().map(|user| {
            let role = match (user["role"].as_str(), user["role"]["named"].as_str()) {
                (Some("SO"), _) => Role::So,
                (Some(_), _) => Role::User,
                (None, name) => Role::Named(name.ok_or_else(unreadable)?.to_owned()),
            };
            let mut listed = json!({ "Principal": &*role.principal(), "HasPin": user["has_pin"] });
            if let Some(pin) = pins.iter().find(|pin| pin.record.role == role) {
                listed["FailedAttempts"] = pin.failures.into();
            }
            if let Some(until) = user["enrolment"]["until"].as_u64() {
                listed["EnrolmentEnds"] = until.into();
            }
            Ok(listed)
        });
        Ok(json!({ "Users": users.collect::<Result<Vec<_>>>()? }))
    }
}

fn user_name(name: &[u8]) -> Result<&str> {
    std::str::from_utf8(name).map_err(|_| ErrorKind::ArgumentsBad.with("the name of a user is UTF-8"))
}

fn unreadable() -> crate::error::Error {
    ErrorKind::GeneralError.with("the HSM described the domain's users as something else")
}
