//! What the ABI itself adds to the behaviour of the module: parameters in the forms that callers
//! use, output conventions, templates in and out.

use std::ptr;

use cryptoki_sys as ck;

mod common;
use common::{Library, Mechanism, Session, Template, call};

fn aes(library: &Library, session: Session) -> ck::CK_OBJECT_HANDLE {
    library.generate(session, ck::CKM_AES_KEY_GEN, &Template::new().ulong(ck::CKA_VALUE_LEN, 32)).unwrap()
}

fn gcm(iv: &mut [u8]) -> ck::CK_GCM_PARAMS {
    ck::CK_GCM_PARAMS {
        pIv: iv.as_mut_ptr(),
        ulIvLen: iv.len() as ck::CK_ULONG,
        ulIvBits: iv.len() as ck::CK_ULONG * 8,
        ulTagBits: 128,
        ..Default::default()
    }
}

fn encrypt(
    library: &Library,
    session: Session,
    mechanism: &mut Mechanism,
    key: ck::CK_OBJECT_HANDLE,
    plain: &[u8],
) -> Vec<u8> {
    let mut plain = plain.to_vec();
    let mut out = vec![0u8; plain.len() + 64];
    let mut len = out.len() as ck::CK_ULONG;
    assert_eq!(call!(library, C_EncryptInit(session, mechanism.raw(), key)), ck::CKR_OK);
    let plain_len = plain.len() as ck::CK_ULONG;
    let rv = call!(library, C_Encrypt(session, plain.as_mut_ptr(), plain_len, out.as_mut_ptr(), &raw mut len));
    assert_eq!(rv, ck::CKR_OK);
    out.truncate(len as usize);
    out
}

#[test]
fn both_sizes_of_the_gcm_parameter_mean_the_same() {
    let (library, session) = Library::with_token();
    let key = aes(&library, session);
    let mut iv = [9u8; 12];
    let mut long = gcm(&mut iv);
    let at = long.pIv.expose_provenance() as ck::CK_ULONG;
    let mut short: [ck::CK_ULONG; 5] = [at, 12, 0, 0, 128];
    let one = encrypt(&library, session, &mut Mechanism::of(ck::CKM_AES_GCM, &mut long), key, b"text");
    let other = encrypt(&library, session, &mut Mechanism::of(ck::CKM_AES_GCM, &mut short), key, b"text");
    assert_eq!((one.len(), &one), (20, &other));
}

#[test]
fn a_zero_iv_is_replaced_only_if_the_configuration_says_so() {
    for (configuration, replaced) in [("", false), ("gcm_zero_iv = \"generate\"\n", true)] {
        let library = Library::load_with(configuration);
        library.initialize();
        let session = library.make_token();
        let key = aes(&library, session);
        let mut iv = [0u8; 12];
        let mut parameter = gcm(&mut iv);
        let text = encrypt(&library, session, &mut Mechanism::of(ck::CKM_AES_GCM, &mut parameter), key, b"text");
        assert_eq!(iv != [0; 12], replaced);
        // What the caller now has as IV opens it.
        let mut parameter = gcm(&mut iv);
        let mut mechanism = Mechanism::of(ck::CKM_AES_GCM, &mut parameter);
        assert_eq!(call!(library, C_DecryptInit(session, mechanism.raw(), key)), ck::CKR_OK);
        let (mut text, mut plain, mut len) = (text, [0u8; 32], 32);
        let rv = call!(library, C_Decrypt(session, text.as_mut_ptr(), 20, plain.as_mut_ptr(), &raw mut len));
        assert_eq!((rv, &plain[..len as usize]), (ck::CKR_OK, &b"text"[..]));
    }
}

