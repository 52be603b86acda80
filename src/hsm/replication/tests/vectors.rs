//! The known-answer vectors of `tests/vectors/replication`, from fixed inputs; see the README there.
//!
//! `CONCLAVE_WRITE_VECTORS=1` writes the files anew; that is a change of format.

use std::path::PathBuf;
use std::{env, fs};

use serde_json::{Value, json};

use super::super::super::crypto::aws_lc::mlkem;
use super::*;

fn compare(name: &str, made: &Value) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/replication").join(name);
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

fn party(party: &Party) -> Value {
    json!([party.region, hex(party.domain)])
}

/// A message with what it is made of. `fields` is what follows its two parties.
fn vector<'a, B: Body<'a>>(rsk: &PrivateKey, (from, to): (&Party, &Party), body: B, fields: Value) -> Value {
    let message = Message { from: from.clone(), to: to.clone(), body };
    let signed = message.sign(rsk).unwrap();
    json!({
        "kind": B::KIND.name(),
        "from": party(from),
        "to": party(to),
        "fields": fields,
        "rsk_private": hex(rsk.scalar()),
        "kid": hex(rsk.public().unwrap().kid()),
        "payload": hex(message.encode()),
        "message": hex(&signed),
        "hash": hex(sha384(&signed)),
    })
}

fn offer_fields(offer: &Offer) -> Value {
    let keys = offer.keys.iter().map(|key| json!([key.key_id, key.held]));
    json!([
        hex(offer.offer),
        offer.suite.number(),
        offer.not_after,
        keys.collect::<Value>(),
        hex(offer.rakb.spki()),
        offer.ek.as_ref().map(|ek| hex(ek.as_slice())),
    ])
}

fn shipment_fields(shipment: &Shipment<'_>) -> Value {
    let keys = shipment.keys.iter().map(|key| json!([key.key_id, hex(&key.sealed)]));
    json!([
        hex(shipment.offer),
        hex(shipment.offer_hash),
        shipment.suite.number(),
        hex(shipment.raka.spki()),
        shipment.ct.as_ref().map(|ct| hex(ct.as_slice())),
        keys.collect::<Value>(),
    ])
}

fn receipt_fields(receipt: &Receipt) -> Value {
    let keys = receipt
        .keys
        .iter()
        .map(|key| json!([key.key_id, hex(key.incarnation), key.term, key.version, key.newest, hex(key.commitment)]));
    json!([hex(receipt.offer), hex(receipt.shipment_hash), keys.collect::<Value>()])
}

fn handover_fields(handover: &Handover) -> Value {
    let replica = |replica: &HandedReplica| {
        json!([party(&replica.party), hex(replica.incarnation), replica.held, replica.active])
    };
    let details = |details: &HandoverDetails| {
        let rotation = details.rotation.map(|(days, next)| json!([days, next]));
        let replicas: Value = details.replicas.iter().map(replica).collect();
        json!([hex(details.incarnation), details.version, details.newest, rotation, replicas])
    };
    let keys = handover.keys.iter().map(|key| {
        let details = key.details.as_ref().map(details);
        json!([key.key_id, hex(key.incarnation), key.old_term, key.new_term, party(&key.primary), details])
    });
    json!([keys.collect::<Value>()])
}

#[test]
fn messages() {
    let regions = Regions::new("messages");
    let down = (&regions.a, &regions.b);
    let up = (&regions.b, &regions.a);
    let request = Request { nonce: [1; 16], not_after: 1_700_000_600, keys: vec![id(1), id(2)] };
    let fields = json!([hex(request.nonce), request.not_after, request.keys]);
    let activations = |keys: &[Activation]| -> Value {
        let keys = keys.iter().map(|key| json!([key.key_id, hex(key.incarnation), key.term, key.version]));
        json!([keys.collect::<Value>()])
    };
    let deletions = |keys: &[Deletion]| -> Value {
        let keys = keys.iter().map(|key| json!([key.key_id, hex(key.incarnation), key.term]));
        json!([keys.collect::<Value>()])
    };
    let taken = TakenKey { key_id: id(1), incarnation: [3; 16], new_term: 2 };
    let taken_fields = json!([[[taken.key_id, hex(taken.incarnation), taken.new_term]]]);
    let handover = handover(&regions.b);
    let handed = handover_fields(&handover);
    let (a, b) = (&regions.a_rsk, &regions.b_rsk);
    let vectors = json!([
        vector(b, up, request.clone(), fields.clone()),
        vector(a, down, request, fields),
        vector(a, down, Activate { keys: activation() }, activations(&activation())),
        vector(b, up, Activated { keys: activation() }, activations(&activation())),
        vector(b, up, Deleted { keys: deletion() }, deletions(&deletion())),
        vector(a, down, Forgotten { keys: deletion() }, deletions(&deletion())),
        vector(a, down, handover, handed),
        vector(b, up, Taken { keys: vec![taken] }, taken_fields),
    ]);
    compare("messages.json", &vectors);
}

