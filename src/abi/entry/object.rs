//! Object management (PKCS#11 3.2 §5.7).

use cryptoki_sys::{
    CK_ATTRIBUTE_PTR, CK_OBJECT_HANDLE, CK_OBJECT_HANDLE_PTR, CK_RV, CK_SESSION_HANDLE, CK_ULONG, CK_ULONG_PTR,
};

use crate::abi::guard::entry;
use crate::abi::template;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_CreateObject(
    hSession: CK_SESSION_HANDLE,
    pTemplate: CK_ATTRIBUTE_PTR,
    ulCount: CK_ULONG,
    phObject: CK_OBJECT_HANDLE_PTR,
) -> CK_RV {
    entry!(C_CreateObject, |caller, module| caller
        .answer(phObject, || module.create_object(hSession, &template::read(caller, pTemplate, ulCount)?)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_CopyObject(
    hSession: CK_SESSION_HANDLE,
    hObject: CK_OBJECT_HANDLE,
    pTemplate: CK_ATTRIBUTE_PTR,
    ulCount: CK_ULONG,
    phNewObject: CK_OBJECT_HANDLE_PTR,
) -> CK_RV {
    entry!(C_CopyObject, |caller, module| caller.answer(phNewObject, || module.copy_object(
        hSession,
        hObject,
        &template::read(caller, pTemplate, ulCount)?
    )))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_DestroyObject(hSession: CK_SESSION_HANDLE, hObject: CK_OBJECT_HANDLE) -> CK_RV {
    entry!(C_DestroyObject, |_, module| module.destroy_object(hSession, hObject))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetObjectSize(
    hSession: CK_SESSION_HANDLE,
    hObject: CK_OBJECT_HANDLE,
    pulSize: CK_ULONG_PTR,
) -> CK_RV {
    entry!(C_GetObjectSize, |caller, module| caller
        .answer(pulSize, || Ok(module.object_size(hSession, hObject)? as CK_ULONG)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetAttributeValue(
    hSession: CK_SESSION_HANDLE,
    hObject: CK_OBJECT_HANDLE,
    pTemplate: CK_ATTRIBUTE_PTR,
    ulCount: CK_ULONG,
) -> CK_RV {
    entry!(C_GetAttributeValue, |caller, module| {
        let attributes = caller.array(pTemplate, ulCount)?;
        module.with_attributes(hSession, hObject, |source| template::write(&attributes, source))?
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_SetAttributeValue(
    hSession: CK_SESSION_HANDLE,
    hObject: CK_OBJECT_HANDLE,
    pTemplate: CK_ATTRIBUTE_PTR,
    ulCount: CK_ULONG,
) -> CK_RV {
    entry!(C_SetAttributeValue, |caller, module| module.set_attributes(
        hSession,
        hObject,
        &template::read(caller, pTemplate, ulCount)?
    ))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_FindObjectsInit(
    hSession: CK_SESSION_HANDLE,
    pTemplate: CK_ATTRIBUTE_PTR,
    ulCount: CK_ULONG,
) -> CK_RV {
    entry!(C_FindObjectsInit, |caller, module| module.find_init(hSession, &template::read(caller, pTemplate, ulCount)?))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_FindObjects(
    hSession: CK_SESSION_HANDLE,
    phObject: CK_OBJECT_HANDLE_PTR,
    ulMaxObjectCount: CK_ULONG,
    pulObjectCount: CK_ULONG_PTR,
) -> CK_RV {
    entry!(C_FindObjects, |caller, module| caller
        .found(phObject, ulMaxObjectCount, pulObjectCount, |found| module.find(hSession, found)))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_FindObjectsFinal(hSession: CK_SESSION_HANDLE) -> CK_RV {
    entry!(C_FindObjectsFinal, |_, module| module.find_final(hSession))
}
