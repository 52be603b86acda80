//! The known-answer vectors of `tests/vectors/session`, from fixed inputs; see the README there.
//!
//! `CONCLAVE_WRITE_VECTORS=1` writes the files anew; that is a change of format.

use std::path::PathBuf;
use std::{env, fs};

use serde_json::{Value, json};

use super::super::super::crypto::aws_lc::mlkem;
use super::super::message::{Body, SessionReply, SessionRequest, Signed};
use super::super::schedule::{Connection, Negotiated};
use super::*;
use crate::hsm::crypto::SecretBytes;
use crate::hsm::domain::cbor::Encoder;
use crate::hsm::domain::keys::{Agreement, PrivateKey, PublicKey};
use crate::hsm::domain::{Kind, key_id_of};
use crate::hsm::ephemeral::Ephemeral;
use crate::hsm::session::link::End;

fn compare(name: &str, made: &Value) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/session").join(name);
    if env::var_os("CONCLAVE_WRITE_VECTORS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, serde_json::to_string_pretty(made).unwrap() + "\n").unwrap();
    }
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let kept: Value = serde_json::from_str(&text).unwrap();
    assert!(kept == *made, "{name} is not what the code makes");
}

fn hex(bytes: impl AsRef<[u8]>) -> String {
    hex::encode(bytes)
}

#[test]
fn clear() {
    let vector = |of: &str, fields: Value, wire: Vec<u8>| json!({ "of": of, "fields": fields, "wire": hex(wire) });
    let request = |fields, request: Request<'_>| vector("host", fields, request.to_wire().unwrap());
    let reply = |fields, reply: Reply<'_>| vector("hsm", fields, reply.to_wire().unwrap());
    let status = Status { hsm: [1; 16], kid: [2; 32], domain: None, version: 0, hash: None, member: false };
    let full = Status { domain: Some([3; 16]), version: 500, hash: Some([4; 48]), member: true, ..status.clone() };
    let fields = |status: &Status| {
        let Status { hsm, kid, domain, version, hash, member } = status;
        json!([0, hex(hsm), hex(kid), domain.map(hex), version, hash.map(hex), member])
    };
    let refusals = Code::ALL.map(|code| reply(json!([255, code.number()]), Reply::Refused(code)));
    let bring = Request::Bring { origin: &[1; 3], newest: &[2; 4], after: 7, entries: vec![&[3; 5], &[4; 30]] };
    let mut vectors = vec![
        request(json!([0]), Request::Status),
        request(json!([1, hex([1; 3]), hex([2; 4]), 7, [hex([3; 5]), hex([4; 30])]]), bring),
        request(json!([2, hex([5; 6])]), Request::Negotiate(&[5; 6])),
        request(json!([3, hex([6; 7]), hex([7; 120])]), Request::Connect { ekt: &[6; 7], qc: [7; 120] }),
        request(json!([4]), Request::Admin),
        reply(fields(&status), Reply::Status(status)),
        reply(fields(&full), Reply::Status(full)),
        reply(json!([2, hex([8; 9])]), Reply::Negotiate(&[8; 9])),
        reply(json!([3, hex([9; 120]), 3, hex([10; 48])]), Reply::Connect { qs: [9; 120], version: 3, hash: [10; 48] }),
        reply(json!([4]), Reply::Admin),
    ];
    vectors.extend(refusals);
    compare("clear.json", &json!(vectors));
}

