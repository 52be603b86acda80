//! What Regions come to that keep to the protocol.

use super::*;
use crate::hsm::managed::attributes::KeyState;

fn specs() -> Vec<(&'static str, &'static str)> {
    vec![
        ("AES_256", "ENCRYPT_DECRYPT"),
        ("RSA_2048", "SIGN_VERIFY"),
        ("RSA_2048", "ENCRYPT_DECRYPT"),
        ("ECC_NIST_P256", "SIGN_VERIFY"),
        ("ECC_NIST_P384", "KEY_AGREEMENT"),
        ("ECC_ED25519", "SIGN_VERIFY"),
        ("HMAC_384", "GENERATE_VERIFY_MAC"),
    ]
}

/// A replica has what the standard says of a key that was made there, and nothing that the other
/// Region could have said otherwise.
#[test]
fn keys_of_every_kind_are_the_same_in_both_regions() {
    let [mut a, mut b] = regions(["eu-north", "us-west"]);
    for suites in [[1, 1], [1, 2]] {
        for suite in suites {
            for region in [&mut a, &mut b] {
                if !region.token.hsm.public().unwrap().state().suites.contains(&suite) {
                    region.run(&json!({ "command": "allow suite", "suite": suite }));
                }
            }
        }
        for (spec, usage) in specs() {
            let id = a.create(&json!({ "KeySpec": spec, "KeyUsage": usage, "Label": "shop" }));
            replicated(&mut a, &mut b, &id);
            let stored = [&a, &b].map(|region| region.stored(&id).unwrap());
            for half in [|stored: &Stored| Some(stored.key.clone()), |stored: &Stored| stored.public.clone()] {
                let [Some(here), Some(there)] = [half(&stored[0]), half(&stored[1])] else { continue };
                assert_eq!(here.object, there.object);
                let open = |region: &Region, record| region.token.hsm.open(crate::hsm::Access::User, record).unwrap();
                let (here, there) = (open(&a, &here), open(&b, &there));
                assert_eq!(here.key.marks, there.key.marks, "{spec}");
                let shown = |open: &crate::hsm::cache::Open| -> Vec<_> {
                    let own = [crate::hsm::managed::CKA_KMS_REPLICATION];
                    open.key
                        .attributes
                        .iter()
                        .filter(|(kind, _)| !own.contains(kind))
                        .map(|(k, v)| (k, v.clone()))
                        .collect()
                };
                assert_eq!(shown(&here), shown(&there), "{spec}");
            }
            assert_eq!(b.managed(&id).state_at(0), KeyState::Enabled);
            assert!(outstanding(&a, &id).is_empty() && outstanding(&b, &id).is_empty());
            match spec {
                "AES_256" => {
                    let blob = a.encrypt(&id, b"text").unwrap();
                    assert_eq!(b.decrypt(&id, &blob).unwrap(), b"text");
                    let blob = b.encrypt(&id, b"back").unwrap();
                    assert_eq!(a.decrypt(&id, &blob).unwrap(), b"back");
                }
                _ => {
                    let mechanism = match (spec, usage) {
                        (_, "KEY_AGREEMENT") | ("RSA_2048", "ENCRYPT_DECRYPT") => continue,
                        ("RSA_2048", _) => ck::CKM_SHA256_RSA_PKCS,
                        ("ECC_NIST_P256", _) => ck::CKM_ECDSA_SHA256,
                        ("HMAC_384", _) => ck::CKM_SHA384_HMAC,
                        _ => ck::CKM_EDDSA,
                    };
                    assert!(b.verifies(&id, mechanism, &a.sign(&id, mechanism)), "{spec}");
                    assert!(a.verifies(&id, mechanism, &b.sign(&id, mechanism)), "{spec}");
                }
            }
        }
    }
}

