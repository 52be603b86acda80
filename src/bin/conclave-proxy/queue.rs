//! The store's own thread, which makes what arrives meanwhile durable by one commit, and those who
//! wait for messages.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rusqlite::ErrorCode;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use crate::store::{Queues, Store, Taken};

/// Jobs that wait for the store's thread; who comes later waits for room.
const WAITING_JOBS: usize = 1024;
/// Jobs of one commit.
const BATCH: usize = 128;

/// Why the store did not do a job. The log has more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failed {
    DiskFull,
    Other,
}

pub(crate) struct Queue {
    jobs: mpsc::Sender<Box<dyn Job>>,
    queues: Queues,
    /// By Region and instance of those who wait.
    bells: Mutex<BTreeMap<Listener, Bell>>,
    closing: AtomicBool,
}

type Listener = (String, Option<String>);

/// What rings when a message for somebody arrives.
#[derive(Default)]
struct Bell {
    waiting: usize,
    notify: Arc<Notify>,
}

impl Queue {
    /// The thread ends when the last handle has.
    pub(crate) fn start(store: Store) -> std::io::Result<(Arc<Self>, JoinHandle<()>)> {
        let (jobs, received) = mpsc::channel(WAITING_JOBS);
        let queues = store.queues();
        let thread = thread::Builder::new().name("store".to_owned()).spawn(move || work(store, received))?;
        Ok((Arc::new(Self { jobs, queues, bells: Mutex::default(), closing: AtomicBool::new(false) }), thread))
    }

    pub(crate) fn queues(&self) -> &Queues {
        &self.queues
    }

    /// Has the store do something; what it did is durable when this returns. `job` may be called
    /// again if it is rolled back together with others.
    pub(crate) async fn call<T, F>(&self, job: F) -> Result<T, Failed>
    where
        T: Send + 'static,
        F: FnMut(&mut Store) -> rusqlite::Result<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let call = Call { job, outcome: None, reply };
        self.jobs.send(Box::new(call)).await.map_err(|_| Failed::Other)?;
        answer.await.unwrap_or(Err(Failed::Other))
    }

    /// The oldest message for the Region or the instance, which is then hidden for the lease; None
    /// if there is none within `wait`, or when the proxy ends.
    pub(crate) async fn take(
        &self,
        region: &str,
        instance: Option<&str>,
        wait: Duration,
        lease: Duration,
    ) -> Result<Option<Taken>, Failed> {
        let until = Instant::now() + wait;
        let listening = Listening::new(self, (region.to_owned(), instance.map(str::to_owned)));
        loop {
            // Before the look, so that no message comes unheard.
            let rung = listening.notify.notified();
            tokio::pin!(rung);
            rung.as_mut().enable();
            let (of, by) = listening.listener.clone();
            let again = match self.call(move |store| store.take(&of, by.as_deref(), lease)).await? {
                Taken::None { again } => again,
                message => return Ok(Some(message)),
            };
            if Instant::now() >= until || self.closing.load(Ordering::SeqCst) {
                return Ok(None);
            }
            let look = again.map_or(until, |again| until.min(Instant::now() + again));
            // Either way it looks again.
            let _ = timeout_at(look, rung).await;
        }
    }

    /// Wakes those who wait for messages to this address.
    pub(crate) fn ring(&self, region: &str, instance: Option<&str>) {
        for ((of, by), bell) in self.lock().iter() {
            if of == region && (instance.is_none() || by.as_deref() == instance) {
                bell.notify.notify_waiters();
            }
        }
    }

    /// Sends away all who wait.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
        self.lock().values().for_each(|bell| bell.notify.notify_waiters());
    }

    /// How many wait.
    pub(crate) fn listeners(&self) -> usize {
        self.lock().values().map(|bell| bell.waiting).sum()
    }

    /// Returns if the store's thread ends, which it does not while there is a handle.
    pub(crate) async fn broken(&self) {
        self.jobs.closed().await;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Listener, Bell>> {
        self.bells.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One who waits for messages.
struct Listening<'a> {
    queue: &'a Queue,
    listener: Listener,
    notify: Arc<Notify>,
}

impl<'a> Listening<'a> {
    fn new(queue: &'a Queue, listener: Listener) -> Self {
        let mut bells = queue.lock();
        let bell = bells.entry(listener.clone()).or_default();
        bell.waiting += 1;
        Self { queue, listener, notify: Arc::clone(&bell.notify) }
    }
}

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        let mut bells = self.queue.lock();
        if let Some(bell) = bells.get_mut(&self.listener) {
            bell.waiting -= 1;
            if bell.waiting == 0 {
                bells.remove(&self.listener);
            }
        }
    }
}

trait Job: Send {
    fn run(&mut self, store: &mut Store) -> rusqlite::Result<()>;
    /// Tells who called how it ended.
    fn end(self: Box<Self>, done: Result<(), Failed>);
}

struct Call<F, T> {
    job: F,
    outcome: Option<T>,
    reply: oneshot::Sender<Result<T, Failed>>,
}

impl<T: Send, F: FnMut(&mut Store) -> rusqlite::Result<T> + Send> Job for Call<F, T> {
    fn run(&mut self, store: &mut Store) -> rusqlite::Result<()> {
        // A message must not be hidden for a caller who has gone.
        if !self.reply.is_closed() {
            self.outcome = Some((self.job)(store)?);
        }
        Ok(())
    }

    fn end(self: Box<Self>, done: Result<(), Failed>) {
        let Self { outcome, reply, .. } = *self;
        // Who has gone needs no answer.
        let _ = reply.send(done.and_then(|()| outcome.ok_or(Failed::Other)));
    }
}

fn work(mut store: Store, mut received: mpsc::Receiver<Box<dyn Job>>) {
    let mut batch = Vec::with_capacity(BATCH);
    while let Some(first) = received.blocking_recv() {
        batch.push(first);
        while batch.len() < BATCH
            && let Ok(next) = received.try_recv()
        {
            batch.push(next);
        }
        let done = together(&mut store, &mut batch);
        let alone = batch.len() == 1;
        for mut job in batch.drain(..) {
            // One that cannot be done must not spoil the others.
            if done.is_err() && !alone {
                let each = together(&mut store, std::slice::from_mut(&mut job));
                job.end(each);
            } else {
                job.end(done);
            }
        }
    }
}

/// Runs the jobs in one transaction.
fn together(store: &mut Store, jobs: &mut [Box<dyn Job>]) -> Result<(), Failed> {
    let done = store.begin().and_then(|()| {
        for job in jobs {
            job.run(store)?;
        }
        store.commit()
    });
    done.map_err(|error| {
        store.roll_back();
        tracing::error!(%error, "the store failed");
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Failed::DiskFull,
            _ => Failed::Other,
        }
    })
}
