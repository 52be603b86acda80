//! Linker settings of the module, and its C headers, which are written to OUT_DIR.
//!
//! `conclave.h` has the KMS_ functions, `conclave_pkcs11.h` the C_ functions and what PKCS#11
//! declares; the first comes from `src/abi`, the second from there and from `cryptoki-sys`.
//! `tests/headers.rs` compares them with `include/`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use cbindgen::{Builder, Config, DocumentationStyle, ExportConfig, Language, Style};

fn main() {
    // Never unloaded (AWS-LC leaves a hook at the thread's end), own symbols first, nothing lazy.
    for argument in ["-z,nodelete", "-z,now", "-z,relro", "-Bsymbolic", "-soname,libconclave.so"] {
        println!("cargo:rustc-cdylib-link-arg=-Wl,{argument}");
    }
    for path in ["build.rs", "Cargo.lock", ENTRY, VENDOR, ATTRIBUTES, ERRORS] {
        println!("cargo:rerun-if-changed={path}");
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    println!("cargo:rustc-env=CONCLAVE_HEADERS={}", out.display());
    let bindings = fs::read_to_string(bindings()).expect("the bindings of cryptoki-sys can be read");
    write(&out.join("conclave_pkcs11.h"), &pkcs11_header(&bindings, &out));
    write(&out.join("conclave.h"), &vendor_header());
}

const ENTRY: &str = "src/abi/entry";
const VENDOR: &str = "src/abi/vendor";
/// The tables of the vendor's numbers.
const ATTRIBUTES: &str = "src/hsm/managed/attributes.rs";
const ERRORS: &str = "src/error.rs";

/// Macros by which other pkcs11.h files are known: p11-kit's, OASIS's and NSS's, the one in the
/// public domain, opencryptoki's; and the one constant that all of them define.
const OTHERS: &[&str] =
    &["PKCS11_H", "_PKCS11_H_", "_PKCS11T_H_", "_PD_PKCS11_", "_PKCS11TYPES_H", "CRYPTOKI_H", "CKR_OK"];

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

fn config(style: Style) -> Config {
    Config {
        language: Language::C,
        cpp_compat: true,
        no_includes: true,
        style,
        documentation_style: DocumentationStyle::C,
        line_length: 110,
        ..Config::default()
    }
}

/// What holds for each of the vendor's functions.
const CONVENTIONS: &str = "\
/* How an embedded token's domain is governed. The token's HSM obeys commands that enough of its
   operators have signed. Somebody proposes a command (KMS_Propose), operators look at it
   (KMS_DescribeProposal), sign it with keys that only they hold (KMS_BytesToSign, then
   KMS_AddSignature), and somebody who is logged in has it executed (KMS_Execute). Proposals, domain
   tokens and histories are public and may travel in any way. docs/protocols.md has their formats.

   Arguments. Inputs stay the caller's; they are not changed, and not kept after the call. NULL with
   length 0 is an empty input. Outputs go to memory of the caller's, as C_Sign's does: with the buffer
   NULL the function only gives the length needed; with a buffer, *pul...Len is its size before and
   the output's length after the call. In these two cases, and whenever the buffer is too small
   (CKR_BUFFER_TOO_SMALL, with the length needed), nothing else has changed. Text is UTF-8 without a
   NUL at the end. Functions may be called from several threads at once.

   Return codes. Each function says which it gives and when. All of them also give
   CKR_ARGUMENTS_BAD for NULL where there must be something, for a length that cannot be, and for
   an input longer than 16 MiB; CKR_CRYPTOKI_NOT_INITIALIZED before C_Initialize;
   CKR_SESSION_HANDLE_INVALID and CKR_SESSION_CLOSED; CKR_DEVICE_REMOVED if the token was initialised
   anew; CKR_FUNCTION_FAILED if another process changed the domain meanwhile, and then the call may
   be made again; CKR_DEVICE_ERROR if the store fails or shows an older state than it has shown;
   CKR_HOST_MEMORY and CKR_GENERAL_ERROR. KMS_LastError says more.

   Managed keys have an id, aliases, one usage, a state, versions of their material, and a waiting
   period before their deletion; the README tells of them. They are objects of the token as others
   are: C_FindObjects finds them, and the standard's functions do with them what their usage allows.
   KeyId in a request, and pKey, is a key id or \"alias/NAME\". Requests and answers are JSON in UTF-8,
   times in them are seconds since 1970, and \"NUMBER?\" and the like may be left out. flags is 0 or KMS_DRY_RUN:
   then everything is checked, nothing is done, and KMS_R_DRY_RUN is the answer instead of CKR_OK.
   Functions of managed keys need a user's login, and a read/write session if they change something.
   They also give CKR_USER_NOT_LOGGED_IN; CKR_SESSION_READ_ONLY; CKR_ARGUMENTS_BAD for a request that is not
   JSON, lacks a member, or has one that there is not, and for flags that there are not; KMS_R_NOT_FOUND
   for a key or alias that is not in the token; and KMS_R_ACCESS_DENIED. The standard's functions have no
   vendor codes: they give CKR_KEY_FUNCTION_NOT_PERMITTED where a state, a usage or a policy forbids.

   Multi-Region keys. A Region is a domain; Regions that trust each other by their operators' command
   have keys in common. One is a key's primary, others have replicas, and what one encrypted or signed
   every other decrypts or verifies. They send each other messages, by any carrier: one makes a message,
   the other gives it to KMS_ReceiveReplication and sends back what that answers, until nothing is left
   to answer. A message shows key ids and names of Regions, never key material. One that is lost may be
   made again, one that comes twice changes nothing. */
";

fn vendor_header() -> String {
    let mut config = config(Style::Both);
    config.export.include = vec!["KMS_FUNCTION_LIST".to_owned()];
    let items = Builder::new().with_config(config).with_src(Path::new(VENDOR).join("mod.rs")).generate();
    let items = text_of(items.expect("cbindgen understands the vendor's functions"));
    format!(
        "/* Conclave: the vendor's functions. Licence: Apache-2.0.\n   \
            Generated from {VENDOR}; `make headers` writes it anew. */\n\
         #ifndef CONCLAVE_H\n#define CONCLAVE_H\n\n\
         #include \"conclave_pkcs11.h\"\n\n\
         {CONVENTIONS}\n\
         /* The name that C_GetInterface takes; the interface's list is a KMS_FUNCTION_LIST. It is given for each\n   \
            version from 1.0 to the list's own. */\n\
         #define KMS_INTERFACE_NAME \"Vendor Conclave\"\n\n{}{items}\n#endif /* CONCLAVE_H */\n",
        vendor_constants()
    )
}

/// The numbers of attributes, mechanisms, codes of attributes and return codes, from their tables.
fn vendor_constants() -> String {
    let attributes = fs::read_to_string(ATTRIBUTES).expect("the table of attributes can be read");
    let errors = fs::read_to_string(ERRORS).expect("the table of errors can be read");
    let mut out = String::new();
    let mut section = |title: &str, lines: Vec<String>| {
        assert!(!lines.is_empty(), "no constants found for: {title}");
        let _ = write!(out, "/* {title} */\n{}\n\n", lines.join("\n"));
    };
    // "NAME = NUMBER, REST" or "NAME = NUMBER;"
    let row = |line: &str| -> Option<(String, u64, String)> {
        let (name, value) = line.trim().split_once(" = ")?;
        let (number, rest) = value.split_once([',', ';'])?;
        Some((name.to_owned(), number.trim().parse().ok()?, rest.to_owned()))
    };
    let vendor = |prefix: &str, number: u64| format!("({prefix}_VENDOR_DEFINED | {number:#010x}UL)");

    let rows = attributes.lines().filter_map(row).filter(|(name, ..)| name.starts_with("CKA_KMS_"));
    section(
        "Attributes of managed keys. Those that a generate template may have: MANAGED, USAGE, SPEC,\n   \
         DESCRIPTION, TAGS, MULTI_REGION. DESCRIPTION can be set; the rest is read only.",
        rows.map(|(name, number, _)| format!("#define {name} {}", vendor("CKA", 0x0b4d_5300 + number))).collect(),
    );
    for (kind, prefix, title) in [
        ("Usage", "KMS_USAGE", "Values of CKA_KMS_USAGE."),
        ("Origin", "KMS_ORIGIN", "Values of CKA_KMS_ORIGIN."),
        ("KeyState", "KMS_STATE", "Values of CKA_KMS_STATE: the state at the time of asking."),
    ] {
        let table = attributes.split(&format!("\n    {kind} {{")).nth(1).and_then(|rest| rest.split('}').next());
        let rows = table.unwrap_or_default().lines().filter_map(row);
        section(title, rows.map(|(name, code, _)| format!("#define {prefix}_{} {code}UL", snake(&name))).collect());
    }
    let declared = attributes.lines().filter_map(|line| line.trim().split_once(" = ck::CKM_VENDOR_DEFINED | 0x"));
    let mechanism = |(declared, number): (&str, &str)| {
        let name = declared.split(':').next()?.split(' ').next_back()?;
        let number = u64::from_str_radix(&number.trim_end_matches(';').replace('_', ""), 16).ok()?;
        Some(format!("#define {name} {}", vendor("CKM", number)))
    };
    section(
        "Mechanisms of managed keys: CKM_KMS_ENVELOPE is for C_Encrypt and C_Decrypt, CKM_KMS_WRAP for\n   \
         C_WrapKeyAuthenticated and C_UnwrapKeyAuthenticated. The parameter of the first is the encryption\n   \
         context, a JSON object of texts; NULL for none.",
        declared.filter_map(mechanism).collect(),
    );
    let codes = errors.lines().filter_map(|line| {
        let (declared, number) = line.trim().split_once(": CK_RV = KMS_R + ")?;
        let name = declared.split(' ').next_back()?;
        let told = errors.split(&format!("= {name}, \"")).nth(1)?.split('"').next()?;
        let number: u64 = number.trim_end_matches(';').parse().ok()?;
        Some(format!("/* {told} */\n#define {name} {}", vendor("CKR", 0x4b4d_5300 + number)))
    });
    section("Return codes about managed keys.", codes.collect());
    out
}

/// EncryptDecrypt is ENCRYPT_DECRYPT.
fn snake(camel: &str) -> String {
    let mut out = String::new();
    for character in camel.chars() {
        if character.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(character.to_ascii_uppercase());
    }
    out
}

fn pkcs11_header(bindings: &str, out: &Path) -> String {
    let (constants, rest) = split_constants(bindings);
    // `type` is no keyword in C, and C has no suffix on lengths.
    let rest = rest.replace("pub type_:", "pub r#type:").replace("usize]", "]");
    let types = out.join("pkcs11_types.rs");
    write(&types, &rest);
    let structs = names(&rest, "pub struct ");
    let include = structs.iter().cloned().chain(names(&rest, "pub type ")).collect();

    let mut config = config(Style::Tag);
    config.export = ExportConfig { include, ..ExportConfig::default() };
    let items = Builder::new().with_config(config).with_src(types).with_src(Path::new(ENTRY).join("mod.rs")).generate();
    let items = text_of(items.expect("cbindgen understands the entry points"));

    let mut defines = String::new();
    for (name, value) in constants {
        let _ = writeln!(defines, "#define {name} {value}");
    }
    let typedefs: String = structs.iter().map(|name| format!("typedef struct {name} {name};\n")).collect();
    let absent: Vec<_> = OTHERS.iter().map(|name| format!("!defined({name})")).collect();
    format!(
        "/* PKCS#11 3.2 as Conclave has it. Licence: Apache-2.0.\n   \
            Generated from {ENTRY} and from the bindings of cryptoki-sys; `make headers` writes it anew.\n\n   \
            It gives way to another pkcs11.h that was included before it; include that one first. */\n\
         #ifndef CONCLAVE_PKCS11_H\n#define CONCLAVE_PKCS11_H\n\n\
         #if {}\n\n\
         #define CK_PTR *\n#ifndef NULL_PTR\n#define NULL_PTR 0\n#endif\n\
         #define CK_UNAVAILABLE_INFORMATION (~0UL)\n{defines}\n{typedefs}\n{items}\n\
         #endif /* no other pkcs11.h */\n\n#endif /* CONCLAVE_PKCS11_H */\n",
        absent.join(" && ")
    )
}

fn text_of(bindings: cbindgen::Bindings) -> String {
    let mut text = Vec::new();
    bindings.write(&mut text);
    let text = String::from_utf8(text).expect("cbindgen writes UTF-8");
    // A parameter that the code does not use has an underscore before its name.
    let mut clean = String::with_capacity(text.len());
    let mut before = ' ';
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        let first = matches!(before, ' ' | '*' | '(');
        if !(first && character == '_' && characters.peek().is_some_and(char::is_ascii_alphabetic)) {
            clean.push(character);
        }
        before = character;
    }
    clean
}

