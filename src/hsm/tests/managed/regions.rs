//! Keys of several Regions, before another Region has to do with them.

use super::*;

#[test]
fn only_a_region_that_is_trusted_gets_a_key() {
    let mut token = Token::new();
    let (one, many) = (token.create("{}"), token.create(r#"{"MultiRegion":true}"#));
    let own = token.describe(&many)["MultiRegionConfiguration"]["PrimaryKey"]["Region"].as_str().unwrap().to_owned();
    assert_eq!(token.describe(&one).get("MultiRegionConfiguration"), None);
    let of = |region: &str| json!({ "ReplicaRegion": region }).to_string();
    for (action, member) in [(Manage::ReplicateKey, "ReplicaRegion"), (Manage::UpdatePrimaryRegion, "PrimaryRegion")] {
        let of = |region: &str| json!({ member: region }).to_string();
        assert_eq!(kind(token.manage(action, &many, &of("elsewhere"))), ErrorKind::KmsNotFound);
        assert_eq!(kind(token.manage(action, &many, &of(&own))), ErrorKind::ArgumentsBad);
        assert_eq!(kind(token.manage(action, &many, "{}")), ErrorKind::ArgumentsBad);
        assert_eq!(kind(token.manage(action, &one, &of("elsewhere"))), ErrorKind::KmsUnsupported);
    }
    let withdraw = json!({ "ReplicaRegion": "elsewhere", "Withdraw": true }).to_string();
    assert_eq!(kind(token.manage(Manage::ReplicateKey, &many, &withdraw)), ErrorKind::KmsNotFound);
    token.manage(Manage::DisableKey, &many, "{}").unwrap();
    assert_eq!(kind(token.manage(Manage::ReplicateKey, &many, &of("elsewhere"))), ErrorKind::KmsDisabled);
    assert_eq!(kind(token.ask(Manage::DescribeReplicas, Some(&one), "{}", false)), ErrorKind::KmsUnsupported);
}

#[test]
fn imported_material_stays_unless_the_key_was_made_to_share_it() {
    let mut token = Token::new();
    let shares = r#"{"MultiRegion":true,"Origin":"EXTERNAL","ReplicateImportedMaterial":true}"#;
    let id = token.create(shares);
    let Ok(Reply::View(view)) = token.call(Command::View { record: token.record(&id) }) else { panic!() };
    assert!(view.attributes.flag(CKA_KMS_REPLICATE_IMPORTED));
    for request in [
        r#"{"MultiRegion":true,"ReplicateImportedMaterial":true}"#,
        r#"{"Origin":"EXTERNAL","ReplicateImportedMaterial":true}"#,
    ] {
        assert_eq!(kind(token.ask(Manage::CreateKey, None, request, false)), ErrorKind::ArgumentsBad, "{request}");
    }
}
