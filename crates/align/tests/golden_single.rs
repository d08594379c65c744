//! KTO against TRL's.

use burn::tensor::Tensor;
use flametune_align::losses::{KtoOptions, kl_baseline, kto};

use crate::goldens::{
    File, case, cases, check_gradient, check_loss, check_number, device, target_mask, token_logps,
};

const ANSWERS: usize = 6;

fn sums(logits: Tensor<3>, ids: &[i64], mask: &[i64]) -> Tensor<1> {
    let logps = token_logps(logits, ids) * target_mask(mask, ANSWERS);
    logps.sum_dim(1).squeeze_dim::<1>(1)
}

#[test]
fn kto_equals_trl() {
    let file = File::open("kto");
    let of = |logits: &str, prefix: &str| -> Vec<f32> {
        let logits = Tensor::from_data(file.data(logits), &device());
        let ids = file.i64(&format!("{prefix}input_ids"));
        let mask = file.i64(&format!("{prefix}completion_mask"));
        sums(logits, &ids, &mask).into_data().try_to_vec().unwrap()
    };
    let kl = kl_baseline(&of("KL_policy_logits", "KL_"), &of("KL_ref_logits", "KL_"));
    let reference: Vec<f32> = of("ref_logits", "");
    let reference = Tensor::<1>::from_data(reference.as_slice(), &device());
    let labels = file.bool("label");
    let mut compared = 0;
    for name in cases("kto.") {
        let case = case(&name);
        let number = |field: &str| case[field].as_f64().unwrap();
        let kind = name.split('.').nth(1).unwrap();
        let options = KtoOptions {
            beta: number("beta"),
            kind: serde_json::from_value(kind.into()).unwrap(),
            desirable_weight: number("desirable_weight"),
            undesirable_weight: number("undesirable_weight"),
        };
        options.validate().unwrap();
        let logits = file.leaf::<3>("policy_logits");
        let ids = file.i64("input_ids");
        let policy = sums(logits.clone(), &ids, &file.i64("completion_mask"));
        let output = kto(&policy, &reference, &labels, kl, &options);
        check_number(&name, output.parts.mean("kl").unwrap(), number("kl"));
        let loss = output.losses.mean();
        check_loss(&name, &loss);
        if name.ends_with("beta0.1") {
            let expected = file.data(&format!("{name}.grad_logits"));
            check_gradient(&name, &loss, &logits, &expected);
        }
        compared += 1;
    }
    assert_eq!(compared, 4);
}

#[test]
fn the_baseline_is_never_negative() {
    assert_eq!(kl_baseline(&[-3.0, -1.0], &[-1.0, -1.0]), 0.0);
    assert_eq!(kl_baseline(&[-1.0, -1.0], &[-3.0, -2.0]), 1.5);
}