/// The integer constants, as names and C literals, and the text without any constant.
fn split_constants(bindings: &str) -> (Vec<(String, String)>, String) {
    let mut constants = Vec::new();
    let mut rest = String::new();
    let mut lines = bindings.lines();
    while let Some(line) = lines.next() {
        let Some(first) = line.strip_prefix("pub const ") else {
            rest.push_str(line);
            rest.push('\n');
            continue;
        };
        let mut constant = first.to_owned();
        while !constant.ends_with(';') {
            constant.push_str(lines.next().expect("a constant ends with a semicolon"));
        }
        let (name, value) = constant.split_once(':').expect("a constant has a type");
        let (kind, value) = value.split_once('=').expect("a constant has a value");
        if let Ok(number) = value.trim().trim_end_matches(';').parse::<u64>() {
            let small = matches!(kind.trim(), "CK_BBOOL" | "CK_BYTE");
            constants.push((name.to_owned(), if small { number.to_string() } else { format!("{number:#x}UL") }));
        }
    }
    (constants, rest)
}

/// The names of PKCS#11 that are declared with `keyword`.
fn names(source: &str, keyword: &str) -> Vec<String> {
    let declared = source.lines().filter_map(|line| line.strip_prefix(keyword));
    let names = declared.map(|rest| rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or(""));
    names.filter(|name| name.starts_with("CK_")).map(str::to_owned).collect()
}

