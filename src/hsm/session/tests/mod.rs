//! Sessions of a host with the HSMs of a fleet: what is agreed, and everything that is refused.

mod codec;
mod frames;
mod measure;
mod refusals;
mod vectors;

use std::sync::Arc;

use p384::pkcs8::{EncodePrivateKey, LineEnding};
use pkcs8::PrivateKeyInfoRef;
use pkcs8::pkcs5::{pbes2, scrypt};

use super::super::crypto::Entropy;
use super::super::domain::tests::ceremony::{self, NOW, Person};
use super::super::domain::{Change, Circumstances, Opened, OwnKeys};
use super::super::ephemeral::Suite;
use super::host::negotiate_at;
use super::member::{accept_at, answer_at};
use super::*;

/// A founded fleet that a host belongs to. All randomness comes from a seed.
struct World {
    entropy: Entropy,
    people: Vec<Person>,
    hsms: Vec<Hsm>,
    /// The first token, and the entries since.
    origin: Vec<u8>,
    newest: Vec<u8>,
    log: Vec<Vec<u8>>,
    key: HostKey,
    process: Process,
    follower: Follower,
}

struct Hsm {
    own: Arc<OwnKeys>,
    opened: Opened,
    seen: Seen,
}

/// Two ends that have greeted each other, ready for request 1.
struct Pair {
    host: Link,
    hsm: Link,
    peer: Peer,
}

impl World {
    fn new(seed: &str, suite: Suite) -> Self {
        let mut at = Circumstances { entropy: Entropy::seeded(seed), now: NOW };
        let own = Arc::new(OwnKeys::generate(&mut at.entropy).unwrap());
        let (opened, token) = Opened::provision("fleet", Arc::clone(&own), &mut at).unwrap();
        let people = ceremony::three(&mut at.entropy);
        let key = HostKey::of(super::super::domain::keys::PrivateKey::generate(&mut at.entropy).unwrap()).unwrap();
        let process = Process::generate(&mut at.entropy).unwrap();
        let follower = Follower::of(Arc::clone(opened.public()));
        let hsms = vec![Hsm { own, opened, seen: Seen::default() }];
        let (origin, newest) = (token.bytes.clone(), token.bytes);
        let entropy = at.entropy;
        let mut world = Self { entropy, people, hsms, origin, newest, log: Vec::new(), key, process, follower };
        let founding = ceremony::founding(world.hsms[0].opened.state(), &world.people, Vec::new());
        world.run(founding);
        world.grow();
        let domain = world.domain();
        let host = ceremony::host(&mut world.entropy, "web", world.key.private(), &domain);
        world.run(Change::AdmitHost { host });
        if suite == Suite::P384MlKem1024 {
            world.run(Change::AllowSuite { suite: 2, allowed: true });
        }
        world
    }

    fn domain(&self) -> [u8; 16] {
        self.hsms[0].opened.state().domain
    }

    fn at(&mut self, now: u64) -> Circumstances {
        let seed = hex::encode(self.entropy.array::<16>().unwrap());
        Circumstances { entropy: Entropy::seeded(&seed), now }
    }

    /// All sign, the first HSM executes, the others and the host follow.
    fn run(&mut self, change: Change) {
        self.run_at(0, change);
    }

    fn run_at(&mut self, hsm: usize, change: Change) {
        let mut at = self.at(NOW);
        let opened = &self.hsms[hsm].opened;
        let proposal = ceremony::propose(opened.state(), change, &mut at);
        let command = ceremony::sign(proposal, &self.people.iter().collect::<Vec<_>>());
        let executed = opened.execute(&command, &mut at).unwrap();
        self.newest = executed.token.bytes;
        self.log.push(executed.entry.clone());
        self.hsms[hsm].opened = executed.opened;
        for other in (0..self.hsms.len()).filter(|n| *n != hsm) {
            let hsm = &mut self.hsms[other];
            // Whom the change expels stays where it was.
            let public = hsm.opened.public().adopt_bytes(&self.newest, std::slice::from_ref(&executed.entry), NOW);
            if let Ok(opened) = public.and_then(|public| hsm.opened.advance(public)) {
                hsm.opened = opened;
            }
        }
        self.follower = self.follower.advance_at(&self.newest, &[executed.entry], NOW).unwrap();
    }

