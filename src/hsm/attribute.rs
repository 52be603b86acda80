//! The attribute rules of PKCS#11 3.2 §4 as one table: who has which attribute, and the footnotes
//! of the standard's tables as flags. Create, generate, unwrap, derive, copy and set all read it.

use std::sync::LazyLock;

use cryptoki_sys as ck;

use super::value::AttributeType;

/// The form of an attribute's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Bool,
    Ulong,
    Bytes,
    /// Unsigned big-endian integer.
    BigInt,
    /// RFC 2279 (UTF-8) string.
    Text,
    /// Empty, or `CK_DATE`: YYYYMMDD in ASCII digits.
    Date,
    Mechanisms,
    Template,
}

/// Object classes as a set.
pub(super) type Classes = u16;
pub(super) const DATA: Classes = 1;
pub(super) const CERTIFICATE: Classes = 2;
pub(super) const PUBLIC: Classes = 4;
pub(super) const PRIVATE: Classes = 8;
pub(super) const SECRET: Classes = 16;
const KEYS: Classes = PUBLIC | PRIVATE | SECRET;
const ALL: Classes = DATA | CERTIFICATE | KEYS;

/// The bit of a class, if objects of it can be stored.
pub(super) fn class_bit(class: ck::CK_OBJECT_CLASS) -> Option<Classes> {
    match class {
        ck::CKO_DATA => Some(DATA),
        ck::CKO_CERTIFICATE => Some(CERTIFICATE),
        ck::CKO_PUBLIC_KEY => Some(PUBLIC),
        ck::CKO_PRIVATE_KEY => Some(PRIVATE),
        ck::CKO_SECRET_KEY => Some(SECRET),
        _ => None,
    }
}

/// Footnotes, numbered as in §4.2 table 13.
pub(super) type Notes = u16;
/// 1: must be given to C_CreateObject.
pub(super) const CREATE_MUST: Notes = 1;
/// 2: must not be given to C_CreateObject.
pub(super) const CREATE_NOT: Notes = 1 << 1;
/// 3: must be given to C_GenerateKey(Pair).
pub(super) const GENERATE_MUST: Notes = 1 << 2;
/// 4: must not be given to C_GenerateKey(Pair), nor to a derivation.
pub(super) const GENERATE_NOT: Notes = 1 << 3;
/// 6: must not be given to C_UnwrapKey.
pub(super) const UNWRAP_NOT: Notes = 1 << 4;
/// 7: key material; not revealed of a sensitive or unextractable key.
pub(super) const MATERIAL: Notes = 1 << 5;
/// 8: may be changed by C_SetAttributeValue and by C_CopyObject.
pub(super) const MODIFY: Notes = 1 << 6;
/// Only C_CopyObject may change it.
pub(super) const COPY: Notes = 1 << 7;
/// 10: only the SO may set it to true.
pub(super) const SO_TRUE: Notes = 1 << 8;
/// 11: cannot be changed once true.
pub(super) const STAYS_TRUE: Notes = 1 << 9;
/// 12: cannot be changed once false.
pub(super) const STAYS_FALSE: Notes = 1 << 10;
/// Set by the HSM alone.
pub(super) const HSM_ONLY: Notes = CREATE_NOT | GENERATE_NOT | UNWRAP_NOT;
/// Given by the material: neither a generation nor an unwrap takes it.
const VALUE: Notes = GENERATE_NOT | UNWRAP_NOT;

/// The value an object gets if the template leaves the attribute out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// The object then has no such attribute.
    Absent,
    Bool(bool),
    Ulong(u64),
    /// Empty bytes, text or date.
    Empty,
    /// A usage flag: true if the key's type can do it, within the separation rule.
    Usage,
}

/// One attribute of one kind of object.
#[derive(Clone, Copy)]
pub(super) struct Rule {
    pub(super) kind: AttributeType,
    pub(super) form: Form,
    pub(super) classes: Classes,
    /// Key types (or certificate types) that have it; empty for all.
    pub(super) types: &'static [u64],
    pub(super) notes: Notes,
    pub(super) default: Missing,
}

