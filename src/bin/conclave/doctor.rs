//! `conclave doctor`: says why something does not work.

use std::process::ExitCode;
use std::time::Instant;

use conclave::cryptoki::{Module, Options};
use conclave::error::Error;
use conclave::hsm::governance;
use conclave::hsm::{Function, Mechanism, Outcome, Raw, Template};
use cryptoki_sys as ck;
use serde_json::json;

use crate::output;

/// What a check found.
enum Finding {
    Good(String),
    /// It works, but not as well as it could.
    Weak(String),
    Bad(String),
}

struct Report(Vec<(&'static str, Finding)>);

impl Report {
    fn add(&mut self, check: &'static str, finding: Finding) {
        self.0.push((check, finding));
    }
}

pub(crate) fn run(as_json: bool) -> ExitCode {
    let mut report = Report(Vec::new());
    check_configuration(&mut report);
    check_memory(&mut report);
    if let Some(module) = check_start(&mut report) {
        check_tokens(&mut report, &module);
    }
    print(&report, as_json)
}

fn check_configuration(report: &mut Report) {
    let finding = match conclave::config::Config::load() {
        Ok(config) => match &config.file {
            Some(path) => {
                Finding::Good(format!("{} is read; data is in {}", path.display(), config.data_dir.display()))
            }
            None => Finding::Good(format!("there is no file, defaults hold; data is in {}", config.data_dir.display())),
        },
        Err(error) => Finding::Bad(error.to_string()),
    };
    report.add("configuration", finding);
}

/// Key material is locked into memory as far as the limit allows.
fn check_memory(report: &mut Report) {
    let limit = std::fs::read_to_string("/proc/self/limits").ok().and_then(|limits| {
        let line = limits.lines().find(|line| line.starts_with("Max locked memory"))?;
        line.split_whitespace().nth(3).map(str::to_owned)
    });
    report.add(
        "locked memory",
        match limit.as_deref() {
            Some("unlimited") => Finding::Good("no limit".to_owned()),
            Some(bytes) if bytes.parse::<u64>().is_ok_and(|bytes| bytes >= 1 << 20) => {
                Finding::Good(format!("up to {bytes} bytes"))
            }
            Some(bytes) => Finding::Weak(format!(
                "only {bytes} bytes may be locked, so key material may reach swap: raise `ulimit -l` (LimitMEMLOCK= of a service)"
            )),
            None => Finding::Weak("the limit cannot be read".to_owned()),
        },
    );
}

fn check_start(report: &mut Report) -> Option<Module> {
    let begun = Instant::now();
    match Module::new(Options::default()) {
        Ok(module) => {
            report.add(
                "start",
                Finding::Good(format!("the module starts in {:.1} ms", 1e3 * begun.elapsed().as_secs_f64())),
            );
            Some(module)
        }
        Err(error) => {
            report.add("start", Finding::Bad(format!("C_Initialize fails with {}: {error}", error.kind().name())));
            None
        }
    }
}

fn check_tokens(report: &mut Report, module: &Module) {
    let slots = match module.slot_list(true, true) {
        Ok(slots) => slots,
        Err(error) => return report.add("slots", Finding::Bad(error.to_string())),
    };
    let mut ready = Vec::new();
    for slot in &slots {
        match module.token_info(*slot) {
            Ok(info) if info.flags & ck::CKF_TOKEN_INITIALIZED == 0 => {}
            Ok(info) => {
                ready.push(*slot);
                let has = |flag| info.flags & flag != 0;
                report.add(
                    "token",
                    match () {
                        () if has(ck::CKF_SO_PIN_LOCKED) => Finding::Bad(format!(
                            "{:?} (slot {slot}): the SO PIN is locked; only `conclave token destroy` is left for the SO",
                            info.label
                        )),
                        () if has(ck::CKF_USER_PIN_LOCKED) => Finding::Bad(format!(
                            "{:?} (slot {slot}): the user PIN is locked; the SO sets a new one with \
                             `pkcs11-tool --login --login-type so --init-pin`",
                            info.label
                        )),
                        () if !has(ck::CKF_USER_PIN_INITIALIZED) => Finding::Weak(format!(
                            "{:?} (slot {slot}): the user PIN is not set; the SO sets it with \
                             `pkcs11-tool --login --login-type so --init-pin`",
                            info.label
                        )),
                        () if has(ck::CKF_USER_PIN_COUNT_LOW) || has(ck::CKF_SO_PIN_COUNT_LOW) => Finding::Weak(
                            format!("{:?} (slot {slot}): wrong PINs were entered since the last login", info.label),
                        ),
                        () => Finding::Good(format!("{:?} (slot {slot}) is ready", info.label)),
                    },
                );
                if info.founded {
                    report.add("log", check_log(module, *slot, &info.label));
                }
            }
            Err(error) => report.add("token", Finding::Bad(format!("slot {slot} cannot be read: {error}"))),
        }
    }
    if ready.is_empty() {
        report
            .add("token", Finding::Weak("there is none: make one with `conclave token init --label NAME`".to_owned()));
    }
    if let Some(slot) = ready.first() {
        report.add(
            "self-test",
            match self_test(module, *slot) {
                Ok(()) => Finding::Good("a session key signs, verifies, and a forgery is refused".to_owned()),
                Err(error) => Finding::Bad(format!("{} ({})", error, error.kind().name())),
            },
        );
    }
}

/// Whether the stored log leads from the founding to the newest state.
fn check_log(module: &Module, slot: ck::CK_SLOT_ID, label: &str) -> Finding {
    let verified = module.open_session(slot, ck::CKF_SERIAL_SESSION).and_then(|session| {
        let history = module.history(session);
        module.close_session(session)?;
        governance::verify_history(&history?)
    });
    match verified {
        Ok(entries) => Finding::Good(format!("{label:?}: all {} entries verify", entries.len())),
        Err(error) => Finding::Bad(format!("{label:?}: who approved what cannot be shown: {error}")),
    }
}

/// Uses a session key, which needs no login and leaves nothing behind.
fn self_test(module: &Module, slot: ck::CK_SLOT_ID) -> Result<(), Error> {
    let session = module.open_session(slot, ck::CKF_SERIAL_SESSION)?;
    let length: [u8; 8] = 32u64.to_ne_bytes();
    let template = Template(vec![(ck::CKA_VALUE_LEN, Raw::Bytes(&length)), (ck::CKA_PRIVATE, Raw::Bytes(&[0]))]);
    let key = module.generate_key(session, &Mechanism::new(ck::CKM_GENERIC_SECRET_KEY_GEN), &template)?;
    let mechanism = Mechanism::new(ck::CKM_SHA256_HMAC);
    let mut mac = [0; 32];
    module.init(session, Function::Sign, Some(&mechanism), key)?;
    match module.one_shot(session, Function::Sign, b"doctor", Some(&mut mac))? {
        Outcome::Written(32) => {}
        other => return Err(conclave::error::ErrorKind::GeneralError.with(format!("a MAC gave {other:?}"))),
    }
    module.init(session, Function::Verify, Some(&mechanism), key)?;
    module.verify(session, b"doctor", &mac)?;
    mac[0] ^= 1;
    module.init(session, Function::Verify, Some(&mechanism), key)?;
    if module.verify(session, b"doctor", &mac).is_ok() {
        return Err(conclave::error::ErrorKind::GeneralError.with("a forged MAC verified"));
    }
    module.close_session(session)
}

fn print(report: &Report, as_json: bool) -> ExitCode {
    let mut failed = false;
    let mut list = Vec::new();
    for (check, finding) in &report.0 {
        let (mark, status, text) = match finding {
            Finding::Good(text) => ("ok  ", "ok", text),
            Finding::Weak(text) => ("warn", "warning", text),
            Finding::Bad(text) => {
                failed = true;
                ("FAIL", "failed", text)
            }
        };
        if as_json {
            list.push(json!({ "check": check, "status": status, "text": text }));
        } else {
            println!("{mark}  {check}: {text}");
        }
    }
    if as_json {
        output::json(&json!(list));
    }
    ExitCode::from(u8::from(failed))
}
