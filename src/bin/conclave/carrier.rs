//! How messages between Regions travel: by `conclave-proxy`, or as files in a directory. Carriers
//! know nothing of what they carry, and may lose it, repeat it, or give it in another order.

mod directory;
mod http;

#[path = "../conclave-proxy/address.rs"]
mod address;

use std::path::Path;
use std::time::Duration;

pub(crate) use address::{Address, MAX_MESSAGE};

use crate::output::Failure;

/// How long a message that was given is not given again, in seconds.
const LEASE: u64 = 60;

pub(crate) trait Carrier {
    /// Returns when the carrier has the message for good.
    fn send(&self, to: &Address, from: &Address, message: &[u8]) -> Result<(), Failure>;

    /// The oldest message that is for the Region or for this instance of it; None if there is none
    /// within `wait`. It is given again some time later unless it is acknowledged.
    fn receive(&self, region: &str, instance: &str, wait: Duration) -> Result<Option<Delivery>, Failure>;

    /// Ends a message that `receive` gave. One that has ended already is no error.
    fn acknowledge(&self, id: &str) -> Result<(), Failure>;
}

/// A message that has arrived.
pub(crate) struct Delivery {
    /// What `acknowledge` takes; means nothing else.
    pub(crate) id: String,
    /// Where an answer goes.
    pub(crate) from: Address,
    pub(crate) message: Vec<u8>,
}

/// The carrier that `--proxy URL` names, or `--via DIR`.
pub(crate) fn open(proxy: Option<&str>, via: Option<&Path>) -> Result<Box<dyn Carrier>, Failure> {
    match (proxy, via) {
        (Some(url), None) => Ok(Box::new(http::Http::new(url)?)),
        (None, Some(dir)) => Ok(Box::new(directory::Directory::new(dir)?)),
        _ => Err(Failure::usage("say how the messages travel: either --proxy URL or --via DIR")),
    }
}

/// A name for this process that no other has: 32 hexadecimal digits.
pub(crate) fn instance() -> Result<String, Failure> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| Failure::new(format!("no random numbers: {error}")))?;
    Ok(conclave::text::hex(&bytes))
}

fn check_size(message: &[u8]) -> Result<(), Failure> {
    if message.len() > MAX_MESSAGE {
        let (len, mib) = (message.len(), MAX_MESSAGE >> 20);
        return Err(Failure::new(format!(
            "the message has {len} bytes, and none may have more than {mib} MiB: take fewer keys at once"
        )));
    }
    Ok(())
}
