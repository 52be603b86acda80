//! `conclave user`.

use cryptoki_sys as ck;
use serde_json::json;

use crate::args::UserSetPin;
use crate::output::{self, Failure};
use crate::pin;
use crate::session::Live;

pub(crate) fn set_pin(set: &UserSetPin, as_json: bool) -> Result<(), Failure> {
    let live = Live::public(set.login.token.as_deref())?;
    let (user, name) = match set.user.as_str() {
        "SO" => (ck::CKU_SO, None),
        "user" => (ck::CKU_USER, None),
        name => (ck::CKU_USER, Some(name.as_bytes())),
    };
    if !live.token.founded && (user, name) != (ck::CKU_USER, None) {
        return Err(Failure::usage("the SO governs this token: he sets the PIN of `user` and nobody else's"));
    }
    live.log_in(&set.login, ck::CKU_SO)?;
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
