//! "Did you mean …?" for words that are one slip away from a known one.

/// Returns the known word nearest to `word`, if it is near enough to be a
/// slip: at most a third of its letters, and at most two.
pub(crate) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    // Beyond this no known word is near, and the distance is quadratic.
    if word.len() > 64 {
        return None;
    }
    let word = word.to_lowercase();
    known
        .iter()
        .map(|candidate| (distance(&word, &candidate.to_lowercase()), *candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len() / 3).clamp(1, 2))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Counts the insertions, deletions, substitutions and swaps of neighbours
/// that turn one word into the other (optimal string alignment).
fn distance(from: &str, to: &str) -> usize {
    let from: Vec<char> = from.chars().collect();
    let to: Vec<char> = to.chars().collect();
    // The first row counts insertions, the first column deletions.
    let mut rows = vec![(0..=to.len()).collect::<Vec<_>>(); from.len() + 1];
    for (index, row) in rows.iter_mut().enumerate() {
        row[0] = index;
    }
    for i in 1..=from.len() {
        for j in 1..=to.len() {
            let substituted = rows[i - 1][j - 1] + usize::from(from[i - 1] != to[j - 1]);
            let mut best = substituted.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[from.len()][to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_find_their_word() {
        const KNOWN: &[&str] = &["name", "on", "paths", "access", "unless", "action"];
        let check = |word: &str, expect: Option<&str>| {
            assert_eq!(nearest(word, KNOWN), expect, "{word}");
        };
        check("pahts", Some("paths"));
        check("path", Some("paths"));
        check("Paths", Some("paths"));
        check("actoin", Some("action"));
        check("unles", Some("unless"));
        check("when", None);
        check("severity", None);
        check("", None);
    }
}
