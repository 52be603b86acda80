//! Transactions that write.
//!
//! Each begins with the lock of the row that puts the commits of all hosts in one order, and ends with
//! the commit's number and random name in the database. One that was in another's way is tried again.
//! Where the connection is lost at the commit, nobody knows whether it was made: the next attempt, which
//! gets that lock only when the one before has ended, looks for its name and knows.

use std::time::{Duration, Instant};

use super::Inner;
use super::connection::{Params, Session};
use super::failure::Failure;
use super::pool::Pause;
use super::query::{self, damaged, number};
use super::schema::KEPT;
use super::seen::Look;
use super::write::{self, Opened, Work};
use crate::error::{ErrorKind, Result};
use crate::store::write::{Answer, Changed, Write, changed_by};

/// How much longer one tries to learn how a commit ended.
const CLARITY: Duration = Duration::from_secs(10);
/// After how many commits the old ones' traces are removed.
const SWEEP: u64 = 1000;

type Name = [u8; 16];
type Results = Vec<Result<Answer>>;

/// A commit that was asked for, and what its writes are to be answered if it was made.
struct Asked {
    name: Name,
    results: Results,
}

/// What the attempts at one batch have in common.
struct Attempts<'a> {
    writes: &'a [Write],
    opened: Vec<Opened>,
    /// Of which it is not known how they ended.
    asked: Vec<Asked>,
}

/// How a transaction ended.
struct Done {
    results: Results,
    /// What is known now; None if nobody has to know, as of audit rows.
    look: Option<Look>,
}

impl Inner {
    /// Commits the writes in one transaction; each stands or falls by itself. The outer error is the
    /// whole transaction's.
    pub(super) fn commit_writes(&self, writes: &[Write], deadline: Instant) -> Result<Results> {
        let opened = writes.iter().map(|_| None).collect();
        let mut attempts = Attempts { writes, opened, asked: Vec::new() };
        let mut pause = Pause::default();
        let mut others = false;
        loop {
            let known = self.seen.known();
            let begin = self.seen.begin();
            let limit = if attempts.asked.is_empty() { deadline } else { deadline + CLARITY };
            let failure = match self.pool.attempt(limit, async |session| attempts.transaction(session, known).await) {
                Ok(Done { results, look }) => {
                    if let Some(look) = look {
                        self.seen.advance(begin, &look);
                    }
                    return Ok(results);
                }
                Err(failure) => failure,
            };
            let again = failure.is_conflict() || failure.is_lost();
            others |= failure.is_conflict() || matches!(failure, Failure::Late);
            if again && Instant::now() < limit {
                pause.wait();
                continue;
            }
            if attempts.asked.is_empty() {
                return Err(match again && others {
                    true => ErrorKind::FunctionFailed.with(format!(
                        "{}: others kept the store busy for too long; nothing was changed",
                        self.pool.target
                    )),
                    false => failure.into_error(&self.pool.target),
                });
            }
            self.seen.doubt();
            return Err(ErrorKind::DeviceError.with(format!(
                "{}: the connection was lost during the commit, and whether it was made could not be learned",
                self.pool.target
            )));
        }
    }
}

const STATE: &str = "SELECT counter, anything, meta, objects, next_place, managed, total,
        (SELECT count(*) FROM token)
    FROM state FOR UPDATE OF state";
const CHANGES: &str = "SELECT counter, object FROM changes WHERE counter > $1 ORDER BY counter LIMIT $2";
const AUDIT_STATE: &str = "SELECT next_id, (SELECT count(*) FROM token) FROM audit_state FOR UPDATE OF audit_state";

