//! An operator's keys in any PKCS#11 token, found by class and label.

use std::path::Path;

use conclave::error::{Error, ErrorKind, Result};
use conclave::hsm::governance::OperatorKeys;
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error as TokenError, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::elliptic_curve::{EcKdf, Ecdh1DeriveParams};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use p384::pkcs8::{DecodePublicKey, EncodePublicKey};
use sha2::{Digest, Sha384};
use zeroize::Zeroizing;

use super::{AGREEMENT, file};
use crate::output::Failure;

/// DER of the named curve secp384r1.
const P384: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];
/// An uncompressed point, and the same in an OCTET STRING.
const POINT: usize = 97;
const WRAPPED_POINT: [u8; 2] = [0x04, 0x61];

pub(crate) struct TokenKeys {
    session: Session,
    signing: Pair,
    agreement: Pair,
}

struct Pair {
    private: ObjectHandle,
    /// SubjectPublicKeyInfo.
    public: Vec<u8>,
}

impl TokenKeys {
    /// Finds the two keys, `LABEL` and `LABEL agreement`, in the token with this label, or in the
    /// only one.
    pub(crate) fn open(
        module: &Path,
        token: Option<&str>,
        label: &str,
        pin: &str,
    ) -> std::result::Result<Self, Failure> {
        let session = Login { module, token, pin }.open(false)?;
        let pair = |label: &str| {
            Pair::find(&session, label).map_err(|error| {
                let advice = "`conclave operator keygen --pkcs11` makes them";
                Failure::while_(&format!("cannot use the key {label:?} ({advice})"), &error)
            })
        };
        let (signing, agreement) = (pair(label)?, pair(&format!("{label}{AGREEMENT}"))?);
        Ok(Self { session, signing, agreement })
    }

    /// Makes the two keys in the token; refuses if there are keys of these labels.
    pub(crate) fn generate(
        module: &Path,
        token: Option<&str>,
        label: &str,
        pin: &str,
    ) -> std::result::Result<Self, Failure> {
        let session = Login { module, token, pin }.open(true)?;
        let other = format!("{label}{AGREEMENT}");
        for label in [label, &other] {
            let template = [Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Label(label.into())];
            let found = session.find_objects(&template).map_err(|error| failed("cannot search the token", &error))?;
            if !found.is_empty() {
                return Err(Failure::new(format!("the token has a key {label:?} already: give another label")));
            }
        }
        let pair = |label: &str, signs: bool| {
            Pair::generate(&session, label, signs)
                .map_err(|error| Failure::while_(&format!("cannot make the key {label:?}"), &error))
        };
        let (signing, agreement) = (pair(label, true)?, pair(&other, false)?);
        Ok(Self { session, signing, agreement })
    }
}

impl OperatorKeys for TokenKeys {
    fn signing(&self) -> Result<Vec<u8>> {
        Ok(self.signing.public.clone())
    }

    fn agreement(&self) -> Result<Vec<u8>> {
        Ok(self.agreement.public.clone())
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 96]> {
        // Hashed here: not every token has CKM_ECDSA_SHA384.
        let digest = Sha384::digest(message);
        let signature = self.session.sign(&Mechanism::Ecdsa, self.signing.private, &digest).map_err(device)?;
        signature.try_into().map_err(|_| ErrorKind::SignatureLenRange.with("the token gave no P-384 signature"))
    }

    fn agree(&self, peer: &[u8]) -> Result<Zeroizing<[u8; 48]>> {
        let peer = p384::PublicKey::from_public_key_der(peer)
            .map_err(|_| ErrorKind::PublicKeyInvalid.with("the peer's key is not on the curve P-384"))?;
        let point = peer.to_sec1_bytes();
        let mechanism = Mechanism::Ecdh1Derive(Ecdh1DeriveParams::new(EcKdf::null(), &point));
        let template = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::KeyType(KeyType::GENERIC_SECRET),
            Attribute::Token(false),
            Attribute::Sensitive(false),
            Attribute::Extractable(true),
            Attribute::ValueLen(48.into()),
        ];
        let secret = self.session.derive_key(&mechanism, self.agreement.private, &template).map_err(device)?;
        let value = read(&self.session, secret, AttributeType::Value);
        self.session.destroy_object(secret).map_err(device)?;
        let value = Zeroizing::new(value?.ok_or(ErrorKind::AttributeSensitive)?);
        let shared: [u8; 48] = value.as_slice().try_into().map_err(|_| ErrorKind::FunctionFailed)?;
        Ok(Zeroizing::new(shared))
    }
}

impl Pair {
    fn find(session: &Session, label: &str) -> Result<Self> {
        let one = |class| {
            let template = [Attribute::Class(class), Attribute::KeyType(KeyType::EC), Attribute::Label(label.into())];
            let found = session.find_objects(&template).map_err(device)?;
            match found.as_slice() {
                [one] => Ok(Some(*one)),
                [] => Ok(None),
                _ => Err(ErrorKind::FunctionFailed.with("the token has several keys of this label")),
            }
        };
        let private = one(ObjectClass::PRIVATE_KEY)?
            .ok_or_else(|| ErrorKind::KeyHandleInvalid.with("the token has no private EC key of this label"))?;
        let public = match one(ObjectClass::PUBLIC_KEY)? {
            Some(public) => read(session, public, AttributeType::EcPoint)?,
            None => None,
        };
        let public = match public {
            Some(point) => spki_of_point(&point)?,
            // PKCS#11 3.0 tokens keep it with the private half, too.
            None => read(session, private, AttributeType::PublicKeyInfo)?
                .filter(|info| !info.is_empty())
                .ok_or_else(|| ErrorKind::KeyHandleInvalid.with("the token has no public EC key of this label"))?,
        };
        Ok(Self { private, public })
    }

