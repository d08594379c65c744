//! The pages.

use askama::Template;

use super::results::AbResults;

/// Where a rater gives a name.
#[derive(Template)]
#[template(path = "ab_start.html")]
pub(super) struct StartPage<'a> {
    pub(super) title: &'a str,
    pub(super) problem: &'a str,
    pub(super) name: &'a str,
}

/// Where a rater compares two answers.
#[derive(Template)]
#[template(path = "ab_vote.html")]
pub(super) struct VotePage<'a> {
    pub(super) title: &'a str,
    pub(super) rater: &'a str,
    pub(super) item: &'a str,
    pub(super) prompt: &'a str,
    pub(super) left: &'a str,
    pub(super) right: &'a str,
    pub(super) done: usize,
    pub(super) total: usize,
    pub(super) undo: &'a str,
}

/// What a rater sees at the end.
#[derive(Template)]
#[template(path = "ab_done.html")]
pub(super) struct DonePage<'a> {
    pub(super) title: &'a str,
    pub(super) rater: &'a str,
    pub(super) done: usize,
    pub(super) undo: &'a str,
}

/// What the one who asked sees.
#[derive(Template)]
#[template(path = "ab_results.html")]
pub(super) struct ResultsPage<'a> {
    pub(super) title: &'a str,
    pub(super) export: &'a str,
    pub(super) results: &'a AbResults,
}

impl ResultsPage<'_> {
    /// A share as per cent.
    fn percent(&self, share: &f64) -> String {
        format!("{:.1} %", share * 100.0)
    }

    fn number(&self, number: &f64) -> String {
        format!("{number:.3}")
    }

    fn points(&self, number: &f64) -> String {
        format!("{number:.0}")
    }
}
