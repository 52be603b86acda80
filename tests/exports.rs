//! The shared object as the linker made it: its symbols, its flags, its function tables.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, c_char, c_void};
use std::path::PathBuf;
use std::process::Command;

use conclave::abi::lists::NAMES;
use conclave::abi::vendor;
use cryptoki_sys as ck;

/// The library that cargo built for this test run.
fn module() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let deps = test.parent().unwrap();
    // What `cargo build` left one directory up may be older.
    let found = [deps, deps.parent().unwrap()].map(|directory| directory.join("libconclave.so"));
    found.into_iter().find(|path| path.exists()).expect("cargo built libconclave.so")
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).arg(module()).output().expect("binutils are installed");
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn it_exports_the_functions_and_nothing_else() {
    let listing = run("nm", &["-D", "--defined-only"]);
    let exported: BTreeSet<_> = listing.lines().filter_map(|line| line.split_whitespace().nth(2)).collect();
    let wanted: BTreeSet<_> = NAMES.iter().chain(vendor::NAMES).copied().collect();
    assert_eq!(exported, wanted);
}

#[test]
fn it_stays_loaded_and_binds_its_own_symbols() {
    let dynamic = run("readelf", &["-dW"]);
    for flag in ["NODELETE", "SYMBOLIC", "NOW", "Library soname: [libconclave.so]"] {
        assert!(dynamic.contains(flag), "{flag} is not in:\n{dynamic}");
    }
    // Neither the application's libcrypto nor a C++ run time.
    let needed: Vec<_> = dynamic.lines().filter(|line| line.contains("(NEEDED)")).collect();
    for line in needed {
        assert!(["libc.so", "libm.so", "libgcc_s.so", "ld-linux"].iter().any(|name| line.contains(name)), "{line}");
    }
}

/// With jitter entropy the first random number costs each process some 50 ms.
#[test]
fn it_was_built_without_jitter_entropy() {
    let symbols = run("nm", &["-a"]);
    assert!(symbols.lines().count() > 1000, "the symbols are stripped, so this shows nothing");
    let jitter: Vec<_> = symbols.lines().filter(|line| line.contains("jent_")).collect();
    assert!(jitter.is_empty(), "AWS_LC_SYS_NO_JITTER_ENTROPY=1 did not reach the build: {jitter:?}");
}

struct Loaded(*mut c_void);

impl Loaded {
    fn open() -> Self {
        let path = CString::new(module().to_str().unwrap()).unwrap();
        // SAFETY: a path with its NUL; the object has no initialisers of its own.
        let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        assert!(!handle.is_null());
        Self(handle)
    }

    fn symbol(&self, name: &str) -> *mut c_void {
        let name = CString::new(name).unwrap();
        // SAFETY: an open handle and a string with its NUL.
        unsafe { libc::dlsym(self.0, name.as_ptr()) }
    }

    /// A function whose type is `T`.
    fn function<T: Copy>(&self, name: &str) -> T {
        let symbol = self.symbol(name);
        assert!(!symbol.is_null(), "{name}");
        assert_eq!(size_of::<T>(), size_of::<*mut c_void>());
        // SAFETY: the tests name the type that the standard gives the function.
        unsafe { std::mem::transmute_copy(&symbol) }
    }
}

/// The pointers of a function table, behind its version.
fn entries<const N: usize, T>(list: *const T) -> [*mut c_void; N] {
    assert_eq!(size_of::<T>(), (N + 1) * size_of::<*mut c_void>());
    // SAFETY: the table is a version, padded to a pointer's size, and N pointers.
    unsafe { list.cast::<*mut c_void>().add(1).cast::<[*mut c_void; N]>().read() }
}

type GetInterface =
    unsafe extern "C" fn(*const c_char, *const ck::CK_VERSION, *mut *mut ck::CK_INTERFACE, ck::CK_FLAGS) -> ck::CK_RV;

#[test]
fn every_table_has_every_exported_function_in_order() {
    let library = Loaded::open();
    let symbols: Vec<_> = NAMES.iter().map(|name| library.symbol(name)).collect();
    assert_eq!(symbols.len(), 104);

    let get_list: unsafe extern "C" fn(*mut *mut ck::CK_FUNCTION_LIST) -> ck::CK_RV =
        library.function("C_GetFunctionList");
    let mut list = std::ptr::null_mut();
    // SAFETY: a valid place for the result.
    assert_eq!(unsafe { get_list(&raw mut list) }, ck::CKR_OK);
    assert_eq!(entries::<68, _>(list)[..], symbols[..68]);

    let get: GetInterface = library.function("C_GetInterface");
    for (minor, count) in [(2, 104), (0, 92)] {
        let mut interface = std::ptr::null_mut();
        let version = ck::CK_VERSION { major: 3, minor };
        // SAFETY: a string with its NUL, a version and a place for the result.
        assert_eq!(unsafe { get(c"PKCS 11".as_ptr(), &raw const version, &raw mut interface, 0) }, ck::CKR_OK);
        // SAFETY: the interface is static.
        let list = unsafe { (*interface).pFunctionList };
        if minor == 2 {
            assert_eq!(entries::<104, _>(list.cast::<ck::CK_FUNCTION_LIST_3_2>())[..], symbols[..count]);
        } else {
            assert_eq!(entries::<92, _>(list.cast::<ck::CK_FUNCTION_LIST_3_0>())[..], symbols[..count]);
        }
    }
}

