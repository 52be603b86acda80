//! Messages that tell a Region what it is still to know.

use super::super::command::{Held, MessageKind, Reply};
use super::super::managed::CKA_KMS_KEY_ID;
use super::super::managed::replication::{Details, Heard, Outstanding, Replication, Role};
use super::super::random;
use super::super::replication::Party;
use super::super::replication::message::{
    Activate, Deleted, Deletion, HandedOver, HandedReplica, Handover, HandoverDetails, Request,
};
use super::receiving::activation;
use super::{Attempt, Exchanging, Found, told};
use crate::error::{ErrorKind, Result};

impl Exchanging<'_> {
    /// [`Replicate::Tell`](super::super::Replicate::Tell). KMS_R_NOT_FOUND if nothing is to be told of any of the keys.
    pub(super) fn tell(&self, kind: MessageKind, region: &str, keys: &[Held<'_>]) -> Attempt<Reply> {
        let to = self.party(region)?;
        let message = match kind {
            MessageKind::Request => {
                let keys = self
                    .each(keys, |id, found| Ok(is_outstanding(found, &to, Outstanding::Ship).then(|| id.to_owned())))?;
                let not_after = self.now.saturating_add(self.opened.state().limits.offer);
                let ids = keys.clone();
                (self.signed(to, Request { nonce: random::array()?, not_after, keys })?, ids)
            }
            MessageKind::Activate => {
                let keys = self.each(keys, |_, found| match found {
                    Found::Key(key) => Ok(activation(&key.managed, &to)),
                    Found::Deleted(..) => Ok(None),
                })?;
                let ids = keys.iter().map(|key| key.key_id.clone()).collect();
                (self.signed(to, Activate { keys })?, ids)
            }
            MessageKind::Deleted => {
                let keys = self.each(keys, |id, found| Ok(deletion(id, found, &to)))?;
                let ids = keys.iter().map(|key| key.key_id.clone()).collect();
                (self.signed(to, Deleted { keys })?, ids)
            }
            MessageKind::Handover => {
                let keys = self.each(keys, |id, found| Ok(self.handed_over(id, found, &to)))?;
                let ids = keys.iter().map(|key| key.key_id.clone()).collect();
                (self.signed(to, Handover { keys })?, ids)
            }
            _ => {
                let why = "what a Region is told is a request, an activate, a deleted or a handover";
                return Err(ErrorKind::ArgumentsBad.with(why).into());
            }
        };
        let (message, ids): (_, Vec<String>) = message;
        let ids: Vec<_> = ids.iter().map(String::as_str).collect();
        Ok(Reply::Replicated { change: Default::default(), message: Some(message), told: told(&ids, &[]) })
    }

    fn each<I>(&self, keys: &[Held<'_>], mut one: impl FnMut(&str, &Found<'_>) -> Result<Option<I>>) -> Result<Vec<I>> {
        let mut items = Vec::with_capacity(keys.len());
        for held in keys {
            let open = self.hsm.open(self.access, held.keys.key)?;
            let id = open.key.attributes.bytes(CKA_KMS_KEY_ID).and_then(|id| std::str::from_utf8(id).ok());
            let id = id.ok_or_else(|| ErrorKind::KmsUnsupported.with("the key is not a managed key"))?;
            if let Some(found) = self.find(Some(held), id)? {
                items.extend(one(id, &found)?);
            }
        }
        if items.is_empty() {
            return Err(ErrorKind::KmsNotFound.with("the Region has nothing of this kind to be told of the keys"));
        }
        Ok(items)
    }

    fn handed_over(&self, id: &str, found: &Found<'_>, to: &Party) -> Option<HandedOver> {
        let replication = replication_of(found)?;
        if let Found::Key(key) = found
            && replication.handover() == Some(to)
        {
            let (heard, details) = key.managed.handover_details(&self.own)?;
            return Some(handed_over(id, heard, Some(details)));
        }
        let notice = replication.notices.iter().find(|notice| notice.party == *to)?;
        Some(handed_over(id, replication.heard_by(notice, &self.own), None))
    }
}

fn replication_of<'f>(found: &'f Found<'_>) -> Option<&'f Replication> {
    match found {
        Found::Key(key) => key.managed.replication().ok(),
        Found::Deleted(_, replication) => Some(replication),
    }
}

fn is_outstanding(found: &Found<'_>, to: &Party, what: Outstanding) -> bool {
    let due = match found {
        Found::Key(key) => key.managed.outstanding(),
        Found::Deleted(_, replication) => replication.outstanding_of_deleted(),
    };
    due.iter().any(|(party, due)| party == to && *due == what)
}

fn deletion(id: &str, found: &Found<'_>, to: &Party) -> Option<Deletion> {
    let Found::Deleted(_, replication) = found else { return None };
    match &replication.role {
        Role::Replica { primary, incarnation, .. } if primary == to => {
            Some(Deletion { key_id: id.to_owned(), incarnation: *incarnation, term: replication.term })
        }
        _ => None,
    }
}

fn handed_over(id: &str, heard: Heard, details: Option<Details>) -> HandedOver {
    HandedOver {
        key_id: id.to_owned(),
        incarnation: heard.incarnation,
        old_term: heard.term,
        new_term: heard.new_term,
        primary: heard.primary,
        details: details.map(|details| HandoverDetails {
            incarnation: details.incarnation,
            version: details.version,
            newest: details.newest,
            rotation: details.rotation,
            replicas: details.replicas.into_iter().filter_map(handed_replica).collect(),
        }),
    }
}

fn handed_replica(replica: super::super::managed::replication::Replica) -> Option<HandedReplica> {
    let incarnation = replica.incarnation?;
    Some(HandedReplica { party: replica.party, incarnation, held: replica.held, active: replica.active })
}
