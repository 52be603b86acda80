//! Making managed keys and new versions of their material. The material itself comes from the same
//! code as that of ordinary keys.

use cryptoki_sys as ck;
use sha2::{Digest, Sha256};

use super::attributes::{
    CKA_KMS_CREATED, CKA_KMS_DUAL_CONTROL, CKA_KMS_GRANTS, CKA_KMS_KEY_ID, CKA_KMS_POLICY, CKA_KMS_VERSION, KeyState,
    Origin, Usage,
};
use super::lifecycle::check_description;
use super::metadata::{Imported, KeyId, Managed};
use super::replication::Replication;
use super::spec::{Purpose, Spec};
use super::tags::Tags;
use super::{Answer, Reason};
use crate::error::{ErrorKind, Result};
use crate::hsm::attribute::{self, Missing};
use crate::hsm::command::ObjectId;
use crate::hsm::crypto::SecretBytes;
use crate::hsm::key::{Key, Secrets};
use crate::hsm::params::{Mechanism, MechanismType};
use crate::hsm::value::{AttributeType, Attributes, Raw, Template, Value};
use crate::hsm::{build, draft, mechanism, random, separation};
use crate::text::hex;

/// What a new key is to be.
#[derive(Debug, Clone, Copy)]
pub(in crate::hsm) struct Request<'a> {
    /// Either name of a spec.
    pub(in crate::hsm) spec: &'a str,
    /// None where the spec has one usage only.
    pub(in crate::hsm) usage: Option<Usage>,
    pub(in crate::hsm) origin: Origin,
    pub(in crate::hsm) multi_region: bool,
    /// Of a multi-Region key whose material is imported: the material goes to its replicas.
    pub(in crate::hsm) replicate_imported: bool,
    pub(in crate::hsm) label: &'a str,
    pub(in crate::hsm) description: &'a str,
    pub(in crate::hsm) tags: &'a [(&'a str, &'a str)],
    /// Of a key that could rotate: the standard's mechanisms instead.
    pub(in crate::hsm) standard_mechanisms: bool,
    /// The principal that asks for it.
    pub(in crate::hsm) owner: &'a str,
}

/// A managed key that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) struct Creation {
    pub(in crate::hsm) managed: Managed,
    pub(in crate::hsm) templates: Templates,
}

/// What a program of the standard sees of a managed key: one object, or two with the same managed
/// attributes. They are stored, changed and deleted together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hsm) enum Templates {
    Secret(Attributes),
    Pair { public: Attributes, private: Attributes },
}

/// A managed key with its material.
pub(in crate::hsm) enum Made {
    Secret(Key),
    Pair { public: Key, private: Key },
}

impl Made {
    /// Of the secret key, or of the private half.
    pub(in crate::hsm) fn attributes(&self) -> &Attributes {
        let (Self::Secret(key) | Self::Pair { private: key, .. }) = self;
        &key.attributes
    }

    /// Changes the attributes of both halves alike.
    pub(in crate::hsm) fn edit(&mut self, edit: impl Fn(&mut Attributes)) {
        match self {
            Self::Secret(key) => edit(&mut key.attributes),
            Self::Pair { public, private } => [public, private].into_iter().for_each(|key| edit(&mut key.attributes)),
        }
    }
}

impl Creation {
    /// `random` makes the key id.
    pub(in crate::hsm) fn new(request: &Request<'_>, random: [u8; 16], now: u64) -> Answer<Self> {
        let spec = Spec::named(request.spec).ok_or_else(|| Reason::Arguments.with(Spec::none_such()))?;
        let purpose = match (request.usage, spec.purposes) {
            (Some(usage), _) => spec.purpose(usage).ok_or_else(|| {
                Reason::Arguments.with(format!("keys of the spec {} are not for {}", spec.name, usage.name()))
            })?,
            (None, [only]) => only,
            (None, _) => {
                let usages: Vec<_> = spec.purposes.iter().map(|purpose| purpose.usage.name()).collect();
                let usages = usages.join(" or ");
                return Err(Reason::Arguments.with(format!("keys of the spec {} need a usage: {usages}", spec.name)));
            }
        };
        check_description(request.description)?;
        if request.replicate_imported && !(request.multi_region && request.origin == Origin::External) {
            let why = "only imported material of a multi-Region key is replicated or not: other material always is";
            return Err(Reason::Arguments.with(why));
        }
        let managed = Managed {
            id: KeyId::new(random, request.multi_region),
            usage: purpose.usage,
            spec,
            origin: request.origin,
            owner: request.owner.to_owned(),
            created: now,
            state: KeyState::Enabled,
            description: request.description.to_owned(),
            tags: Tags::default().with(request.tags)?,
            version: 1,
            rotated: None,
            rotation: None,
            deletion: None,
            imported: Imported::default(),
            standard_mechanisms: request.standard_mechanisms && !purpose.versioned.is_empty(),
            replication: request.multi_region.then(|| Replication::fresh(1)),
            replicate_imported: request.replicate_imported,
        };
        let templates = Templates::new(&managed, purpose, request.label.as_bytes());
        Ok(Self { managed, templates })
    }

