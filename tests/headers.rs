//! The headers in `include/`: what the build generates, and that C and C++ compilers take them.

use std::path::Path;
use std::process::Command;
use std::{env, fs};

const HEADERS: [&str; 2] = ["conclave.h", "conclave_pkcs11.h"];

/// `CONCLAVE_UPDATE_HEADERS=1` writes them instead (`make headers`).
#[test]
fn the_headers_in_include_are_current() {
    for header in HEADERS {
        let generated = fs::read_to_string(Path::new(env!("CONCLAVE_HEADERS")).join(header)).unwrap();
        let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("include").join(header);
        if env::var_os("CONCLAVE_UPDATE_HEADERS").is_some() {
            fs::write(&committed, &generated).unwrap();
        }
        let current = fs::read_to_string(&committed).is_ok_and(|text| text == generated);
        assert!(current, "include/{header} is stale: run `make headers`");
    }
}

/// Uses a type, a constant and a function of each kind.
const PROGRAM: &str = r#"
int use(void);
int use(void)
{
    CK_ATTRIBUTE attribute = {CKA_CLASS, 0, 0};
    CK_MECHANISM mechanism = {CKM_AES_GCM, 0, 0};
    CK_FUNCTION_LIST_PTR list = 0;
    CK_RV rv = C_GetFunctionList(&list);
    CK_ULONG len = 0;
    KMS_FUNCTION_LIST vendor;
    KMS_BYTES contribution = {0, KMS_MAX_CLAIM_LEN};
    vendor.KMS_LastError = KMS_LastError;
    vendor.KMS_Recover = KMS_Recover;
    if (rv == CKR_OK)
        rv = list->C_EncryptInit(0, &mechanism, CK_INVALID_HANDLE);
    if (rv != CKR_OK)
        rv = vendor.KMS_LastError(0, &len);
    if (rv != CKR_OK)
        rv = vendor.KMS_Recover(0, 0, 0, 0, 0, &contribution, 1);
    return attribute.type == CKA_CLASS && sizeof KMS_INTERFACE_NAME > 1 && rv == CKR_OK;
}
"#;

/// Uses what only 3.x has.
const PROGRAM_3: &str = r#"
int use_3(CK_INTERFACE_PTR interface);
int use_3(CK_INTERFACE_PTR interface)
{
    CK_FUNCTION_LIST_3_2_PTR list = (CK_FUNCTION_LIST_3_2_PTR)interface->pFunctionList;
    CK_GCM_PARAMS gcm = {0, 12, 96, 0, 0, 128};
    CK_HKDF_PARAMS hkdf = {CK_TRUE, CK_TRUE, CKM_SHA256, CKF_HKDF_SALT_NULL, 0, 0, 0, 0, 0};
    return list->C_SessionCancel(1, CKF_ENCRYPT) == CKR_OK && gcm.ulIvLen == 12 && hkdf.bExtract == CK_TRUE
        && gcm.ulTagBits != CK_UNAVAILABLE_INFORMATION && C_GetInterface == list->C_GetInterface;
}
"#;

#[test]
fn the_headers_compile_alone_and_after_those_of_p11_kit_and_nss() {
    let p11_kit = "/usr/include/p11-kit-1/p11-kit/pkcs11.h";
    let nss = "/usr/include/nss/pkcs11.h";
    let mut compiled = 0;
    for (compiler, standard) in [("gcc", "c99"), ("clang", "c99"), ("g++", "c++17"), ("clang++", "c++17")] {
        if Command::new(compiler).arg("--version").output().is_err() {
            eprintln!("{compiler} is not installed");
            continue;
        }
        for before in [None, Some(p11_kit), Some(nss)] {
            if before.is_some_and(|header| !Path::new(header).exists()) {
                eprintln!("{} is not installed", before.unwrap_or_default());
                continue;
            }
            compile(compiler, standard, before);
            compiled += 1;
        }
    }
    assert_ne!(compiled, 0, "there is no C compiler");
}

fn compile(compiler: &str, standard: &str, before: Option<&str>) {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join(if standard.starts_with("c++") { "use.cpp" } else { "use.c" });
    let first = before.map(|header| format!("#include \"{header}\"\n")).unwrap_or_default();
    let more = if before.is_none() { PROGRAM_3 } else { "" };
    // Twice, since a header may be included twice.
    let headers = "#include \"conclave.h\"\n#include \"conclave_pkcs11.h\"\n#include \"conclave.h\"\n";
    fs::write(&source, format!("{first}{headers}{PROGRAM}{more}")).unwrap();
    let output = Command::new(compiler)
        .arg(format!("-std={standard}"))
        .args(["-Wall", "-Wextra", "-pedantic", "-Werror", "-fsyntax-only", "-isystem", "/usr/include/nspr"])
        .arg(concat!("-I", env!("CARGO_MANIFEST_DIR"), "/include"))
        .arg(&source)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{compiler} -std={standard} after {before:?}:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