impl Attempts<'_> {
    async fn transaction(&mut self, session: &mut Session, known: u64) -> std::result::Result<Done, Failure> {
        let done = self.in_transaction(session, known).await;
        if done.as_ref().is_err_and(|failure| !failure.is_lost()) {
            session.batch("ROLLBACK").await?;
        }
        done
    }

    async fn in_transaction(&mut self, session: &mut Session, known: u64) -> std::result::Result<Done, Failure> {
        let is_audit = |write: &Write| matches!(write, Write::OpenAudit(_) | Write::AppendAudit(_));
        let audit_only = !self.writes.is_empty() && self.writes.iter().all(is_audit);
        let mut work = Work::default();
        let mut before = None;
        if audit_only {
            let state = session.statement(AUDIT_STATE).await?;
            let (client, beginning) = (session.client(), session.beginning("audit_state"));
            let (begun, row) = tokio::join!(biased; client.batch_execute(&beginning), client.query_one(&state, &[]));
            begun?;
            let row = row?;
            (work.next_audit, work.token) = (number(&row, 0)?, number(&row, 1)? > 0);
        } else {
            before = Some(self.begin(session, &mut work, known).await?);
            if let Some(results) = self.has_been_made(session).await? {
                session.batch("ROLLBACK").await?;
                // One looks later what there is to know.
                return Ok(Done { results, look: before.and_then(|before| before.told(known)) });
            }
            if self.writes.iter().any(is_audit) {
                let row = session.query_opt(AUDIT_STATE, &[]).await?;
                work.next_audit = number(&row.ok_or_else(|| damaged("there is no row of its audit state"))?, 0)?;
            }
        }
        let next_audit = work.next_audit;
        let results = self.apply_all(session, &mut work).await?;
        let back = before.as_ref().is_some_and(|before| before.counter < known);
        let futile = |result: &Result<Answer>| matches!(result, Err(_) | Ok(Answer::Deleted(false)));
        if results.iter().all(futile) && !back {
            session.batch("ROLLBACK").await?;
            return Ok(Done { results, look: None });
        }
        if work.next_audit != next_audit {
            session.execute("UPDATE audit_state SET next_id = $1", &[&work.next_audit.cast_signed()]).await?;
        }
        let Some(before) = before else {
            // It is known by the rows themselves whether they are there.
            session.batch("COMMIT").await?;
            return Ok(Done { results, look: None });
        };
        let next = Next::new(before, known, self.writes);
        let look = next.commit(session, &work, results, &mut self.asked).await?;
        let results = self.asked.pop().map(|asked| asked.results).unwrap_or_default();
        Ok(Done { results, look: Some(look) })
    }

    /// Takes the lock, and reads what is to be known before a commit.
    async fn begin(&self, session: &mut Session, work: &mut Work, known: u64) -> std::result::Result<Before, Failure> {
        let (state, changes) = (session.statement(STATE).await?, session.statement(CHANGES).await?);
        let (client, known, most) = (session.client(), known.cast_signed(), query::CHANGES + 1);
        let since: Params<'_> = &[&known, &most];
        let beginning = session.beginning("state");
        let (begun, row, rows) = tokio::join!(
            biased;
            client.batch_execute(&beginning),
            client.query_one(&state, &[]),
            client.query(&changes, since),
        );
        begun?;
        let (row, rows) = (row?, rows?);
        *work = Work {
            next_place: number(&row, 4)?,
            managed: number(&row, 5)?,
            total: number(&row, 6)?,
            token: number(&row, 7)? > 0,
            next_audit: 0,
        };
        let changes = rows.iter().map(|row| Ok((number(row, 0)?, query::id(row, 1)?)));
        Ok(Before {
            counter: number(&row, 0)?,
            anything: number(&row, 1)?,
            meta: number(&row, 2)?,
            objects: number(&row, 3)?,
            changes: changes.collect::<query::Read<_>>()?,
        })
    }

    /// What is to be answered if one of the commits that were asked for was made. The lock is held: none
    /// of them can be made any more.
    async fn has_been_made(&mut self, session: &mut Session) -> std::result::Result<Option<Results>, Failure> {
        if self.asked.is_empty() {
            return Ok(None);
        }
        let names: Vec<&[u8]> = self.asked.iter().map(|asked| asked.name.as_slice()).collect();
        let made = session.query_opt("SELECT id FROM commits WHERE id = ANY($1)", &[&names]).await?;
        let asked = std::mem::take(&mut self.asked);
        let Some(row) = made else { return Ok(None) };
        let name: &[u8] = row.try_get(0)?;
        Ok(asked.into_iter().find(|asked| asked.name == name).map(|asked| asked.results))
    }

    async fn apply_all(&mut self, session: &mut Session, work: &mut Work) -> std::result::Result<Results, Failure> {
        let alone = self.writes.len() == 1;
        let mut results = Vec::with_capacity(self.writes.len());
        for (write, opened) in self.writes.iter().zip(&mut self.opened) {
            let guarded = !alone && write::leaves_traces(write);
            if guarded {
                session.batch("SAVEPOINT one").await?;
            }
            let before = work.clone();
            match write::apply(session, work, write, opened).await {
                Ok(answer) => results.push(Ok(answer)),
                Err(Failure::Refused(error)) => {
                    *work = before;
                    if guarded {
                        session.batch("ROLLBACK TO SAVEPOINT one").await?;
                    }
                    results.push(Err(error));
                }
                Err(failure) => return Err(failure),
            }
            if guarded {
                session.batch("RELEASE SAVEPOINT one").await?;
            }
        }
        Ok(results)
    }
}

