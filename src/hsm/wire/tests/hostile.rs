//! A host that sends whatever it likes in well-formed requests: the HSM answers, and goes on.

use std::cell::Cell;

use cryptoki_sys as ck;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::header;
use super::sample::{self, Sampler};
use super::serve::One;
use crate::hsm::wire::{Answer, Request, Room, StreamId};
use crate::hsm::{
    Command, Function, Mechanism, Oaep, ParamShape, Params, Place, PrfData, Pss, Raw, Record, Template, Ticket,
    mechanisms, param_shape,
};

const FUNCTIONS: [Function; 7] = [
    Function::Encrypt,
    Function::Decrypt,
    Function::Digest,
    Function::Sign,
    Function::SignRecover,
    Function::Verify,
    Function::VerifyRecover,
];

const YES: &[u8] = &[1];
const NO: &[u8] = &[0];
const P256: &[u8] = &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
const ED25519: &[u8] = &[6, 3, 0x2b, 0x65, 0x70];
const X25519: &[u8] = &[6, 3, 0x2b, 0x65, 0x6e];

/// A key of each kind, for every use.
fn keys(one: &One) -> Vec<Record> {
    let usages =
        |kinds: &[u64]| -> Vec<(u64, Raw<'static>)> { kinds.iter().map(|kind| (*kind, Raw::Bytes(YES))).collect() };
    let common = [(ck::CKA_PRIVATE, Raw::Bytes(NO)), (ck::CKA_EXTRACTABLE, Raw::Bytes(YES))];
    let secret = [
        (ck::CKM_AES_KEY_GEN, &[ck::CKA_ENCRYPT, ck::CKA_DECRYPT, ck::CKA_WRAP, ck::CKA_UNWRAP][..]),
        (ck::CKM_AES_KEY_GEN, &[ck::CKA_SIGN, ck::CKA_VERIFY, ck::CKA_DERIVE]),
        (ck::CKM_GENERIC_SECRET_KEY_GEN, &[ck::CKA_SIGN, ck::CKA_VERIFY]),
        (ck::CKM_GENERIC_SECRET_KEY_GEN, &[ck::CKA_DERIVE]),
    ];
    let len = 32_u64.to_ne_bytes();
    let mut keys = Vec::new();
    for (mechanism, uses) in secret {
        let mut template = usages(uses);
        template.extend(common.iter().cloned());
        template.push((ck::CKA_VALUE_LEN, Raw::Bytes(&len)));
        let (mechanism, template) = (Mechanism::new(mechanism), Template(template));
        let command = Command::GenerateKey { mechanism: &mechanism, template: &template, place: Place::Session };
        keys.extend(one.records(command));
    }
    let bits = 2048_u64.to_ne_bytes();
    let signs: (&[u64], &[u64]) = (&[ck::CKA_VERIFY], &[ck::CKA_SIGN]);
    let ciphers: (&[u64], &[u64]) = (&[ck::CKA_ENCRYPT, ck::CKA_WRAP], &[ck::CKA_DECRYPT, ck::CKA_UNWRAP]);
    let derives: (&[u64], &[u64]) = (&[], &[ck::CKA_DERIVE]);
    let rsa = (ck::CKM_RSA_PKCS_KEY_PAIR_GEN, ck::CKA_MODULUS_BITS, &bits[..]);
    let pairs = [
        (rsa, signs),
        (rsa, ciphers),
        ((ck::CKM_EC_KEY_PAIR_GEN, ck::CKA_EC_PARAMS, P256), signs),
        ((ck::CKM_EC_KEY_PAIR_GEN, ck::CKA_EC_PARAMS, P256), derives),
        ((ck::CKM_EC_EDWARDS_KEY_PAIR_GEN, ck::CKA_EC_PARAMS, ED25519), signs),
        ((ck::CKM_EC_MONTGOMERY_KEY_PAIR_GEN, ck::CKA_EC_PARAMS, X25519), derives),
    ];
    for ((mechanism, kind, value), (public, private)) in pairs {
        let mut public = usages(public);
        public.push((kind, Raw::Bytes(value)));
        let mut private = usages(private);
        private.extend(common.iter().cloned());
        let (mechanism, public, private) = (Mechanism::new(mechanism), Template(public), Template(private));
        keys.extend(one.records(Command::GenerateKeyPair {
            mechanism: &mechanism,
            public: &public,
            public_place: Place::Session,
            private: &private,
            private_place: Place::Session,
        }));
    }
    keys
}

/// Attribute types and values that mean something, so that not everything ends at the first check.
fn template<'a>(s: &mut Sampler<'a>, values: &'a [Vec<u8>]) -> Template<'a> {
    const KINDS: &[u64] = &[
        ck::CKA_CLASS,
        ck::CKA_KEY_TYPE,
        ck::CKA_VALUE,
        ck::CKA_VALUE_LEN,
        ck::CKA_MODULUS_BITS,
        ck::CKA_MODULUS,
        ck::CKA_PUBLIC_EXPONENT,
        ck::CKA_EC_PARAMS,
        ck::CKA_EC_POINT,
        ck::CKA_LABEL,
        ck::CKA_ID,
        ck::CKA_PRIVATE,
        ck::CKA_SENSITIVE,
        ck::CKA_EXTRACTABLE,
        ck::CKA_ENCRYPT,
        ck::CKA_WRAP,
        ck::CKA_ALLOWED_MECHANISMS,
        ck::CKA_WRAP_TEMPLATE,
        ck::CKA_START_DATE,
        ck::CKA_PUBLIC_KEY_INFO,
        ck::CKA_TRUSTED,
    ];
    let mut template = if s.one_of(&[0, 1, 2, 3]) == 0 { s.make() } else { Template::default() };
    let fixed = (0..s.one_of(&[0, 2, 4, 6])).map(|_| {
        let value = &values[s.one_of(&(0..values.len() as u64).collect::<Vec<_>>()) as usize];
        (s.one_of(KINDS), Raw::Bytes(value))
    });
    template.0.extend(fixed);
    template
}

fn values() -> Vec<Vec<u8>> {
    let numbers = [0_u64, 1, 2, 3, 4, 5, 16, 24, 32, 64, 2048, 1 << 32, u64::MAX, ck::CKK_AES, ck::CKK_EC, 0x10];
    let mut values: Vec<Vec<u8>> = numbers.iter().map(|number| number.to_ne_bytes().to_vec()).collect();
    values.extend([YES, NO, &[], P256, ED25519, X25519, b"20260101", &[4, 65, 4], &[1, 0, 1]].map(<[u8]>::to_vec));
    values.push(vec![0x5a; 16]);
    values.push(vec![0xff; 300]);
    values
}

fn index(s: &mut Sampler<'_>, len: usize) -> usize {
    s.make::<u64>() as usize % len
}

/// A parameter of the mechanism's form, mostly with numbers that may do.
fn params<'a>(s: &mut Sampler<'a>, shape: ParamShape) -> Params<'a> {
    const HASHES: &[u64] = &[ck::CKM_SHA256, ck::CKM_SHA_1, ck::CKM_SHA3_512, ck::CKM_SHA256_HMAC, ck::CKM_AES_CMAC];
    const SIZES: &[u64] = &[0, 1, 4, 8, 12, 16, 20, 32, 64, 96, 128, 255, 256, 1 << 31, u64::MAX];
    let iv = |s: &mut Sampler<'a>| s.make::<&'a [u8]>();
    let fixed =
        |s: &mut Sampler<'a>| &b"0123456789abcdef0123456789abcdef"[..s.one_of(&[0, 4, 8, 12, 16, 17, 32]) as usize];
    let oaep =
        |s: &mut Sampler<'a>| Oaep { hash: s.one_of(&HASHES[..3]), mgf: s.one_of(&[1, 2, 3, 9]), label: s.make() };
    match shape {
        ParamShape::None => Params::None,
        ParamShape::Iv16 => Params::Iv(&b"0123456789abcdef"[..s.one_of(&[16, 16, 16, 15]) as usize]),
        ParamShape::OptionalIv => Params::Iv(fixed(s)),
        ParamShape::Ctr => Params::Ctr { counter_bits: s.one_of(SIZES), block: [0xff; 16] },
        ParamShape::Gcm if s.make() => {
            Params::GcmGenerate { iv: fixed(s), fixed_bits: s.one_of(SIZES), aad: s.make(), tag_bits: s.one_of(SIZES) }
        }
        ParamShape::Gcm => Params::Gcm { iv: fixed(s), aad: s.make(), tag_bits: s.one_of(SIZES) },
        ParamShape::MacGeneral => Params::MacGeneral(s.one_of(SIZES)),
        ParamShape::Pss => {
            Params::Pss(Pss { hash: s.one_of(&HASHES[..3]), mgf: s.one_of(&[1, 2, 3, 9]), salt_len: s.one_of(SIZES) })
        }
        ParamShape::Oaep => Params::Oaep(oaep(s)),
        ParamShape::RsaAesKeyWrap => {
            Params::RsaAesKeyWrap { aes_bits: s.one_of(&[128, 256, 0, u64::MAX]), oaep: oaep(s) }
        }
        ParamShape::Ecdh1 => Params::Ecdh1 { kdf: s.one_of(&[1, 2, 6, 99]), shared_data: s.make(), public_data: POINT },
        ParamShape::OptionalEddsa => Params::Eddsa { prehash: s.make(), context: iv(s) },
        ParamShape::Hkdf => {
            Params::Hkdf { extract: s.make(), expand: s.make(), prf: s.one_of(HASHES), salt: s.make(), info: s.make() }
        }
        ParamShape::Pbkd2 => Params::Pbkd2 {
            prf: s.one_of(&[1, 4, 8, 99]),
            salt: s.make(),
            iterations: s.one_of(&[0, 1, 2, u64::MAX]),
            password: s.make(),
        },
        ParamShape::Sp800108 => {
            let mut data: Vec<PrfData<'a>> = s.make();
            data.push(PrfData::Counter { little_endian: s.make(), bits: s.one_of(SIZES) });
            Params::Sp800108 { prf: s.one_of(HASHES), data, additional: s.make() }
        }
        ParamShape::Context => Params::Context(s.make()),
    }
}

