//! `conclave store`.

use clap::{Args, Subcommand};

#[derive(Subcommand)]
pub(crate) enum StoreCommand {
    /// Copy a token, with all that its store holds, to a place where there is none.
    #[command(
        after_help = "A place is postgresql://USER@HOST/DATABASE?sslmode=verify-full&sslrootcert=FILE, the directory of \
                            one token\n(DATA/tokens/0, or sqlite:DIR as in the configuration of a fleet), or the number of a slot \
                            of the data directory.\n\n\
                            Examples:\n  conclave store migrate --from 0 --to 'postgresql://keys@db/region?sslmode=verify-full'\n  \
                            conclave store migrate --from 'postgresql://keys@db/region' --to sqlite:/srv/copy --json\n\n\
                            Stop what uses the token first: if it is changed meanwhile, nothing is made and the command fails. \
                            All rows\nare read back and compared; until then there is no token at the target. The source stays \
                            as it is."
    )]
    Migrate(Migrate),
}

#[derive(Args)]
pub(crate) struct Migrate {
    /// Where the token is.
    #[arg(long, value_name = "PLACE")]
    pub(crate) from: String,
    /// Where it is to be; for a database, the tables are made if they are not there.
    #[arg(long, value_name = "PLACE")]
    pub(crate) to: String,
}
