//! The exchange of multi-Region keys with other Regions. Every step is bytes in, bytes out.

use cryptoki_sys::{CK_BYTE_PTR, CK_FLAGS, CK_RV, CK_SESSION_HANDLE, CK_ULONG, CK_ULONG_PTR, CK_UTF8CHAR_PTR};
use serde_json::{Map, Value, json};

use super::managed::{change, have_room, query, text};
use crate::abi::guard::entry;
use crate::abi::ptr::Caller;
use crate::cryptoki::{KeyQuery, longest_answer, longest_offer};
use crate::error::{Error, ErrorKind, Result};
use crate::hsm::{Manage, MessageKind};

/// Bytes that no message between Regions exceeds.
pub const KMS_MAX_MESSAGE_LEN: CK_ULONG = 67108864;

/// Key ids in one item of KMS_PendingReplication.
const PENDING: usize = 10_000;

/// A function that takes a message of another Region and makes another.
pub type KMS_EXCHANGE = Option<
    unsafe extern "C" fn(
        hSession: CK_SESSION_HANDLE,
        pMessage: CK_BYTE_PTR,
        ulMessageLen: CK_ULONG,
        pAnswer: CK_BYTE_PTR,
        pulAnswerLen: CK_ULONG_PTR,
    ) -> CK_RV,
>;

/// Lets a Region have a replica of a multi-Region key, or no longer as long as it has none. The Region is
/// one that the domain trusts. This is what authorises a shipment; a Region's offer is not. A key that is
/// to be shipped has no imported material, unless it was made with "ReplicateImportedMaterial".
///
/// pRequest, ulRequestLen: {"KeyId": TEXT, "ReplicaRegion": TEXT, "Withdraw": BOOLEAN? (false)}.
///
/// KMS_R_UNSUPPORTED: the key is of one Region, or a replica here; the primary's Region is named.
/// KMS_R_NOT_FOUND: no such Region is trusted. KMS_R_LIMIT_EXCEEDED. KMS_R_DISABLED. KMS_R_INVALID_STATE.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_ReplicateKey(
    hSession: CK_SESSION_HANDLE,
    flags: CK_FLAGS,
    pRequest: CK_UTF8CHAR_PTR,
    ulRequestLen: CK_ULONG,
) -> CK_RV {
    entry!(KMS_ReplicateKey, |caller, module| change(
        caller,
        module,
        hSession,
        Manage::ReplicateKey,
        flags,
        (pRequest, ulRequestLen)
    ))
}

/// Begins to make a replica the primary: the key is Updating, and in use as before, until that Region has
/// taken it over. The message is KMS_TellReplicas' "handover".
///
/// pRequest, ulRequestLen: {"KeyId": TEXT, "PrimaryRegion": TEXT}.
///
/// KMS_R_UNSUPPORTED: the key is of one Region, or a replica here. KMS_R_NOT_FOUND: the Region has no
/// replica. KMS_R_INVALID_STATE: the replica has not all that the primary has yet.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_UpdatePrimaryRegion(
    hSession: CK_SESSION_HANDLE,
    flags: CK_FLAGS,
    pRequest: CK_UTF8CHAR_PTR,
    ulRequestLen: CK_ULONG,
) -> CK_RV {
    entry!(KMS_UpdatePrimaryRegion, |caller, module| change(
        caller,
        module,
        hSession,
        Manage::UpdatePrimaryRegion,
        flags,
        (pRequest, ulRequestLen)
    ))
}

