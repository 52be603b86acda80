//! Pointers from the caller, turned into safe types once and here.
//!
//! NULL with length 0 is an empty string, a length that cannot be is refused before it becomes a
//! slice, and structures are read unaligned.

use std::marker::PhantomData;
use std::mem::size_of;

use cryptoki_sys as ck;
use zeroize::Zeroizing;

use crate::error::{ErrorKind, Result};
use crate::hsm::Outcome;

/// Longest input or output in bytes. More is a wrong length (CK_UNAVAILABLE_INFORMATION, a negative
/// number), not data.
const MAX_LEN: usize = if size_of::<usize>() == 8 { 1 << 40 } else { isize::MAX as usize };

/// By how much an output may turn out shorter than what was asked for: padding, or an RSA block.
const MAX_SHRINK: usize = 4096;

/// Stands for the caller of one C_ function: whoever holds it may follow the pointers that came
/// with the call.
pub(super) struct Caller(());

impl Caller {
    /// # Safety
    /// Every pointer later passed to a method came from the caller of the C_ function that is
    /// running, or from memory that such a pointer leads to. By the standard it is NULL or valid for
    /// the length that goes with it until the function returns.
    pub(super) unsafe fn new() -> Self {
        Self(())
    }

    /// A copy of what `pointer` points to. None if it is NULL.
    #[inline]
    pub(super) fn get<T: Plain>(&self, pointer: *const T) -> Option<T> {
        if pointer.is_null() {
            return None;
        }
        // SAFETY: not NULL, so valid by the contract of `new`; any bytes make a `Plain`.
        Some(unsafe { pointer.read_unaligned() })
    }

    /// As [`get`](Self::get), with CKR_ARGUMENTS_BAD for NULL.
    #[inline]
    pub(super) fn read<T: Plain>(&self, pointer: *const T) -> Result<T> {
        self.get(pointer).ok_or_else(|| ErrorKind::ArgumentsBad.into())
    }

