//! Keys that are spelled alike.

/// The known key with the fewest edits from `key`, if half of it is right.
pub(super) fn nearest<'a>(key: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let most = key.chars().count().div_ceil(2);
    known
        .into_iter()
        .map(|known| (edits(key, known), known))
        .filter(|(edits, _)| *edits <= most)
        .min()
        .map(|(_, known)| known)
}

/// Levenshtein distance.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    // No key is that long, and none needs more to be told from the others.
    for (i, x) in a.chars().take(64).enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, &y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_has_the_fewest_edits() {
        assert_eq!(edits("kitten", "sitting"), 3);
        let known = ["learning_rate", "weight_decay", "rule"];
        assert_eq!(nearest("learning_rat", known), Some("learning_rate"));
        assert_eq!(nearest("lr", known), None);
        assert_eq!(nearest("decay", known), None);
    }
}