/// A negotiation and a connection, with all that the two sides compute.
fn session(suite: Suite) -> Value {
    let world = World::new(&format!("session {}", suite.number()), suite);
    let (issuer, member, domain) = (world.hsm(0), world.hsm(1), world.domain());
    let (state, state_hash) = (world.follower.state().clone(), *world.follower.hash());

    let seeded =
        |what: &str| Circumstances { entropy: Entropy::seeded(&format!("{what} {}", suite.number())), now: NOW };
    let begun = negotiate_at(&world.key, &world.process, &world.follower, &issuer, 1800, &mut seeded("message 1"));
    let (negotiation, message1) = begun.unwrap();
    let hsm = &world.hsms[0];
    let message2 = answer_at(&hsm.opened, &hsm.own, &hsm.seen, &message1, &mut seeded("message 2")).unwrap();
    let session = negotiation.finish_at(&world.follower, &message2, NOW).unwrap();

    // What was drawn, once more.
    let mut drawn = seeded("message 1").entropy;
    let q1_private = PrivateKey::generate(&mut drawn).unwrap();
    let seed: Option<[u8; mlkem::SEED_LEN]> = (suite == Suite::P384MlKem1024).then(|| {
        let mut seed = [0; mlkem::SEED_LEN];
        drawn.fill(&mut seed).unwrap();
        seed
    });
    let q2_private = PrivateKey::generate(&mut seeded("message 2").entropy).unwrap();
    let host_key = state.hosts[0].signing;
    let hsm_key = world.follower.member(&issuer).unwrap();
    let request: SessionRequest =
        Signed::decode::<SessionRequest>(&message1).unwrap().verify(&host_key, &domain).unwrap();
    let reply: SessionReply<'_> =
        Signed::decode::<SessionReply<'_>>(&message2).unwrap().verify(&hsm_key, &domain).unwrap();
    let kem = seed.zip(reply.ct.as_ref()).map(|(seed, ct)| mlkem::decapsulate(&seed, ct).unwrap());
    let shared = Ephemeral::generate(suite, &mut seeded("message 1").entropy).unwrap();
    let shared = shared.agree(&reply.q2, reply.ct.as_ref()).unwrap().unwrap();
    let negotiated = Negotiated {
        suite,
        host: &request.host,
        hsm: &issuer,
        host_kid: &host_key.kid(),
        hsm_kid: &hsm_key.kid(),
        domain: &domain,
        region: &state.region,
        request: &sha384(&message1),
        q1: &request.q1,
        q2: &reply.q2,
        version: state.version,
        state: &state_hash,
        ct: reply.ct.as_ref(),
    };
    let (ekt, sk) = session.for_tests();
    let kem_hex = |bytes: &Option<crate::hsm::ephemeral::KemBytes>| bytes.as_ref().map(|bytes| hex(bytes.as_slice()));
    json!({
        "suite": suite.number(),
        "now": NOW,
        "domain": hex(domain),
        "region": state.region,
        "version": state.version,
        "state_hash": hex(state_hash),
        "host": hex(request.host),
        "host_private": hex(world.key.private().scalar()),
        "hsm": hex(issuer),
        "hsm_private": hex(hsm.own.signing().scalar()),
        "process_secret": hex(world.process.secret()),
        "q1_private": hex(q1_private.scalar()),
        "mlkem_seed": seed.map(hex),
        "q2_private": hex(q2_private.scalar()),
        "mlkem_shared": kem.map(|kem| hex(kem.expose())),
        "message1": {
            "fields": [
                suite.number(), hex(request.host), hex(request.hsm), hex(request.process), hex(request.nonce),
                request.lifetime, request.not_after, request.version, hex(request.q1.spki()), kem_hex(&request.ek),
            ],
            "payload": hex(request.encode()),
            "message": hex(&message1),
            "hash": hex(sha384(&message1)),
        },
        "message2": {
            "fields": [
                hex(reply.request), hex(reply.hsm), hex(reply.host), reply.version, hex(reply.state), reply.valid_from,
                reply.valid_until, hex(reply.q2.spki()), kem_hex(&reply.ct), hex(reply.esk), hex(reply.ekt),
            ],
            "payload": hex(reply.encode()),
            "message": hex(&message2),
        },
        "transcript": hex(negotiated.transcript()),
        "nk": hex(*negotiated.key(&shared).unwrap()),
        "sk": hex(sk),
        "ekt": ekt_vector(ekt, &domain, &state.region),
        "connection": connection(&world, suite, &session, &member),
    })
}

/// What the EKT holds. Its domain key is not among the vectors: the same is sealed again with one that is.
fn ekt_vector(ekt: &[u8], domain: &[u8; 16], region: &str) -> Value {
    use super::super::super::domain::Sealer;

    let key = SecretBytes::copy_of(&[0x5a; 32]).unwrap();
    let sealer = Sealer::new(*domain, Arc::from(region), Arc::new(key)).unwrap();
    let mut e = Encoder::new();
    e.array(7).uint(1).bytes(&[1; 32]).bytes(&[2; 16]).bytes(&[3; 32]).bytes(&[4; 16]).uint(NOW).uint(NOW + 1800);
    let plaintext = e.finish();
    let (object, salt) = ([6; 16], [7; 32]);
    let sealed = sealer.seal_salted(Kind::Session, &object, 1, &plaintext, salt).unwrap();
    let mut e = Encoder::new();
    e.array(2).bytes(&object).bytes(&sealed);
    assert_eq!(&key_id_of(&sealed).unwrap(), sealer.key_id());
    json!({
        "session": hex(ekt),
        "session_hash": hex(sha384(ekt)),
        "domain_key": hex([0x5a; 32]),
        "object": hex(object),
        "salt": hex(salt),
        "plaintext": hex(plaintext),
        "ekt": hex(e.finish()),
    })
}

