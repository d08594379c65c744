//! Averages in a file, page by page, against averages in memory.

use std::fs;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use flametune_train::optim::{GradientSum, Optimizer, ParamGroup, Rule};

/// More numbers than a page of averages has.
const LONG: usize = 300_000;

#[derive(Module, Debug)]
struct Parameters {
    long: Param<Tensor<1>>,
    middle: Param<Tensor<2>>,
    short: Param<Tensor<1>>,
}

fn values(len: usize, phase: f32) -> Vec<f32> {
    (0..len)
        .map(|place| (place as f32).mul_add(0.37, phase).sin())
        .collect()
}

fn parameters() -> Parameters {
    let device = Device::flex();
    let tensor = |len: usize, phase: f32| {
        Tensor::<1>::from_data(TensorData::new(values(len, phase), [len]), &device)
    };
    Parameters {
        long: Param::from_tensor(tensor(LONG, 0.1)),
        middle: Param::from_tensor(tensor(60 * 100, 0.2).reshape([60, 100])),
        short: Param::from_tensor(tensor(40, 0.3)),
    }
}

fn gradients(of: &Parameters, step: f32) -> GradientSum {
    let mut sum = GradientSum::new();
    sum.add_one(of.long.id, values(LONG, step));
    sum.add_one(of.middle.id, values(60 * 100, 2.0 * step));
    sum.add_one(of.short.id, values(40, 3.0 * step));
    sum
}

fn bits(of: &Parameters) -> Vec<u32> {
    let numbers = |tensor: TensorData| tensor.try_into_vec::<f32>().unwrap();
    let all = [
        numbers(of.long.val().into_data()),
        numbers(of.middle.val().into_data()),
        numbers(of.short.val().into_data()),
    ];
    all.into_iter().flatten().map(f32::to_bits).collect()
}

fn group(_: &str) -> ParamGroup {
    ParamGroup {
        lr_ratio: 1.0,
        weight_decay: 0.1,
    }
}

#[test]
fn pages_give_the_bits_of_averages_in_memory() {
    for rule in [
        r#"{"type": "adamw"}"#,
        r#"{"type": "adamw", "eight_bit": true}"#,
        r#"{"type": "lion"}"#,
        r#"{"type": "lion", "eight_bit": true}"#,
    ] {
        let rule: Rule = serde_json::from_str(rule).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (mut kept, mut paged) = (Optimizer::new(rule), Optimizer::new(rule));
        let mut late = Optimizer::new(rule);
        paged.page_to(folder.path()).unwrap();
        let mut models = [parameters(), parameters(), parameters()];
        for step in 0..4_u8 {
            if step == 2 {
                late.page_to(&folder.path().join("late")).unwrap();
            }
            let optimizers = [&mut kept, &mut paged, &mut late];
            let mut moved = Vec::new();
            for (model, optimizer) in models.into_iter().zip(optimizers) {
                let gradients = gradients(&model, f32::from(step));
                moved.push(optimizer.step(model, &gradients, 0.01, &group).unwrap());
            }
            models = moved.try_into().unwrap();
        }
        let expected = bits(&models[0]);
        assert!(bits(&models[1]) == expected, "{rule:?}");
        assert!(
            bits(&models[2]) == expected,
            "{rule:?}, paged after two steps"
        );
        assert_eq!(paged.parameters(), kept.parameters());
        for parameter in kept.parameters() {
            for index in 0..3 {
                let kept = kept.moment(&parameter, index).unwrap();
                assert!(paged.moment(&parameter, index).unwrap() == kept);
            }
        }
        assert_eq!(paged.bytes(), kept.bytes());
        assert!(paged.resident_bytes() < kept.bytes(), "{rule:?}");
    }
}

#[test]
fn nothing_is_left_behind_and_a_folder_that_cannot_be_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let mut optimizer = Optimizer::new(Rule::default());
    optimizer.page_to(folder.path()).unwrap();
    let model = parameters();
    let gradients = gradients(&model, 1.0);
    optimizer.step(model, &gradients, 0.01, &group).unwrap();
    drop(optimizer);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);

    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Optimizer::new(Rule::default()).page_to(&file.join("below"));
    let error = error.unwrap_err().to_string();
    assert!(error.contains("below"), "{error}");
}
