//! One adapter on all rows of a frozen layer: its products share operands with those of the layer,
//! and what it adds is added before a sum is written for the first time.

use burn::tensor::Shape;
use burn_flex::FlexTensor;

use super::flex::Inputs;
use super::frozen::Frozen;
use super::gradient::{Found, Problem};
use super::plan::{Plan, Segment};
use crate::cpu::{Rows, tensor};
use crate::linear::product16::{LowRank, Orientation, product_of_rows, takes_more};

/// Whether an adapter and a layer are of this kind.
pub(super) fn suits(x: &Rows, base: &Frozen, plan: &Plan) -> bool {
    let [segment] = plan.segments.as_slice() else {
        return false;
    };
    segment.mask.is_none()
        && segment.covers(x.rows())
        && base.lies_in_rows()
        && takes_more(x, base.precision())
}

/// `y` with the adapter in it, and `x·Aᵀ` if it is to be kept.
pub(super) fn forward(
    inputs: &Inputs,
    base: &Frozen,
    segment: &Segment,
    keep: bool,
) -> (FlexTensor, Option<FlexTensor>) {
    let (rows, r) = (inputs.x.rows(), segment.ranks.len());
    let h = product_of_rows(&inputs.x, &inputs.a, Orientation::Rows, base.precision());
    let scaled = scaled(&h, segment.scaling);
    let more = LowRank {
        h: &scaled,
        factor: &inputs.b,
    };
    let y = base.forward_and(&inputs.x, more);
    let y = tensor(y, Shape::from([rows, inputs.d_out()]));
    (y, keep.then(|| tensor(h, Shape::from([rows, r]))))
}

/// All gradients; that of x if it is wanted.
pub(super) fn backward(
    mut problem: Problem<'_>,
    base: &Frozen,
    dy: FlexTensor,
    wants_x: bool,
) -> Found {
    let segment = &problem.plan.segments[0];
    let dy = Rows::new(dy);
    let dh = product_of_rows(
        &dy,
        &problem.inputs.b,
        Orientation::Columns,
        base.precision(),
    );
    let dh = scaled(&dh, segment.scaling);
    let dx = wants_x.then(|| {
        let more = LowRank {
            h: &dh,
            factor: &problem.inputs.a,
        };
        let shape = Shape::from([dy.rows(), problem.inputs.d_in()]);
        tensor(base.x_gradient_and(&dy, more), shape)
    });
    problem.dh = Some(dh);
    Found {
        x: dx,
        ..problem.run(dy.tensor().clone(), None)
    }
}

fn scaled(values: &[f32], factor: f32) -> Vec<f32> {
    values.iter().map(|value| value * factor).collect()
}
