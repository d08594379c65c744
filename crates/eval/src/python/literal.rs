//! `ast.literal_eval` for the literals that task files render.

use serde_json::{Map, Number, Value};

/// Nested lists deeper than this are refused rather than recursed into.
const MAX_DEPTH: usize = 64;

/// Why a text is no Python literal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected} at byte {at} of {text:?}")]
pub struct LiteralError {
    /// What would have been accepted.
    pub expected: &'static str,
    /// Where, in bytes.
    pub at: usize,
    /// The text, cut at 80 characters.
    pub text: String,
}

/// Reads a Python literal: text, numbers, `True`, `False`, `None`, lists, tuples, sets and dictionaries.
///
/// Tuples and sets become lists, and keys of dictionaries become text.
///
/// # Errors
/// [`LiteralError`] with the place where the literal breaks off.
///
/// # Examples
/// ```
/// use flametune_eval::python::literal_eval;
///
/// let value = literal_eval(r#"['yes', "it's", -2, (True, None)]"#)?;
/// assert_eq!(value, serde_json::json!(["yes", "it's", -2, [true, null]]));
/// # Ok::<(), flametune_eval::python::LiteralError>(())
/// ```
pub fn literal_eval(text: &str) -> Result<Value, LiteralError> {
    let mut reader = Reader { text, at: 0 };
    reader.space();
    let value = reader.value(0)?;
    reader.space();
    if reader.at < text.len() {
        return Err(reader.expected("the end"));
    }
    Ok(value)
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn expected(&self, expected: &'static str) -> LiteralError {
        LiteralError {
            expected,
            at: self.at,
            text: self.text.chars().take(80).collect(),
        }
    }

    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn bump(&mut self) -> Option<char> {
        let character = self.peek()?;
        self.at += character.len_utf8();
        Some(character)
    }

    fn space(&mut self) {
        while self.peek().is_some_and(|c| c.is_ascii_whitespace()) {
            self.bump();
        }
    }

    fn take(&mut self, word: &str) -> bool {
        let found = self.rest().starts_with(word);
        if found {
            self.at += word.len();
        }
        found
    }

    fn value(&mut self, depth: usize) -> Result<Value, LiteralError> {
        if depth > MAX_DEPTH {
            return Err(self.expected("fewer than 64 nested lists"));
        }
        match self.peek() {
            Some('[') => self.list(']', depth).map(Value::Array),
            Some('(') => self.parenthesis(depth),
            Some('{') => self.braces(depth),
            Some('\'' | '"') => self.strings().map(Value::String),
            Some('r' | 'R' | 'u' | 'U') if self.string_follows() => {
                self.strings().map(Value::String)
            }
            Some(c) if c.is_ascii_digit() || matches!(c, '-' | '+' | '.') => self.number(),
            _ if self.take("True") => Ok(Value::Bool(true)),
            _ if self.take("False") => Ok(Value::Bool(false)),
            _ if self.take("None") => Ok(Value::Null),
            _ => Err(self.expected("a literal")),
        }
    }

    fn string_follows(&self) -> bool {
        matches!(self.rest().as_bytes().get(1), Some(b'\'' | b'"'))
    }

    /// The items up to `close`; the reader stands on the opening bracket.
    fn list(&mut self, close: char, depth: usize) -> Result<Vec<Value>, LiteralError> {
        self.bump();
        let mut items = Vec::new();
        loop {
            self.space();
            if self.peek() == Some(close) {
                self.bump();
                return Ok(items);
            }
            items.push(self.value(depth + 1)?);
            self.space();
            match self.peek() {
                Some(',') => {
                    self.bump();
                }
                Some(c) if c == close => {}
                _ => return Err(self.expected("a comma or the closing bracket")),
            }
        }
    }

    fn parenthesis(&mut self, depth: usize) -> Result<Value, LiteralError> {
        let start = self.at;
        let mut items = self.list(')', depth)?;
        let inside = &self.text[start..self.at];
        let comma = inside.trim_end_matches(')').trim_end().ends_with(',');
        // (x) is x, and (x,) is a tuple.
        if items.len() == 1 && !comma {
            return Ok(items.swap_remove(0));
        }
        Ok(Value::Array(items))
    }

    fn braces(&mut self, depth: usize) -> Result<Value, LiteralError> {
        self.bump();
        self.space();
        let (mut entries, mut items) = (Map::new(), Vec::new());
        loop {
            self.space();
            if self.take("}") {
                break;
            }
            let key = self.value(depth + 1)?;
            self.space();
            if self.take(":") {
                self.space();
                let value = self.value(depth + 1)?;
                entries.insert(super::python_str(&key), value);
            } else {
                items.push(key);
            }
            self.space();
            if !self.take(",") && self.peek() != Some('}') {
                return Err(self.expected("a comma or the closing brace"));
            }
        }
        match (entries.is_empty(), items.is_empty()) {
            (_, true) => Ok(Value::Object(entries)),
            (true, false) => Ok(Value::Array(items)),
            (false, false) => Err(self.expected("either a set or a dictionary")),
        }
    }

    fn number(&mut self) -> Result<Value, LiteralError> {
        let start = self.at;
        if matches!(self.peek(), Some('-' | '+')) {
            self.bump();
        }
        while let Some(c) = self.peek() {
            let sign = matches!(c, '-' | '+') && self.text[start..self.at].ends_with(['e', 'E']);
            if c.is_ascii_digit() || matches!(c, '.' | '_' | 'e' | 'E') || sign {
                self.bump();
            } else {
                break;
            }
        }
        let digits = self.text[start..self.at].replace('_', "");
        let digits = digits.strip_prefix('+').unwrap_or(&digits);
        if let Ok(integer) = digits.parse::<i64>() {
            return Ok(Value::from(integer));
        }
        digits
            .parse::<f64>()
            .ok()
            .and_then(Number::from_f64)
            .map(Value::Number)
            .ok_or_else(|| self.expected("a number"))
    }

    /// One string literal, or several beside each other, which Python joins.
    fn strings(&mut self) -> Result<String, LiteralError> {
        let mut text = String::new();
        loop {
            self.string(&mut text)?;
            let end = self.at;
            self.space();
            let more = matches!(self.peek(), Some('\'' | '"'))
                || (matches!(self.peek(), Some('r' | 'R' | 'u' | 'U')) && self.string_follows());
            if !more {
                self.at = end;
                return Ok(text);
            }
        }
    }

    fn string(&mut self, out: &mut String) -> Result<(), LiteralError> {
        let raw = matches!(self.peek(), Some('r' | 'R'));
        if matches!(self.peek(), Some('r' | 'R' | 'u' | 'U')) {
            self.bump();
        }
        let single = if self.peek() == Some('"') { "\"" } else { "'" };
        let triple = single.repeat(3);
        let quote = if self.rest().starts_with(&triple) {
            triple.as_str()
        } else {
            single
        };
        self.at += quote.len();
        loop {
            if self.take(quote) {
                return Ok(());
            }
            match self.bump() {
                None => return Err(self.expected("the closing quote")),
                Some('\n') if quote.len() == 1 => return Err(self.expected("the closing quote")),
                Some('\\') if !raw => self.escape(out)?,
                Some('\\') => {
                    out.push('\\');
                    if let Some(next) = self.bump() {
                        out.push(next);
                    }
                }
                Some(c) => out.push(c),
            }
        }
    }

    fn escape(&mut self, out: &mut String) -> Result<(), LiteralError> {
        let Some(kind) = self.bump() else {
            return Err(self.expected("an escape"));
        };
        let hex_digits = match kind {
            // A line break after a backslash is none.
            '\n' => return Ok(()),
            '0'..='7' => {
                out.push(self.octal(kind));
                return Ok(());
            }
            'x' => 2,
            'u' => 4,
            'U' => 8,
            other => {
                match plain_escape(other) {
                    Some(character) => out.push(character),
                    // An unknown escape stays as it is.
                    None => out.extend(['\\', other]),
                }
                return Ok(());
            }
        };
        let mut code = 0_u32;
        for _ in 0..hex_digits {
            let digit = self.bump().and_then(|c| c.to_digit(16));
            let Some(digit) = digit else {
                return Err(self.expected("a hexadecimal digit"));
            };
            code = code.wrapping_mul(16).wrapping_add(digit);
        }
        // Half of a surrogate pair has no place in UTF-8.
        out.push(char::from_u32(code).unwrap_or('\u{fffd}'));
        Ok(())
    }

    /// A character by up to three octal digits, of which the first is read already.
    fn octal(&mut self, first: char) -> char {
        let mut code = first.to_digit(8).unwrap_or(0);
        for _ in 0..2 {
            let Some(digit) = self.peek().and_then(|c| c.to_digit(8)) else {
                break;
            };
            self.bump();
            code = code * 8 + digit;
        }
        char::from_u32(code).unwrap_or('\u{fffd}')
    }
}

/// What a letter after a backslash stands for.
fn plain_escape(letter: char) -> Option<char> {
    Some(match letter {
        'n' => '\n',
        't' => '\t',
        'r' => '\r',
        'a' => '\x07',
        'b' => '\x08',
        'f' => '\x0c',
        'v' => '\x0b',
        '\\' | '\'' | '"' => letter,
        _ => return None,
    })
}
