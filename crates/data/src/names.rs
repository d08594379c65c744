//! Names that are spelled alike, for messages about an unknown one.

/// Names at most this many edits away are offered when a name is unknown.
const NEAR: usize = 3;

/// The known names that a wrong one may have meant, the nearest first.
pub(crate) fn near(name: &str, known: &[&'static str]) -> Vec<&'static str> {
    // Half of a word has to be right.
    let most = NEAR.min(name.chars().count() / 2);
    let mut near: Vec<_> = known
        .iter()
        .map(|known| (edits(name, known), *known))
        .filter(|(edits, _)| *edits <= most)
        .collect();
    near.sort();
    near.into_iter().map(|(_, known)| known).collect()
}

/// Edit distance of two short words.
pub(crate) fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    // A name longer than any template is no misspelling of one.
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
