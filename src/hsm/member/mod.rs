//! An HSM of a fleet: it makes its keys when it starts, holds the domain open while it is a member, and
//! serves any process of any host of the domain.

mod commands;
mod guests;
mod pins;
pub(super) mod session_object;
mod ticket;

pub use pins::PinFigures;
pub(super) use pins::Pins;
