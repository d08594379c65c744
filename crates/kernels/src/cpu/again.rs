//! Activations that the backward pass makes again instead of keeping them.
//!
//! The output of a normalisation or of a gated activation is mostly read by linear layers, which
//! keep it for the gradients of their weights or adapters, while its inputs are kept as well. The
//! operation that made it therefore leaves word of how ([`remember`]), and a layer that is about
//! to keep it keeps the recipe ([`Kept`]).

use std::cell::RefCell;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::ops::FloatTensorOps;
use burn::tensor::{DType, Shape};
use burn_flex::{Flex, FlexTensor};

use super::Rows;

/// Makes a tensor again.
type Recipe = Box<dyn Fn() -> FlexTensor + Send + Sync>;

/// A recipe, and what came out of it while somebody still needs it.
struct Again {
    recipe: Recipe,
    made: Mutex<Option<FlexTensor>>,
}

impl fmt::Debug for Again {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Again").finish_non_exhaustive()
    }
}

impl Again {
    fn make(&self) -> FlexTensor {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.get_or_insert_with(&self.recipe).clone()
    }
}

thread_local! {
    /// The tensor that was made last, and how.
    static LAST: RefCell<Option<(FlexTensor, Arc<Again>)>> = const { RefCell::new(None) };
}

/// Leaves word of how `y`, dense rows of f32, is made; this thread forgets it at the next one.
pub(crate) fn remember(y: &FlexTensor, recipe: impl Fn() -> FlexTensor + Send + Sync + 'static) {
    let again = Again {
        recipe: Box::new(recipe),
        made: Mutex::new(None),
    };
    LAST.set(Some((y.clone(), Arc::new(again))));
}

/// A tensor for the backward pass, or how to make it.
#[derive(Debug, Clone)]
pub(crate) enum Kept {
    Tensor(FlexTensor),
    Again(Remade),
}

/// A tensor that is made again.
#[derive(Debug, Clone)]
pub(crate) struct Remade {
    again: Arc<Again>,
    shape: Shape,
}

impl Kept {
    /// Keeps `x`, as it is or as a recipe.
    pub(crate) fn new(x: FlexTensor) -> Self {
        let again = LAST.with_borrow(|last| {
            let (y, again) = last.as_ref()?;
            same(y, &x).then(|| Arc::clone(again))
        });
        match again {
            Some(again) => Self::Again(Remade {
                again,
                shape: x.layout().shape().clone(),
            }),
            None => Self::Tensor(x),
        }
    }

    /// The tensor.
    pub(crate) fn tensor(self) -> FlexTensor {
        match self {
            Self::Tensor(tensor) => tensor,
            Self::Again(Remade { again, shape }) => Flex::float_reshape(again.make(), shape),
        }
    }

    /// The tensor as rows.
    pub(crate) fn rows(self) -> Rows {
        Rows::new(self.tensor())
    }
}

/// Whether both are the same numbers in the same order; their shapes may differ.
fn same(a: &FlexTensor, b: &FlexTensor) -> bool {
    let dense = |tensor: &FlexTensor| tensor.is_contiguous();
    a.dtype() == DType::F32
        && b.dtype() == DType::F32
        && a.storage::<f32>().as_ptr() == b.storage::<f32>().as_ptr()
        && a.layout().start_offset() == b.layout().start_offset()
        && a.layout().num_elements() == b.layout().num_elements()
        && dense(a)
        && dense(b)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::tensor;
    use super::*;

    #[test]
    fn what_was_made_last_is_kept_as_a_recipe_and_made_once_for_all_who_need_it() {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let make = || {
            MADE.fetch_add(1, Ordering::Relaxed);
            tensor(vec![1.0, 2.0, 3.0, 4.0], Shape::from([1, 2, 2]))
        };
        let y = make();
        remember(&y, make);
        let x = Flex::float_reshape(y.clone(), Shape::from([2, 2]));
        let (first, second) = (Kept::new(x.clone()), Kept::new(x));
        assert!(matches!(first, Kept::Again(_)));
        let other = tensor(vec![1.0, 2.0, 3.0, 4.0], Shape::from([2, 2]));
        assert!(matches!(Kept::new(other), Kept::Tensor(_)));
        for kept in [first, second] {
            let rows = kept.rows();
            assert_eq!((rows.rows(), rows.width()), (2, 2));
            assert_eq!(rows.data::<f32>(), [1.0, 2.0, 3.0, 4.0]);
        }
        assert_eq!(MADE.load(Ordering::Relaxed), 2);
    }
}