/// Tells of a multi-Region key's primary and replicas.
///
/// pRequest, ulRequestLen: {"KeyId": TEXT}.
/// pJson, *pulJsonLen: gets {"KeyId": TEXT, "MultiRegionKeyType": "PRIMARY" or "REPLICA",
///     "PrimaryKey": {"Region": TEXT}, "ReplicaKeys": [{"Region": TEXT, "Registered": BOOLEAN,
///     "Version": NUMBER, "ActiveVersion": NUMBER}], "Term": NUMBER, "NewestVersion": NUMBER,
///     "Handover": TEXT?, "Outdated": {"Region": TEXT, "Term": NUMBER}?}. KMS_DescribeKey has the same as
///     MultiRegionConfiguration.
///
/// KMS_R_UNSUPPORTED: the key is of one Region. CKR_BUFFER_TOO_SMALL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_DescribeReplicas(
    hSession: CK_SESSION_HANDLE,
    pRequest: CK_UTF8CHAR_PTR,
    ulRequestLen: CK_ULONG,
    pJson: CK_UTF8CHAR_PTR,
    pulJsonLen: CK_ULONG_PTR,
) -> CK_RV {
    entry!(KMS_DescribeReplicas, |caller, module| query(
        caller,
        module,
        hSession,
        KeyQuery::DescribeReplicas,
        (pRequest, ulRequestLen),
        (pJson, pulJsonLen)
    ))
}

/// Lists what other Regions are still to be told of keys, each item by KMS_TellReplicas.
///
/// pRequest, ulRequestLen: {"Region": TEXT?}: only what this one is to be told; or nothing.
/// pJson, *pulJsonLen: gets [{"Region": TEXT, "Kind": TEXT, "KeyIds": [TEXT]}], with at most 10 000 key ids
///     each.
///
/// CKR_BUFFER_TOO_SMALL; the list may grow between two calls.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_PendingReplication(
    hSession: CK_SESSION_HANDLE,
    pRequest: CK_UTF8CHAR_PTR,
    ulRequestLen: CK_ULONG,
    pJson: CK_UTF8CHAR_PTR,
    pulJsonLen: CK_ULONG_PTR,
) -> CK_RV {
    entry!(KMS_PendingReplication, |caller, module| {
        let output = caller.room(pJson, pulJsonLen)?;
        let request = Members::of(caller, (pRequest, ulRequestLen), &["Region"])?;
        let region = request.0.contains_key("Region").then(|| request.text("Region")).transpose()?;
        let pending = module.pending_replication(hSession, region, PENDING)?;
        let items = pending
            .into_iter()
            .map(|item| json!({ "Region": item.region, "Kind": item.kind.name(), "KeyIds": item.keys }));
        output.give(Value::Array(items.collect()).to_string().as_bytes())
    })
}

/// Makes the message that tells a Region what it is still to be told of keys; those of which nothing of
/// the kind is pending are left out. It may be made and sent again until the Region has answered it.
///
/// pRequest, ulRequestLen: {"Kind": "request", "activate", "deleted" or "handover", "Region": TEXT,
///     "KeyIds": [TEXT]}. A request asks the Region for an offer.
/// pMessage, *pulMessageLen: gets the message.
///
/// KMS_R_NOT_FOUND: nothing of the kind is pending of any of the keys, or the Region is not trusted.
/// CKR_BUFFER_TOO_SMALL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_TellReplicas(
    hSession: CK_SESSION_HANDLE,
    pRequest: CK_UTF8CHAR_PTR,
    ulRequestLen: CK_ULONG,
    pMessage: CK_BYTE_PTR,
    pulMessageLen: CK_ULONG_PTR,
) -> CK_RV {
    entry!(KMS_TellReplicas, |caller, module| {
        let output = caller.room(pMessage, pulMessageLen)?;
        let request = Members::of(caller, (pRequest, ulRequestLen), &["Kind", "Region", "KeyIds"])?;
        let kind = MessageKind::named(request.text("Kind")?).ok_or_else(|| bad("Kind is not that of a message"))?;
        output.give(&module.tell_replicas(hSession, kind, request.text("Region")?, &request.key_ids()?)?)
    })
}

