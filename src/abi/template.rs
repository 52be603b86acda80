//! `CK_ATTRIBUTE[]`: templates read, and the results of C_GetAttributeValue written.

use std::mem::size_of;
use std::ptr;

use cryptoki_sys as ck;

use super::ptr::{Array, Caller};
use crate::cryptoki::{AttributeSource, Readable};
use crate::error::{Error, ErrorKind, Result};
use crate::hsm::{AttributeType, Attributes, Raw, Template, Value};

/// Most attributes in one template, those of nested templates included.
const MAX_ATTRIBUTES: usize = 4096;
/// How deep templates may nest: a wrap template in a wrap template, and some to spare.
const MAX_DEPTH: usize = 4;
/// Longest value that C_GetAttributeValue takes a buffer's length for; more is a leftover
/// CK_UNAVAILABLE_INFORMATION.
const MAX_CAPACITY: ck::CK_ULONG = isize::MAX as ck::CK_ULONG;

/// The caller's template with nothing checked but pointers and lengths.
pub(super) fn read(caller: &Caller, pointer: ck::CK_ATTRIBUTE_PTR, count: ck::CK_ULONG) -> Result<Template<'_>> {
    let attributes = caller.array(pointer, count)?;
    let mut left = MAX_ATTRIBUTES;
    read_array(caller, attributes, MAX_DEPTH, &mut left)
}

/// Attributes whose value is an array of attributes. The KEM templates of 3.2 lack
/// CKF_ARRAY_ATTRIBUTE, and CKA_ALLOWED_MECHANISMS has it.
pub(super) fn is_template(kind: AttributeType) -> bool {
    matches!(
        kind,
        ck::CKA_WRAP_TEMPLATE
            | ck::CKA_UNWRAP_TEMPLATE
            | ck::CKA_DERIVE_TEMPLATE
            | ck::CKA_ENCAPSULATE_TEMPLATE
            | ck::CKA_DECAPSULATE_TEMPLATE
    )
}

fn read_array<'c>(
    caller: &'c Caller,
    attributes: Array<'c, ck::CK_ATTRIBUTE>,
    depth: usize,
    left: &mut usize,
) -> Result<Template<'c>> {
    *left = left
        .checked_sub(attributes.len())
        .ok_or_else(|| ErrorKind::ArgumentsBad.with("the template has too many attributes"))?;
    let mut template = Vec::with_capacity(attributes.len());
    for attribute in attributes.iter() {
        let raw = if is_template(attribute.type_) {
            let nested = nested(caller, &attribute).filter(|_| depth > 0).ok_or_else(|| invalid(&attribute))?;
            Raw::Template(read_array(caller, nested, depth - 1, left)?)
        } else {
            let value = caller.slice(attribute.pValue.cast(), attribute.ulValueLen);
            Raw::Bytes(value.ok_or_else(|| invalid(&attribute))?)
        };
        template.push((attribute.type_, raw));
    }
    Ok(Template(template))
}

fn nested<'c>(caller: &'c Caller, attribute: &ck::CK_ATTRIBUTE) -> Option<Array<'c, ck::CK_ATTRIBUTE>> {
    let size = size_of::<ck::CK_ATTRIBUTE>() as ck::CK_ULONG;
    let whole = attribute.ulValueLen.is_multiple_of(size);
    caller.elements(attribute.pValue.cast(), attribute.ulValueLen / size).filter(|_| whole)
}

fn invalid(attribute: &ck::CK_ATTRIBUTE) -> Error {
    ErrorKind::AttributeValueInvalid.with(format!("attribute {:#x} has a wrong pointer or length", attribute.type_))
}

/// C_GetAttributeValue (PKCS#11 3.2 §5.7.5): every attribute is processed, whatever becomes of the
/// others; what cannot be given gets CK_UNAVAILABLE_INFORMATION for a length.
pub(super) fn write(attributes: &Array<'_, ck::CK_ATTRIBUTE>, source: &dyn AttributeSource) -> Result<()> {
    let mut failure = Failure::None;
    for (at, mut attribute) in attributes.iter().enumerate() {
        let written = match source.read(attribute.type_) {
            Ok(Readable::Value(value)) => write_value(&attribute, value),
            Ok(Readable::Secret(secret)) => write_bytes(&attribute, &secret),
            Err(error) => match error.kind() {
                ErrorKind::AttributeSensitive => Err(Failure::Sensitive),
                ErrorKind::AttributeTypeInvalid => Err(Failure::TypeInvalid),
                _ => return Err(error),
            },
        };
        attribute.ulValueLen = match written {
            Ok(len) => len as ck::CK_ULONG,
            Err(reason) => {
                failure = failure.max(reason);
                ck::CK_UNAVAILABLE_INFORMATION
            }
        };
        attributes.set(at, attribute);
    }
    match failure {
        Failure::None => Ok(()),
        Failure::TooSmall => Err(ErrorKind::BufferTooSmall.into()),
        Failure::TypeInvalid => Err(ErrorKind::AttributeTypeInvalid.into()),
        Failure::Sensitive => Err(ErrorKind::AttributeSensitive.into()),
    }
}

