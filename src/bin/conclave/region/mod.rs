//! `conclave region` and `conclave replicate`: multi-Region keys and the exchange with other Regions.

mod exchange;
mod lines;
mod replicate;
mod serve;
mod show;
mod stop;
mod transfer;

use conclave::cryptoki::Pending;
use conclave::error::Error;
use conclave::hsm::MessageKind;

use self::exchange::{Exchange, Region};
use crate::args::{By, RegionCommand};
use crate::carrier::{self, Address, Carrier};
use crate::output::Failure;
use crate::session::Live;

pub(crate) use replicate::run as replicate;
pub(crate) use transfer::hand_over;

pub(crate) fn run(command: &RegionCommand, as_json: bool) -> Result<(), Failure> {
    match command {
        RegionCommand::Show(show) => show::run(show, as_json),
        RegionCommand::Serve(serve) => serve::run(serve, as_json),
        RegionCommand::Pull(pull) => transfer::pull(pull, as_json),
    }
}

/// How many keys a message is about where the arguments do not say.
const BATCH: usize = 1000;

/// The whole of this Region: all that is pending in it.
impl Region for Live {
    fn pending(&self) -> Result<Vec<Pending>, Error> {
        self.module.pending_replication(self.session, None, usize::MAX)
    }

    fn tell(&self, kind: MessageKind, region: &str, keys: &[String]) -> Result<Vec<u8>, Error> {
        self.module.tell_replicas(self.session, kind, region, keys)
    }

    fn receive(&self, message: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.module.receive_replication(self.session, message)
    }
}

/// What carries messages, and the address of this process at it.
struct Post {
    carrier: Box<dyn Carrier>,
    here: Address,
}

impl Post {
    fn open(by: &By, live: &Live) -> Result<Self, Failure> {
        let carrier = carrier::open(by.proxy.as_deref(), by.via.as_deref())?;
        let here = Address::new(&own_region(live)?, Some(&carrier::instance()?)).map_err(Failure::usage)?;
        Ok(Self { carrier, here })
    }

    fn exchange<'a>(&'a self, region: &'a dyn Region, batch: usize) -> Exchange<'a> {
        Exchange::new(region, &*self.carrier, self.here.clone(), batch)
    }
}

/// What this Region is called.
fn own_region(live: &Live) -> Result<String, Failure> {
    let domain = live.domain()?;
    match (domain["governed_by"].as_str(), domain["region"].as_str()) {
        (Some("operators"), Some(name)) => Ok(name.to_owned()),
        _ => Err(Failure::refused(format!(
            "token {:?} is of no Region: its domain gets one when it is founded (conclave domain found)",
            live.token.label
        ))),
    }
}

/// Fails unless this Region trusts that one.
fn require_trusted(live: &Live, region: &str) -> Result<(), Failure> {
    let domain = live.domain()?;
    if domain["region"] == region {
        return Err(Failure::usage(format!("{region:?} is this Region itself")));
    }
    let trusted = crate::output::items(&domain["trusted_regions"]);
    if trusted.iter().any(|trusted| trusted["name"] == region) {
        return Ok(());
    }
    let names: Vec<_> = trusted.iter().filter_map(|trusted| trusted["name"].as_str()).collect();
    let known = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    Err(Failure::refused(format!(
        "this Region does not trust {region:?} (it trusts: {known}): its operators propose `conclave proposal new \
         trust-region`"
    )))
}
