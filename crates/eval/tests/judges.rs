//! Judges: order, ties, retries, failures, bias.

use flametune_eval::judge::{
    JudgeOptions, LocalJudge, PairItem, RatedItem, Rubric, compare_answers, rate_answers,
};
use flametune_eval::stats::Outcome;
use flametune_eval::{AnswerCache, ChatTurn};

use crate::scripted::{Scripted, ScriptedJudge};

fn pair(id: &str, first: &str, second: &str, label: Option<Outcome>) -> PairItem {
    PairItem {
        id: id.into(),
        prompt: "Which?".into(),
        first: first.into(),
        second: second.into(),
        label,
    }
}

/// The text between two marks of the last turn.
fn between<'t>(turns: &'t [ChatTurn], start: &str, end: &str) -> &'t str {
    let text = &turns[1].content;
    text.split(start)
        .nth(1)
        .unwrap()
        .split(end)
        .next()
        .unwrap()
        .trim()
}

fn answers(turns: &[ChatTurn]) -> (&str, &str) {
    (
        between(turns, "[Answer A]", "[End of answer A]"),
        between(turns, "[Answer B]", "[End of answer B]"),
    )
}

fn options() -> JudgeOptions {
    JudgeOptions {
        resamples: 200,
        ..JudgeOptions::default()
    }
}

#[test]
fn a_judge_that_likes_the_first_answer_shown_makes_ties_and_is_found_out() {
    let judge = ScriptedJudge::new(|_: &[ChatTurn]| Ok("I prefer it. [[A]]".to_owned()));
    let items = [pair("1", "x", "y", None), pair("2", "u", "v", None)];
    let report = compare_answers(&judge, "Be fair.", &items, &options(), None).unwrap();
    assert_eq!(report.counts, [0, 0, 2]);
    assert_eq!(report.win_rate, Some(0.5));
    assert_eq!(report.bias.first_position, Some(1.0));
    assert_eq!(report.bias.consistency, Some(0.0));
    // Each pair was asked in both orders.
    let asked = judge.asked.borrow();
    assert_eq!(asked.len(), 4);
    assert_eq!(
        (answers(&asked[0]), answers(&asked[1])),
        (("x", "y"), ("y", "x"))
    );
}

#[test]
fn a_judge_that_likes_the_better_answer_agrees_with_people() {
    let judge = ScriptedJudge::new(|turns: &[ChatTurn]| {
        let (a, b) = answers(turns);
        Ok(match (a.contains("good"), b.contains("good")) {
            (true, false) => "[[A]]",
            (false, true) => "[[B]]",
            _ => "Both are alike. [[C]]",
        }
        .to_owned())
    });
    let items = [
        pair("1", "good", "bad", Some(Outcome::First)),
        pair("2", "bad", "good", Some(Outcome::Second)),
        pair("3", "bad", "good one", Some(Outcome::Second)),
        pair("4", "good", "good", Some(Outcome::First)),
    ];
    let report = compare_answers(&judge, "", &items, &options(), None).unwrap();
    assert_eq!(report.counts, [1, 2, 1]);
    assert_eq!(report.win_rate, Some(0.625));
    assert_eq!(report.bias.consistency, Some(1.0));
    assert_eq!(report.bias.first_position, Some(0.5));
    let agreement = report.agreement.unwrap();
    assert_eq!((agreement.n, agreement.accuracy), (4, 0.75));
    assert!(report.interval.unwrap().contains(0.625));
}

#[test]
fn length_that_decides_is_found_and_taken_out() {
    let judge = ScriptedJudge::new(|turns: &[ChatTurn]| {
        let (a, b) = answers(turns);
        Ok(if a.len() > b.len() { "[[A]]" } else { "[[B]]" }.to_owned())
    });
    let long = "word ".repeat(40);
    let items: Vec<PairItem> = (0..20)
        .map(|index| {
            let (first, second) = if index % 5 == 0 {
                (long.as_str(), "short")
            } else {
                ("short", long.as_str())
            };
            pair(&index.to_string(), first, second, None)
        })
        .collect();
    let report = compare_answers(&judge, "", &items, &options(), None).unwrap();
    assert_eq!(report.win_rate, Some(0.8));
    assert_eq!(report.bias.longer_wins, Some(1.0));
    let control = report.length_control.unwrap();
    // Twenty pairs that length separates leave some of the rest to the intercept.
    assert!(
        control.win_rate < 0.7 && control.length_weight > 1.0,
        "{control:?}"
    );
}

