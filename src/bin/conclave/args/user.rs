//! Arguments of `conclave user`.

use clap::{Args, Subcommand};

use super::Login;

#[derive(Subcommand)]
pub(crate) enum UserCommand {
    /// Set the PIN of a user for whom the operators, or the SO who governs the token, allow one.
    #[command(after_help = "Examples:\n  conclave user set-pin --token web --code prompt --login-as anna\n  \
                            conclave user set-pin --token web --so-pin env:SO_PIN --new-pin env:USER_PIN\n\n\
                            Where operators govern, `create user` and `reset PIN` open the way for one new PIN. A login \
                            opens the domain: any, if the operators gave the user a code, else the SO's. Where the SO \
                            governs he sets the user's PIN as he likes (C_InitPIN).")]
    SetPin(UserSetPin),
}

#[derive(Args)]
pub(crate) struct UserSetPin {
    #[command(flatten)]
    pub(crate) login: Login,
    /// Whose PIN: `user`, `SO`, or the name of a named user.
    #[arg(long, value_name = "USER", default_value = "user")]
    pub(crate) user: String,
    /// Where the code comes from that the operators gave the user.
    #[arg(long, value_name = "SOURCE")]
    pub(crate) code: Option<String>,
    /// Where the new PIN comes from.
    #[arg(long, value_name = "SOURCE", default_value = "prompt")]
    pub(crate) new_pin: String,
}
