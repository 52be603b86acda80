//! Wrapping under a managed key: a key leaves with its attributes and comes back with them
//! (CKM_KMS_WRAP).

use std::sync::Arc;

use cryptoki_sys as ck;

use super::cache::Open;
use super::command::{Place, Record, Reply};
use super::enveloping::material;
use super::managed::envelope::{Blob, Bound, Name, wrapped_len};
use super::managed::{Action, CKA_KMS_KEY_ID, CKA_KMS_VERSION, Context, is_managed, wrapped_key};
use super::objects::check_key;
use super::params::{Mechanism, Params};
use super::permit::Recorded;
use super::value::{AttributeType, Template};
use super::{Access, Hsm, mechanism, separation};
use crate::error::{Error, ErrorKind, Result};
use crate::text::hex;

/// What one call wraps or unwraps with.
struct With<'a> {
    key: Arc<Open>,
    context: Context<'a>,
    associated: &'a [u8],
}

impl With<'_> {
    fn name(&self, version: u64) -> Result<Name<'_>> {
        let id = self.key.key.attributes.bytes(CKA_KMS_KEY_ID).and_then(|id| std::str::from_utf8(id).ok());
        Ok(Name { id: id.ok_or(ErrorKind::DeviceError)?, object: &self.key.record.object, version })
    }

    fn bound(&self) -> Bound<'_> {
        Bound { context: &self.context, associated: self.associated }
    }
}

impl Hsm {
    pub(super) fn wrap_managed(
        &self,
        access: Access,
        mechanism: &Mechanism<'_>,
        (wrapping, key): (&Record, &Record),
        room: usize,
    ) -> Result<Reply> {
        let with = self.wrapper(access, mechanism, wrapping, ErrorKind::WrappingKeyTypeInconsistent)?;
        let wrap = || {
            self.permit_wrap(access, mechanism, &with, (Action::WrapKey, ck::CKA_WRAP))?;
            let key = self.open_with_secrets(access, key)?;
            separation::check_wrap_managed(&with.key.key, &key.key, self.settings.key_separation)?;
            let content = wrapped_key::content(&key.key)?;
            let version = with.key.key.attributes.ulong(CKA_KMS_VERSION).ok_or(ErrorKind::DeviceError)?;
            let len = wrapped_len(version, content.len()).map_err(|_| ErrorKind::KeySizeRange)?;
            if len > room {
                return Ok(Reply::Needed(len));
            }
            let wrapped = material(&with.key.key)?.wrap(with.name(version)?, with.bound(), content.expose())?;
            Ok(Reply::Wrapped { wrapped, iv: None })
        };
        match wrap() {
            Ok(Reply::Needed(len)) => Ok(Reply::Needed(len)),
            outcome => {
                let target = hex(&key.object);
                self.recorded(&recorded(Action::WrapKey, &with, Some(&target)), outcome)
            }
        }
    }

    pub(super) fn unwrap_managed(
        &self,
        access: Access,
        mechanism: &Mechanism<'_>,
        (unwrapping, version): (&Record, Option<&Record>),
        wrapped: &[u8],
        (template, place): (&Template<'_>, Place),
    ) -> Result<Reply> {
        let with = self.wrapper(access, mechanism, unwrapping, ErrorKind::UnwrappingKeyTypeInconsistent)?;
        let unwrap = || {
            self.permit_wrap(access, mechanism, &with, (Action::UnwrapKey, ck::CKA_UNWRAP))?;
            let blob = Blob::parse_wrapped(wrapped).map_err(refused)?;
            let name = (blob.object, blob.version);
            let holder = self.holder_of(access, &with.key, version, name).map_err(refused)?;
            let name = with.name(blob.version)?;
            let content = material(&holder.key)?.unwrap(name, with.bound(), &blob).map_err(refused)?;
            self.new_record(access, wrapped_key::restore(&content, &with.key.key, template)?, place)
        };
        let outcome = unwrap();
        let target = outcome.as_ref().ok().map(|record| hex(&record.object));
        let outcome = self.recorded(&recorded(Action::UnwrapKey, &with, target.as_deref()), outcome);
        outcome.map(|record| Reply::Records(vec![record]))
    }

    fn wrapper<'a>(
        &self,
        access: Access,
        mechanism: &Mechanism<'a>,
        key: &Record,
        wrong_key: ErrorKind,
    ) -> Result<With<'a>> {
        let (context, associated) = match mechanism.params {
            Params::None => (&[][..], &[][..]),
            Params::Context(context) => (context, &[][..]),
            Params::KmsWrap { context, associated } => (context, associated),
            _ => return Err(ErrorKind::MechanismParamInvalid.into()),
        };
        let context = Context::given(context);
        let context = context.map_err(|error| ErrorKind::MechanismParamInvalid.with(error.to_string()))?;
        let key = self.open(access, key)?;
        if !is_managed(&key.key.attributes) {
            return Err(wrong_key.with("CKM_KMS_WRAP is for symmetric managed keys"));
        }
        Ok(With { key, context, associated })
    }

    fn permit_wrap(
        &self,
        access: Access,
        mechanism: &Mechanism<'_>,
        with: &With<'_>,
        (action, usage): (Action, AttributeType),
    ) -> Result<()> {
        let key = &with.key.key;
        self.permit(access, &key.attributes, action, Some(&with.context))
            .map_err(super::managed::Refused::into_standard)?;
        self.require_no_dual_control(&key.attributes)?;
        check_key(mechanism::row(mechanism.kind)?, key, usage, ErrorKind::KeyFunctionNotPermitted)
    }
}

fn recorded<'a>(action: Action, with: &'a With<'_>, target: Option<&'a str>) -> Recorded<'a> {
    let what = Recorded::of(action.named(), &with.key.key.attributes);
    Recorded { target, context: Some(&with.context), ..what }
}

/// What is no wrapped key of this key has one error, whatever the reason.
fn refused(error: Error) -> Error {
    match error.kind() {
        ErrorKind::EncryptedDataInvalid | ErrorKind::KmsInvalidCiphertext | ErrorKind::KmsIncorrectKey => {
            ErrorKind::WrappedKeyInvalid.into()
        }
        _ => error.into_standard(),
    }
}
