//! Keys under dual control: what approves a use, and what does not.

use serde_json::{Value as Json, json};

use super::governed::{OPERATORS, Operator, Token, kind};
use super::*;
use crate::hsm::domain::Circumstances;
use crate::hsm::governance::{self, OperatorKeys, PartyKind};

/// Another key of the person of the first operator.
const AGAIN: Operator = Operator(4);
/// An operator of the domain who is none of the key.
const OTHER: Operator = Operator(5);

/// A founded domain with a user logged in, and a managed pair that signs by two of three.
struct Controlled {
    token: Token,
    public: Record,
    key: Record,
}

impl Controlled {
    fn new() -> Self {
        let mut token = Token::new();
        token.found();
        add(&mut token, &AGAIN, "operator 1");
        add(&mut token, &OTHER, "operator 5");
        token.log_in(Role::User);
        let (public, key) = make(&token, "root CA", &["operator 1", "operator 2", "operator 3"], 2).unwrap();
        Self { token, public, key }
    }

    /// "use key" for these operators to sign.
    fn proposal(&self, change: &[(&str, Json)]) -> Vec<u8> {
        let mut request = json!({ "command": "use key", "key": "root CA", "action": "Sign", "digest": null });
        for (name, value) in change {
            request[*name] = value.clone();
        }
        propose(&self.token, &request, &self.key).unwrap()
    }

    fn approve(&self, proposal: &[u8], signers: &[&Operator]) -> Result<Reply> {
        let signed = signed(proposal, signers);
        self.token.call(Command::Approve { proposal: &signed, keys: self.keys() })
    }

    fn keys(&self) -> KeyRecords<'_> {
        KeyRecords { key: &self.key, public: Some(&self.public) }
    }

    fn begin(&self, key: &Record) -> Box<dyn Operation> {
        let mechanism = Mechanism::new(ck::CKM_ECDSA_SHA256);
        self.token.hsm.begin(&self.token.ticket, Function::Sign, &mechanism, Some(key)).unwrap()
    }

    fn signs(&self, message: &[u8]) -> bool {
        sign(&mut *self.begin(&self.key), message)
    }
}

/// Whether it writes a signature; that it is refused for want of an approval, if not.
fn sign(operation: &mut dyn Operation, message: &[u8]) -> bool {
    match operation.one_shot(message, Some(&mut [0; 64])) {
        Ok(outcome) => outcome == Outcome::Written(64),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::KeyFunctionNotPermitted);
            assert!(error.detail().unwrap().contains("dual control"));
            false
        }
    }
}

fn digest(message: &[u8]) -> Json {
    json!(hex::encode(digest_of_record(message)))
}

fn add(token: &mut Token, operator: &Operator, person: &str) {
    let Ok(Reply::Domain(view)) = token.call(Command::Adopt { domain: &token.domain, log: Log::default() }) else {
        panic!()
    };
    let claim = governance::claim(PartyKind::Operator, person, &view.domain, operator).unwrap();
    token.run(&json!({ "command": "add operator", "operator": hex::encode(claim), "roles": ["operator"] }));
}

fn make(token: &Token, label: &str, operators: &[&str], threshold: u64) -> Result<(Record, Record)> {
    let request = json!({
        "KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY", "Label": label,
        "DualControl": { "Operators": operators, "Threshold": threshold },
    });
    let command = Command::Manage {
        action: Manage::CreateKey,
        keys: None,
        alias: None,
        target: None,
        request: &request.to_string(),
        dry_run: false,
    };
    match token.call(command)? {
        Reply::Managed { mut change, .. } => Ok((change.insert.remove(1), change.insert.remove(0))),
        other => panic!("{other:?}"),
    }
}

fn propose(token: &Token, request: &Json, key: &Record) -> Result<Vec<u8>> {
    match token.call(Command::Propose { request: &request.to_string(), key: Some(key) })? {
        Reply::Bytes(proposal) => Ok(proposal),
        other => panic!("{other:?}"),
    }
}

