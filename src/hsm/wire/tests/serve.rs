//! The HSM's end with an embedded HSM behind it.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use cryptoki_sys as ck;

use super::super::serve::FORGOTTEN;
use super::{Buffer, header};
use crate::error::{ErrorKind, Result};
use crate::hsm::wire::{
    Answer, Callbacks, Description, MAX_STREAMS, Party, Request, RequestHeader, Response, Room, Streams, decode_reply,
    encode_request, encode_response, serve_request,
};
use crate::hsm::{
    AuditBatch, AuditOpening, AuditStatus, AuditStore, Command, Function, Hsm, Log, Mechanism, Params, PinCost,
    PinRecord, Place, Raw, Record, Reply, Role, Settings, Template, Ticket,
};

pub(super) struct One {
    pub(super) hsm: Arc<Hsm>,
    pub(super) streams: Streams,
    heard: AtomicU64,
    announced: Mutex<Vec<u64>>,
}

impl Party for One {
    fn view(&self, ticket: &Ticket) -> Result<Arc<Hsm>> {
        if ticket.is_public() { Ok(Arc::clone(&self.hsm)) } else { Err(ErrorKind::UserNotLoggedIn.into()) }
    }

    fn held(&self) -> (u64, [u8; 48]) {
        (1, [0; 48])
    }

    fn told(&self) -> (u64, u64) {
        let announced = self.announced.lock().unwrap();
        (announced.iter().copied().max().unwrap_or_default(), self.heard.load(Ordering::Relaxed))
    }

    fn announced(&self, stamp: u64) {
        self.announced.lock().unwrap().push(stamp);
        self.heard.fetch_add(1, Ordering::Relaxed);
    }

    fn audit(&self) -> AuditStatus {
        self.hsm.audit_status()
    }

    fn logged_in(&self, _: &Ticket) {}

    fn logged_out(&self, _: &Ticket) {}

    fn bring(&self, _: &[u8], _: &[u8], log: Log<'_>) -> Result<Reply> {
        Ok(Reply::Needed(log.entries.len()))
    }

    fn renew(&self, _: &Ticket, record: &PinRecord) -> Result<Ticket> {
        Ok(Ticket(record.sealed.clone().into()))
    }

    fn describe(&self) -> Description {
        Description { hsm: [1; 16], name: "one".to_owned(), version: 1, valid_until: 2 }
    }
}

/// A host that answers callbacks with these, the last first; with None the link breaks.
struct Answers(Vec<Option<Response>>);

impl Callbacks for Answers {
    fn call(&mut self, _: &[u8]) -> Result<Buffer> {
        let answer = self.0.pop().flatten().ok_or(ErrorKind::DeviceError)?;
        let mut response = Buffer::default();
        encode_response(&answer, &mut response).map(|()| response)
    }
}

/// Stands in for the host's store.
struct Nowhere;

impl AuditStore for Nowhere {
    fn open_audit(&self, _: AuditOpening) -> Result<()> {
        unreachable!()
    }

    fn append_audit(&self, _: &AuditBatch<'_>) -> Result<()> {
        unreachable!()
    }
}

impl One {
    pub(super) fn new() -> Self {
        let hsm = Arc::new(Hsm::new(Settings::default()).unwrap());
        Self { hsm, streams: Streams::keeping(MOST_HELD), heard: AtomicU64::new(1), announced: Mutex::default() }
    }

    pub(super) fn with_header<T>(
        &self,
        header: &RequestHeader,
        request: &Request<'_>,
        look: impl FnOnce(Answer<'_>) -> T,
    ) -> T {
        let (mut message, mut reply) = (Buffer::default(), Buffer::default());
        encode_request(header, request, &mut message).unwrap();
        serve_request(self, &self.streams, &message, &mut Answers(Vec::new()), &mut reply).unwrap();
        let room = Room::new();
        look(decode_reply(&reply, &room).unwrap().1)
    }

    pub(super) fn ask(&self, request: &Request<'_>) -> String {
        self.with_header(&header(), request, |answer| format!("{answer:?}"))
    }

    fn refused(&self, request: &Request<'_>) -> ErrorKind {
        self.with_header(&header(), request, |answer| match answer {
            Answer::Error(error) => error.kind(),
            other => panic!("{other:?}"),
        })
    }

    fn begin(&self, function: Function, mechanism: &Mechanism<'_>, record: Option<&Record>) -> u64 {
        self.with_header(&header(), &Request::Begin { function, mechanism, record }, |answer| match answer {
            Answer::Stream { stream, .. } => stream,
            other => panic!("{other:?}"),
        })
    }

    /// An AES key of nobody's.
    fn key(&self) -> Record {
        let len = 32_u64.to_ne_bytes();
        let template = Template(vec![(ck::CKA_VALUE_LEN, Raw::Bytes(&len)), (ck::CKA_PRIVATE, Raw::Bytes(&[0]))]);
        let mechanism = Mechanism::new(ck::CKM_AES_KEY_GEN);
        let command = Command::GenerateKey { mechanism: &mechanism, template: &template, place: Place::Session };
        self.records(command).remove(0)
    }

    pub(super) fn records(&self, command: Command<'_>) -> Vec<Record> {
        self.with_header(&header(), &Request::Call(command), |answer| match answer {
            Answer::Reply(Reply::Records(records)) => records,
            other => panic!("{other:?}"),
        })
    }
}

/// What the operations of a test may keep.
const MOST_HELD: usize = 8 << 20;

const SHA256: Mechanism<'static> = Mechanism { kind: ck::CKM_SHA256, params: Params::None };

#[test]
fn host_and_hsm_agree_on_what_they_know() {
    let one = One::new();
    let ask = |header: &RequestHeader, request: &Request<'_>| {
        one.with_header(header, request, |answer| format!("{answer:?}"))
    };
    let call = Request::Call(Command::DescribeDomain);
    let newer = RequestHeader { version: 2, ..header() };
    assert_eq!(ask(&newer, &call), "Behind");
    assert_eq!(ask(&newer, &Request::Ping), "Done");
    let fork = RequestHeader { hash: [1; 48], ..header() };
    assert!(ask(&fork, &call).contains("different histories"));