/// Makes an offer to a Region for keys that it is to ship: new ones, or newer versions of those that are
/// here. Its private part stays in this process's memory, works once, and is gone with the login, the
/// offer's expiry and C_Finalize. The session is read/write.
///
/// pRequest, ulRequestLen: {"Region": TEXT, "KeyIds": [TEXT]}.
/// pOffer, *pulOfferLen: gets the offer; the length that is asked for is enough.
///
/// KMS_R_NOT_FOUND: the Region is not trusted. CKR_DEVICE_MEMORY: too many offers are open.
/// CKR_BUFFER_TOO_SMALL: nothing was made.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_OfferReplicas(
    hSession: CK_SESSION_HANDLE,
    pRequest: CK_UTF8CHAR_PTR,
    ulRequestLen: CK_ULONG,
    pOffer: CK_BYTE_PTR,
    pulOfferLen: CK_ULONG_PTR,
) -> CK_RV {
    entry!(KMS_OfferReplicas, |caller, module| {
        let request = Members::of(caller, (pRequest, ulRequestLen), &["Region", "KeyIds"])?;
        let keys = request.key_ids()?;
        let outputs = [(caller.room(pOffer, pulOfferLen)?, longest_offer(&keys))];
        if !have_room(module, hSession, &outputs)? {
            return Ok(());
        }
        let offer = module.offer_replicas(hSession, request.text("Region")?, &keys)?;
        outputs.iter().try_for_each(|(output, _)| output.give(&offer))
    })
}

/// Answers an offer: a shipment of the keys that are wanted, each of which the Region is allowed to have.
/// An offer is answered once.
///
/// pOffer, ulOfferLen: an offer of another Region.
/// pShipment, *pulShipmentLen: gets the shipment.
///
/// KMS_R_REPLICATION_REFUSED: the offer is not from a trusted Region, has expired or was answered before,
/// or wants a key that the Region is not allowed to have. CKR_DEVICE_MEMORY: too many shipments wait for a
/// receipt. CKR_BUFFER_TOO_SMALL: the offer is not answered.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_ShipReplicas(
    hSession: CK_SESSION_HANDLE,
    pOffer: CK_BYTE_PTR,
    ulOfferLen: CK_ULONG,
    pShipment: CK_BYTE_PTR,
    pulShipmentLen: CK_ULONG_PTR,
) -> CK_RV {
    entry!(KMS_ShipReplicas, |caller, module| {
        let output = caller.room(pShipment, pulShipmentLen)?;
        match module.ship_replicas(hSession, message(caller, pOffer, ulOfferLen)?, output.len())? {
            Ok(shipment) => output.give(&shipment),
            Err(len) => output.need(len),
        }
    })
}

/// Takes the keys of a shipment into the token, all or none: a new key belongs to whoever is logged in, and
/// may be used once its primary has activated it; of a key that is here, newer versions are added. Taken
/// again, a shipment changes nothing. The session is read/write.
///
/// pShipment, ulShipmentLen: the answer to an offer that this process made.
///
/// KMS_R_REPLICATION_REFUSED: it is not that; or it is not from the Region of a key's primary, is older
/// than what is here, or contradicts it. CKR_TOKEN_RESOURCE_EXCEEDED: there would be too many managed keys.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_AcceptReplicas(
    hSession: CK_SESSION_HANDLE,
    pShipment: CK_BYTE_PTR,
    ulShipmentLen: CK_ULONG,
) -> CK_RV {
    entry!(KMS_AcceptReplicas, |caller, module| {
        module.accept_replicas(hSession, message(caller, pShipment, ulShipmentLen)?).map(drop)
    })
}

