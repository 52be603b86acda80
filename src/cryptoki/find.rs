//! Searching for objects (PKCS#11 3.2 §5.7, C_FindObjectsInit).
//!
//! What the store has a column for is answered by its index. Only for a template that names other
//! attributes are the candidates opened, one by one as the caller asks for them.

use std::vec;

use cryptoki_sys as ck;
use zeroize::Zeroizing;

use super::builtin::is_hidden_class;
use super::handle::Handles;
use super::login::Credentials;
use super::managed::ALIAS;
use super::objects::open_view;
use super::token::Token;
use super::{Module, ObjectHandle, SessionHandle};
use crate::error::{ErrorKind, Result};
use crate::hsm::{AttributeType, Command, HIDDEN_CLASSES, IndexColumn, ObjectId, Raw, Reply, Template, Value, View};
use crate::store::{Filter, Found};

/// Token objects read from the store at a time.
const PAGE: usize = 256;

/// A search between C_FindObjectsInit and C_FindObjectsFinal.
pub(super) struct Find {
    /// None: no token object can match, or no more do.
    more_after: Option<u64>,
    filter: Filter,
    /// The columns of CKA_ID of the key that an alias in the template names: searched for next.
    named: Option<Vec<Vec<u8>>>,
    /// The labels that were searched for before, while the search is at the key of an alias.
    through_alias: Option<Vec<Vec<u8>>>,
    page: vec::IntoIter<Found>,
    /// Session objects and built-in ones.
    others: vec::IntoIter<ObjectHandle>,
    /// What the filter does not answer.
    rest: Vec<(AttributeType, Wanted)>,
}

enum Candidate {
    Token(ObjectId),
    Other(ObjectHandle),
}

impl Find {
    fn begin(token: &Token, handles: &Handles, login: &Credentials, template: &Template<'_>) -> Result<Self> {
        let query = Query::parse(token, login, template)?;
        let mut find = Self {
            more_after: None,
            filter: query.filter,
            named: query.named,
            through_alias: None,
            page: Vec::new().into_iter(),
            others: Vec::new().into_iter(),
            rest: query.rest,
        };
        if query.impossible {
            return Ok(find);
        }
        if find.filter.class.is_some_and(is_hidden_class) {
            let all = Wanted::of_template(template);
            let built_in = token.objects.built_in(handles).iter();
            let matching = built_in.filter(|object| object.view(token, login).is_ok_and(|view| matches(view, &all)));
            find.others = matching.map(|object| object.handle).collect::<Vec<_>>().into_iter();
            return Ok(find);
        }
        if query.token != Some(true) {
            find.others = token.objects.session_objects(&find.filter).into_iter();
        }
        if query.token != Some(false) {
            find.more_after = Some(0);
            find.turn_page(token)?;
        }
        Ok(find)
    }

    /// Whether a logout has to end it.
    pub(super) fn sees_private(&self) -> bool {
        self.filter.private != Some(false)
    }

    fn turn_page(&mut self, token: &Token) -> Result<()> {
        let after = match self.more_after {
            Some(after) => after,
            None => {
                let Some(ids) = self.named.take() else { return Ok(()) };
                self.through_alias = self.filter.labels.take();
                self.filter.ids = Some(ids);
                0
            }
        };
        let found = token.store.find(&self.filter, after, PAGE)?;
        self.more_after = if found.len() < PAGE { None } else { found.last().map(|last| last.row) };
        self.page = found.into_iter();
        Ok(())
    }

    fn next(&mut self, token: &Token) -> Result<Option<Candidate>> {
        while self.page.len() == 0 && (self.more_after.is_some() || self.named.is_some()) {
            self.turn_page(token)?;
        }
        Ok(match self.page.next() {
            Some(found) => Some(Candidate::Token(found.object)),
            None => self.others.next().map(Candidate::Other),
        })
    }

    fn fill(
        &mut self,
        token: &Token,
        handles: &Handles,
        login: &Credentials,
        found: &mut [ObjectHandle],
    ) -> Result<usize> {
        let mut count = 0;
        while let Some(place) = found.get_mut(count) {
            let Some(candidate) = self.next(token)? else { break };
            if let Some(handle) = self.judge(token, handles, login, &candidate)? {
                *place = handle;
                count += 1;
            }
        }
        Ok(count)
    }

