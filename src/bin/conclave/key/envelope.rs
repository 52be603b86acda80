//! `conclave key encrypt`, `decrypt`, `re-encrypt` and `data-key`.

use std::path::Path;

use conclave::error::ErrorKind;
use serde_json::json;
use zeroize::Zeroizing;

use crate::args::{KeyDataKey, KeyDecrypt, KeyEncrypt, KeyReEncrypt};
use crate::files;
use crate::managed::{self, reference, unless_dry};
use crate::output::{self, Failure};
use crate::session::Live;

pub(super) fn encrypt(encrypt: &KeyEncrypt, as_json: bool) -> Result<(), Failure> {
    let change = &encrypt.change;
    let context = context(&encrypt.context)?;
    let plaintext = Zeroizing::new(files::read(&encrypt.stream.input)?);
    let live = Live::logged_in(&change.of.login)?;
    let key = reference(&change.of.key);
    let blob = live.module.kms_encrypt(live.session, &key, &context, &plaintext, change.trial.dry_run);
    let doing = format!("cannot encrypt with {}", change.of.key);
    deliver(unless_dry(&doing, blob)?.as_deref(), &encrypt.stream.output, files::replace, "encrypted", as_json)
}

pub(super) fn decrypt(decrypt: &KeyDecrypt, as_json: bool) -> Result<(), Failure> {
    let context = context(&decrypt.context)?;
    let blob = files::read(&decrypt.stream.input)?;
    let live = Live::logged_in(&decrypt.login)?;
    let key = decrypt.key.as_deref().map(reference);
    let plaintext = live.module.kms_decrypt(live.session, key.as_deref(), &context, &blob, decrypt.trial.dry_run);
    let plaintext = unless_dry("cannot decrypt", plaintext).map_err(|failure| with_advice(failure, "--context"))?;
    let plaintext = plaintext.as_deref().map(Vec::as_slice);
    deliver(plaintext, &decrypt.stream.output, files::replace_secret, "decrypted", as_json)
}

pub(super) fn re_encrypt(again: &KeyReEncrypt, as_json: bool) -> Result<(), Failure> {
    let change = &again.change;
    let (source, context) = (context(&again.source_context)?, context(&again.context)?);
    let blob = files::read(&again.stream.input)?;
    let live = Live::logged_in(&change.of.login)?;
    let key = reference(&change.of.key);
    let blob = live.module.kms_reencrypt(live.session, &source, &blob, &key, &context, change.trial.dry_run);
    let doing = format!("cannot encrypt again with {}", change.of.key);
    let blob = unless_dry(&doing, blob).map_err(|failure| with_advice(failure, "--source-context"))?;
    deliver(blob.as_deref(), &again.stream.output, files::replace, "encrypted again", as_json)
}

/// A blob is refused without a reason, so that nobody learns one; this is the likely one.
fn with_advice(failure: Failure, option: &str) -> Failure {
    let advice = format!("; {option} must say what --context said to encrypt");
    failure.advise(ErrorKind::KmsInvalidCiphertext, &advice)
}

pub(super) fn data_key(data_key: &KeyDataKey, as_json: bool) -> Result<(), Failure> {
    let change = &data_key.change;
    let context = context(&data_key.context)?;
    let live = Live::logged_in(&change.of.login)?;
    let (module, session, key) = (&live.module, live.session, reference(&change.of.key));
    let (with_plaintext, dry_run) = (data_key.plaintext_out.is_some(), change.trial.dry_run);
    let doing = format!("cannot make a data key with {}", change.of.key);
    let (plaintext, public, blob) = match &data_key.spec {
        None => {
            let len = usize::try_from(data_key.bytes).unwrap_or(usize::MAX);
            let made = module.generate_data_key(session, &key, len, &context, with_plaintext, dry_run);
            let Some(made) = unless_dry(&doing, made)? else { return managed::tried(as_json) };
            (made.plaintext, None, made.blob)
        }
        Some(spec) => {
            let made = module.generate_data_key_pair(session, &key, spec, &context, with_plaintext, dry_run);
            let Some(made) = unless_dry(&doing, made)? else { return managed::tried(as_json) };
            (made.private, Some(made.public), made.blob)
        }
    };
    // The blob first: a key in clear without it would be lost, and what it encrypts with it.
    let blob_out = data_key.blob_out.as_deref().unwrap_or_else(|| Path::new("-"));
    files::replace(blob_out, &blob)?;
    if let (Some(out), Some(public)) = (&data_key.public_out, &public) {
        files::replace(out, public)?;
    }
    if let (Some(out), Some(plaintext)) = (&data_key.plaintext_out, &plaintext) {
        files::replace_secret(out, plaintext)?;
    }
    let sentence = match &data_key.plaintext_out {
        Some(out) => format!(
            "{} is the key; delete it when it has been used. {} is the blob, to be kept.",
            out.display(),
            blob_out.display()
        ),
        None => format!("{} is the blob, to be kept: `conclave key decrypt` gives the key.", blob_out.display()),
    };
    let said = json!({
        "blob": blob_out, "plaintext": data_key.plaintext_out, "public": data_key.public_out, "bytes": blob.len(),
    });
    let outputs = [Some(blob_out), data_key.plaintext_out.as_deref(), data_key.public_out.as_deref()];
    files::report_all(&outputs, as_json, &sentence, &said);
    Ok(())
}

/// The encryption context as the module takes it.
fn context(pairs: &[(String, String)]) -> Result<Vec<u8>, Failure> {
    Ok(if pairs.is_empty() { Vec::new() } else { managed::object(pairs)?.to_string().into_bytes() })
}

/// Writes a result; one on the standard output is all there is to be seen.
fn deliver(
    result: Option<&[u8]>,
    out: &Path,
    write: fn(&Path, &[u8]) -> Result<(), Failure>,
    done: &str,
    as_json: bool,
) -> Result<(), Failure> {
    let Some(result) = result else {
        return managed::tried(as_json);
    };
    write(out, result)?;
    if !files::is_standard(out) {
        let sentence = format!("{}: {} bytes, {done}.", out.display(), result.len());
        output::done(as_json, &sentence, &json!({ "file": out, "bytes": result.len() }));
    }
    Ok(())
}
