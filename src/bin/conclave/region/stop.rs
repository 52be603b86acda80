//! The wish to end, by SIGTERM or ctrl-C.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::output::Failure;

pub(super) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// From now on the first signal is a wish; a second one ends the process at once.
    pub(super) fn on_signals() -> Result<Self, Failure> {
        let stop = Arc::new(AtomicBool::new(false));
        let register = |signal| -> io::Result<()> {
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&stop))?;
            flag::register(signal, Arc::clone(&stop)).map(|_| ())
        };
        let registered = register(SIGTERM).and_then(|()| register(SIGINT));
        registered.map_err(|error| Failure::new(format!("cannot listen for signals: {error}")))?;
        Ok(Self(stop))
    }

    pub(super) fn wished(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
