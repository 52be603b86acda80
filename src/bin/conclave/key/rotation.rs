//! `conclave key rotate` and `rotation`.

use conclave::cryptoki::KeyQuery;
use conclave::hsm::Manage;
use cryptoki_sys as ck;
use serde_json::json;

use crate::args::{ChangeKey, KeyRotate, KeyRotation, Login, OneKey, Trial};
use crate::managed::{self, reference};
use crate::output::{self, Failure, Progress, cell};
use crate::session::Live;

pub(super) fn rotate(rotate: &KeyRotate, as_json: bool) -> Result<(), Failure> {
    let Some(key) = &rotate.key else { return due(&rotate.login, rotate.trial.dry_run, as_json) };
    let live = Live::logged_in(&rotate.login)?;
    let request = json!({ "KeyId": reference(key) });
    let doing = format!("cannot rotate {key}");
    if live.manage(&doing, Manage::RotateKey, &request, rotate.trial.dry_run)?.is_none() {
        return managed::tried(as_json);
    }
    let key = live.describe_key(key)?;
    let sentence = format!("Key {} is in version {}.", cell(&key, "KeyId"), cell(&key, "KeyVersion"));
    output::done(as_json, &sentence, &key);
    Ok(())
}

fn due(login: &Login, dry_run: bool, as_json: bool) -> Result<(), Failure> {
    let live = Live::for_run_due(login.token.as_deref())?;
    live.log_in(login, ck::CKU_USER)?;
    let mut progress = Progress::new(as_json);
    let report = live.module.run_due(live.session, dry_run, &mut |done, total| progress.show(done, total));
    drop(progress);
    let report = report.map_err(|error| Failure::while_("not everything that is due was done", &error))?;
    let parts = [
        (report.rotated, "rotated"),
        (report.deleted, "deleted"),
        (report.expired, "without its imported material, which expired"),
    ];
    let done: Vec<_> = parts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} key{} {what}", if *count == 1 { "" } else { "s" }))
        .collect();
    let sentence = match (done.is_empty(), dry_run) {
        (true, _) => "Nothing was due.".to_owned(),
        (false, false) => format!("{}.", done.join(", ")),
        (false, true) => format!("Due: {}. Nothing has changed.", done.join(", ")),
    };
    let said = json!({
        "rotated": report.rotated, "deleted": report.deleted, "expired": report.expired, "failed": report.failed,
        "dry_run": dry_run,
    });
    output::done(as_json, &sentence, &said);
    match report.failed {
        0 => Ok(()),
        failed => Err(Failure::new(format!("{failed} more could not be looked after: the log says why"))),
    }
}

pub(super) fn run(rotation: &KeyRotation, as_json: bool) -> Result<(), Failure> {
    let change @ ChangeKey { of: OneKey { key, login }, trial: Trial { dry_run } } = &rotation.change;
    let more = match (rotation.every, rotation.off) {
        (Some(days), _) => json!({ "Enabled": true, "RotationPeriodInDays": days }),
        (None, true) => json!({ "Enabled": false }),
        (None, false) if *dry_run => return Err(Failure::usage("--dry-run goes with --every or --off")),
        (None, false) => return show(&Live::logged_in(login)?, key, as_json),
    };
    managed::change(change, Manage::SetRotation, "set the rotation of", more, as_json, |key| {
        let id = cell(key, "KeyId");
        match key["RotationPeriodInDays"].as_u64() {
            Some(days) => {
                format!("Key {id} rotates by itself every {days} days, next on {}.", cell(key, "NextRotationDate@"))
            }
            None => format!("Key {id} rotates on demand only."),
        }
    })
}

fn show(live: &Live, key: &str, as_json: bool) -> Result<(), Failure> {
    let request = json!({ "KeyId": reference(key) });
    let doing = format!("cannot tell the rotations of {key}");
    let mut status = live.query(&doing, KeyQuery::GetKeyRotationStatus, &request)?;
    let versions = live.query_all(&doing, KeyQuery::ListRotations, request, "Rotations")?;
    if as_json {
        status["Rotations"] = json!(versions);
        output::json(&status);
        return Ok(());
    }
    match status["KeyRotationEnabled"].as_bool() {
        Some(true) => println!(
            "Rotates every {} days, next on {}.",
            cell(&status, "RotationPeriodInDays"),
            cell(&status, "NextRotationDate@")
        ),
        _ => println!("Rotates on demand only (`conclave key rotate`, or `--every` for a period)."),
    }
    let rows: Vec<_> = versions
        .iter()
        .map(|version| {
            let made = if version["RotationDate"].is_null() { "CreationDate@" } else { "RotationDate@" };
            let role = if version["Current"] == true { "encrypts and decrypts" } else { "decrypts" };
            vec![cell(version, "KeyVersion"), cell(version, made), role.to_owned()]
        })
        .collect();
    if !rows.is_empty() {
        println!("");
        output::table(&["VERSION", "MADE", "USE"], &rows);
    }
    Ok(())
}