impl Rule {
    pub(super) fn has(&self, notes: Notes) -> bool {
        self.notes & notes != 0
    }
}

const fn rule(kind: AttributeType, form: Form, classes: Classes, notes: Notes, default: Missing) -> Rule {
    Rule { kind, form, classes, types: &[], notes, default }
}

const fn typed(kind: AttributeType, form: Form, classes: Classes, types: &'static [u64], notes: Notes) -> Rule {
    Rule { kind, form, classes, types, notes, default: Missing::Absent }
}

const RSA: &[u64] = &[ck::CKK_RSA];
const CURVES: &[u64] = &[ck::CKK_EC, ck::CKK_EC_EDWARDS, ck::CKK_EC_MONTGOMERY];
const X509: &[u64] = &[ck::CKC_X_509];
const X509_ATTRIBUTE: &[u64] = &[ck::CKC_X_509_ATTR_CERT];
const X509_OR_WTLS: &[u64] = &[ck::CKC_X_509, ck::CKC_WTLS];

use Form::{BigInt, Bool, Bytes, Date, Mechanisms, Template, Text, Ulong};
use Missing::{Absent, Empty, Usage};

const TRUE: Missing = Missing::Bool(true);
const FALSE: Missing = Missing::Bool(false);

static RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| {
    let mut rules = vec![
        // Storage objects (§4.4)
        rule(ck::CKA_CLASS, Ulong, ALL, CREATE_MUST, Absent),
        rule(ck::CKA_TOKEN, Bool, ALL, COPY, FALSE),
        rule(ck::CKA_PRIVATE, Bool, DATA | CERTIFICATE | PUBLIC, COPY, FALSE),
        rule(ck::CKA_PRIVATE, Bool, PRIVATE | SECRET, COPY, TRUE),
        rule(ck::CKA_MODIFIABLE, Bool, ALL, COPY, TRUE),
        rule(ck::CKA_LABEL, Text, ALL, MODIFY, Empty),
        rule(ck::CKA_COPYABLE, Bool, ALL, MODIFY | STAYS_FALSE, TRUE),
        rule(ck::CKA_DESTROYABLE, Bool, ALL, MODIFY | STAYS_FALSE, TRUE),
        rule(ck::CKA_UNIQUE_ID, Text, ALL, HSM_ONLY, Absent),
        // Data objects (§4.5)
        rule(ck::CKA_APPLICATION, Text, DATA, MODIFY, Empty),
        rule(ck::CKA_OBJECT_ID, Bytes, DATA, MODIFY, Empty),
        rule(ck::CKA_VALUE, Bytes, DATA, MODIFY, Empty),
        // Certificates (§4.6)
        rule(ck::CKA_CERTIFICATE_TYPE, Ulong, CERTIFICATE, CREATE_MUST, Absent),
        rule(ck::CKA_TRUSTED, Bool, CERTIFICATE, MODIFY | SO_TRUE, FALSE),
        rule(ck::CKA_CERTIFICATE_CATEGORY, Ulong, CERTIFICATE, 0, Missing::Ulong(0)),
        rule(ck::CKA_CHECK_VALUE, Bytes, CERTIFICATE, 0, Absent),
        rule(ck::CKA_START_DATE, Date, CERTIFICATE, 0, Empty),
        rule(ck::CKA_END_DATE, Date, CERTIFICATE, 0, Empty),
        rule(ck::CKA_PUBLIC_KEY_INFO, Bytes, CERTIFICATE, 0, Empty),
        rule(ck::CKA_VALUE, Bytes, CERTIFICATE, 0, Absent),
        rule(ck::CKA_URL, Text, CERTIFICATE, 0, Empty),
        Rule { default: Empty, ..typed(ck::CKA_SUBJECT, Bytes, CERTIFICATE, X509_OR_WTLS, CREATE_MUST) },
        Rule { default: Empty, ..typed(ck::CKA_ID, Bytes, CERTIFICATE, X509, MODIFY) },
        Rule { default: Empty, ..typed(ck::CKA_ISSUER, Bytes, CERTIFICATE, X509_OR_WTLS, MODIFY) },
        Rule { default: Empty, ..typed(ck::CKA_SERIAL_NUMBER, Bytes, CERTIFICATE, X509, MODIFY) },
        Rule { default: Missing::Ulong(0), ..typed(ck::CKA_JAVA_MIDP_SECURITY_DOMAIN, Ulong, CERTIFICATE, X509, 0) },
        Rule { default: Empty, ..typed(ck::CKA_HASH_OF_SUBJECT_PUBLIC_KEY, Bytes, CERTIFICATE, X509_OR_WTLS, 0) },
        Rule { default: Empty, ..typed(ck::CKA_HASH_OF_ISSUER_PUBLIC_KEY, Bytes, CERTIFICATE, X509_OR_WTLS, 0) },
        Rule {
            default: Missing::Ulong(ck::CKM_SHA_1),
            ..typed(ck::CKA_NAME_HASH_ALGORITHM, Ulong, CERTIFICATE, X509_OR_WTLS, 0)
        },
        typed(ck::CKA_OWNER, Bytes, CERTIFICATE, X509_ATTRIBUTE, CREATE_MUST),
        Rule { default: Empty, ..typed(ck::CKA_AC_ISSUER, Bytes, CERTIFICATE, X509_ATTRIBUTE, MODIFY) },
        Rule { default: Empty, ..typed(ck::CKA_SERIAL_NUMBER, Bytes, CERTIFICATE, X509_ATTRIBUTE, MODIFY) },
        Rule { default: Empty, ..typed(ck::CKA_ATTR_TYPES, Bytes, CERTIFICATE, X509_ATTRIBUTE, MODIFY) },
        // Keys (§4.8)
        rule(ck::CKA_KEY_TYPE, Ulong, KEYS, CREATE_MUST, Absent),
        rule(ck::CKA_ID, Bytes, KEYS, MODIFY, Empty),
        rule(ck::CKA_START_DATE, Date, KEYS, MODIFY, Empty),
        rule(ck::CKA_END_DATE, Date, KEYS, MODIFY, Empty),
        rule(ck::CKA_DERIVE, Bool, KEYS, MODIFY, Usage),
        rule(ck::CKA_LOCAL, Bool, KEYS, HSM_ONLY, FALSE),
        rule(ck::CKA_KEY_GEN_MECHANISM, Ulong, KEYS, HSM_ONLY, Missing::Ulong(ck::CK_UNAVAILABLE_INFORMATION)),
        rule(ck::CKA_ALLOWED_MECHANISMS, Mechanisms, KEYS, MODIFY, Absent),
        // Public and private keys (§4.9, §4.10)
        rule(ck::CKA_SUBJECT, Bytes, PUBLIC | PRIVATE, MODIFY, Empty),
        rule(ck::CKA_PUBLIC_KEY_INFO, Bytes, PUBLIC | PRIVATE, UNWRAP_NOT | GENERATE_NOT, Absent),
        rule(ck::CKA_ENCRYPT, Bool, PUBLIC | SECRET, MODIFY, Usage),
        rule(ck::CKA_VERIFY, Bool, PUBLIC | SECRET, MODIFY, Usage),
        rule(ck::CKA_VERIFY_RECOVER, Bool, PUBLIC, MODIFY, Usage),
        rule(ck::CKA_WRAP, Bool, PUBLIC | SECRET, MODIFY, Usage),
        rule(ck::CKA_ENCAPSULATE, Bool, PUBLIC, MODIFY, FALSE),
        rule(ck::CKA_TRUSTED, Bool, PUBLIC | SECRET, MODIFY | SO_TRUE, FALSE),
        rule(ck::CKA_WRAP_TEMPLATE, Template, PUBLIC | SECRET, 0, Absent),
        rule(ck::CKA_DECRYPT, Bool, PRIVATE | SECRET, MODIFY, Usage),
        rule(ck::CKA_SIGN, Bool, PRIVATE | SECRET, MODIFY, Usage),
        rule(ck::CKA_SIGN_RECOVER, Bool, PRIVATE, MODIFY, Usage),
        rule(ck::CKA_UNWRAP, Bool, PRIVATE | SECRET, MODIFY, Usage),
        rule(ck::CKA_DECAPSULATE, Bool, PRIVATE, MODIFY, FALSE),
        rule(ck::CKA_SENSITIVE, Bool, PRIVATE | SECRET, MODIFY | STAYS_TRUE, TRUE),
        rule(ck::CKA_EXTRACTABLE, Bool, PRIVATE | SECRET, MODIFY | STAYS_FALSE, FALSE),
        rule(ck::CKA_ALWAYS_SENSITIVE, Bool, PRIVATE | SECRET, HSM_ONLY, FALSE),
        rule(ck::CKA_NEVER_EXTRACTABLE, Bool, PRIVATE | SECRET, HSM_ONLY, FALSE),
        rule(ck::CKA_WRAP_WITH_TRUSTED, Bool, PRIVATE | SECRET, MODIFY | STAYS_TRUE, FALSE),
        rule(ck::CKA_UNWRAP_TEMPLATE, Template, PRIVATE | SECRET, 0, Absent),
        rule(ck::CKA_DERIVE_TEMPLATE, Template, PRIVATE | SECRET, 0, Absent),
        rule(ck::CKA_ALWAYS_AUTHENTICATE, Bool, PRIVATE, 0, FALSE),
        // RSA (§6.1)
        typed(ck::CKA_MODULUS, BigInt, PUBLIC | PRIVATE, RSA, CREATE_MUST | VALUE),
        typed(ck::CKA_MODULUS_BITS, Ulong, PUBLIC, RSA, CREATE_NOT | GENERATE_MUST),
        typed(ck::CKA_PUBLIC_EXPONENT, BigInt, PUBLIC, RSA, CREATE_MUST),
        typed(ck::CKA_PUBLIC_EXPONENT, BigInt, PRIVATE, RSA, VALUE),
        typed(ck::CKA_PRIVATE_EXPONENT, BigInt, PRIVATE, RSA, CREATE_MUST | VALUE | MATERIAL),
        typed(ck::CKA_PRIME_1, BigInt, PRIVATE, RSA, VALUE | MATERIAL),
        typed(ck::CKA_PRIME_2, BigInt, PRIVATE, RSA, VALUE | MATERIAL),
        typed(ck::CKA_EXPONENT_1, BigInt, PRIVATE, RSA, VALUE | MATERIAL),
        typed(ck::CKA_EXPONENT_2, BigInt, PRIVATE, RSA, VALUE | MATERIAL),
        typed(ck::CKA_COEFFICIENT, BigInt, PRIVATE, RSA, VALUE | MATERIAL),
        // Elliptic curves (§6.3)
        typed(ck::CKA_EC_PARAMS, Bytes, PUBLIC, CURVES, CREATE_MUST | GENERATE_MUST),
        typed(ck::CKA_EC_POINT, Bytes, PUBLIC, CURVES, CREATE_MUST | VALUE),
        typed(ck::CKA_EC_PARAMS, Bytes, PRIVATE, CURVES, CREATE_MUST | VALUE),
        typed(ck::CKA_EC_POINT, Bytes, PRIVATE, CURVES, VALUE),
        typed(ck::CKA_VALUE, BigInt, PRIVATE, CURVES, CREATE_MUST | VALUE | MATERIAL),
        // Secret keys (§4.11). Many clients give CKA_VALUE_LEN where the standard forbids it; it
        // is taken if it is right.
        rule(ck::CKA_VALUE, Bytes, SECRET, CREATE_MUST | VALUE | MATERIAL, Absent),
        rule(ck::CKA_VALUE_LEN, Ulong, SECRET, 0, Absent),
        rule(ck::CKA_CHECK_VALUE, Bytes, SECRET, 0, Absent),
    ];
    rules.extend(super::managed::RULES);
    rules.sort_by_key(|rule| rule.kind);
    rules
});

