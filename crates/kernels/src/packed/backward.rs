use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn_flex::Flex;

use super::{PackedOps, Product, flex};
use crate::linear::bias_gradient;

/// Keeps the packed weight and nothing else.
#[derive(Debug)]
struct PackedBackward;

/// With x as the only parent, or x and bias.
fn backward<const N: usize>(ops: Ops<Product, N>, grads: &mut Gradients) {
    let dy = grads.consume::<Flex>(&ops.node);
    let mut parents = ops.parents.into_iter();
    let mut parent = || parents.next().flatten();
    if let Some(x) = parent() {
        grads.register::<Flex>(x.id, flex::x_gradient(dy.clone(), &ops.state));
    }
    if let Some(bias) = parent() {
        grads.register::<Flex>(bias.id, bias_gradient(dy));
    }
}

impl Backward<Flex, 1> for PackedBackward {
    type State = Product;

    fn backward(self, ops: Ops<Product, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        backward(ops, grads);
    }
}

impl Backward<Flex, 2> for PackedBackward {
    type State = Product;

    fn backward(self, ops: Ops<Product, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        backward(ops, grads);
    }
}

impl<C: CheckpointStrategy> PackedOps for Autodiff<Flex, C> {
    fn packed_forward(x: FloatTensor<Self>, product: Product) -> FloatTensor<Self> {
        let (x, x_node) = x.into_parts();
        let y = flex::forward(x, &product, None);
        match PackedBackward
            .prepare::<C>([x_node])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => prep.finish(product, y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn packed_with_bias_forward(
        x: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        product: Product,
    ) -> FloatTensor<Self> {
        let (x, x_node) = x.into_parts();
        let (bias, bias_node) = bias.into_parts();
        let y = flex::forward(x, &product, Some(bias));
        match PackedBackward
            .prepare::<C>([x_node, bias_node])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => prep.finish(product, y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}