/// Many keys of different histories in one exchange.
#[test]
fn one_exchange_carries_many_keys_with_all_their_versions() {
    let [mut a, mut b] = regions(["eu-north", "us-west"]);
    let mut ids = Vec::new();
    for rotations in 0..12 {
        let id = a.create(&json!({}));
        let mut blobs = vec![a.encrypt(&id, b"1").unwrap()];
        for _ in 0..rotations % 4 {
            a.manage(Manage::RotateKey, &id, &json!({})).unwrap();
            blobs.push(a.encrypt(&id, b"1").unwrap());
        }
        a.authorise(&id, b.name).unwrap();
        ids.push((id, blobs));
    }
    let all: Vec<_> = ids.iter().map(|(id, _)| &**id).collect();
    let offer = b.offer("eu-north", &all).unwrap();
    let shipment = a.receive(&offer).unwrap().unwrap();
    // What is done twice changes nothing.
    b.accept(&shipment).unwrap();
    let before = b.records.clone();
    b.accept(&shipment).unwrap();
    assert_eq!(b.records, before);
    let receipt = b.confirm(&shipment).unwrap();
    assert_eq!(b.confirm(&shipment).unwrap(), receipt);
    assert_eq!(kind(b.encrypt(all[0], b"early")), ErrorKind::KmsInvalidState, "the primary does not count it yet");
    let activate = a.receive(&receipt).unwrap().unwrap();
    let before = a.records.clone();
    assert_eq!(a.receive(&receipt).unwrap().unwrap(), activate);
    assert_eq!(a.records, before);
    carry(&mut a, &mut b, activate).unwrap();
    for (id, blobs) in &ids {
        assert!(blobs.iter().all(|blob| b.decrypt(id, blob).unwrap() == b"1"));
        assert!(outstanding(&a, id).is_empty());
    }
}

/// No version encrypts before every replica has it.
#[test]
fn a_rotation_waits_for_every_replica() {
    let [mut a, b, c] = regions(["eu-north", "us-west", "ap-south"]);
    let id = a.create(&json!({}));
    let (mut b, mut c) = (b, c);
    replicated(&mut a, &mut b, &id);
    replicated(&mut a, &mut c, &id);
    let version = |blob: &[u8]| envelope_name(blob).unwrap().version;
    a.manage(Manage::RotateKey, &id, &json!({})).unwrap();
    assert_eq!(version(&a.encrypt(&id, b"x").unwrap()), 1);
    assert_eq!(kind(a.manage(Manage::RotateKey, &id, &json!({}))), ErrorKind::KmsInvalidState);
    assert_eq!(kind(b.manage(Manage::RotateKey, &id, &json!({}))), ErrorKind::KmsUnsupported);
    let request = a.tell(MessageKind::Request, "us-west", &id).unwrap();
    carry(&mut a, &mut b, request).unwrap();
    for region in [&a, &b] {
        assert_eq!(version(&region.encrypt(&id, b"x").unwrap()), 1, "{} is not to be first", region.name);
    }
    let request = a.tell(MessageKind::Request, "ap-south", &id).unwrap();
    carry(&mut a, &mut c, request).unwrap();
    let blob = c.encrypt(&id, b"new").unwrap();
    assert_eq!((version(&a.encrypt(&id, b"x").unwrap()), version(&blob)), (2, 2));
    // B was not told yet, and reads what the others write.
    assert_eq!(version(&b.encrypt(&id, b"x").unwrap()), 1);
    assert_eq!(b.decrypt(&id, &blob).unwrap(), b"new");
    let mut all = [a, b, c];
    settle(&mut all, &id);
    for region in &all {
        assert_eq!(version(&region.encrypt(&id, b"x").unwrap()), 2);
        assert!(outstanding(region, &id).is_empty());
    }
}

#[test]
fn a_replica_becomes_the_primary_and_the_others_follow() {
    let [mut a, mut b, mut c] = regions(["eu-north", "us-west", "ap-south"]);
    let id = a.create(&json!({}));
    replicated(&mut a, &mut b, &id);
    replicated(&mut a, &mut c, &id);
    a.manage(Manage::UpdatePrimaryRegion, &id, &json!({ "PrimaryRegion": "us-west" })).unwrap();
    assert_eq!(kind(a.manage(Manage::RotateKey, &id, &json!({}))), ErrorKind::KmsInvalidState);
    let blob = a.encrypt(&id, b"meanwhile").unwrap();
    let old = a.tell(MessageKind::Handover, "us-west", &id).unwrap();
    let mut all = [a, b, c];
    settle(&mut all, &id);
    let [a, b, _] = &mut all;
    assert_eq!(b.decrypt(&id, &blob).unwrap(), b"meanwhile");
    assert_eq!(kind(a.manage(Manage::RotateKey, &id, &json!({}))), ErrorKind::KmsUnsupported);
    b.manage(Manage::RotateKey, &id, &json!({})).unwrap();
    settle(&mut all, &id);
    for region in &all {
        let blob = region.encrypt(&id, b"x").unwrap();
        assert_eq!(envelope_name(&blob).unwrap().version, 2, "{}", region.name);
        assert!(outstanding(region, &id).is_empty());
    }
    // The handover once more, long after.
    let before = all[1].records.clone();
    let _ = all[1].receive(&old);
    assert_eq!(all[1].records, before);
}

