//! Wrong PINs as one HSM counts them in its memory, so that a host which puts back the store's counter
//! gains nothing (§4); and a bound on PIN hashes at once, each of which takes memory.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::super::command::{PinCost, Role};
use crate::error::{ErrorKind, Result};

/// Wrong PINs of one record after which the HSM takes no more.
const MOST_WRONG: u32 = 10;
/// Hashes under way at once, and of these for one host.
const AT_ONCE: usize = 3;
const AT_ONCE_FOR_A_HOST: usize = 2;
/// What one hash may cost here: what a host asks for, or a record that it sends says, takes the memory and the
/// time of all.
const MOST_MEMORY_KIB: u32 = 128 * 1024;
const MOST_WORK_KIB: u64 = 1024 * 1024;

#[derive(Default)]
pub(in crate::hsm) struct Pins {
    counted: Mutex<Counted>,
    free: Condvar,
    logins: AtomicU64,
    wrong: AtomicU64,
}

#[derive(Default)]
struct Counted {
    /// For whom hashes are under way.
    running: Vec<Whose>,
    /// The generation of the record, and the wrong PINs since the last right one.
    wrong: HashMap<Role, (u64, u32)>,
}

/// For whom a PIN is hashed: a host, or operators.
type Whose = Option<[u8; 16]>;

/// Refuses a hash that costs too much for an HSM of a fleet. CKR_DEVICE_MEMORY.
pub(super) fn check_cost(cost: PinCost) -> Result<()> {
    let work = u64::from(cost.memory_kib) * u64::from(cost.passes);
    if cost.memory_kib <= MOST_MEMORY_KIB && work <= MOST_WORK_KIB {
        return Ok(());
    }
    let (memory, work) = (MOST_MEMORY_KIB / 1024, MOST_WORK_KIB / 1024);
    let why = format!("an HSM of a fleet hashes PINs with at most {memory} MiB, and {work} MiB in all passes");
    Err(ErrorKind::DeviceMemory.with(why))
}

/// How often PINs were right and wrong, and how many roles are locked here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PinFigures {
    pub logins: u64,
    pub wrong: u64,
    pub locked: u64,
}

impl Pins {
    /// One attempt at the PIN of a record that the state names, or at the code of an enrolment, counted before
    /// it is hashed. CKR_PIN_LOCKED.
    pub(in crate::hsm) fn attempt<T>(
        &self,
        whose: Whose,
        (role, generation): (&Role, u64),
        check: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let place = self.place(whose);
        let mut counted = self.counted();
        let entry = counted.wrong.entry(role.clone()).or_insert((generation, 0));
        if entry.0 != generation {
            *entry = (generation, 0);
        }
        if entry.1 >= MOST_WRONG {
            return Err(
                ErrorKind::PinLocked.with("this HSM has seen too many wrong PINs, or enrolment codes, of this user")
            );
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
    pub(in crate::hsm) fn place(&self, whose: Whose) -> Hashing<'_> {
        let of_whom = |running: &[Whose]| running.iter().filter(|other| **other == whose).count();
        let mut counted = self.counted();
        while counted.running.len() >= AT_ONCE || of_whom(&counted.running) >= AT_ONCE_FOR_A_HOST {
            counted = self.free.wait(counted).unwrap_or_else(PoisonError::into_inner);
        }
        counted.running.push(whose);
        Hashing { pins: self, whose }
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
pub(in crate::hsm) struct Hashing<'p> {
    pins: &'p Pins,
    whose: Whose,
}

impl Drop for Hashing<'_> {
    fn drop(&mut self) {
        let running = &mut self.pins.counted().running;
        if let Some(at) = running.iter().position(|whose| *whose == self.whose) {
            running.swap_remove(at);
        }
        // Who waits may not be the one who may go on now.
        self.pins.free.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(pins: &Pins, generation: u64) -> ErrorKind {
        let checked = pins.attempt::<()>(None, (&Role::User, generation), || Err(ErrorKind::PinIncorrect.into()));
        checked.unwrap_err().kind()
    }

    #[test]
    fn ten_wrong_pins_lock_a_record_until_it_is_another() {
        let pins = Pins::default();
        (0..9).for_each(|_| assert_eq!(wrong(&pins, 1), ErrorKind::PinIncorrect));
        pins.attempt(None, (&Role::User, 1), || Ok(())).unwrap();
        (0..10).for_each(|_| assert_eq!(wrong(&pins, 1), ErrorKind::PinIncorrect));
        assert_eq!(wrong(&pins, 1), ErrorKind::PinLocked);
        let right = pins.attempt(None, (&Role::User, 1), || Ok(())).unwrap_err();
        assert_eq!(right.kind(), ErrorKind::PinLocked);
        pins.attempt(None, (&Role::So, 1), || Ok(())).unwrap();
        pins.attempt(None, (&Role::User, 2), || Ok(())).unwrap();
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
            (0..24).for_each(|_| drop(scope.spawn(|| pins.attempt(None, (&Role::User, 1), slow).unwrap())));
        });
        assert_eq!(pins.figures().logins, 24);
    }

    #[test]
    fn a_host_that_hashes_leaves_a_place_to_others() {
        let pins = Pins::default();
        let held = [pins.place(Some([1; 16])), pins.place(Some([1; 16]))];
        std::thread::scope(|scope| {
            let more = scope.spawn(|| drop(pins.place(Some([1; 16]))));
            pins.attempt(Some([2; 16]), (&Role::User, 1), || Ok(())).unwrap();
            assert!(!more.is_finished());
            drop(held);
        });
    }

    #[test]
    fn what_a_hash_costs_is_bounded() {
        let cost = |memory_kib, passes| check_cost(PinCost { memory_kib, passes, lanes: 1 }).is_ok();
        assert!(cost(64 * 1024, 3) && cost(128 * 1024, 8));
        assert!(!cost(128 * 1024, 9) && !cost(256 * 1024, 1) && !cost(32 * 1024, 64));
    }
}
