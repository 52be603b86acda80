//! CK_INFO and its like: blank padded, never cut inside a character.

use cryptoki_sys as ck;

use crate::cryptoki::{SessionInfo, SlotInfo, TokenInfo};
use crate::hsm::MechanismInfo;

/// The standard that CK_INFO names.
pub(super) const CRYPTOKI: ck::CK_VERSION =
    ck::CK_VERSION { major: ck::CRYPTOKI_VERSION_MAJOR, minor: ck::CRYPTOKI_VERSION_MINOR };

const MANUFACTURER: &str = "Conclave";
const LIBRARY: &str = "Conclave PKCS#11 module";
const NO_VERSION: ck::CK_VERSION = ck::CK_VERSION { major: 0, minor: 0 };

pub(super) fn library() -> ck::CK_INFO {
    ck::CK_INFO {
        cryptokiVersion: CRYPTOKI,
        manufacturerID: padded(MANUFACTURER),
        flags: 0,
        libraryDescription: padded(LIBRARY),
        libraryVersion: version(),
    }
}

pub(super) fn slot(info: &SlotInfo) -> ck::CK_SLOT_INFO {
    ck::CK_SLOT_INFO {
        slotDescription: padded(&info.description),
        manufacturerID: padded(MANUFACTURER),
        flags: info.flags,
        hardwareVersion: NO_VERSION,
        firmwareVersion: version(),
    }
}

pub(super) fn token(info: &TokenInfo) -> ck::CK_TOKEN_INFO {
    ck::CK_TOKEN_INFO {
        label: padded(&info.label),
        manufacturerID: padded(MANUFACTURER),
        model: padded(&info.model),
        serialNumber: padded(&info.serial),
        flags: info.flags,
        ulMaxSessionCount: ck::CK_EFFECTIVELY_INFINITE,
        ulSessionCount: info.session_count as ck::CK_ULONG,
        ulMaxRwSessionCount: ck::CK_EFFECTIVELY_INFINITE,
        ulRwSessionCount: info.rw_session_count as ck::CK_ULONG,
        ulMaxPinLen: info.max_pin_len as ck::CK_ULONG,
        ulMinPinLen: info.min_pin_len as ck::CK_ULONG,
        ulTotalPublicMemory: ck::CK_UNAVAILABLE_INFORMATION,
        ulFreePublicMemory: ck::CK_UNAVAILABLE_INFORMATION,
        ulTotalPrivateMemory: ck::CK_UNAVAILABLE_INFORMATION,
        ulFreePrivateMemory: ck::CK_UNAVAILABLE_INFORMATION,
        hardwareVersion: NO_VERSION,
        firmwareVersion: version(),
        // Without CKF_CLOCK_ON_TOKEN it means nothing.
        utcTime: padded(""),
    }
}

pub(super) fn session(info: &SessionInfo) -> ck::CK_SESSION_INFO {
    ck::CK_SESSION_INFO {
        slotID: info.slot,
        state: info.state,
        flags: info.flags,
        ulDeviceError: info.device_error as ck::CK_ULONG,
    }
}

pub(super) fn mechanism(info: &MechanismInfo) -> ck::CK_MECHANISM_INFO {
    ck::CK_MECHANISM_INFO {
        ulMinKeySize: info.min_key as ck::CK_ULONG,
        ulMaxKeySize: info.max_key as ck::CK_ULONG,
        flags: info.flags,
    }
}

/// The crate's version, as far as it fits.
fn version() -> ck::CK_VERSION {
    let part = |text: &str| text.parse().unwrap_or(u8::MAX);
    ck::CK_VERSION { major: part(env!("CARGO_PKG_VERSION_MAJOR")), minor: part(env!("CARGO_PKG_VERSION_MINOR")) }
}

/// `text` with blanks behind it.
fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut end = text.len().min(N);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut field = [b' '; N];
    field[..end].copy_from_slice(&text.as_bytes()[..end]);
    field
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_padded_and_cut_between_characters() {
        assert_eq!(&padded::<6>("ab"), b"ab    ");
        assert_eq!(&padded::<4>("abcdef"), b"abcd");
        assert_eq!(&padded::<4>("abcé"), b"abc ");
    }
}
