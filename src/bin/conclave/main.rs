//! `conclave`, the operator's command line. It uses the module as any application does, through
//! [`conclave::cryptoki`].

/// As the standard library's, but a closed pipe (`| head`) is the reader's wish, not a failure.
macro_rules! println {
    ($($what:tt)*) => {{
        let _ = std::io::Write::write_fmt(&mut std::io::stdout().lock(), format_args!("{}\n", format_args!($($what)*)));
    }};
}

/// Likewise.
macro_rules! print {
    ($($what:tt)*) => {{
        let _ = std::io::Write::write_fmt(&mut std::io::stdout().lock(), format_args!($($what)*));
    }};
}

mod alias;
mod args;
mod audit;
mod carrier;
mod doctor;
mod domain;
mod files;
mod fleet;
mod grant;
mod key;
mod managed;
mod mechanism;
mod operator;
mod operator_keys;
mod output;
mod pin;
mod proposal;
mod propose;
mod region;
mod session;
#[cfg(feature = "fleet")]
mod store;
mod times;
mod token;
mod user;

use std::process::ExitCode;

use clap::Parser;

use args::{Arguments, Command, SessionCommand, TokenCommand};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.command {
        Command::Token(TokenCommand::List) => token::list(arguments.json),
        Command::Token(TokenCommand::Init(init)) => token::init(init, arguments.json),
        Command::Token(TokenCommand::Destroy(destroy)) => token::destroy(destroy, arguments.json),
        Command::Key(command) => key::run(command, arguments.json),
        Command::Alias(command) => alias::run(command, arguments.json),
        Command::Grant(command) => grant::run(command, arguments.json),
        Command::Replicate(replicate) => region::replicate(replicate, arguments.json),
        Command::Region(command) => region::run(command, arguments.json),
        Command::Domain(command) => domain::run(command, arguments.json),
        Command::Operator(command) => operator::run(command, arguments.json),
        Command::Proposal(command) => proposal::run(command, arguments.json),
        Command::User(command) => user::run(command, arguments.json),
        Command::Audit(command) => audit::run(command, arguments.json),
        #[cfg(feature = "fleet")]
        Command::Store(command) => store::run(command, arguments.json),
        Command::Fleet(command) => fleet::run(command, arguments.json),
        Command::Hsm(command) => fleet::hsm(command, arguments.json),
        Command::Host(command) => fleet::host(command, arguments.json),
        Command::Session(SessionCommand::Show(at)) => fleet::session(at, arguments.json),
        Command::Mechanisms => mechanism::list(arguments.json),
        Command::Doctor => return doctor::run(arguments.json),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(arguments.json),
    }
}