    /// Admits one more HSM, which takes the history against the fingerprint of the newest state.
    fn grow(&mut self) {
        let own = Arc::new(OwnKeys::generate(&mut self.entropy).unwrap());
        let hsm = own.claim("another", &self.domain()).unwrap();
        self.run(Change::AdmitHsm { hsm });
        let follower = Follower::replay_at(&self.origin, &self.newest, &self.log, self.follower.hash(), NOW).unwrap();
        let opened = Opened::as_member(Arc::clone(follower.public()), Arc::clone(&own)).unwrap();
        self.hsms.push(Hsm { own, opened, seen: Seen::default() });
    }

    fn host(&self) -> [u8; 16] {
        self.follower.host(&self.key.kid()).unwrap()
    }

    fn hsm(&self, n: usize) -> HsmId {
        *self.hsms[n].own.id()
    }

    fn begin(&mut self, hsm: usize) -> (Negotiation, Vec<u8>) {
        let (id, mut at) = (self.hsm(hsm), self.at(NOW));
        negotiate_at(&self.key, &self.process, &self.follower, &id, 1800, &mut at).unwrap()
    }

    fn answer(&mut self, hsm: usize, message1: &[u8], now: u64) -> Result<Vec<u8>, Refused> {
        let mut at = self.at(now);
        let Hsm { own, opened, seen } = &self.hsms[hsm];
        answer_at(opened, own, seen, message1, &mut at)
    }

    fn session(&mut self, hsm: usize) -> Session {
        let (negotiation, message1) = self.begin(hsm);
        let message2 = self.answer(hsm, &message1, NOW).unwrap();
        negotiation.finish_at(&self.follower, &message2, NOW).unwrap()
    }

    fn accept(&mut self, hsm: usize, request: &[u8], now: u64) -> Result<(Vec<u8>, Link, Peer), Refused> {
        let mut at = self.at(now);
        let Request::Connect { ekt, qc } = Request::decode(&request[4..])? else { unreachable!() };
        accept_at(&self.hsms[hsm].opened, &self.hsms[hsm].own, ekt, &qc, &mut at)
    }

    fn connect(&mut self, session: &Session, hsm: usize) -> Result<Pair, Refused> {
        let (connecting, request) = session.connect(&self.follower, &self.hsm(hsm)).unwrap();
        let (reply, mut at_hsm, peer) = self.accept(hsm, &request, NOW)?;
        let (mut at_host, hello) = connecting.finish(session, &self.process, &self.follower, &reply[4..]).unwrap();
        let mut out = Vec::new();
        at_hsm.greet(&hello[4..], &peer, &mut out)?;
        at_host.greeted(&out[4..])?;
        at_hsm.begin_request();
        at_host.begin_request();
        Ok(Pair { host: at_host, hsm: at_hsm, peer })
    }

    fn pair(seed: &str) -> Pair {
        let mut world = Self::new(seed, Suite::P384);
        let session = world.session(0);
        world.connect(&session, 1).unwrap()
    }
}

/// The frames in what was sealed, each without its length.
fn frames(wire: &[u8]) -> Vec<Vec<u8>> {
    let (mut rest, mut frames) = (wire, Vec::new());
    while let Some((len, after)) = rest.split_first_chunk::<4>() {
        let (frame, next) = after.split_at(u32::from_be_bytes(*len) as usize);
        frames.push(frame.to_vec());
        rest = next;
    }
    frames
}

fn code<T>(outcome: Result<T, Refused>) -> Option<Code> {
    outcome.err().map(|refused| refused.code)
}