    /// The handle of a candidate that matches.
    fn judge(
        &self,
        token: &Token,
        handles: &Handles,
        login: &Credentials,
        candidate: &Candidate,
    ) -> Result<Option<ObjectHandle>> {
        match candidate {
            Candidate::Token(id) => {
                if !self.rest.is_empty() || self.through_alias.is_some() {
                    let Some(record) = token.store.get(id)? else { return Ok(None) };
                    if let Some(labels) = &self.through_alias {
                        let found_before = record.columns.label.as_ref().is_some_and(|label| labels.contains(label));
                        if found_before || !record.columns.managed {
                            return Ok(None);
                        }
                    }
                    match open_view(token, login, &record) {
                        Ok(view) if matches(&view, &self.rest) => {}
                        Ok(_) => return Ok(None),
                        // A record that does not open is no reason to hide the others.
                        Err(error) => {
                            tracing::warn!(%error, "an object was left out of a search");
                            return Ok(None);
                        }
                    }
                }
                token.handle_of(handles, login, id, !self.sees_private()).map(Some)
            }
            Candidate::Other(handle) => {
                let Ok(object) = token.object(login, *handle) else { return Ok(None) };
                let matching = self.rest.is_empty() || matches(object.view(token, login)?, &self.rest);
                Ok(matching.then_some(*handle))
            }
        }
    }
}

/// A template, taken apart.
#[derive(Default)]
struct Query {
    /// CKA_TOKEN.
    token: Option<bool>,
    filter: Filter,
    /// As in [`Find`].
    named: Option<Vec<Vec<u8>>>,
    rest: Vec<(AttributeType, Wanted)>,
    /// The template contradicts itself, or what the login shows.
    impossible: bool,
}

impl Query {
    /// CKR_ATTRIBUTE_VALUE_INVALID for a class or boolean of a wrong length.
    fn parse(token: &Token, login: &Credentials, template: &Template<'_>) -> Result<Self> {
        let mut query = Self::default();
        let mut alias = None;
        let class = match template.get(ck::CKA_CLASS) {
            Some(raw) => Some(ulong(raw)?),
            None => None,
        };
        let is_key =
            class.is_some_and(|class| [ck::CKO_SECRET_KEY, ck::CKO_PRIVATE_KEY, ck::CKO_PUBLIC_KEY].contains(&class));
        let is_certificate = class == Some(ck::CKO_CERTIFICATE);
        for (kind, raw) in &template.0 {
            let answered = match (*kind, raw) {
                (ck::CKA_CLASS, raw) => {
                    let class = ulong(raw)?;
                    query.impossible |= HIDDEN_CLASSES.contains(&class);
                    query.want(|query| &mut query.filter.class, class)
                }
                (ck::CKA_TOKEN, raw) => query.want(|query| &mut query.token, boolean(raw)?),
                (ck::CKA_PRIVATE, raw) => query.want(|query| &mut query.filter.private, boolean(raw)?),
                (ck::CKA_KEY_TYPE, raw) => query.want(|query| &mut query.filter.key_type, ulong(raw)?) && is_key,
                (ck::CKA_CERTIFICATE_TYPE, raw) => {
                    query.want(|query| &mut query.filter.key_type, ulong(raw)?) && is_certificate
                }
                // An object without a label has an empty one: that is not a matter of columns.
                (ck::CKA_LABEL, Raw::Bytes(value)) if !value.is_empty() => {
                    alias = std::str::from_utf8(value).ok().filter(|label| label.starts_with(ALIAS));
                    let values = column_values(token, login, IndexColumn::Label, value)?;
                    query.want(|query| &mut query.filter.labels, values)
                }
                (ck::CKA_ID, Raw::Bytes(value)) if !value.is_empty() => {
                    let values = column_values(token, login, IndexColumn::Id, value)?;
                    query.want(|query| &mut query.filter.ids, values)
                }
                (ck::CKA_UNIQUE_ID, Raw::Bytes(value)) => match object_id(value) {
                    Some(object) => query.want(|query| &mut query.filter.object, object),
                    None => false,
                },
                _ => false,
            };
            if !answered {
                query.rest.push((*kind, Wanted::of(raw)));
            }
        }
        if !login.sees_private() {
            query.want(|query| &mut query.filter.private, false);
        } else if let Some(alias) = alias {
            query.named = key_of_alias(token, login, alias)?.filter(|ids| {
                // The key has one id, which the template may give, too.
                query.filter.ids.as_ref().is_none_or(|wanted| wanted == ids)
            });
        }
        Ok(query)
    }

    /// Sets a condition. A second, different one makes the query impossible.
    fn want<T: PartialEq>(&mut self, condition: impl Fn(&mut Self) -> &mut Option<T>, value: T) -> bool {
        match condition(self) {
            Some(other) if *other != value => self.impossible = true,
            condition => *condition = Some(value),
        }
        true
    }
}

/// The forms of the id of the key that an alias names. One that does not open is no reason to find
/// nothing else.
fn key_of_alias(token: &Token, login: &Credentials, alias: &str) -> Result<Option<Vec<Vec<u8>>>> {
    match token.alias(login, alias) {
        Ok(Some(found)) => column_values(token, login, IndexColumn::Id, found.key_id.as_bytes()).map(Some),
        Ok(None) => Ok(None),
        Err(error) => {
            tracing::warn!(%error, "an alias was left out of a search");
            Ok(None)
        }
    }
}

