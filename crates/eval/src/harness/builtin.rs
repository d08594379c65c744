//! The tasks that come with the crate.

/// Task files by name; those of MMLU's subjects are made from one file and a table.
const FILES: &[(&str, &str)] = &[
    ("arc_easy.yaml", include_str!("../../tasks/arc_easy.yaml")),
    (
        "arc_challenge.yaml",
        include_str!("../../tasks/arc_challenge.yaml"),
    ),
    ("hellaswag.yaml", include_str!("../../tasks/hellaswag.yaml")),
    (
        "truthfulqa_mc1.yaml",
        include_str!("../../tasks/truthfulqa_mc1.yaml"),
    ),
    (
        "truthfulqa_mc2.yaml",
        include_str!("../../tasks/truthfulqa_mc2.yaml"),
    ),
    ("gsm8k.yaml", include_str!("../../tasks/gsm8k.yaml")),
    ("wikitext.yaml", include_str!("../../tasks/wikitext.yaml")),
    (
        "mmlu_subject.yaml",
        include_str!("../../tasks/mmlu_subject.yaml"),
    ),
    (
        "bigbench_mc.yaml",
        include_str!("../../tasks/bigbench_mc.yaml"),
    ),
    (
        "social_iqa.yaml",
        include_str!("../../tasks/social_iqa.yaml"),
    ),
    (
        "strategyqa.yaml",
        include_str!("../../tasks/strategyqa.yaml"),
    ),
    (
        "truthful_qa_bigbench.yaml",
        include_str!("../../tasks/truthful_qa_bigbench.yaml"),
    ),
    (
        "hhh_helpful.yaml",
        include_str!("../../tasks/hhh_helpful.yaml"),
    ),
    (
        "hhh_honest.yaml",
        include_str!("../../tasks/hhh_honest.yaml"),
    ),
    (
        "hhh_harmless.yaml",
        include_str!("../../tasks/hhh_harmless.yaml"),
    ),
    ("hhh_other.yaml", include_str!("../../tasks/hhh_other.yaml")),
    (
        "hhh_alignment.yaml",
        include_str!("../../tasks/hhh_alignment.yaml"),
    ),
    (
        "chat_letters.yaml",
        include_str!("../../tasks/chat_letters.yaml"),
    ),
    (
        "logiqa_evals.yaml",
        include_str!("../../tasks/logiqa_evals.yaml"),
    ),
    (
        "quartz_evals.yaml",
        include_str!("../../tasks/quartz_evals.yaml"),
    ),
    (
        "forgetting.yaml",
        include_str!("../../tasks/forgetting.yaml"),
    ),
    (
        "forgetting_fetched.yaml",
        include_str!("../../tasks/forgetting_fetched.yaml"),
    ),
    (
        "sarcasm_evals.yaml",
        include_str!("../../tasks/sarcasm_evals.yaml"),
    ),
];

/// MMLU's four fields.
const MMLU_FIELDS: &[&str] = &["stem", "humanities", "social_sciences", "other"];

/// MMLU's subjects, each with its place among the fields.
const MMLU_SUBJECTS: &[(&str, usize)] = &[
    ("abstract_algebra", 0),
    ("anatomy", 0),
    ("astronomy", 0),
    ("business_ethics", 3),
    ("clinical_knowledge", 3),
    ("college_biology", 0),
    ("college_chemistry", 0),
    ("college_computer_science", 0),
    ("college_mathematics", 0),
    ("college_medicine", 3),
    ("college_physics", 0),
    ("computer_security", 0),
    ("conceptual_physics", 0),
    ("econometrics", 2),
    ("electrical_engineering", 0),
    ("elementary_mathematics", 0),
    ("formal_logic", 1),
    ("global_facts", 3),
    ("high_school_biology", 0),
    ("high_school_chemistry", 0),
    ("high_school_computer_science", 0),
    ("high_school_european_history", 1),
    ("high_school_geography", 2),
    ("high_school_government_and_politics", 2),
    ("high_school_macroeconomics", 2),
    ("high_school_mathematics", 0),
    ("high_school_microeconomics", 2),
    ("high_school_physics", 0),
    ("high_school_psychology", 2),
    ("high_school_statistics", 0),
    ("high_school_us_history", 1),
    ("high_school_world_history", 1),
    ("human_aging", 3),
    ("human_sexuality", 2),
    ("international_law", 1),
    ("jurisprudence", 1),
    ("logical_fallacies", 1),
    ("machine_learning", 0),
    ("management", 3),
    ("marketing", 3),
    ("medical_genetics", 3),
    ("miscellaneous", 3),
    ("moral_disputes", 1),
    ("moral_scenarios", 1),
    ("nutrition", 3),
    ("philosophy", 1),
    ("prehistory", 1),
    ("professional_accounting", 3),
    ("professional_law", 1),
    ("professional_medicine", 3),
    ("professional_psychology", 2),
    ("public_relations", 2),
    ("security_studies", 2),
    ("sociology", 2),
    ("us_foreign_policy", 2),
    ("virology", 3),
    ("world_religions", 1),
];

/// A file by name, for `include`.
pub(super) fn file(name: &str) -> Option<(&'static str, &'static str)> {
    FILES.iter().find(|(known, _)| *known == name).copied()
}

/// Files with a task of their own.
pub(super) fn task_files() -> impl Iterator<Item = (&'static str, &'static str)> {
    FILES
        .iter()
        .copied()
        .filter(|(name, _)| *name != "mmlu_subject.yaml")
}

/// The file that all subjects of MMLU share.
pub(super) fn mmlu_file() -> (&'static str, &'static str) {
    (
        "mmlu_subject.yaml",
        include_str!("../../tasks/mmlu_subject.yaml"),
    )
}

/// Subjects of MMLU and the field each belongs to.
pub(super) fn mmlu_subjects() -> impl Iterator<Item = (&'static str, &'static str)> {
    MMLU_SUBJECTS
        .iter()
        .map(|&(subject, field)| (subject, MMLU_FIELDS[field]))
}

/// MMLU's fields.
pub(super) fn mmlu_fields() -> &'static [&'static str] {
    MMLU_FIELDS
}
