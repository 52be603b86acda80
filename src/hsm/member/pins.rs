//! Wrong PINs as one HSM counts them in its memory, so that a host which puts back the store's counter
//! gains nothing (§4); and a bound on PIN hashes at once, each of which takes memory.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::super::command::Role;
use crate::error::{ErrorKind, Result};

/// Wrong PINs of one record after which the HSM takes no more.
const MOST_WRONG: u32 = 10;
/// Hashes under way at once.
const AT_ONCE: usize = 2;

#[derive(Default)]
pub(in crate::hsm) struct Pins {
    counted: Mutex<Counted>,
    free: Condvar,
    logins: AtomicU64,
    wrong: AtomicU64,
}

#[derive(Default)]
struct Counted {
    running: usize,
    /// The generation of the record, and the wrong PINs since the last right one.
    wrong: HashMap<Role, (u64, u32)>,
}

/// How often PINs were right and wrong, and how many roles are locked here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PinFigures {
    pub logins: u64,
    pub wrong: u64,
    pub locked: u64,
}

impl Pins {
    /// One attempt at the PIN of a record that the state names, counted before it is hashed.
    /// CKR_PIN_LOCKED.
    pub(in crate::hsm) fn attempt<T>(
        &self,
        role: &Role,
        generation: u64,
        check: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let place = self.place();
        let mut counted = self.counted();
        let entry = counted.wrong.entry(role.clone()).or_insert((generation, 0));
        if entry.0 != generation {
            *entry = (generation, 0);
        }
        if entry.1 >= MOST_WRONG {
            return Err(ErrorKind::PinLocked.with("this HSM has seen too many wrong PINs for this record"));
        }
        entry.1 += 1;
        drop(counted);
        let outcome = check();
        drop(place);
        let mut counted = self.counted();
        let wrong = matches!(&outcome, Err(error) if error.kind() == ErrorKind::PinIncorrect);
        if let Some(entry) = counted.wrong.get_mut(role).filter(|entry| entry.0 == generation) {
            match &outcome {
                Ok(_) => entry.1 = 0,
                // What failed for another reason was no attempt at the PIN.
                Err(_) if !wrong => entry.1 = entry.1.saturating_sub(1),
                Err(_) => {}
            }
        }
        drop(counted);
        let tally = if wrong { &self.wrong } else { &self.logins };
        if wrong || outcome.is_ok() {
            tally.fetch_add(1, Ordering::Relaxed);
        }
        outcome
    }

    /// Waits for one of the places for those who hash a PIN.
    pub(in crate::hsm) fn place(&self) -> Hashing<'_> {
        let mut counted = self.counted();
        while counted.running >= AT_ONCE {
            counted = self.free.wait(counted).unwrap_or_else(PoisonError::into_inner);
        }
        counted.running += 1;
        Hashing(self)
    }

    pub(super) fn figures(&self) -> PinFigures {
        let locked = self.counted().wrong.values().filter(|(_, wrong)| *wrong >= MOST_WRONG).count();
        PinFigures {
            logins: self.logins.load(Ordering::Relaxed),
            wrong: self.wrong.load(Ordering::Relaxed),
            locked: locked as u64,
        }
    }

    fn counted(&self) -> MutexGuard<'_, Counted> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place of one who hashes a PIN.
pub(in crate::hsm) struct Hashing<'p>(&'p Pins);

impl Drop for Hashing<'_> {
    fn drop(&mut self) {
        self.0.counted().running -= 1;
        self.0.free.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(pins: &Pins, generation: u64) -> ErrorKind {
        let checked = pins.attempt::<()>(&Role::User, generation, || Err(ErrorKind::PinIncorrect.into()));
        checked.unwrap_err().kind()
    }

    #[test]
    fn ten_wrong_pins_lock_a_record_until_it_is_another() {
        let pins = Pins::default();
        (0..9).for_each(|_| assert_eq!(wrong(&pins, 1), ErrorKind::PinIncorrect));
        pins.attempt(&Role::User, 1, || Ok(())).unwrap();
        (0..10).for_each(|_| assert_eq!(wrong(&pins, 1), ErrorKind::PinIncorrect));
        assert_eq!(wrong(&pins, 1), ErrorKind::PinLocked);
        let right = pins.attempt(&Role::User, 1, || Ok(())).unwrap_err();
        assert_eq!(right.kind(), ErrorKind::PinLocked);
        pins.attempt(&Role::So, 1, || Ok(())).unwrap();
        pins.attempt(&Role::User, 2, || Ok(())).unwrap();
        assert_eq!(pins.figures(), PinFigures { logins: 3, wrong: 19, locked: 0 });
    }

    #[test]
    fn many_right_pins_at_once_lock_nothing() {
        let pins = Pins::default();
        let slow = || {
            std::thread::sleep(std::time::Duration::from_millis(5));
            Ok(())
        };
        std::thread::scope(|scope| {
            (0..24).for_each(|_| drop(scope.spawn(|| pins.attempt(&Role::User, 1, slow).unwrap())));
        });
        assert_eq!(pins.figures().logins, 24);
    }
}
