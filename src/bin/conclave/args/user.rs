//! Arguments of `conclave user`.

use clap::{Args, Subcommand};

use super::{AtToken, Login};

#[derive(Subcommand)]
pub(crate) enum UserCommand {
    /// Make a named user, as the SO who governs the token.
    #[command(after_help = "Examples:\n  conclave user add alice --token web\n  \
                            conclave user add alice --token web --so-pin env:SO_PIN --new-pin env:ALICE_PIN\n\n\
                            The user logs in by C_LoginUser, and is \"user:alice\" in the policies of managed keys. Where \
                            operators govern, `conclave proposal new create-user` does it.")]
    Add(UserAdd),
    /// Remove a named user and the PIN, as the SO who governs the token.
    #[command(after_help = "Example:\n  conclave user remove alice --token web --so-pin env:SO_PIN\n\n\
                            The user's logins end at the next call. Keys the user owns stay, and so do policies and \
                            grants that name the user: they hold of a new user of the same name. Where operators govern, \
                            `conclave proposal new remove-user` does it.")]
    Remove(UserRemove),
    /// List who can log in to a token.
    #[command(after_help = "Example:\n  conclave user list --token web")]
    List(AtToken),
    /// Set the PIN of a user for whom the operators, or the SO who governs the token, allow one.
    #[command(after_help = "Examples:\n  conclave user set-pin --token web --code prompt --login-as anna\n  \
                            conclave user set-pin --token web --so-pin env:SO_PIN --new-pin env:USER_PIN\n\n\
                            Where operators govern, `create user` and `reset PIN` open the way for one new PIN. A login \
                            opens the domain: any, if the operators gave the user a code, else the SO's. Where the SO \
                            governs he sets the user's PIN as he likes (C_InitPIN).")]
    SetPin(UserSetPin),
}

#[derive(Args)]
pub(crate) struct UserAdd {
    /// The user's name: at most 64 bytes.
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) at: AtToken,
    /// Where the security officer's PIN comes from.
    #[arg(long, value_name = "SOURCE", default_value = "prompt")]
    pub(crate) so_pin: String,
    /// Where the user's PIN comes from.
    #[arg(long, value_name = "SOURCE", default_value = "prompt")]
    pub(crate) new_pin: String,
}

#[derive(Args)]
pub(crate) struct UserRemove {
    /// The user's name.
    pub(crate) name: String,
    #[command(flatten)]
    pub(crate) at: AtToken,
    /// Where the security officer's PIN comes from.
    #[arg(long, value_name = "SOURCE", default_value = "prompt")]
    pub(crate) so_pin: String,
    /// Do not ask.
    #[arg(long)]
    pub(crate) yes: bool,
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
