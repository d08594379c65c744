//! The recurrent half of P-tuning's encoder.

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor, activation};
use flametune_kernels::linear;

use crate::random::{Stream, fan_in_bound};

/// One direction of one layer of an LSTM.
///
/// With the gates `i, f, g, o` stacked in this order:
///
/// ```text
/// i, f, o = σ(W_ih·x + b_ih + W_hh·h + b_hh)      g = tanh(..)
/// c ← f·c + i·g                                   h ← o·tanh(c)
/// ```
///
/// # Shapes
/// - `weight_ih`: `[4·d_hidden, d_in]`, `weight_hh`: `[4·d_hidden, d_hidden]`
/// - `bias_ih`, `bias_hh`: `[4·d_hidden]`
///
/// # Source
/// - Hochreiter and Schmidhuber 1997, Long Short-Term Memory, Neural Computation 9(8), with the
///   forget gate of Gers, Schmidhuber and Cummins 2000
/// - reference: torch `nn.LSTM`; golden `fixtures/peft/prompt_encoders.safetensors`
#[derive(Module, Debug)]
pub struct LstmDirection {
    /// From the input to the gates.
    pub weight_ih: Param<Tensor<2>>,
    /// From the state to the gates.
    pub weight_hh: Param<Tensor<2>>,
    /// The shift of the input's part.
    pub bias_ih: Param<Tensor<1>>,
    /// The shift of the state's part.
    pub bias_hh: Param<Tensor<1>>,
}

/// A layer that reads the sequence in both directions.
#[derive(Module, Debug)]
pub struct LstmLayer {
    /// From the first to the last.
    pub forward: LstmDirection,
    /// From the last to the first.
    pub reverse: LstmDirection,
}

impl LstmDirection {
    fn init(d_in: usize, d_hidden: usize, stream: impl Fn(u64) -> Stream, device: &Device) -> Self {
        let (bound, place) = (fan_in_bound(d_hidden), (device, DType::F32));
        let matrix = |part, width| stream(part).uniform_tensor([4 * d_hidden, width], bound, place);
        let vector = |part| stream(part).uniform_tensor([4 * d_hidden], bound, place);
        Self {
            weight_ih: Param::from_tensor(matrix(0, d_in)),
            weight_hh: Param::from_tensor(matrix(1, d_hidden)),
            bias_ih: Param::from_tensor(vector(2)),
            bias_hh: Param::from_tensor(vector(3)),
        }
    }

    /// The states `[steps, d_hidden]`, each in the row of its input.
    fn run(&self, x: Tensor<2>, backwards: bool) -> Tensor<2> {
        let [steps, _] = x.dims();
        let [_, d_hidden] = self.weight_hh.dims();
        let inputs = linear(x, self.weight_ih.val(), Some(self.bias_ih.val()));
        let place = (&inputs.device(), inputs.dtype());
        let mut h = Tensor::<2>::zeros([1, d_hidden], place);
        let mut c = h.clone();
        let mut states = vec![h.clone(); steps];
        for at in 0..steps {
            let step = if backwards { steps - 1 - at } else { at };
            let gates = inputs.clone().narrow(0, step, 1)
                + linear(h, self.weight_hh.val(), Some(self.bias_hh.val()));
            let gate = |index: usize| gates.clone().narrow(1, index * d_hidden, d_hidden);
            let (i, f) = (activation::sigmoid(gate(0)), activation::sigmoid(gate(1)));
            let (g, o) = (gate(2).tanh(), activation::sigmoid(gate(3)));
            c = f * c + i * g;
            h = o * c.clone().tanh();
            states[step] = h.clone();
        }
        Tensor::cat(states, 0)
    }
}

impl LstmLayer {
    pub(super) fn init(
        d_in: usize,
        d_hidden: usize,
        stream: impl Fn(u64) -> Stream,
        device: &Device,
    ) -> Self {
        Self {
            forward: LstmDirection::init(d_in, d_hidden, &stream, device),
            reverse: LstmDirection::init(d_in, d_hidden, |part| stream(4 + part), device),
        }
    }

    /// Both directions side by side, `[steps, 2·d_hidden]`.
    pub(super) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let there = self.forward.run(x.clone(), false);
        Tensor::cat(vec![there, self.reverse.run(x, true)], 1)
    }
}
