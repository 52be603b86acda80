//! The C_ functions of PKCS#11 3.2, in files by the groups of its chapter 5. `build.rs` reads their
//! prototypes from here.
#![allow(non_snake_case, clippy::missing_safety_doc, clippy::too_many_arguments)]

mod decrypt;
mod digest;
mod dual;
mod encrypt;
mod general;
mod key;
mod later;
mod message;
mod object;
mod random;
mod session;
mod sign;
mod slot;
mod verify;

pub use decrypt::*;
pub use digest::*;
pub use dual::*;
pub use encrypt::*;
pub use general::*;
pub use key::*;
pub use later::*;
pub use message::*;
pub use object::*;
pub use random::*;
pub use session::*;
pub use sign::*;
pub use slot::*;
pub use verify::*;
