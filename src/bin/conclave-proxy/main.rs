//! `conclave-proxy` carries messages between Regions over HTTP/1.1. It keeps them, durably, until
//! they are acknowledged or too old, and understands nothing of them.

mod address;
mod args;
mod metrics;
mod queue;
mod server;
mod service;
mod store;

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::Parser;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use address::Address;
use args::Arguments;
use queue::Queue;
use service::Service;
use store::{Limits, Store};

/// The longest time between two looks for messages that are too old.
const SWEEP: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    for region in &arguments.region {
        if let Err(why) = Address::new(region, None) {
            eprintln!("conclave-proxy: --region {region:?}: {why}");
            return ExitCode::from(2);
        }
    }
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("conclave-proxy: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Fails with a sentence.
fn run(arguments: Arguments) -> Result<(), String> {
    conclave::log::install(arguments.log_level, arguments.log.as_deref())
        .map_err(|error| format!("the log cannot be written: {error}"))?;
    let limits = Limits {
        messages: arguments.max_messages,
        bytes: arguments.max_bytes,
        total_bytes: arguments.max_total_bytes,
        regions: arguments.max_regions,
        ttl: arguments.ttl,
    };
    let store = Store::open(&arguments.data, limits.clone())?;
    let (queue, thread) = Queue::start(store).map_err(|error| format!("no thread for the store: {error}"))?;
    let runtime = Runtime::new().map_err(|error| format!("no runtime: {error}"))?;
    let done = runtime.block_on(serve(arguments, &limits, queue));
    // What is left of tasks gives the store up, so that its thread ends and the file is closed.
    runtime.shutdown_timeout(Duration::from_secs(5));
    if thread.join().is_err() {
        return Err("the store's thread failed".to_owned());
    }
    tracing::info!("ended");
    done
}

async fn serve(arguments: Arguments, limits: &Limits, queue: Arc<Queue>) -> Result<(), String> {
    let mut signals = [SignalKind::terminate(), SignalKind::interrupt()]
        .map(|kind| signal(kind).map_err(|error| format!("signals cannot be awaited: {error}")));
    let [Ok(terminate), Ok(interrupt)] = &mut signals else {
        return Err("signals cannot be awaited".to_owned());
    };
    let cannot = |error: io::Error| format!("cannot listen at {}: {error}", arguments.listen);
    let listener = TcpListener::bind(&arguments.listen).await.map_err(cannot)?;
    let address = listener.local_addr().map_err(cannot)?;
    let waiting: u64 = queue.queues().all().iter().map(|(_, waiting)| waiting.messages).sum();
    tracing::info!(%address, data = %arguments.data.display(), ?limits, waiting, "listening");
    // A closed output does not matter to a service.
    let _ = writeln!(io::stdout(), "listening on {address}").and_then(|()| io::stdout().flush());
    let service = Arc::new(Service::new(queue, arguments.region, arguments.max_memory));
    conclave::notify::notify("READY=1");

    let sweeping = tokio::spawn(sweep(Arc::clone(&service), limits.ttl.min(SWEEP)));
    let mut broken = false;
    let stop = async {
        tokio::select! {
            () = awaited(terminate) => {}
            () = awaited(interrupt) => {}
            () = service.queue.broken() => broken = true,
        }
        tracing::info!("ending");
        conclave::notify::notify("STOPPING=1");
    };
    server::serve(listener, Arc::clone(&service), arguments.max_connections, stop).await;
    sweeping.abort();
    if broken { Err("the store's thread ended".to_owned()) } else { Ok(()) }
}

async fn awaited(signal: &mut Signal) {
    signal.recv().await;
}

/// Ends messages that are too old, again and again.
async fn sweep(service: Arc<Service>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        // The store has logged a failure.
        let ended = service.queue.call(|store| store.expire()).await.unwrap_or_default();
        for (region, messages) in ended {
            service.metrics.expired.fetch_add(messages, Ordering::Relaxed);
            tracing::warn!(region, messages, "messages that nobody acknowledged were too old");
        }
    }
}