    /// The place of one result; CKR_ARGUMENTS_BAD for NULL. Taken before the work is done, so that
    /// a result is never lost.
    #[inline]
    pub(super) fn place<T: Plain>(&self, pointer: *mut T) -> Result<Place<'_, T>> {
        if pointer.is_null() {
            return Err(ErrorKind::ArgumentsBad.into());
        }
        Ok(Place { pointer, caller: PhantomData })
    }

    /// A function with one result: checks where it goes, makes it, writes it.
    #[inline]
    pub(super) fn answer<T: Plain>(&self, pointer: *mut T, make: impl FnOnce() -> Result<T>) -> Result<()> {
        let place = self.place(pointer)?;
        place.write(make()?);
        Ok(())
    }

    /// None if the pointer is NULL but the length is not 0, or if the length is impossible.
    #[inline]
    pub(super) fn slice(&self, pointer: *const u8, len: ck::CK_ULONG) -> Option<&[u8]> {
        if len == 0 {
            return Some(&[]);
        }
        if pointer.is_null() {
            return None;
        }
        let len = possible_len(pointer, len)?;
        // SAFETY: not NULL, so valid for `len` bytes by the contract of `new`; `len` is at most
        // isize::MAX and the range does not wrap. Outputs that overlap it are never made into a
        // slice while it lives (see `transform`).
        Some(unsafe { std::slice::from_raw_parts(pointer, len) })
    }

    /// As [`slice`](Self::slice), with CKR_ARGUMENTS_BAD.
    #[inline]
    pub(super) fn bytes(&self, pointer: *const u8, len: ck::CK_ULONG) -> Result<&[u8]> {
        self.slice(pointer, len).ok_or_else(|| ErrorKind::ArgumentsBad.into())
    }

    /// A PIN or a user name: None for a NULL pointer with length 0.
    pub(super) fn optional_bytes(&self, pointer: *const u8, len: ck::CK_ULONG) -> Result<Option<&[u8]>> {
        if pointer.is_null() && len == 0 { Ok(None) } else { self.bytes(pointer, len).map(Some) }
    }

    /// None if the pointer is NULL but the count is not 0, or if the count is impossible.
    pub(super) fn elements<T: Plain>(&self, pointer: *mut T, count: ck::CK_ULONG) -> Option<Array<'_, T>> {
        let bytes = (count as usize).checked_mul(size_of::<T>())?;
        if count != 0 {
            if pointer.is_null() {
                return None;
            }
            possible_len(pointer.cast(), bytes as ck::CK_ULONG)?;
        }
        Some(Array { pointer, count: count as usize, caller: PhantomData })
    }

    /// As [`elements`](Self::elements), with CKR_ARGUMENTS_BAD.
    pub(super) fn array<T: Plain>(&self, pointer: *mut T, count: ck::CK_ULONG) -> Result<Array<'_, T>> {
        self.elements(pointer, count).ok_or_else(|| ErrorKind::ArgumentsBad.into())
    }

    /// A buffer of a given length to be filled whole; CKR_ARGUMENTS_BAD.
    pub(super) fn fill(
        &self,
        pointer: *mut u8,
        len: ck::CK_ULONG,
        fill: impl FnOnce(&mut [u8]) -> Result<()>,
    ) -> Result<()> {
        fill(self.slice_mut(pointer, len).ok_or(ErrorKind::ArgumentsBad)?)
    }

    /// A function with variable-length output (§5.2): `produce` gets the buffer, or None when only
    /// the length is asked for.
    #[inline]
    pub(super) fn output(
        &self,
        buffer: *mut u8,
        len: *mut ck::CK_ULONG,
        mut produce: impl FnMut(Option<&mut [u8]>) -> Result<Outcome>,
    ) -> Result<()> {
        self.transform((std::ptr::null_mut(), 0), (buffer, len), |_, output| produce(output))
    }

    /// A function with an input and a variable-length output, which may be the same memory.
    #[inline]
    pub(super) fn transform(
        &self,
        (input, input_len): (*mut u8, ck::CK_ULONG),
        (buffer, len): (*mut u8, *mut ck::CK_ULONG),
        mut produce: impl FnMut(&[u8], Option<&mut [u8]>) -> Result<Outcome>,
    ) -> Result<()> {
        let place = self.place(len)?;
        let input = self.bytes(input, input_len)?;
        if buffer.is_null() {
            return place.settle(produce(input, None)?, true);
        }
        let capacity = self.read(len)?;
        let len = possible_len(buffer, capacity).ok_or(ErrorKind::ArgumentsBad)?;
        let copy;
        let input = if overlap(input, buffer, len) {
            // Asked first, so that nothing is copied for a call that fails anyway.
            match produce(input, None)? {
                Outcome::Needed(need) if need <= len.saturating_add(MAX_SHRINK) => {}
                outcome => return place.settle(outcome, false),
            }
            copy = Zeroizing::new(input.to_vec());
            &copy[..]
        } else {
            input
        };
        let output = self.slice_mut(buffer, capacity).ok_or(ErrorKind::ArgumentsBad)?;
        place.settle(produce(input, Some(output))?, false)
    }

    /// Where a variable-length output goes (§5.2), for what must know the room before it is made.
    pub(super) fn room(&self, buffer: *mut u8, len: *mut ck::CK_ULONG) -> Result<Room<'_>> {
        let place = self.place(len)?;
        let capacity = if buffer.is_null() {
            None
        } else {
            Some(possible_len(buffer, self.read(len)?).ok_or(ErrorKind::ArgumentsBad)?)
        };
        Ok(Room { caller: self, buffer, capacity, place })
    }

    /// A list with its length convention (§5.2): NULL asks for the count.
    pub(super) fn list<T: Plain>(&self, items: &[T], buffer: *mut T, count: *mut ck::CK_ULONG) -> Result<()> {
        let place = self.place(count)?;
        if buffer.is_null() {
            return place.settle(Outcome::Needed(items.len()), true);
        }
        if (self.read(count)? as usize) < items.len() {
            return place.settle(Outcome::Needed(items.len()), false);
        }
        let array = self.array(buffer, items.len() as ck::CK_ULONG)?;
        for (at, item) in items.iter().enumerate() {
            array.set(at, *item);
        }
        place.settle(Outcome::Written(items.len()), false)
    }

    /// C_FindObjects: as many handles as `find` has, at most `max`, and how many they are.
    pub(super) fn found(
        &self,
        buffer: *mut ck::CK_OBJECT_HANDLE,
        max: ck::CK_ULONG,
        count: *mut ck::CK_ULONG,
        mut find: impl FnMut(&mut [ck::CK_OBJECT_HANDLE]) -> Result<usize>,
    ) -> Result<()> {
        let place = self.place(count)?;
        let handles = self.array(buffer, max)?;
        let mut chunk = [0; 64];
        let mut done = 0;
        loop {
            let want = chunk.len().min(handles.len() - done);
            let found = find(&mut chunk[..want])?.min(want);
            for handle in &chunk[..found] {
                handles.set(done, *handle);
                done += 1;
            }
            if found < want || done == handles.len() {
                place.write(done as ck::CK_ULONG);
                return Ok(());
            }
        }
    }

    /// Whether two NUL-terminated strings are the same. Reads no further than the shorter one's NUL.
    pub(super) fn is_string(&self, given: *const u8, ours: *const u8) -> bool {
        for at in 0.. {
            // SAFETY: both end with a NUL, and no byte behind the first of them is read.
            let (given, ours) = unsafe { (given.add(at).read(), ours.add(at).read()) };
            if given != ours {
                return false;
            }
            if given == 0 {
                return true;
            }
        }
        false
    }

    /// A CK_ULONG behind a pointer that may be anything: None if it cannot be read.
    pub(super) fn probe(&self, pointer: *const ck::CK_ULONG) -> Option<ck::CK_ULONG> {
        let mut value: ck::CK_ULONG = 0;
        let size = size_of::<ck::CK_ULONG>();
        let local = libc::iovec { iov_base: (&raw mut value).cast(), iov_len: size };
        let remote = libc::iovec { iov_base: pointer.cast_mut().cast(), iov_len: size };
        // SAFETY: the kernel copies into `value`, and answers EFAULT if it cannot read `pointer`.
        let copied = unsafe { libc::process_vm_readv(libc::getpid(), &raw const local, 1, &raw const remote, 1, 0) };
        (copied == size as isize).then_some(value)
    }

    #[allow(clippy::mut_from_ref)] // Each buffer comes from the caller, not from `self`.
    fn slice_mut(&self, pointer: *mut u8, len: ck::CK_ULONG) -> Option<&mut [u8]> {
        if len == 0 {
            return Some(&mut []);
        }
        if pointer.is_null() {
            return None;
        }
        let len = possible_len(pointer, len)?;
        // SAFETY: not NULL, so valid for `len` bytes by the contract of `new`; `len` is at most
        // isize::MAX and the range does not wrap. A function makes one such slice at most, and
        // `transform` copies an input that overlaps it.
        Some(unsafe { std::slice::from_raw_parts_mut(pointer, len) })
    }
}

