//! General-purpose functions (PKCS#11 3.2 §5.4).

use cryptoki_sys::{
    CK_FLAGS, CK_FUNCTION_LIST_PTR_PTR, CK_INFO_PTR, CK_INTERFACE_PTR, CK_INTERFACE_PTR_PTR, CK_RV, CK_ULONG_PTR,
    CK_UTF8CHAR_PTR, CK_VERSION_PTR, CK_VOID_PTR,
};

use crate::abi::guard::entry;
use crate::abi::{global, info, lists};
use crate::error::ErrorKind;

/// `pInitArgs` is NULL or a CK_C_INITIALIZE_ARGS.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_Initialize(pInitArgs: CK_VOID_PTR) -> CK_RV {
    entry!(C_Initialize, |caller, _| global::initialize(caller.get(pInitArgs.cast())))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_Finalize(pReserved: CK_VOID_PTR) -> CK_RV {
    entry!(C_Finalize, |_, _| if pReserved.is_null() {
        global::finalize()
    } else {
        Err(ErrorKind::ArgumentsBad.into())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetInfo(pInfo: CK_INFO_PTR) -> CK_RV {
    entry!(C_GetInfo, |caller, _module| caller.place(pInfo).map(|place| place.write(info::library())))
}

/// Works before C_Initialize. The list is that of 2.40.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetFunctionList(ppFunctionList: CK_FUNCTION_LIST_PTR_PTR) -> CK_RV {
    entry!(C_GetFunctionList, |caller, _| caller.place(ppFunctionList).map(|place| place.write(lists::function_list())))
}

/// Works before C_Initialize.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetInterfaceList(pInterfacesList: CK_INTERFACE_PTR, pulCount: CK_ULONG_PTR) -> CK_RV {
    entry!(C_GetInterfaceList, |caller, _| caller.list(lists::interfaces(), pInterfacesList, pulCount))
}

/// Works before C_Initialize. CKR_FUNCTION_FAILED if there is no such interface.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetInterface(
    pInterfaceName: CK_UTF8CHAR_PTR,
    pVersion: CK_VERSION_PTR,
    ppInterface: CK_INTERFACE_PTR_PTR,
    flags: CK_FLAGS,
) -> CK_RV {
    entry!(C_GetInterface, |caller, _| lists::interface(
        caller,
        (pInterfaceName, caller.get(pVersion), flags),
        ppInterface
    ))
}