/// A primary goes after its replicas only.
#[test]
fn a_primary_waits_for_the_deletion_of_its_replicas() {
    let [mut a, mut b] = regions(["eu-north", "us-west"]);
    let id = a.create(&json!({ "KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY" }));
    replicated(&mut a, &mut b, &id);
    a.manage(Manage::ScheduleKeyDeletion, &id, &json!({ "PendingWindowInDays": 7 })).unwrap();
    assert_eq!(a.managed(&id).state_at(0), KeyState::PendingReplicaDeletion);
    b.manage(Manage::ScheduleKeyDeletion, &id, &json!({ "PendingWindowInDays": 7 })).unwrap();
    b.token.hsm.core.clock.pass_days(7);
    let stored = b.stored(&id).unwrap();
    let Ok(Reply::Managed { change, .. }) = b.token.call(Command::KeepTime { keys: stored.held().keys }) else {
        panic!()
    };
    b.commit(change);
    assert_eq!(b.records.len(), 1, "a record of what was deleted stays until the primary has heard of it");
    // Until then no new replica comes in its place.
    assert_eq!(kind(b.offer("eu-north", &[&id])), ErrorKind::KmsInvalidState);
    let mut all = [a, b];
    settle(&mut all, &id);
    let [a, b] = &all;
    assert!(b.records.is_empty());
    assert_eq!(a.managed(&id).state_at(0), KeyState::PendingDeletion);
}

/// Imported material stays where it is unless the key was made to be replicated with it; the replica
/// takes only the same.
#[test]
fn imported_material_goes_where_its_key_says() {
    let [mut a, mut b] = regions(["eu-north", "us-west"]);
    let import = |region: &mut Region, id: &str, material: &[u8]| -> Result<()> {
        let stored = region.stored(id).unwrap();
        let (algorithm, spec) = ("RSA_AES_KEY_WRAP_SHA_256", "RSA_2048");
        let parameters = Command::ImportParameters { key: &stored.key, algorithm, spec, dry_run: false };
        let Reply::ImportParameters { public_key, token, .. } = region.token.call(parameters)? else { panic!() };
        let wrapped = super::super::managed::wrapped(&public_key, material);
        let keys = stored.held().keys;
        let import = Command::ImportMaterial { keys, token: &token, wrapped: &wrapped, valid_to: None, dry_run: false };
        let Reply::Managed { change, .. } = region.token.call(import)? else { panic!() };
        region.commit(change);
        Ok(())
    };
    for replicates in [false, true] {
        let id = a.create(&json!({ "Origin": "EXTERNAL", "ReplicateImportedMaterial": replicates }));
        import(&mut a, &id, &[3; 32]).unwrap();
        let blob = a.encrypt(&id, b"text").unwrap();
        replicated(&mut a, &mut b, &id);
        if !replicates {
            assert_eq!(b.managed(&id).state_at(0), KeyState::PendingImport);
            assert_eq!(kind(import(&mut b, &id, &[4; 32])), ErrorKind::KmsIncorrectKeyMaterial);
            import(&mut b, &id, &[3; 32]).unwrap();
        }
        assert_eq!(b.decrypt(&id, &blob).unwrap(), b"text");
        // What was deleted here comes again by the next exchange, if it comes at all.
        b.manage(Manage::DeleteImportedKeyMaterial, &id, &json!({})).unwrap();
        let offer = b.offer("eu-north", &[&id]).unwrap();
        carry(&mut b, &mut a, offer).unwrap();
        assert_eq!(b.decrypt(&id, &blob).is_ok(), replicates);
    }
}
