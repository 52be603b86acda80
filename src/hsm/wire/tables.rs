//! The table of everything that crosses a link. A number is never given a second meaning.

use super::super::command::{
    ApprovalRequest, Columns, Command, DomainChange, DomainToken, DomainView, Envelope, Function, IndexColumn, Manage,
    MessageKind, ObjectChange, ObjectId, OldKey, PinCost, PinRecord, Place, Record, Replicate, Reply, Role, Sealed,
    Ticket, View,
};
use super::super::domain::cbor::{Decoded, Decoder, Encoder, Malformed, Sink, Type};
use super::super::params::{HkdfSalt, Mechanism, Oaep, Params, PrfData, Pss, Secret};
use super::super::record::{read_attributes, write_attributes};
use super::super::value::{AttributeType, Attributes, Raw, Template};
use super::super::{AuditFlush, AuditMode, AuditStatus, AuditTip};
use super::codec::{Local, Room, Wire, count, put_list, take_list, wire_codes, wire_enum, wire_lists, wire_struct};
use crate::error::{Error, ErrorKind};

/// How deep templates nest.
const TEMPLATE_DEPTH: usize = 4;
/// The most attributes of all templates of a list, and of one with those nested in it.
const TEMPLATE_ATTRIBUTES: usize = 4096;

wire_enum!(Command<'a> {
    0 = Login { pin, record; domain, log },
    1 = Logout,
    2 = CheckPin { pin, record },
    3 = InitPin { role, pin, cost },
    4 = CreateUser { name, pin, cost },
    5 = RemoveUser { name },
    6 = SetPin { old, new, record, cost; domain, log },
    7 = DescribeDomain,
    8 = Propose { request, key },
    9 = Approve { proposal, keys },
    10 = DescribeCommand { proposal },
    11 = AddSignature { proposal, signer, signature },
    12 = Execute { proposal, keys },
    13 = Housekeeping,
    14 = SetEnrolledPin { role, code, pin, cost },
    15 = Import { history },
    16 = BeginRecovery { pin, cost },
    17 = FinishRecovery { pin, cost, sealed, command, contributions },
    18 = CheckUse { key, function },
    19 = FindApproval { key, action, input },
    20 = Unapproved { key, action, refused },
    21 = Create { template, place },
    22 = GenerateKey { mechanism, template, place },
    23 = GenerateKeyPair { mechanism, public, public_place, private, private_place },
    24 = Copy { source, template, place },
    25 = SetAttributes { record, template },
    26 = Reseal { record },
    27 = CheckDestroy { record },
    28 = View { record },
    29 = Reveal { record, attribute },
    30 = IndexTag { column, value },
    31 = Wrap { mechanism, wrapping, key, room },
    32 = Unwrap { mechanism, unwrapping, version, wrapped, template, place },
    33 = Derive { mechanism, base, salt_key, template, place, additional_places },
    34 = Manage { action, keys, alias, target, request, dry_run },
    35 = KeepTime { keys },
    36 = EnvelopeEncrypt { with, plaintext, dry_run },
    37 = EnvelopeDecrypt { with, version, blob, dry_run },
    38 = ReEncrypt { from, version, blob, to, dry_run },
    39 = GenerateDataKey { with, len, with_plaintext, dry_run },
    40 = GenerateDataKeyPair { with, spec, with_plaintext, dry_run },
    41 = ImportParameters { key, algorithm, spec, dry_run },
    42 = ImportMaterial { keys, token, wrapped, valid_to, dry_run },
    43 = Replicate(step),
    44 = BeginAudit { host; store },
    45 = FlushAudit { flush; store },
    46 = AuditHead { host; store },
    47 = Found { label, serial, so_pin, cost },
} not { Adopt, AuditVerifier, Random });

wire_enum!(Replicate<'a> {
    0 = Check { message },
    1 = Offer { region, wanted, request },
    2 = Ship { offer, keys, room },
    3 = Accept { shipment, held },
    4 = Confirm { shipment, stored },
    5 = Receive { message, keys },
    6 = Tell { kind, region, keys },
});