    /// Of a key that another Region made.
    pub(super) fn of(managed: Managed, label: &[u8]) -> Answer<Self> {
        let purpose = purpose_of(&managed)?;
        let templates = Templates::new(&managed, purpose, label);
        Ok(Self { managed, templates })
    }

    /// The key with material made here.
    pub(in crate::hsm) fn generate(&self) -> Result<Made> {
        self.generate_as(&[])
    }

    /// The same with what a caller's templates add, of a secret key or of both halves.
    /// CKR_TEMPLATE_INCONSISTENT if they contradict what a managed key is.
    pub(in crate::hsm) fn generate_as(&self, given: &[Template<'_>]) -> Result<Made> {
        let mechanism = Mechanism::new(self.managed.spec.generator);
        let row = mechanism::row(mechanism.kind)?;
        let nothing = Template::default();
        let given = |at: usize| given.get(at).unwrap_or(&nothing);
        let finish = |mut key: Key| {
            self.managed.write(&mut key.attributes);
            key
        };
        match &self.templates {
            Templates::Secret(attributes) => {
                let values = draft::encode_values(attributes);
                let template = draft::merge(given(0), attributes, &values)?;
                Ok(Made::Secret(finish(build::generate(row, &mechanism, &template)?)))
            }
            Templates::Pair { public, private } => {
                let values = (draft::encode_values(public), draft::encode_values(private));
                let public = draft::merge(given(0), public, &values.0)?;
                let private = draft::merge(given(1), private, &values.1)?;
                let (public, private) = build::generate_pair(row, &mechanism, &public, &private)?;
                Ok(Made::Pair { public: finish(public), private: finish(private) })
            }
        }
    }

    /// The key that waits for material to be imported: of a pair, the private half; the public half
    /// is made with the material.
    pub(in crate::hsm) fn without_material(&self) -> Key {
        let (Templates::Secret(template) | Templates::Pair { private: template, .. }) = &self.templates;
        let mut attributes = template.clone();
        let class = attributes.ulong(ck::CKA_CLASS).and_then(attribute::class_bit).unwrap_or_default();
        for rule in attribute::rules_of(class, Some(self.managed.spec.key_type)) {
            match rule.default {
                Missing::Bool(b) => attributes.set_default(rule.kind, Value::Bool(b)),
                Missing::Ulong(n) => attributes.set_default(rule.kind, Value::Ulong(n)),
                Missing::Empty => attributes.set_default(rule.kind, Value::Bytes(Vec::new())),
                Missing::Usage | Missing::Absent => {}
            }
        }
        self.managed.write(&mut attributes);
        Key::new(attributes, Secrets::new())
    }
}

impl Templates {
    fn new(managed: &Managed, purpose: &Purpose, label: &[u8]) -> Self {
        let (spec, usage, id) = (managed.spec, purpose.usage, managed.id());
        let allowed = purpose.allowed(managed.standard_mechanisms);
        let common = |class, able: &[(AttributeType, bool)]| -> Attributes {
            let fixed = [
                (ck::CKA_CLASS, Value::Ulong(class)),
                (ck::CKA_KEY_TYPE, Value::Ulong(spec.key_type)),
                (ck::CKA_TOKEN, Value::Bool(true)),
                // Also a public half: what cannot be verified before the login could be in any state.
                (ck::CKA_PRIVATE, Value::Bool(true)),
                (ck::CKA_MODIFIABLE, Value::Bool(true)),
                (ck::CKA_COPYABLE, Value::Bool(false)),
                (ck::CKA_DESTROYABLE, Value::Bool(false)),
                (ck::CKA_LABEL, Value::Bytes(label.to_vec())),
                (ck::CKA_ID, Value::Bytes(id.as_str().as_bytes().to_vec())),
                (ck::CKA_ALLOWED_MECHANISMS, Value::Mechanisms(allowed.clone())),
            ];
            let flags = able.iter().map(|(kind, able)| (*kind, Value::Bool(*able)));
            fixed.into_iter().chain(flags).collect()
        };
        let encrypts = usage == Usage::EncryptDecrypt;
        let signs = usage == Usage::SignVerify;
        let agrees = usage == Usage::KeyAgreement;
        let hidden = [(ck::CKA_SENSITIVE, true), (ck::CKA_EXTRACTABLE, false)];
        if spec.is_symmetric() {
            let macs = usage == Usage::GenerateVerifyMac;
            let flags = [
                (ck::CKA_ENCRYPT, encrypts),
                (ck::CKA_DECRYPT, encrypts),
                (ck::CKA_SIGN, macs),
                (ck::CKA_VERIFY, macs),
                (ck::CKA_WRAP, encrypts),
                (ck::CKA_UNWRAP, encrypts),
                (ck::CKA_DERIVE, false),
            ];
            let mut secret = common(ck::CKO_SECRET_KEY, &[&flags[..], &hidden].concat());
            spec.parametrize(&mut secret);
            return Self::Secret(secret);
        }
        let mut public = common(
            ck::CKO_PUBLIC_KEY,
            &[
                (ck::CKA_ENCRYPT, encrypts),
                (ck::CKA_VERIFY, signs),
                (ck::CKA_VERIFY_RECOVER, false),
                (ck::CKA_WRAP, false),
                (ck::CKA_ENCAPSULATE, false),
                (ck::CKA_DERIVE, false),
            ],
        );
        spec.parametrize(&mut public);
        let flags = [
            (ck::CKA_DECRYPT, encrypts),
            (ck::CKA_SIGN, signs),
            (ck::CKA_SIGN_RECOVER, false),
            (ck::CKA_UNWRAP, false),
            (ck::CKA_DECAPSULATE, false),
            (ck::CKA_DERIVE, agrees),
        ];
        let private = common(ck::CKO_PRIVATE_KEY, &[&flags[..], &hidden].concat());
        Self::Pair { public, private }
    }

