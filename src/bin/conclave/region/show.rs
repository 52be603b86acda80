//! `conclave region show`.

use serde_json::{Value, json};

use super::own_region;
use crate::args::RegionShow;
use crate::output::{self, Failure, cell, items};
use crate::session::Live;

pub(super) fn run(show: &RegionShow, as_json: bool) -> Result<(), Failure> {
    let live = Live::at(&show.at)?;
    let name = own_region(&live)?;
    let state = live.domain()?;
    if as_json {
        let keys: Value = items(&state["replication_keys"]).iter().map(|key| key["public_key"].clone()).collect();
        output::json(&json!({ "name": name, "domain": state["domain"], "replication_keys": keys }));
        return Ok(());
    }
    println!("Region       {name:?}");
    println!("Domain       {}", groups(&cell(&state, "domain")));
    let keys = items(&state["replication_keys"]);
    for (at, key) in keys.iter().enumerate() {
        let role = if at + 1 == keys.len() { "Signs with" } else { "Also trusted" };
        println!("{role:<12} {}", groups(&cell(key, "kid")));
    }
    let trusted = items(&state["trusted_regions"]);
    if trusted.is_empty() {
        println!("\nIt trusts no other Region: `conclave proposal new trust-region`.");
        return Ok(());
    }
    println!("\nIt trusts");
    for region in trusted {
        println!("Region       {:?}", region["name"].as_str().unwrap_or_default());
        println!("Domain       {}", groups(&cell(region, "domain")));
        for key in items(&region["replication_keys"]) {
            println!("Signs with   {}", groups(&cell(key, "kid")));
        }
    }
    Ok(())
}

/// As many digits of a kid as the words of a command have.
const FINGERPRINT: usize = 32;

/// Hexadecimal digits in fours, to be read aloud.
fn groups(hex: &str) -> String {
    let digits: Vec<char> = hex.chars().take(FINGERPRINT).collect();
    digits.chunks(4).map(|four| four.iter().collect::<String>()).collect::<Vec<_>>().join(" ")
}