wire_enum!(Reply {
    0 = Done,
    1 = Domain(view),
    2 = Text(text),
    3 = Recovering { claim, sealed },
    4 = Founded { domain, so_pin },
    5 = LoggedIn(ticket),
    6 = Changed(change),
    7 = Records(records),
    8 = View(view),
    9 = Secret(secret),
    10 = Bytes(bytes),
    11 = Wrapped { wrapped, iv },
    12 = Needed(len),
    13 = Managed { change, told },
    14 = Replicated { change, message, told },
    15 = ApprovalWanted(request),
    16 = DataKey { plaintext, blob },
    17 = DataKeyPair { public, private, blob },
    18 = ImportParameters { public_key, token, expires },
} not { AuditVerifier });

wire_enum!(Params<'a> {
    0 = None,
    1 = Iv(iv),
    2 = Ctr { counter_bits, block },
    3 = Gcm { iv, aad, tag_bits },
    4 = GcmGenerate { iv, fixed_bits, aad, tag_bits },
    5 = MacGeneral(len),
    6 = Pss(pss),
    7 = Oaep(oaep),
    8 = RsaAesKeyWrap { aes_bits, oaep },
    9 = Ecdh1 { kdf, shared_data, public_data },
    10 = Eddsa { prehash, context },
    11 = Hkdf { extract, expand, prf, salt, info },
    12 = Pbkd2 { prf, salt, iterations, password },
    13 = Sp800108 { prf, data, additional },
    14 = Context(context),
    15 = KmsWrap { context, associated },
});

wire_enum!(HkdfSalt<'a> { 0 = None, 1 = Data(data), 2 = Key(handle), });

wire_enum!(PrfData<'a> {
    0 = Counter { little_endian, bits },
    1 = Length { sum_of_segments, little_endian, bits },
    2 = Bytes(bytes),
});

wire_enum!(Role { 0 = So, 1 = User, 2 = Named(name), });

wire_struct! {
    Mechanism<'a> { kind, params }
    Pss { hash, mgf, salt_len }
    Oaep<'a> { hash, mgf, label }
    Envelope<'a> { key, context }
    Columns { class, key_type, private, label, id, managed, due, replicating }
    Record { object, generation, columns, sealed }
    PinRecord { role, generation, sealed }
    PinCost { memory_kib, passes, lanes }
    DomainToken { version, bytes }
    DomainChange { domain, entries, pins, removed, objects }
    DomainView { domain, version, label, serial, founded, active_key, old_keys, login_ended }
    OldKey { id, retires }
    ObjectChange { insert, replace, delete, purge, limit }
    View { attributes, secrets }
    ApprovalRequest { object, action, digest }
    AuditStatus { mode, open, waiting, due }
    AuditTip { instance, seq, hash }
}

wire_codes! {
    Place { 0 = Session, 1 = Token }
    IndexColumn { 0 = Label, 1 = Id, 2 = Alias }
    Function { 0 = Encrypt, 1 = Decrypt, 2 = Digest, 3 = Sign, 4 = SignRecover, 5 = Verify, 6 = VerifyRecover }
    AuditMode { 0 = Off, 1 = On, 2 = Strict }
    AuditFlush { 0 = Waiting, 1 = Recorded, 2 = Closing }
    MessageKind {
        0 = Request, 1 = Offer, 2 = Shipment, 3 = Receipt, 4 = Activate, 5 = Activated, 6 = Deleted, 7 = Forgotten,
        8 = Handover, 9 = Taken,
    }
    Manage {
        0 = CreateKey, 1 = DescribeKey, 2 = EnableKey, 3 = DisableKey, 4 = ScheduleKeyDeletion,
        5 = CancelKeyDeletion, 6 = UpdateDescription, 7 = TagKey, 8 = UntagKey, 9 = SetRotation,
        10 = GetRotationStatus, 11 = RotateKey, 12 = DeleteImportedKeyMaterial, 13 = CreateAlias, 14 = UpdateAlias,
        15 = DeleteAlias, 16 = PutKeyPolicy, 17 = GetKeyPolicy, 18 = CreateGrant, 19 = RetireGrant,
        20 = RevokeGrant, 21 = ListGrants, 22 = ReplicateKey, 23 = UpdatePrimaryRegion, 24 = DescribeReplicas,
    }
}

wire_lists! {
    Vec<u8>, Record, PinRecord, Role, OldKey, ObjectId, (ObjectId, u64), (AttributeType, bool), AuditTip, PrfData<'a>
}