fn signed(proposal: &[u8], signers: &[&Operator]) -> Vec<u8> {
    signers.iter().fold(proposal.to_vec(), |signed, operator| governance::sign(&signed, *operator).unwrap())
}

const TWO: [&Operator; 2] = [&OPERATORS[0], &OPERATORS[2]];

#[track_caller]
fn refused(result: Result<Reply>, why: &str) {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::FunctionRejected, "{error}");
    assert!(error.detail().unwrap_or_default().contains(why), "{error}");
}

#[test]
fn an_approval_is_for_so_many_uses_and_no_more() {
    let it = Controlled::new();
    assert!(!it.signs(b"a certificate"));
    it.approve(&it.proposal(&[("count", json!(2))]), &TWO).unwrap();
    assert!(it.signs(b"a certificate") && it.signs(b"another"));
    assert!(!it.signs(b"a certificate"));
    // The public half needs none.
    let mechanism = Mechanism::new(ck::CKM_ECDSA_SHA256);
    let mut verify = it.token.hsm.begin(&it.token.ticket, Function::Verify, &mechanism, Some(&it.public)).unwrap();
    assert_eq!(verify.approval(Some(b"x")).unwrap(), None);
    assert_eq!(verify.verify_one_shot(b"x", &[1; 64]).unwrap_err().kind(), ErrorKind::SignatureInvalid);
}

