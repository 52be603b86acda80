//! The library, its tokens, and a session with one of them.

use conclave::cryptoki::{Module, Options, SessionHandle, SlotId, TokenInfo};
use cryptoki_sys as ck;
use serde_json::Value;

use crate::args::{AtToken, Login};
use crate::output::Failure;
use crate::pin;
use conclave::text::hex;

/// The library as an application has it after C_Initialize.
pub(crate) fn open_module() -> Result<Module, Failure> {
    start(Options::default())
}

fn start(options: Options) -> Result<Module, Failure> {
    Module::new(options).map_err(|error| Failure::while_("cannot start the module", &error))
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

/// A token and a read/write session with it.
pub(crate) struct Live {
    pub(crate) module: Module,
    pub(crate) slot: SlotId,
    pub(crate) token: TokenInfo,
    pub(crate) session: SessionHandle,
}

impl Live {
    /// Without a login.
    pub(crate) fn public(token: Option<&str>) -> Result<Self, Failure> {
        Self::with(open_module()?, token)
    }

    /// The same, and the login will leave what is due to `run_due`.
    pub(crate) fn for_run_due(token: Option<&str>) -> Result<Self, Failure> {
        Self::with(start(Options { leaves_due_keys: true, ..Options::default() })?, token)
    }

    fn with(module: Module, token: Option<&str>) -> Result<Self, Failure> {
        let (slot, token) = find_token(&module, token)?;
        let session = open(&module, slot, ck::CKU_USER, "none")?;
        Ok(Self { module, slot, token, session })
    }

    pub(crate) fn at(at: &AtToken) -> Result<Self, Failure> {
        Self::public(at.token.as_deref())
    }

    /// Whether the token is a fleet's: there what operators signed needs no login.
    pub(crate) fn is_of_fleet(&self) -> bool {
        self.slot >= SlotId::from(conclave::config::FIRST_SLOT)
    }

    /// [`Self::log_in`] for what an embedded HSM does only with an open domain; at a fleet only if the
    /// arguments say how.
    pub(crate) fn log_in_if_needed(&self, login: &Login, default: ck::CK_USER_TYPE) -> Result<(), Failure> {
        if self.is_of_fleet() && login.pin.is_none() && login.so_pin.is_none() {
            return Ok(());
        }
        self.log_in(login, default)
    }

    /// Logs in as the arguments say; as `default` with a PIN asked for if they do not.
    pub(crate) fn log_in(&self, login: &Login, default: ck::CK_USER_TYPE) -> Result<(), Failure> {
        let Login { pin, so_pin, login_as, .. } = login;
        let user = match (so_pin, pin, login_as) {
            (Some(_), ..) => ck::CKU_SO,
            (None, None, None) => default,
            _ => ck::CKU_USER,
        };
        let source = so_pin.as_ref().or(pin.as_ref()).map_or("prompt", String::as_str);
        let whose = match (user, login_as) {
            (ck::CKU_SO, _) => "SO PIN".to_owned(),
            (_, Some(name)) => format!("PIN of {name:?}"),
            _ => "user PIN".to_owned(),
        };
        let pin = pin::read(source, &whose, false)?;
        let name = login_as.as_ref().map(String::as_bytes);
        self.module
            .login(self.session, user, Some(pin.as_bytes()), name)
            .map_err(|error| Failure::while_(&format!("the {whose} was not taken"), &error))
    }

    /// What the HSM says of the domain.
    pub(crate) fn domain(&self) -> Result<Value, Failure> {
        let described = self.module.describe_domain(self.session);
        parse(&described.map_err(|error| Failure::while_("cannot describe the domain", &error))?)
    }

    pub(crate) fn describe(&self, proposal: &[u8]) -> Result<Value, Failure> {
        let described = self.module.describe_proposal(self.session, proposal);
        parse(&described.map_err(|error| Failure::while_("cannot read the proposal", &error))?)
    }

    /// The pending proposals as the HSM describes them, oldest first.
    pub(crate) fn pending(&self) -> Result<Vec<Value>, Failure> {
        let list = self.module.proposals(self.session);
        let list = parse(&list.map_err(|error| Failure::while_("cannot list the proposals", &error))?)?;
        Ok(list.as_array().cloned().unwrap_or_default())
    }

    /// The pending proposal whose id begins so.
    pub(crate) fn pending_id(&self, beginning: &str) -> Result<Vec<u8>, Failure> {
        let list = self.pending()?;
        let mut found = list.iter().filter_map(|item| item["id"].as_str()).filter(|id| id.starts_with(beginning));
        match (found.next(), found.next()) {
            (Some(id), None) => unhex(id).ok_or_else(|| Failure::new("the token answered an id that is none")),
            (None, _) => Err(Failure::not_found(format!(
                "there is no pending proposal {beginning:?}: see `conclave proposal list`"
            ))),
            _ => Err(Failure::usage(format!("several pending proposals begin with {beginning:?}: give more digits"))),
        }
    }

    pub(crate) fn export(&self) -> Result<Vec<u8>, Failure> {
        let token = self.module.export_domain_token(self.session);
        token.map_err(|error| Failure::while_("cannot export the domain token", &error))
    }

    pub(crate) fn history(&self) -> Result<Vec<u8>, Failure> {
        let history = self.module.history(self.session);
        history.map_err(|error| Failure::while_("cannot give the history", &error))
    }

    /// Puts a proposal among the pending ones; answers it with all signatures there are.
    pub(crate) fn keep(&self, proposal: &[u8]) -> Result<Vec<u8>, Failure> {
        let kept = self.module.put_proposal(self.session, proposal);
        kept.map_err(|error| Failure::while_("cannot keep the proposal", &error))
    }
}

/// The bytes of a hexadecimal text.
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let bytes: Option<Vec<u8>> =
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect();
    bytes.filter(|bytes| hex(bytes) == text)
}

pub(crate) fn parse(text: &str) -> Result<Value, Failure> {
    serde_json::from_str(text).map_err(|_| Failure::new("the token answered what is not JSON"))
}
