//! `conclave key`.

mod create;
mod envelope;
mod import;
mod life;
mod list;
mod objects;
mod policy;
mod replicas;
mod rotation;

use conclave::hsm::Manage;
use serde_json::json;

use crate::args::KeyCommand;
use crate::managed;
use crate::output::{Failure, cell};

pub(crate) use objects::{summary, trustable};

pub(crate) fn run(command: &KeyCommand, as_json: bool) -> Result<(), Failure> {
    match command {
        KeyCommand::List(list) => list::run(list, as_json),
        KeyCommand::Show(show) => objects::show(show, as_json),
        KeyCommand::Trust(trust) => objects::trust(trust, as_json),
        KeyCommand::Create(create) => create::run(create, as_json),
        KeyCommand::Describe(one) => life::describe(one, as_json),
        KeyCommand::PublicKey(public_key) => objects::public_key(public_key, as_json),
        KeyCommand::Enable(change) => managed::change(change, Manage::EnableKey, "enable", json!({}), as_json, |key| {
            format!("Key {} is enabled.", cell(key, "KeyId"))
        }),
        KeyCommand::Disable(change) => {
            managed::change(change, Manage::DisableKey, "disable", json!({}), as_json, |key| {
                format!("Key {} is disabled: nobody can use it until it is enabled again.", cell(key, "KeyId"))
            })
        }
        KeyCommand::Delete(delete) => life::delete(delete, as_json),
        KeyCommand::CancelDeletion(change) => {
            managed::change(change, Manage::CancelKeyDeletion, "cancel the deletion of", json!({}), as_json, |key| {
                format!("Key {0} stays. It is disabled: `conclave key enable {0}`.", cell(key, "KeyId"))
            })
        }
        KeyCommand::SetDescription(set) => life::set_description(set, as_json),
        KeyCommand::Tag(tag) => life::tag(tag, as_json),
        KeyCommand::Untag(untag) => life::untag(untag, as_json),
        KeyCommand::Rotate(rotate) => rotation::rotate(rotate, as_json),
        KeyCommand::Rotation(rotation) => rotation::run(rotation, as_json),
        KeyCommand::Replicas(one) => replicas::show(one, as_json),
        KeyCommand::Promote(promote) => replicas::promote(promote, as_json),
        KeyCommand::ImportParameters(parameters) => import::parameters(parameters, as_json),
        KeyCommand::Import(import) => import::import(import, as_json),
        KeyCommand::DeleteMaterial(delete) => import::delete(delete, as_json),
        KeyCommand::Encrypt(encrypt) => envelope::encrypt(encrypt, as_json),
        KeyCommand::Decrypt(decrypt) => envelope::decrypt(decrypt, as_json),
        KeyCommand::ReEncrypt(again) => envelope::re_encrypt(again, as_json),
        KeyCommand::DataKey(data_key) => envelope::data_key(data_key, as_json),
        KeyCommand::Policy(command) => policy::run(command, as_json),
    }
}
