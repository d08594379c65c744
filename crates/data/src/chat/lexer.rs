//! Cutting a Jinja template into its pieces, and rewriting `{% generation %}` tags.
//!
//! Hugging Face templates mark the assistant's text with `{% generation %}…{% endgeneration %}`, a tag that Jinja
//! itself does not have. The lexer walks the template the way Jinja does, so that a tag inside a comment, a raw
//! block or a string literal is left alone, and rewrites the real ones to a filter block, which Jinja has.
//! Everything else, including the `-` and `+` whitespace marks and the line numbers, stays as it was.

/// Name of the filter that the tags are rewritten to.
pub(super) const FILTER: &str = "__generation";
/// Variable that holds the marks around an assistant's text while a template is rendered.
pub(super) const MARK_VARIABLE: &str = "__generation_mark";

/// A template whose generation tags are filter blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RewrittenTemplate {
    /// The template in plain Jinja.
    pub source: String,
    /// Number of `{% generation %}` tags that were rewritten.
    pub generation_tags: usize,
}

/// Rewrites `{% generation %}` tags to filter blocks.
///
/// Accepts any text: where the template is malformed, the rest is copied for the template engine to complain about.
///
/// # Examples
/// ```
/// let template = "{%- generation -%}{{ x }}{# {% generation %} #}{% endgeneration %}";
/// let rewritten = flametune_data::rewrite_generation_tags(template);
/// assert_eq!(rewritten.generation_tags, 1);
/// assert!(rewritten.source.ends_with("{{ x }}{# {% generation %} #}{% endfilter %}"));
/// ```
pub fn rewrite_generation_tags(template: &str) -> RewrittenTemplate {
    let mut source = String::with_capacity(template.len());
    let mut generation_tags = 0;
    for piece in pieces(template) {
        match piece {
            Piece::Block(text) => match Tag::parse(text) {
                Some(Tag {
                    before,
                    name: "generation",
                    after,
                }) => {
                    generation_tags += 1;
                    source.extend([before, "filter ", FILTER, "(", MARK_VARIABLE, ")", after]);
                }
                Some(Tag {
                    before,
                    name: "endgeneration",
                    after,
                }) => source.extend([before, "endfilter", after]),
                _ => source.push_str(text),
            },
            Piece::Text(text) | Piece::Expression(text) => source.push_str(text),
        }
    }
    RewrittenTemplate {
        source,
        generation_tags,
    }
}

/// A part of a template; put together, the parts are the template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// Text, comments and the inside of raw blocks: nothing in it is evaluated.
    Text(&'a str),
    /// `{{ … }}`.
    Expression(&'a str),
    /// `{% … %}`.
    Block(&'a str),
}

/// Cuts a template into its pieces.
pub(super) fn pieces(template: &str) -> Pieces<'_> {
    Pieces {
        rest: template,
        raw: false,
    }
}

#[derive(Debug)]
pub(super) struct Pieces<'a> {
    rest: &'a str,
    /// Whether the last piece opened a raw block.
    raw: bool,
}

impl<'a> Iterator for Pieces<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        if self.rest.is_empty() {
            return None;
        }
        if std::mem::take(&mut self.raw) {
            let end = raw_end(self.rest);
            if end > 0 {
                return Some(Piece::Text(self.take(end)));
            }
        }
        let start = find_marker(self.rest).unwrap_or(self.rest.len());
        if start > 0 {
            return Some(Piece::Text(self.take(start)));
        }
        Some(match self.rest.as_bytes().get(1) {
            Some(b'#') => {
                let end = self.rest[2..]
                    .find("#}")
                    .map_or(self.rest.len(), |end| end + 4);
                Piece::Text(self.take(end))
            }
            Some(b'{') => Piece::Expression(self.take(tag_end(self.rest, "}}"))),
            _ => {
                let block = self.take(tag_end(self.rest, "%}"));
                self.raw = Tag::parse(block).is_some_and(|tag| tag.name == "raw");
                Piece::Block(block)
            }
        })
    }
}

impl<'a> Pieces<'a> {
    fn take(&mut self, bytes: usize) -> &'a str {
        let (head, tail) = self.rest.split_at(bytes);
        self.rest = tail;
        head
    }
}

/// A block tag that holds one word: `{%- generation +%}`.
struct Tag<'a> {
    /// `{%`, the mark and the space up to the word.
    before: &'a str,
    name: &'a str,
    /// Everything after the word.
    after: &'a str,
}

impl<'a> Tag<'a> {
    fn parse(tag: &'a str) -> Option<Self> {
        let inner = tag.strip_prefix("{%")?;
        let inner = inner.strip_prefix(['-', '+']).unwrap_or(inner).trim_start();
        let before = &tag[..tag.len() - inner.len()];
        let length = inner
            .find(|c: char| !(c == '_' || c.is_alphanumeric()))
            .unwrap_or(inner.len());
        let (name, after) = inner.split_at(length);
        let close = after.trim_start();
        let close = close.strip_prefix(['-', '+']).unwrap_or(close);
        (close == "%}").then_some(Self {
            before,
            name,
            after,
        })
    }
}

