//! The exchange of multi-Region keys with other Regions: each step is bytes in, bytes out, and any
//! carrier will do. What is told of a step was committed before.

use std::collections::BTreeMap;
use std::result::Result as Either;
use std::sync::Arc;

use super::super::login::Credentials;
use super::super::token::Token;
use super::super::{Module, SessionHandle};
use super::held::HeldKey;
use super::unexpected;
use crate::error::{Error, ErrorKind, Result};
use crate::hsm::{Command, Held, MessageKind, MessageView, ObjectChange, Replicate, Reply, replication_message};

/// Index entries read at a time.
const PAGE: usize = 512;

/// Bytes that are enough for a message without its keys, and with each key: Regions have names of at most
/// 255 bytes, and a receipt says most of a key.
const MESSAGE: usize = 4096;
const KEY: usize = 160;

/// What a Region is still to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    pub region: String,
    /// Request, activate, deleted or handover.
    pub kind: MessageKind,
    /// Key ids.
    pub keys: Vec<String>,
}

/// The length that is enough for an offer for keys.
pub fn longest_offer(keys: &[String]) -> usize {
    MESSAGE + keys.iter().map(|id| id.len() + KEY).sum::<usize>()
}

/// The length that is enough for what answers a message, but for an offer. KMS_R_REPLICATION_REFUSED for
/// what is no message.
pub fn longest_answer(message: &[u8]) -> Result<usize> {
    Ok(longest_offer(&replication_message(message)?.keys))
}

impl Module {
    /// What other Regions, or this one of them, are still to be told of keys: at most `most` ids in each
    /// item. Needs a user's login, as all of these do.
    pub fn pending_replication(
        &self,
        session: SessionHandle,
        region: Option<&str>,
        most: usize,
    ) -> Result<Vec<Pending>> {
        let Exchange { token, login, .. } = self.exchange(session, false)?;
        let mut pending = BTreeMap::<(String, &str), Pending>::new();
        let mut after = 0;
        loop {
            let page = token.store.replicating(after, PAGE)?;
            for found in &page {
                let Some((id, outstanding)) = token.outstanding(&login, found)? else { continue };
                for (to, kind) in outstanding {
                    if region.is_some_and(|region| region != to) {
                        continue;
                    }
                    let item = pending.entry((to.clone(), kind.name()));
                    let item = item.or_insert_with(|| Pending { region: to, kind, keys: Vec::new() });
                    if item.keys.len() < most {
                        item.keys.push(id.clone());
                    }
                }
            }
            match page.last() {
                Some(last) if page.len() == PAGE => after = last.row,
                _ => return Ok(pending.into_values().collect()),
            }
        }
    }

    /// The message that tells a Region what is pending of these keys; those of which nothing of the kind
    /// is pending are left out. KMS_R_NOT_FOUND if none is left.
    pub fn tell_replicas(
        &self,
        session: SessionHandle,
        kind: MessageKind,
        region: &str,
        keys: &[String],
    ) -> Result<Vec<u8>> {
        let exchange = self.exchange(session, false)?;
        let mut held = exchange.token.held_keys(&exchange.login, keys)?;
        held.retain(|held| held.as_ref().is_some_and(|key| key.has_outstanding(region, kind)));
        let keys: Vec<_> = held.iter().flatten().map(HeldKey::held).collect();
        if keys.is_empty() {
            let what = kind.name();
            return Err(ErrorKind::KmsNotFound
                .with(format!("of none of these keys is a message {what:?} to the Region {region:?} pending")));
        }
        exchange.step(Replicate::Tell { kind, region, keys: &keys })?.message()
    }

    /// An offer to a Region for keys that it is to ship. Its private part stays in this process.
    pub fn offer_replicas(&self, session: SessionHandle, region: &str, keys: &[String]) -> Result<Vec<u8>> {
        self.exchange(session, true)?.offer(region, keys, None)
    }

    /// The shipment that answers an offer. Err(length) inside, and the offer is not used up, if it has
    /// more bytes than `room`.
    pub fn ship_replicas(&self, session: SessionHandle, offer: &[u8], room: usize) -> Result<Either<Vec<u8>, usize>> {
        let exchange = self.exchange(session, false)?;
        exchange.heard(offer, |view| exchange.ship(view, offer, room))
    }

    /// Takes the keys of a shipment, all or none. Answers the ids of the keys.
    pub fn accept_replicas(&self, session: SessionHandle, shipment: &[u8]) -> Result<Vec<String>> {
        let exchange = self.exchange(session, true)?;
        exchange.heard(shipment, |view| exchange.accept(view, shipment).map(|()| view.keys.clone()))
    }

    /// Reads the accepted keys back and makes the receipt.
    pub fn confirm_replicas(&self, session: SessionHandle, shipment: &[u8]) -> Result<Vec<u8>> {
        let exchange = self.exchange(session, false)?;
        exchange.heard(shipment, |view| exchange.confirm(view, shipment))
    }

    /// Takes any message of another Region, does what it asks for, and answers what is to be sent back.
    /// KMS_R_REPLICATION_REFUSED for what is refused; any other error is this Region's own, and the
    /// message may be taken again.
    pub fn receive_replication(&self, session: SessionHandle, message: &[u8]) -> Result<Option<Vec<u8>>> {
        match self.receive_replication_within(session, message, usize::MAX)? {
            Ok(reply) => Ok(reply),
            Err(_) => Err(unexpected()),
        }
    }

