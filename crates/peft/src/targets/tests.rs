use super::*;

fn modules() -> Vec<Candidate> {
    let mut paths = vec!["model.embed_tokens".to_owned()];
    for layer in 0..2 {
        for name in ["self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj"] {
            paths.push(format!("model.layers.{layer}.{name}"));
        }
        paths.push(format!("model.layers.{layer}.moe.experts.1.w1"));
    }
    paths.push("lm_head".to_owned());
    paths
        .into_iter()
        .map(|path| Candidate {
            role: if path == "lm_head" {
                SlotRole::Head
            } else {
                SlotRole::Inner
            },
            linear: (path != "model.embed_tokens").then_some([8, 8]),
            is_embedding: path == "model.embed_tokens",
            path,
        })
        .collect()
}

const NONE: Targeting<'_> = Targeting {
    target_modules: None,
    exclude_modules: None,
    layers_to_transform: None,
    layers_pattern: None,
    modules_to_save: &[],
    optional_heads: &[],
};

fn adapted(targeting: &Targeting<'_>) -> Vec<String> {
    let modules = modules();
    let choices = choose(targeting, &modules).unwrap();
    modules
        .into_iter()
        .zip(choices)
        .filter(|(_, choice)| *choice == Choice::Adapted)
        .map(|(module, _)| module.path)
        .collect()
}

#[test]
fn a_list_matches_whole_names_and_ends_after_a_dot() {
    let target = TargetModules::list(["q_proj", "model.layers.1.mlp.up_proj", "lm_head"]);
    let got = adapted(&Targeting {
        target_modules: Some(&target),
        ..NONE
    });
    let expected = [
        "model.layers.0.self_attn.q_proj",
        "model.layers.1.self_attn.q_proj",
        "model.layers.1.mlp.up_proj",
        "lm_head",
    ];
    assert_eq!(got, expected);
}

#[test]
fn a_regex_matches_whole_names_only() {
    let target = TargetModules::Regex(r".*\.1\..*(q|v)_proj".to_owned());
    let got = adapted(&Targeting {
        target_modules: Some(&target),
        ..NONE
    });
    assert_eq!(
        got,
        [
            "model.layers.1.self_attn.q_proj",
            "model.layers.1.self_attn.v_proj"
        ]
    );
    // A choice inside the pattern does not escape the anchors.
    let target = TargetModules::Regex("lm_head|q_proj".to_owned());
    let got = adapted(&Targeting {
        target_modules: Some(&target),
        ..NONE
    });
    assert_eq!(got, ["lm_head"]);
}

#[test]
fn all_linear_leaves_out_head_embedding_and_what_is_excluded_or_saved() {
    let excluded = TargetModules::list(["w1"]);
    let saved = ["up_proj".to_owned()];
    let got = adapted(&Targeting {
        target_modules: Some(&TargetModules::AllLinear),
        exclude_modules: Some(&excluded),
        modules_to_save: &saved,
        ..NONE
    });
    assert_eq!(got.len(), 4, "{got:?}");
}

#[test]
fn layers_count_by_the_first_number_or_after_the_pattern() {
    let target = TargetModules::list(["w1", "q_proj"]);
    let layers = OneOrMany::One(0);
    let got = adapted(&Targeting {
        target_modules: Some(&target),
        layers_to_transform: Some(&layers),
        ..NONE
    });
    let expected = [
        "model.layers.0.self_attn.q_proj",
        "model.layers.0.moe.experts.1.w1",
    ];
    assert_eq!(got, expected);
    let pattern = OneOrMany::One("layers".to_owned());
    let layers = OneOrMany::Many(vec![1]);
    let got = adapted(&Targeting {
        target_modules: Some(&target),
        layers_to_transform: Some(&layers),
        layers_pattern: Some(&pattern),
        ..NONE
    });
    let expected = [
        "model.layers.1.self_attn.q_proj",
        "model.layers.1.moe.experts.1.w1",
    ];
    assert_eq!(got, expected);
}

fn message(targeting: &Targeting<'_>) -> String {
    choose(targeting, &modules()).unwrap_err().to_string()
}

#[test]
fn what_matches_nothing_is_an_error_with_near_names() {
    let target = TargetModules::list(["q_proj", "v_porj"]);
    assert_eq!(
        message(&Targeting {
            target_modules: Some(&target),
            ..NONE
        }),
        "target_modules: `v_porj` matches no module, near: v_proj, q_proj, up_proj, lm_head, w1"
    );
    let regex = TargetModules::Regex("q_proj".to_owned());
    assert!(
        message(&Targeting {
            target_modules: Some(&regex),
            ..NONE
        })
        .starts_with("target_modules: `q_proj` matches no module")
    );
    let target = TargetModules::list(["q_proj"]);
    let layers = OneOrMany::Many(vec![0, 7]);
    assert_eq!(
        message(&Targeting {
            target_modules: Some(&target),
            layers_to_transform: Some(&layers),
            ..NONE
        }),
        "layers_to_transform: `7` matches no module, near: 0, 1"
    );
    let saved = ["score".to_owned()];
    let targeting = Targeting {
        target_modules: Some(&target),
        modules_to_save: &saved,
        ..NONE
    };
    assert!(message(&targeting).starts_with("modules_to_save: `score`"));
    let optional = Targeting {
        optional_heads: &["score"],
        ..targeting
    };
    choose(&optional, &modules()).unwrap();
}

#[test]
fn options_that_exclude_each_other_are_refused() {
    let regex = TargetModules::Regex(".*".to_owned());
    let list = TargetModules::list(["q_proj"]);
    let (layers, pattern) = (OneOrMany::One(0), OneOrMany::One("layers".to_owned()));
    for targeting in [
        Targeting {
            target_modules: Some(&regex),
            layers_to_transform: Some(&layers),
            ..NONE
        },
        Targeting {
            target_modules: Some(&regex),
            layers_pattern: Some(&pattern),
            ..NONE
        },
        Targeting {
            target_modules: Some(&list),
            layers_pattern: Some(&pattern),
            ..NONE
        },
    ] {
        let error = choose(&targeting, &modules()).unwrap_err();
        assert!(matches!(error, Error::InvalidConfig { .. }), "{error}");
    }
}

#[test]
fn patterns_match_ends_after_a_dot() {
    let map = BTreeMap::from([
        ("layers\\.1\\.mlp\\..*".to_owned(), 2),
        ("q_proj".to_owned(), 8),
    ]);
    let patterns = Patterns::new("rank_pattern", &map).unwrap();
    assert_eq!(patterns.get("model.layers.1.mlp.up_proj"), Some(2));
    assert_eq!(patterns.get("model.layers.0.mlp.up_proj"), None);
    assert_eq!(patterns.get("model.layers.0.self_attn.q_proj"), Some(8));
    assert_eq!(patterns.get("model.my_q_proj"), None);
}
