//! The rows of the audit log.

use std::borrow::Cow;

use conclave::error::{ErrorKind, Result};
use conclave::hsm::{AuditBatch, AuditTip};
use conclave::store::Store;

use crate::home::{Home, over_both};
use crate::{by_label, record};

over_both! {
    a_chain_is_begun_with_the_tips_of_those_that_moved_and_rows_are_stored_once
    audit_rows_disturb_nobody_who_remembers_objects
}

fn tip(chain: u8, seq: u64) -> AuditTip {
    AuditTip { instance: [chain; 16], seq, hash: [seq as u8; 48] }
}

fn batch(chain: u8, first: u64, rows: u64, closed: bool) -> AuditBatch<'static> {
    let rows: Vec<Vec<u8>> = (first..first + rows).map(|row| format!("{chain} {row}").into_bytes()).collect();
    let seq = first + rows.len() as u64 - 1;
    AuditBatch { first, rows: Cow::Owned(rows), tip: tip(chain, seq), closed }
}

/// Begins a chain of two rows and answers the tips that it was given.
fn open(store: &dyn Store, chain: u8) -> Result<Vec<AuditTip>> {
    let (tell, told) = std::sync::mpsc::channel();
    store.open_audit(Box::new(move |seen| {
        tell.send(seen).unwrap();
        Ok(batch(chain, 0, 2, false))
    }))?;
    Ok(told.recv().unwrap())
}

fn a_chain_is_begun_with_the_tips_of_those_that_moved_and_rows_are_stored_once(home: &Home) {
    let store = home.create();
    assert_eq!(open(&*store, 7).unwrap(), []);
    assert_eq!(open(&*store, 5).unwrap(), [tip(7, 1)]);
    // What nobody knows to be stored is stored again, with what came since.
    store.append_audit(&batch(7, 2, 3, false)).unwrap();
    store.append_audit(&batch(7, 2, 3, false)).unwrap();
    store.append_audit(&batch(7, 2, 4, true)).unwrap();
    assert_eq!(open(&*store, 9).unwrap(), [tip(5, 1), tip(7, 5)]);
    // One that was named as closed, and is stored once more, has not moved.
    store.append_audit(&batch(7, 2, 4, true)).unwrap();
    assert_eq!(open(&*store, 1).unwrap(), [tip(9, 1)]);
    let rows = store.audit(0, 100).unwrap();
    let names: Vec<_> = rows.iter().map(|row| String::from_utf8_lossy(&row.bytes).into_owned()).collect();
    assert_eq!(names, ["7 0", "7 1", "5 0", "5 1", "7 2", "7 3", "7 4", "7 5", "9 0", "9 1", "1 0", "1 1"]);
    assert_eq!(rows.iter().map(|row| row.id).max(), Some(store.newest_audit_row().unwrap()));
    assert_eq!(store.audit(rows[9].id, 1).unwrap(), rows[10..11]);
    assert!(rows.iter().all(|row| row.bytes[0] == b'0' + row.instance[0]));

    let refused = store.open_audit(Box::new(|_| Err(ErrorKind::UserNotLoggedIn.into()))).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::UserNotLoggedIn);
    assert_eq!(open(&*store, 2).unwrap(), [tip(1, 1)]);
}

fn audit_rows_disturb_nobody_who_remembers_objects(home: &Home) {
    let store = home.create();
    let other = home.open();
    store.insert(&[record(1, "a")]).unwrap();
    assert_eq!(other.find(&by_label("a"), 0, 10).unwrap().len(), 1);
    let before = other.counter();
    open(&*store, 7).unwrap();
    for first in 2..100 {
        store.append_audit(&batch(7, first, 1, false)).unwrap();
    }
    assert_eq!((other.counter(), other.is_unchanged(&record(1, "a").object, before)), (before, Some(before)));
    // A commit that does both is told of as ever.
    let writes = [0, 1].map(|nth| {
        let (store, record) = (&store, record(nth + 2, "b"));
        move || if nth == 0 { store.insert(&[record]) } else { store.append_audit(&batch(7, 100, 1, false)) }
    });
    std::thread::scope(|scope| writes.into_iter().for_each(|write| drop(scope.spawn(move || write().unwrap()))));
    assert!(other.counter() > before);
    assert_eq!(other.find(&by_label("b"), 0, 10).unwrap().len(), 1);
    assert_eq!(other.audit(0, 1000).unwrap().len(), 101);
}
