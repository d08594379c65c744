use std::sync::Arc;

use burn::backend::Autodiff;
use burn::backend::autodiff::checkpoint::{base::Checkpointer, strategy::CheckpointStrategy};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn_flex::{Flex, FlexTensor};

use super::LoraOps;
use super::flex::{Inputs, KeptInputs, add, on_frozen};
use super::frozen::Frozen;
use super::fused;
use super::gradient::{Found, Problem};
use super::plan::Plan;
use crate::cpu::{Rows, tensor};
use crate::linear::with_width;

#[derive(Debug)]
struct LoraBackward;

/// What the backward pass keeps: handles of the inputs and factors, and rows in the rank.
#[derive(Debug, Clone)]
struct State {
    inputs: KeptInputs,
    h: Option<FlexTensor>,
    base: Option<Frozen>,
    plan: Arc<Plan>,
}

/// With parents x, A and B, and the base's output if there is a fourth.
fn backward<const N: usize>(ops: Ops<State, N>, grads: &mut Gradients) {
    let dy = grads.consume::<Flex>(&ops.node);
    let State {
        inputs,
        h,
        base,
        plan,
    } = ops.state;
    let mut parents = ops.parents.into_iter();
    let mut parent = || parents.next().flatten();
    let (x, a, b) = (parent(), parent(), parent());
    if let Some(output) = parent() {
        grads.register::<Flex>(output.id, dy.clone());
    }
    let inputs = inputs.restored();
    let d_in = inputs.d_in();
    let problem = Problem {
        inputs,
        h: h.filter(|_| b.is_some()).map(Rows::new),
        plan: &plan,
        wants_a: a.is_some(),
        dh: None,
    };
    let found = match base {
        Some(base) if fused::suits(&Rows::new(dy.clone()), &base, &plan) => {
            fused::backward(problem, &base, dy, x.is_some())
        }
        base => {
            let dx = x.is_some().then(|| match base {
                Some(base) => base.x_gradient(dy.clone()),
                None => {
                    let shape = with_width(dy.layout().shape(), d_in);
                    tensor(vec![0.0; shape.num_elements()], shape)
                }
            });
            problem.run(dy, dx)
        }
    };
    let Found {
        x: dx,
        a: da,
        b: db,
    } = found;
    for (parent, gradient) in [(x, dx), (a, da), (b, db)] {
        if let (Some(parent), Some(gradient)) = (parent, gradient) {
            grads.register::<Flex>(parent.id, gradient);
        }
    }
}

impl Backward<Flex, 3> for LoraBackward {
    type State = State;

    fn backward(self, ops: Ops<State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        backward(ops, grads);
    }
}

impl Backward<Flex, 4> for LoraBackward {
    type State = State;

    fn backward(self, ops: Ops<State, 4>, grads: &mut Gradients, _: &mut Checkpointer) {
        backward(ops, grads);
    }
}

impl<C: CheckpointStrategy> LoraOps for Autodiff<Flex, C> {
    fn lora_add(
        x: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        y: FloatTensor<Self>,
        plan: Arc<Plan>,
    ) -> FloatTensor<Self> {
        let (keep_x, keep_h) = (a.is_tracked(), b.is_tracked());
        let (x, x_node) = x.into_parts();
        let (a, a_node) = a.into_parts();
        let (b, b_node) = b.into_parts();
        let (y, y_node) = y.into_parts();
        let inputs = Inputs::new(x, a, b);
        let (y, h) = add(&inputs, y, &plan, keep_h);
        let nodes = [x_node, a_node, b_node, y_node];
        match LoraBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let state = State {
                    inputs: inputs.kept(keep_x),
                    h,
                    base: None,
                    plan,
                };
                prep.finish(state, y)
            }
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }

    fn lora_frozen(
        x: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        base: Frozen,
        plan: Arc<Plan>,
    ) -> FloatTensor<Self> {
        let (keep_x, keep_h) = (a.is_tracked(), b.is_tracked());
        let (x, x_node) = x.into_parts();
        let (a, a_node) = a.into_parts();
        let (b, b_node) = b.into_parts();
        let inputs = Inputs::new(x, a, b);
        let (y, h) = on_frozen(&inputs, &base, &plan, keep_h);
        let nodes = [x_node, a_node, b_node];
        match LoraBackward.prepare::<C>(nodes).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let state = State {
                    inputs: inputs.kept(keep_x),
                    h,
                    base: Some(base),
                    plan,
                };
                prep.finish(state, y)
            }
            OpsKind::UnTracked(prep) => prep.finish(y),
        }
    }
}
