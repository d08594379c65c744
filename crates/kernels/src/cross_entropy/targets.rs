use burn::tensor::{Device, Int, Tensor, TensorData};

/// The supervised tokens and their classes, in order.
#[derive(Debug, Clone)]
pub(super) struct Targets {
    pub(super) tokens: usize,
    /// Which tokens are supervised, ascending.
    pub(super) rows: Vec<usize>,
    /// The class of each of `rows`.
    pub(super) classes: Vec<usize>,
}

impl Targets {
    /// # Panics
    /// When a label is neither `ignore_index` nor a class below `vocab`.
    pub(super) fn new(labels: &[i64], ignore_index: i64, vocab: usize) -> Self {
        let (mut rows, mut classes) = (Vec::new(), Vec::new());
        for (row, &label) in labels.iter().enumerate() {
            if label == ignore_index {
                continue;
            }
            let class = usize::try_from(label).unwrap_or(usize::MAX);
            assert!(
                class < vocab,
                "label {label} of token {row} is neither a class below {vocab} nor {ignore_index}"
            );
            rows.push(row);
            classes.push(class);
        }
        Self {
            tokens: labels.len(),
            rows,
            classes,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether every token is supervised.
    pub(super) fn all(&self) -> bool {
        self.len() == self.tokens
    }

    /// `per_row`, one number for each supervised token, as one for each token, zero elsewhere.
    pub(super) fn spread(&self, per_row: impl IntoIterator<Item = f32>) -> Vec<f32> {
        let mut out = vec![0.0; self.tokens];
        for (&row, value) in self.rows.iter().zip(per_row) {
            out[row] = value;
        }
        out
    }
}

/// Indices as a tensor of the device's integer type.
pub(super) fn indices(values: &[usize], device: &Device) -> Tensor<1, Int> {
    let values: Vec<i64> = values.iter().map(|&value| value as i64).collect();
    let shape = [values.len()];
    Tensor::from_data(TensorData::new(values, shape), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_tokens_are_left_out() {
        let targets = Targets::new(&[3, -100, 0, -100], -100, 4);
        assert_eq!(targets.rows, [0, 2]);
        assert_eq!(targets.classes, [3, 0]);
        assert_eq!(targets.spread([1.5, 2.5]), [1.5, 0.0, 2.5, 0.0]);
        assert!(!targets.all());
        assert!(Targets::new(&[1, 1], -100, 4).all());
        // Any label may stand for "ignored", a class too.
        assert_eq!(Targets::new(&[0, 1], 0, 2).rows, [1]);
    }

    #[test]
    fn labels_outside_the_vocabulary_are_refused() {
        for label in [4, -1, i64::MIN, i64::MAX] {
            let made = std::panic::catch_unwind(|| Targets::new(&[1, label], -100, 4));
            let message = *made.unwrap_err().downcast::<String>().unwrap();
            assert_eq!(
                message,
                format!("label {label} of token 1 is neither a class below 4 nor -100")
            );
        }
    }
}
