//! The embedded HSM behind the form that crosses a link: whatever gets lost on the way shows in the tests
//! of the state machine.

use std::cell::Cell;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::channel::Channel;
use crate::cryptoki::SlotId;
use crate::cryptoki::backend::{Backend, Embedded, SlotIds};
use crate::error::{ErrorKind, Result};
use crate::hsm::wire::{
    Answer, Callback, Callbacks, Description, Party, Request, RequestHeader, Response, Room, StreamId, Streams,
    decode_reply, decode_request, decode_response, encode_reply, encode_request, encode_response, serve_request,
};
use crate::hsm::{
    self, ApprovalRequest, AuditStatus, AuditStore, Command, DomainToken, Function, Hsm, Log, Mechanism, Operation,
    Outcome, PinRecord, Record, Reply, Ticket, Wiped,
};
use crate::store::Store;

thread_local! {
    static OVER_A_LINK: Cell<bool> = const { Cell::new(false) };
}

/// Runs a test whose HSMs are behind a link.
pub(super) fn run(test: fn()) {
    OVER_A_LINK.set(true);
    test();
}

/// Tests of a module once more, over a link.
macro_rules! over_a_link {
    ($($test:ident),* $(,)?) => {
        mod over_a_link {
            $(#[test]
            fn $test() {
                crate::cryptoki::tests::looped::run(super::$test);
            })*
        }
    };
}
pub(super) use over_a_link;

/// The back end that this test is for.
pub(super) fn backend(embedded: Embedded, settings: hsm::Settings) -> Box<dyn Backend> {
    if OVER_A_LINK.get() { Box::new(LoopedBackend { embedded, settings }) } else { Box::new(embedded) }
}

struct LoopedBackend {
    embedded: Embedded,
    settings: hsm::Settings,
}

impl Backend for LoopedBackend {
    fn slots(&self) -> Result<SlotIds> {
        self.embedded.slots()
    }

    fn store(&self, slot: SlotId) -> Result<Option<Arc<dyn Store>>> {
        self.embedded.store(slot)
    }

    fn create(
        &self,
        slot: SlotId,
        label: &str,
        serial: &str,
        domain: &DomainToken,
        so_pin: &PinRecord,
    ) -> Result<Arc<dyn Store>> {
        self.embedded.create(slot, label, serial, domain, so_pin)
    }

    fn destroy(&self, slot: SlotId) -> Result<()> {
        self.embedded.destroy(slot)
    }

    fn channel(&self, _: SlotId) -> Result<Box<dyn Channel>> {
        let end = End { hsm: Arc::new(Hsm::new(self.settings)?), streams: Streams::default() };
        Ok(Box::new(Looped(Arc::new(end))))
    }
}

struct Looped(Arc<End>);

/// The HSM's end.
struct End {
    hsm: Arc<Hsm>,
    streams: Streams,
}

/// An HSM, and the domain that the host's command named.
struct Told<'h> {
    hsm: &'h Arc<Hsm>,
    domain: Option<(&'h DomainToken, Log<'h>)>,
}

const HASH: [u8; 48] = [7; 48];

impl Party for Told<'_> {
    fn view(&self, _: &Ticket) -> Result<Arc<Hsm>> {
        Ok(Arc::clone(self.hsm))
    }

    fn held(&self) -> (u64, [u8; 48]) {
        (1, HASH)
    }

    fn told(&self) -> (u64, u64) {
        (0, 0)
    }

    fn announced(&self, _: u64) {}

    fn audit(&self) -> AuditStatus {
        self.hsm.audit_status()
    }

    fn logged_in(&self, _: &Ticket) {}

    fn logged_out(&self, _: &Ticket) {}

    fn bring(&self, _: &[u8], newest: &[u8], log: Log<'_>) -> Result<Reply> {
        let (domain, _) = self.domain.unwrap();
        assert_eq!(newest, domain.bytes);
        self.hsm.call(&Ticket::public(), Command::Adopt { domain, log })
    }

    fn renew(&self, _: &Ticket, _: &PinRecord) -> Result<Ticket> {
        Err(ErrorKind::FunctionNotSupported.into())
    }

    fn describe(&self) -> Description {
        Description { hsm: [1; 16], name: "looped".to_owned(), version: 1, valid_until: 0 }
    }

    fn domain(&self) -> Option<(&DomainToken, Log<'_>)> {
        self.domain
    }
}

struct NoCallbacks;

impl Callbacks for NoCallbacks {
    fn call(&mut self, _: &[u8]) -> Result<Wiped> {
        panic!("a callback without a store")
    }
}

/// Both directions of a link, as one end has them.
struct Ends {
    out: Sender<Vec<u8>>,
    back: Receiver<Vec<u8>>,
}

impl Callbacks for Ends {
    fn call(&mut self, callback: &[u8]) -> Result<Wiped> {
        self.out.send(callback.to_vec()).unwrap();
        Ok(self.back.recv().unwrap().into())
    }
}

