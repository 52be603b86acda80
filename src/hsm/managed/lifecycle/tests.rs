use proptest::prelude::*;

use super::*;
use crate::hsm::managed::attributes::{
    CKA_KMS_DELETION_DATE, CKA_KMS_KEY_ID, CKA_KMS_MULTI_REGION, CKA_KMS_STATE, CKA_KMS_TAGS, CKA_KMS_VERSION,
};
use crate::hsm::managed::creation::{Creation, Request};
use crate::hsm::managed::metadata::KeyId;
use crate::hsm::replication::Party;

pub(in crate::hsm::managed) const NOW: u64 = 1_800_000_000;
const DAY: u64 = 86_400;

pub(in crate::hsm::managed) fn request() -> Request<'static> {
    Request {
        spec: "AES_256",
        usage: None,
        origin: Origin::Hsm,
        multi_region: false,
        replicate_imported: false,
        label: "label",
        description: "",
        tags: &[],
        standard_mechanisms: false,
        owner: "user",
    }
}

fn key() -> Managed {
    Creation::new(&request(), [5; 16], NOW).unwrap().managed
}

fn imported() -> Managed {
    Creation::new(&Request { origin: Origin::External, ..request() }, [6; 16], NOW).unwrap().managed
}

/// With a replica in a Region B.
pub(in crate::hsm::managed) fn primary() -> Managed {
    let other = Party { region: "B".to_owned(), domain: [2; 16] };
    let key = Creation::new(&Request { multi_region: true, ..request() }, [8; 16], NOW).unwrap().managed;
    key.authorise(&other, NOW).unwrap().register(&other, &[3; 16], 1, 1).unwrap()
}

fn signing() -> Managed {
    let request = Request { spec: "ECC_NIST_P384", usage: Some(Usage::SignVerify), ..request() };
    Creation::new(&request, [7; 16], NOW).unwrap().managed
}

fn reason<T: std::fmt::Debug>(answer: Answer<T>) -> Reason {
    answer.unwrap_err().reason()
}

fn attributes(key: &Managed) -> Attributes {
    let mut attributes = Attributes::new();
    key.write(&mut attributes);
    attributes
}

#[test]
fn deletion_waits_and_may_be_cancelled() {
    let key = key();
    for days in [0, 6, 31, u64::MAX] {
        assert_eq!(reason(key.schedule_deletion(Some(days), NOW)), Reason::Arguments);
    }
    let waiting = key.schedule_deletion(None, NOW).unwrap();
    assert_eq!(waiting.describe(NOW)["DeletionDate"], NOW + 30 * DAY);
    assert_eq!(waiting.due(NOW + 30 * DAY - 1), None);
    assert_eq!(waiting.due(NOW + 30 * DAY), Some(Due::Delete));
    assert_eq!(reason(waiting.cancel_deletion(NOW + 30 * DAY)), Reason::InvalidState);
    assert_eq!(reason(waiting.enable(NOW)), Reason::InvalidState);
    assert_eq!(reason(waiting.set_description("x", NOW)), Reason::InvalidState);
    let back = waiting.cancel_deletion(NOW + 30 * DAY - 1).unwrap();
    assert_eq!(back, key.disable(NOW).unwrap());

    let (key, back) = (primary(), primary().disable(NOW).unwrap());
    let primary = key.schedule_deletion(Some(7), NOW).unwrap();
    assert_eq!(primary.state_at(NOW), KeyState::PendingReplicaDeletion);
    assert_eq!(primary.describe(NOW)["PendingDeletionWindowInDays"], 7);
    assert_eq!(primary.due(u64::MAX), None);
    assert_eq!(primary.cancel_deletion(NOW).unwrap(), back);
    let waiting = primary.replicas_deleted(NOW + DAY).unwrap();
    assert_eq!(waiting.due(NOW + 8 * DAY), Some(Due::Delete));
    assert_eq!(reason(key.replicas_deleted(NOW)), Reason::InvalidState);
}

#[test]
fn rotation_by_period_and_on_demand() {
    let key = key();
    for days in [0, 89, 2561] {
        assert_eq!(reason(key.set_rotation(Some(days), NOW)), Reason::Arguments);
    }
    assert_eq!(key.due(u64::MAX), None);
    let key = key.set_rotation(None, NOW).unwrap();
    let next = NOW + 365 * DAY;
    assert_eq!(key.describe(NOW)["NextRotationDate"], next);
    let demanded = key.rotate(NOW + DAY).unwrap();
    assert_eq!((demanded.version(), demanded.rotated, demanded.due(next - 1)), (2, Some(NOW + DAY), None));
    assert_eq!(demanded.due(next), Some(Due::Rotate));
    assert_eq!(demanded.disable(NOW).unwrap().due(next), None);
    // Late, it does not catch up on what was missed.
    let late = demanded.rotate(next + 1000 * DAY).unwrap();
    assert_eq!((late.version(), late.due(next + 1364 * DAY)), (3, None));
    assert_eq!(late.due(next + 1365 * DAY), Some(Due::Rotate));
    assert_eq!(late.stop_rotation(next).unwrap().due(u64::MAX), None);
    for other in [signing(), imported().import_material(b"c", None, NOW).unwrap()] {
        assert_eq!(reason(other.rotate(NOW)), Reason::Unsupported);
        assert_eq!(reason(other.set_rotation(None, NOW)), Reason::Unsupported);
    }
}

