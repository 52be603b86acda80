//! `conclave user`.

use conclave::error::{Error, ErrorKind};
use cryptoki_sys as ck;
use serde_json::{Value, json};

use crate::args::{AtToken, Login, UserAdd, UserCommand, UserRemove, UserSetPin};
use crate::output::{self, Failure};
use crate::pin;
use crate::session::Live;

pub(crate) fn run(command: &UserCommand, as_json: bool) -> Result<(), Failure> {
    match command {
        UserCommand::Add(add) => self::add(add, as_json),
        UserCommand::Remove(remove) => self::remove(remove, as_json),
        UserCommand::List(at) => list(at, as_json),
        UserCommand::SetPin(set) => set_pin(set, as_json),
    }
}

fn add(add: &UserAdd, as_json: bool) -> Result<(), Failure> {
    let live = as_so(&add.at, &add.so_pin)?;
    let pin = pin::read(&add.new_pin, &format!("PIN of {:?}", add.name), true)?;
    let (name, label) = (&add.name, &live.token.label);
    let made = live.module.create_user(live.session, name.as_bytes(), Some(pin.as_bytes()));
    made.map_err(|error| failure("the user was not made", &error))?;
    let sentence = format!("The user {name:?} is made in token {label:?}.");
    output::done(as_json, &sentence, &json!({ "user": name, "principal": format!("user:{name}"), "token": label }));
    Ok(())
}

fn remove(remove: &UserRemove, as_json: bool) -> Result<(), Failure> {
    let (name, at) = (&remove.name, &remove.at);
    let question = format!("This removes the user {name:?}. Keys that only this user may use or change stay so.");
    output::confirm(&question, name, remove.yes)?;
    let live = as_so(at, &remove.so_pin)?;
    let removed = live.module.remove_user(live.session, name.as_bytes());
    removed.map_err(|error| failure("the user was not removed", &error))?;
    let label = &live.token.label;
    let sentence = format!("The user {name:?} is removed from token {label:?}.");
    output::done(as_json, &sentence, &json!({ "user": name, "token": label }));
    Ok(())
}

fn list(at: &AtToken, as_json: bool) -> Result<(), Failure> {
    let live = Live::at(at)?;
    let listed = live.module.list_users(live.session);
    let listed = listed.map_err(|error| Failure::while_("cannot list the users", &error))?;
    let listed: Value =
        serde_json::from_str(&listed).map_err(|_| Failure::new("the token answered what is not JSON"))?;
    if as_json {
        output::json(&listed["Users"]);
        return Ok(());
    }
    const COLUMNS: [&str; 3] = ["Principal", "HasPin", "EnrolmentEnds@"];
    let row = |user: &Value| COLUMNS.iter().map(|column| output::cell(user, column)).collect();
    let rows: Vec<Vec<String>> = output::items(&listed["Users"]).iter().map(row).collect();
    output::table(&["PRINCIPAL", "HAS PIN", "MAY SET ONE UNTIL"], &rows);
    Ok(())
}

/// The token with the SO logged in.
fn as_so(at: &AtToken, so_pin: &str) -> Result<Live, Failure> {
    let live = Live::at(at)?;
    let login = Login { token: None, pin: None, so_pin: Some(so_pin.to_owned()), login_as: None };
    live.log_in(&login, ck::CKU_SO).map(|()| live)
}

fn failure(what: &str, error: &Error) -> Failure {
    match error.kind() {
        ErrorKind::KmsNotFound => Failure::not_found(format!("{what}: {error}")),
        ErrorKind::TokenWriteProtected => Failure::refused(format!("{what}: {error}")),
        _ => Failure::while_(what, error),
    }
}

fn set_pin(set: &UserSetPin, as_json: bool) -> Result<(), Failure> {
    let live = Live::public(set.login.token.as_deref())?;
    let (user, name) = match set.user.as_str() {
        "SO" => (ck::CKU_SO, None),
        "user" => (ck::CKU_USER, None),
        name => (ck::CKU_USER, Some(name.as_bytes())),
    };
    if !live.token.founded && (user, name) != (ck::CKU_USER, None) {
        return Err(Failure::usage(
            "the SO governs this token: he sets the PIN of `user`, and that of a named user only by making the user \
             anew (`conclave user remove`, `conclave user add`)",
        ));
    }
    live.log_in_if_needed(&set.login, ck::CKU_SO)?;
    let code = set.code.as_deref().map(|source| pin::read(source, "enrolment code", false)).transpose()?;
    let pin = pin::read(&set.new_pin, "new PIN", true)?;
    let (code, pin) = (code.as_ref().map(|code| code.as_bytes()), Some(pin.as_bytes()));
    let done = match live.token.founded {
        true => live.module.set_enrolled_pin(live.session, user, name, code, pin),
        false => live.module.init_pin(live.session, pin),
    };
    done.map_err(|error| Failure::while_("the PIN was not set", &error))?;
    let (label, who) = (&live.token.label, &set.user);
    output::done(
        as_json,
        &format!("The PIN of {who:?} is set in token {label:?}."),
        &json!({ "user": who, "token": label }),
    );
    Ok(())
}