#[test]
fn additional_keys_of_a_derivation_get_their_handles() {
    let (library, session) = Library::with_token();
    let base = Template::new()
        .ulong(ck::CKA_CLASS, ck::CKO_SECRET_KEY)
        .ulong(ck::CKA_KEY_TYPE, ck::CKK_GENERIC_SECRET)
        .flag(ck::CKA_DERIVE, true)
        .bytes(ck::CKA_VALUE, &[1; 32]);
    let base = library.create(session, &base).unwrap();
    let key = Template::new()
        .ulong(ck::CKA_CLASS, ck::CKO_SECRET_KEY)
        .ulong(ck::CKA_KEY_TYPE, ck::CKK_AES)
        .ulong(ck::CKA_VALUE_LEN, 32);
    let mut counter = ck::CK_SP800_108_COUNTER_FORMAT { bLittleEndian: 0, ulWidthInBits: 32 };
    let mut field = ck::CK_PRF_DATA_PARAM {
        type_: ck::CK_SP800_108_ITERATION_VARIABLE,
        pValue: (&raw mut counter).cast(),
        ulValueLen: size_of_val(&counter) as ck::CK_ULONG,
    };
    let (at, count) = key.parts();
    let mut handles = [0; 2];
    let mut more =
        [0, 1].map(|n| ck::CK_DERIVED_KEY { pTemplate: at, ulAttributeCount: count, phKey: &raw mut handles[n] });
    let mut parameter = ck::CK_SP800_108_KDF_PARAMS {
        prfType: ck::CKM_SHA256_HMAC,
        ulNumberOfDataParams: 1,
        pDataParams: &raw mut field,
        ulAdditionalDerivedKeys: 2,
        pAdditionalDerivedKeys: more.as_mut_ptr(),
    };
    let mut mechanism = Mechanism::of(ck::CKM_SP800_108_COUNTER_KDF, &mut parameter);
    let mut first = 0;
    assert_eq!(call!(library, C_DeriveKey(session, mechanism.raw(), base, at, count, &raw mut first)), ck::CKR_OK);
    // SAFETY: the call wrote through `phKey`.
    let [second, third] = unsafe { (&raw const handles).read_volatile() };
    let mut checks = Vec::new();
    for handle in [first, second, third] {
        let kind = library.attribute(session, handle, ck::CKA_KEY_TYPE).unwrap();
        assert_eq!(kind, ck::CKK_AES.to_ne_bytes());
        checks.push(library.attribute(session, handle, ck::CKA_CHECK_VALUE).unwrap());
    }
    checks.dedup();
    assert_eq!(checks.len(), 3);
}

#[test]
fn a_wrap_template_reads_back() {
    let (library, session) = Library::with_token();
    let inner = Template::new().flag(ck::CKA_EXTRACTABLE, true).bytes(ck::CKA_LABEL, b"inner");
    let template = Template::new()
        .ulong(ck::CKA_VALUE_LEN, 32)
        .flag(ck::CKA_WRAP, true)
        .flag(ck::CKA_ENCRYPT, false)
        .flag(ck::CKA_DECRYPT, false)
        .nested(ck::CKA_WRAP_TEMPLATE, inner);
    let key = library.generate(session, ck::CKM_AES_KEY_GEN, &template).unwrap();
    let mut outer = ck::CK_ATTRIBUTE { type_: ck::CKA_WRAP_TEMPLATE, pValue: ptr::null_mut(), ulValueLen: 0 };
    assert_eq!(call!(library, C_GetAttributeValue(session, key, &raw mut outer, 1)), ck::CKR_OK);
    assert_eq!(outer.ulValueLen as usize, 2 * size_of::<ck::CK_ATTRIBUTE>());
    let mut values = [[0u8; 16]; 2];
    let mut elements =
        values.each_mut().map(|value| ck::CK_ATTRIBUTE { type_: 0, pValue: value.as_mut_ptr().cast(), ulValueLen: 16 });
    outer.pValue = elements.as_mut_ptr().cast();
    assert_eq!(call!(library, C_GetAttributeValue(session, key, &raw mut outer, 1)), ck::CKR_OK);
    let mut found: Vec<_> = elements
        .iter()
        .zip(values)
        .map(|(element, value)| (element.type_, value[..element.ulValueLen as usize].to_vec()))
        .collect();
    found.sort();
    assert_eq!(found, [(ck::CKA_LABEL, b"inner".to_vec()), (ck::CKA_EXTRACTABLE, vec![1])]);
}

