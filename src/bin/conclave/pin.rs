//! Where a PIN comes from.

use std::io::BufRead;

use zeroize::Zeroizing;

use crate::output::Failure;

/// Reads a PIN from its source; `whose` is for the prompt. A new PIN is asked for twice.
pub(crate) fn read(source: &str, whose: &str, new: bool) -> Result<Zeroizing<String>, Failure> {
    if source == "prompt" {
        return prompt(whose, new);
    }
    if source == "stdin" {
        let mut line = Zeroizing::new(String::new());
        std::io::stdin()
            .lock()
            .read_line(&mut line)
            .map_err(|error| Failure::new(format!("cannot read {whose} from the standard input: {error}")))?;
        return Ok(first_line(&line));
    }
    match source.split_once(':') {
        Some(("pass", pin)) => Ok(Zeroizing::new(pin.to_owned())),
        Some(("env", name)) => std::env::var(name)
            .map(Zeroizing::new)
            .map_err(|_| Failure::usage(format!("{whose}: the environment has no variable {name}"))),
        Some(("file", path)) => std::fs::read_to_string(path)
            .map(|text| first_line(&Zeroizing::new(text)))
            .map_err(|error| Failure::new(format!("cannot read {whose} from {path}: {error}"))),
        _ => Err(Failure::usage(format!(
            "{source:?} is not a source of a PIN: use prompt, stdin, env:NAME, file:PATH or pass:PIN"
        ))),
    }
}

fn prompt(whose: &str, new: bool) -> Result<Zeroizing<String>, Failure> {
    let ask = |text: String| {
        rpassword::prompt_password(text)
            .map(Zeroizing::new)
            .map_err(|error| Failure::usage(format!("cannot ask for {whose} ({error}): give a source, see --help")))
    };
    let pin = ask(format!("{whose}: "))?;
    if new && *ask(format!("{whose}, again: "))? != *pin {
        return Err(Failure::new(format!("{whose}: the two entries differ")));
    }
    Ok(pin)
}

fn first_line(text: &Zeroizing<String>) -> Zeroizing<String> {
    Zeroizing::new(text.lines().next().unwrap_or_default().to_owned())
}
