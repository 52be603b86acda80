//! The audit log of a real token: chains begin and close with the login, and are whole.

use std::sync::Arc;
use std::time::Instant;

use cryptoki_sys as ck;

use super::looped::over_a_link;
use super::real::{process, token};
use super::{PIN, SO_PIN};
use crate::cryptoki::SessionHandle;
use crate::cryptoki::{Module, token::Token};
use crate::error::ErrorKind;
use crate::hsm::{AuditReport, AuditStatus, Manage};

fn token_of(module: &Module, session: SessionHandle) -> Arc<Token> {
    Arc::clone(&module.session(session).unwrap().token)
}

fn status(module: &Module, session: SessionHandle) -> AuditStatus {
    token_of(module, session).channel.audit()
}

fn verify(module: &Module, session: SessionHandle, head: Option<&[u8]>) -> AuditReport {
    module.verify_audit(session, head, &mut |_, _| ()).unwrap()
}

#[test]
fn a_chain_is_begun_when_first_needed_and_closed_with_the_login() {
    let (data, module) = token();
    let session = module.rw(0);
    let token = token_of(&module, session);
    // Nobody is logged in: nothing could sign.
    token.audit_before().unwrap();
    assert!(!status(&module, session).open);
    assert_eq!(module.audit_head(session).unwrap_err().kind(), ErrorKind::UserNotLoggedIn);
    assert_eq!(module.read_audit(session, 0, 10).unwrap_err().kind(), ErrorKind::UserNotLoggedIn);

    module.login(session, ck::CKU_USER, Some(PIN), None).unwrap();
    assert!(!status(&module, session).open, "who uses no managed key writes no chain");
    token.audit_before().unwrap();
    assert!(status(&module, session).open);
    let report = verify(&module, session, None);
    assert!(report.ok && (report.chains, report.open_count, report.heads) == (1, 1, 1), "{report:?}");

    // Another process, whose chain names the first.
    let other = process(data.path());
    let theirs = other.rw(0);
    other.login(theirs, ck::CKU_USER, Some(PIN), None).unwrap();
    token_of(&other, theirs).audit_before().unwrap();
    let head = module.audit_head(session).unwrap();
    assert!(head.len() <= 512);
    other.logout(theirs).unwrap();
    assert!(!status(&other, theirs).open);
    module.close_session(session).unwrap();
    let report = verify(&other, theirs, Some(&head));
    assert!(report.ok && report.head_checked, "{report:?}");
    assert_eq!((report.chains, report.open_count), (3, 0));

    // The SO's login writes one, too; the end of the library closes it.
    let session = module.rw(0);
    module.login(session, ck::CKU_SO, Some(SO_PIN), None).unwrap();
    token_of(&module, session).audit_before().unwrap();
    assert_eq!(module.read_audit(session, 0, 100).unwrap().len(), 11);
    module.finalize();
    let report = verify(&other, theirs, Some(&head));
    assert!(report.ok && (report.chains, report.open_count, report.rows) == (4, 0, 12), "{report:?}");
    assert_eq!(
        other.verify_audit(theirs, Some(b"no head"), &mut |_, _| ()).unwrap_err().kind(),
        ErrorKind::DataInvalid
    );
}

/// A token with as many events in its log, from uses of one managed key.
fn used(records: u64) -> (tempfile::TempDir, Module, SessionHandle) {
    let (data, module) = token();
    let session = module.rw(0);
    module.login(session, ck::CKU_USER, Some(PIN), None).unwrap();
    let key = module.manage(session, Manage::CreateKey, "{}", false).unwrap();
    for _ in 1..records {
        module.kms_encrypt(session, &key, br#"{"customer":"17"}"#, b"nothing much", false).unwrap();
    }
    module.logout(session).unwrap();
    (data, module, session)
}

/// Resident memory of this process, in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn progress_is_told_of_every_page() {
    let (_data, module, session) = used(2500);
    let mut told = Vec::new();
    let report = module.verify_audit(session, None, &mut |done, total| told.push((done, total))).unwrap();
    assert!(report.ok && report.events == 2500, "{report:?}");
    let rows = report.rows;
    assert_eq!(told, [(1000, rows), (2000, rows), (rows, rows)]);
}

/// Run by hand: `cargo test --release a_million -- --ignored --nocapture`.
#[test]
#[ignore = "takes a minute; prints how long, and how much memory it needs"]
fn a_million_records_are_verified_in_memory_that_does_not_grow() {
    let begun = Instant::now();
    let (_data, module, session) = used(1_000_000);
    println!("made in {:.1} s", begun.elapsed().as_secs_f64());
    // What is allocated once is there after the first of these.
    assert!(verify(&module, session, None).ok);
    let (before, mut most, begun) = (resident(), 0, Instant::now());
    let report = module.verify_audit(session, None, &mut |_, _| most = most.max(resident())).unwrap();
    let seconds = begun.elapsed().as_secs_f64();
    println!("{} rows verified in {seconds:.1} s; {before} KiB before, at most {most} KiB", report.rows);
    assert!(report.ok && report.events == 1_000_000 && most < before + 8 * 1024);
}

over_a_link! {
    a_chain_is_begun_when_first_needed_and_closed_with_the_login,
}