/// The generator of P-256, uncompressed.
const POINT: &[u8] = &[
    4, 0x6b, 0x17, 0xd1, 0xf2, 0xe1, 0x2c, 0x42, 0x47, 0xf8, 0xbc, 0xe6, 0xe5, 0x63, 0xa4, 0x40, 0xf2, 0x77, 0x03,
    0x7d, 0x81, 0x2d, 0xeb, 0x33, 0xa0, 0xf4, 0xa1, 0x39, 0x45, 0xd8, 0x98, 0xc2, 0x96, 0x4f, 0xe3, 0x42, 0xe2, 0xfe,
    0x1a, 0x7f, 0x9b, 0x8e, 0xe7, 0xeb, 0x4a, 0x7c, 0x0f, 0x9e, 0x16, 0x2b, 0xce, 0x33, 0x57, 0x6b, 0x31, 0x5e, 0xce,
    0xcb, 0xb6, 0x40, 0x68, 0x37, 0xbf, 0x51, 0xf5,
];

/// A function and a key that the mechanism takes together, if there are; else any.
fn fitting<'k>(one: &One, s: &mut Sampler<'_>, keys: &'k [Record], with: &Mechanism<'_>) -> (Function, &'k Record) {
    let (first, at) = (index(s, FUNCTIONS.len()), index(s, keys.len()));
    let functions = FUNCTIONS[first..].iter().chain(&FUNCTIONS[..first]);
    let mut pairs = functions.flat_map(|function| keys[at..].iter().chain(&keys[..at]).map(|key| (*function, key)));
    let begins = |pair: &(Function, &Record)| one.hsm.begin(&Ticket::public(), pair.0, with, Some(pair.1)).is_ok();
    pairs.find(begins).unwrap_or((FUNCTIONS[first], &keys[at]))
}

