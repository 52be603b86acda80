pub(in crate::hsm) mod ceremony;
mod fleet;
mod governance;
mod json;
mod measure;
mod mixed;
mod papers;
mod refusals;
mod seal;
mod token;
mod vectors;
mod vectors_governance;

use super::super::command::PinCost;

/// The cheapest PIN hash that is allowed.
const CHEAP: PinCost = PinCost { memory_kib: 1024, passes: 1, lanes: 1 };
