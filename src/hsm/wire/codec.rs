//! How a structure of Rust is one of CBOR: a struct is an array of its fields, an enum an array of a
//! number and the variant's fields, an enum without fields the number alone, an Option null or the value.
//!
//! What is decoded borrows from the input, and from a [`Room`] what the input does not hold as it is.

use std::cell::{Cell, OnceCell};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::super::command::{DomainToken, Held, KeyRecords, Log, PinRecord, Place, Record};
use super::super::domain::cbor::{Decoded, Decoder, Encoder, Malformed, Sink};
use super::super::{AuditBatch, AuditOpening};
use super::super::{AuditStore, Mechanism, Template};
use crate::error::{ErrorKind, Result};

/// The most items of all lists in one message.
const MAX_ITEMS: usize = 1 << 18;

/// What crosses a link.
pub(in crate::hsm) trait Wire<'a>: Sized {
    fn put<S: Sink>(&self, e: &mut Encoder<S>);

    fn take(d: &mut Decoder<'a>, room: &'a Room<'a>) -> Decoded<Self>;

    /// Whether it is one of the forms that a link carries.
    fn crosses(&self) -> bool {
        true
    }
}

/// What does not cross a link, and is the receiver's own.
pub(super) trait Local<'a> {
    fn of(room: &'a Room<'a>) -> Self;
}

/// Place for what is decoded from one message. Made before it, and dropped after what was made of it.
pub struct Room<'a> {
    items: Cell<usize>,
    store: &'a dyn AuditStore,
    domain: &'a DomainToken,
    log: Log<'a>,
    records: Pool<Record>,
    pins: Pool<PinRecord>,
    mechanisms: Pool<Mechanism<'a>>,
    templates: Pool<Template<'a>>,
    record_lists: Pool<Vec<Record>>,
    places: Pool<Vec<Place>>,
    strings: Pool<Vec<&'a [u8]>>,
    entries: Pool<Vec<Vec<u8>>>,
    all_held: Pool<Vec<Held<'a>>>,
    some_held: Pool<Vec<Option<Held<'a>>>>,
    wanted: Pool<Vec<(&'a str, Option<Held<'a>>)>>,
}

static NO_DOMAIN: DomainToken = DomainToken { version: 0, bytes: Vec::new() };

/// Stands in where nobody stores audit rows.
struct NoStore;

impl AuditStore for NoStore {
    fn open_audit(&self, _: AuditOpening) -> Result<()> {
        Err(ErrorKind::FunctionNotSupported.into())
    }

    fn append_audit(&self, _: &AuditBatch<'_>) -> Result<()> {
        Err(ErrorKind::FunctionNotSupported.into())
    }
}

impl Default for Room<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a> Room<'a> {
    pub fn new() -> Self {
        Self::with(&NoStore, &NO_DOMAIN, Log::default())
    }

    /// With what the commands are given that need a store of audit rows, or a domain.
    pub fn with(store: &'a dyn AuditStore, domain: &'a DomainToken, log: Log<'a>) -> Self {
        Self {
            items: Cell::new(MAX_ITEMS),
            store,
            domain,
            log,
            records: Pool::default(),
            pins: Pool::default(),
            mechanisms: Pool::default(),
            templates: Pool::default(),
            record_lists: Pool::default(),
            places: Pool::default(),
            strings: Pool::default(),
            entries: Pool::default(),
            all_held: Pool::default(),
            some_held: Pool::default(),
            wanted: Pool::default(),
        }
    }

    /// With a store of audit rows.
    pub fn with_store(store: &'a dyn AuditStore) -> Self {
        Self::with(store, &NO_DOMAIN, Log::default())
    }

    /// To be called before so many items of a list are read.
    pub(super) fn spend(&self, items: usize) -> Decoded<()> {
        self.items.set(self.items.get().checked_sub(items).ok_or(Malformed("too many items"))?);
        Ok(())
    }
}

impl std::fmt::Debug for Room<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Room(..)")
    }
}

