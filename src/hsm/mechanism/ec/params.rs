//! CKA_EC_PARAMS and CKA_EC_POINT: which curve, and the encodings of points.

use cryptoki_sys as ck;
use der::asn1::{BitStringRef, ObjectIdentifier, OctetStringRef, PrintableStringRef};
use der::{Decode, Encode};

use crate::error::{ErrorKind, Result};
use crate::hsm::crypto::aws_lc::ec::Curve;
use crate::hsm::value::{Attributes, Value};

/// Every curve that keys can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::hsm::mechanism) enum AnyCurve {
    Weierstrass(Curve),
    Edwards25519,
    Curve25519,
}

struct Named {
    curve: AnyCurve,
    /// The first is the one that is given out.
    oids: &'static [ObjectIdentifier],
    /// Names that the curveName form may have.
    names: &'static [&'static str],
}

const fn oid(text: &str) -> ObjectIdentifier {
    ObjectIdentifier::new_unwrap(text)
}

static CURVES: &[Named] = &[
    Named {
        curve: AnyCurve::Weierstrass(Curve::P256),
        oids: &[oid("1.2.840.10045.3.1.7")],
        names: &["secp256r1", "prime256v1", "P-256"],
    },
    Named { curve: AnyCurve::Weierstrass(Curve::P384), oids: &[oid("1.3.132.0.34")], names: &["secp384r1", "P-384"] },
    Named { curve: AnyCurve::Weierstrass(Curve::P521), oids: &[oid("1.3.132.0.35")], names: &["secp521r1", "P-521"] },
    Named { curve: AnyCurve::Weierstrass(Curve::Secp256k1), oids: &[oid("1.3.132.0.10")], names: &["secp256k1"] },
    // RFC 8410, and what GnuPG and older tokens use.
    Named {
        curve: AnyCurve::Edwards25519,
        oids: &[oid("1.3.101.112"), oid("1.3.6.1.4.1.11591.15.1")],
        names: &["edwards25519", "Ed25519"],
    },
    Named {
        curve: AnyCurve::Curve25519,
        oids: &[oid("1.3.101.110"), oid("1.3.6.1.4.1.3029.1.5.1")],
        names: &["curve25519", "X25519"],
    },
];

/// The tag of the curveName form.
const PRINTABLE_STRING: u8 = 0x13;

/// What pkcs11-tool (OpenSC 0.23 and earlier) sends for curve25519: a name whose length is one too many.
const OPENSC_CURVE25519: &[u8] = b"\x13\x0bcurve25519";

/// The curve of CKA_EC_PARAMS. CKR_TEMPLATE_INCOMPLETE without it, CKR_CURVE_NOT_SUPPORTED for
/// another curve, CKR_DOMAIN_PARAMS_INVALID for explicit parameters or what is not DER.
pub(in crate::hsm::mechanism) fn curve(attributes: &Attributes) -> Result<AnyCurve> {
    let params =
        attributes.bytes(ck::CKA_EC_PARAMS).ok_or_else(|| ErrorKind::TemplateIncomplete.with("CKA_EC_PARAMS"))?;
    if params == OPENSC_CURVE25519 {
        return Ok(AnyCurve::Curve25519);
    }
    let invalid = |_| ErrorKind::DomainParamsInvalid.with("CKA_EC_PARAMS is neither a curve's OID nor its name");
    let found = if params.first() == Some(&PRINTABLE_STRING) {
        let name = PrintableStringRef::from_der(params).map_err(invalid)?;
        CURVES.iter().find(|named| named.names.iter().any(|known| known.eq_ignore_ascii_case(name.as_str())))
    } else {
        let oid = ObjectIdentifier::from_der(params).map_err(invalid)?;
        CURVES.iter().find(|named| named.oids.contains(&oid))
    };
    found.map(|named| named.curve).ok_or_else(|| ErrorKind::CurveNotSupported.into())
}

/// Sets CKA_EC_PARAMS in the form that is given out, the curve's OID.
pub(in crate::hsm::mechanism) fn set_curve(attributes: &mut Attributes, curve: AnyCurve) -> Result<()> {
    let oid = CURVES.iter().find(|named| named.curve == curve).and_then(|named| named.oids.first());
    let der = oid.and_then(|oid| oid.to_der().ok()).ok_or(ErrorKind::GeneralError)?;
    attributes.set(ck::CKA_EC_PARAMS, Value::Bytes(der));
    Ok(())
}

/// The point inside an OCTET STRING, a BIT STRING, or as it is: `lengths` are those that a point
/// without a wrapping may have, which tells the forms apart.
pub(in crate::hsm::mechanism) fn unwrapped<'a>(encoded: &'a [u8], lengths: &[usize]) -> Option<&'a [u8]> {
    if lengths.contains(&encoded.len()) {
        return Some(encoded);
    }
    let point = match <&OctetStringRef>::from_der(encoded) {
        Ok(octets) => octets.as_bytes(),
        Err(_) => BitStringRef::from_der(encoded).ok()?.as_bytes()?,
    };
    lengths.contains(&point.len()).then_some(point)
}

/// The point of a short Weierstrass curve as its octets, from any encoding of them.
pub(super) fn weierstrass_point(curve: Curve, encoded: &[u8]) -> Option<&[u8]> {
    unwrapped(encoded, &[1 + 2 * curve.len(), 1 + curve.len()])
}

/// DER of an OCTET STRING.
pub(super) fn octet_string(octets: &[u8]) -> Result<Vec<u8>> {
    OctetStringRef::new(octets).and_then(|octets| octets.to_der()).map_err(|_| ErrorKind::GeneralError.into())
}
