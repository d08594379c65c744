//! Stop strings in text that arrives piece by piece.

use crate::error::{Error, Result};

/// Finds the first of several strings in a stream of text pieces and holds back what may be its beginning.
///
/// The first match is the one that is complete first; of those complete at the same character, the
/// longest. Where the pieces are cut makes no difference: what is released, all together, is the
/// text before the match, or the whole text when there is none.
///
/// # Examples
/// ```
/// use flametune_infer::StopStrings;
///
/// let mut stop = StopStrings::new(["</end>"])?;
/// let first = stop.push("all good</e");
/// assert_eq!((first.text.as_str(), first.matched), ("all good", None));
/// let second = stop.push("nd> and more");
/// assert_eq!((second.text.as_str(), second.matched), ("", Some(0)));
/// # Ok::<(), flametune_infer::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct StopStrings {
    patterns: Vec<String>,
    held: String,
    matched: Option<usize>,
}

/// What a piece of text brought to light.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// Text that is certain to be before any stop string.
    pub text: String,
    /// Index of the stop string that was found.
    pub matched: Option<usize>,
}

impl StopStrings {
    /// Watches for `patterns`; with none, all text passes through.
    ///
    /// # Errors
    /// [`Error::EmptyStopString`] for a pattern without a character.
    pub fn new<S: Into<String>>(patterns: impl IntoIterator<Item = S>) -> Result<Self> {
        let patterns: Vec<String> = patterns.into_iter().map(Into::into).collect();
        if let Some(index) = patterns.iter().position(String::is_empty) {
            return Err(Error::EmptyStopString { index });
        }
        Ok(Self {
            patterns,
            held: String::new(),
            matched: None,
        })
    }

    /// Takes the next piece of text; after a match all further text is dropped.
    pub fn push(&mut self, piece: &str) -> Scan {
        if self.matched.is_some() {
            return Scan {
                text: String::new(),
                matched: self.matched,
            };
        }
        self.held.push_str(piece);
        let keep_from = match self.first_match() {
            Some((start, index)) => {
                self.matched = Some(index);
                self.held.truncate(start);
                start
            }
            None => self.held.len() - self.partial_match(),
        };
        let held = self.held.split_off(keep_from);
        Scan {
            text: std::mem::replace(&mut self.held, held),
            matched: self.matched,
        }
    }

    /// Releases what was held back when the stream ends, and makes ready for another stream.
    pub fn finish(&mut self) -> String {
        self.matched = None;
        std::mem::take(&mut self.held)
    }

    /// Start and index of the pattern that is complete first.
    fn first_match(&self) -> Option<(usize, usize)> {
        let matches = self
            .patterns
            .iter()
            .enumerate()
            .filter_map(|(index, pattern)| {
                let start = self.held.find(pattern.as_str())?;
                Some((start + pattern.len(), start, index))
            });
        matches.min().map(|(_, start, index)| (start, index))
    }

    /// Length of the longest end of the text that some pattern begins with.
    fn partial_match(&self) -> usize {
        let begins = |pattern: &String| {
            let ends = pattern.char_indices().map(|(end, _)| end).rev();
            ends.take_while(|&end| end > 0)
                .find(|&end| self.held.ends_with(&pattern[..end]))
        };
        self.patterns.iter().filter_map(begins).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Feeds the pieces and returns all released text and the match.
    fn stream(patterns: &[&str], pieces: &[&str]) -> (String, Option<usize>) {
        let mut stop = StopStrings::new(patterns.iter().copied()).unwrap();
        let mut text = String::new();
        for piece in pieces {
            let scan = stop.push(piece);
            text.push_str(&scan.text);
            if scan.matched.is_some() {
                return (text, scan.matched);
            }
        }
        text.push_str(&stop.finish());
        (text, None)
    }

    /// The definition: the smallest end at which a pattern ends, then the longest pattern.
    fn naive(patterns: &[&str], text: &str) -> (String, Option<usize>) {
        for end in 1..=text.len() {
            let here = (0..patterns.len())
                .filter(|&i| text.is_char_boundary(end) && text[..end].ends_with(patterns[i]))
                .min_by_key(|&i| (end - patterns[i].len(), i));
            if let Some(index) = here {
                return (text[..end - patterns[index].len()].to_owned(), Some(index));
            }
        }
        (text.to_owned(), None)
    }

    #[test]
    fn spans_pieces_and_releases_false_alarms() {
        assert_eq!(
            stream(&["STOP"], &["a S", "T", "O", "P b"]),
            ("a ".to_owned(), Some(0))
        );
        assert_eq!(
            stream(&["STOP"], &["ST", "OX", "STO"]),
            ("STOXSTO".to_owned(), None)
        );
        assert_eq!(stream(&[], &["anything"]), ("anything".to_owned(), None));
        assert_eq!(stream(&["é"], &["caf", "é!"]), ("caf".to_owned(), Some(0)));
    }

    #[test]
    fn text_flows_as_early_as_it_can() {
        let mut stop = StopStrings::new(["abc", "bd"]).unwrap();
        assert_eq!(stop.push("xyz").text, "xyz");
        assert_eq!(stop.push("ab").text, "");
        assert_eq!(stop.push("b").text, "ab");
        assert_eq!(
            stop.push("d."),
            Scan {
                text: String::new(),
                matched: Some(1)
            }
        );
        assert_eq!(
            stop.push("more"),
            Scan {
                text: String::new(),
                matched: Some(1)
            }
        );
        assert_eq!(stop.finish(), "");
        assert_eq!(stop.push("new").text, "new");
    }

    #[test]
    fn empty_stop_string_is_refused() {
        let error = StopStrings::new(["a", ""]).unwrap_err().to_string();
        assert_eq!(error, "stop string 1 is empty");
    }

    proptest! {
        #[test]
        fn equals_the_definition_however_the_text_is_cut(
            patterns in prop::collection::vec("[abé]{1,4}", 0..4),
            pieces in prop::collection::vec("[abé]{0,5}", 0..12),
        ) {
            let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            prop_assert_eq!(stream(&patterns, &pieces), naive(&patterns, &pieces.concat()));
        }
    }
}
