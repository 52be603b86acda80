use cryptoki_sys as ck;
use proptest::prelude::*;

use super::*;
use crate::hsm::managed::condition::tests::{conditions, contexts};
use crate::hsm::managed::states;
use crate::hsm::value;

const PRINCIPALS: &[&str] = &["so", "user", "user:alice", "user:bob"];

fn statements() -> impl Strategy<Value = Vec<Statement<'static>>> {
    let principals = proptest::sample::subsequence(&["so", "user", "user:alice", "user:bob", "*"], 1..3);
    let actions = [Some(Action::Encrypt), Some(Action::Sign), Some(Action::PutKeyPolicy), None];
    let actions = proptest::sample::subsequence(actions.to_vec(), 1..3);
    let statement = (principals, actions, proptest::option::of(conditions()))
        .prop_map(|(principals, actions, condition)| Statement { principals, actions, condition });
    proptest::collection::vec(statement, 0..4)
}

fn key_with(policy: Option<Vec<u8>>) -> Attributes {
    let text = |text: &str| value::Value::Bytes(text.as_bytes().to_vec());
    let mut key: Attributes = [
        (CKA_KMS_KEY_ID, text("9b2d0c5e-1b7a-4c2e-8f00-0123456789ab")),
        (CKA_KMS_OWNER, text("user:alice")),
        (ck::CKA_LABEL, text("label")),
    ]
    .into_iter()
    .collect();
    if let Some(policy) = policy {
        key.set(CKA_KMS_POLICY, value::Value::Bytes(policy));
    }
    key
}

fn changers() -> Vec<String> {
    ["user", "user:alice"].map(str::to_owned).to_vec()
}

fn refusal(json: &str) -> String {
    let value = serde_json::from_str(json).unwrap();
    let refused = Policy::from_json(&value, &changers()).unwrap_err();
    assert_eq!(refused.reason(), Reason::MalformedPolicy, "{json}");
    refused.detail().to_owned()
}

proptest! {
    #[test]
    fn a_statement_never_takes_away(before in statements(), more in statements(), context in proptest::option::of(contexts())) {
        let policy = Policy(before.clone());
        let longer = Policy(more.into_iter().chain(before).collect());
        for principal in PRINCIPALS {
            for action in Action::ALL {
                let allowed = policy.allows(principal, *action, context.as_ref());
                prop_assert!(!allowed || longer.allows(principal, *action, context.as_ref()));
            }
        }
    }

    #[test]
    fn only_a_statement_that_fits_allows(statements in statements(), context in contexts()) {
        let policy = Policy(statements.clone());
        for principal in PRINCIPALS {
            let mine = |statement: &&Statement<'_>| statement.principals.iter().any(|p| p == principal || *p == "*");
            for action in [Action::Encrypt, Action::Sign] {
                let expected = statements.iter().filter(mine).any(|statement| {
                    (statement.actions.contains(&None) || statement.actions.contains(&Some(action)))
                        && statement.condition.as_ref().is_none_or(|condition| condition.holds(Some(&context)))
                });
                prop_assert_eq!(policy.allows(principal, action, Some(&context)), expected);
            }
        }
    }

    #[test]
    fn both_forms_say_the_same(statements in statements()) {
        let policy = Policy(statements);
        let encoded = policy.encode();
        prop_assert_eq!(&Policy::decode(&encoded).unwrap(), &policy);
        let json = policy.to_json();
        match Policy::from_json(&json, &changers()) {
            Ok(read) => prop_assert_eq!(read.encode(), encoded),
            Err(refused) => prop_assert!(refused.detail().contains("nobody could change"), "{}", refused.detail()),
        }
        let changeable = changers().iter().any(|principal| policy.allows(principal, Action::PutKeyPolicy, None));
        prop_assert_eq!(Policy::from_json(&json, &changers()).is_ok(), changeable);
    }
}

#[test]
fn without_a_policy_the_owner_may_everything() {
    let key = key_with(None);
    let allowed = |principal, action| authorise(&key, principal, action, None).is_ok();
    for action in [states::Action::Decrypt, states::Action::PutPolicy, states::Action::ScheduleDeletion] {
        assert!(allowed("user:alice", action));
        for other in ["so", "user", "user:bob", "alice", "*", ""] {
            assert!(!allowed(other, action), "{other} {action:?}");
        }
    }
    assert!(allowed("user:bob", states::Action::Describe) && !allowed("", states::Action::Describe));
    for owner in ["so", "user"] {
        assert!(allowed(owner, states::Action::GetPolicy) && allowed(owner, states::Action::ListGrants));
    }
    assert!(!allowed("user:bob", states::Action::GetPolicy));
}