/// One request with a key, a mechanism, a parameter and templates that need not fit each other. Whether it
/// was executed.
fn attack(one: &One, keys: &[Record], seed: u64) -> bool {
    let (text, values, room) = (sample::text(seed), values(), Room::new());
    let kinds: Vec<u64> = mechanisms().map(|info| info.kind).collect();
    let s = &mut Sampler::new(seed, &text, &room);
    let mut mechanism: Mechanism<'_> = s.make();
    mechanism.kind = kinds[index(s, kinds.len())];
    if s.one_of(&[0, 1, 2, 3]) != 0 {
        mechanism.params = params(s, param_shape(mechanism.kind).unwrap());
    }
    let ((function, key), other) = (fitting(one, s, keys, &mechanism), &keys[index(s, keys.len())]);
    let mechanism = &mechanism;
    let (first, second) = (&template(s, &values), &template(s, &values));
    let record = (function != Function::Digest || s.make()).then_some(key);
    let input: &[u8] = if s.make() { s.make() } else { &values[index(s, values.len())] };
    let output = s.make::<Option<u32>>().map(|room| room as usize & 0x3ff);
    let place = Place::Session;
    let request = match s.one_of(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]) {
        0 | 1 => Request::OneShot { function, mechanism, record, input, room: output },
        2 => Request::VerifyOneShot { function, mechanism, record, input, signature: s.make() },
        3 => Request::Call(Command::GenerateKey { mechanism, template: first, place }),
        // RSA generation takes its time, and is not what is tried here.
        4 if mechanism.kind != ck::CKM_RSA_PKCS_KEY_PAIR_GEN && mechanism.kind != ck::CKM_RSA_X9_31_KEY_PAIR_GEN => {
            let (public, private) = (first, second);
            let (public_place, private_place) = (place, place);
            Request::Call(Command::GenerateKeyPair { mechanism, public, public_place, private, private_place })
        }
        5 => Request::Call(Command::Derive {
            mechanism,
            base: key,
            salt_key: s.make::<bool>().then_some(other),
            template: first,
            place,
            additional_places: s.make(),
        }),
        6 => Request::Call(Command::Wrap { mechanism, wrapping: key, key: other, room: s.make() }),
        7 => {
            let (unwrapping, version, wrapped) = (key, s.make::<bool>().then_some(other), input);
            Request::Call(Command::Unwrap { mechanism, unwrapping, version, wrapped, template: first, place })
        }
        8 => Request::Call(Command::Create { template: first, place }),
        9 => Request::Call(Command::Copy { source: key, template: first, place }),
        10 => Request::Call(Command::SetAttributes { record: key, template: first }),
        _ => {
            let stream =
                one.with_header(&header(), &Request::Begin { function, mechanism, record }, |answer| match answer {
                    Answer::Stream { stream, .. } => Some(stream),
                    _ => None,
                });
            if let Some(stream) = stream {
                stream_of(one, s, stream, (input, output));
            }
            return stream.is_some();
        }
    };
    !one.ask(&request).starts_with("Error")
}