/// Structures that any bytes make: integers, pointers, and arrays of them.
///
/// # Safety
/// Every bit pattern is a valid value.
pub(super) unsafe trait Plain: Copy {}

macro_rules! plain {
    ($($name:ty),* $(,)?) => {
        $(
            // SAFETY: a C structure of integers and pointers.
            unsafe impl Plain for $name {}
        )*
    };
}

plain! {
    u8, [u8; 32],
    ck::CK_ULONG,
    ck::CK_VERSION, ck::CK_INFO, ck::CK_SLOT_INFO, ck::CK_TOKEN_INFO, ck::CK_SESSION_INFO,
    ck::CK_MECHANISM_INFO, ck::CK_C_INITIALIZE_ARGS, ck::CK_INTERFACE, *mut ck::CK_INTERFACE,
    *mut ck::CK_FUNCTION_LIST,
    ck::CK_ATTRIBUTE, ck::CK_MECHANISM, ck::CK_DERIVED_KEY, ck::CK_PRF_DATA_PARAM,
    ck::CK_AES_CTR_PARAMS, ck::CK_GCM_PARAMS, ck::CK_GCM_MESSAGE_PARAMS, ck::CK_GCM_WRAP_PARAMS, ck::CK_RSA_PKCS_PSS_PARAMS, ck::CK_RSA_PKCS_OAEP_PARAMS,
    ck::CK_RSA_AES_KEY_WRAP_PARAMS, ck::CK_ECDH1_DERIVE_PARAMS, ck::CK_EDDSA_PARAMS, ck::CK_HKDF_PARAMS,
    ck::CK_PKCS5_PBKD2_PARAMS2, ck::CK_SP800_108_KDF_PARAMS, ck::CK_SP800_108_COUNTER_FORMAT,
    ck::CK_SP800_108_DKM_LENGTH_FORMAT,
    super::vendor::KMS_BYTES,
}

