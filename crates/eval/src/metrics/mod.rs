//! Scores of predictions against references.
//!
//! Every function is pure and compared with the implementation that the field reports with: scikit-learn,
//! `rouge-score`, sacreBLEU and the published SQuAD script (`fixtures/eval/metrics`).

mod bleu;
mod bleu_tokens;
mod calibration;
mod chrf;
mod classification;
mod exact_match;
mod perplexity;
mod porter;
mod rouge;
mod squad;

pub use bleu::{Bleu, BleuOptions, BleuSmoothing, bleu, sentence_bleu};
pub use bleu_tokens::BleuTokenizer;
pub use calibration::{Calibration, CalibrationBin, brier_score, calibration};
pub use chrf::{ChrfOptions, chrf, sentence_chrf};
pub use classification::{ClassScores, Confusion, auroc, binary_f1, matthews_corrcoef};
pub use exact_match::{ExactMatch, ExactMatchOptions};
pub use perplexity::{bits_per_byte, count_words, perplexity, weighted_perplexity};
pub use porter::porter_stem;
pub use rouge::{Rouge, RougeScore, rouge};
pub use squad::{squad_exact_match, squad_f1, squad_normalize};