/// Values that stay where they are. Each chunk is twice as long as the one before.
struct Pool<T> {
    used: Cell<usize>,
    chunks: [OnceCell<Box<[OnceCell<T>]>>; CHUNKS],
}

/// Enough for [`MAX_ITEMS`].
const CHUNKS: usize = 19;

impl<T> Default for Pool<T> {
    fn default() -> Self {
        Self { used: Cell::new(0), chunks: [const { OnceCell::new() }; CHUNKS] }
    }
}

impl<T> Pool<T> {
    fn keep(&self, value: T) -> Decoded<&T> {
        let number = self.used.get() + 1;
        self.used.set(number);
        let chunk = number.ilog2();
        let full = Malformed("too many items");
        let cells = self.chunks.get(chunk as usize).ok_or(full)?;
        let cells = cells.get_or_init(|| (0..1_usize << chunk).map(|_| OnceCell::new()).collect());
        Ok(cells.get(number - (1 << chunk)).ok_or(full)?.get_or_init(|| value))
    }
}

/// What a [`Room`] has a place for.
pub(super) trait Kept<'a>: Sized + 'a {
    fn keep(self, room: &'a Room<'a>) -> Decoded<&'a Self>;
}

macro_rules! kept {
    ($($field:ident: $ty:ty,)*) => {
        $(impl<'a> Kept<'a> for $ty {
            fn keep(self, room: &'a Room<'a>) -> Decoded<&'a Self> {
                room.$field.keep(self)
            }
        })*
    };
}

kept! {
    records: Record,
    pins: PinRecord,
    mechanisms: Mechanism<'a>,
    templates: Template<'a>,
    record_lists: Vec<Record>,
    places: Vec<Place>,
    strings: Vec<&'a [u8]>,
    entries: Vec<Vec<u8>>,
    all_held: Vec<Held<'a>>,
    some_held: Vec<Option<Held<'a>>>,
    wanted: Vec<(&'a str, Option<Held<'a>>)>,
}

impl<'a> Local<'a> for &'a DomainToken {
    fn of(room: &'a Room<'a>) -> Self {
        room.domain
    }
}

impl<'a> Local<'a> for Log<'a> {
    fn of(room: &'a Room<'a>) -> Self {
        room.log
    }
}

impl<'a> Local<'a> for &'a dyn AuditStore {
    fn of(room: &'a Room<'a>) -> Self {
        room.store
    }
}

impl<'a, T: Wire<'a> + Kept<'a>> Wire<'a> for &'a T {
    fn put<S: Sink>(&self, e: &mut Encoder<S>) {
        T::put(self, e);
    }

    fn take(d: &mut Decoder<'a>, room: &'a Room<'a>) -> Decoded<Self> {
        T::take(d, room)?.keep(room)
    }
}

impl<'a, T: Wire<'a>> Wire<'a> for &'a [T]
where
    Vec<T>: Kept<'a>,
{
    fn put<S: Sink>(&self, e: &mut Encoder<S>) {
        put_list(self, e);
    }

    fn take(d: &mut Decoder<'a>, room: &'a Room<'a>) -> Decoded<Self> {
        Ok(take_list(d, room)?.keep(room)?)
    }
}

impl<'a> Wire<'a> for &'a [u8] {
    fn put<S: Sink>(&self, e: &mut Encoder<S>) {
        e.bytes(self);
    }

    fn take(d: &mut Decoder<'a>, _: &'a Room<'a>) -> Decoded<Self> {
        d.bytes()
    }
}

impl<'a> Wire<'a> for &'a str {
    fn put<S: Sink>(&self, e: &mut Encoder<S>) {
        e.text(self);
    }

    fn take(d: &mut Decoder<'a>, _: &'a Room<'a>) -> Decoded<Self> {
        d.text()
    }
}

