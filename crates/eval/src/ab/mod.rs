//! People who compare answers: a small web application whose pages are written on the server.
//!
//! Raters see two answers without names, on sides that are drawn for each rater and item, and choose one or a tie with
//! a click or a key. Votes are in SQLite before the next pair is shown, so a rater can leave and come back, and
//! several can vote at once. [`app`] is a router; whoever opens the socket serves it.

mod app;
mod pages;
mod results;
mod store;

pub use app::{AbOptions, app, serve};
pub use results::{AbResults, PairRate, RaterAgreement};
pub use store::{AbAnswer, AbItem, AbStore, Side, Vote, read_items, shown_left};