fn stream_of<'a>(one: &One, s: &mut Sampler<'a>, stream: StreamId, (input, room): (&[u8], Option<usize>)) {
    for _ in 0..s.one_of(&[1, 2, 3, 4]) {
        let request = match s.one_of(&[0, 1, 2, 3, 4, 5, 6, 7]) {
            0..=2 => Request::Update { stream, input, room },
            3 => Request::Finish { stream, room },
            4 => Request::StreamOneShot { stream, input, room },
            5 => Request::Verify { stream, signature: s.make() },
            6 => Request::StreamVerifyOneShot { stream, input, signature: s.make() },
            _ => Request::Save { stream },
        };
        drop(one.ask(&request));
    }
    drop(one.ask(&Request::End { stream }));
}

fn for_seeds(cases: u32, attack: impl Fn(u64)) {
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let attacked = TestRunner::new(config).run(&any::<u64>(), |seed| {
        attack(seed);
        Ok(())
    });
    attacked.unwrap();
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let one = One::new();
    let (keys, done) = (keys(&one), Cell::new(0));
    for_seeds(3000, |seed| done.set(done.get() + u32::from(attack(&one, &keys, seed))));
    assert!(one.streams.is_empty());
    assert!(done.get() > 150, "an attack that gets nowhere shows nothing: {done:?}");
}

#[test]
fn any_request_gets_an_answer() {
    let one = One::new();
    for_seeds(2000, |seed| {
        let (text, room) = (sample::text(seed), Room::new());
        drop(one.ask(&Sampler::new(seed, &text, &room).make()));
    });
}
