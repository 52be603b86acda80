//! Wrong arguments through the C ABI: refused, and never a crash.

use std::ptr;

use conclave::abi::lists::NAMES;
use cryptoki_sys as ck;

mod common;
use common::{Library, Mechanism, Template, call};

/// Any C_ function: those that take fewer arguments leave the rest alone (System V, AAPCS64).
type Any = unsafe extern "C" fn(usize, usize, usize, usize, usize, usize, usize, usize, usize, usize) -> ck::CK_RV;

struct Function {
    name: &'static str,
    call: Any,
    parameters: Vec<Parameter>,
}

#[derive(Clone, Copy, PartialEq)]
enum Parameter {
    Pointer,
    Handle,
    /// A length, a count, flags, a type.
    Number,
}

/// All functions of the table, with their parameters as the header declares them.
fn functions(library: &Library) -> Vec<Function> {
    let header = include_str!("../include/conclave_pkcs11.h");
    let table = ptr::from_ref(&library.f).cast::<Any>();
    NAMES
        .iter()
        .enumerate()
        .map(|(at, name)| {
            let start = header.find(&format!("\nCK_RV {name}(")).unwrap();
            let list = header[start..].split_once('(').unwrap().1.split_once(");").unwrap().0;
            let parameters = list.split(',').map(|parameter| match parameter {
                pointer if pointer.contains("_PTR") => Parameter::Pointer,
                handle if handle.contains("_HANDLE") => Parameter::Handle,
                _ => Parameter::Number,
            });
            let parameters = parameters.collect();
            // SAFETY: the table is a version, padded to a pointer's size, and function pointers.
            Function { name, call: unsafe { table.add(1 + at).read() }, parameters }
        })
        .collect()
}

impl Function {
    fn call(&self, argument: impl FnMut(Parameter) -> usize) -> ck::CK_RV {
        let mut a: Vec<usize> = self.parameters.iter().copied().map(argument).collect();
        a.resize(10, 0);
        // SAFETY: the pointers among them are NULL or valid, or are not followed.
        unsafe { (self.call)(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9]) }
    }

    /// Works before C_Initialize, or changes whether the library is initialised.
    fn is_general(&self) -> bool {
        ["C_Initialize", "C_GetFunctionList", "C_GetInterface", "C_GetInterfaceList"].contains(&self.name)
    }
}

#[test]
fn nothing_works_before_initialize_and_no_pointer_is_followed() {
    let library = Library::load();
    for function in functions(&library).iter().filter(|function| !function.is_general()) {
        for wild in [0, 1, usize::MAX] {
            // A reserved pointer is refused first.
            let wild = if function.name == "C_Finalize" { 0 } else { wild };
            assert_eq!(function.call(|_| wild), ck::CKR_CRYPTOKI_NOT_INITIALIZED, "{}", function.name);
        }
    }
}

#[test]
fn hostile_arguments_never_crash() {
    let (library, session) = Library::with_token();
    let functions = functions(&library);
    let key = library.generate(session, ck::CKM_AES_KEY_GEN, &Template::new().ulong(ck::CKA_VALUE_LEN, 32)).unwrap();
    let mut memory = vec![0u64; 8192];
    let base = memory.as_mut_ptr().addr();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let numbers =
        [0, 1, 2, 8, 16, 24, 48, 255, 512, 1 << 41, usize::MAX / 2, usize::MAX / 24 + 1, usize::MAX - 7, usize::MAX];
    let codes = [
        ck::CKM_AES_GCM,
        ck::CKM_AES_CBC,
        ck::CKM_AES_KEY_GEN,
        ck::CKM_RSA_PKCS_OAEP,
        ck::CKM_SHA256,
        ck::CKM_HKDF_DERIVE,
        ck::CKM_SP800_108_COUNTER_KDF,
        ck::CKM_PKCS5_PBKD2,
        ck::CKM_ECDH1_DERIVE,
        ck::CKM_RSA_AES_KEY_WRAP,
        0x7777_7777,
    ];
    // PIN hashes are slow by design; and a session that is gone tests nothing. These come last.
    let rare = |function: &Function| {
        ["Init", "PIN", "Log", "Close"].iter().any(|part| function.name[2..].starts_with(part))
            || function.name == "C_SetPIN"
    };
    let frequent: Vec<_> =
        functions.iter().filter(|function| !rare(function) && function.name != "C_Finalize").collect();
    let last: Vec<_> = functions.iter().filter(|function| rare(function) && function.name != "C_Initialize").collect();
    for round in 0..40_050 {
        let set = if round < 40_000 { &frequent } else { &last };
        let function = set[random(set.len())];
        memory.fill(0);
        // A mechanism whose parameter's length fits nothing that is there, or a template's start.
        memory[0] = codes[random(codes.len())];
        memory[2] = numbers[random(numbers.len())] as u64;
        let handles = [session as usize, session as usize, key as usize, 0, usize::MAX, 77];
        let rv = function.call(|parameter| match (parameter, random(4)) {
            (Parameter::Pointer, 0) => 0,
            (Parameter::Pointer, 1) => base + 2048 * 8 + 1,
            (Parameter::Pointer, 2) => base + 4096 * 8,
            (Parameter::Pointer, _) => base,
            (Parameter::Handle, _) => handles[random(handles.len())],
            (Parameter::Number, _) => numbers[random(numbers.len())],
        });
        assert_ne!(rv, ck::CKR_GENERAL_ERROR, "{}", function.name);
    }
    assert_eq!(call!(library, C_Finalize(ptr::null_mut())), ck::CKR_OK);
}