impl<'a, T: Wire<'a>> Wire<'a> for Option<T> {
    fn put<S: Sink>(&self, e: &mut Encoder<S>) {
        match self {
            Some(value) => value.put(e),
            None => {
                e.null();
            }
        }
    }

    fn take(d: &mut Decoder<'a>, room: &'a Room<'a>) -> Decoded<Self> {
        d.optional(|d| T::take(d, room))
    }
}

impl<'a, A: Wire<'a>, B: Wire<'a>> Wire<'a> for (A, B) {
    fn put<S: Sink>(&self, e: &mut Encoder<S>) {
        e.array(2);
        self.0.put(e);
        self.1.put(e);
    }

    fn take(d: &mut Decoder<'a>, room: &'a Room<'a>) -> Decoded<Self> {
        d.array_of(2)?;
        Ok((A::take(d, room)?, B::take(d, room)?))
    }
}

pub(super) fn put_list<'a, T: Wire<'a>, S: Sink>(list: &[T], e: &mut Encoder<S>) {
    e.array(list.len());
    for item in list {
        item.put(e);
    }
}

pub(super) fn take_list<'a, T: Wire<'a>>(d: &mut Decoder<'a>, room: &'a Room<'a>) -> Decoded<Vec<T>> {
    let len = d.array()?;
    room.spend(len)?;
    (0..len).map(|_| T::take(d, room)).collect()
}

/// Types with a method each of [`Encoder`] and [`Decoder`].
macro_rules! wire_plain {
    ($($ty:ty: |$value:ident| $write:ident($written:expr), |$d:ident| $read:expr;)*) => {
        $(impl<'a> Wire<'a> for $ty {
            fn put<S: Sink>(&self, e: &mut Encoder<S>) {
                let $value = self;
                e.$write($written);
            }

            fn take($d: &mut Decoder<'a>, _: &'a Room<'a>) -> Decoded<Self> {
                $read
            }
        })*
    };
}

wire_plain! {
    bool: |v| bool(*v), |d| d.bool();
    u64: |v| uint(*v), |d| d.uint();
    u32: |v| uint(u64::from(*v)), |d| d.small();
    usize: |v| uint(*v as u64), |d| d.small();
    String: |v| text(v), |d| d.text().map(str::to_owned);
    Vec<u8>: |v| bytes(v), |d| d.bytes().map(<[u8]>::to_vec);
    Zeroizing<Vec<u8>>: |v| bytes(v), |d| d.bytes().map(|bytes| Zeroizing::new(bytes.to_vec()));
    [u8; 16]: |v| bytes(v), |d| d.fixed();
    [u8; 32]: |v| bytes(v), |d| d.fixed();
    [u8; 48]: |v| bytes(v), |d| d.fixed();
}

macro_rules! wire_lists {
    ($($ty:ty),*) => {
        $(impl<'a> Wire<'a> for Vec<$ty> {
            fn put<S: Sink>(&self, e: &mut Encoder<S>) {
                put_list(self, e);
            }

            fn take(d: &mut Decoder<'a>, room: &'a Room<'a>) -> Decoded<Self> {
                take_list(d, room)
            }
        }

        #[cfg(test)]
        impl<'a> super::tests::Sample<'a> for Vec<$ty> {
            fn sample(s: &mut super::tests::Sampler<'a>) -> Self {
                s.list()
            }
        })*
    };
}
pub(super) use wire_lists;

impl<'a, T: Wire<'a>> Wire<'a> for Arc<T> {
    fn put<S: Sink>(&self, e: &mut Encoder<S>) {
        T::put(self, e);
    }

    fn take(d: &mut Decoder<'a>, room: &'a Room<'a>) -> Decoded<Self> {
        T::take(d, room).map(Self::new)
    }
}

/// A count of tokens.
macro_rules! count {
    () => { 0 };
    ($first:tt $($rest:tt)*) => { 1 + count!($($rest)*) };
}
pub(super) use count;

