//! `conclaved`: an HSM of a fleet as a process. It has no file and no configuration but its options.

mod args;

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use conclave::fleet::{Health, Listener, Server, harden, seccomp};
use conclave::hsm::Member;
use conclave::notify::notify;
use conclave::text::hex;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use args::{Arguments, Format, Plan};

fn main() -> ExitCode {
    let plan = match Arguments::parse().plan() {
        Ok(plan) => plan,
        Err(why) => {
            eprintln!("conclaved: {why}");
            return ExitCode::from(2);
        }
    };
    match run(plan) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("conclaved: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Fails with a sentence.
fn run(plan: Plan) -> Result<(), String> {
    match plan.log_format {
        Format::Json => conclave::log::install_json(plan.log_level),
        Format::Text => conclave::log::install(plan.log_level, None).map_err(|error| error.to_string())?,
    }
    harden_process(&plan)?;
    // From here on they do not kill.
    let mut signals = signals().map_err(|error| format!("signals cannot be awaited: {error}"))?;

    let member = Member::new(plan.settings, &plan.name, plan.fingerprint)
        .map_err(|error| format!("the HSM cannot be made: {error}"))?;
    let member = Arc::new(member);
    let mut listeners = Vec::new();
    for address in &plan.listen {
        listeners.push(Listener::bind(address, plan.socket_mode)?);
    }
    if let Some(path) = &plan.admin {
        listeners.push(Listener::admin(path)?);
    }
    let health = plan.metrics.as_deref().map(Health::bind).transpose()?;
    announce(&plan, &member, &listeners, health.as_ref())
        .map_err(|error| format!("nothing can be printed: {error}"))?;

    let service = Arc::new(Arc::clone(&member));
    let server = Server::new(service, listeners, plan.limits.clone()).map_err(|error| format!("no server: {error}"))?;
    let weak = server.downgrade();
    member.on_change(move |change| {
        let Some(server) = weak.upgrade() else { return };
        server.expel(|host| change.gone_hosts.contains(host));
        if change.rotated || !change.member {
            server.end_links();
        }
    });
    if let Some(health) = health {
        health.serve(server.downgrade()).map_err(|error| format!("no thread for --metrics: {error}"))?;
    }
    if plan.seccomp {
        seccomp::confine()?;
    }
    server.start().map_err(|error| format!("no threads: {error}"))?;
    notify("READY=1");

    // Nobody writes but a signal's handler.
    let _ = signals.read(&mut [0]);
    tracing::info!("ending");
    notify("STOPPING=1");
    if !server.stop() {
        tracing::warn!("some requests took too long to be waited for");
    }
    member.wipe();
    // Its keys go with the last who has it, which the workers were until they ended.
    drop(server);
    drop(member);
    tracing::info!("ended");
    Ok(())
}

/// Everything that needs privileges, or must be so before there is a secret.
fn harden_process(plan: &Plan) -> Result<(), String> {
    harden::keep_no_large_blocks();
    if plan.hardening {
        harden::close_inherited().map_err(|error| format!("inherited descriptors: {error}"))?;
        harden::close_to_others()?;
        match harden::lock_memory() {
            Ok(()) => tracing::info!("all memory is locked"),
            Err(why) => tracing::warn!("memory beside that of keys may be swapped out: {why}"),
        }
    }
    match harden::raise_descriptors() {
        // Listeners, the standard streams and the like beside the connections.
        Ok(most) if most >= plan.limits.connections as u64 + 64 => {}
        Ok(most) => tracing::warn!(most, "fewer files may be open than connections; set LimitNOFILE"),
        Err(error) => tracing::warn!(%error, "the limit on open files cannot be raised"),
    }
    if let Some(user) = &plan.user {
        harden::become_user(user)?;
    } else if harden::is_root() {
        tracing::warn!("runs as root; name another user with --user");
    }
    if plan.hardening {
        // Another user's process can be dumped again.
        harden::close_to_others()?;
    }
    Ok(())
}

/// What becomes readable when the process is told to end.
fn signals() -> io::Result<UnixStream> {
    let (reader, writer) = UnixStream::pair()?;
    for signal in [SIGTERM, SIGINT] {
        signal_hook::low_level::pipe::register(signal, writer.try_clone()?)?;
    }
    // There is no file to read again.
    signal_hook::flag::register(SIGHUP, Arc::default())?;
    Ok(reader)
}

/// The first lines of the output.
fn announce(plan: &Plan, member: &Member, listeners: &[Listener], health: Option<&Health>) -> io::Result<()> {
    let metrics = health.map(|health| health.address().map(|address| address.to_string())).transpose()?;
    let [signing, agreement] = member.fingerprints().map_err(io::Error::other)?.map(|key| hex(&key));
    let id = hex(&member.id().map_err(io::Error::other)?);
    tracing::info!(name = plan.name, id, settings = ?plan.settings, "started");
    let mut lines = vec![("name", plan.name.clone()), ("id", id), ("signing", signing), ("agreement", agreement)];
    for listener in listeners {
        let kind = if listener.is_admin() { "admin" } else { "listen" };
        tracing::info!(address = %listener.address(), kind, "listening");
        lines.push((kind, listener.address().to_string()));
    }
    lines.extend(metrics.map(|address| ("metrics", address)));
    let mut out = io::stdout();
    if plan.json {
        let mut all = serde_json::Map::new();
        for (name, value) in lines {
            match name {
                "listen" => {
                    let listen = all.entry(name).or_insert_with(|| serde_json::Value::Array(Vec::new()));
                    listen.as_array_mut().into_iter().for_each(|listen| listen.push(value.clone().into()));
                }
                _ => {
                    all.insert(name.to_owned(), value.into());
                }
            }
        }
        writeln!(out, "{}", serde_json::Value::Object(all))?;
    } else {
        for (name, value) in lines {
            writeln!(out, "{name:12}{value}")?;
        }
    }
    out.flush()
}