    assert_eq!(ask(&header(), &Request::Announce { stamp: 5 }), "Done");
    assert_eq!(ask(&header(), &call), "Stale { stamp: 5, heard: 2 }");
    let fresh = [RequestHeader { stamp: 5, ..header() }, RequestHeader { heard: 2, ..header() }];
    for fresh in &fresh {
        assert!(ask(fresh, &call).starts_with("Error"), "passed, and the HSM has no domain");
    }
    // What somebody announces next is to be read, too, by whoever was excused before.
    ask(&header(), &Request::Announce { stamp: 4 });
    assert!(ask(&fresh[0], &call).starts_with("Error"));
    assert_eq!(ask(&fresh[1], &call), "Stale { stamp: 5, heard: 3 }");
    assert_eq!(
        ask(&header(), &Request::Begin { function: Function::Digest, mechanism: &SHA256, record: None }),
        ask(&header(), &call)
    );
}

#[test]
fn an_operation_is_one_process_s_and_ends_once() {
    let one = One::new();
    let stream = one.begin(Function::Digest, &SHA256, None);
    assert_eq!(one.ask(&Request::Update { stream, input: b"ab", room: None }), "Written([])");
    assert_eq!(one.ask(&Request::Finish { stream, room: None }), "Needed(32)");
    assert_eq!(one.ask(&Request::Finish { stream, room: Some(31) }), "Needed(32)");
    let other = One::new();
    assert_eq!(other.refused(&Request::Finish { stream, room: Some(32) }), ErrorKind::OperationNotInitialized);
    let digest = one.ask(&Request::Finish { stream, room: Some(usize::MAX) });
    assert_eq!(one.refused(&Request::Finish { stream, room: None }), ErrorKind::OperationNotInitialized);
    let whole = Request::OneShot {
        function: Function::Digest,
        mechanism: &SHA256,
        record: None,
        input: b"ab",
        room: Some(usize::MAX),
    };
    assert_eq!(one.ask(&whole), digest);
    assert!(one.streams.is_empty());

    // What a decryption keeps until its tag is checked counts.
    let key = one.key();
    let mechanism = Mechanism { kind: ck::CKM_AES_GCM, params: Params::Gcm { iv: &[7; 12], aad: &[], tag_bits: 128 } };
    let streams: Vec<_> = (0..5).map(|_| one.begin(Function::Decrypt, &mechanism, Some(&key))).collect();
    let input = vec![0; MOST_HELD / 4 - (16 << 10)];
    let feed = |stream| one.ask(&Request::Update { stream, input: &input, room: Some(0) });
    for stream in &streams[..4] {
        assert_eq!(feed(*stream), "Written([])");
    }
    assert!(feed(streams[4]).contains("DeviceMemory"));
    one.ask(&Request::End { stream: streams[0] });
    assert!(feed(streams[4]).contains("OperationNotInitialized"), "its error ended it");
    let another = one.begin(Function::Decrypt, &mechanism, Some(&key));
    assert_eq!(feed(another), "Written([])");
    for stream in streams.into_iter().chain([another]) {
        one.ask(&Request::End { stream });
    }

    for _ in 0..MAX_STREAMS {
        one.begin(Function::Digest, &SHA256, None);
    }
    let full = Request::Begin { function: Function::Digest, mechanism: &SHA256, record: None };
    assert_eq!(one.refused(&full), ErrorKind::DeviceMemory);
    // The answers in which they were named may have been lost: one that nobody used for long goes.
    let oldest = another + 1;
    one.streams.age(FORGOTTEN);
    let named = |stream| Request::Save { stream };
    (oldest + 1..=oldest + MAX_STREAMS as u64 - 1).for_each(|used| drop(one.ask(&named(used))));
    let next = one.begin(Function::Digest, &SHA256, None);
    assert_eq!(one.refused(&named(oldest)), ErrorKind::OperationNotInitialized);
    assert!(one.ask(&named(oldest + 1)).starts_with("Written"));
    assert_eq!(one.refused(&full), ErrorKind::DeviceMemory);
    one.streams.age(FORGOTTEN);
    one.streams.sweep(2 * FORGOTTEN);
    assert_eq!(one.streams.len(), MAX_STREAMS);
    assert_eq!(one.ask(&Request::End { stream: next }), "Done");
    one.begin(Function::Digest, &SHA256, None);
}

