//! `conclave domain rotate`, `reseal` and `lost`: domain keys and what they seal.

use conclave::hsm::governance;
use cryptoki_sys as ck;
use serde_json::{Value, json};

use super::history;
use crate::args::{DomainLost, DomainReseal, DomainRotate, Login};
use crate::output::{self, Failure, Progress, cell, items};
use crate::session::{self, Live};
use crate::{key, propose};

pub(super) fn rotate(rotate: &DomainRotate, as_json: bool) -> Result<(), Failure> {
    let live = Live::public(rotate.options.token.as_deref())?;
    if !rotate.due {
        return propose::make(&live, propose::rotate(rotate.retain), &rotate.options, as_json);
    }
    let before = live.domain()?;
    let login = Login {
        token: None,
        pin: rotate.pin.clone(),
        so_pin: rotate.so_pin.clone(),
        login_as: rotate.login_as.clone(),
    };
    live.log_in(&login, ck::CKU_USER)?;
    let after = live.domain()?;
    let done = match before["version"] == after["version"] {
        true => Vec::new(),
        false => since(&live, before["version"].as_u64().unwrap_or_default())?,
    };
    let warnings = items(&after["warnings"]);
    if as_json {
        output::json(&json!({ "version": after["version"], "done": done, "warnings": warnings }));
    } else {
        if done.is_empty() {
            println!("Nothing was due.");
        } else {
            history::table(&done);
        }
        for warning in warnings {
            println!("WARNING: {}", warning.as_str().unwrap_or_default());
        }
    }
    if after["standing_order"]["due"] == true {
        return Err(Failure::new("a rotation is due by the standing order, but it was not made: see the log"));
    }
    Ok(())
}

/// The entries of the log after a version, verified.
fn since(live: &Live, version: u64) -> Result<Vec<Value>, Failure> {
    let entries = governance::verify_history(&live.history()?)
        .map_err(|error| Failure::while_("the history does not verify", &error))?;
    Ok(entries.into_iter().filter(|entry| entry["version"].as_u64() > Some(version)).collect())
}

pub(super) fn reseal(reseal: &DomainReseal, as_json: bool) -> Result<(), Failure> {
    let live = Live::public(reseal.login.token.as_deref())?;
    live.log_in(&reseal.login, ck::CKU_USER)?;
    let mut progress = Progress::new(as_json);
    let count = live.module.reseal(live.session, &mut |done, total| progress.show(done, total));
    drop(progress);
    let count = count.map_err(|error| Failure::while_("not everything was sealed anew", &error))?;
    let state = live.domain()?;
    let active = items(&state["domain_keys"]).iter().find(|key| key["status"] == "active");
    let active = active.map(|key| cell(key, "id")).unwrap_or_default();
    let records = state["records"].as_object().into_iter().flatten();
    let left: u64 = records.filter(|(key, _)| **key != active).filter_map(|(_, count)| count.as_u64()).sum();
    let objects = |count: u64| format!("{count} object{}", if count == 1 { "" } else { "s" });
    let mut sentence = match count {
        0 => format!("Nothing was left to be sealed under domain key {active}."),
        count => format!("{} sealed under domain key {active}.", objects(count)),
    };
    if left > 0 {
        sentence.push_str(&format!(
            "\nWARNING: {} could not be sealed anew; the log says why, `conclave domain lost` which.",
            objects(left)
        ));
    }
    output::done(as_json, &sentence, &json!({ "sealed": count, "left": left, "domain_key": active }));
    Ok(())
}

pub(super) fn lost(lost: &DomainLost, as_json: bool) -> Result<(), Failure> {
    let live = Live::at(&lost.at)?;
    let state = live.domain()?;
    let wanted = lost.key.as_deref().map(|key| propose::domain_key(&live, key)).transpose()?;
    if lost.pin != "none" {
        let login = Login { token: None, pin: Some(lost.pin.clone()), so_pin: None, login_as: None };
        live.log_in(&login, ck::CKU_USER)?;
    }
    let (mut list, mut rows) = (Vec::new(), Vec::new());
    for domain_key in items(&state["domain_keys"]) {
        let id = domain_key["id"].as_str().unwrap_or_default();
        if wanted.as_deref().is_some_and(|wanted| wanted != id)
            || (wanted.is_none() && domain_key["status"] == "active")
        {
            continue;
        }
        let bytes = session::unhex(id).unwrap_or_default();
        let sealed = live.module.sealed_under(live.session, &bytes);
        for object in sealed.map_err(|error| Failure::while_("cannot look for the objects", &error))? {
            let mut shown = object.view.map(|view| key::summary(&view.attributes)).unwrap_or_default();
            shown.insert("unique_id".to_owned(), json!(object.unique_id));
            shown.insert("domain_key".to_owned(), json!(id));
            shown.insert("retires".to_owned(), domain_key["retires"].clone());
            let shown = Value::Object(shown);
            rows.push(["retires@", "unique_id", "class", "label", "id"].map(|column| cell(&shown, column)).to_vec());
            list.push(shown);
        }
    }
    if as_json {
        output::json(&json!(list));
    } else if rows.is_empty() {
        println!("Nothing would be lost.");
    } else {
        output::table(&["LOST ON", "UNIQUE ID", "CLASS", "LABEL", "ID"], &rows);
        println!(
            "\n`conclave domain reseal` seals them under the active key. \"-\" is no deadline, or not shown without a PIN."
        );
    }
    Ok(())
}