/// Where a result goes.
pub(super) struct Place<'c, T> {
    pointer: *mut T,
    caller: PhantomData<&'c Caller>,
}

impl<T: Plain> Place<'_, T> {
    #[inline]
    pub(super) fn write(&self, value: T) {
        // SAFETY: not NULL (checked by `Caller::place`), so valid by the contract of `Caller::new`.
        unsafe { self.pointer.write_unaligned(value) }
    }
}

impl Place<'_, ck::CK_ULONG> {
    /// Writes the length, whatever the outcome. `asked` is whether only the length was asked for.
    #[inline]
    fn settle(&self, outcome: Outcome, asked: bool) -> Result<()> {
        match outcome {
            Outcome::Written(len) => self.write(len as ck::CK_ULONG),
            Outcome::Needed(len) => {
                self.write(len as ck::CK_ULONG);
                if !asked {
                    return Err(ErrorKind::BufferTooSmall.into());
                }
            }
        }
        Ok(())
    }
}

/// The place of a variable-length output. The output is made first and copied there, so it may be
/// the memory of an input, which is not read after [`Self::give`].
pub(super) struct Room<'c> {
    caller: &'c Caller,
    buffer: *mut u8,
    /// None if only the length is asked for.
    capacity: Option<usize>,
    place: Place<'c, ck::CK_ULONG>,
}

impl Room<'_> {
    /// How many bytes there is room for.
    pub(super) fn len(&self) -> usize {
        self.capacity.unwrap_or(0)
    }

    /// Whether only the length is asked for.
    pub(super) fn is_asked(&self) -> bool {
        self.capacity.is_none()
    }

    /// Writes all of the output, or only its length: CKR_BUFFER_TOO_SMALL unless that was asked for.
    pub(super) fn give(&self, output: &[u8]) -> Result<()> {
        if self.capacity.is_none_or(|capacity| capacity < output.len()) {
            return self.need(output.len());
        }
        let buffer = self.caller.slice_mut(self.buffer, output.len() as ck::CK_ULONG);
        buffer.ok_or(ErrorKind::ArgumentsBad)?.copy_from_slice(output);
        self.place.settle(Outcome::Written(output.len()), false)
    }

    /// Writes the length that the output needs, as [`Self::give`].
    pub(super) fn need(&self, len: usize) -> Result<()> {
        self.place.settle(Outcome::Needed(len), self.capacity.is_none())
    }
}

/// An array of structures in the caller's memory, aligned or not.
#[derive(Clone, Copy)]
pub(super) struct Array<'c, T> {
    pointer: *mut T,
    count: usize,
    caller: PhantomData<&'c Caller>,
}

impl<'c, T: Plain> Array<'c, T> {
    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = T> + use<'c, T> {
        let this = *self;
        (0..this.count).map(move |at| this.at(at))
    }

    #[inline]
    fn at(&self, at: usize) -> T {
        // SAFETY: `at < count`, and the array is valid for `count` elements (`Caller::elements`).
        unsafe { self.pointer.add(at).read_unaligned() }
    }

    /// Does nothing behind the end.
    #[inline]
    pub(super) fn set(&self, at: usize, value: T) {
        if at < self.count {
            // SAFETY: as in `at`.
            unsafe { self.pointer.add(at).write_unaligned(value) }
        }
    }
}

/// The length, if memory from `pointer` on can be that long.
#[inline]
fn possible_len(pointer: *const u8, len: ck::CK_ULONG) -> Option<usize> {
    let len = usize::try_from(len).ok().filter(|len| *len <= MAX_LEN)?;
    pointer.addr().checked_add(len)?;
    Some(len)
}

