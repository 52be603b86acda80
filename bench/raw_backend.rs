//! The crypto back end alone, without a PKCS#11 module around it: what the module is measured
//! against. Reads lines "NAME SECONDS THREADS" and answers each with a line of JSON, as
//! `pkcs11_bench serve` does.

use std::collections::HashMap;
use std::error::Error;
use std::io::{BufRead, Write};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::agreement::{self, UnparsedPublicKey};
use aws_lc_rs::rand::{self, SystemRandom};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{self as sig, EcdsaKeyPair, Ed25519KeyPair, KeyPair, ParsedPublicKey, RsaKeyPair};
use aws_lc_rs::{digest, hmac};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// One operation, repeated; and what makes one for each thread, the key shared among them.
type Step = Box<dyn FnMut() + Send>;
type Factory = Box<dyn Fn() -> Step>;

fn main() -> Result<()> {
    let mut known: HashMap<String, Option<Factory>> = HashMap::new();
    println!(r#"{{"name":"ready","library":"AWS-LC","version":""}}"#);
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let mut words = line.split_whitespace();
        let Some(name) = words.next() else { continue };
        let seconds: f64 = words.next().map_or(Ok(0.3), str::parse)?;
        let threads: usize = words.next().map_or(Ok(1), str::parse)?;
        if !known.contains_key(name) {
            known.insert(name.to_owned(), factory(name)?);
        }
        match known.get(name) {
            Some(Some(factory)) => println!("{}", measure(name, factory, seconds, threads)),
            _ => println!(r#"{{"name":"{name}","rv":"not measured"}}"#),
        }
        std::io::stdout().flush()?;
    }
    Ok(())
}

fn measure(name: &str, factory: &Factory, seconds: f64, threads: usize) -> String {
    let half = Duration::from_secs_f64(seconds / 2.0);
    let barrier = Barrier::new(threads);
    let results: Vec<(f64, Vec<f32>)> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|_| {
                let (mut step, barrier) = (factory(), &barrier);
                scope.spawn(move || {
                    step();
                    barrier.wait();
                    let rate = rate(&mut step, half);
                    barrier.wait();
                    let samples = sample(&mut step, half);
                    barrier.wait();
                    (rate, samples)
                })
            })
            .collect();
        running.into_iter().filter_map(|thread| thread.join().ok()).collect()
    });
    let rate: f64 = results.iter().map(|(rate, _)| rate).sum();
    let mut samples: Vec<f32> = results.into_iter().flat_map(|(_, samples)| samples).collect();
    samples.sort_by(f32::total_cmp);
    let at = |percent: usize| samples.get(samples.len() * percent / 100).copied().unwrap_or_default();
    format!(r#"{{"name":"{name}","threads":{threads},"rate":{rate:.6},"failed":0,"p50":{},"p99":{}}}"#, at(50), at(99))
}

/// Operations a second, the clock read only now and then.
fn rate(step: &mut Step, time: Duration) -> f64 {
    let start = Instant::now();
    let (mut done, mut batch, mut last) = (0u64, 1u64, Duration::ZERO);
    loop {
        for _ in 0..batch {
            step();
        }
        done += batch;
        let elapsed = start.elapsed();
        if elapsed >= time {
            return done as f64 / elapsed.as_secs_f64();
        }
        if elapsed - last < Duration::from_micros(200) && batch < 4096 {
            batch *= 2;
        }
        last = elapsed;
    }
}

/// The duration of each operation, in microseconds.
fn sample(step: &mut Step, time: Duration) -> Vec<f32> {
    let start = Instant::now();
    let mut samples = Vec::with_capacity(1 << 18);
    let mut last = start;
    while last - start < time {
        step();
        let now = Instant::now();
        if samples.len() < samples.capacity() {
            samples.push((now - last).as_nanos() as f32 / 1e3);
        }
        last = now;
    }
    samples
}

fn factory(name: &str) -> Result<Option<Factory>> {
    let made = match name {
        "random-32" => random()?,
        "sha256-64" => hash(&digest::SHA256, 64),
        "sha256-16k" => hash(&digest::SHA256, 16384),
        "sha512-16k" => hash(&digest::SHA512, 16384),
        "aes-gcm-32" => seal(32)?,
        "aes-gcm-4k" => seal(4096)?,
        "aes-gcm-1m" => seal(1 << 20)?,
        "hmac-64" => mac()?,
        "ecdh-p256" => agree(&agreement::ECDH_P256)?,
        "x25519" => agree(&agreement::X25519)?,
        _ => {
            let Some((key, sign)) = name
                .strip_suffix("-sign")
                .map(|key| (key, true))
                .or_else(|| name.strip_suffix("-verify").map(|key| (key, false)))
            else {
                return Ok(None);
            };
            match key {
                "rsa2048" => rsa(KeySize::Rsa2048, sign)?,
                "rsa3072" => rsa(KeySize::Rsa3072, sign)?,
                "rsa4096" => rsa(KeySize::Rsa4096, sign)?,
                "p256" => ecdsa(&sig::ECDSA_P256_SHA256_FIXED_SIGNING, &sig::ECDSA_P256_SHA256_FIXED, sign)?,
                "p384" => ecdsa(&sig::ECDSA_P384_SHA384_FIXED_SIGNING, &sig::ECDSA_P384_SHA384_FIXED, sign)?,
                "ed25519" => ed25519(sign)?,
                _ => return Ok(None),
            }
        }
    };
    Ok(Some(made))
}

