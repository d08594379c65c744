//! The bytes that single tokens stand for.

use super::Tokenizer;

/// SentencePiece's mark for a space, which a decoder drops in front of a text.
const SPACE: char = '\u{2581}';

impl Tokenizer {
    /// The bytes that a token adds to a text, which need not be whole characters; `None` for an id
    /// that no token has.
    ///
    /// Special tokens are their spelling.
    pub fn token_bytes(&self, id: u32) -> Option<Vec<u8>> {
        let spelling = self.id_to_token(id)?;
        if self.is_special(id) {
            return Some(spelling.into_bytes());
        }
        if spelling.contains(SPACE) {
            return Some(spelling.replace(SPACE, " ").into_bytes());
        }
        if let Some(byte) = byte_token(&spelling) {
            return Some(vec![byte]);
        }
        let text = self.decode(&[id], false).unwrap_or_default();
        if text.contains(char::REPLACEMENT_CHARACTER)
            && let Some(bytes) = spelling.chars().map(byte_of).collect::<Option<Vec<u8>>>()
        {
            return Some(bytes);
        }
        Some(text.into_bytes())
    }
}

/// The byte of a token such as `<0x0A>`.
fn byte_token(spelling: &str) -> Option<u8> {
    let hex = spelling.strip_prefix("<0x")?.strip_suffix('>')?;
    (hex.len() == 2).then(|| u8::from_str_radix(hex, 16).ok())?
}

/// The byte that a character of byte-level BPE stands for.
///
/// Bytes that print stand for themselves; the other 68, in order, are the characters from U+0100.
///
/// # Source
/// - transformers `models/gpt2/tokenization_gpt2.py::bytes_to_unicode`
fn byte_of(c: char) -> Option<u8> {
    let prints = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let code = u32::from(c);
    if let Ok(byte) = u8::try_from(code) {
        return prints(byte).then_some(byte);
    }
    let index = usize::try_from(code.checked_sub(0x100)?).ok()?;
    (0..=u8::MAX).filter(|&byte| !prints(byte)).nth(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture(name: &str) -> Vec<u8> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/tokenizers");
        std::fs::read(format!("{folder}/{name}.json")).unwrap()
    }

    #[test]
    fn every_byte_has_one_character() {
        assert_eq!(byte_of('A'), Some(b'A'));
        assert_eq!(byte_of('Ġ'), Some(b' '));
        assert_eq!(byte_of('Ċ'), Some(b'\n'));
        assert_eq!(byte_of('\u{100}'), Some(0));
        assert_eq!(byte_of('\u{143}'), Some(0xad));
        assert_eq!(byte_of('\u{144}'), None);
        assert_eq!(byte_of('ÿ'), Some(0xff));
        assert_eq!(byte_of(' '), None);
    }

    #[test]
    fn byte_tokens_are_hexadecimal() {
        assert_eq!(byte_token("<0x0A>"), Some(10));
        assert_eq!(byte_token("<0x0>"), None);
        assert_eq!(byte_token("<0xÃ>"), None);
    }

    #[test]
    fn bytes_put_together_are_the_text() {
        let text = "Grüße 🦙, naïve text\n\tand more";
        for name in ["bytelevel_bpe", "llama2_bpe_bytefallback", "llama3_bpe"] {
            let tokenizer = Tokenizer::from_json(name, &fixture(name)).unwrap();
            let ids = tokenizer.encode(text, false).unwrap();
            let bytes: Vec<u8> = ids
                .iter()
                .flat_map(|&id| tokenizer.token_bytes(id).unwrap())
                .collect();
            let got = String::from_utf8(bytes).unwrap();
            // SentencePiece puts a space in front.
            assert_eq!(got.strip_prefix(' ').unwrap_or(&got), text, "{name}");
        }
    }
}