#[test]
fn output_is_as_long_as_the_room_and_the_mechanism_say() {
    let (one, iv) = (One::new(), [7; 16]);
    let key = one.key();
    let mechanism = Mechanism { kind: ck::CKM_AES_CBC_PAD, params: Params::Iv(&iv) };
    let input = vec![1; 1 << 20];
    let whole = |room| Request::OneShot {
        function: Function::Encrypt,
        mechanism: &mechanism,
        record: Some(&key),
        input: &input,
        room,
    };
    let len = input.len() + 16;
    for room in [None, Some(0), Some(len - 1)] {
        assert_eq!(one.ask(&whole(room)), format!("Needed({len})"));
    }
    for room in [len, usize::MAX] {
        let written = one.with_header(&header(), &whole(Some(room)), |answer| match answer {
            Answer::Written(bytes) => bytes.len(),
            other => panic!("{other:?}"),
        });
        assert_eq!(written, len);
    }
    let random = |len| one.with_header(&header(), &Request::Random { len }, |answer| format!("{answer:?}"));
    assert_eq!(random(0), "Written([])");
    assert_ne!(random(32), random(32));
    assert!(random((1 << 20) + 1).contains("DataLenRange"));
}

#[test]
fn a_ticket_that_is_none_does_not_end_an_operation() {
    let one = One::new();
    let key = one.key();
    let mechanism = Mechanism { kind: ck::CKM_AES_ECB, params: Params::None };
    let stream = one.begin(Function::Encrypt, &mechanism, Some(&key));
    let update = Request::Update { stream, input: &[0; 16], room: Some(16) };
    assert!(one.ask(&update).starts_with("Written"));
    let wrong = RequestHeader { ticket: Ticket(Arc::from([1; 8])), ..header() };
    let call = Request::Call(Command::View { record: &key });
    assert!(one.with_header(&wrong, &call, |answer| format!("{answer:?}")).contains("UserNotLoggedIn"));
    assert!(one.ask(&update).starts_with("Written"));
    let pin = PinRecord { role: Role::User, generation: 1, sealed: b"new".to_vec() };
    assert!(one.ask(&Request::RenewTicket { record: &pin }).contains("LoggedIn"));
}

#[test]
fn a_link_that_breaks_is_closed_and_a_host_that_fails_is_told_of() {
    let one = One::new();
    assert!(serve_request(&one, &one.streams, &[0x80], &mut Answers(Vec::new()), &mut Buffer::default()).is_err());
    let entries = [b"one".to_vec(), b"two".to_vec()];
    let bring = Request::Bring { origin: b"o", newest: b"n", after: 1, entries: &entries };
    assert_eq!(one.ask(&bring), "Reply(Needed(2))");

    let (public, pin) = (Ticket::public(), b"so pin");
    let cost = PinCost { memory_kib: 1024, passes: 1, lanes: 1 };
    let found = Command::Found { label: "x", serial: "0123456789abcdef", so_pin: pin, cost };
    let Ok(Reply::Founded { domain, so_pin }) = one.hsm.call(&public, found) else { panic!() };
    let log = Log::default();
    one.hsm.call(&public, Command::Login { pin, record: &so_pin, domain: &domain, log }).unwrap();

    let tips = || Some(Response::Tips(Vec::new()));
    let begin = |responses: Vec<Option<Response>>| {
        let (mut message, mut reply) = (Buffer::default(), Buffer::default());
        let begin = Command::BeginAudit { host: "host", store: &Nowhere };
        encode_request(&header(), &Request::Call(begin), &mut message).unwrap();
        serve_request(&one, &one.streams, &message, &mut Answers(responses), &mut reply)?;
        let room = Room::new();
        decode_reply(&reply, &room).map(|(header, answer)| (header.audit.open, format!("{answer:?}")))
    };
    assert!(begin(vec![None]).is_err());
    assert!(begin(vec![None, tips()]).is_err());
    let (open, refused) = begin(vec![Some(Response::Stored)]).unwrap();
    assert!(!open && refused.contains("something else"), "{refused}");
    let begun = begin(vec![Some(Response::Stored), tips()]).unwrap();
    assert_eq!(begun, (true, "Reply(Done)".to_owned()));
}