#[test]
fn a_policy_is_all_there_is() {
    let json = serde_json::json!({ "Statement": [
        { "Principal": ["user"], "Action": ["PutKeyPolicy"] },
        { "Principal": ["user:bob"], "Action": ["Encrypt"], "Context": { "Subset": { "a": "1" } } },
    ] });
    let key = key_with(Some(Policy::from_json(&json, &changers()).unwrap().encode()));
    let context = Context::from_pairs([("a", "1"), ("b", "2")]).unwrap();
    let asked = |principal, action, context| authorise(&key, principal, action, context);
    assert!(asked("user:bob", states::Action::Encrypt, Some(&context)).is_ok());
    let refused = asked("user:bob", states::Action::Encrypt, Some(&Context::EMPTY)).unwrap_err();
    assert_eq!(refused.reason(), Reason::AccessDenied);
    assert!(refused.detail().contains("9b2d0c5e") && refused.detail().contains("Encrypt"), "{}", refused.detail());
    assert!(asked("user:bob", states::Action::Encrypt, None).is_err());
    assert!(asked("user:alice", states::Action::Encrypt, Some(&context)).is_err(), "the owner is not among them");
    let damaged = key_with(Some(vec![0x81]));
    let refused = authorise(&damaged, "user", states::Action::Encrypt, None).unwrap_err();
    assert_eq!(refused.reason(), Reason::Damaged);
}

#[test]
fn what_is_no_policy() {
    let good = r#"{"Principal": ["user"], "Action": ["*"]}"#;
    for (json, says) in [
        ("[]".to_owned(), "Statement"),
        (r#"{"Statement": {}}"#.to_owned(), "Statement"),
        (format!(r#"{{"Statement": [{good}], "Version": "1"}}"#), "nothing more"),
        (format!(r#"{{"Statement": [{good}, 7]}}"#), "statement 2"),
        (
            format!(r#"{{"Statement": [{good}, {{"Principal": ["user"], "Action": ["Encrpt"]}}]}}"#),
            "statement 2 of the policy: \"Encrpt\"",
        ),
        (r#"{"Statement": [{"Principal": ["user"], "Action": ["RecordsLost"]}]}"#.to_owned(), "statement 1"),
        (r#"{"Statement": [{"Principal": ["user"], "Action": []}]}"#.to_owned(), "Action must be"),
        (r#"{"Statement": [{"Principal": "user", "Action": ["*"]}]}"#.to_owned(), "Principal must be"),
        (r#"{"Statement": [{"Principal": ["alice"], "Action": ["*"]}]}"#.to_owned(), "\"alice\" is no principal"),
        (r#"{"Statement": [{"Principal": ["user:"], "Action": ["*"]}]}"#.to_owned(), "is no principal"),
        (r#"{"Statement": [{"Principal": ["user:a\u0000"], "Action": ["*"]}]}"#.to_owned(), "is no principal"),
        (r#"{"Statement": [{"Principal": ["user"], "Action": ["*"], "Effect": "Deny"}]}"#.to_owned(), "\"Effect\""),
        (
            r#"{"Statement": [{"Principal": ["user"], "Action": ["*"], "Context": {"Equal": {}}}]}"#.to_owned(),
            "Context",
        ),
        (
            r#"{"Statement": [{"Principal": ["user"], "Action": ["*"], "Context": {"Equals": {"a": 1}}}]}"#.to_owned(),
            "Context",
        ),
        (r#"{"Statement": []}"#.to_owned(), "nobody could change"),
        (r#"{"Statement": [{"Principal": ["user:bob"], "Action": ["*"]}]}"#.to_owned(), "nobody could change"),
        (r#"{"Statement": [{"Principal": ["user"], "Action": ["Encrypt"]}]}"#.to_owned(), "nobody could change"),
        (
            r#"{"Statement": [{"Principal": ["*"], "Action": ["*"], "Context": {"Subset": {}}}]}"#.to_owned(),
            "nobody could change",
        ),
        (format!(r#"{{"Statement": [{}]}}"#, vec![good; 900].join(",")), "32 KiB"),
    ] {
        let said = refusal(&json);
        assert!(said.contains(says), "{json}: {said}");
    }
    let everybody = serde_json::json!({ "Statement": [{ "Principal": ["*"], "Action": ["PutKeyPolicy"] }] });
    assert!(Policy::from_json(&everybody, &changers()).is_ok());
    assert!(Policy::from_json(&everybody, &[]).is_err(), "without users \"*\" is nobody");
}

#[test]
fn each_action_of_the_table_has_a_name_that_a_policy_takes() {
    for action in [states::Action::Replicate, states::Action::UpdateAliasTo, states::Action::SetDescription] {
        assert_eq!(allowable(action.named().name()), Some(Some(action.named())), "{action:?}");
    }
}