fn rated(id: &str) -> RatedItem {
    RatedItem {
        id: id.into(),
        prompt: "Say something.".into(),
        answer: format!("answer {id}"),
        reference: None,
        label: None,
    }
}

#[test]
fn an_answer_without_a_number_is_asked_for_again_with_a_reminder() {
    let judge = ScriptedJudge::new(|turns: &[ChatTurn]| {
        Ok(if turns.len() > 2 {
            "Rating: [[7]]"
        } else {
            "It is rather good."
        }
        .to_owned())
    });
    let report = rate_answers(&judge, &Rubric::default(), &[rated("1")], &options(), None).unwrap();
    assert_eq!(report.mean, Some(7.0));
    let asked = judge.asked.borrow();
    assert_eq!(asked.len(), 2);
    assert!(asked[1].last().unwrap().content.contains("holds no score"));
}

#[test]
fn an_answer_that_never_has_a_number_names_its_item_and_the_rest_is_kept() {
    let judge = ScriptedJudge::new(|turns: &[ChatTurn]| {
        Ok(if turns[1].content.contains("answer bad") {
            "Hm."
        } else {
            "[[4]]"
        }
        .to_owned())
    });
    let items = [rated("good"), rated("bad"), rated("fine")];
    let report = rate_answers(&judge, &Rubric::default(), &items, &options(), None).unwrap();
    assert_eq!(report.ratings.len(), 2);
    assert_eq!(
        report.failures[0].reason,
        "item bad: no score in the judge's answer after 3 attempts: \"Hm.\""
    );
}

#[test]
fn an_endpoint_that_goes_down_ends_the_run_and_keeps_what_came_before() {
    let folder = tempfile::tempdir().unwrap();
    let items = [rated("1"), rated("2"), rated("3")];
    let down = ScriptedJudge::new(|turns: &[ChatTurn]| {
        if turns[1].content.contains("answer 2") {
            Err("connection refused".to_owned())
        } else {
            Ok("[[5]]".to_owned())
        }
    });
    let mut cache = AnswerCache::open(folder.path(), "scripted judge").unwrap();
    let report = rate_answers(
        &down,
        &Rubric::default(),
        &items,
        &options(),
        Some(&mut cache),
    )
    .unwrap();
    assert_eq!(report.ratings.len(), 1);
    let reasons: Vec<&str> = report
        .failures
        .iter()
        .map(|failure| failure.reason.as_str())
        .collect();
    assert_eq!(
        reasons,
        [
            "item 2: the judge scripted judge failed: connection refused",
            "not asked, since the judge could not be reached"
        ]
    );
    drop(cache);
    // The next run asks for what is missing only.
    let up = ScriptedJudge::new(|_: &[ChatTurn]| Ok("[[6]]".to_owned()));
    let mut cache = AnswerCache::open(folder.path(), "scripted judge").unwrap();
    let report = rate_answers(
        &up,
        &Rubric::default(),
        &items,
        &options(),
        Some(&mut cache),
    )
    .unwrap();
    assert_eq!(report.failures, []);
    assert_eq!(up.asked.borrow().len(), 2);
    assert_eq!(report.ratings[0].score, 5.0);
}

#[test]
fn a_local_model_judges_through_its_chat_template() {
    let model = Scripted::default();
    let judge = LocalJudge::new(&model);
    // The scripted model always answers with a lone 7.
    let report = rate_answers(&judge, &Rubric::default(), &[rated("1")], &options(), None).unwrap();
    assert_eq!(report.mean, Some(7.0));
}
