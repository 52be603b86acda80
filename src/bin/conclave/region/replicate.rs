//! `conclave replicate`.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use conclave::cryptoki::KeyQuery;
use conclave::hsm::{Manage, MessageKind};
use serde_json::{Value, json};

use super::{Post, require_trusted, transfer};
use crate::args::Replicate;
use crate::files;
use crate::managed::reference;
use crate::output::{self, Failure, Progress};
use crate::session::Live;

/// How many keys that could not be replicated a sentence names.
const NAMED: usize = 3;

pub(crate) fn run(replicate: &Replicate, as_json: bool) -> Result<(), Failure> {
    let Replicate { to, patience, .. } = replicate;
    let live = Live::logged_in(&replicate.login)?;
    require_trusted(&live, to)?;
    // Before anything is allowed.
    let post = match replicate.no_wait || replicate.withdraw {
        true => None,
        false => Some(Post::open(&replicate.by, &live)?),
    };
    let keys = keys(&live, replicate)?;
    let allowed = allow(&live, &keys, to, replicate.withdraw, as_json)?;
    let failed: Vec<Value> =
        allowed.failed.iter().map(|(key, why)| json!({ "KeyId": key, "Error": why.message() })).collect();
    let mut said = json!({ "region": to, "keys": keys.len(), "failed": failed });
    let count = |count: usize| if count == 1 { "1 key".to_owned() } else { format!("{count} keys") };
    let sentence;
    let mut late = Ok(());
    if let Some(post) = post {
        let total = allowed.keys.len();
        let kinds = &[MessageKind::Request, MessageKind::Activate];
        let part = transfer::Part { live: &live, region: to, kinds, keys: allowed.keys };
        let timeout = Duration::from_secs(patience.timeout);
        let outcome = transfer::run(&part, &post, patience.batch.into(), timeout, total, as_json)?;
        late = outcome.check("the replica of", to);
        let done = total.saturating_sub(outcome.waiting.len());
        said["replicated"] = json!(done);
        said["waiting"] = json!(outcome.waiting);
        said["seconds"] = json!(outcome.seconds);
        sentence = format!("{} in use in {to:?} ({:.1} s).", are(done, &count(done)), outcome.seconds);
    } else {
        let done = allowed.keys.len();
        said["allowed"] = json!(if replicate.withdraw { 0 } else { done });
        sentence = match replicate.withdraw {
            true => format!("{to:?} may no longer have a replica of {}.", count(done)),
            false => format!("{to:?} may have a replica of {}; `conclave region serve` sends them.", count(done)),
        };
    }
    let single = keys.len() == 1;
    if as_json || !single || allowed.failed.is_empty() {
        output::done(as_json, &sentence, &said);
    }
    match allowed.failed.len() {
        0 => late,
        _ if single => allowed.failed.into_iter().next().map_or(late, |(_, failure)| Err(failure)),
        several => {
            let named: Vec<_> = allowed.failed.iter().take(NAMED).map(|(_, failure)| failure.message()).collect();
            let more = if several > NAMED { "; …" } else { "" };
            Err(Failure::new(format!("{several} of {}: {}{more}", count(keys.len()), named.join("; "))))
        }
    }
}

fn are(number: usize, counted: &str) -> String {
    format!("{counted} {}", if number == 1 { "is" } else { "are" })
}

/// The ids of the keys that are meant.
fn keys(live: &Live, replicate: &Replicate) -> Result<BTreeSet<String>, Failure> {
    if replicate.all_multi_region {
        return primaries(live);
    }
    let mut names = replicate.keys.clone();
    if let Some(file) = &replicate.keys_from {
        let bytes = files::read(file)?;
        let text = String::from_utf8(bytes)
            .map_err(|_| Failure::usage(format!("{} is not text: give one key a line", files::name(file))))?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        names.extend(lines.map(str::to_owned));
    }
    if names.is_empty() {
        return Err(Failure::usage("no key is named"));
    }
    names.iter().map(|name| id(live, name)).collect()
}

/// The id of a multi-Region key that an argument names.
fn id(live: &Live, name: &str) -> Result<String, Failure> {
    let reference = reference(name);
    let id = match reference.starts_with("alias/") {
        true => {
            let request = json!({ "KeyId": reference });
            let described = live.query(&format!("cannot find {name}"), KeyQuery::DescribeKey, &request)?;
            described["KeyId"].as_str().unwrap_or_default().to_owned()
        }
        false => reference,
    };
    match id.starts_with("mrk-") {
        true => Ok(id),
        false => Err(Failure::usage(format!(
            "{name} is a key of this Region alone: a multi-Region key is made as such (conclave key create \
             --multi-region)"
        ))),
    }
}

/// The keys whose primary is here and that are not on their way out.
fn primaries(live: &Live) -> Result<BTreeSet<String>, Failure> {
    let doing = "cannot list the keys";
    let mut primaries = BTreeSet::new();
    for key in live.query_all(doing, KeyQuery::ListKeys, json!({}), "Keys")? {
        let Some(id) = key["KeyId"].as_str().filter(|id| id.starts_with("mrk-")) else { continue };
        if matches!(key["KeyState"].as_str(), Some("PendingDeletion" | "PendingReplicaDeletion" | "Creating")) {
            continue;
        }
        let described = live.query(doing, KeyQuery::DescribeReplicas, &json!({ "KeyId": id }))?;
        if described["MultiRegionKeyType"] == "PRIMARY" {
            primaries.insert(id.to_owned());
        }
    }
    match primaries.is_empty() {
        true => Err(Failure::not_found("no key has its primary in this Region")),
        false => Ok(primaries),
    }
}

struct Allowed {
    keys: HashSet<String>,
    failed: Vec<(String, Failure)>,
}

/// Lets a Region have replicas of the keys, or no longer. Those that it may have already are no failures.
fn allow(live: &Live, keys: &BTreeSet<String>, to: &str, withdraw: bool, as_json: bool) -> Result<Allowed, Failure> {
    let pending = live.module.pending_replication(live.session, Some(to), usize::MAX);
    let pending = pending.map_err(|error| Failure::while_("cannot tell what is pending", &error))?;
    let begun: HashSet<String> = pending.into_iter().flat_map(|item| item.keys).collect();
    let mut allowed = Allowed { keys: HashSet::new(), failed: Vec::new() };
    let mut progress = Progress::new(as_json);
    for (at, key) in keys.iter().enumerate() {
        let mut request = json!({ "KeyId": key, "ReplicaRegion": to });
        if withdraw {
            request["Withdraw"] = json!(true);
        }
        let doing = match withdraw {
            true => format!("cannot take back the replica of {key}"),
            false => format!("cannot replicate {key}"),
        };
        let done = match begun.contains(key) && !withdraw {
            true => Ok(None),
            false => live.manage(&doing, Manage::ReplicateKey, &request, false),
        };
        match done {
            Ok(_) => _ = allowed.keys.insert(key.clone()),
            Err(failure) if failure.is(conclave::error::ErrorKind::KmsAlreadyExists) => {
                allowed.keys.insert(key.clone());
            }
            Err(failure) => allowed.failed.push((key.clone(), failure)),
        }
        progress.show(at as u64 + 1, keys.len() as u64);
    }
    Ok(allowed)
}
