//! A row as a line of JSON, with everything the row has.

use serde::Serialize;

use super::super::domain::cbor::Decoded;
use super::super::domain::governance;
use super::record::Row;
use super::{Instance, hash};
use crate::error::{ErrorKind, Result};
use crate::text::hex;

/// Bytes are lower-case hexadecimal.
#[derive(Serialize)]
#[serde(tag = "row", rename_all = "kebab-case")]
enum Line<'a> {
    Anchor {
        instance: String,
        seq: u64,
        time: String,
        domain: String,
        state: String,
        signer: String,
        host: &'a str,
        seen: Vec<Seen>,
        hash: String,
    },
    Event {
        instance: String,
        seq: u64,
        time: String,
        principal: &'a str,
        host: &'a str,
        action: &'a str,
        key: Option<&'a str>,
        target: Option<&'a str>,
        context: Option<std::collections::BTreeMap<&'a str, &'a str>>,
        outcome: &'a str,
        previous: String,
        hash: String,
    },
    Head {
        instance: String,
        seq: u64,
        time: String,
        closed: bool,
        signer: String,
        previous: String,
        signature: String,
        hash: String,
    },
}

#[derive(Serialize)]
struct Seen {
    instance: String,
    seq: u64,
    hash: String,
}

/// One row of the chain of `instance`, without a line end. CKR_DEVICE_ERROR if it is not one.
pub(in crate::hsm) fn line(instance: &Instance, row: &[u8]) -> Result<String> {
    let line = describe(instance, row)?;
    serde_json::to_string(&line).map_err(|_| ErrorKind::GeneralError.into())
}

fn describe<'a>(instance: &Instance, row: &'a [u8]) -> Decoded<Line<'a>> {
    let (instance, hash) = (hex(instance), hex(&hash(row)));
    Ok(match Row::decode(row)? {
        Row::Anchor(anchor) => Line::Anchor {
            instance,
            seq: 0,
            time: time(anchor.at),
            domain: hex(&anchor.domain),
            state: hex(&anchor.state),
            signer: hex(&anchor.signer),
            host: anchor.host,
            seen: anchor
                .seen
                .iter()
                .map(|tip| Seen { instance: hex(&tip.instance), seq: tip.seq, hash: hex(&tip.hash) })
                .collect(),
            hash,
        },
        Row::Event(event) => Line::Event {
            instance,
            seq: event.seq,
            time: time(event.at),
            principal: event.principal,
            host: event.host,
            action: event.action,
            key: event.key.map(|key| key.as_str()),
            target: event.target,
            context: event.context.map(|context| context.pairs()).transpose()?.map(|pairs| pairs.into_iter().collect()),
            outcome: event.outcome,
            previous: hex(&event.previous),
            hash,
        },
        Row::Head(head) => Line::Head {
            instance,
            seq: head.seq,
            time: time(head.at),
            closed: head.closed,
            signer: hex(&head.signer),
            previous: hex(&head.hash),
            // The signature ends the message.
            signature: row.last_chunk::<96>().map_or_else(String::new, |signature| hex(signature)),
            hash,
        },
    })
}

/// Such as "2026-01-31T23:59:59.000Z" (RFC 3339).
pub(in crate::hsm) fn time(at: u64) -> String {
    let date = governance::date(at / 1000);
    match date.strip_suffix(" UTC") {
        Some(date) => format!("{}.{:03}Z", date.replacen(' ', "T", 1), at % 1000),
        None => date,
    }
}
