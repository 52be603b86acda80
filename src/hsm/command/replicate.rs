//! The commands of the exchange between Regions (`docs/protocols.md`, "Replication"). Every step is
//! bytes in, bytes out; what is to be kept is in the answer.

use super::{KeyRecords, Record};

/// The messages, in the order of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MessageKind {
    /// A hint that an offer is wanted.
    Request,
    Offer,
    Shipment,
    Receipt,
    Activate,
    /// Answers [`Self::Activate`].
    Activated,
    Deleted,
    /// Answers [`Self::Deleted`].
    Forgotten,
    Handover,
    /// Answers [`Self::Handover`].
    Taken,
}

impl MessageKind {
    pub const ALL: [Self; 10] = [
        Self::Request,
        Self::Offer,
        Self::Shipment,
        Self::Receipt,
        Self::Activate,
        Self::Activated,
        Self::Deleted,
        Self::Forgotten,
        Self::Handover,
        Self::Taken,
    ];

    /// The name in content types, requests and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Offer => "offer",
            Self::Shipment => "shipment",
            Self::Receipt => "receipt",
            Self::Activate => "activate",
            Self::Activated => "activated",
            Self::Deleted => "deleted",
            Self::Forgotten => "forgotten",
            Self::Handover => "handover",
            Self::Taken => "taken",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// What anybody can read of a message: whom it is from and about is not verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageView {
    pub kind: MessageKind,
    /// Names of Regions.
    pub from: String,
    pub to: String,
    /// The ids of the keys it is about, in its order.
    pub keys: Vec<String>,
}

/// All of a multi-Region key that a store has: its objects, and its records of other versions than
/// the active one, in ascending order. What is left of a deleted replica is a `key` alone.
#[derive(Debug, Clone, Copy)]
pub struct Held<'a> {
    pub keys: KeyRecords<'a>,
    pub versions: &'a [Record],
}

/// One step. Needs a user's login. Where keys come with a message, there is one place for each key of
/// the message, in its order.
#[derive(Debug, Clone, Copy)]
pub enum Replicate<'a> {
    /// Whether a Region that is trusted signed a message: the answer has nothing.
    Check { message: &'a [u8] },
    /// Makes an offer to a Region for keys that it is to ship. The private part stays in this
    /// instance's memory.
    Offer {
        region: &'a str,
        /// The ids, with what is held of each.
        wanted: &'a [(&'a str, Option<Held<'a>>)],
        /// The request that is answered: it is verified first.
        request: Option<&'a [u8]>,
    },
    /// Answers an offer with a shipment, once. [`super::Reply::Needed`], and nothing is used up, if it
    /// has more bytes than `room`.
    Ship { offer: &'a [u8], keys: &'a [Option<Held<'a>>], room: usize },
    /// Opens a shipment: the answer is to be committed.
    Accept { shipment: &'a [u8], held: &'a [Option<Held<'a>>] },
    /// Makes the receipt of a shipment that was accepted. `stored` is read back from the store.
    Confirm { shipment: &'a [u8], stored: &'a [Option<Held<'a>>] },
    /// Takes any of the other messages: the answer is to be committed before its message is sent.
    Receive { message: &'a [u8], keys: &'a [Option<Held<'a>>] },
    /// Makes a message that tells a Region what it is to know of keys now: a request, an activate, a
    /// deleted or a handover.
    Tell { kind: MessageKind, region: &'a str, keys: &'a [Held<'a>] },
}