    /// The templates of a key that exists, for its material to be imported with.
    pub(in crate::hsm) fn of(key: &Attributes) -> Answer<Self> {
        let managed = Managed::read(key)?;
        let label = key.bytes(ck::CKA_LABEL).unwrap_or_default();
        Ok(Self::new(&managed, purpose_of(&managed)?, label))
    }
}

fn purpose_of(managed: &Managed) -> Answer<&'static Purpose> {
    managed.spec.purpose(managed.usage).ok_or_else(|| Reason::Damaged.with("a key of another usage"))
}

/// What follows from a key's value.
const OF_THE_VALUE: &[AttributeType] = &[
    ck::CKA_MODULUS,
    ck::CKA_PUBLIC_EXPONENT,
    ck::CKA_EC_PARAMS,
    ck::CKA_EC_POINT,
    ck::CKA_PUBLIC_KEY_INFO,
    ck::CKA_VALUE_LEN,
    ck::CKA_CHECK_VALUE,
];

/// A key of [`Creation::without_material`] with material that was found fit for it: `material` has
/// its public values and its secrets. Of a pair, the public half is made anew each time; it has no
/// CKA_UNIQUE_ID yet.
pub(in crate::hsm) fn with_material(
    waiting: &Key,
    material: Key,
    commitment: &[u8],
    valid_to: Option<u64>,
    now: u64,
) -> Result<Made> {
    let managed = Managed::read(&waiting.attributes)?.import_material(commitment, valid_to, now)?;
    filled(waiting, &managed, material, None)
}