/// `Struct { field, … }`: an array of the fields.
macro_rules! wire_struct {
    ($($ty:ty { $($field:ident),* $(,)? })*) => {
        $(impl<'a> Wire<'a> for $ty {
            fn put<S: Sink>(&self, e: &mut Encoder<S>) {
                e.array(count!($($field)*));
                $(self.$field.put(e);)*
            }

            fn take(d: &mut Decoder<'a>, room: &'a Room<'a>) -> Decoded<Self> {
                d.array_of(count!($($field)*))?;
                Ok(Self { $($field: Wire::take(d, room)?,)* })
            }
        }

        #[cfg(test)]
        impl<'a> super::tests::Sample<'a> for $ty {
            fn sample(s: &mut super::tests::Sampler<'a>) -> Self {
                Self { $($field: s.make(),)* }
            }
        })*
    };
}
pub(super) use wire_struct;

/// `number = Variant`, `number = Variant(name)`, `number = Variant { field, … ; local, … }`: an array of
/// the number and the fields. Variants after `not` do not cross: in their place is null, which nobody takes.
macro_rules! wire_enum {
    ($ty:ty {
        $($number:literal = $variant:ident $(($($item:ident),*))? $({ $($field:ident),* $(; $($local:ident),*)? })?,)*
    } $(not { $($other:ident),* })?) => {
        impl<'a> Wire<'a> for $ty {
            fn put<S: Sink>(&self, e: &mut Encoder<S>) {
                match self {
                    $(Self::$variant $(($($item),*))? $({ $($field,)* $($($local: _,)*)? })? => {
                        e.array(1 $(+ count!($($item)*))? $(+ count!($($field)*))?).uint($number);
                        $($($item.put(e);)*)?
                        $($($field.put(e);)*)?
                    })*
                    $($(Self::$other { .. } => {
                        e.null();
                    })*)?
                }
            }

            fn take(d: &mut Decoder<'a>, room: &'a Room<'a>) -> Decoded<Self> {
                let items = d.array()?;
                match (d.uint()?, items) {
                    $(($number, len) if len == 1 $(+ count!($($item)*))? $(+ count!($($field)*))? => {
                        Ok(Self::$variant
                            $(($({ let $item = Wire::take(d, room)?; $item }),*))?
                            $({ $($field: Wire::take(d, room)?,)* $($($local: Local::of(room),)*)? })?)
                    })*
                    _ => Err(Malformed(concat!("an unknown form of ", stringify!($ty)))),
                }
            }

            $(fn crosses(&self) -> bool {
                !matches!(self, $(Self::$other { .. })|*)
            })?
        }

        #[cfg(test)]
        impl<'a> super::tests::Sample<'a> for $ty {
            fn sample(s: &mut super::tests::Sampler<'a>) -> Self {
                match s.one_of(&[$($number),*]) {
                    $($number => Self::$variant
                        $(($({ let $item = s.make(); $item }),*))?
                        $({ $($field: s.make(),)* $($($local: Local::of(s.room),)*)? })?,)*
                    _ => unreachable!(),
                }
            }
        }
    };
}
pub(super) use wire_enum;

/// Enums without fields: the number.
macro_rules! wire_codes {
    ($($ty:ty { $($number:literal = $variant:ident),* $(,)? })*) => {
        $(impl<'a> Wire<'a> for $ty {
            fn put<S: Sink>(&self, e: &mut Encoder<S>) {
                e.uint(match self { $(Self::$variant => $number,)* });
            }

            fn take(d: &mut Decoder<'a>, _: &'a Room<'a>) -> Decoded<Self> {
                match d.uint()? {
                    $($number => Ok(Self::$variant),)*
                    _ => Err(Malformed(concat!("an unknown ", stringify!($ty)))),
                }
            }
        }

        #[cfg(test)]
        impl<'a> super::tests::Sample<'a> for $ty {
            fn sample(s: &mut super::tests::Sampler<'a>) -> Self {
                match s.one_of(&[$($number),*]) {
                    $($number => Self::$variant,)*
                    _ => unreachable!(),
                }
            }
        })*
    };
}
pub(super) use wire_codes;

wire_struct! {
    KeyRecords<'a> { key, public }
    Held<'a> { keys, versions }
}