#[test]
fn a_search_fills_any_number_of_handles() {
    let (library, session) = Library::with_token();
    let template = Template::new()
        .ulong(ck::CKA_CLASS, ck::CKO_DATA)
        .flag(ck::CKA_TOKEN, false)
        .bytes(ck::CKA_APPLICATION, b"many");
    let mut made: Vec<_> = (0..150).map(|_| library.create(session, &template).unwrap()).collect();
    let wanted = Template::new().bytes(ck::CKA_APPLICATION, b"many");
    let (at, count) = wanted.parts();
    assert_eq!(call!(library, C_FindObjectsInit(session, at, count)), ck::CKR_OK);
    let mut all = Vec::new();
    for expected in [0, 100, 50, 0] {
        let mut handles = [0; 100];
        let mut found = 99;
        let max = if all.is_empty() && expected == 0 { 0 } else { 100 };
        assert_eq!(call!(library, C_FindObjects(session, handles.as_mut_ptr(), max, &raw mut found)), ck::CKR_OK);
        assert_eq!(found, expected);
        all.extend_from_slice(&handles[..found as usize]);
    }
    assert_eq!(call!(library, C_FindObjectsFinal(session)), ck::CKR_OK);
    all.sort_unstable();
    made.sort_unstable();
    assert_eq!(all, made);
}

/// §5.2: a length is asked for, then too little is given, then enough; the operation goes on.
fn converse(name: &str, expected: usize, mut step: impl FnMut(*mut u8, *mut ck::CK_ULONG) -> ck::CK_RV) -> Vec<u8> {
    let mut len = 77;
    assert_eq!(step(ptr::null_mut(), &raw mut len), ck::CKR_OK, "{name}");
    assert!(len as usize >= expected, "{name}: {len}");
    let mut out = [0xAA_u8; 1024];
    for small in [0, expected - 1] {
        len = small as ck::CK_ULONG;
        assert_eq!(step(out.as_mut_ptr(), &raw mut len), ck::CKR_BUFFER_TOO_SMALL, "{name}");
        assert!(len as usize >= expected, "{name}: {len}");
        assert_eq!(out, [0xAA; 1024], "{name}");
    }
    assert_eq!(step(out.as_mut_ptr(), ptr::null_mut()), ck::CKR_ARGUMENTS_BAD, "{name}");
    len = ck::CK_ULONG::MAX;
    assert_eq!(step(out.as_mut_ptr(), &raw mut len), ck::CKR_ARGUMENTS_BAD, "{name}");
    len = expected as ck::CK_ULONG;
    assert_eq!(step(out.as_mut_ptr(), &raw mut len), ck::CKR_OK, "{name}");
    assert_eq!(len as usize, expected, "{name}");
    out[..expected].to_vec()
}