#[test]
fn a_session_connects_with_every_member() {
    for suite in [Suite::P384, Suite::P384MlKem1024] {
        let mut world = World::new("connects", suite);
        let session = world.session(0);
        assert_eq!((session.valid_until(), *session.issuer()), (NOW + 1800, world.hsm(0)));
        for hsm in [0, 1, 1] {
            let mut pair = world.connect(&session, hsm).unwrap();
            let expected = Peer {
                host: world.host(),
                host_name: "web".to_owned(),
                process: world.process.id(),
                issuer: world.hsm(0),
                valid_until: NOW + 1800,
                state_version: world.follower.version(),
            };
            assert_eq!(pair.peer, expected);
            for len in [0, 1, 100, 65_535, 65_536, 65_537, 200_000] {
                let message: Vec<u8> = (0..len).map(|n| n as u8).collect();
                pair.crosses(&message);
                pair.host.begin_request();
                pair.hsm.begin_request();
            }
        }
    }
}

impl Pair {
    /// That a message arrives at the HSM, and comes back.
    fn crosses(&mut self, message: &[u8]) {
        arrives(&mut self.host, &mut self.hsm, message);
        arrives(&mut self.hsm, &mut self.host, message);
    }
}

fn arrives(from: &mut Link, to: &mut Link, message: &[u8]) {
    let (mut wire, mut arrived) = (Vec::new(), Default::default());
    from.seal(message, &mut wire).unwrap();
    let frames = frames(&wire);
    assert_eq!(frames.len(), message.len().div_ceil(65_536).max(1));
    for (n, frame) in frames.iter().enumerate() {
        assert_eq!(to.open(frame, &mut arrived).unwrap(), n + 1 == frames.len());
    }
    assert_eq!(*arrived, *message);
}

#[test]
fn sessions_are_not_the_same_twice() {
    let mut world = World::new("twice", Suite::P384);
    let (a, b) = (world.session(0), world.session(0));
    assert_ne!(a.for_tests(), b.for_tests());
    let (mut one, mut two) = (world.connect(&a, 1).unwrap(), world.connect(&a, 1).unwrap());
    let (mut first, mut second) = (Vec::new(), Vec::new());
    one.host.seal(b"ping", &mut first).unwrap();
    two.host.seal(b"ping", &mut second).unwrap();
    assert_ne!(first, second);
}

#[test]
fn a_history_is_taken_by_the_fingerprint_of_any_state_on_its_way() {
    let world = World::new("history", Suite::P384);
    let replay = |newest: &[u8], log: &[Vec<u8>], fingerprint: &[u8; 48]| {
        Follower::replay_at(&world.origin, newest, log, fingerprint, NOW)
    };
    let origin = Follower::replay_at(&world.origin, &world.origin, &[], &fingerprint(&world.origin), NOW).unwrap();
    for known in [fingerprint(&world.origin), *world.follower.hash()] {
        let follower = replay(&world.newest, &world.log, &known).unwrap();
        assert_eq!((follower.version(), follower.hash()), (4, world.follower.hash()));
        assert_eq!((follower.domain(), follower.region()), (&world.domain(), "eu-north"));
        assert_eq!(follower.members().len(), 2);
    }
    assert!(replay(&world.newest, &world.log, &[7; 48]).is_err());
    assert!(replay(&world.newest, &world.log[1..], world.follower.hash()).is_err());
    assert!(replay(&world.newest, &world.log[..2], world.follower.hash()).is_err());
    assert!(replay(&world.origin, &world.log, world.follower.hash()).is_err());
    let mut damaged = world.newest.clone();
    *damaged.last_mut().unwrap() ^= 1;
    assert!(replay(&damaged, &world.log, world.follower.hash()).is_err());
    // Forward it goes with the log, and never back.
    assert!(origin.advance_at(&world.newest, &[], NOW).is_err());
    let newest = origin.advance_at(&world.newest, &world.log, NOW).unwrap();
    assert_eq!(newest.hash(), world.follower.hash());
    assert!(newest.advance_at(&world.origin, &[], NOW).is_err());
    assert_eq!(newest.advance_at(&world.newest, &[], NOW).unwrap().hash(), newest.hash());
}