/// A key without material as `managed` says it is with this. `generator` is the mechanism that made the
/// material, inside an HSM that let nobody know it; None for material of anybody's.
pub(super) fn filled(
    waiting: &Key,
    managed: &Managed,
    material: Key,
    generator: Option<MechanismType>,
) -> Result<Made> {
    if material.class() != waiting.class() || !managed.spec.fits(&material.attributes) {
        return Err(Reason::IncorrectKeyMaterial.with("the material does not fit the key's spec").into());
    }
    let class = attribute::class_bit(waiting.class()).unwrap_or_default();
    let mut attributes = waiting.attributes.clone();
    for kind in OF_THE_VALUE {
        if let Some(value) = material.attributes.get(*kind) {
            attributes.set(*kind, value.clone());
        }
    }
    managed.write(&mut attributes);
    let local = |attributes: &mut Attributes| {
        if let Some(generator) = generator {
            attributes.set(ck::CKA_LOCAL, Value::Bool(true));
            attributes.set(ck::CKA_KEY_GEN_MECHANISM, Value::Ulong(generator));
        }
    };
    local(&mut attributes);
    if generator.is_some() {
        for kind in [ck::CKA_ALWAYS_SENSITIVE, ck::CKA_NEVER_EXTRACTABLE] {
            attributes.set(kind, Value::Bool(true));
        }
    }
    let marks = separation::marks_of_new(&attributes, class);
    let Templates::Pair { public, .. } = Templates::of(&attributes)? else {
        return Ok(Made::Secret(Key::from_parts((attributes, material.secrets, marks))));
    };
    let mut template = public;
    template.remove(ck::CKA_MODULUS_BITS);
    for kind in [ck::CKA_MODULUS, ck::CKA_PUBLIC_EXPONENT, ck::CKA_EC_PARAMS, ck::CKA_EC_POINT] {
        if let Some(value) = material.attributes.get(kind) {
            template.set(kind, value.clone());
        }
    }
    let values = draft::encode_values(&template);
    let mut public = build::create(&as_given(&template, &values), false)?;
    managed.write(&mut public.attributes);
    local(&mut public.attributes);
    for kind in [CKA_KMS_POLICY, CKA_KMS_GRANTS, CKA_KMS_DUAL_CONTROL] {
        if let Some(value) = waiting.attributes.get(kind) {
            public.attributes.set(kind, value.clone());
        }
    }
    public.marks = separation::marks_of_public(marks);
    Ok(Made::Pair { public, private: Key::from_parts((attributes, material.secrets, marks)) })
}

/// The key without its material, waiting for it again. `managed` is what it is then.
pub(in crate::hsm) fn without_material(key: &Key, managed: &Managed) -> Key {
    let mut attributes = key.attributes.clone();
    for kind in OF_THE_VALUE.iter().filter(|kind| **kind != ck::CKA_VALUE_LEN) {
        attributes.remove(*kind);
    }
    managed.write(&mut attributes);
    Key::from_parts((attributes, Secrets::new(), key.marks))
}

/// A new version of a symmetric key. With the key comes what has the material of another version, and
/// that version's number, to be stored under [`version_object`]: the version before, or the new one if
/// it is pending.
pub(in crate::hsm) fn rotate(key: &Key, object: &ObjectId, now: u64) -> Result<(Key, (u64, Key))> {
    let managed = Managed::read(&key.attributes)?;
    let rotated = managed.rotate(now)?;
    let Templates::Secret(template) = Templates::of(&key.attributes)? else {
        return Err(ErrorKind::GeneralError.with("a pair does not rotate"));
    };
    let values = draft::encode_values(&template);
    let generator = Mechanism::new(managed.spec.generator);
    let fresh = build::generate(mechanism::row(generator.kind)?, &generator, &as_given(&template, &values))?;
    let mut attributes = key.attributes.clone();
    rotated.write(&mut attributes);
    if rotated.is_pending() {
        let version = rotated.newest();
        let pending = version_key(&rotated, object, version, now, &fresh)?;
        return Ok((Key::from_parts((attributes, key.secrets.duplicate()?, key.marks)), (version, pending)));
    }
    set_check_value(&mut attributes, &fresh);
    let new = Key::from_parts((attributes, fresh.secrets, key.marks));
    Ok((new, (managed.version, retired(key, &managed, object)?)))
}