/// Reads the keys of a shipment that was accepted back from the token, and makes the receipt.
///
/// pShipment, ulShipmentLen: the shipment.
/// pReceipt, *pulReceiptLen: gets the receipt; the length that is asked for is enough.
///
/// KMS_R_REPLICATION_REFUSED: this process did not accept it, or what is in the token is something else.
/// CKR_BUFFER_TOO_SMALL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_ConfirmReplicas(
    hSession: CK_SESSION_HANDLE,
    pShipment: CK_BYTE_PTR,
    ulShipmentLen: CK_ULONG,
    pReceipt: CK_BYTE_PTR,
    pulReceiptLen: CK_ULONG_PTR,
) -> CK_RV {
    entry!(KMS_ConfirmReplicas, |caller, module| {
        let shipment = message(caller, pShipment, ulShipmentLen)?;
        let outputs = [(caller.room(pReceipt, pulReceiptLen)?, longest_answer(shipment)?)];
        if !have_room(module, hSession, &outputs)? {
            return Ok(());
        }
        let receipt = module.confirm_replicas(hSession, shipment)?;
        outputs.iter().try_for_each(|(output, _)| output.give(&receipt))
    })
}

/// Takes any message of another Region, does what it asks for, and gives the answer that is to be sent
/// back: to a request the offer, to an offer the shipment, to a shipment (which is accepted and confirmed)
/// the receipt, to a receipt an activate if there is something to activate, to an activate, a deleted and
/// a handover the message that acknowledges it. The session is read/write.
///
/// pMessage, ulMessageLen: the message.
/// pReply, *pulReplyLen: gets the answer; length 0 if there is none. The length that is asked for is enough.
///
/// KMS_R_REPLICATION_REFUSED: the message is refused, and nothing is to be sent back; KMS_LastError and the
/// log tell why. After any other error the message may be taken again. CKR_BUFFER_TOO_SMALL: nothing was
/// done.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn KMS_ReceiveReplication(
    hSession: CK_SESSION_HANDLE,
    pMessage: CK_BYTE_PTR,
    ulMessageLen: CK_ULONG,
    pReply: CK_BYTE_PTR,
    pulReplyLen: CK_ULONG_PTR,
) -> CK_RV {
    entry!(KMS_ReceiveReplication, |caller, module| {
        let output = caller.room(pReply, pulReplyLen)?;
        match module.receive_replication_within(hSession, message(caller, pMessage, ulMessageLen)?, output.len())? {
            Ok(reply) => output.give(&reply.unwrap_or_default()),
            Err(len) => output.need(len),
        }
    })
}

/// CKR_ARGUMENTS_BAD for NULL, and for more than [`KMS_MAX_MESSAGE_LEN`].
fn message(caller: &Caller, pointer: CK_BYTE_PTR, len: CK_ULONG) -> Result<&[u8]> {
    if len > KMS_MAX_MESSAGE_LEN {
        return Err(bad("a message is longer than 64 MiB"));
    }
    caller.bytes(pointer, len)
}

/// A request about messages.
struct Members(Map<String, Value>);

impl Members {
    /// CKR_ARGUMENTS_BAD for what is no JSON object, or has other members.
    fn of(caller: &Caller, (request, len): (CK_UTF8CHAR_PTR, CK_ULONG), known: &[&str]) -> Result<Self> {
        let members = match text(caller, request, len)? {
            "" => Map::new(),
            text => match serde_json::from_str(text) {
                Ok(Value::Object(members)) => members,
                Ok(_) => return Err(bad("a request is a JSON object")),
                Err(error) => return Err(bad(format!("the request is not JSON: {error}"))),
            },
        };
        match members.keys().find(|name| !known.contains(&name.as_str())) {
            Some(name) => Err(bad(format!("{name} is no member of this request"))),
            None => Ok(Self(members)),
        }
    }

    fn text(&self, name: &str) -> Result<&str> {
        self.0.get(name).and_then(Value::as_str).ok_or_else(|| bad(format!("{name} is missing, or not a string")))
    }

    fn key_ids(&self) -> Result<Vec<String>> {
        let ids = self.0.get("KeyIds").and_then(Value::as_array).filter(|ids| !ids.is_empty());
        ids.and_then(|ids| ids.iter().map(|id| id.as_str().map(str::to_owned)).collect())
            .ok_or_else(|| bad("KeyIds is missing, or not a list of key ids"))
    }
}

fn bad(why: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    ErrorKind::ArgumentsBad.with(why)
}
