//! Bounds on a template's shape.
//!
//! The template engine compiles and frees expressions recursively and bounds brackets and blocks, but not chains:
//! `x|f|f|f…`, `1 + 1 + 1…`, `not not not…` or `elif` after `elif`. Fifty thousand links would overflow the stack and
//! end the process, so long chains are refused before the engine sees them.

use super::lexer::{Piece, pieces, string_end};

/// Operators on the way from the outside of an expression to its innermost part. Real templates stay below 40.
const MAX_CHAIN: usize = 500;
/// `elif` tags in a template. Real templates stay below 40.
const MAX_ELIF: usize = 500;

/// The line of the first tag that goes beyond a bound, and what is wrong with it.
pub(super) fn exceeded(template: &str) -> Option<(usize, String)> {
    let mut line = 1;
    let mut elifs = 0;
    for piece in pieces(template) {
        let text = match piece {
            Piece::Text(text) => text,
            Piece::Expression(tag) | Piece::Block(tag) => {
                if longest_chain(tag) > MAX_CHAIN {
                    return Some((
                        line,
                        format!("an expression has a chain of more than {MAX_CHAIN} operators"),
                    ));
                }
                let inner = tag.get(2..).unwrap_or_default();
                elifs += usize::from(
                    inner
                        .trim_start_matches(['-', '+'])
                        .trim_start()
                        .starts_with("elif"),
                );
                if elifs > MAX_ELIF {
                    return Some((line, format!("there are more than {MAX_ELIF} elif tags")));
                }
                tag
            }
        };
        line += text.matches('\n').count();
    }
    None
}

/// The largest number of operators that can stand above one part of a tag's expression tree.
///
/// A comma ends a chain inside of its brackets; what stands before the brackets goes on to count.
fn longest_chain(tag: &str) -> usize {
    let bytes = tag.as_bytes();
    let mut longest = 0;
    // Operators in each open bracket, and in all of them.
    let mut open = vec![0_usize];
    let mut total = 0_usize;
    let mut index = 2;
    let mut in_word = false;
    while index < bytes.len() {
        let byte = bytes[index];
        let word = byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80;
        let operator = match byte {
            b'"' | b'\'' => {
                index = string_end(bytes, index);
                false
            }
            b',' => {
                total -= open.last_mut().map_or(0, std::mem::take);
                false
            }
            b'(' | b'[' | b'{' => true,
            b')' | b']' | b'}' => {
                if open.len() > 1 {
                    total -= open.pop().unwrap_or(0);
                }
                false
            }
            _ if word => !in_word && is_operator_word(&bytes[index..]),
            _ => !byte.is_ascii_whitespace() && byte != b':',
        };
        in_word = word;
        if operator {
            total += 1;
            longest = longest.max(total);
            if let Some(count) = open.last_mut() {
                *count += 1;
            }
        }
        if matches!(byte, b'(' | b'[' | b'{') {
            open.push(0);
        }
        index += 1;
    }
    longest
}

/// Whether a word of the expression language starts here that makes the tree deeper.
fn is_operator_word(text: &[u8]) -> bool {
    ["not", "and", "or", "is", "in", "if", "else"]
        .iter()
        .any(|word| {
            text.starts_with(word.as_bytes())
                && !text
                    .get(word.len())
                    .is_some_and(|next| next.is_ascii_alphanumeric() || *next == b'_')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_are_counted_along_the_tree() {
        for (tag, expected) in [
            ("{{ x ", 0),
            ("{{ a|b|c ", 2),
            ("{{ not not a and b ", 3),
            ("{{ 'a | b . c' ~ notx ~ island ", 2),
            ("{{ [a|b, c|d, e|f] ", 2),
            ("{{ x.f(a, b).g(c|d, e) ", 5),
            ("{{ -1 + -2 ", 3),
        ] {
            assert_eq!(longest_chain(tag), expected, "{tag}");
        }
    }

    #[test]
    fn long_lists_pass_and_long_chains_do_not() {
        let list = format!("a\n{{{{ [{}] }}}}", vec!["x|trim.y"; 5000].join(", "));
        assert_eq!(exceeded(&list), None);
        let chain = format!("a\n{{{{ x{} }}}}", "|trim".repeat(501));
        assert_eq!(
            exceeded(&chain),
            Some((
                2,
                "an expression has a chain of more than 500 operators".to_owned()
            ))
        );
        let calls = format!("{{{{ x{} }}}}", ".f(a, b)".repeat(501));
        assert!(exceeded(&calls).is_some());
        let elifs = format!("{{% if a %}}{}{{% endif %}}", "{%- elif b %}".repeat(501));
        assert_eq!(
            exceeded(&elifs),
            Some((1, "there are more than 500 elif tags".to_owned()))
        );
    }
}
