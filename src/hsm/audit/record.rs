//! Anchors and events. An event holds names, the caller's context and an outcome; nothing that
//! could carry a plaintext or key material has a place in it.

use super::super::domain::cbor::{Decoded, Decoder, Encoder, Malformed, Type};
use super::super::domain::keys::Kid;
use super::super::domain::{DomainId, Hash};
use super::head::Head;
use super::{Instance, Tip};
use crate::error::Result;

/// Longest text of a row, in bytes.
pub(in crate::hsm) const TEXT: usize = 255;
/// Longest encoded context, in bytes.
const CONTEXT: usize = 8192;
/// Longest row, in bytes. An anchor names all chains that have moved, 70 bytes each.
const LARGEST: usize = 4 * 1024 * 1024;

macro_rules! actions {
    ($($name:ident)*) => {
        /// What was done, or refused.
        #[allow(dead_code, reason = "the format names what later releases record")]
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(in crate::hsm) enum Action { $($name,)* }

        impl Action {
            pub(in crate::hsm) const ALL: &[Self] = &[$(Self::$name,)*];

            /// The name in a record.
            pub(in crate::hsm) fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }
        }
    };
}

actions! {
    CreateKey DescribeKey ListKeys UpdateDescription TagKey UntagKey GetPublicKey
    EnableKey DisableKey ScheduleKeyDeletion CancelKeyDeletion DeleteKey
    CreateAlias UpdateAlias DeleteAlias ListAliases
    GetParametersForImport ImportKeyMaterial DeleteImportedKeyMaterial
    AnnounceExpiry ExpireKeyMaterial
    RotateKey SetRotation GetRotationStatus ListRotations
    ReplicateKey UpdatePrimaryRegion SynchronizeKey
    ShipReplica AcceptReplica RegisterReplica ActivateReplica DeleteReplica TakeHandover RefuseReplication
    GiveUpReplica EmergencyPromote
    PutKeyPolicy GetKeyPolicy CreateGrant RetireGrant RevokeGrant ListGrants
    CreateUser RemoveUser ApproveUse
    Encrypt Decrypt ReEncrypt
    GenerateDataKey GenerateDataKeyWithoutPlaintext
    GenerateDataKeyPair GenerateDataKeyPairWithoutPlaintext
    GenerateMac VerifyMac Sign Verify DeriveSharedSecret
    WrapKey UnwrapKey GenerateRandom
    RecordsLost
}

impl Action {
    pub(in crate::hsm) fn of_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|action| action.name() == name)
    }
}

/// The name of a user, host, alias or grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::hsm) struct Name<'a>(&'a str);

impl<'a> Name<'a> {
    /// Nobody: the HSM itself.
    pub(in crate::hsm) const NOBODY: Self = Self("");

    /// None if it is longer than 255 bytes.
    pub(in crate::hsm) fn new(text: &'a str) -> Option<Self> {
        (text.len() <= TEXT).then_some(Self(text))
    }

    pub(in crate::hsm) fn as_str(&self) -> &'a str {
        self.0
    }
}

/// The id of a managed key: a UUID, or `mrk-` and 32 digits; hexadecimal in lower case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::hsm) struct KeyName<'a>(&'a str);

impl<'a> KeyName<'a> {
    pub(in crate::hsm) fn new(text: &'a str) -> Option<Self> {
        let hex = |digits: &str| digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let valid = match text.strip_prefix("mrk-") {
            Some(digits) => digits.len() == 32 && hex(digits),
            None => {
                let mut groups = text.split('-');
                let fits = |len| groups.next().is_some_and(|group| group.len() == len && hex(group));
                [8, 4, 4, 4, 12].into_iter().all(fits) && text.len() == 36
            }
        };
        valid.then_some(Self(text))
    }

    pub(in crate::hsm) fn as_str(&self) -> &'a str {
        self.0
    }
}

/// An encryption context: a deterministically encoded map from text to text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::hsm) struct Context<'a>(&'a [u8]);

impl<'a> Context<'a> {
    /// Takes exactly the encoding of such a map, of at most 8192 bytes.
    pub(in crate::hsm) fn from_encoded(encoded: &'a [u8]) -> Decoded<Self> {
        let mut d = Decoder::new(encoded);
        let context = Self::read(&mut d)?;
        d.end()?;
        Ok(context)
    }

    /// The pairs, in the order of the encoding.
    pub(in crate::hsm) fn pairs(&self) -> Decoded<Vec<(&'a str, &'a str)>> {
        let mut d = Decoder::new(self.0);
        let mut pairs = Vec::new();
        let mut map = d.map()?;
        while let Some((key, value)) = map.next_with(Decoder::text)? {
            pairs.push((key, value.text()?));
        }
        Ok(pairs)
    }

    fn read(d: &mut Decoder<'a>) -> Decoded<Self> {
        let before = d.remaining();
        let mut map = d.map()?;
        while let Some((_, value)) = map.next_with(Decoder::text)? {
            value.text()?;
        }
        map.end()?;
        let len = before.len() - d.remaining().len();
        before.get(..len).filter(|_| len <= CONTEXT).map(Self).ok_or(Malformed("a context is too long"))
    }
}

/// How a call ended: the name of its return code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::hsm) struct Outcome(&'static str);

impl Outcome {
    pub(in crate::hsm) const OK: Self = Self("CKR_OK");

    pub(in crate::hsm) fn of<T>(result: &Result<T>) -> Self {
        match result {
            Ok(_) => Self::OK,
            Err(error) => Self(error.kind().name()),
        }
    }
}