#[test]
fn threads_that_race_for_approvals_take_each_once() {
    let it = Controlled::new();
    it.approve(&it.proposal(&[("count", json!(7))]), &TWO).unwrap();
    let signed: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|thread: u8| {
                let it = &it;
                scope.spawn(move || (0..10u8).filter(|n| it.signs(&[thread, *n])).count())
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(signed, 7);
}

#[test]
fn an_approval_that_is_not_used_up_is_given_back() {
    let it = Controlled::new();
    it.approve(&it.proposal(&[]), &TWO).unwrap();
    let mut first = it.begin(&it.key);
    assert_eq!(first.approval(Some(b"a")).unwrap(), None);
    // It is the first one's as long as that lasts.
    let mut second = it.begin(&it.key);
    let wanted = second.approval(Some(b"a")).unwrap().unwrap();
    assert_eq!((wanted.object, wanted.action.as_str()), (it.key.object, "Sign"));
    assert_eq!(wanted.digest, digest_of_record(b"a"));
    // Asking for the length, or with too little room, uses nothing.
    assert_eq!(first.one_shot(b"a", None).unwrap(), Outcome::Needed(64));
    assert_eq!(first.one_shot(b"a", Some(&mut [0; 3])).unwrap(), Outcome::Needed(64));
    drop(first);
    assert!(sign(&mut *second, b"a"));
    assert!(!it.signs(b"a"));
}

#[test]
fn a_message_in_parts_is_approved_as_a_whole() {
    let it = Controlled::new();
    it.approve(&it.proposal(&[("digest", digest(b"in two parts"))]), &TWO).unwrap();
    let mut operation = it.begin(&it.key);
    operation.update(b"in two ", None).unwrap();
    let wanted = operation.approval(None).unwrap().unwrap();
    assert_eq!(wanted.digest, digest_of_record(b"in two "));
    operation.update(b"parts", None).unwrap();
    assert_eq!(operation.approval(None).unwrap(), None);
    assert_eq!(operation.finish(Some(&mut [0; 64])).unwrap(), Outcome::Written(64));
    assert!(!it.signs(b"in two parts"));
}

#[test]
fn another_input_action_or_key_is_not_approved() {
    let it = Controlled::new();
    it.approve(&it.proposal(&[("digest", digest(b"a"))]), &TWO).unwrap();
    it.approve(&it.proposal(&[("action", json!("Decrypt"))]), &TWO).unwrap();
    assert!(!it.signs(b"b"));
    let (_, other) = make(&it.token, "other", &["operator 1", "operator 2", "operator 3"], 2).unwrap();
    assert!(!sign(&mut *it.begin(&other), b"a"));
    let signed = signed(&it.proposal(&[]), &TWO);
    let keys = KeyRecords { key: &other, public: None };
    refused(it.token.call(Command::Approve { proposal: &signed, keys }), "no longer, as the command says");
    let keys = KeyRecords { key: &it.public, public: None };
    refused(it.token.call(Command::Approve { proposal: &signed, keys }), "no longer, as the command says");
    assert!(it.signs(b"a"));
}

#[test]
fn another_instance_is_not_approved_nor_the_same_after_a_restart() {
    let mut it = Controlled::new();
    let elsewhere = it.proposal(&[("instance", json!("00".repeat(16)))]);
    refused(it.approve(&elsewhere, &TWO), "another HSM instance");
    let proposal = it.proposal(&[("count", json!(100))]);
    it.approve(&proposal, &TWO).unwrap();
    it.token.restart();
    it.token.log_in(Role::User);
    assert!(!it.signs(b"a"));
    refused(it.approve(&proposal, &TWO), "another HSM instance");
}

#[test]
fn an_approval_ends_with_its_time() {
    let it = Controlled::new();
    let now = Circumstances::of_system().now;
    let before = it.proposal(&[("valid_from", json!(now - 100)), ("valid_for", json!(50))]);
    refused(it.approve(&before, &TWO), "has expired");
    let after = it.proposal(&[("valid_from", json!(now + 100))]);
    refused(it.approve(&after, &TWO), "not valid yet");
    it.approve(&it.proposal(&[("valid_for", json!(1)), ("count", json!(9))]), &TWO).unwrap();
    assert!(it.signs(b"a"));
    std::thread::sleep(std::time::Duration::from_millis(2100));
    assert!(!it.signs(b"a"));
}

#[test]
fn too_few_persons_do_not_approve() {
    let it = Controlled::new();
    let proposal = it.proposal(&[]);
    refused(it.approve(&proposal, &[]), "0 of 2 persons");
    refused(it.approve(&proposal, &[&OPERATORS[1]]), "1 of 2 persons");
    // Two keys of one person are one person, though both are the key's.
    refused(it.approve(&proposal, &[&OPERATORS[0], &AGAIN]), "1 of 2 persons");
    it.approve(&proposal, &[&OPERATORS[1], &AGAIN]).unwrap();
    assert!(it.signs(b"a"));
}

#[test]
fn only_operators_of_the_key_approve() {
    let it = Controlled::new();
    let proposal = it.proposal(&[]);
    refused(it.approve(&proposal, &[&OPERATORS[0], &OTHER]), "is not one of the key's operators");
    refused(it.approve(&proposal, &[&OPERATORS[0], &OPERATORS[1], &OTHER]), "is not one of the key's operators");
    refused(it.approve(&proposal, &[&OPERATORS[0], &Operator(6)]), "unknown signer");
    // A bad signature spoils it.
    let spki = OPERATORS[1].signing().unwrap();
    let command = Command::AddSignature { proposal: &proposal, signer: &spki, signature: &[1; 96] };
    assert_eq!(kind(it.token.call(command)), Some(ErrorKind::FunctionRejected));
    assert!(!it.signs(b"a"));
}

#[test]
fn an_approval_is_taken_once() {
    let it = Controlled::new();
    let proposal = it.proposal(&[]);
    it.approve(&proposal, &TWO).unwrap();
    refused(it.approve(&proposal, &TWO), "executed before");
    assert!(it.signs(b"a"));
    refused(it.approve(&proposal, &TWO), "executed before");
    // Other signatures do not make it another.
    refused(it.approve(&proposal, &[&OPERATORS[0], &OPERATORS[1]]), "executed before");
    assert!(!it.signs(b"a"));
}

#[test]
fn other_operators_of_the_domain_end_its_approvals() {
    let mut it = Controlled::new();
    let proposal = it.proposal(&[]);
    it.approve(&it.proposal(&[]), &TWO).unwrap();
    it.token.run(&json!({ "command": "set limits", "limits": { "offer": 7200 } }));
    assert!(!it.signs(b"a"));
    refused(it.approve(&proposal, &TWO), "other operators, rules");
}

#[test]
fn the_domain_takes_no_command_about_a_key() {
    let it = Controlled::new();
    let signed = signed(&it.proposal(&[]), &[&OPERATORS[0], &OPERATORS[1], &OPERATORS[2]]);
    refused(it.token.call(Command::Execute { proposal: &signed, keys: &[] }), "about a key");
    let rule = json!({ "command": "use key", "alternatives": [{ "officer": 1 }] });
    let command = it.token.signed(&json!({ "command": "set rule", "rule": rule }));
    refused(it.token.call(Command::Execute { proposal: &command, keys: &[] }), "no such command");
}

#[test]
fn its_own_quorum_changes_who_controls_a_key() {
    let mut it = Controlled::new();
    it.approve(&it.proposal(&[("count", json!(9))]), &TWO).unwrap();
    let request = json!({
        "command": "set dual control", "key": "", "operators": ["operator 2", "operator 5"], "threshold": 2,
    });
    let proposal = propose(&it.token, &request, &it.key).unwrap();
    refused(it.approve(&proposal, &[&OPERATORS[0]]), "1 of 2 persons");
    let before = signed(&proposal, &TWO);
    let Ok(Reply::Managed { change, .. }) = it.approve(&proposal, &TWO) else { panic!() };
    let [key, public] = &change.replace[..] else { panic!("{change:?}") };
    (it.key, it.public) = (key.clone(), public.clone());
    assert_eq!((it.key.generation, it.public.generation), (2, 2));
    // What the others approved before is void, and so is the command that was executed.
    assert!(!it.signs(b"a"));
    refused(it.token.call(Command::Approve { proposal: &before, keys: it.keys() }), "no longer, as the command says");
    refused(it.approve(&it.proposal(&[]), &TWO), "is not one of the key's operators");
    it.approve(&it.proposal(&[]), &[&OPERATORS[1], &OTHER]).unwrap();
    assert!(it.signs(b"a"));
}

#[test]
fn a_quorum_that_cannot_be_is_no_policy() {
    let it = Controlled::new();
    for (operators, threshold) in [
        (&["operator 1", "operator 2"][..], 3),
        (&["operator 1", "operator 2"], 0),
        (&["operator 1", "nobody"], 1),
        (&["operator 1", "operator 1"], 1),
        (&[], 1),
    ] {
        let made = make(&it.token, "", operators, threshold);
        assert_eq!(made.unwrap_err().kind(), ErrorKind::KmsMalformedPolicy, "{operators:?} {threshold}");
    }
    let mut ungoverned = Token::new();
    ungoverned.log_in(Role::User);
    assert_eq!(make(&ungoverned, "", &["operator 1"], 1).unwrap_err().kind(), ErrorKind::KmsMalformedPolicy);
}

#[test]
fn a_proposal_says_in_words_what_it_allows() {
    let it = Controlled::new();
    let describe = |proposal: &[u8]| match it.token.call(Command::DescribeCommand { proposal }).unwrap() {
        Reply::Text(text) => serde_json::from_str::<Json>(&text).unwrap(),
        other => panic!("{other:?}"),
    };
    let proposal = it.proposal(&[("digest", digest(b"a")), ("count", json!(3))]);
    let described = describe(&proposal);
    let words = described["words"].as_str().unwrap();
    for part in ["\"root CA\"", "Sign, 3 times", digest(b"a").as_str().unwrap(), "2 of ", "\"operator 3\""] {
        assert!(words.contains(part), "{words}");
    }
    assert_eq!(described["lacking"], "0 of 2 persons among the key's operators");
    assert_eq!(described["key"]["threshold"], 2);
    let described = describe(&signed(&proposal, &TWO));
    assert_eq!((&described["quorum_met"], &described["refusal"]), (&json!(true), &Json::Null));
    assert!(describe(&it.proposal(&[]))["words"].as_str().unwrap().contains("On ANY input."));
}
