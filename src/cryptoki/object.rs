//! Object management (PKCS#11 3.2 §5.7) but for searching.

use std::time::{Duration, Instant};

use cryptoki_sys as ck;

use super::login::Credentials;
use super::objects::Object;
use super::session::{Session, State};
use super::token::Token;
use super::{AttributeSource, Module, ObjectHandle, Readable, SessionHandle};
use crate::error::{ErrorKind, Result};
use crate::hsm::{AttributeType, Command, Place, Raw, Record, Reply, Template, View};

/// How long a change is tried again when others change the object meanwhile.
const PATIENCE: Duration = Duration::from_secs(5);

impl Module {
    pub fn create_object(&self, session: SessionHandle, template: &Template<'_>) -> Result<ObjectHandle> {
        let session = self.session(session)?;
        let mut state = session.enter()?;
        let place = session.place(template, Place::Session)?;
        let create = Command::Create { template, place };
        let made = records(session.token.channel.call(&state.credentials.ticket, create)?)?;
        self.admit_one(&session, &mut state, made, place)
    }

    pub fn copy_object(
        &self,
        session: SessionHandle,
        object: ObjectHandle,
        template: &Template<'_>,
    ) -> Result<ObjectHandle> {
        let session = self.session(session)?;
        let mut guard = session.enter()?;
        let state = &mut *guard;
        let source = state.cache.get(&session.token, &state.credentials, object)?;
        if source.is_built_in() {
            return Err(ErrorKind::ActionProhibited.into());
        }
        let place = session.place(template, if source.is_session() { Place::Session } else { Place::Token })?;
        let copy = Command::Copy { source: &source.record, template, place };
        let call = || session.token.channel.call(&state.credentials.ticket, copy);
        let made = records(session.token.audited(source.record.columns.managed, call)?)?;
        self.admit_one(&session, state, made, place)
    }

    pub fn destroy_object(&self, session: SessionHandle, object: ObjectHandle) -> Result<()> {
        let session = self.session(session)?;
        let mut guard = session.enter()?;
        let state = &mut *guard;
        let token = &session.token;
        let target = state.cache.get(token, &state.credentials, object)?;
        if target.is_built_in() {
            return Err(ErrorKind::ActionProhibited.into());
        }
        if !target.is_session() {
            session.require_rw()?;
        }
        let check = Command::CheckDestroy { record: &target.record };
        let managed = target.record.columns.managed;
        token.audited(managed, || token.channel.call(&state.credentials.ticket, check))?;
        if target.is_session() {
            state.disown(object);
            return if token.objects.remove(object) { Ok(()) } else { Err(ErrorKind::ObjectHandleInvalid.into()) };
        }
        let deleted = token.store.delete(&target.record.object);
        if !matches!(&deleted, Err(error) if error.kind() != ErrorKind::ObjectHandleInvalid) {
            token.objects.remove(object);
        }
        deleted
    }

    /// The bytes that the object takes in the store.
    pub fn object_size(&self, session: SessionHandle, object: ObjectHandle) -> Result<u64> {
        let session = self.session(session)?;
        let mut guard = session.enter()?;
        let state = &mut *guard;
        let object = state.cache.get(&session.token, &state.credentials, object)?;
        Ok(object.record.sealed.as_bytes().len() as u64)
    }

    /// Calls `read` with the object's attributes.
    pub fn with_attributes<R>(
        &self,
        session: SessionHandle,
        object: ObjectHandle,
        read: impl FnOnce(&dyn AttributeSource) -> R,
    ) -> Result<R> {
        let session = self.session(session)?;
        let mut guard = session.enter()?;
        let state = &mut *guard;
        let (token, login) = (&*session.token, &state.credentials);
        let object = &**state.cache.get(token, login, object)?;
        let view = &**object.view(token, login)?;
        Ok(read(&Opened { token, login, object, view }))
    }