/// One call on a managed key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::hsm) struct Event<'a> {
    /// Who asked.
    pub(in crate::hsm) principal: Name<'a>,
    /// From which host.
    pub(in crate::hsm) host: Name<'a>,
    pub(in crate::hsm) action: Action,
    pub(in crate::hsm) key: Option<KeyName<'a>>,
    /// What else the call was about: an alias, a grant, a user, the other key of a re-encryption.
    pub(in crate::hsm) target: Option<Name<'a>>,
    pub(in crate::hsm) context: Option<Context<'a>>,
    pub(in crate::hsm) outcome: Outcome,
}

impl Event<'_> {
    /// The items of the record between its time and the previous row's hash.
    pub(in crate::hsm) fn encode(&self) -> Vec<u8> {
        let mut e = Encoder::new();
        e.text(self.principal.0).text(self.host.0).text(self.action.name());
        e.optional(self.key, |e, key| {
            e.text(key.0);
        });
        e.optional(self.target, |e, target| {
            e.text(target.0);
        });
        e.optional(self.context, |e, context| {
            e.raw(context.0);
        });
        e.text(self.outcome.0);
        e.finish()
    }
}

/// An event as a record: numbered, dated and chained.
pub(super) fn encode_event(seq: u64, at: u64, event: &[u8], previous: &Hash) -> Vec<u8> {
    let mut e = Encoder::new();
    e.array(10).uint(seq).uint(at).raw(event).bytes(previous);
    e.finish()
}

/// The first record of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) struct Anchor<'a> {
    pub(in crate::hsm) at: u64,
    pub(in crate::hsm) instance: Instance,
    pub(in crate::hsm) domain: DomainId,
    /// Hash of the domain's state.
    pub(in crate::hsm) state: Hash,
    /// Whose QHSK signs this chain's heads.
    pub(in crate::hsm) signer: Kid,
    pub(in crate::hsm) host: &'a str,
    /// All chains that have moved since an anchor named them last, ascending by instance.
    pub(in crate::hsm) seen: Vec<Tip>,
}

impl Anchor<'_> {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut e = Encoder::new();
        e.array(8).uint(0).uint(self.at).bytes(&self.instance).bytes(&self.domain).bytes(&self.state);
        e.bytes(&self.signer).text(self.host).list(&self.seen, |e, tip| {
            e.array(3).bytes(&tip.instance).uint(tip.seq).bytes(&tip.hash);
        });
        e.finish()
    }
}

/// An event as it is read: a later version may know more actions and outcomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::hsm) struct Recorded<'a> {
    pub(in crate::hsm) seq: u64,
    pub(in crate::hsm) at: u64,
    pub(in crate::hsm) principal: &'a str,
    pub(in crate::hsm) host: &'a str,
    pub(in crate::hsm) action: &'a str,
    pub(in crate::hsm) key: Option<KeyName<'a>>,
    pub(in crate::hsm) target: Option<&'a str>,
    pub(in crate::hsm) context: Option<Context<'a>>,
    pub(in crate::hsm) outcome: &'a str,
    pub(in crate::hsm) previous: Hash,
}

/// A stored row taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) enum Row<'a> {
    Anchor(Anchor<'a>),
    Event(Recorded<'a>),
    Head(Head),
}

impl<'a> Row<'a> {
    pub(in crate::hsm) fn decode(row: &'a [u8]) -> Decoded<Self> {
        if row.len() > LARGEST {
            return Err(Malformed("the row is too large"));
        }
        let mut d = Decoder::new(row);
        if d.peek()? == Type::Tag {
            return Head::decode(row).map(Row::Head);
        }
        let row = match d.array()? {
            8 => Row::Anchor(decode_anchor(&mut d)?),
            10 => Row::Event(decode_event(&mut d)?),
            _ => return Err(Malformed("an unknown row")),
        };
        d.end()?;
        Ok(row)
    }
}

fn decode_anchor<'a>(d: &mut Decoder<'a>) -> Decoded<Anchor<'a>> {
    if d.uint()? != 0 {
        return Err(Malformed("an anchor is not the first record"));
    }
    let anchor = Anchor {
        at: d.uint()?,
        instance: d.fixed()?,
        domain: d.fixed()?,
        state: d.fixed()?,
        signer: d.fixed()?,
        host: text(d)?,
        seen: d.list(|d| {
            d.array_of(3)?;
            Ok(Tip { instance: d.fixed()?, seq: d.uint()?, hash: d.fixed()? })
        })?,
    };
    if !anchor.seen.is_sorted_by(|a, b| a.instance < b.instance) {
        return Err(Malformed("the chains of an anchor are not in order"));
    }
    Ok(anchor)
}

fn decode_event<'a>(d: &mut Decoder<'a>) -> Decoded<Recorded<'a>> {
    let seq = d.uint()?;
    if seq == 0 {
        return Err(Malformed("the first record is not an anchor"));
    }
    Ok(Recorded {
        seq,
        at: d.uint()?,
        principal: text(d)?,
        host: text(d)?,
        action: word(d, |b| b.is_ascii_alphanumeric())?,
        key: d.optional(|d| KeyName::new(d.text()?).ok_or(Malformed("not the id of a managed key")))?,
        target: d.optional(text)?,
        context: d.optional(Context::read)?,
        outcome: word(d, |b| matches!(b, b'A'..=b'Z' | b'0'..=b'9' | b'_'))?,
        previous: d.fixed()?,
    })
}

fn text<'a>(d: &mut Decoder<'a>) -> Decoded<&'a str> {
    let text = d.text()?;
    if text.len() <= TEXT { Ok(text) } else { Err(Malformed("a text is too long")) }
}

fn word<'a>(d: &mut Decoder<'a>, allowed: impl Fn(u8) -> bool) -> Decoded<&'a str> {
    let word = d.text()?;
    let valid = (1..=64).contains(&word.len()) && word.bytes().all(allowed);
    if valid { Ok(word) } else { Err(Malformed("not the name of an action or an outcome")) }
}