impl End {
    fn serve(&self, domain: Option<(&DomainToken, Log<'_>)>, message: &[u8], callbacks: &mut dyn Callbacks) -> Vec<u8> {
        let mut reply = Wiped::default();
        serve_request(&Told { hsm: &self.hsm, domain }, &self.streams, message, callbacks, &mut reply).unwrap();
        reply.to_vec()
    }

    /// Sends a request and gives what `take` makes of the answer.
    fn ask<T>(
        &self,
        ticket: &Ticket,
        request: &Request<'_>,
        domain: Option<(&DomainToken, Log<'_>)>,
        store: Option<&dyn AuditStore>,
        take: impl FnOnce(Answer<'_>) -> T,
    ) -> Result<(AuditStatus, T)> {
        let header = RequestHeader { version: 1, hash: HASH, stamp: 0, heard: 0, ticket: ticket.clone() };
        let mut message = Wiped::default();
        encode_request(&header, request, &mut message)?;
        same_request(&message);
        let reply = match store {
            None => self.serve(domain, &message, &mut NoCallbacks),
            Some(store) => thread::scope(|scope| {
                let ((out, from_hsm), (to_hsm, back)) = (channel(), channel());
                let mut ends = Ends { out, back };
                scope.spawn(move || {
                    let reply = self.serve(domain, &message, &mut ends);
                    ends.out.send(reply).unwrap();
                });
                answer_callbacks(store, Ends { out: to_hsm, back: from_hsm })
            }),
        };
        same_reply(&reply);
        let room = Room::new();
        let (header, answer) = decode_reply(&reply, &room)?;
        match answer {
            Answer::Error(error) => Err(error),
            answer => Ok((header.audit, take(answer))),
        }
    }

    fn open(self: &Arc<Self>, ticket: &Ticket, request: &Request<'_>) -> Result<Box<dyn Operation>> {
        let (_, stream) = self.ask(ticket, request, None, None, |answer| match answer {
            Answer::Stream { stream, private } => (stream, private),
            other => panic!("{other:?}"),
        })?;
        let (stream, private) = stream;
        Ok(Box::new(Remote { end: Arc::clone(self), ticket: ticket.clone(), stream, private }))
    }
}

/// What is decoded is encoded the same.
fn same_request(message: &[u8]) {
    let room = Room::new();
    let (header, request) = decode_request(message, &room).unwrap();
    let mut again = Wiped::default();
    encode_request(&header, &request, &mut again).unwrap();
    assert_eq!(*again, *message);
}

fn same_reply(message: &[u8]) {
    let room = Room::new();
    let (header, answer) = decode_reply(message, &room).unwrap();
    let mut again = Wiped::default();
    encode_reply(&header, &answer, &mut again);
    assert_eq!(*again, *message);
}

fn respond(response: &Response) -> Vec<u8> {
    let mut message = Wiped::default();
    encode_response(response, &mut message).unwrap();
    decode_response(&message).unwrap();
    message.to_vec()
}

fn stored(result: Result<()>) -> Response {
    result.map_or_else(Response::Failed, |()| Response::Stored)
}

fn callback(message: &[u8]) -> Option<Callback> {
    same_reply(message);
    let room = Room::new();
    match decode_reply(message, &room).unwrap().1 {
        Answer::Callback(callback) => Some(callback),
        _ => None,
    }
}

/// The host's end while a command with a store is executed: gives the reply.
fn answer_callbacks(store: &dyn AuditStore, ends: Ends) -> Vec<u8> {
    let ends = Arc::new(Mutex::new(ends));
    loop {
        let message = ends.lock().unwrap().back.recv().unwrap();
        let response = match callback(&message) {
            None => return message,
            Some(Callback::Append(batch)) => stored(store.append_audit(&batch)),
            Some(Callback::Open) => {
                let link = Arc::clone(&ends);
                stored(store.open_audit(Box::new(move |tips| {
                    let mut link = link.lock().unwrap();
                    match callback(&link.call(&respond(&Response::Tips(tips)))?) {
                        Some(Callback::Opening(batch)) => Ok(batch),
                        Some(Callback::Abort) => Err(ErrorKind::DeviceError.with("the HSM made no rows")),
                        other => panic!("{other:?}"),
                    }
                })))
            }
            Some(other) => panic!("{other:?}"),
        };
        ends.lock().unwrap().out.send(respond(&response)).unwrap();
    }
}

impl Channel for Looped {
    fn call(&self, ticket: &Ticket, command: Command<'_>) -> Result<Reply> {
        let (mut domain, mut store) = (None, None);
        let request = match command {
            Command::Found { .. } | Command::AuditVerifier { .. } => return self.0.hsm.call(ticket, command),
            Command::Random { output } => {
                return self
                    .0
                    .ask(ticket, &Request::Random { len: output.len() }, None, None, |answer| match answer {
                        Answer::Written(bytes) => output.copy_from_slice(bytes),
                        other => panic!("{other:?}"),
                    })
                    .map(|_| Reply::Done);
            }
            Command::Adopt { domain: newest, log } => {
                domain = Some((newest, log));
                Request::Bring { origin: &[], newest: &newest.bytes, after: log.after, entries: log.entries }
            }
            command => {
                match command {
                    Command::Login { domain: newest, log, .. } | Command::SetPin { domain: newest, log, .. } => {
                        domain = Some((newest, log));
                    }
                    Command::BeginAudit { store: own, .. }
                    | Command::FlushAudit { store: own, .. }
                    | Command::AuditHead { store: own, .. } => store = Some(own),
                    _ => {}
                }
                Request::Call(command)
            }
        };
        let (_, reply) = self.0.ask(ticket, &request, domain, store, |answer| match answer {
            Answer::Reply(reply) => reply,
            other => panic!("{other:?}"),
        })?;
        Ok(reply)
    }

    fn begin(
        &self,
        ticket: &Ticket,
        function: Function,
        mechanism: &Mechanism<'_>,
        key: Option<&Record>,
    ) -> Result<Box<dyn Operation>> {
        self.0.open(ticket, &Request::Begin { function, mechanism, record: key })
    }

    fn digest_key(&self, ticket: &Ticket, digest: &mut dyn Operation, key: &Record) -> Result<()> {
        // The state names the stream.
        let stream = StreamId::from_be_bytes(digest.save()?[..8].try_into().unwrap());
        self.0.ask(ticket, &Request::DigestKey { stream, record: key }, None, None, |_| ()).map(drop)
    }

    fn audit(&self) -> AuditStatus {
        self.0.ask(&Ticket::public(), &Request::Ping, None, None, |_| ()).unwrap().0
    }

    fn resume(&self, ticket: &Ticket, state: &[u8]) -> Result<Box<dyn Operation>> {
        let state = state.get(8..).ok_or(ErrorKind::SavedStateInvalid)?;
        self.0.open(ticket, &Request::Resume { state })
    }
}

struct Remote {
    end: Arc<End>,
    ticket: Ticket,
    stream: StreamId,
    private: bool,
}

impl Remote {
    fn ask<T>(&self, request: &Request<'_>, take: impl FnOnce(Answer<'_>) -> T) -> Result<T> {
        self.end.ask(&self.ticket, request, None, None, take).map(|(_, taken)| taken)
    }

    fn write(&self, request: &Request<'_>, output: Option<&mut [u8]>) -> Result<Outcome> {
        self.ask(request, |answer| match answer {
            Answer::Written(bytes) => {
                if let Some(output) = output {
                    output[..bytes.len()].copy_from_slice(bytes);
                }
                Outcome::Written(bytes.len())
            }
            Answer::Needed(len) => Outcome::Needed(len),
            other => panic!("{other:?}"),
        })
    }
}

fn room(output: Option<&mut [u8]>) -> Option<usize> {
    output.map(|output| output.len())
}

impl Operation for Remote {
    fn update(&mut self, input: &[u8], mut output: Option<&mut [u8]>) -> Result<Outcome> {
        self.write(&Request::Update { stream: self.stream, input, room: room(output.as_deref_mut()) }, output)
    }

    fn finish(&mut self, mut output: Option<&mut [u8]>) -> Result<Outcome> {
        self.write(&Request::Finish { stream: self.stream, room: room(output.as_deref_mut()) }, output)
    }

    fn one_shot(&mut self, input: &[u8], mut output: Option<&mut [u8]>) -> Result<Outcome> {
        self.write(&Request::StreamOneShot { stream: self.stream, input, room: room(output.as_deref_mut()) }, output)
    }

    fn verify(&mut self, signature: &[u8]) -> Result<()> {
        self.ask(&Request::Verify { stream: self.stream, signature }, |_| ())
    }

    fn verify_one_shot(&mut self, input: &[u8], signature: &[u8]) -> Result<()> {
        self.ask(&Request::StreamVerifyOneShot { stream: self.stream, input, signature }, |_| ())
    }

    fn approval(&mut self, input: Option<&[u8]>) -> Result<Option<ApprovalRequest>> {
        self.ask(&Request::Approval { stream: self.stream, input }, |answer| match answer {
            Answer::Done => None,
            Answer::ApprovalWanted(request) => Some(request),
            other => panic!("{other:?}"),
        })
    }

    fn is_private(&self) -> bool {
        self.private
    }

    fn save(&self) -> Result<Vec<u8>> {
        self.ask(&Request::Save { stream: self.stream }, |answer| match answer {
            Answer::Written(state) => [&self.stream.to_be_bytes(), state].concat(),
            other => panic!("{other:?}"),
        })
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        self.ask(&Request::End { stream: self.stream }, |_| ()).unwrap();
    }
}