    /// All attributes of the template or none. If another process changes the object meanwhile, the
    /// change is made to what it then is.
    pub fn set_attributes(&self, session: SessionHandle, object: ObjectHandle, template: &Template<'_>) -> Result<()> {
        let session = self.session(session)?;
        let mut guard = session.enter()?;
        let state = &mut *guard;
        let token = &session.token;
        let mut refused = None;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let target = state.cache.get(token, &state.credentials, object)?;
            if target.is_built_in() {
                return Err(ErrorKind::ActionProhibited.into());
            }
            if !target.is_session() {
                session.require_rw()?;
            }
            if let Some((generation, error)) = refused.take()
                && generation == target.record.generation
            {
                return Err(error);
            }
            let set = Command::SetAttributes { record: &target.record, template };
            let call = || token.channel.call(&state.credentials.ticket, set);
            let changed = one(records(token.audited(target.record.columns.managed, call)?)?)?;
            if target.is_session() {
                if token.objects.replace_in_session(target, changed) {
                    return Ok(());
                }
                continue;
            }
            match token.store.replace(&changed) {
                Err(error) if error.kind() == ErrorKind::FunctionFailed => {
                    refused = Some((target.record.generation, error));
                }
                done => return done,
            }
        }
        Err(ErrorKind::FunctionFailed.with("the object kept changing"))
    }

    /// Gives new objects handles; token objects are committed before, all or none.
    pub(super) fn admit(
        &self,
        session: &Session,
        state: &mut State,
        records: Vec<Record>,
        places: &[Place],
    ) -> Result<Vec<ObjectHandle>> {
        if records.len() != places.len() {
            return Err(ErrorKind::GeneralError.with("the HSM answered with a wrong number of objects"));
        }
        if records.iter().any(|record| record.columns.private) && !state.credentials.sees_private() {
            return Err(ErrorKind::UserNotLoggedIn.into());
        }
        let token = &session.token;
        let durable: Vec<_> =
            records.iter().zip(places).filter(|(_, place)| **place == Place::Token).map(|(r, _)| r.clone()).collect();
        let mut committed = if durable.is_empty() {
            Vec::new()
        } else {
            token.commit_new(&self.handles, &state.credentials, durable, self.settings.max_managed_keys)?
        }
        .into_iter();
        let mut handles = Vec::with_capacity(records.len());
        for (record, place) in records.into_iter().zip(places) {
            handles.extend(match place {
                Place::Token => committed.next(),
                Place::Session => {
                    let handle = token.objects.add_to_session(&self.handles, record, state.credentials.epoch);
                    state.own(token, handle);
                    Some(handle)
                }
            });
        }
        Ok(handles)
    }

    pub(super) fn admit_one(
        &self,
        session: &Session,
        state: &mut State,
        records: Vec<Record>,
        place: Place,
    ) -> Result<ObjectHandle> {
        one(self.admit(session, state, records, &[place])?)
    }
}

impl Session {
    /// Where an object made from this template goes; `absent` is for a template that does not say.
    /// CKR_SESSION_READ_ONLY, CKR_ATTRIBUTE_VALUE_INVALID.
    pub(super) fn place(&self, template: &Template<'_>, absent: Place) -> Result<Place> {
        let place = match template.get(ck::CKA_TOKEN) {
            None => absent,
            Some(Raw::Bytes([0])) => Place::Session,
            Some(Raw::Bytes([_])) => Place::Token,
            Some(_) => return Err(ErrorKind::AttributeValueInvalid.with("CKA_TOKEN")),
        };
        if place == Place::Token {
            self.require_rw()?;
        }
        Ok(place)
    }
}

/// An object opened for C_GetAttributeValue. Secrets are asked of the HSM one by one.
struct Opened<'a> {
    token: &'a Token,
    login: &'a Credentials,
    object: &'a Object,
    view: &'a View,
}

impl AttributeSource for Opened<'_> {
    fn read(&self, kind: AttributeType) -> Result<Readable<'_>> {
        if let Some(value) = self.view.attributes.get(kind) {
            return Ok(Readable::Value(value));
        }
        match self.view.secrets.iter().find(|(secret, _)| *secret == kind) {
            None => Err(ErrorKind::AttributeTypeInvalid.into()),
            Some((_, false)) => Err(ErrorKind::AttributeSensitive.into()),
            Some((_, true)) => {
                let reveal = Command::Reveal { record: &self.object.record, attribute: kind };
                match self.token.channel.call(&self.login.ticket, reveal)? {
                    Reply::Secret(secret) => Ok(Readable::Secret(secret)),
                    _ => Err(ErrorKind::GeneralError.with("the HSM answered with something else than a value")),
                }
            }
        }
    }
}

pub(super) fn records(reply: Reply) -> Result<Vec<Record>> {
    match reply {
        Reply::Records(records) => Ok(records),
        _ => Err(ErrorKind::GeneralError.with("the HSM answered with something else than objects")),
    }
}

/// The only item of a list that must have one.
pub(super) fn one<T>(items: Vec<T>) -> Result<T> {
    let mut items = items.into_iter();
    match (items.next(), items.next()) {
        (Some(item), None) => Ok(item),
        _ => Err(ErrorKind::GeneralError.with("the HSM answered with a wrong number of objects")),
    }
}