/// Offer, shipment and receipt of two keys, with all that the two Regions compute.
fn exchange(suite: Suite) -> Value {
    let mut regions = Regions::new(&format!("exchange {}", suite.number()));
    let seed = format!("offer {}", suite.number());
    let (offer_id, not_after) = (regions.entropy.array().unwrap(), 1_700_000_600);
    let secrets = OfferSecrets::generate(suite, &mut Entropy::seeded(&seed)).unwrap();
    let (rakb, ek) = secrets.public().unwrap();
    let keys = vec![Wanted { key_id: id(1), held: 1 }, Wanted { key_id: id(2), held: 0 }];
    let offer = Offer { offer: offer_id, suite, not_after, keys, rakb, ek };
    let offered = regions.answer(offer.clone());

    let exchange = regions.exchange(suite, &offered);
    let seed_a = format!("answer {}", suite.number());
    let (raka, ct, keys) = ExchangeKeys::answer(&exchange, &offer, &mut Entropy::seeded(&seed_a)).unwrap();
    // What was drawn, once more.
    let mut drawn = Entropy::seeded(&seed);
    let rakb_private = PrivateKey::generate(&mut drawn).unwrap();
    let mlkem_seed: Option<[u8; 64]> = ct.as_ref().map(|_| {
        let mut seed = [0; 64];
        drawn.fill(&mut seed).unwrap();
        seed
    });
    let raka_private = PrivateKey::generate(&mut Entropy::seeded(&seed_a)).unwrap();
    let shared = mlkem_seed.zip(ct.as_ref()).map(|(seed, ct)| mlkem::decapsulate(&seed, ct).unwrap());

    let second = KeyRecord { key_id: id(2), public_object: None, versions: Vec::new(), ..record() };
    let records = [record(), second];
    let (mut sealed, mut receipted, mut kept) = (Vec::new(), Vec::new(), Vec::new());
    for (index, record) in records.iter().enumerate() {
        let salt: [u8; 32] = regions.entropy.array().unwrap();
        let place = Place { index, count: records.len(), key_id: &record.key_id };
        let plaintext = record.encode().unwrap();
        let bytes = keys.seal_salted(place, plaintext.expose(), salt).unwrap();
        let commitment = keys.commitment_key().commit(&record.key_id, &record.object, &record.digests()).unwrap();
        kept.push(json!({
            "key_id": record.key_id,
            "object": hex(record.object),
            "salt": hex(salt),
            "plaintext": hex(plaintext.expose()),
            "sealed": hex(&bytes),
            "versions": record.digests().iter().map(|(n, digest)| json!([n, hex(digest)])).collect::<Value>(),
            "commitment": hex(commitment),
        }));
        sealed.push(SealedKey { key_id: record.key_id.clone(), sealed: bytes.into() });
        receipted.push(Receipted {
            key_id: record.key_id.clone(),
            incarnation: [6; 16],
            term: record.term,
            version: record.version,
            newest: record.newest,
            commitment,
        });
    }
    let offer_hash = exchange.offer_hash;
    let shipment = Shipment { offer: offer_id, offer_hash, suite, raka, ct, keys: sealed };
    let shipped = regions.send(shipment.clone());
    let receipt = Receipt { offer: offer_id, shipment_hash: sha384(&shipped), keys: receipted };

    // B opens what A sealed.
    let at_b = secrets.agree(&exchange, &shipment).unwrap();
    for (index, (key, record)) in shipment.keys.iter().zip(&records).enumerate() {
        let place = Place { index, count: records.len(), key_id: &key.key_id };
        assert_eq!(at_b.open(place, &key.sealed).unwrap().expose(), record.encode().unwrap().expose());
    }
    let (rwk, ck, transcript) = keys.for_tests();
    let (down, up) = ((&regions.a, &regions.b), (&regions.b, &regions.a));
    json!({
        "suite": suite.number(),
        "rakb_private": hex(rakb_private.scalar()),
        "mlkem_seed": mlkem_seed.map(hex),
        "raka_private": hex(raka_private.scalar()),
        "mlkem_shared": shared.map(|shared| hex(shared.expose())),
        "transcript": hex(transcript),
        "rwk": hex(rwk),
        "ck": hex(ck),
        "records": kept,
        "offer": vector(&regions.b_rsk, up, offer.clone(), offer_fields(&offer)),
        "shipment": vector(&regions.a_rsk, down, shipment.clone(), shipment_fields(&shipment)),
        "receipt": vector(&regions.b_rsk, up, receipt.clone(), receipt_fields(&receipt)),
    })
}

#[test]
fn exchanges() {
    compare("exchange.json", &json!([exchange(Suite::P384), exchange(Suite::P384MlKem1024)]));
}