/// A key with the material of another version in force, which is `after` then, and the key of what the
/// version before it encrypted.
pub(in crate::hsm) fn activate(key: &Key, object: &ObjectId, version: &Key, after: &Managed) -> Result<(Key, Key)> {
    let before = retired(key, &Managed::read(&key.attributes)?, object)?;
    let mut attributes = key.attributes.clone();
    set_check_value(&mut attributes, version);
    after.write(&mut attributes);
    let mut secrets = Secrets::new();
    secrets.set(ck::CKA_VALUE, SecretBytes::copy_of(version.secret(ck::CKA_VALUE)?)?);
    Ok((Key::from_parts((attributes, secrets, key.marks)), before))
}

fn set_check_value(attributes: &mut Attributes, material: &Key) {
    match material.attributes.get(ck::CKA_CHECK_VALUE) {
        Some(check_value) => attributes.set(ck::CKA_CHECK_VALUE, check_value.clone()),
        None => {
            attributes.remove(ck::CKA_CHECK_VALUE);
        }
    }
}

/// The material of the version in force.
fn retired(key: &Key, managed: &Managed, object: &ObjectId) -> Result<Key> {
    version_key(managed, object, managed.version, managed.rotated.unwrap_or(managed.created), key)
}

/// The material of a version that is not the one in force, to be stored under [`version_object`]. No
/// function of the standard works with it, and a search by label or id does not find it.
pub(in crate::hsm) fn version_key(
    managed: &Managed,
    object: &ObjectId,
    version: u64,
    created: u64,
    material: &Key,
) -> Result<Key> {
    let text = |text: &str| Value::Bytes(text.as_bytes().to_vec());
    let mut attributes: Attributes = [
        (ck::CKA_CLASS, Value::Ulong(super::CKO_KMS_KEY_VERSION)),
        (ck::CKA_KEY_TYPE, Value::Ulong(managed.spec.key_type)),
        (ck::CKA_TOKEN, Value::Bool(true)),
        (ck::CKA_PRIVATE, Value::Bool(true)),
        (ck::CKA_SENSITIVE, Value::Bool(true)),
        (ck::CKA_EXTRACTABLE, Value::Bool(false)),
        (ck::CKA_MODIFIABLE, Value::Bool(false)),
        (ck::CKA_COPYABLE, Value::Bool(false)),
        (ck::CKA_DESTROYABLE, Value::Bool(false)),
        (ck::CKA_UNIQUE_ID, text(&hex(&version_object(object, version)))),
        (CKA_KMS_KEY_ID, text(managed.id.as_str())),
        (CKA_KMS_VERSION, Value::Ulong(version)),
        (CKA_KMS_CREATED, Value::Ulong(created)),
    ]
    .into_iter()
    .collect();
    set_check_value(&mut attributes, material);
    let mut secrets = Secrets::new();
    secrets.set(ck::CKA_VALUE, SecretBytes::copy_of(material.secret(ck::CKA_VALUE)?)?);
    Ok(Key::new(attributes, secrets))
}

/// The object id of an older version's record, of the key's object id.
pub fn version_object(object: &ObjectId, version: u64) -> ObjectId {
    let digest = Sha256::new().chain_update(b"version").chain_update(object).chain_update(version.to_be_bytes());
    let mut id = ObjectId::default();
    id.copy_from_slice(&digest.finalize()[..16]);
    derived(id)
}

/// Of an object id that others can compute. No object that a Region gives a name to has such a one, so
/// none can take its place.
pub(in crate::hsm) fn derived(mut id: ObjectId) -> ObjectId {
    id[0] |= DERIVED;
    id
}

pub(in crate::hsm) fn is_derived(id: &ObjectId) -> bool {
    id[0] & DERIVED != 0
}

/// A new object id.
pub(in crate::hsm) fn new_object() -> Result<ObjectId> {
    let mut id: ObjectId = random::array()?;
    id[0] &= !DERIVED;
    Ok(id)
}

/// The bit that tells the ids that are computed from those that are chosen.
const DERIVED: u8 = 0x80;

