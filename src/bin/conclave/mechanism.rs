//! `conclave mechanisms`: the table of mechanisms, as the module itself has it.

use conclave::hsm::{self, MechanismInfo};
use cryptoki_sys as ck;
use serde_json::json;

use crate::output::{self, Failure};

const FUNCTIONS: &[(ck::CK_FLAGS, &str)] = &[
    (ck::CKF_ENCRYPT, "encrypt"),
    (ck::CKF_DECRYPT, "decrypt"),
    (ck::CKF_DIGEST, "digest"),
    (ck::CKF_SIGN, "sign"),
    (ck::CKF_SIGN_RECOVER, "sign-recover"),
    (ck::CKF_VERIFY, "verify"),
    (ck::CKF_VERIFY_RECOVER, "verify-recover"),
    (ck::CKF_GENERATE, "generate"),
    (ck::CKF_GENERATE_KEY_PAIR, "generate pair"),
    (ck::CKF_WRAP, "wrap"),
    (ck::CKF_UNWRAP, "unwrap"),
    (ck::CKF_DERIVE, "derive"),
];

pub(crate) fn list(as_json: bool) -> Result<(), Failure> {
    let mut all: Vec<MechanismInfo> = hsm::mechanisms().collect();
    all.sort_by_key(|info| info.name);
    if as_json {
        let list: Vec<_> = all
            .iter()
            .map(|info| {
                json!({
                    "name": info.name, "type": info.kind, "min_key_size": info.min_key,
                    "max_key_size": info.max_key, "flags": info.flags, "functions": functions(info),
                })
            })
            .collect();
        output::json(&json!(list));
    } else {
        let rows: Vec<_> =
            all.iter().map(|info| vec![info.name.to_owned(), sizes(info), functions(info).join(", ")]).collect();
        output::table(&["MECHANISM", "KEY SIZES", "FUNCTIONS"], &rows);
    }
    Ok(())
}

fn functions(info: &MechanismInfo) -> Vec<&'static str> {
    FUNCTIONS.iter().filter(|(flag, _)| info.flags & flag != 0).map(|(_, name)| *name).collect()
}

fn sizes(info: &MechanismInfo) -> String {
    match (info.min_key, info.max_key) {
        (0, 0) => String::new(),
        (min, max) if min == max => min.to_string(),
        (min, max) => format!("{min}–{max}"),
    }
}