#[test]
fn imported_material_comes_goes_and_comes_back() {
    let key = imported();
    assert_eq!(key.state_at(NOW), KeyState::PendingImport);
    assert_eq!(reason(key.enable(NOW)), Reason::InvalidState);
    assert!(key.check_import_parameters(NOW).is_ok());
    for valid_to in [0, NOW, NOW + 365 * DAY + 1] {
        assert_eq!(reason(key.import_material(b"first", Some(valid_to), NOW)), Reason::Arguments);
    }
    let until = NOW + 365 * DAY;
    let held = key.import_material(b"first", Some(until), NOW).unwrap();
    assert_eq!(held.state_at(until - 1), KeyState::Enabled);
    assert_eq!(held.describe(NOW)["ValidTo"], until);
    assert_eq!((held.expires_within(364, NOW), held.expires_within(365, NOW)), (None, Some(until)));
    assert_eq!((held.due(until - 1), held.due(until)), (None, Some(Due::ExpireMaterial)));
    assert_eq!(reason(held.expire_material(until - 1)), Reason::InvalidState);
    let expired = held.expire_material(until).unwrap();
    assert_eq!((expired.state_at(until), expired.due(until)), (KeyState::PendingImport, None));
    assert_eq!(reason(expired.import_material(b"other", None, until)), Reason::IncorrectKeyMaterial);
    let again = expired.import_material(b"first", None, until).unwrap();
    assert_eq!(again.state_at(u64::MAX), KeyState::Enabled);
    assert_eq!(again.expires_within(u64::MAX, NOW), None);
    assert_eq!(reason(super::tests::key().delete_material(NOW)), Reason::Unsupported);
    assert_eq!(reason(super::tests::key().check_import_parameters(NOW)), Reason::Unsupported);

    // What was decided of the key outlives its material: an import enables nothing.
    let disabled = again.disable(NOW).unwrap().delete_material(NOW).unwrap();
    assert_eq!(disabled.state_at(NOW), KeyState::PendingImport);
    assert_eq!(disabled.import_material(b"first", None, NOW).unwrap().state_at(NOW), KeyState::Disabled);
    let waiting = again.schedule_deletion(None, NOW).unwrap().delete_material(NOW).unwrap();
    assert_eq!(waiting.state_at(NOW), KeyState::PendingDeletion);
    assert_eq!(waiting.cancel_deletion(NOW).unwrap().state_at(NOW), KeyState::PendingImport);
}

#[test]
fn through_the_standard_a_key_is_only_named() {
    let current = attributes(&key());
    let change = |kind, value| set_attributes(&current, &[(kind, value)].into_iter().collect(), NOW);
    let named = change(ck::CKA_LABEL, Value::Bytes(b"new".to_vec())).unwrap();
    assert_eq!(named.bytes(ck::CKA_LABEL), Some(&b"new"[..]));
    let described = change(CKA_KMS_DESCRIPTION, Value::Bytes(b"what it is for".to_vec())).unwrap();
    assert_eq!(Managed::read(&described).unwrap().describe(NOW)["Description"], "what it is for");
    assert_eq!(reason(change(CKA_KMS_DESCRIPTION, Value::Bytes(vec![0xff]))), Reason::Arguments);
    assert_eq!(reason(change(CKA_KMS_STATE, Value::Ulong(1))), Reason::ReadOnly);
    assert_eq!(reason(change(ck::CKA_ID, Value::Bytes(vec![1]))), Reason::ReadOnly);
    let waiting = attributes(&key().schedule_deletion(None, NOW).unwrap());
    let changes = [(ck::CKA_LABEL, Value::Bytes(Vec::new()))].into_iter().collect();
    assert_eq!(reason(set_attributes(&waiting, &changes, NOW)), Reason::InvalidState);
}

#[test]
fn a_record_that_contradicts_itself_is_damaged() {
    let whole = attributes(&key());
    assert_eq!(Managed::read(&whole), Ok(key()));
    assert_eq!(reason(Managed::read(&Attributes::new())), Reason::Unsupported);
    for (kind, value) in [
        (CKA_KMS_STATE, Value::Ulong(KeyState::PendingDeletion.code())),
        (CKA_KMS_STATE, Value::Ulong(8)),
        (CKA_KMS_DELETION_DATE, Value::Ulong(1)),
        (CKA_KMS_KEY_ID, Value::Bytes(b"mrk-".to_vec())),
        (CKA_KMS_MULTI_REGION, Value::Bool(true)),
        (CKA_KMS_TAGS, Value::Bytes(vec![0xa1])),
        (CKA_KMS_VERSION, Value::Ulong(0)),
    ] {
        let mut torn = whole.clone();
        torn.set(kind, value);
        assert_eq!(reason(Managed::read(&torn)), Reason::Damaged, "{kind:#x}");
    }
}

