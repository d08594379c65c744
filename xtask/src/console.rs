//! What the person at the terminal sees: headings, notes and loud warnings, on standard error.

use std::io::{IsTerminal, stderr};

/// Starts a section of the output.
pub(crate) fn heading(text: &str) {
    eprintln!("\n{}", paint("1;36", &format!("── {text} ──")));
}

/// A plain line.
pub(crate) fn note(text: &str) {
    eprintln!("{text}");
}

/// A message that must not be overlooked, but stops nothing.
pub(crate) fn warning(text: &str) {
    let bar = "!".repeat(72);
    eprintln!(
        "{}",
        paint(
            "1;33",
            &format!("{bar}\n!! {}\n{bar}", text.replace('\n', "\n!! "))
        )
    );
}

/// Why the command ends without success.
pub(crate) fn failure(text: &str) {
    eprintln!("{} {text}", paint("1;31", "error:"));
}

fn paint(code: &str, text: &str) -> String {
    if stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        format!("\x1b[{code}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}
