use burn::tensor::Tensor;

/// `y = x·Wᵀ + b` in plain tensor operations: the definition of correct.
pub fn linear<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
) -> Tensor<D> {
    let dtype = x.dtype();
    let mut shape = x.shape();
    let [d_out, d_in] = weight.dims();
    let rows = shape.num_elements() / d_in.max(1);
    let weight = weight.cast(dtype);
    let mut y = x.reshape([rows, d_in]).matmul(weight.transpose());
    if let Some(bias) = bias {
        y = y + bias.cast(dtype).reshape([1, d_out]);
    }
    shape[D - 1] = d_out;
    y.reshape(shape)
}