#[test]
fn lists_have_their_length_convention() {
    let library = Library::start();
    assert_eq!(call!(library, C_GetSlotList(0, ptr::null_mut(), ptr::null_mut())), ck::CKR_ARGUMENTS_BAD);
    let all = library.slots(false).len() as ck::CK_ULONG;
    assert!(all >= 1);
    let mut slots = [0; 8];
    let mut count = 0;
    assert_eq!(call!(library, C_GetSlotList(0, slots.as_mut_ptr(), &raw mut count)), ck::CKR_BUFFER_TOO_SMALL);
    assert_eq!(count, all);
    let mut count = 1;
    let mut mechanisms = [0];
    let rv = call!(library, C_GetMechanismList(library.slots(true)[0], mechanisms.as_mut_ptr(), &raw mut count));
    assert_eq!(rv, ck::CKR_BUFFER_TOO_SMALL);
    assert!(count > 20);
}

#[test]
fn unaligned_pointers_work() {
    let (library, session) = Library::with_token();
    let mut memory = [0u8; 256];
    let odd = memory.as_mut_ptr().wrapping_add(1);
    assert_eq!(call!(library, C_GetInfo(odd.cast())), ck::CKR_OK);
    assert_eq!(call!(library, C_GetSessionInfo(session, odd.cast())), ck::CKR_OK);
    // A template, a mechanism and a handle at odd addresses.
    let mut len: ck::CK_ULONG = 32;
    let attribute = ck::CK_ATTRIBUTE { type_: ck::CKA_VALUE_LEN, pValue: (&raw mut len).cast(), ulValueLen: 8 };
    let mechanism = ck::CK_MECHANISM { mechanism: ck::CKM_AES_KEY_GEN, pParameter: ptr::null_mut(), ulParameterLen: 0 };
    let (template, second, third) = (odd, odd.wrapping_add(32), odd.wrapping_add(64));
    // SAFETY: all three are inside `memory`.
    unsafe {
        template.cast::<ck::CK_ATTRIBUTE>().write_unaligned(attribute);
        second.cast::<ck::CK_MECHANISM>().write_unaligned(mechanism);
    }
    assert_eq!(call!(library, C_GenerateKey(session, second.cast(), template.cast(), 1, third.cast())), ck::CKR_OK);
    // SAFETY: as above.
    let key = unsafe { third.cast::<ck::CK_OBJECT_HANDLE>().read_unaligned() };
    assert_eq!(library.attribute(session, key, ck::CKA_VALUE_LEN).unwrap(), 32u64.to_ne_bytes());
}

#[test]
fn buffers_may_be_the_same_memory() {
    let (library, session) = Library::with_token();
    let key = library.generate(session, ck::CKM_AES_KEY_GEN, &Template::new().ulong(ck::CKA_VALUE_LEN, 32)).unwrap();
    let plain = b"thirty-two bytes of plain text..";
    for shift in [0, 1, 15, 31] {
        let mut memory = [0u8; 128];
        memory[..32].copy_from_slice(plain);
        let base = memory.as_mut_ptr();
        let mut len: ck::CK_ULONG = 64;
        let mut cbc = Mechanism::with(ck::CKM_AES_CBC, &[7; 16]);
        assert_eq!(call!(library, C_EncryptInit(session, cbc.raw(), key)), ck::CKR_OK);
        let at = base.wrapping_add(shift);
        assert_eq!(call!(library, C_Encrypt(session, base, 32, at, &raw mut len)), ck::CKR_OK);
        assert_eq!(len, 32);
        len = 64;
        assert_eq!(call!(library, C_DecryptInit(session, cbc.raw(), key)), ck::CKR_OK);
        assert_eq!(call!(library, C_Decrypt(session, at, 32, base, &raw mut len)), ck::CKR_OK);
        assert_eq!(&memory[..32], plain);
    }
}

#[test]
fn the_last_error_names_function_and_code() {
    let library = Library::start();
    assert_eq!(call!(library, C_CloseSession(12345)), ck::CKR_SESSION_HANDLE_INVALID);
    let mut text = [0u8; 256];
    let mut len = 256;
    // SAFETY: a buffer and its length.
    let rv = unsafe { conclave::abi::vendor::KMS_LastError(text.as_mut_ptr(), &raw mut len) };
    assert_eq!(rv, ck::CKR_OK);
    let text = std::str::from_utf8(&text[..len as usize]).unwrap();
    assert!(text.starts_with("C_CloseSession: CKR_SESSION_HANDLE_INVALID: "), "{text}");
    let mut len = 3;
    // SAFETY: as above.
    let rv = unsafe { conclave::abi::vendor::KMS_LastError([0u8; 3].as_mut_ptr(), &raw mut len) };
    assert_eq!((rv, len > 3), (ck::CKR_BUFFER_TOO_SMALL, true));
}
