//! Rotary embedding on the CPU.

use std::mem::MaybeUninit;

use burn::tensor::{Bytes, DType, Shape};
use burn_flex::{FlexTensor, Layout};

use crate::cpu::{Rows, fill_rows};
use crate::simd::{Kernel, Simd, dispatch, read, write_new};

/// Rotates each head's vector, or with `inverse` applies the transposed rotation.
///
/// The output keeps the memory order of `x` (heads inside positions, or positions inside heads),
/// so that transposing it back is free where transposing `x` was.
pub(super) fn rotate(x: FlexTensor, cos: FlexTensor, sin: FlexTensor, inverse: bool) -> FlexTensor {
    let x = dense_last(x);
    let [batch, heads, seq, head_dim] = dims(&x);
    let strides: [usize; 4] = std::array::from_fn(|i| x.layout().strides()[i].unsigned_abs());
    let table_seq = if cos.layout().shape()[0] == 1 { 0 } else { seq };
    let (cos, sin) = (Rows::new(cos), Rows::new(sin));
    let (cosines, sines) = (cos.data::<f32>(), sin.data::<f32>());
    let rot_dim = cos.width();
    let start = x.layout().start_offset();
    let values = x.storage::<f32>();

    let heads_inside = strides[1] < strides[2];
    let (outer, inner) = if heads_inside {
        (seq, heads)
    } else {
        (heads, seq)
    };
    #[allow(unsafe_code, reason = "the output is not zeroed first")]
    // SAFETY: `Rotate` writes the whole of each row it is given.
    let [y] = unsafe {
        fill_rows(batch * outer * inner, head_dim, head_dim, |rows, [y]| {
            for (row, y) in rows.zip(y.chunks_exact_mut(head_dim)) {
                let (b, o, i) = (row / (outer * inner), row / inner % outer, row % inner);
                let (head, at) = if heads_inside { (i, o) } else { (o, i) };
                let from = start + b * strides[0] + head * strides[1] + at * strides[2];
                let entry = b * table_seq + at;
                dispatch(Rotate {
                    x: &values[from..][..head_dim],
                    cos: &cosines[entry * cos.stride()..][..rot_dim],
                    sin: &sines[entry * sin.stride()..][..rot_dim],
                    inverse,
                    y,
                });
            }
        })
    };
    let stride = |dims: [usize; 4]| dims.map(usize::cast_signed).to_vec();
    let strides = if heads_inside {
        stride([seq * heads * head_dim, head_dim, heads * head_dim, 1])
    } else {
        stride([heads * seq * head_dim, seq * head_dim, head_dim, 1])
    };
    let shape = Shape::from([batch, heads, seq, head_dim]);
    FlexTensor::new(
        Bytes::from_elems(y),
        Layout::new(shape, strides, 0),
        DType::F32,
    )
}

/// The tensor, copied unless its last dimension is dense and no stride is negative.
fn dense_last(x: FlexTensor) -> FlexTensor {
    let strides = x.layout().strides();
    if strides[3] == 1 && strides.iter().all(|&stride| stride >= 0) {
        x
    } else {
        x.to_contiguous()
    }
}

fn dims(x: &FlexTensor) -> [usize; 4] {
    let shape = x.layout().shape();
    std::array::from_fn(|i| shape[i])
}

/// One row of [`rotate`].
struct Rotate<'a> {
    x: &'a [f32],
    cos: &'a [f32],
    sin: &'a [f32],
    inverse: bool,
    y: &'a mut [MaybeUninit<f32>],
}

impl Kernel for Rotate<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let rot_dim = self.cos.len();
        let (x, rest) = self.x.split_at(rot_dim);
        let (y, y_rest) = self.y.split_at_mut(rot_dim);
        for (y, x) in y_rest.iter_mut().zip(rest) {
            y.write(*x);
        }
        let half = rot_dim / 2;
        let (x1, x2) = x.split_at(half);
        let (cos1, cos2) = self.cos.split_at(half);
        let (sin1, sin2) = self.sin.split_at(half);
        let (y1, y2) = y.split_at_mut(half);
        // The rotation takes (x1, x2) to (x1·c1 − x2·s1, x2·c2 + x1·s2); its transpose to
        // (x1·c1 + x2·s2, x2·c2 − x1·s1).
        let (turn1, turn2) = if self.inverse {
            (sin2, sin1)
        } else {
            (sin1, sin2)
        };
        let sign = s.splat(if self.inverse { 1.0 } else { -1.0 });
        let other = s.splat(if self.inverse { -1.0 } else { 1.0 });
        for at in (0..half).step_by(S::LANES) {
            let (a, b) = (read(s, x1, at), read(s, x2, at));
            let turn = s.mul(sign, s.mul(b, read(s, turn1, at)));
            write_new(s, s.mul_add(a, read(s, cos1, at), turn), y1, at);
            let turn = s.mul(other, s.mul(a, read(s, turn2, at)));
            write_new(s, s.mul_add(b, read(s, cos2, at), turn), y2, at);
        }
    }
}
