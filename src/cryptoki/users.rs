//! Named users (C_LoginUser): the SO makes and removes them until operators govern.

use serde_json::{Value, json};

use super::login::changed;
use super::token::lock;
use super::{Module, SessionHandle};
use crate::error::{ErrorKind, Result};
use crate::hsm::Command;

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

    /// `{"Users": [{"Principal", "HasPin", "EnrolmentEnds"?}]}`: all who log in, the SO first. Needs no
    /// login.
    pub fn list_users(&self, session: SessionHandle) -> Result<String> {
        let described: Value = serde_json::from_str(&self.describe_domain(session)?).map_err(|_| unreadable())?;
        let users = described["users"].as_array().ok_or_else(unreadable)?;
        let listed = users.iter().map(|user| {
            let principal = match (user["role"].as_str(), user["role"]["named"].as_str()) {
                (Some("SO"), _) => "so".to_owned(),
                (Some(role), _) => role.to_owned(),
                (None, name) => format!("user:{}", name.ok_or_else(unreadable)?),
            };
            let mut one = json!({ "Principal": principal, "HasPin": user["has_pin"] });
            if let Some(until) = user["enrolment"]["until"].as_u64() {
                one["EnrolmentEnds"] = until.into();
            }
            Ok(one)
        });
        Ok(json!({ "Users": listed.collect::<Result<Vec<_>>>()? }).to_string())
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
            let change = changed(token.channel.call(&credentials.ticket, command())?)?;
            token.store.commit_domain(&change)
        })?;
        token.check()
    }
}

fn user_name(name: &[u8]) -> Result<&str> {
    std::str::from_utf8(name).map_err(|_| ErrorKind::ArgumentsBad.with("the name of a user is UTF-8"))
}

fn unreadable() -> crate::error::Error {
    ErrorKind::GeneralError.with("the HSM described the domain's users as something else")
}
