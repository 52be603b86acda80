//! Named users while the SO governs, over SQLite and the embedded HSM.

use cryptoki_sys as ck;

use super::looped::over_a_link;
use super::real::{aes, encrypts, process, token};
use super::{DATA, NO, PIN, YES, refused};
use crate::cryptoki::{Module, SessionHandle};
use crate::error::ErrorKind;

const ALICE: &[u8] = b"alice";
const ALICES_PIN: &[u8] = b"alice's pin";

impl Module {
    fn log_in_as(&self, name: &[u8], pin: &[u8]) -> crate::error::Result<SessionHandle> {
        let session = self.rw(0);
        self.login(session, ck::CKU_USER, Some(pin), Some(name)).map(|()| session)
    }
}

#[test]
fn a_user_is_made_by_the_so_and_shares_ordinary_keys() {
    let (data, one) = token();
    let two = process(data.path());
    let so = one.so(0);
    one.create_user(so, ALICE, Some(ALICES_PIN)).unwrap();
    refused(one.create_user(so, ALICE, Some(b"another")), ErrorKind::KmsAlreadyExists);
    refused(one.create_user(so, b"user:bob", Some(ALICES_PIN)), ErrorKind::ArgumentsBad);
    refused(one.create_user(so, b"\xff", Some(ALICES_PIN)), ErrorKind::ArgumentsBad);
    refused(one.create_user(so, b"bob", Some(b"1")), ErrorKind::PinLenRange);
    let listed: serde_json::Value = serde_json::from_str(&one.list_users(so).unwrap()).unwrap();
    let principals: Vec<_> = listed["Users"].as_array().unwrap().iter().map(|user| &user["Principal"]).collect();
    assert_eq!(principals, ["so", "user", "user:alice"]);
    refused(two.log_in_as(ALICE, PIN), ErrorKind::PinIncorrect);
    let there = two.log_in_as(ALICE, ALICES_PIN).unwrap();
    refused(two.create_user(there, b"bob", Some(ALICES_PIN)), ErrorKind::UserNotLoggedIn);
    refused(two.remove_user(there, ALICE), ErrorKind::UserNotLoggedIn);
    let key = aes(&two, there, b"shared", YES).unwrap();
    encrypts(&two, there, key).unwrap();
    one.logout(so).unwrap();
    one.login(so, ck::CKU_USER, Some(PIN), None).unwrap();
    let found = one.search(so, &[(ck::CKA_LABEL, b"shared")]);
    encrypts(&one, so, found[0]).unwrap();
}

#[test]
fn a_removed_user_is_out_at_the_next_call() {
    let (data, one) = token();
    let two = process(data.path());
    let so = one.so(0);
    refused(one.remove_user(so, ALICE), ErrorKind::KmsNotFound);
    for again in [false, true] {
        one.create_user(so, ALICE, Some(ALICES_PIN)).unwrap();
        let there = two.log_in_as(ALICE, ALICES_PIN).unwrap();
        let key = aes(&two, there, b"mine", YES).unwrap();
        // A change of the PIN is no removal.
        for (old, new) in [(ALICES_PIN, b"second pin" as &[u8]), (b"second pin", ALICES_PIN)] {
            two.set_pin(there, Some(old), Some(new)).unwrap();
            encrypts(&two, there, key).unwrap();
        }
        one.remove_user(so, ALICE).unwrap();
        if again {
            // Another user of the same name, who has changed the PIN as often.
            one.create_user(so, ALICE, Some(b"another's")).unwrap();
            let three = process(data.path());
            let other = three.log_in_as(ALICE, b"another's").unwrap();
            three.set_pin(other, Some(b"another's"), Some(ALICES_PIN)).unwrap();
            three.set_pin(other, Some(ALICES_PIN), Some(b"another's")).unwrap();
        }
        refused(encrypts(&two, there, key), ErrorKind::KeyHandleInvalid);
        assert_eq!(two.session_info(there).unwrap().state, ck::CKS_RW_PUBLIC_SESSION);
        let expected = if again { ErrorKind::PinIncorrect } else { ErrorKind::UserPinNotInitialized };
        refused(two.log_in_as(ALICE, ALICES_PIN), expected);
        refused(
            two.create(there, &[(ck::CKA_CLASS, DATA), (ck::CKA_TOKEN, YES), (ck::CKA_PRIVATE, NO)]),
            ErrorKind::UserNotLoggedIn,
        );
        two.close_session(there).unwrap();
    }
}

over_a_link! {
    a_user_is_made_by_the_so_and_shares_ordinary_keys,
    a_removed_user_is_out_at_the_next_call,
}