    /// The same. Err(length) inside, and nothing was done, if the answer may have more bytes than `room`.
    pub fn receive_replication_within(
        &self,
        session: SessionHandle,
        message: &[u8],
        room: usize,
    ) -> Result<Either<Option<Vec<u8>>, usize>> {
        let exchange = self.exchange(session, true)?;
        exchange.heard(message, |view| {
            if view.kind == MessageKind::Offer {
                return Ok(exchange.ship(view, message, room)?.map(Some));
            }
            let most = longest_offer(&view.keys);
            if room < most {
                return Ok(Err(most));
            }
            match view.kind {
                MessageKind::Request => exchange.offer(&view.from, &view.keys, Some(message)).map(Some),
                MessageKind::Shipment => {
                    exchange.accept(view, message)?;
                    exchange.confirm(view, message).map(Some)
                }
                _ => exchange.receive(view, message),
            }
            .map(Ok)
        })
    }

    /// CKR_USER_NOT_LOGGED_IN; CKR_SESSION_READ_ONLY if something may be changed.
    fn exchange(&self, session: SessionHandle, writes: bool) -> Result<Exchange> {
        let session = self.session(session)?;
        let login = session.enter()?.credentials.clone();
        login.require_user()?;
        if writes {
            session.require_rw()?;
        }
        Ok(Exchange { token: Arc::clone(&session.token), login, limit: self.settings.max_managed_keys })
    }
}

/// What a login does in an exchange.
struct Exchange {
    token: Arc<Token>,
    login: Credentials,
    /// Managed keys of a token.
    limit: u64,
}

/// What a step is to commit, and what is sent then.
struct Step {
    change: ObjectChange,
    message: Option<Vec<u8>>,
}

impl Step {
    fn message(self) -> Result<Vec<u8>> {
        self.message.ok_or_else(unexpected)
    }
}

impl Exchange {
    fn step(&self, step: Replicate<'_>) -> Result<Step> {
        match self.token.ask(&self.login, Command::Replicate(step))? {
            Reply::Replicated { change, message, .. } => Ok(Step { change, message }),
            _ => Err(unexpected()),
        }
    }

    /// Has something done with a message of another Region. A refusal is logged here, and in the audit
    /// log by the HSM, which sees also what is no message.
    fn heard<T>(&self, message: &[u8], work: impl FnOnce(&MessageView) -> Result<T>) -> Result<T> {
        let view = replication_message(message);
        let done = match &view {
            // Before the store is searched for what it names.
            Ok(view) => self.step(Replicate::Check { message }).and_then(|_| work(view)),
            Err(error) => {
                let recorded = self.step(Replicate::Receive { message, keys: &[] });
                Err(recorded.err().unwrap_or_else(|| error.clone()))
            }
        };
        if let Err(error) = &done
            && error.kind() == ErrorKind::KmsReplicationRefused
        {
            let (kind, from) = view.as_ref().map_or(("unknown", ""), |view| (view.kind.name(), &view.from));
            tracing::warn!(slot = self.token.slot, kind, from, reason = %error, "a message of another Region was refused");
        }
        done
    }

    /// What the store has of the keys of a message, in its order.
    fn held(&self, view: &MessageView) -> Result<Vec<Option<HeldKey>>> {
        self.token.held_keys(&self.login, &view.keys)
    }

    fn offer(&self, region: &str, keys: &[String], request: Option<&[u8]>) -> Result<Vec<u8>> {
        let held = self.token.held_keys(&self.login, keys)?;
        let wanted: Vec<_> =
            keys.iter().zip(&held).map(|(id, held)| (id.as_str(), held.as_ref().map(HeldKey::held))).collect();
        self.step(Replicate::Offer { region, wanted: &wanted, request })?.message()
    }

    fn ship(&self, view: &MessageView, offer: &[u8], room: usize) -> Result<Either<Vec<u8>, usize>> {
        let held = self.held(view)?;
        let step = Replicate::Ship { offer, keys: &all(&held), room };
        match self.token.ask(&self.login, Command::Replicate(step))? {
            Reply::Replicated { message: Some(shipment), .. } => Ok(Ok(shipment)),
            Reply::Needed(len) => Ok(Err(len)),
            _ => Err(unexpected()),
        }
    }

    fn accept(&self, view: &MessageView, shipment: &[u8]) -> Result<()> {
        let accept = || {
            self.token.change_keys(&self.login, false, || {
                let held = self.held(view)?;
                let Step { mut change, .. } = self.step(Replicate::Accept { shipment, held: &all(&held) })?;
                if change.insert.iter().any(|record| record.columns.managed) {
                    change.limit = Some(self.limit);
                }
                Ok((change, ()))
            })
        };
        let exists = |error: &Error| error.kind() == ErrorKind::KmsAlreadyExists;
        // Another process may have been first, once.
        let accepted = accept().or_else(|error| if exists(&error) { accept() } else { Err(error) });
        accepted.map_err(|error| match exists(&error) {
            true => {
                ErrorKind::KmsReplicationRefused.with("an object of another key has the place of one of its objects")
            }
            false => error,
        })
    }

    fn confirm(&self, view: &MessageView, shipment: &[u8]) -> Result<Vec<u8>> {
        let stored = self.held(view)?;
        self.step(Replicate::Confirm { shipment, stored: &all(&stored) })?.message()
    }

    fn receive(&self, view: &MessageView, message: &[u8]) -> Result<Option<Vec<u8>>> {
        self.token.change_keys(&self.login, true, || {
            let held = self.held(view)?;
            let Step { change, message } = self.step(Replicate::Receive { message, keys: &all(&held) })?;
            Ok((change, message))
        })
    }
}

fn all(held: &[Option<HeldKey>]) -> Vec<Option<Held<'_>>> {
    held.iter().map(|held| held.as_ref().map(HeldKey::held)).collect()
}