fn random() -> Result<Factory> {
    Ok(Box::new(|| {
        let mut output = [0; 32];
        Box::new(move || rand::fill(&mut output).expect("random"))
    }))
}

fn hash(algorithm: &'static digest::Algorithm, size: usize) -> Factory {
    Box::new(move || {
        let data = vec![b'x'; size];
        Box::new(move || {
            std::hint::black_box(digest::digest(algorithm, &data));
        })
    })
}

fn seal(size: usize) -> Result<Factory> {
    let key = Arc::new(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32])?));
    Ok(Box::new(move || {
        let key = key.clone();
        let input = vec![b'x'; size];
        let mut output = vec![0; size];
        let mut counter = 0u64;
        Box::new(move || {
            counter += 1;
            let mut iv = [0; 12];
            iv[..8].copy_from_slice(&counter.to_le_bytes());
            output.copy_from_slice(&input);
            let nonce = Nonce::assume_unique_for_key(iv);
            let tag = key.seal_in_place_separate_tag(nonce, Aad::empty(), &mut output).expect("seal");
            std::hint::black_box(tag.as_ref().len());
        })
    }))
}

fn mac() -> Result<Factory> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, &[7; 32]);
    Ok(Box::new(move || {
        let key = key.clone();
        Box::new(move || {
            std::hint::black_box(hmac::sign(&key, &[b'x'; 64]));
        })
    }))
}

fn agree(algorithm: &'static agreement::Algorithm) -> Result<Factory> {
    let key = Arc::new(agreement::PrivateKey::generate(algorithm)?);
    let peer = agreement::PrivateKey::generate(algorithm)?.compute_public_key()?;
    let peer = UnparsedPublicKey::new(algorithm, peer.as_ref().to_vec());
    Ok(Box::new(move || {
        let (key, peer) = (key.clone(), peer.clone());
        Box::new(move || {
            let secret = agreement::agree(&key, &peer, aws_lc_rs::error::Unspecified, |secret| {
                Ok(std::hint::black_box(secret.len()))
            });
            secret.expect("agree");
        })
    }))
}

/// A step that signs, or one that verifies the signature made once.
fn signature(
    sign: bool,
    message: &'static [u8],
    make: impl Fn() -> Vec<u8> + Send + Sync + 'static,
    public: ParsedPublicKey,
) -> Factory {
    let (make, public) = (Arc::new(make), Arc::new(public));
    let signature = if sign { Vec::new() } else { make() };
    Box::new(move || {
        let (make, public, signature) = (make.clone(), public.clone(), signature.clone());
        if sign {
            Box::new(move || {
                std::hint::black_box(make());
            })
        } else {
            Box::new(move || public.verify_sig(message, &signature).expect("verify"))
        }
    })
}

fn rsa(size: KeySize, sign: bool) -> Result<Factory> {
    const MESSAGE: &[u8] = &[b'x'; 32];
    let pair = RsaKeyPair::generate(size)?;
    let public = ParsedPublicKey::new(&sig::RSA_PKCS1_2048_8192_SHA256, pair.public_key())?;
    let make = move || {
        let mut signature = vec![0; pair.public_modulus_len()];
        let rng = SystemRandom::new();
        pair.sign(&sig::RSA_PKCS1_SHA256, &rng, MESSAGE, &mut signature).expect("sign");
        signature
    };
    Ok(signature(sign, MESSAGE, make, public))
}

fn ecdsa(
    algorithm: &'static sig::EcdsaSigningAlgorithm,
    verification: &'static sig::EcdsaVerificationAlgorithm,
    sign: bool,
) -> Result<Factory> {
    const MESSAGE: &[u8] = &[b'x'; 32];
    let pair = EcdsaKeyPair::generate(algorithm)?;
    let public = ParsedPublicKey::new(verification, pair.public_key())?;
    let make = move || pair.sign(&SystemRandom::new(), MESSAGE).expect("sign").as_ref().to_vec();
    Ok(signature(sign, MESSAGE, make, public))
}

fn ed25519(sign: bool) -> Result<Factory> {
    const MESSAGE: &[u8] = &[b'x'; 64];
    let pair = Ed25519KeyPair::generate()?;
    let public = ParsedPublicKey::new(&sig::ED25519, pair.public_key())?;
    Ok(signature(sign, MESSAGE, move || pair.sign(MESSAGE).as_ref().to_vec(), public))
}