    fn generate(session: &Session, label: &str, signs: bool) -> Result<Self> {
        let id = file::random()?;
        let named = |private| {
            [
                Attribute::Token(true),
                Attribute::Private(private),
                Attribute::Label(label.into()),
                Attribute::Id(id.to_vec()),
            ]
        };
        let mut public = named(false).to_vec();
        public.extend([Attribute::EcParams(P384.to_vec()), Attribute::Verify(signs), Attribute::Derive(!signs)]);
        let mut private = named(true).to_vec();
        private.extend([
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Sign(signs),
            Attribute::Derive(!signs),
        ]);
        let (public, private) =
            session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private).map_err(device)?;
        let point = read(session, public, AttributeType::EcPoint)?.ok_or(ErrorKind::FunctionFailed)?;
        Ok(Self { private, public: spki_of_point(&point)? })
    }
}

/// Where to log in.
struct Login<'a> {
    module: &'a Path,
    token: Option<&'a str>,
    pin: &'a str,
}

impl Login<'_> {
    fn open(&self, write: bool) -> std::result::Result<Session, Failure> {
        let module = self.module.display();
        let pkcs11 = Pkcs11::new(self.module)
            .map_err(|error| Failure::new(format!("cannot load the PKCS#11 module {module}: {error}")))?;
        match pkcs11.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
            Ok(()) | Err(TokenError::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            Err(error) => return Err(failed(&format!("the module {module} does not start"), &error)),
        }
        let slot = self.slot(&pkcs11)?;
        let session = if write { pkcs11.open_rw_session(slot) } else { pkcs11.open_ro_session(slot) };
        let session = session.map_err(|error| failed("cannot open a session", &error))?;
        let pin = AuthPin::new(self.pin.into());
        session.login(UserType::User, Some(&pin)).map_err(|error| failed("the token's PIN was not taken", &error))?;
        Ok(session)
    }

    fn slot(&self, pkcs11: &Pkcs11) -> std::result::Result<Slot, Failure> {
        let list = || -> cryptoki::error::Result<Vec<(Slot, String)>> {
            let slots = pkcs11.get_slots_with_initialized_token()?;
            slots
                .into_iter()
                .map(|slot| Ok((slot, pkcs11.get_token_info(slot)?.label().trim_end().to_owned())))
                .collect()
        };
        let mut tokens = list().map_err(|error| failed("cannot list the module's tokens", &error))?;
        tokens.retain(|(_, label)| self.token.is_none_or(|wanted| label == wanted));
        match (tokens.as_slice(), self.token) {
            ([(slot, _)], _) => Ok(*slot),
            ([], Some(wanted)) => Err(Failure::not_found(format!("the module has no token {wanted:?}"))),
            ([], None) => Err(Failure::not_found("the module has no initialised token")),
            (several, _) => {
                let labels: Vec<_> = several.iter().map(|(_, label)| format!("{label:?}")).collect();
                Err(Failure::usage(format!("say which token with --token-label: {}", labels.join(", "))))
            }
        }
    }
}

/// None if the object has no such attribute, or does not give it.
fn read(session: &Session, object: ObjectHandle, attribute: AttributeType) -> Result<Option<Vec<u8>>> {
    let read = session.get_attributes(object, &[attribute]).map_err(device)?;
    Ok(read.into_iter().find_map(|attribute| match attribute {
        Attribute::Value(bytes) | Attribute::EcPoint(bytes) | Attribute::PublicKeyInfo(bytes) => Some(bytes),
        _ => None,
    }))
}

/// CKA_EC_POINT is a DER OCTET STRING by the standard, and a bare point in some tokens.
fn spki_of_point(point: &[u8]) -> Result<Vec<u8>> {
    let point = point.strip_prefix(&WRAPPED_POINT).filter(|rest| rest.len() == POINT).unwrap_or(point);
    let key = p384::PublicKey::from_sec1_bytes(point)
        .map_err(|_| ErrorKind::CurveNotSupported.with("an operator's keys are on the curve P-384"))?;
    Ok(key.to_public_key_der().map_err(|_| ErrorKind::GeneralError)?.into_vec())
}

fn device(error: TokenError) -> Error {
    let kind = match &error {
        TokenError::Pkcs11(RvError::PinIncorrect, _) => ErrorKind::PinIncorrect,
        TokenError::Pkcs11(RvError::PinLocked, _) => ErrorKind::PinLocked,
        _ => ErrorKind::FunctionFailed,
    };
    kind.with(format!("the token says: {error}"))
}

/// A failure whose exit status tells a refused PIN.
fn failed(doing: &str, error: &TokenError) -> Failure {
    match error {
        TokenError::Pkcs11(RvError::PinIncorrect | RvError::PinLenRange | RvError::PinInvalid, _) => {
            Failure::pin_refused(format!("{doing}: it is not correct"))
        }
        TokenError::Pkcs11(RvError::PinLocked, _) => Failure::pin_refused(format!("{doing}: it is locked")),
        _ => Failure::new(format!("{doing}: {error}")),
    }
}
