//! A managed key made by C_GenerateKey or C_GenerateKeyPair: CKA_KMS_MANAGED in the template.

use cryptoki_sys as ck;

use super::attributes::{
    self, CKA_KMS_DESCRIPTION, CKA_KMS_MANAGED, CKA_KMS_MULTI_REGION, CKA_KMS_SPEC, CKA_KMS_TAGS, CKA_KMS_USAGE,
    Origin, Usage,
};
use super::creation::{Creation, Request};
use super::spec::{Size, Spec};
use super::tags::Tags;
use crate::error::{Error, ErrorKind, Result};
use crate::hsm::draft;
use crate::hsm::params::MechanismType;
use crate::hsm::value::{AttributeType, Raw, Template};

/// Whether a template asks for a managed key.
pub(in crate::hsm) fn is_managed(templates: &[&Template<'_>]) -> Result<bool> {
    let mut managed = false;
    for template in templates {
        managed |= draft::bool_in(template, CKA_KMS_MANAGED)? == Some(true);
    }
    Ok(managed)
}

/// The key that the templates ask of a generator: one of a secret key, both of a pair; what they say
/// of a managed key may stand in either. Also gives what is left of them, for
/// [`Creation::generate_as`]. `random` makes the key id.
pub(in crate::hsm) fn creation<'a>(
    generator: MechanismType,
    templates: &[&Template<'a>],
    owner: &str,
    random: [u8; 16],
    now: u64,
) -> Result<(Creation, Vec<Template<'a>>)> {
    let asked = Asked { templates };
    asked.check_settable()?;
    let spec = asked.spec(generator)?;
    let usage = match asked.ulong(CKA_KMS_USAGE)? {
        Some(code) => Some(Usage::from_code(code).ok_or_else(|| invalid("no such usage"))?),
        None => asked.usage_of_flags()?,
    };
    let tags = match asked.bytes(CKA_KMS_TAGS)? {
        Some(encoded) => Tags::decode(encoded).map_err(|_| invalid("CKA_KMS_TAGS is no CBOR map of texts"))?,
        None => Tags::default(),
    };
    let rotates = asked.narrows_mechanisms(spec)?;
    let request = Request {
        spec: spec.name,
        usage,
        origin: Origin::Hsm,
        multi_region: asked.flag(CKA_KMS_MULTI_REGION)?,
        replicate_imported: false,
        label: asked.text(ck::CKA_LABEL)?,
        description: asked.text(CKA_KMS_DESCRIPTION)?,
        tags: &tags.iter().collect::<Vec<_>>(),
        standard_mechanisms: !rotates,
        owner,
    };
    let creation = Creation::new(&request, random, now).map_err(|refused| invalid(refused.detail().to_owned()))?;
    // What the list narrows to is what the key has anyway.
    let said = |kind| attributes::is_ours(kind) || (rotates && kind == ck::CKA_ALLOWED_MECHANISMS);
    let rest = templates
        .iter()
        .map(|template| Template(template.0.iter().filter(|(kind, _)| !said(*kind)).cloned().collect()));
    Ok((creation, rest.collect()))
}

struct Asked<'t, 'a> {
    templates: &'t [&'t Template<'a>],
}

impl<'a> Asked<'_, 'a> {
    fn check_settable(&self) -> Result<()> {
        const SETTABLE: &[AttributeType] =
            &[CKA_KMS_MANAGED, CKA_KMS_USAGE, CKA_KMS_SPEC, CKA_KMS_DESCRIPTION, CKA_KMS_TAGS, CKA_KMS_MULTI_REGION];
        let mut given = self.templates.iter().flat_map(|template| &template.0).map(|(kind, _)| *kind);
        match given.find(|kind| attributes::is_ours(*kind) && !SETTABLE.contains(kind)) {
            Some(kind) => Err(ErrorKind::AttributeReadOnly.with(format!("attribute {kind:#x} cannot be given here"))),
            None => Ok(()),
        }
    }

    /// The attribute's value in whichever template has it.
    fn bytes(&self, kind: AttributeType) -> Result<Option<&'a [u8]>> {
        let mut found = None;
        for (_, raw) in self.templates.iter().flat_map(|template| &template.0).filter(|(given, _)| *given == kind) {
            match (raw, found) {
                (Raw::Bytes(bytes), None) => found = Some(*bytes),
                (Raw::Bytes(bytes), Some(other)) if *bytes == other => {}
                (Raw::Bytes(_), _) => {
                    return Err(ErrorKind::TemplateInconsistent.with(format!("attribute {kind:#x} is given twice")));
                }
                (Raw::Template(_), _) => return Err(invalid(format!("attribute {kind:#x} is no template"))),
            }
        }
        Ok(found)
    }

    fn text(&self, kind: AttributeType) -> Result<&'a str> {
        std::str::from_utf8(self.bytes(kind)?.unwrap_or_default())
            .map_err(|_| invalid(format!("attribute {kind:#x} is not UTF-8")))
    }

    fn ulong(&self, kind: AttributeType) -> Result<Option<u64>> {
        match self.bytes(kind)? {
            Some(bytes) => draft::ulong_in(&Template(vec![(kind, Raw::Bytes(bytes))]), kind),
            None => Ok(None),
        }
    }

    fn flag(&self, kind: AttributeType) -> Result<bool> {
        for template in self.templates {
            if draft::bool_in(template, kind)? == Some(true) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn spec(&self, generator: MechanismType) -> Result<&'static Spec> {
        let named = match self.text(CKA_KMS_SPEC)? {
            "" => None,
            name => Some(Spec::named(name).ok_or_else(|| invalid("there is no such key spec"))?),
        };
        let (len, bits) = (self.ulong(ck::CKA_VALUE_LEN)?, self.ulong(ck::CKA_MODULUS_BITS)?);
        let curve = self.bytes(ck::CKA_EC_PARAMS)?;
        let by_name = named.is_some();
        let fits = |spec: &Spec| {
            spec.generator == generator
                && match spec.size {
                    Size::Secret(size) => len.map_or(by_name, |len| len == size),
                    Size::Modulus(size) => bits.map_or(by_name, |bits| bits == size),
                    Size::Curve(params) => curve.map_or(by_name, |curve| curve == params),
                }
        };
        let found = match named {
            Some(spec) => Some(spec).filter(|spec| fits(spec)),
            None => Spec::ALL.iter().find(|spec| fits(spec)),
        };
        found.ok_or_else(|| {
            ErrorKind::TemplateInconsistent
                .with("the mechanism, and the key's length or curve, are those of no spec of managed keys")
        })
    }

    /// Whether CKA_ALLOWED_MECHANISMS lists nothing but mechanisms with which a key rotates. A program
    /// of the standard that does not say so gets the mechanisms of the standard.
    fn narrows_mechanisms(&self, spec: &Spec) -> Result<bool> {
        const SIZE: usize = size_of::<MechanismType>();
        let Some(list) = self.bytes(ck::CKA_ALLOWED_MECHANISMS)? else { return Ok(false) };
        let versioned = |mechanism: &[u8; SIZE]| {
            let mechanism = MechanismType::from_ne_bytes(*mechanism);
            spec.purposes.iter().any(|purpose| purpose.versioned.contains(&mechanism))
        };
        let (list, rest) = list.as_chunks::<SIZE>();
        Ok(!list.is_empty() && rest.is_empty() && list.iter().all(versioned))
    }

    /// The usage that the standard's flags ask for; None if they ask for nothing.
    fn usage_of_flags(&self) -> Result<Option<Usage>> {
        let secret = self.templates.len() == 1;
        let signs = if secret { Usage::GenerateVerifyMac } else { Usage::SignVerify };
        let mut asked = None;
        for (kind, usage) in [
            (ck::CKA_ENCRYPT, Usage::EncryptDecrypt),
            (ck::CKA_DECRYPT, Usage::EncryptDecrypt),
            (ck::CKA_SIGN, signs),
            (ck::CKA_VERIFY, signs),
            (ck::CKA_DERIVE, Usage::KeyAgreement),
        ] {
            if !self.flag(kind)? {
                continue;
            }
            if asked.is_some_and(|other| other != usage) {
                return Err(ErrorKind::TemplateInconsistent.with("a managed key has one usage"));
            }
            asked = Some(usage);
        }
        Ok(asked)
    }
}

