//! Arbitrary values of everything that crosses a link: the tables make those of structs and enums.

use std::borrow::Cow;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::error::{Error, ErrorKind};
use crate::hsm::wire::codec::{Kept, Room};
use crate::hsm::wire::message::{ReplyHeader, RequestHeader};
use crate::hsm::{Attributes, AuditBatch, Raw, Sealed, Secret, Template, Ticket, Value};

pub(in crate::hsm::wire) trait Sample<'a>: Sized {
    fn sample(s: &mut Sampler<'a>) -> Self;
}

/// Draws from a seed.
pub(in crate::hsm::wire) struct Sampler<'a> {
    state: u64,
    text: &'a str,
    pub(in crate::hsm::wire) room: &'a Room<'a>,
}

/// What a sampler's strings are parts of.
pub(super) fn text(seed: u64) -> String {
    format!("{seed:x} It was the bést of times, it was the worst of times; {seed}")
}

impl<'a> Sampler<'a> {
    pub(super) fn new(seed: u64, text: &'a str, room: &'a Room<'a>) -> Self {
        Self { state: seed, text, room }
    }

    pub(in crate::hsm::wire) fn make<T: Sample<'a>>(&mut self) -> T {
        T::sample(self)
    }

    pub(in crate::hsm::wire) fn one_of(&mut self, choices: &[u64]) -> u64 {
        choices[self.below(choices.len())]
    }

    pub(in crate::hsm::wire) fn list<T: Sample<'a>>(&mut self) -> Vec<T> {
        (0..self.below(4)).map(|_| self.make()).collect()
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }

    fn fill<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| self.next() as u8)
    }

    fn template(&mut self, depth: usize) -> Template<'a> {
        let attributes = (0..self.below(4)).map(|_| {
            let raw = match self.below(3) {
                0 if depth > 0 => Raw::Template(self.template(depth - 1)),
                _ => Raw::Bytes(self.make()),
            };
            (self.make(), raw)
        });
        Template(attributes.collect())
    }

    fn attributes(&mut self, nesting: bool) -> Attributes {
        let attributes = (0..self.below(6)).map(|_| {
            let value = match self.below(5) {
                0 => Value::Bool(self.make()),
                1 => Value::Ulong(self.make()),
                2 => Value::Mechanisms((0..self.below(3)).map(|_| self.make()).collect()),
                3 if nesting => Value::Template(self.attributes(false)),
                _ => Value::Bytes(self.make()),
            };
            (self.make(), value)
        });
        attributes.collect()
    }
}

macro_rules! samples {
    ($($ty:ty: |$s:ident| $made:expr;)*) => {
        $(impl<'a> Sample<'a> for $ty {
            fn sample($s: &mut Sampler<'a>) -> Self {
                $made
            }
        })*
    };
}

samples! {
    bool: |s| s.below(2) == 1;
    // Numbers of every length.
    u64: |s| { let shift = s.below(64); s.next() >> shift };
    u32: |s| { let shift = s.below(32); s.next() as u32 >> shift };
    usize: |s| { let shift = s.below(64); s.next() as usize >> shift };
    String: |s| s.make::<&'a str>().to_owned();
    Vec<u8>: |s| s.make::<&'a [u8]>().to_vec();
    Zeroizing<Vec<u8>>: |s| Self::new(s.make());
    [u8; 16]: |s| s.fill();
    [u8; 32]: |s| s.fill();
    [u8; 48]: |s| s.fill();
    &'a [u8]: |s| s.make::<&'a str>().as_bytes();
    &'a str: |s| {
        let boundaries: Vec<usize> = (0..=s.text.len()).filter(|at| s.text.is_char_boundary(*at)).collect();
        let (a, b) = (boundaries[s.below(boundaries.len())], boundaries[s.below(boundaries.len())]);
        &s.text[a.min(b)..a.max(b)]
    };
    Sealed: |s| Self::new(s.make());
    Ticket: |s| Self(s.make::<Vec<u8>>().into());
    Secret<'a>: |s| Self(s.make());
    Attributes: |s| s.attributes(true);
    Template<'a>: |s| s.template(4);
    Vec<Template<'a>>: |s| s.list();
    ErrorKind: |s| loop {
        let base = s.one_of(&[0, 0xcb4d_5300]);
        if let Some(kind) = Self::of_rv(base + s.next() % 0x220) {
            break kind;
        }
    };
    Error: |s| {
        let kind: ErrorKind = s.make();
        s.make::<Option<String>>().map_or_else(|| kind.into(), |detail| kind.with(detail))
    };
    AuditBatch<'static>: |s| Self { first: s.make(), rows: Cow::Owned(s.make()), tip: s.make(), closed: s.make() };
    RequestHeader: |s| Self {
        version: s.make(), hash: s.make(), stamp: s.make(), heard: s.make(), ticket: s.make(),
    };
    ReplyHeader: |s| Self { version: s.make(), hash: s.make(), stamp: s.make(), audit: s.make() };
}

impl<'a, T: Sample<'a> + Kept<'a>> Sample<'a> for &'a T {
    fn sample(s: &mut Sampler<'a>) -> Self {
        T::sample(s).keep(s.room).unwrap()
    }
}

impl<'a, T: Sample<'a>> Sample<'a> for &'a [T]
where
    Vec<T>: Kept<'a>,
{
    fn sample(s: &mut Sampler<'a>) -> Self {
        s.list().keep(s.room).unwrap()
    }
}

impl<'a, T: Sample<'a>> Sample<'a> for Option<T> {
    fn sample(s: &mut Sampler<'a>) -> Self {
        (s.below(2) == 1).then(|| s.make())
    }
}

impl<'a, A: Sample<'a>, B: Sample<'a>> Sample<'a> for (A, B) {
    fn sample(s: &mut Sampler<'a>) -> Self {
        (s.make(), s.make())
    }
}

impl<'a, T: Sample<'a>> Sample<'a> for Arc<T> {
    fn sample(s: &mut Sampler<'a>) -> Self {
        Self::new(s.make())
    }
}
