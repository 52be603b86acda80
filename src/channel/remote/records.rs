//! Which records a command is about: to read them anew where another host has committed, and to know
//! where its use is to be recorded.

use crate::hsm::{Command, Held, KeyRecords, Record, Replicate};

/// The records that a command carries.
#[derive(Default)]
pub(super) struct Carried<'c, 'a> {
    /// Those that can be exchanged for newer ones.
    pub(super) slots: Vec<&'c mut &'a Record>,
    /// Those in lists.
    pub(super) fixed: Vec<&'a Record>,
}

impl<'c, 'a> Carried<'c, 'a> {
    fn key(&mut self, keys: &'c mut KeyRecords<'a>) {
        self.slots.push(&mut keys.key);
        self.slots.extend(&mut keys.public);
    }

    fn held(&mut self, held: &Held<'a>) {
        self.fixed.push(held.keys.key);
        self.fixed.extend(held.keys.public);
        self.fixed.extend(held.versions);
    }

    /// Every record, as the host has it.
    pub(super) fn all(&self) -> impl Iterator<Item = &'a Record> {
        self.slots.iter().map(|slot| **slot).chain(self.fixed.iter().copied())
    }
}

/// What a command carries.
pub(super) fn carried<'c, 'a>(command: &'c mut Command<'a>) -> Carried<'c, 'a> {
    let mut all = Carried::default();
    match command {
        Command::Propose { key, .. } => all.slots.extend(key),
        Command::Approve { keys, .. } => all.key(keys),
        Command::Execute { keys, .. } => keys.iter().for_each(|held| all.held(held)),
        Command::CheckUse { key: record, .. }
        | Command::FindApproval { key: record, .. }
        | Command::Unapproved { key: record, .. }
        | Command::Copy { source: record, .. }
        | Command::SetAttributes { record, .. }
        | Command::Reseal { record }
        | Command::CheckDestroy { record }
        | Command::View { record }
        | Command::Reveal { record, .. }
        | Command::ImportParameters { key: record, .. } => all.slots.push(record),
        Command::Wrap { wrapping, key, .. } => all.slots.extend([wrapping, key]),
        Command::Unwrap { unwrapping, version, .. } => {
            all.slots.push(unwrapping);
            all.slots.extend(version);
        }
        Command::Derive { base, salt_key, .. } => {
            all.slots.push(base);
            all.slots.extend(salt_key);
        }
        Command::Manage { keys, alias, target, .. } => {
            keys.iter_mut().for_each(|keys| all.key(keys));
            all.slots.extend(alias);
            target.iter_mut().for_each(|target| all.key(target));
        }
        Command::KeepTime { keys } | Command::ImportMaterial { keys, .. } => all.key(keys),
        Command::EnvelopeEncrypt { with, .. }
        | Command::GenerateDataKey { with, .. }
        | Command::GenerateDataKeyPair { with, .. } => all.slots.push(&mut with.key),
        Command::EnvelopeDecrypt { with, version, .. } => {
            all.slots.push(&mut with.key);
            all.slots.extend(version);
        }
        Command::ReEncrypt { from, version, to, .. } => {
            all.slots.extend([&mut from.key, &mut to.key]);
            all.slots.extend(version);
        }
        Command::Replicate(step) => match step {
            Replicate::Check { .. } => {}
            Replicate::Offer { wanted, .. } => {
                wanted.iter().for_each(|(_, held)| held.iter().for_each(|held| all.held(held)))
            }
            Replicate::Ship { keys: held, .. }
            | Replicate::Accept { held, .. }
            | Replicate::Confirm { stored: held, .. }
            | Replicate::Receive { keys: held, .. } => held.iter().flatten().for_each(|held| all.held(held)),
            Replicate::Tell { keys, .. } => keys.iter().for_each(|held| all.held(held)),
        },
        _ => {}
    }
    all
}
