use super::super::attributes::CKA_KMS_OWNER;
use super::*;
use crate::hsm::value::Value as Held;

const NOW: u64 = 1_900_000_000;

fn key(grants: &Grants<'_>) -> Attributes {
    let text = |text: &str| Held::Bytes(text.as_bytes().to_vec());
    let mut key: Attributes =
        [(CKA_KMS_KEY_ID, text("9b2d0c5e-1b7a-4c2e-8f00-0123456789ab")), (CKA_KMS_OWNER, text("user"))]
            .into_iter()
            .collect();
    if let Some(encoded) = grants.encode() {
        key.set(CKA_KMS_GRANTS, Held::Bytes(encoded));
    }
    key
}

fn by(principal: &str, number: u8) -> Issuer<'_> {
    Issuer { principal, random: [number; 16], now: NOW }
}

/// The key with one more grant, and its id.
fn granted(held: &Attributes, request: Value, issuer: &Issuer<'_>) -> Answer<(Attributes, String)> {
    let (grants, id) = Grants::create(held, request.as_object().unwrap(), issuer)?;
    Ok((key(&grants), id))
}

fn context(pairs: &[(&'static str, &'static str)]) -> Context<'static> {
    Context::from_pairs(pairs.iter().copied()).unwrap()
}

#[test]
fn a_grant_allows_its_operations_to_its_grantee() {
    let ordinary = key(&Grants::default());
    let request = json!({
        "KeyId": "x", "GranteePrincipal": "user:bob", "Operations": ["Decrypt", "DescribeKey", "Decrypt"],
        "Constraints": { "EncryptionContextSubset": { "tenant": "7" } },
    });
    let (key, id) = granted(&ordinary, request, &by("user", 1)).unwrap();
    assert_eq!(id.len(), 36);
    let grants = Grants::of(&key).unwrap();
    let allows = |principal, action, context: Option<&Context<'_>>| grants.allows(principal, action, context);
    let (mine, other) = (context(&[("tenant", "7"), ("row", "1")]), context(&[("tenant", "8")]));
    assert!(allows("user:bob", Action::Decrypt, Some(&mine)));
    assert!(!allows("user:bob", Action::Decrypt, Some(&other)) && !allows("user:bob", Action::Decrypt, None));
    assert!(!allows("user:carol", Action::Decrypt, Some(&mine)) && !allows("user:bob", Action::Encrypt, Some(&mine)));
    let listed = grants.to_json();
    assert_eq!(listed[0]["Operations"], json!(["Decrypt", "DescribeKey"]));
    assert_eq!(listed[0]["GrantId"], json!(id));
    assert_eq!(listed[0]["IssuingPrincipal"], "user");
    assert_eq!(listed[0]["Constraints"], json!({ "EncryptionContextSubset": { "tenant": "7" } }));
}

#[test]
fn a_request_made_again_makes_no_second_grant() {
    let request = || json!({ "GranteePrincipal": "user:bob", "Operations": ["Sign"], "Name": "nightly" });
    let (held, first) = granted(&key(&Grants::default()), request(), &by("user", 1)).unwrap();
    let (held, second) = granted(&held, request(), &Issuer { now: NOW + 9, ..by("user", 2) }).unwrap();
    assert_eq!(first, second);
    assert_eq!(Grants::of(&held).unwrap().0.len(), 1);
    let mut other = request();
    other["Operations"] = json!(["Sign", "Verify"]);
    let (held, third) = granted(&held, other, &by("user", 3)).unwrap();
    assert_ne!(first, third);
    let nameless = json!({ "GranteePrincipal": "user:bob", "Operations": ["Sign"] });
    let (held, _) = granted(&held, nameless.clone(), &by("user", 4)).unwrap();
    let (held, _) = granted(&held, nameless, &by("user", 5)).unwrap();
    assert_eq!(Grants::of(&held).unwrap().0.len(), 4);
}

#[test]
fn a_grantee_passes_on_no_more_than_he_has() {
    let first = json!({
        "GranteePrincipal": "user:bob", "Operations": ["Encrypt", "Decrypt", "CreateGrant"],
        "Constraints": { "EncryptionContextSubset": { "tenant": "7" } },
    });
    let (held, _) = granted(&key(&Grants::default()), first, &by("user", 1)).unwrap();
    let constrained = |operations: Value, constraints: Value| json!({ "GranteePrincipal": "user:carol", "Operations": operations, "Constraints": constraints });
    let narrower = json!({ "EncryptionContextEquals": { "tenant": "7", "row": "1" } });
    let same = json!({ "EncryptionContextSubset": { "tenant": "7" } });
    let wider = json!({ "EncryptionContextSubset": {} });
    for (request, allowed) in [
        (constrained(json!(["Decrypt"]), narrower), true),
        (constrained(json!(["Encrypt", "Decrypt", "CreateGrant"]), same.clone()), true),
        (constrained(json!(["Decrypt"]), wider), false),
        (constrained(json!(["ReEncrypt"]), same), false),
        (json!({ "GranteePrincipal": "user:carol", "Operations": ["Decrypt"] }), false),
    ] {
        let refused = granted(&held, request.clone(), &by("user:bob", 2)).err().map(|refused| refused.reason());
        assert_eq!(refused, (!allowed).then_some(Reason::AccessDenied), "{request}");
        let stranger = granted(&held, request, &by("user:carol", 2)).unwrap_err();
        assert_eq!(stranger.reason(), Reason::AccessDenied);
    }
}

