//! Patterns of Python's `re`, as this crate's engine reads them.

use regex::Regex;

/// Compiles a pattern of Python's `re`.
///
/// The syntax is the same but for `\Z` (here `\z`), `(?P=name)`, look-around and back references, which the
/// engine, linear in time by construction, does not have; `$` matches at the very end only.
///
/// # Errors
/// What the engine does not accept.
pub fn python_regex(pattern: &str) -> Result<Regex, regex::Error> {
    Regex::new(&translate(pattern))
}

fn translate(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    let mut characters = pattern.chars().peekable();
    let (mut class, mut opened) = (false, false);
    while let Some(character) = characters.next() {
        let first_in_class = std::mem::take(&mut opened);
        match character {
            '\\' => match characters.next() {
                Some('Z') => out.push_str(r"\z"),
                Some(next) => {
                    out.push('\\');
                    out.push(next);
                }
                None => out.push('\\'),
            },
            '[' if class => out.push_str(r"\["),
            '[' => {
                class = true;
                opened = true;
                out.push('[');
                if characters.peek() == Some(&'^') {
                    characters.next();
                    out.push('^');
                }
            }
            ']' if class && first_in_class => out.push_str(r"\]"),
            ']' => {
                class = false;
                out.push(']');
            }
            // The engine reads these pairs as set operations.
            '&' | '~' | '-' if class && characters.peek() == Some(&character) => {
                out.push('\\');
                out.push(character);
            }
            other => out.push(other),
        }
    }
    out
}

/// A replacement of Python's `re.sub`: `\1`, `\g<name>` and `\n`, in the engine's words.
pub(crate) fn python_replacement(replacement: &str) -> String {
    let mut out = String::with_capacity(replacement.len());
    let mut characters = replacement.chars().peekable();
    while let Some(character) = characters.next() {
        match (character, characters.peek().copied()) {
            ('$', _) => out.push_str("$$"),
            ('\\', Some(digit)) if digit.is_ascii_digit() => {
                characters.next();
                out.push_str("${");
                out.push(digit);
                if let Some(second) = characters.next_if(char::is_ascii_digit) {
                    out.push(second);
                }
                out.push('}');
            }
            ('\\', Some('g')) => {
                characters.next();
                let name: String = characters
                    .by_ref()
                    .skip_while(|&c| c == '<')
                    .take_while(|&c| c != '>')
                    .collect();
                out.push_str(&format!("${{{name}}}"));
            }
            ('\\', Some('n')) => {
                characters.next();
                out.push('\n');
            }
            ('\\', Some('t')) => {
                characters.next();
                out.push('\t');
            }
            ('\\', Some('\\')) => {
                characters.next();
                out.push('\\');
            }
            (other, _) => out.push(other),
        }
    }
    out
}
