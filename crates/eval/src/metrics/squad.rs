//! Exact match and F1 of short answers, as the SQuAD evaluation script has them.

use std::collections::HashMap;

/// Lower case, no ASCII punctuation, no articles, single spaces.
///
/// # Source
/// Rajpurkar et al. 2016, SQuAD, arXiv:1606.05250, §6.1, and `normalize_answer` of its evaluation script
///
/// # Examples
/// ```
/// use flametune_eval::metrics::squad_normalize;
///
/// assert_eq!(squad_normalize("The  Eiffel-Tower, an icon."), "eiffeltower icon");
/// ```
#[must_use]
pub fn squad_normalize(text: &str) -> String {
    let mut text = text.to_lowercase();
    text.retain(|c| !c.is_ascii_punctuation());
    // An article is a whole word in the sense of `\b`; between letters of other scripts there is no border.
    let mut out = String::with_capacity(text.len());
    let mut word = String::new();
    let flush = |word: &mut String, out: &mut String| {
        if matches!(word.as_str(), "a" | "an" | "the") {
            out.push(' ');
        } else {
            out.push_str(word);
        }
        word.clear();
    };
    for character in text.chars() {
        if character.is_alphanumeric() || character == '_' {
            word.push(character);
        } else {
            flush(&mut word, &mut out);
            out.push(character);
        }
    }
    flush(&mut word, &mut out);
    crate::python::split(&out).collect::<Vec<_>>().join(" ")
}

/// Whether both answers are the same once normalised.
#[must_use]
pub fn squad_exact_match(prediction: &str, reference: &str) -> bool {
    squad_normalize(prediction) == squad_normalize(reference)
}

/// F1 of the words that both answers share, counted with repetition; 1 when both are empty.
///
/// # Examples
/// ```
/// use flametune_eval::metrics::squad_f1;
///
/// assert_eq!(squad_f1("in the year 1889", "1889"), 0.5);
/// ```
#[must_use]
pub fn squad_f1(prediction: &str, reference: &str) -> f64 {
    let (prediction, reference) = (squad_normalize(prediction), squad_normalize(reference));
    let predicted: Vec<&str> = prediction
        .split(' ')
        .filter(|word| !word.is_empty())
        .collect();
    let expected: Vec<&str> = reference
        .split(' ')
        .filter(|word| !word.is_empty())
        .collect();
    if predicted.is_empty() || expected.is_empty() {
        return f64::from(u8::from(predicted == expected));
    }
    let mut left: HashMap<&str, usize> = HashMap::new();
    for word in &expected {
        *left.entry(word).or_default() += 1;
    }
    let mut shared = 0_usize;
    for word in &predicted {
        if let Some(count) = left.get_mut(word).filter(|count| **count > 0) {
            *count -= 1;
            shared += 1;
        }
    }
    if shared == 0 {
        return 0.0;
    }
    let precision = shared as f64 / predicted.len() as f64;
    let recall = shared as f64 / expected.len() as f64;
    2.0 * precision * recall / (precision + recall)
}