/// A template as a caller would have given it, over the encoded values.
pub(in crate::hsm) fn as_given<'a>(attributes: &Attributes, values: &'a [Vec<u8>]) -> Template<'a> {
    Template(attributes.iter().zip(values).map(|((kind, _), value)| (kind, Raw::Bytes(value))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hsm::managed::attributes::CKA_KMS_MANAGED;
    use crate::hsm::managed::lifecycle::tests::{NOW, request};
    use crate::hsm::managed::spec::Size;
    use crate::hsm::managed::states::{self, Action};

    fn of_spec(spec: &'static Spec, purpose: &Purpose) -> Creation {
        let request = Request { spec: spec.name, usage: Some(purpose.usage), ..request() };
        Creation::new(&request, [3; 16], NOW).unwrap()
    }

    #[test]
    fn every_spec_makes_keys_that_its_mechanisms_take() {
        for (spec, purpose) in Spec::ALL.iter().flat_map(|spec| spec.purposes.iter().map(move |p| (spec, p))) {
            for kind in purpose.mechanisms {
                let row = mechanism::row(*kind).unwrap();
                assert!(row.key_types.contains(&spec.key_type), "{} {}", spec.name, row.name);
                let able = match purpose.usage {
                    Usage::EncryptDecrypt => row.cipher.is_some(),
                    Usage::SignVerify | Usage::GenerateVerifyMac => row.sign.is_some(),
                    Usage::KeyAgreement => row.derive.is_some(),
                };
                assert!(able, "{} {}", spec.name, row.name);
            }
            if matches!(spec.size, Size::Modulus(3072 | 4096)) {
                continue;
            }
            let creation = of_spec(spec, purpose);
            let keys = match creation.generate().unwrap() {
                Made::Secret(key) => vec![key],
                Made::Pair { public, private } => vec![public, private],
            };
            for key in &keys {
                let has = |kind| key.attributes.flag(kind);
                assert!(has(ck::CKA_PRIVATE) && has(ck::CKA_TOKEN) && has(ck::CKA_LOCAL), "{}", spec.name);
                assert!(!has(ck::CKA_COPYABLE) && !has(ck::CKA_DESTROYABLE), "{}", spec.name);
                let wraps = spec.name == "AES_256";
                assert!(has(ck::CKA_WRAP) == wraps && has(ck::CKA_UNWRAP) == wraps, "{}", spec.name);
                assert_eq!(Managed::read(&key.attributes).as_ref(), Ok(&creation.managed));
                assert!(spec.fits(&key.attributes), "{}", spec.name);
                assert!(states::check(&key.attributes, Action::Describe, NOW).is_ok());
            }
            let hidden = keys.last().unwrap();
            for kind in [ck::CKA_SENSITIVE, ck::CKA_ALWAYS_SENSITIVE, ck::CKA_NEVER_EXTRACTABLE] {
                assert!(hidden.attributes.flag(kind), "{}", spec.name);
            }
            let other = Spec::ALL.iter().filter(|other| *other != spec).find(|other| other.fits(&hidden.attributes));
            assert_eq!(other, None, "{}", spec.name);
        }
    }

    #[test]
    fn what_cannot_be_made() {
        let refused = |request: Request<'_>| Creation::new(&request, [0; 16], NOW).unwrap_err().reason();
        assert_eq!(refused(Request { spec: "AES_512", ..request() }), Reason::Arguments);
        assert_eq!(refused(Request { spec: "", ..request() }), Reason::Arguments);
        assert_eq!(refused(Request { usage: Some(Usage::SignVerify), ..request() }), Reason::Arguments);
        assert_eq!(refused(Request { spec: "RSA_2048", usage: None, ..request() }), Reason::Arguments);
        assert_eq!(refused(Request { description: &"x".repeat(8193), ..request() }), Reason::Arguments);
        assert_eq!(refused(Request { tags: &[("", "x")], ..request() }), Reason::InvalidTag);
    }

    #[test]
    fn a_rotation_keeps_what_was_encrypted_readable() {
        let Made::Secret(first) = of_spec(&Spec::ALL[0], &Spec::ALL[0].purposes[0]).generate().unwrap() else {
            panic!()
        };
        let object = [9; 16];
        let (second, (1, retired)) = rotate(&first, &object, NOW + 5).unwrap() else { panic!() };
        let value = |key: &Key| key.secret(ck::CKA_VALUE).unwrap().to_vec();
        assert_eq!(value(&retired), value(&first));
        assert_ne!(value(&second), value(&first));
        assert_eq!(Managed::read(&second.attributes).unwrap().version(), 2);
        assert_ne!(second.attributes.get(ck::CKA_CHECK_VALUE), first.attributes.get(ck::CKA_CHECK_VALUE));
        assert_eq!(second.marks, first.marks);
        assert!(!retired.attributes.flag(CKA_KMS_MANAGED) && !retired.attributes.flag(ck::CKA_DECRYPT));
        assert_eq!(retired.attributes.ulong(CKA_KMS_VERSION), Some(1));
        let (_, (2, retired)) = rotate(&second, &object, NOW + 9).unwrap() else { panic!() };
        assert_eq!(retired.attributes.ulong(CKA_KMS_CREATED), Some(NOW + 5));
        assert_ne!(version_object(&object, 1), version_object(&object, 2));
    }

    #[test]
    fn a_key_without_material_knows_what_material_it_takes() {
        let request = Request { spec: "ECC_NIST_P256", origin: Origin::External, ..request() };
        let request = Request { usage: Some(Usage::KeyAgreement), ..request };
        let creation = Creation::new(&request, [1; 16], NOW).unwrap();
        let key = creation.without_material();
        assert!(key.secrets.is_empty());
        assert_eq!(Managed::read(&key.attributes).unwrap().state_at(NOW), KeyState::PendingImport);
        assert_eq!(Templates::of(&key.attributes).unwrap(), creation.templates);
    }

    #[test]
    fn imported_material_makes_the_key_that_was_waited_for() {
        for (spec, usage) in [
            ("AES_256", Usage::EncryptDecrypt),
            ("HMAC_384", Usage::GenerateVerifyMac),
            ("RSA_2048", Usage::SignVerify),
            ("ECC_NIST_P521", Usage::KeyAgreement),
            ("ECC_ED25519", Usage::SignVerify),
        ] {
            let request = Request { spec, usage: Some(usage), ..request() };
            let given = |made| match made {
                Made::Secret(key) | Made::Pair { private: key, .. } => key,
            };
            // Material made elsewhere, with attributes of its own.
            let make = |spec| {
                let request = Request { spec, usage: None, label: "another", ..request };
                let usage = Spec::named(spec).unwrap().purposes[0].usage;
                given(
                    Creation::new(&Request { usage: Some(usage), ..request }, [8; 16], NOW)
                        .unwrap()
                        .generate()
                        .unwrap(),
                )
            };
            let external = Request { origin: Origin::External, ..request };
            let waiting = Creation::new(&external, [2; 16], NOW).unwrap().without_material();
            let made = with_material(&waiting, make(spec), b"commitment", None, NOW).unwrap();
            if let Made::Pair { public, private } = &made {
                assert_eq!(Managed::read(&public.attributes), Managed::read(&private.attributes), "{spec}");
                let info = |key: &Key| key.bytes(ck::CKA_PUBLIC_KEY_INFO).unwrap().to_vec();
                assert_eq!(info(public), info(private), "{spec}");
                assert!(!public.attributes.flag(ck::CKA_LOCAL));
            }
            let key = given(made);
            assert!(!key.secrets.is_empty());
            assert!(Managed::read(&key.attributes).unwrap().check(Action::Encrypt, NOW).is_ok(), "{spec}");
            assert_eq!(key.bytes(ck::CKA_LABEL).unwrap(), b"label");
            assert_eq!(key.attributes.get(ck::CKA_ID), waiting.attributes.get(ck::CKA_ID), "{spec}");
            for kind in [ck::CKA_LOCAL, ck::CKA_ALWAYS_SENSITIVE, ck::CKA_EXTRACTABLE, ck::CKA_DESTROYABLE] {
                assert!(!key.attributes.flag(kind), "{spec} {kind:#x}");
            }
            let wrong = make(if spec == "AES_256" { "HMAC_256" } else { "AES_256" });
            let refused = with_material(&waiting, wrong, b"commitment", None, NOW).err().unwrap();
            assert_eq!(refused.kind(), ErrorKind::KmsIncorrectKeyMaterial, "{spec}");
            let refused = with_material(&key, make(spec), b"other", None, NOW).err().unwrap();
            assert_eq!(refused.kind(), ErrorKind::KmsIncorrectKeyMaterial, "{spec}");
        }
    }
}
