//! `conclave token`.

use conclave::cryptoki::TokenInfo;
use cryptoki_sys as ck;
use serde_json::json;

use crate::args::{TokenDestroy, TokenInit};
use crate::output::{self, Failure};
use crate::{pin, session};

pub(crate) fn list(as_json: bool) -> Result<(), Failure> {
    let module = session::open_module()?;
    let tokens = session::tokens(&module)?;
    if as_json {
        let list: Vec<_> = tokens
            .iter()
            .map(|(slot, info)| {
                json!({
                    "slot": slot, "label": info.label, "serial": info.serial, "model": info.model,
                    "user_pin": pin_state(info, true), "so_pin": pin_state(info, false),
                    "governed_by": governor(info),
                })
            })
            .collect();
        output::json(&json!(list));
    } else if tokens.is_empty() {
        println!("There is no token. Make one with `conclave token init --label NAME`.");
    } else {
        let rows: Vec<_> = tokens
            .iter()
            .map(|(slot, info)| {
                vec![
                    slot.to_string(),
                    info.label.escape_debug().to_string(),
                    info.serial.clone(),
                    pin_state(info, true).to_owned(),
                    pin_state(info, false).to_owned(),
                    governor(info).to_owned(),
                ]
            })
            .collect();
        output::table(&["SLOT", "LABEL", "SERIAL", "USER PIN", "SO PIN", "GOVERNED BY"], &rows);
    }
    Ok(())
}

pub(crate) fn init(arguments: &TokenInit, as_json: bool) -> Result<(), Failure> {
    if arguments.label.is_empty() || arguments.label.len() > 32 {
        return Err(Failure::usage("the label must have 1 to 32 bytes"));
    }
    let module = session::open_module()?;
    let slots = module.slot_list(false, true).map_err(|error| Failure::while_("cannot list the slots", &error))?;
    let mut free = None;
    for slot in slots {
        if module.token_info(slot).is_ok_and(|info| info.flags & ck::CKF_TOKEN_INITIALIZED == 0) {
            free = Some(slot);
        }
    }
    let slot = free.ok_or_else(|| Failure::new("there is no free slot: `free_slot = false` in the configuration"))?;
    let so_pin = pin::read(&arguments.so_pin, "new SO PIN", true)?;
    let user_pin = pin::read(&arguments.pin, "new user PIN", true)?;
    let mut label = [b' '; 32];
    label[..arguments.label.len()].copy_from_slice(arguments.label.as_bytes());
    module
        .init_token(slot, Some(so_pin.as_bytes()), &label)
        .map_err(|error| Failure::while_("cannot initialise the token", &error))?;
    let session = module
        .open_session(slot, ck::CKF_SERIAL_SESSION | ck::CKF_RW_SESSION)
        .map_err(|error| Failure::while_("cannot open a session", &error))?;
    module
        .login(session, ck::CKU_SO, Some(so_pin.as_bytes()), None)
        .and_then(|()| module.init_pin(session, Some(user_pin.as_bytes())))
        .map_err(|error| {
            Failure::while_(&format!("the token in slot {slot} was made, but its user PIN could not be set"), &error)
        })?;
    let info = module.token_info(slot).map_err(|error| Failure::while_("cannot read the new token", &error))?;
    output::done(
        as_json,
        &format!("Token {:?} is ready in slot {slot}, serial number {}.", info.label, info.serial),
        &json!({ "slot": slot, "label": info.label, "serial": info.serial }),
    );
    Ok(())
}

pub(crate) fn destroy(arguments: &TokenDestroy, as_json: bool) -> Result<(), Failure> {
    let module = session::open_module()?;
    let (slot, info) = session::find_token(&module, Some(&arguments.token))?;
    output::confirm(
        &format!(
            "This destroys token {:?} (slot {slot}, serial number {}) and every key in it. It cannot be undone.",
            info.label, info.serial
        ),
        &info.label,
        arguments.yes,
    )?;
    module
        .destroy_token(slot, arguments.with_managed_keys)
        .map_err(|error| Failure::while_("cannot destroy the token", &error))?;
    output::done(as_json, &format!("Token {:?} was destroyed.", info.label), &json!({ "destroyed": info.serial }));
    Ok(())
}

/// Who may change the token as a whole.
fn governor(info: &TokenInfo) -> &'static str {
    if info.founded { "operators" } else { "SO" }
}

fn pin_state(info: &TokenInfo, user: bool) -> &'static str {
    let has = |flag| info.flags & flag != 0;
    if user {
        match () {
            () if !has(ck::CKF_USER_PIN_INITIALIZED) => "not set",
            () if has(ck::CKF_USER_PIN_LOCKED) => "locked",
            () if has(ck::CKF_USER_PIN_FINAL_TRY) => "last try",
            () if has(ck::CKF_USER_PIN_COUNT_LOW) => "wrong tries",
            () => "ok",
        }
    } else {
        match () {
            () if has(ck::CKF_SO_PIN_LOCKED) => "locked",
            () if has(ck::CKF_SO_PIN_FINAL_TRY) => "last try",
            () if has(ck::CKF_SO_PIN_COUNT_LOW) => "wrong tries",
            () => "ok",
        }
    }
}
