//! Gradient clipping by the global norm.

/// `√Σ g²` over all gradients, summed in f64.
pub fn global_norm<'a>(grads: impl IntoIterator<Item = &'a [f32]>) -> f64 {
    let squares = |grad: &[f32]| {
        grad.iter()
            .map(|g| f64::from(*g) * f64::from(*g))
            .sum::<f64>()
    };
    grads.into_iter().map(squares).sum::<f64>().sqrt()
}

/// The factor that brings gradients of global norm `norm` to `max_norm`: `max_norm / (norm + 1e-6)`
/// where that is below 1, else 1.
///
/// # Source
/// - reference: `torch.nn.utils.clip_grad_norm_`
pub fn clip_factor(norm: f64, max_norm: f64) -> f64 {
    (max_norm / (norm + 1e-6)).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_norm_is_that_of_all_numbers_together() {
        let norm = global_norm([[3.0_f32, 0.0].as_slice(), &[], &[-4.0]]);
        assert!((norm - 5.0).abs() < 1e-12);
    }

    #[test]
    fn only_large_gradients_shrink() {
        assert_eq!(clip_factor(0.5, 1.0), 1.0);
        let factor = clip_factor(4.0, 1.0);
        assert!((factor * 4.0 - 1.0).abs() < 1e-6);
    }
}