/// Why an attribute could not be given; the greatest decides the return code.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Failure {
    None,
    TooSmall,
    TypeInvalid,
    Sensitive,
}

/// Writes the value if there is a buffer; answers its length.
fn write_value(attribute: &ck::CK_ATTRIBUTE, value: &Value) -> std::result::Result<usize, Failure> {
    match value {
        Value::Bool(flag) => write_bytes(attribute, &[u8::from(*flag)]),
        Value::Ulong(number) => write_bytes(attribute, &ulong(*number).to_ne_bytes()),
        Value::Bytes(bytes) => write_bytes(attribute, bytes),
        Value::Mechanisms(mechanisms) => {
            let size = size_of::<ck::CK_MECHANISM_TYPE>();
            let buffer = room(attribute, mechanisms.len() * size)?;
            if let Some(buffer) = buffer {
                for (at, mechanism) in mechanisms.iter().enumerate() {
                    // SAFETY: `room` says that the caller's buffer holds them all.
                    unsafe { buffer.cast::<ck::CK_MECHANISM_TYPE>().add(at).write_unaligned(ulong(*mechanism)) }
                }
            }
            Ok(mechanisms.len() * size)
        }
        Value::Template(template) => write_template(attribute, template),
    }
}

/// An array of attributes: the caller's elements have buffers of their own, or NULL to ask for a
/// length; their types are ignored and set.
fn write_template(attribute: &ck::CK_ATTRIBUTE, template: &Attributes) -> std::result::Result<usize, Failure> {
    let len = template.len() * size_of::<ck::CK_ATTRIBUTE>();
    let Some(buffer) = room(attribute, len)? else {
        return Ok(len);
    };
    let mut failure = Failure::None;
    for (at, (kind, value)) in template.iter().enumerate() {
        // SAFETY: `room` says that the caller's buffer holds them all.
        let place = unsafe { buffer.cast::<ck::CK_ATTRIBUTE>().add(at) };
        // SAFETY: as above; any bytes make a CK_ATTRIBUTE, and by §5.7.5 the caller filled it in.
        let mut element = unsafe { place.read_unaligned() };
        element.type_ = kind;
        element.ulValueLen = match write_value(&element, value) {
            Ok(len) => len as ck::CK_ULONG,
            Err(reason) => {
                failure = failure.max(reason);
                ck::CK_UNAVAILABLE_INFORMATION
            }
        };
        // SAFETY: as above.
        unsafe { place.write_unaligned(element) }
    }
    if failure == Failure::None { Ok(len) } else { Err(failure) }
}

fn write_bytes(attribute: &ck::CK_ATTRIBUTE, value: &[u8]) -> std::result::Result<usize, Failure> {
    if let Some(buffer) = room(attribute, value.len())? {
        // SAFETY: `room` says that the caller's buffer is long enough; `value` is our own memory.
        unsafe { ptr::copy_nonoverlapping(value.as_ptr(), buffer, value.len()) }
    }
    Ok(value.len())
}

/// The caller's buffer, None if only the length is asked for.
fn room(attribute: &ck::CK_ATTRIBUTE, len: usize) -> std::result::Result<Option<*mut u8>, Failure> {
    if attribute.pValue.is_null() {
        return Ok(None);
    }
    let enough = attribute.ulValueLen <= MAX_CAPACITY && attribute.ulValueLen as usize >= len;
    if enough { Ok(Some(attribute.pValue.cast())) } else { Err(Failure::TooSmall) }
}

