//! What becomes of logins and sessions as time passes and the domain goes on.

use std::sync::atomic::Ordering;

use super::asking::{Asking, Route};
use super::domain::Step;
use super::fleet::{Fleet, unexpected};
use super::logins::Login;
use super::pool::Place;
use crate::error::{Error, ErrorKind};
use crate::hsm::Reply;
use crate::hsm::session::HsmId;
use crate::hsm::wire::{Answer, Request};

impl Fleet {
    /// A new ticket for a login: from the HSM that refused the old one, or from any other that knows it.
    pub(super) fn renew(&self, login: &Login, place: Place, hsm: HsmId) -> bool {
        let record = match self.store.meta() {
            Ok(meta) => meta.pin(&login.role).map(|pin| pin.record.clone()),
            Err(error) => {
                tracing::warn!(%error, "the login cannot be renewed");
                return false;
            }
        };
        let Some(record) = record else {
            self.end_login(login);
            return false;
        };
        let mut places = self.pool.reachable();
        places.retain(|other| *other != place);
        places.insert(0, place);
        let ids = self.pool.standings();
        let mut refused = Vec::new();
        for other in places {
            let id = if other == place { Some(hsm) } else { ids.get(other).and_then(|standing| standing.id) };
            let Some(id) = id else { continue };
            let asking = Asking {
                route: Route::At(other, id),
                ticket: &login.ticket,
                request: Request::RenewTicket { record: &record },
                records: &[],
                managed: false,
                quick: true,
            };
            let version = self.domain.held().map_or(0, |known| known.version());
            let renewed = self.ask(&asking, |_, _, answer| match answer {
                Answer::Reply(Reply::LoggedIn(ticket)) => Ok(ticket),
                _ => Err(unexpected()),
            });
            match renewed {
                Ok(ticket) => {
                    self.logins.renew(login, ticket, version);
                    return true;
                }
                Err(failed) => {
                    let error = Error::from(failed);
                    if error.kind() == ErrorKind::UserNotLoggedIn {
                        refused.push(id);
                    }
                    tracing::debug!(%error, "a login was not renewed");
                }
            }
        }
        // One that could not be asked says nothing: it may be the one that knows the login. One that is no
        // member, or that this process never met, does not.
        let members = self.domain.held().map(|known| known.members.clone()).unwrap_or_default();
        let mut met = ids.iter().filter_map(|standing| standing.id).filter(|id| members.contains(id));
        if !refused.is_empty() && met.all(|id| refused.contains(&id)) {
            self.end_login(login);
        }
        false
    }

    fn end_login(&self, login: &Login) {
        tracing::warn!(role = %login.role.principal(), "the login ends: no HSM renews it");
        if self.logins.retain(|other| other.ticket != login.ticket) {
            self.login_ended.store(true, Ordering::Release);
        }
    }

    /// Takes what the store has of the domain, if that is newer. What fails is for the next call.
    pub(super) fn catch_up(&self) {
        match self.domain.catch_up() {
            Ok(step) => self.stepped(&step),
            Err(error) => tracing::warn!(%error, "the domain's newest state was not taken"),
        }
    }

    /// What a newer state means for what was agreed in the older one.
    pub(super) fn stepped(&self, step: &Step) {
        let Some(before) = &step.before else { return };
        let now = &step.now;
        if before.version() == now.version() {
            return;
        }
        self.errands.bring(before.version());
        let gone = before.members.iter().any(|member| !now.members.contains(member));
        if gone || before.active_key != now.active_key {
            self.drop_session();
            self.pool.renew();
        }
        let stays = |login: &Login| before.follower.keeps_login(&now.follower, &step.entries, &login.role);
        if self.logins.retain(stays) {
            self.login_ended.store(true, Ordering::Release);
        }
    }
}