#[test]
fn key_ids_have_one_spelling() {
    let uuid = KeyId::new([0xff; 16], false);
    assert_eq!(uuid.as_str(), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    let mrk = KeyId::new([1; 16], true);
    assert_eq!(mrk.as_str(), "mrk-01010101010101010101010101010101");
    for id in [uuid, mrk] {
        assert_eq!(KeyId::parse(id.as_str()).as_ref(), Some(&id));
        assert_eq!(KeyId::parse(&id.as_str().to_uppercase()), None);
        assert_eq!(KeyId::parse(&id.as_str()[1..]), None);
    }
}

#[derive(Debug, Clone)]
enum Step {
    Enable,
    Disable,
    Schedule(u64),
    GiveUp,
    Cancel,
    Describe(String),
    Tag(String, String),
    Untag(String),
    SetRotation(u64),
    StopRotation,
    Rotate,
    Import(u8, Option<u64>),
    DeleteMaterial,
    ExpireMaterial,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::Enable),
        Just(Step::Disable),
        (5u64..33).prop_map(Step::Schedule),
        Just(Step::GiveUp),
        Just(Step::Cancel),
        "[a-c]{0,3}".prop_map(Step::Describe),
        ("[a-c]{0,2}", "[a-c]{0,2}").prop_map(|(name, value)| Step::Tag(name, value)),
        "[a-c]{1,2}".prop_map(Step::Untag),
        (85u64..2570).prop_map(Step::SetRotation),
        Just(Step::StopRotation),
        Just(Step::Rotate),
        (0u8..2, proptest::option::of(0u64..400)).prop_map(|(material, days)| Step::Import(material, days)),
        Just(Step::DeleteMaterial),
        Just(Step::ExpireMaterial),
    ]
}

fn take(key: &Managed, step: &Step, now: u64) -> Answer<Managed> {
    match step {
        Step::Enable => key.enable(now),
        Step::Disable => key.disable(now),
        Step::Schedule(days) => key.schedule_deletion(Some(*days), now),
        Step::GiveUp => key.give_up("B", now),
        Step::Cancel => key.cancel_deletion(now),
        Step::Describe(text) => key.set_description(text, now),
        Step::Tag(name, value) => key.tag(&[(name, value)], now),
        Step::Untag(name) => key.untag(&[name], now),
        Step::SetRotation(days) => key.set_rotation(Some(*days), now),
        Step::StopRotation => key.stop_rotation(now),
        Step::Rotate => key.rotate(now),
        Step::Import(material, days) => key.import_material(&[*material], days.map(|days| now + days * DAY), now),
        Step::DeleteMaterial => key.delete_material(now),
        Step::ExpireMaterial => key.expire_material(now),
    }
}

proptest! {
    /// Whatever is done in whatever order: the key stays what it was made as, its record can always
    /// be read, what waits for deletion comes back by a cancellation only, and what is over, never.
    #[test]
    fn whatever_happens_to_a_key(
        start in 0usize..4,
        steps in proptest::collection::vec((0u64..12 * DAY, step()), 0..60),
    ) {
        let first = [key(), imported(), signing(), primary()][start].clone();
        let (mut key, mut now) = (first.clone(), NOW);
        for (passed, step) in steps {
            now += passed;
            let before = key.state_at(now);
            let over = key.due(now) == Some(Due::Delete);
            let waits = |state| matches!(state, KeyState::PendingDeletion | KeyState::PendingReplicaDeletion);
            let Ok(next) = take(&key, &step, now) else { continue };
            prop_assert_eq!(Managed::read(&attributes(&next)), Ok(next.clone()));
            prop_assert_eq!(&next.id, &first.id);
            prop_assert_eq!((next.spec, next.usage, next.origin), (first.spec, first.usage, first.origin));
            prop_assert!(next.version >= key.version && next.version <= key.version + 1);
            if let Some(commitment) = key.commitment() {
                prop_assert_eq!(next.commitment(), Some(commitment));
            }
            let after = next.state_at(now);
            if waits(before) && !waits(after) {
                prop_assert!(matches!(step, Step::Cancel) && !over);
                prop_assert_eq!(next.state, KeyState::Disabled);
            }
            if over {
                prop_assert!(matches!(step, Step::ExpireMaterial), "{:?}", step);
            }
            if !waits(before) && waits(after) {
                prop_assert!(matches!(step, Step::Schedule(7..=30)));
            }
            if before == KeyState::Disabled && after == KeyState::Enabled {
                prop_assert!(matches!(step, Step::Enable));
            }
            key = next;
        }
    }
}
