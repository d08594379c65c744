use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend};

use super::{Packed, PackedCubeOps};

/// `dx = dy·W`: the same product over the other side of the weight.
#[derive(Debug)]
struct PackedBackward;

impl<B: PackedCubeOps> Backward<B, 1> for PackedBackward {
    type State = Packed<B>;

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let dy = grads.consume::<B>(&ops.node);
        let [parent] = ops.parents;
        if let Some(parent) = parent {
            let dx = B::packed_cube_product(dy, ops.state.transposed());
            grads.register::<B>(parent.id, dx);
        }
    }
}

impl<B: PackedCubeOps, C: CheckpointStrategy> PackedCubeOps for Autodiff<B, C> {
    fn packed_cube_product(x: FloatTensor<Self>, weight: Packed<Self>) -> FloatTensor<Self> {
        let (x, node) = x.into_parts();
        let weight = inner(weight);
        let state = weight.clone();
        let y = B::packed_cube_product(x, weight);
        match PackedBackward
            .prepare::<C>([node])
            .compute_bound()
            .stateful()
        {
            OpsKind::Tracked(prep) => prep.finish(state, y),
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn packed_cube_dense(weight: Packed<Self>) -> FloatTensor<Self> {
        <Self as burn::backend::AutodiffBackend>::from_inner(B::packed_cube_dense(inner(weight)))
    }
}

fn inner<B: Backend, C: CheckpointStrategy>(weight: Packed<Autodiff<B, C>>) -> Packed<B> {
    Packed {
        codes: weight.codes,
        codebook: weight.codebook.into_parts().0,
        absmax: weight.absmax.into_parts().0,
        nested: weight.nested,
        map: weight.map.into_parts().0,
        layout: weight.layout,
    }
}
