use burn::tensor::{DType, Tensor};

/// Rotary position embedding in plain tensor operations.
pub fn rope(x: Tensor<4>, cos: Tensor<3>, sin: Tensor<3>) -> Tensor<4> {
    let dtype = x.dtype();
    let [batch, heads, seq, head_dim] = x.dims();
    let rot_dim = cos.dims()[2];
    let half = rot_dim / 2;
    let x = x.cast(DType::F32);
    let (cos, sin) = (cos.detach(), sin.detach());
    let cos = cos.cast(DType::F32).unsqueeze_dim::<4>(1);
    let sin = sin.cast(DType::F32).unsqueeze_dim::<4>(1);
    let rotated = x.clone().slice([0..batch, 0..heads, 0..seq, 0..rot_dim]);
    let first = x.clone().slice([0..batch, 0..heads, 0..seq, 0..half]);
    let second = x.clone().slice([0..batch, 0..heads, 0..seq, half..rot_dim]);
    let turned = Tensor::cat(vec![second.neg(), first], 3);
    let rotated = rotated * cos + turned * sin;
    let y = if rot_dim == head_dim {
        rotated
    } else {
        let rest = x.slice([0..batch, 0..heads, 0..seq, rot_dim..head_dim]);
        Tensor::cat(vec![rotated, rest], 3)
    };
    y.cast(dtype)
}