fn invalid(why: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    ErrorKind::AttributeValueInvalid.with(why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hsm::managed::creation::Made;
    use crate::hsm::managed::lifecycle::tests::NOW;
    use crate::hsm::managed::metadata::Managed;

    const ON: Raw<'static> = Raw::Bytes(&[1]);

    fn make(generator: MechanismType, templates: &[&Template<'_>]) -> Result<Made> {
        let (creation, rest) = creation(generator, templates, "user", [1; 16], NOW)?;
        creation.generate_as(&rest)
    }

    fn refused(generator: MechanismType, templates: &[&Template<'_>]) -> ErrorKind {
        make(generator, templates).err().unwrap().kind()
    }

    #[test]
    fn a_template_makes_a_managed_key() {
        let len = 32u64.to_ne_bytes();
        let template = Template(vec![
            (CKA_KMS_MANAGED, ON),
            (ck::CKA_VALUE_LEN, Raw::Bytes(&len)),
            (ck::CKA_LABEL, Raw::Bytes(b"invoices")),
            (CKA_KMS_DESCRIPTION, Raw::Bytes(b"of the shop")),
            (CKA_KMS_TAGS, Raw::Bytes(&[0xa1, 0x61, b'a', 0x61, b'b'])),
            (ck::CKA_START_DATE, Raw::Bytes(b"20270101")),
        ]);
        assert!(is_managed(&[&template]).unwrap());
        let Made::Secret(key) = make(ck::CKM_AES_KEY_GEN, &[&template]).unwrap() else { panic!() };
        let described = Managed::read(&key.attributes).unwrap().describe(NOW);
        assert_eq!(described["KeySpec"], "AES_256");
        assert_eq!(described["Description"], "of the shop");
        assert_eq!(described["Tags"][0]["TagValue"], "b");
        assert_eq!(key.attributes.bytes(ck::CKA_LABEL), Some(&b"invoices"[..]));
        assert_eq!(key.attributes.bytes(ck::CKA_START_DATE), Some(&b"20270101"[..]));

        for (kind, value, expected) in [
            (ck::CKA_WRAP, &[0][..], ErrorKind::TemplateInconsistent),
            (ck::CKA_EXTRACTABLE, &[1], ErrorKind::TemplateInconsistent),
            (ck::CKA_DESTROYABLE, &[1], ErrorKind::TemplateInconsistent),
            (ck::CKA_TOKEN, &[0], ErrorKind::TemplateInconsistent),
            (ck::CKA_SIGN, &[1], ErrorKind::AttributeValueInvalid),
            (CKA_KMS_USAGE, &[0; 8], ErrorKind::AttributeValueInvalid),
            (CKA_KMS_SPEC, b"HMAC_256", ErrorKind::TemplateInconsistent),
            (attributes::CKA_KMS_STATE, &[1, 0, 0, 0, 0, 0, 0, 0], ErrorKind::AttributeReadOnly),
        ] {
            let mut template = template.clone();
            template.0.push((kind, Raw::Bytes(value)));
            assert_eq!(refused(ck::CKM_AES_KEY_GEN, &[&template]), expected, "{kind:#x}");
        }
        let short = 16u64.to_ne_bytes();
        let template = Template(vec![(CKA_KMS_MANAGED, ON), (ck::CKA_VALUE_LEN, Raw::Bytes(&short))]);
        assert_eq!(refused(ck::CKM_AES_KEY_GEN, &[&template]), ErrorKind::TemplateInconsistent);
    }

    #[test]
    fn templates_make_a_managed_pair() {
        let params = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
        let public = Template(vec![(CKA_KMS_MANAGED, ON), (ck::CKA_EC_PARAMS, Raw::Bytes(&params))]);
        let agreeing = Template(vec![(ck::CKA_DERIVE, ON)]);
        let made = make(ck::CKM_EC_KEY_PAIR_GEN, &[&public, &agreeing]).unwrap();
        let Made::Pair { public: half, private } = made else { panic!() };
        let managed = Managed::read(&half.attributes).unwrap();
        assert_eq!(Managed::read(&private.attributes), Ok(managed.clone()));
        assert_eq!((managed.spec().name, managed.usage()), ("ECC_NIST_P256", Usage::KeyAgreement));
        assert_eq!(half.attributes.bytes(ck::CKA_ID), Some(managed.id().as_str().as_bytes()));
        let both = Template(vec![(ck::CKA_DERIVE, ON), (ck::CKA_SIGN, ON)]);
        assert_eq!(refused(ck::CKM_EC_KEY_PAIR_GEN, &[&public, &both]), ErrorKind::TemplateInconsistent);
        let neither = Template(Vec::new());
        assert_eq!(refused(ck::CKM_EC_KEY_PAIR_GEN, &[&public, &neither]), ErrorKind::AttributeValueInvalid);
        let kem = Template(vec![(ck::CKA_SIGN, ON), (ck::CKA_DECAPSULATE, ON)]);
        assert_eq!(refused(ck::CKM_EC_KEY_PAIR_GEN, &[&public, &kem]), ErrorKind::TemplateInconsistent);
    }
}