/// The committed bindings of the cryptoki-sys that Cargo.lock names. A target's own differ only in
/// the layout that the compiler computes.
fn bindings() -> PathBuf {
    let version = locked_version("cryptoki-sys").expect("Cargo.lock names cryptoki-sys");
    let package = in_registry(&format!("cryptoki-sys-{version}")).or_else(in_metadata);
    let package = package.expect("the source of cryptoki-sys is in cargo's registry or known to `cargo metadata`");
    package.join("src/bindings/x86_64-unknown-linux-gnu.rs")
}

fn locked_version(package: &str) -> Option<String> {
    let lock = fs::read_to_string("Cargo.lock").ok()?;
    let entry = lock.split("[[package]]").find(|entry| entry.contains(&format!("name = \"{package}\"\n")))?;
    let version = entry.lines().find_map(|line| line.strip_prefix("version = "))?;
    Some(version.trim_matches('"').to_owned())
}

fn in_registry(directory: &str) -> Option<PathBuf> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")))?;
    let registries = fs::read_dir(home.join("registry/src")).ok()?;
    registries.flatten().map(|registry| registry.path().join(directory)).find(|path| path.is_dir())
}

/// Where cargo says that the package is: vendored, or in a registry elsewhere.
fn in_metadata() -> Option<PathBuf> {
    let mut cargo = Command::new(env::var_os("CARGO")?);
    let output = cargo.args(["metadata", "--format-version", "1", "--offline"]).output().ok()?;
    let metadata = String::from_utf8(output.stdout).ok()?;
    let paths = metadata.split("\"manifest_path\":\"").skip(1).filter_map(|rest| rest.split('"').next());
    paths.map(|path| PathBuf::from(path).parent().map(Path::to_owned)).find_map(|path| {
        path.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("cryptoki-sys")))
    })
}