#[test]
fn who_retires_and_who_revokes() {
    let request = json!({
        "GranteePrincipal": "user:bob", "RetiringPrincipal": "user:carol", "Operations": ["Sign"],
    });
    let (held, id) = granted(&key(&Grants::default()), request, &by("user", 1)).unwrap();
    let request = json!({ "GranteePrincipal": "user:bob", "Operations": ["Sign", "RetireGrant"] });
    let (held, other) = granted(&held, request, &by("user", 2)).unwrap();
    let reason = |answer: Answer<Grants<'_>>| answer.err().map(|refused| refused.reason());
    for (id, principal, refused) in [
        (&id, "user:carol", None),
        (&id, "user", None),
        (&id, "user:bob", Some(Reason::AccessDenied)),
        (&other, "user:bob", None),
        (&other, "user:carol", Some(Reason::AccessDenied)),
    ] {
        assert_eq!(reason(Grants::retire(&held, id, principal)), refused, "{principal}");
    }
    assert_eq!(reason(Grants::retire(&held, "x", "user")), Some(Reason::NotFound));
    assert_eq!(reason(Grants::retire(&held, "x", "user:bob")), Some(Reason::AccessDenied));
    assert_eq!(reason(Grants::revoke(&held, &id, "user:carol")), Some(Reason::AccessDenied));
    assert_eq!(reason(Grants::revoke(&held, "x", "user")), Some(Reason::NotFound));
    let left = Grants::revoke(&held, &id, "user").unwrap();
    assert!(left.encode().is_some());
    let held = key(&left);
    assert_eq!(Grants::revoke(&held, &other, "user").unwrap().encode(), None);
    for (principal, may) in [("user:carol", true), ("user:bob", true), ("user:dave", false)] {
        let both = Grants::of(&held).unwrap();
        let first = json!({ "GranteePrincipal": "user:x", "RetiringPrincipal": "user:carol", "Operations": ["Sign"] });
        let (again, _) = granted(&key(&both), first, &by("user", 9)).unwrap();
        let asked = policy::authorise(&again, principal, super::super::Action::RetireGrant, None);
        assert_eq!(asked.is_ok(), may, "{principal}");
    }
}

#[test]
fn what_is_no_grant() {
    let held = key(&Grants::default());
    let nine: Map<String, Value> = (0..9).map(|n| (n.to_string(), "".into())).collect();
    for (name, value, says) in [
        ("GranteePrincipal", json!("*"), "GranteePrincipal"),
        ("GranteePrincipal", json!("bob"), "GranteePrincipal"),
        ("RetiringPrincipal", json!(7), "RetiringPrincipal"),
        ("Operations", json!([]), "Operations"),
        ("Operations", json!(["PutKeyPolicy"]), "PutKeyPolicy"),
        ("Constraints", json!({}), "Constraints"),
        ("Constraints", json!({ "Equals": {} }), "Constraints"),
        ("Constraints", json!({ "EncryptionContextEquals": {} }), "Sign takes no encryption context"),
        ("Constraints", json!({ "EncryptionContextSubset": nine }), "at most 8 pairs"),
        ("Name", json!("with space"), "Name"),
        ("Name", json!(""), "Name"),
        ("GrantTokens", json!([]), "GrantTokens"),
    ] {
        let mut request = json!({ "GranteePrincipal": "user:bob", "Operations": ["Sign"] });
        request[name] = value;
        let refused = granted(&held, request, &by("user", 1)).unwrap_err();
        assert_eq!(refused.reason(), Reason::InvalidGrant, "{name}");
        assert!(refused.detail().contains(says), "{}", refused.detail());
    }
    let mut held = held;
    for number in 0..MAX_GRANTS {
        let request = json!({ "GranteePrincipal": "user:bob", "Operations": ["Sign"] });
        held = granted(&held, request, &by("user", u8::try_from(number).unwrap())).unwrap().0;
    }
    let request = json!({ "GranteePrincipal": "user:bob", "Operations": ["Sign"] });
    assert_eq!(granted(&held, request, &by("user", 200)).unwrap_err().reason(), Reason::LimitExceeded);
    held.set(CKA_KMS_GRANTS, Held::Bytes(vec![0xff]));
    assert_eq!(Grants::of(&held).unwrap_err().reason(), Reason::Damaged);
}