/// Start of the next `{{`, `{%` or `{#`.
fn find_marker(text: &str) -> Option<usize> {
    text.as_bytes()
        .windows(2)
        .position(|pair| matches!(pair, b"{{" | b"{%" | b"{#"))
}

/// Length of a raw block's inside: up to `{% endraw %}`, or to the end when nothing closes it.
fn raw_end(text: &str) -> usize {
    let mut from = 0;
    while let Some(start) = text[from..].find("{%").map(|start| from + start) {
        let tag = &text[start..];
        if let Some(close) = tag.find("%}")
            && Tag::parse(&tag[..close + 2]).is_some_and(|tag| tag.name == "endraw")
        {
            return start;
        }
        from = start + 2;
    }
    text.len()
}

/// End of the tag that `text` begins with: after `close`, or at the end of the text when nothing closes it.
///
/// String literals are skipped, and `close` counts only outside of brackets.
fn tag_end(text: &str, close: &str) -> usize {
    let bytes = text.as_bytes();
    let mut depth = 0_usize;
    let mut index = 2;
    while index < bytes.len() {
        if depth == 0 && bytes[index..].starts_with(close.as_bytes()) {
            return index + close.len();
        }
        match bytes[index] {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            b'"' | b'\'' => index = string_end(bytes, index),
            _ => {}
        }
        index += 1;
    }
    bytes.len()
}

/// Index of the quote that closes the string literal at `start`, or of the last byte.
pub(super) fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut index = start + 1;
    while index < bytes.len() && bytes[index] != bytes[start] {
        index += if bytes[index] == b'\\' { 2 } else { 1 };
    }
    index.min(bytes.len().saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(template: &str, expected: &str, tags: usize) {
        let rewritten = rewrite_generation_tags(template);
        let expected = expected.replace("GEN", &format!("filter {FILTER}({MARK_VARIABLE})"));
        assert_eq!(rewritten.source, expected);
        assert_eq!(rewritten.generation_tags, tags, "{template}");
    }

    #[test]
    fn tags_keep_their_whitespace_marks() {
        check(
            "a{% generation %}b{% endgeneration %}c",
            "a{% GEN %}b{% endfilter %}c",
            1,
        );
        check(
            "{%- generation -%}x{%- endgeneration -%}",
            "{%- GEN -%}x{%- endfilter -%}",
            1,
        );
        check(
            "{%+generation+%}x{%+endgeneration+%}",
            "{%+GEN+%}x{%+endfilter+%}",
            1,
        );
        check(
            "{%-\n  generation\n-%}x{% endgeneration%}",
            "{%-\n  GEN\n-%}x{% endfilter%}",
            1,
        );
    }

    #[test]
    fn tags_in_comments_raw_blocks_and_strings_are_text() {
        for template in [
            "{# {% generation %} #}",
            "{#- {% generation %} -#}{{ '{% generation %}' }}",
            "{% raw %}{% generation %}{% endgeneration %}{%- endraw -%}",
            "{% raw %}{{ '{% endraw %}",
            "{% raw %}{% endraw %}",
            "{% set x = '%} {% generation %}' %}",
            "{% set x = \"\\\"%} {% generation %}\" %}",
            "{% set x = {'a': {'%}': 1}} %}",
            "{{ {'a': {'b': 1}} }}",
            "{% generation_config %}",
            "{% if generation %}{% endif %}",
            "{% generation",
            "{{ '",
            "{{ '\\",
            "{#",
            "{",
            "",
        ] {
            check(template, template, 0);
        }
        check(
            "{% raw %}{% generation %}{% endraw %}{% generation %}{% endgeneration %}",
            "{% raw %}{% generation %}{% endraw %}{% GEN %}{% endfilter %}",
            1,
        );
    }

    proptest! {
        #[test]
        fn rewriting_changes_the_tags_alone(
            parts in prop::collection::vec(
                prop::sample::select(vec![
                    "{%", "%}", "{{", "}}", "{#", "#}", "-", "+", " ", "generation", "endgeneration", "raw",
                    "endraw", "'", "\"", "\\", "é", "\n", "(", ")", "{", "}", "x",
                ]),
                0..40,
            )
        ) {
            let template = parts.concat();
            let rewritten = rewrite_generation_tags(&template);
            let restored = rewritten
                .source
                .replace(&format!("filter {FILTER}({MARK_VARIABLE})"), "generation")
                .replace("endfilter", "endgeneration");
            prop_assert_eq!(restored, template.clone());
            prop_assert_eq!(rewritten.source.matches('\n').count(), template.matches('\n').count());
        }
    }
}