/// The forms that a label or id may have in the index: as it is for public objects, and hashed for
/// private ones.
pub(super) fn column_values(
    token: &Token,
    login: &Credentials,
    column: IndexColumn,
    value: &[u8],
) -> Result<Vec<Vec<u8>>> {
    let mut values = vec![value.to_vec()];
    if login.holder.is_some() {
        match token.channel.call(&login.ticket, Command::IndexTag { column, value }) {
            Ok(Reply::Bytes(tag)) => values.push(tag),
            // The login has just ended: private objects are not found any more.
            Err(error) if error.kind() == ErrorKind::UserNotLoggedIn => {}
            Err(error) => return Err(error),
            Ok(_) => return Err(ErrorKind::GeneralError.with("the HSM answered an index tag with something else")),
        }
    }
    Ok(values)
}

fn ulong(raw: &Raw<'_>) -> Result<u64> {
    match raw {
        Raw::Bytes(bytes) => (*bytes).try_into().map(ck::CK_ULONG::from_ne_bytes).ok(),
        Raw::Template(_) => None,
    }
    .ok_or_else(|| ErrorKind::AttributeValueInvalid.into())
}

fn boolean(raw: &Raw<'_>) -> Result<bool> {
    match raw {
        Raw::Bytes([byte]) => Ok(*byte != ck::CK_FALSE),
        _ => Err(ErrorKind::AttributeValueInvalid.into()),
    }
}

/// CKA_UNIQUE_ID: the object id in lower-case hexadecimal.
fn object_id(hex: &[u8]) -> Option<ObjectId> {
    let mut id = ObjectId::default();
    if hex.len() != 2 * id.len() {
        return None;
    }
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    for (byte, pair) in id.iter_mut().zip(hex.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(id)
}

/// A value to compare with; kept beyond the call, and may be what the caller thinks is a key.
enum Wanted {
    Bytes(Zeroizing<Vec<u8>>),
    Template(Vec<(AttributeType, Self)>),
}

impl Wanted {
    fn of(raw: &Raw<'_>) -> Self {
        match raw {
            Raw::Bytes(bytes) => Self::Bytes(Zeroizing::new(bytes.to_vec())),
            Raw::Template(template) => Self::Template(Self::of_template(template)),
        }
    }

    fn of_template(template: &Template<'_>) -> Vec<(AttributeType, Self)> {
        template.0.iter().map(|(kind, raw)| (*kind, Self::of(raw))).collect()
    }

    fn equals(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::Bytes(wanted), Value::Bool(value)) => {
                matches!(wanted[..], [byte] if (byte != ck::CK_FALSE) == *value)
            }
            (Self::Bytes(wanted), Value::Ulong(value)) => wanted[..] == native(*value),
            (Self::Bytes(wanted), Value::Bytes(value)) => wanted[..] == value[..],
            (Self::Bytes(wanted), Value::Mechanisms(values)) => {
                wanted[..] == values.iter().flat_map(|value| native(*value)).collect::<Vec<_>>()[..]
            }
            (Self::Template(wanted), Value::Template(values)) => {
                wanted.len() == values.len()
                    && wanted.iter().all(|(kind, wanted)| values.get(*kind).is_some_and(|value| wanted.equals(value)))
            }
            _ => false,
        }
    }
}

/// The bytes of a `CK_ULONG`.
fn native(value: u64) -> [u8; size_of::<ck::CK_ULONG>()] {
    value.to_ne_bytes()
}

/// Whether an object has all the attributes with these values. Secret ones are not among those
/// that a view has, so that a search is no way to try values of a key.
fn matches(view: &View, wanted: &[(AttributeType, Wanted)]) -> bool {
    wanted.iter().all(|(kind, wanted)| view.attributes.get(*kind).is_some_and(|value| wanted.equals(value)))
}

impl Module {
    pub fn find_init(&self, session: SessionHandle, template: &Template<'_>) -> Result<()> {
        let session = self.session(session)?;
        let mut state = session.enter()?;
        if state.find.is_some() {
            return Err(ErrorKind::OperationActive.into());
        }
        state.find = Some(Find::begin(&session.token, &self.handles, &state.credentials, template)?);
        Ok(())
    }

    /// Fills `found` from its start; answers how many.
    pub fn find(&self, session: SessionHandle, found: &mut [ObjectHandle]) -> Result<usize> {
        let session = self.session(session)?;
        let mut guard = session.enter()?;
        let state = &mut *guard;
        let find = state.find.as_mut().ok_or(ErrorKind::OperationNotInitialized)?;
        find.fill(&session.token, &self.handles, &state.credentials, found)
    }

    pub fn find_final(&self, session: SessionHandle) -> Result<()> {
        let session = self.session(session)?;
        let mut state = session.enter()?;
        state.find.take().map(drop).ok_or_else(|| ErrorKind::OperationNotInitialized.into())
    }
}
