//! The sentence about the calling thread's last failed call, for `KMS_LastError`.

use std::cell::RefCell;
use std::fmt::Write;

use crate::error::Error;

/// Longest sentence in bytes; a longer one is cut at a character.
const MAX_SENTENCE: usize = 512;

struct Sentence {
    text: [u8; MAX_SENTENCE],
    len: usize,
}

impl Write for Sentence {
    fn write_str(&mut self, part: &str) -> std::fmt::Result {
        let mut fits = part.len().min(MAX_SENTENCE - self.len);
        while !part.is_char_boundary(fits) {
            fits -= 1;
        }
        self.text[self.len..self.len + fits].copy_from_slice(&part.as_bytes()[..fits]);
        self.len += fits;
        if fits < part.len() { Err(std::fmt::Error) } else { Ok(()) }
    }
}

thread_local! {
    // Constant and without a destructor, so that it can be used while a thread ends.
    static LAST: RefCell<Sentence> = const { RefCell::new(Sentence { text: [0; MAX_SENTENCE], len: 0 }) };
}

/// Keeps the sentence about a failed call.
pub(super) fn set(function: &str, error: &Error) {
    LAST.with_borrow_mut(|last| {
        last.len = 0;
        // Fails only when the sentence was cut.
        let _ = write!(last, "{function}: {}: {error}", error.kind().name());
    });
}

/// The sentence in UTF-8, without a NUL; empty if no call failed.
pub(super) fn with<R>(read: impl FnOnce(&[u8]) -> R) -> R {
    LAST.with_borrow(|last| read(&last.text[..last.len]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn a_long_detail_is_cut_at_a_character() {
        set("C_Test", &ErrorKind::DeviceError.with("é".repeat(MAX_SENTENCE)));
        with(|text| {
            assert!(text.len() >= MAX_SENTENCE - 1);
            assert!(std::str::from_utf8(text).is_ok());
        });
    }
}