fn connection(world: &World, suite: Suite, session: &Session, member: &HsmId) -> Value {
    let seeded =
        |what: &str| Circumstances { entropy: Entropy::seeded(&format!("{what} {}", suite.number())), now: NOW };
    let begun = session.connect_at(&world.follower, member, &mut seeded("connect").entropy);
    let (connecting, request) = begun.unwrap();
    let Ok(Request::Connect { ekt, qc }) = Request::decode(&request[4..]) else { unreachable!() };
    let hsm = &world.hsms[1];
    let accepted = accept_at(&hsm.opened, &hsm.own, ekt, &qc, &mut seeded("accept"));
    let (reply, mut at_hsm, peer) = accepted.unwrap();
    let finished = connecting.finish(session, &world.process, &world.follower, &reply[4..]);
    let (mut at_host, hello) = finished.unwrap();
    let Ok(Reply::Connect { qs, version, hash }) = Reply::decode(&reply[4..]) else { unreachable!() };
    let (qc, qs) = (PublicKey::from_spki(&qc).unwrap(), PublicKey::from_spki(&qs).unwrap());
    let made = Connection {
        suite,
        ekt: &sha384(ekt),
        qc: &qc,
        qs: &qs,
        hsm: member,
        host: &peer.host,
        domain: world.follower.domain(),
        version,
        state: &hash,
    };
    let qc_private = PrivateKey::generate(&mut seeded("connect").entropy).unwrap();
    let qs_private = PrivateKey::generate(&mut seeded("accept").entropy).unwrap();
    assert_eq!(*qc_private.shared(&qs).unwrap(), *qs_private.shared(&qc).unwrap());
    let sk = SecretBytes::copy_of(session.for_tests().1).unwrap();
    let keys = made.keys(&qc_private, &qs, &sk).unwrap();

    let mut welcome = Vec::new();
    at_hsm.greet(&hello[4..], &peer, &mut welcome).unwrap();
    at_host.greeted(&welcome[4..]).unwrap();
    let mut exchanged = vec![
        json!({ "from": "host", "request": 0, "message": hex(world.process.secret()), "wire": hex(&hello) }),
        json!({ "from": "hsm", "request": 0, "message": "00", "wire": hex(&welcome) }),
    ];
    for (request, (from_host, from_hsm)) in [(&b"ping"[..], &b"pong"[..]), (b"", b"a longer reply")].iter().enumerate()
    {
        at_host.begin_request();
        at_hsm.begin_request();
        for (end, message, link) in [("host", from_host, &mut at_host), ("hsm", from_hsm, &mut at_hsm)] {
            let mut wire = Vec::new();
            link.seal(message, &mut wire).unwrap();
            exchanged.push(json!({ "from": end, "request": request + 1, "message": hex(message), "wire": hex(wire) }));
        }
    }
    json!({
        "hsm": hex(member),
        "qc_private": hex(qc_private.scalar()),
        "qs_private": hex(qs_private.scalar()),
        "request": hex(&request),
        "reply": hex(&reply),
        "transcript": hex(made.transcript()),
        "to_hsm": hex(&keys[..32]),
        "to_host": hex(&keys[32..]),
        "frames": exchanged,
    })
}

#[test]
fn sessions() {
    compare("session.json", &json!([session(Suite::P384), session(Suite::P384MlKem1024)]));
}

/// A message of several frames: its bytes are n mod 251, its frames are known by their hashes.
#[test]
fn long_messages() {
    let keys: [u8; 64] = std::array::from_fn(|n| n as u8);
    let mut link = Link::new(End::Host, &keys, NOW).unwrap();
    (0..300).for_each(|_| link.begin_request());
    let vectors = [65_535, 65_536, 65_537, 150_000].map(|len| {
        let message: Vec<u8> = (0..len).map(|n| (n % 251) as u8).collect();
        let mut wire = Vec::new();
        link.seal(&message, &mut wire).unwrap();
        let frames: Vec<_> = frames(&wire).iter().map(|f| json!([f.len(), hex(sha384(f))])).collect();
        json!({ "len": len, "frames": frames })
    });
    compare("frames.json", &json!({ "keys": hex(keys), "request": 300, "messages": vectors }));
}