/// The rule for an attribute of an object of this class and key (or certificate) type.
pub(super) fn find(kind: AttributeType, class: Classes, sub: Option<u64>) -> Option<&'static Rule> {
    let start = RULES.partition_point(|rule| rule.kind < kind);
    RULES[start..].iter().take_while(|rule| rule.kind == kind).find(|rule| applies(rule, class, sub))
}

/// Every attribute that an object of this class and type may have.
pub(super) fn rules_of(class: Classes, sub: Option<u64>) -> impl Iterator<Item = &'static Rule> {
    RULES.iter().filter(move |rule| applies(rule, class, sub))
}

/// The form of an attribute whatever object has it, for templates inside templates.
pub(super) fn form_of(kind: AttributeType) -> Option<Form> {
    let start = RULES.partition_point(|rule| rule.kind < kind);
    RULES.get(start).filter(|rule| rule.kind == kind).map(|rule| rule.form)
}

fn applies(rule: &Rule, class: Classes, sub: Option<u64>) -> bool {
    rule.classes & class != 0 && (rule.types.is_empty() || sub.is_some_and(|sub| rule.types.contains(&sub)))
}

/// What a key of this type can do: the usage attributes that default to true.
pub(super) fn usages_of(class: Classes, key_type: u64) -> &'static [AttributeType] {
    match (class, key_type) {
        (PUBLIC, ck::CKK_RSA) => &[ck::CKA_ENCRYPT, ck::CKA_VERIFY, ck::CKA_VERIFY_RECOVER, ck::CKA_WRAP],
        (PRIVATE, ck::CKK_RSA) => &[ck::CKA_DECRYPT, ck::CKA_SIGN, ck::CKA_SIGN_RECOVER, ck::CKA_UNWRAP],
        (PUBLIC, ck::CKK_EC) => &[ck::CKA_VERIFY, ck::CKA_DERIVE],
        (PRIVATE, ck::CKK_EC) => &[ck::CKA_SIGN, ck::CKA_DERIVE],
        (PUBLIC, ck::CKK_EC_EDWARDS) => &[ck::CKA_VERIFY],
        (PRIVATE, ck::CKK_EC_EDWARDS) => &[ck::CKA_SIGN],
        (PUBLIC | PRIVATE, ck::CKK_EC_MONTGOMERY) => &[ck::CKA_DERIVE],
        (SECRET, ck::CKK_AES) => &[
            ck::CKA_ENCRYPT,
            ck::CKA_DECRYPT,
            ck::CKA_SIGN,
            ck::CKA_VERIFY,
            ck::CKA_WRAP,
            ck::CKA_UNWRAP,
            ck::CKA_DERIVE,
        ],
        (SECRET, _) => &[ck::CKA_SIGN, ck::CKA_VERIFY, ck::CKA_DERIVE],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_has_one_rule_for_each_kind_of_object() {
        for class in [DATA, CERTIFICATE, PUBLIC, PRIVATE, SECRET] {
            let subs: &[u64] = if class == CERTIFICATE {
                &[ck::CKC_X_509, ck::CKC_X_509_ATTR_CERT, ck::CKC_WTLS]
            } else {
                &[ck::CKK_RSA, ck::CKK_EC, ck::CKK_AES]
            };
            for &sub in subs {
                let mut seen: Vec<AttributeType> = rules_of(class, Some(sub)).map(|rule| rule.kind).collect();
                let all = seen.len();
                seen.dedup();
                assert_eq!(seen.len(), all, "class {class} type {sub}");
            }
        }
    }

    #[test]
    fn the_form_of_an_attribute_does_not_depend_on_the_object_where_templates_nest() {
        for rule in RULES.iter().filter(|rule| !rule.has(MATERIAL) && rule.kind != ck::CKA_VALUE) {
            assert_eq!(form_of(rule.kind), Some(rule.form), "{:#x}", rule.kind);
        }
    }
}
