//! The library, its tokens, and a session with one of them.

use conclave::cryptoki::{Module, Options, SessionHandle, SlotId, TokenInfo};
use cryptoki_sys as ck;

use crate::output::Failure;
use crate::pin;

/// The library as an application has it after C_Initialize.
pub(crate) fn open_module() -> Result<Module, Failure> {
    Module::new(Options::default()).map_err(|error| Failure::while_("cannot start the module", &error))
}

/// The initialised tokens and their slots.
pub(crate) fn tokens(module: &Module) -> Result<Vec<(SlotId, TokenInfo)>, Failure> {
    let slots = module.slot_list(true, true).map_err(|error| Failure::while_("cannot list the tokens", &error))?;
    let mut tokens = Vec::with_capacity(slots.len());
    for slot in slots {
        let info = module
            .token_info(slot)
            .map_err(|error| Failure::while_(&format!("cannot read the token of slot {slot}"), &error))?;
        if info.flags & ck::CKF_TOKEN_INITIALIZED != 0 {
            tokens.push((slot, info));
        }
    }
    Ok(tokens)
}

/// The token that is meant: by label, serial number or slot id, or the only one.
pub(crate) fn find_token(module: &Module, name: Option<&str>) -> Result<(SlotId, TokenInfo), Failure> {
    let mut tokens = tokens(module)?;
    let Some(name) = name else {
        return match tokens.len() {
            0 => Err(Failure::not_found("there is no token: make one with `conclave token init`")),
            1 => Ok(tokens.remove(0)),
            n => Err(Failure::usage(format!("there are {n} tokens: say which with --token"))),
        };
    };
    let mut found: Vec<_> = tokens
        .drain(..)
        .filter(|(slot, info)| info.label == name || info.serial == name || slot.to_string() == name)
        .collect();
    match found.len() {
        0 => Err(Failure::not_found(format!("there is no token {name:?}: see `conclave token list`"))),
        1 => Ok(found.remove(0)),
        n => Err(Failure::usage(format!("{n} tokens are called {name:?}: use the serial number or slot id"))),
    }
}

/// A read/write session, logged in unless the PIN's source is `none`.
pub(crate) fn open(
    module: &Module,
    slot: SlotId,
    user: ck::CK_USER_TYPE,
    source: &str,
) -> Result<SessionHandle, Failure> {
    let session = module
        .open_session(slot, ck::CKF_SERIAL_SESSION | ck::CKF_RW_SESSION)
        .map_err(|error| Failure::while_("cannot open a session", &error))?;
    if source != "none" {
        let whose = if user == ck::CKU_SO { "SO PIN" } else { "user PIN" };
        let pin = pin::read(source, whose, false)?;
        module
            .login(session, user, Some(pin.as_bytes()), None)
            .map_err(|error| Failure::while_(&format!("the {whose} was not taken"), &error))?;
    }
    Ok(session)
}
