//! Key management (PKCS#11 3.2 §5.18).

use cryptoki_sys::{
    CK_ATTRIBUTE_PTR, CK_BYTE_PTR, CK_MECHANISM_PTR, CK_OBJECT_HANDLE, CK_OBJECT_HANDLE_PTR, CK_RV, CK_SESSION_HANDLE,
    CK_ULONG, CK_ULONG_PTR,
};

use crate::abi::guard::entry;
use crate::abi::{params, template, wrapping};
use crate::error::Result;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GenerateKey(
    hSession: CK_SESSION_HANDLE,
    pMechanism: CK_MECHANISM_PTR,
    pTemplate: CK_ATTRIBUTE_PTR,
    ulCount: CK_ULONG,
    phKey: CK_OBJECT_HANDLE_PTR,
) -> CK_RV {
    entry!(C_GenerateKey, |caller, module| caller.answer(phKey, || {
        let mechanism = params::mechanism(caller, pMechanism)?;
        module.generate_key(hSession, &mechanism, &template::read(caller, pTemplate, ulCount)?)
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GenerateKeyPair(
    hSession: CK_SESSION_HANDLE,
    pMechanism: CK_MECHANISM_PTR,
    pPublicKeyTemplate: CK_ATTRIBUTE_PTR,
    ulPublicKeyAttributeCount: CK_ULONG,
    pPrivateKeyTemplate: CK_ATTRIBUTE_PTR,
    ulPrivateKeyAttributeCount: CK_ULONG,
    phPublicKey: CK_OBJECT_HANDLE_PTR,
    phPrivateKey: CK_OBJECT_HANDLE_PTR,
) -> CK_RV {
    entry!(C_GenerateKeyPair, |caller, module| {
        let (public_place, private_place) = (caller.place(phPublicKey)?, caller.place(phPrivateKey)?);
        let mechanism = params::mechanism(caller, pMechanism)?;
        let public = template::read(caller, pPublicKeyTemplate, ulPublicKeyAttributeCount)?;
        let private = template::read(caller, pPrivateKeyTemplate, ulPrivateKeyAttributeCount)?;
        let (public, private) = module.generate_key_pair(hSession, &mechanism, &public, &private)?;
        public_place.write(public);
        private_place.write(private);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_WrapKey(
    hSession: CK_SESSION_HANDLE,
    pMechanism: CK_MECHANISM_PTR,
    hWrappingKey: CK_OBJECT_HANDLE,
    hKey: CK_OBJECT_HANDLE,
    pWrappedKey: CK_BYTE_PTR,
    pulWrappedKeyLen: CK_ULONG_PTR,
) -> CK_RV {
    entry!(C_WrapKey, |caller, module| {
        let call = wrapping::Call { pointer: pMechanism, associated: None };
        wrapping::wrap(caller, &call, (pWrappedKey, pulWrappedKeyLen), |mechanism, room| {
            module.wrap_key(hSession, mechanism, hWrappingKey, hKey, room)
        })
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_UnwrapKey(
    hSession: CK_SESSION_HANDLE,
    pMechanism: CK_MECHANISM_PTR,
    hUnwrappingKey: CK_OBJECT_HANDLE,
    pWrappedKey: CK_BYTE_PTR,
    ulWrappedKeyLen: CK_ULONG,
    pTemplate: CK_ATTRIBUTE_PTR,
    ulAttributeCount: CK_ULONG,
    phKey: CK_OBJECT_HANDLE_PTR,
) -> CK_RV {
    entry!(C_UnwrapKey, |caller, module| caller.answer(phKey, || {
        let call = wrapping::Call { pointer: pMechanism, associated: None };
        let (mechanism, wrapped) = wrapping::unwrap(caller, &call, (pWrappedKey, ulWrappedKeyLen))?;
        let template = template::read(caller, pTemplate, ulAttributeCount)?;
        module.unwrap_key(hSession, &mechanism, hUnwrappingKey, &wrapped, &template)
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_DeriveKey(
    hSession: CK_SESSION_HANDLE,
    pMechanism: CK_MECHANISM_PTR,
    hBaseKey: CK_OBJECT_HANDLE,
    pTemplate: CK_ATTRIBUTE_PTR,
    ulAttributeCount: CK_ULONG,
    phKey: CK_OBJECT_HANDLE_PTR,
) -> CK_RV {
    entry!(C_DeriveKey, |caller, module| {
        let (mechanism, additional) = params::derivation(caller, pMechanism)?;
        let places = std::iter::once(phKey).chain(additional).map(|pointer| caller.place(pointer));
        let places = places.collect::<Result<Vec<_>>>()?;
        let template = template::read(caller, pTemplate, ulAttributeCount)?;
        let keys = module.derive_key(hSession, &mechanism, hBaseKey, &template)?;
        places.iter().zip(keys).for_each(|(place, key)| place.write(key));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_WrapKeyAuthenticated(
    hSession: CK_SESSION_HANDLE,
    pMechanism: CK_MECHANISM_PTR,
    hWrappingKey: CK_OBJECT_HANDLE,
    hKey: CK_OBJECT_HANDLE,
    pAssociatedData: CK_BYTE_PTR,
    ulAssociatedDataLen: CK_ULONG,
    pWrappedKey: CK_BYTE_PTR,
    pulWrappedKeyLen: CK_ULONG_PTR,
) -> CK_RV {
    entry!(C_WrapKeyAuthenticated, |caller, module| {
        let associated = Some(caller.bytes(pAssociatedData, ulAssociatedDataLen)?);
        let call = wrapping::Call { pointer: pMechanism, associated };
        wrapping::wrap(caller, &call, (pWrappedKey, pulWrappedKeyLen), |mechanism, room| {
            module.wrap_key(hSession, mechanism, hWrappingKey, hKey, room)
        })
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_UnwrapKeyAuthenticated(
    hSession: CK_SESSION_HANDLE,
    pMechanism: CK_MECHANISM_PTR,
    hUnwrappingKey: CK_OBJECT_HANDLE,
    pWrappedKey: CK_BYTE_PTR,
    ulWrappedKeyLen: CK_ULONG,
    pTemplate: CK_ATTRIBUTE_PTR,
    ulAttributeCount: CK_ULONG,
    pAssociatedData: CK_BYTE_PTR,
    ulAssociatedDataLen: CK_ULONG,
    phKey: CK_OBJECT_HANDLE_PTR,
) -> CK_RV {
    entry!(C_UnwrapKeyAuthenticated, |caller, module| caller.answer(phKey, || {
        let associated = Some(caller.bytes(pAssociatedData, ulAssociatedDataLen)?);
        let call = wrapping::Call { pointer: pMechanism, associated };
        let (mechanism, wrapped) = wrapping::unwrap(caller, &call, (pWrappedKey, ulWrappedKeyLen))?;
        let template = template::read(caller, pTemplate, ulAttributeCount)?;
        module.unwrap_key(hSession, &mechanism, hUnwrappingKey, &wrapped, &template)
    }))
}