/// `u64::MAX` is CK_UNAVAILABLE_INFORMATION, whatever the width of CK_ULONG.
fn ulong(number: u64) -> ck::CK_ULONG {
    ck::CK_ULONG::try_from(number).unwrap_or(ck::CK_UNAVAILABLE_INFORMATION)
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;

    struct Object(Attributes);

    impl AttributeSource for Object {
        fn read(&self, kind: AttributeType) -> Result<Readable<'_>> {
            match kind {
                ck::CKA_PRIVATE_EXPONENT => Err(ErrorKind::AttributeSensitive.into()),
                ck::CKA_VALUE => Ok(Readable::Secret(Zeroizing::new(b"key".to_vec()))),
                _ => self.0.get(kind).map(Readable::Value).ok_or_else(|| ErrorKind::AttributeTypeInvalid.into()),
            }
        }
    }

    fn object() -> Object {
        let template = [(ck::CKA_TOKEN, Value::Bool(true)), (ck::CKA_LABEL, Value::Bytes(b"inner".to_vec()))];
        Object(
            [
                (ck::CKA_CLASS, Value::Ulong(ck::CKO_SECRET_KEY)),
                (ck::CKA_TOKEN, Value::Bool(true)),
                (ck::CKA_ALLOWED_MECHANISMS, Value::Mechanisms(vec![ck::CKM_AES_CBC, ck::CKM_AES_GCM])),
                (ck::CKA_WRAP_TEMPLATE, Value::Template(template.into_iter().collect())),
            ]
            .into_iter()
            .collect(),
        )
    }

    fn caller() -> Caller {
        // SAFETY: the tests pass their own memory.
        unsafe { Caller::new() }
    }

    fn attribute<T>(kind: AttributeType, value: &mut [T]) -> ck::CK_ATTRIBUTE {
        ck::CK_ATTRIBUTE {
            type_: kind,
            pValue: value.as_mut_ptr().cast(),
            ulValueLen: std::mem::size_of_val(value) as ck::CK_ULONG,
        }
    }

    fn null(kind: AttributeType) -> ck::CK_ATTRIBUTE {
        ck::CK_ATTRIBUTE { type_: kind, pValue: ptr::null_mut(), ulValueLen: 1 }
    }

    fn get(attributes: &mut [ck::CK_ATTRIBUTE]) -> ck::CK_RV {
        let caller = caller();
        let array = caller.array(attributes.as_mut_ptr(), attributes.len() as ck::CK_ULONG).unwrap();
        write(&array, &object()).map_or_else(|error| error.kind().rv(), |()| ck::CKR_OK)
    }

    #[test]
    fn all_attributes_are_processed_and_the_gravest_reason_wins() {
        let mut class = [0 as ck::CK_ULONG; 1];
        let mut small = [0u8; 2];
        let mut value = [0u8; 8];
        let mut attributes = [
            null(ck::CKA_TOKEN),
            attribute(ck::CKA_ALLOWED_MECHANISMS, &mut small),
            null(ck::CKA_MODULUS),
            null(ck::CKA_PRIVATE_EXPONENT),
            attribute(ck::CKA_CLASS, &mut class),
            attribute(ck::CKA_VALUE, &mut value),
        ];
        assert_eq!(get(&mut attributes), ck::CKR_ATTRIBUTE_SENSITIVE);
        let none = ck::CK_UNAVAILABLE_INFORMATION;
        assert_eq!(attributes.map(|a| a.ulValueLen), [1, none, none, none, 8, 3]);
        assert_eq!((class[0], &value[..3]), (ck::CKO_SECRET_KEY, &b"key"[..]));
        assert_eq!(get(&mut attributes[..3]), ck::CKR_ATTRIBUTE_TYPE_INVALID);
        // A length left over from a failure is not a capacity.
        assert_eq!(get(&mut attributes[1..2]), ck::CKR_BUFFER_TOO_SMALL);
        assert_eq!(get(&mut attributes[..1]), ck::CKR_OK);
    }

    #[test]
    fn nested_templates_are_filled_in() {
        let mut attributes = [null(ck::CKA_WRAP_TEMPLATE)];
        assert_eq!(get(&mut attributes), ck::CKR_OK);
        assert_eq!(attributes[0].ulValueLen as usize, 2 * size_of::<ck::CK_ATTRIBUTE>());
        let mut label = [0u8; 5];
        let mut elements = [null(0), attribute(0, &mut label[..2])];
        let mut attributes = [attribute(ck::CKA_WRAP_TEMPLATE, &mut elements)];
        assert_eq!(get(&mut attributes), ck::CKR_BUFFER_TOO_SMALL);
        assert_eq!(elements[0].type_, ck::CKA_TOKEN);
        let mut elements = [null(0), attribute(0, &mut label)];
        let mut attributes = [attribute(ck::CKA_WRAP_TEMPLATE, &mut elements)];
        assert_eq!(get(&mut attributes), ck::CKR_OK);
        assert_eq!((elements[0].ulValueLen, elements[1].type_), (1, ck::CKA_LABEL));
        assert_eq!(&label, b"inner");
    }

    #[test]
    fn wrong_templates_are_refused() {
        let caller = caller();
        let read = |attributes: &mut [ck::CK_ATTRIBUTE]| {
            read(&caller, attributes.as_mut_ptr(), attributes.len() as ck::CK_ULONG)
                .map(|template| template.0.len())
                .map_err(|error| error.kind())
        };
        let mut byte = [1u8];
        assert_eq!(read(&mut []), Ok(0));
        assert_eq!(read(&mut [attribute(ck::CKA_TOKEN, &mut byte)]), Ok(1));
        assert_eq!(read(&mut [null(ck::CKA_TOKEN)]), Err(ErrorKind::AttributeValueInvalid));
        let mut huge = attribute(ck::CKA_LABEL, &mut byte);
        huge.ulValueLen = ck::CK_ULONG::MAX;
        assert_eq!(read(&mut [huge]), Err(ErrorKind::AttributeValueInvalid));
        assert_eq!(read(&mut [attribute(ck::CKA_WRAP_TEMPLATE, &mut byte)]), Err(ErrorKind::AttributeValueInvalid));
        let mut recursive = [null(ck::CKA_WRAP_TEMPLATE)];
        recursive[0] = attribute(ck::CKA_WRAP_TEMPLATE, &mut recursive);
        assert_eq!(read(&mut recursive), Err(ErrorKind::AttributeValueInvalid));
        assert_eq!(read(&mut vec![null(0); MAX_ATTRIBUTES + 1]), Err(ErrorKind::ArgumentsBad));
    }
}