fn fingerprint(token: &[u8]) -> [u8; 48] {
    *super::super::domain::PublicState::of_bytes(token).unwrap().hash()
}

/// By `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -aes-256-cbc -pass pass:"a passphrase"`.
const ENCRYPTED: &str = "\
-----BEGIN ENCRYPTED PRIVATE KEY-----
MIIBHDBXBgkqhkiG9w0BBQ0wSjApBgkqhkiG9w0BBQwwHAQIIsT5mviWp6sCAggA
MAwGCCqGSIb3DQIJBQAwHQYJYIZIAWUDBAEqBBBFDD3dCukPcJKALBoZnfGcBIHA
dHwFxdHBkxwa3vqiiuhTS+E1/oVZT7heChM3sX/8pLI3U13d/R/ncYzy70moaPYt
6SrWL0DS8LPKWTfZGWoLDcXSTzggJdmxzvspvheePaL32OXp7lI56Vc9J5AX9hU8
J734FHb0hhkqubopU8k/CyfbjjGYAznjiQrHkFDXXC4xBpyGjGyNutp66OfTbFyL
OEZrnv2I95VmUGFQgsIPwM0Wjtd73R6hWBTYYzMJxK08LuyBxQvlO4mPEprHWqeH
-----END ENCRYPTED PRIVATE KEY-----
";

#[test]
fn a_host_key_may_be_under_a_passphrase() {
    let read = |pem: &str, passphrase: Option<&[u8]>| HostKey::from_pem(pem.as_bytes(), passphrase);
    let key = read(ENCRYPTED, Some(b"a passphrase")).unwrap();
    assert_eq!(hex::encode(key.kid()), "4faa5677c865869428db6fb2ea71ada2684c5be5ad280b81852460eaa71342e8");
    assert!(read(ENCRYPTED, Some(b"another")).is_err() && read(ENCRYPTED, None).is_err());

    // As `openssl pkcs8 -topk8 -scrypt` does it.
    let plain = p384::SecretKey::from_slice(key.private().scalar()).unwrap().to_pkcs8_der().unwrap();
    let plain = PrivateKeyInfoRef::try_from(plain.as_bytes()).unwrap();
    let cost = scrypt::Params::new(4, 8, 1).unwrap();
    let under = pbes2::Parameters::generate_scrypt_aes256cbc(cost, &[1; 16], [2; 16]);
    let encrypted = plain.encrypt_with_params(under.unwrap(), "other words").unwrap();
    let encrypted = encrypted.to_pem("ENCRYPTED PRIVATE KEY", LineEnding::LF).unwrap();
    assert_eq!(read(&encrypted, Some(b"other words")).unwrap().kid(), key.kid());
    assert!(read(&key.to_pem().unwrap(), Some(b"other words")).is_err());
}

#[test]
fn a_host_key_is_kept_as_pkcs8() {
    let key = HostKey::generate().unwrap();
    let pem = key.to_pem().unwrap();
    assert!(pem.starts_with("-----BEGIN PRIVATE KEY-----\n"));
    let again = HostKey::from_pem(pem.as_bytes(), None).unwrap();
    assert_eq!((again.kid(), again.to_pem().unwrap()), (key.kid(), pem));
    let claim = super::super::domain::Claim::decode(&key.claim("web", &[1; 16]).unwrap()).unwrap();
    assert_eq!((claim.identity.signing.kid(), &*claim.identity.name), (key.kid(), "web"));
    assert!(
        HostKey::from_pem(b"", None).is_err() && HostKey::from_pem(b"\xff-----BEGIN PRIVATE KEY-----", None).is_err()
    );
}