#[inline]
fn overlap(input: &[u8], buffer: *const u8, len: usize) -> bool {
    let (a, b) = (input.as_ptr().addr(), buffer.addr());
    !input.is_empty() && a < b + len && b < a + input.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller() -> Caller {
        // SAFETY: the tests pass their own memory.
        unsafe { Caller::new() }
    }

    #[test]
    fn null_is_an_empty_string_only_without_a_length() {
        let caller = caller();
        assert_eq!(caller.bytes(std::ptr::null(), 0).unwrap(), b"");
        assert!(caller.bytes(std::ptr::null(), 1).is_err());
        assert_eq!(caller.optional_bytes(std::ptr::null(), 0).unwrap(), None);
        assert_eq!(caller.optional_bytes(b"x".as_ptr(), 0).unwrap(), Some(&b""[..]));
        assert!(caller.optional_bytes(std::ptr::null(), 4).is_err());
    }

    #[test]
    fn impossible_lengths_are_refused() {
        let caller = caller();
        let byte = [0u8; 1];
        for len in [ck::CK_ULONG::MAX, ck::CK_ULONG::MAX / 2, 1 << 41] {
            assert!(caller.bytes(byte.as_ptr(), len).is_err());
            assert!(caller.array(byte.as_ptr().cast_mut().cast::<ck::CK_ATTRIBUTE>(), len).is_err());
            let mut out = len;
            let got = caller.output(byte.as_ptr().cast_mut(), &raw mut out, |_| Ok(Outcome::Written(0)));
            assert_eq!(got.unwrap_err().kind(), ErrorKind::ArgumentsBad);
        }
    }

    #[test]
    fn every_branch_of_an_output_writes_the_length() {
        let caller = caller();
        let mut buffer = [0u8; 4];
        let produce = |output: Option<&mut [u8]>| match output {
            Some(out) if out.len() >= 3 => {
                out[..3].copy_from_slice(b"abc");
                Ok(Outcome::Written(3))
            }
            _ => Ok(Outcome::Needed(3)),
        };
        let mut len: ck::CK_ULONG = 99;
        caller.output(std::ptr::null_mut(), &raw mut len, produce).unwrap();
        assert_eq!(len, 3);
        len = 2;
        let small = caller.output(buffer.as_mut_ptr(), &raw mut len, produce).unwrap_err();
        assert_eq!((small.kind(), len), (ErrorKind::BufferTooSmall, 3));
        len = 0;
        assert!(caller.output(buffer.as_mut_ptr(), &raw mut len, produce).is_err());
        assert_eq!(len, 3);
        len = 4;
        caller.output(buffer.as_mut_ptr(), &raw mut len, produce).unwrap();
        assert_eq!((&buffer[..3], len), (&b"abc"[..], 3));
        assert!(caller.output(buffer.as_mut_ptr(), std::ptr::null_mut(), produce).is_err());
    }

    #[test]
    fn an_input_under_the_output_is_copied() {
        let caller = caller();
        let mut memory = *b"12345678";
        for shift in 0..4 {
            let base = memory.as_mut_ptr();
            let mut len: ck::CK_ULONG = 4;
            let output = base.wrapping_add(shift);
            caller
                .transform((base, 4), (output, &raw mut len), |input, out| {
                    let Some(out) = out else {
                        return Ok(Outcome::Needed(4));
                    };
                    let range = out.as_ptr_range();
                    assert!(!range.contains(&input.as_ptr()));
                    out.copy_from_slice(input);
                    Ok(Outcome::Written(4))
                })
                .unwrap();
        }
    }

    #[test]
    fn a_probe_survives_a_wild_pointer() {
        let caller = caller();
        let value: ck::CK_ULONG = 7;
        assert_eq!(caller.probe(&raw const value), Some(7));
        assert_eq!(caller.probe(std::ptr::without_provenance(8)), None);
        assert_eq!(caller.probe(std::ptr::without_provenance(usize::MAX - 2)), None);
    }
}