#[test]
fn too_small_a_buffer_keeps_the_operation() {
    let (library, session) = Library::with_token();
    let key = aes(&library, session);
    let mut data = *b"0123456789abcdef";
    let at = data.as_mut_ptr();
    let mut cbc = Mechanism::with(ck::CKM_AES_CBC_PAD, &[3; 16]);

    assert_eq!(call!(library, C_EncryptInit(session, cbc.raw(), key)), ck::CKR_OK);
    let mut sealed = converse("C_Encrypt", 32, |out, len| call!(library, C_Encrypt(session, at, 16, out, len)));
    assert_eq!(call!(library, C_DecryptInit(session, cbc.raw(), key)), ck::CKR_OK);
    let from = sealed.as_mut_ptr();
    let opened = converse("C_Decrypt", 16, |out, len| call!(library, C_Decrypt(session, from, 32, out, len)));
    assert_eq!(opened, data);

    assert_eq!(call!(library, C_EncryptInit(session, cbc.raw(), key)), ck::CKR_OK);
    let mut parts =
        converse("C_EncryptUpdate", 16, |out, len| call!(library, C_EncryptUpdate(session, at, 16, out, len)));
    parts.extend(converse("C_EncryptFinal", 16, |out, len| call!(library, C_EncryptFinal(session, out, len))));
    assert_eq!(parts, sealed);

    let mut sha = Mechanism::new(ck::CKM_SHA256);
    assert_eq!(call!(library, C_DigestInit(session, sha.raw())), ck::CKR_OK);
    let whole = converse("C_Digest", 32, |out, len| call!(library, C_Digest(session, at, 16, out, len)));
    assert_eq!(call!(library, C_DigestInit(session, sha.raw())), ck::CKR_OK);
    assert_eq!(call!(library, C_DigestUpdate(session, at, 16)), ck::CKR_OK);
    let in_parts = converse("C_DigestFinal", 32, |out, len| call!(library, C_DigestFinal(session, out, len)));
    assert_eq!(whole, in_parts);

    let mut mac = Mechanism::new(ck::CKM_AES_CMAC);
    assert_eq!(call!(library, C_SignInit(session, mac.raw(), key)), ck::CKR_OK);
    let mut tag = converse("C_Sign", 16, |out, len| call!(library, C_Sign(session, at, 16, out, len)));
    assert_eq!(call!(library, C_SignInit(session, mac.raw(), key)), ck::CKR_OK);
    assert_eq!(call!(library, C_SignUpdate(session, at, 16)), ck::CKR_OK);
    assert_eq!(tag, converse("C_SignFinal", 16, |out, len| call!(library, C_SignFinal(session, out, len))));
    assert_eq!(call!(library, C_VerifyInit(session, mac.raw(), key)), ck::CKR_OK);
    assert_eq!(call!(library, C_Verify(session, at, 16, tag.as_mut_ptr(), 16)), ck::CKR_OK);

    let extractable = Template::new().ulong(ck::CKA_VALUE_LEN, 32).flag(ck::CKA_EXTRACTABLE, true);
    let extractable = library.generate(session, ck::CKM_AES_KEY_GEN, &extractable).unwrap();
    let wrapping = Template::new()
        .ulong(ck::CKA_VALUE_LEN, 32)
        .flag(ck::CKA_WRAP, true)
        .flag(ck::CKA_ENCRYPT, false)
        .flag(ck::CKA_DECRYPT, false);
    let wrapping = library.generate(session, ck::CKM_AES_KEY_GEN, &wrapping).unwrap();
    let mut wrap = Mechanism::new(ck::CKM_AES_KEY_WRAP);
    let wrap = wrap.raw();
    converse("C_WrapKey", 40, |out, len| call!(library, C_WrapKey(session, wrap, wrapping, extractable, out, len)));
}

#[test]
fn a_null_mechanism_cancels() {
    let (library, session) = Library::with_token();
    let key = aes(&library, session);
    let mut ecb = Mechanism::new(ck::CKM_AES_ECB);
    assert_eq!(call!(library, C_EncryptInit(session, ecb.raw(), key)), ck::CKR_OK);
    assert_eq!(call!(library, C_EncryptInit(session, ecb.raw(), key)), ck::CKR_OPERATION_ACTIVE);
    assert_eq!(call!(library, C_EncryptInit(session, ptr::null_mut(), key)), ck::CKR_OK);
    assert_eq!(call!(library, C_EncryptInit(session, ecb.raw(), key)), ck::CKR_OK);
    assert_eq!(call!(library, C_SessionCancel(session, ck::CKF_ENCRYPT)), ck::CKR_OK);
    let mut len = 0;
    let rv = call!(library, C_EncryptFinal(session, ptr::null_mut(), &raw mut len));
    assert_eq!(rv, ck::CKR_OPERATION_NOT_INITIALIZED);
}

#[test]
fn what_comes_later_is_not_supported() {
    let (library, session) = Library::with_token();
    let mut ecb = Mechanism::new(ck::CKM_AES_ECB);
    assert_eq!(call!(library, C_MessageEncryptInit(session, ecb.raw(), 1)), ck::CKR_FUNCTION_NOT_SUPPORTED);
    assert_eq!(call!(library, C_VerifySignatureFinal(session)), ck::CKR_FUNCTION_NOT_SUPPORTED);
    assert_eq!(call!(library, C_GetFunctionStatus(session)), ck::CKR_FUNCTION_NOT_PARALLEL);
    assert_eq!(call!(library, C_CancelFunction(session)), ck::CKR_FUNCTION_NOT_PARALLEL);
    let mut flags = 9;
    let known = ck::CKS_LAST_VALIDATION_OK;
    assert_eq!(call!(library, C_GetSessionValidationFlags(session, known, &raw mut flags)), ck::CKR_OK);
    assert_eq!(flags, 0);
    let mut slot = 0;
    let rv = call!(library, C_WaitForSlotEvent(ck::CKF_DONT_BLOCK, &raw mut slot, ptr::null_mut()));
    assert_eq!(rv, ck::CKR_NO_EVENT);
}