/// The row of `state`, and the changes since the number that was known.
struct Before {
    counter: u64,
    anything: u64,
    meta: u64,
    objects: u64,
    changes: Vec<(u64, crate::hsm::ObjectId)>,
}

impl Before {
    /// As if it had been looked up.
    fn told(self, known: u64) -> Option<Look> {
        let told = query::is_told(self.counter, known, self.changes.len());
        Some(Look {
            counter: self.counter,
            anything: self.anything,
            meta: self.meta,
            objects: self.objects,
            changes: told.then_some(self.changes),
        })
    }
}

/// The commit that is to be made.
struct Next {
    look: Look,
    /// What it changes itself.
    changed: Vec<crate::hsm::ObjectId>,
}

impl Next {
    fn new(before: Before, known: u64, writes: &[Write]) -> Self {
        // An older state than was known: a database that was put back. Nothing that anybody remembers is
        // of use then, and all must see the number move.
        let back = before.counter < known;
        let counter = before.counter.max(known) + 1;
        let (anything, changed) = match changed_by(writes) {
            Some(Changed::Objects(objects)) if objects.len() <= SWEEP as usize => (back, objects),
            None => (back, Vec::new()),
            Some(_) => (true, Vec::new()),
        };
        let touches = |of: fn(&Write) -> bool| anything || writes.iter().any(of);
        let newest = |touched: bool, before: u64| if touched { counter } else { before };
        let meta = newest(touches(is_of_meta), before.meta);
        let objects = newest(touches(is_of_objects), before.objects);
        let everything = newest(anything, before.anything);
        let told = !back && query::is_told(counter, known, before.changes.len());
        let own = changed.iter().map(|object| (counter, *object));
        let changes = told.then(|| before.changes.into_iter().chain(own).collect());
        Self { look: Look { counter, anything: everything, meta, objects, changes }, changed }
    }

    /// Asks for the commit. When it is lost, `asked` has it.
    async fn commit(
        self,
        session: &mut Session,
        work: &Work,
        results: Results,
        asked: &mut Vec<Asked>,
    ) -> std::result::Result<Look, Failure> {
        let Look { counter, anything, meta, objects, .. } = self.look;
        let mut name = Name::default();
        getrandom::fill(&mut name).map_err(|error| ErrorKind::GeneralError.with(format!("no randomness: {error}")))?;
        let number = counter.cast_signed();
        let changed: Vec<&[u8]> = self.changed.iter().map(|object| object.as_slice()).collect();
        if !changed.is_empty() {
            let sql = "INSERT INTO changes (object, counter)
                SELECT DISTINCT n.object, $2::INT8 FROM unnest($1::BYTEA[]) AS n(object)";
            session.execute(sql, &[&changed, &number]).await?;
        }
        if counter.is_multiple_of(SWEEP) {
            let old = number - KEPT;
            session.execute("DELETE FROM commits WHERE counter <= $1", &[&old]).await?;
            session.execute("DELETE FROM changes WHERE counter <= $1", &[&old]).await?;
        }
        let state = "UPDATE state SET counter = $1, anything = $2, meta = $3, objects = $4, next_place = $5,
            managed = $6, total = $7";
        let state = session.statement(state).await?;
        let commit = session.statement("INSERT INTO commits (id, counter) VALUES ($1, $2)").await?;
        let client = session.client();
        let numbers =
            [counter, anything, meta, objects, work.next_place, work.managed, work.total].map(u64::cast_signed);
        let [counter, anything, meta, objects, next_place, managed, total] = &numbers;
        asked.push(Asked { name, results });
        let values: Params<'_> = &[counter, anything, meta, objects, next_place, managed, total];
        let name = name.as_slice();
        let named: Params<'_> = &[&name, &number];
        let (updated, named, committed) = tokio::join!(
            biased;
            client.execute(&state, values),
            client.execute(&commit, named),
            client.batch_execute("COMMIT"),
        );
        let failed = [updated.err(), named.err()].into_iter().flatten().next();
        match failed.or_else(|| committed.err()).map(Failure::from) {
            None => Ok(self.look),
            Some(failure) => {
                if !failure.is_lost() {
                    // The server says that it was not made.
                    asked.pop();
                }
                Err(failure)
            }
        }
    }
}

fn is_of_meta(write: &Write) -> bool {
    matches!(write, Write::BeginAttempt { .. } | Write::EndAttempt { .. })
}

fn is_of_objects(write: &Write) -> bool {
    matches!(write, Write::Insert(_) | Write::Replace(_) | Write::ReplaceAll(_) | Write::Change(_) | Write::Delete(_))
}