#[test]
fn the_vendors_table_has_every_function_in_order() {
    let library = Loaded::open();
    let symbols: Vec<_> = vendor::NAMES.iter().map(|name| library.symbol(name)).collect();
    let get: GetInterface = library.function("C_GetInterface");
    let mut interface = std::ptr::null_mut();
    // SAFETY: a string with its NUL and a place for the result.
    let rv = unsafe { get(c"Vendor Conclave".as_ptr(), std::ptr::null(), &raw mut interface, 0) };
    assert_eq!(rv, ck::CKR_OK);
    // SAFETY: the interface is static.
    let list = unsafe { (*interface).pFunctionList };
    assert_eq!(entries::<{ vendor::NAMES.len() }, _>(list.cast::<vendor::KMS_FUNCTION_LIST>())[..], symbols);
}

#[test]
fn interfaces_are_found_by_name_version_and_flags() {
    let library = Loaded::open();
    let get: GetInterface = library.function("C_GetInterface");
    let find = |name: Option<&CStr>, version: Option<(u8, u8)>, flags| {
        let version = version.map(|(major, minor)| ck::CK_VERSION { major, minor });
        let mut interface = std::ptr::null_mut();
        let name = name.map_or(std::ptr::null(), CStr::as_ptr);
        let wanted = version.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: NULL or valid, and a place for the result.
        match unsafe { get(name, wanted, &raw mut interface, flags) } {
            // SAFETY: the interface is static, and its list starts with a version.
            ck::CKR_OK => Ok(unsafe { (*interface).pFunctionList.cast::<ck::CK_VERSION>().read() }),
            rv => Err(rv),
        }
    };
    let version = |major, minor| Ok(ck::CK_VERSION { major, minor }).map(|v| (v.major, v.minor));
    let find = |name, wanted, flags| find(name, wanted, flags).map(|v| (v.major, v.minor));
    assert_eq!(find(None, None, 0), version(3, 2));
    assert_eq!(find(Some(c"PKCS 11"), None, 0), version(3, 2));
    assert_eq!(find(None, Some((3, 0)), 0), version(3, 0));
    assert_eq!(find(Some(c"PKCS 11"), Some((2, 40)), 0), version(2, 40));
    for wanted in [None, Some((1, 0)), Some((1, 1)), Some((1, 2)), Some((1, 3)), Some((1, 4))] {
        assert_eq!(find(Some(c"Vendor Conclave"), wanted, 0), version(1, 4));
    }
    for (name, wanted, flags) in [
        (Some(c"PKCS 1"), None, 0),
        (Some(c"PKCS 11 "), None, 0),
        (Some(c""), None, 0),
        (Some(c"PKCS 11"), Some((3, 1)), 0),
        (Some(c"Vendor Conclave"), Some((1, 5)), 0),
        (Some(c"Vendor Conclave"), Some((0, 1)), 0),
        (Some(c"PKCS 11"), None, ck::CKF_INTERFACE_FORK_SAFE),
        (None, None, ck::CK_FLAGS::MAX),
    ] {
        assert_eq!(find(name, wanted, flags), Err(ck::CKR_FUNCTION_FAILED), "{name:?}");
    }

    let list: unsafe extern "C" fn(*mut ck::CK_INTERFACE, *mut ck::CK_ULONG) -> ck::CK_RV =
        library.function("C_GetInterfaceList");
    let mut count = 0;
    let mut interfaces = [ck::CK_INTERFACE::default(); 8];
    // SAFETY: NULL or an array of `count` elements, and a place for the count.
    unsafe {
        assert_eq!(list(std::ptr::null_mut(), &raw mut count), ck::CKR_OK);
        assert_eq!(count, 4);
        count = 3;
        assert_eq!(list(interfaces.as_mut_ptr(), &raw mut count), ck::CKR_BUFFER_TOO_SMALL);
        assert_eq!(count, 4);
        assert_eq!(list(interfaces.as_mut_ptr(), &raw mut count), ck::CKR_OK);
        assert_eq!(list(interfaces.as_mut_ptr(), std::ptr::null_mut()), ck::CKR_ARGUMENTS_BAD);
    }
    assert!(interfaces[..4].iter().all(|interface| interface.flags & ck::CKF_INTERFACE_FORK_SAFE == 0));
}