/// The bytes alone: the receiver computes the digest.
impl<'a> Wire<'a> for Sealed {
    fn put<S: Sink>(&self, e: &mut Encoder<S>) {
        e.bytes(self.as_bytes());
    }

    fn take(d: &mut Decoder<'a>, _: &'a Room<'a>) -> Decoded<Self> {
        Ok(Self::copied(d.bytes()?))
    }
}

impl<'a> Wire<'a> for Ticket {
    fn put<S: Sink>(&self, e: &mut Encoder<S>) {
        e.bytes(&self.0);
    }

    fn take(d: &mut Decoder<'a>, _: &'a Room<'a>) -> Decoded<Self> {
        Ok(Self(d.bytes()?.into()))
    }
}

impl<'a> Wire<'a> for Secret<'a> {
    fn put<S: Sink>(&self, e: &mut Encoder<S>) {
        e.bytes(self.0);
    }

    fn take(d: &mut Decoder<'a>, _: &'a Room<'a>) -> Decoded<Self> {
        d.bytes().map(Self)
    }
}

/// A map by ascending types, as in a sealed object.
impl<'a> Wire<'a> for Attributes {
    fn put<S: Sink>(&self, e: &mut Encoder<S>) {
        write_attributes(e, self);
    }

    fn take(d: &mut Decoder<'a>, _: &'a Room<'a>) -> Decoded<Self> {
        read_attributes(d, true)
    }
}

/// `[type, value, …]` in the caller's order; a value is bytes, or an array for a nested template.
impl<'a> Wire<'a> for Template<'a> {
    fn put<S: Sink>(&self, e: &mut Encoder<S>) {
        e.array(2 * self.0.len());
        for (kind, raw) in &self.0 {
            e.uint(*kind);
            match raw {
                Raw::Bytes(bytes) => {
                    e.bytes(bytes);
                }
                Raw::Template(nested) => nested.put(e),
            }
        }
    }

    fn take(d: &mut Decoder<'a>, room: &'a Room<'a>) -> Decoded<Self> {
        take_template(d, room, TEMPLATE_DEPTH, &mut { TEMPLATE_ATTRIBUTES })
    }
}

fn take_template<'a>(d: &mut Decoder<'a>, room: &'a Room<'a>, depth: usize, left: &mut usize) -> Decoded<Template<'a>> {
    let items = d.array()?;
    let len = items / 2;
    *left = left.checked_sub(len).filter(|_| items % 2 == 0).ok_or(Malformed("a template has a wrong length"))?;
    room.spend(items)?;
    let mut template = Vec::with_capacity(len);
    for _ in 0..len {
        let kind = d.uint()?;
        let raw = match d.peek()? {
            Type::Array if depth > 0 => Raw::Template(take_template(d, room, depth - 1, left)?),
            _ => Raw::Bytes(d.bytes()?),
        };
        template.push((kind, raw));
    }
    Ok(Template(template))
}

impl<'a> Wire<'a> for Vec<Template<'a>> {
    fn put<S: Sink>(&self, e: &mut Encoder<S>) {
        put_list(self, e);
    }

    fn take(d: &mut Decoder<'a>, room: &'a Room<'a>) -> Decoded<Self> {
        let (len, mut left) = (d.array()?, TEMPLATE_ATTRIBUTES);
        room.spend(len)?;
        (0..len).map(|_| take_template(d, room, TEMPLATE_DEPTH, &mut left)).collect()
    }
}

impl<'a> Wire<'a> for ErrorKind {
    fn put<S: Sink>(&self, e: &mut Encoder<S>) {
        e.uint(self.rv());
    }

    fn take(d: &mut Decoder<'a>, _: &'a Room<'a>) -> Decoded<Self> {
        Self::of_rv(d.uint()?).ok_or(Malformed("an unknown error"))
    }
}

/// `[kind, detail / null]`.
impl<'a> Wire<'a> for Error {
    fn put<S: Sink>(&self, e: &mut Encoder<S>) {
        e.array(2);
        self.kind().put(e);
        self.detail().put(e);
    }

    fn take(d: &mut Decoder<'a>, room: &'a Room<'a>) -> Decoded<Self> {
        d.array_of(2)?;
        let (kind, detail): (ErrorKind, Option<String>) = (Wire::take(d, room)?, Wire::take(d, room)?);
        Ok(detail.map_or_else(|| kind.into(), |detail| kind.with(detail)))
    }
}
