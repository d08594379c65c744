use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

/// Digits, letters and a few merges under byte-level spelling.
fn byte_level_vocab() -> GgufVocab {
    let tokens = [
        "<|end|>", "a", "b", "c", "ab", "abc", "Ġ", "Ġab", "1", "2", "<think>",
    ];
    GgufVocab {
        model: "gpt2".to_owned(),
        pre: Some("smollm".to_owned()),
        tokens: tokens.map(str::to_owned).to_vec(),
        token_types: Some(vec![3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 4]),
        merges: ["a b", "ab c", "Ġ ab"].map(str::to_owned).to_vec(),
        eos_token_id: Some(0),
        ..GgufVocab::default()
    }
}

/// A SentencePiece vocabulary with all bytes and some words of random scores.
fn sentencepiece_vocab() -> GgufVocab {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).to_vec();
    tokens.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
    let pieces = [
        "▁", "a", "b", "c", "ab", "bc", "abc", "▁a", "▁ab", "ca", "cab", "▁▁", "ba", "aa", "aab",
    ];
    tokens.extend(pieces.map(str::to_owned));
    let types = tokens
        .iter()
        .enumerate()
        .map(|(id, token)| match id {
            0 => 2,
            1 | 2 => 3,
            _ if token.starts_with("<0x") => 6,
            _ => 1,
        })
        .collect();
    let scores = (0..tokens.len())
        .map(|id| {
            if id < 259 {
                0.0
            } else {
                -((id * 7919 % 31) as f32)
            }
        })
        .collect();
    GgufVocab {
        model: "llama".to_owned(),
        tokens,
        scores: Some(scores),
        token_types: Some(types),
        ..GgufVocab::default()
    }
}

/// SentencePiece's own algorithm: again and again join the neighbours whose union scores highest, leftmost first.
fn join_by_score(vocab: &GgufVocab, text: &str) -> Vec<u32> {
    let ids: HashMap<&str, usize> = vocab
        .tokens
        .iter()
        .enumerate()
        .map(|(id, token)| (token.as_str(), id))
        .collect();
    let scores = vocab.scores.as_deref().unwrap();
    let text = if text.is_empty() {
        String::new()
    } else {
        format!("▁{}", text.replace(' ', "▁"))
    };
    let mut symbols: Vec<String> = text.chars().map(String::from).collect();
    loop {
        let mut best: Option<(f32, usize)> = None;
        for index in 1..symbols.len() {
            if let Some(&id) = ids.get(format!("{}{}", symbols[index - 1], symbols[index]).as_str())
                && best.is_none_or(|(score, _)| scores[id] > score)
            {
                best = Some((scores[id], index));
            }
        }
        let Some((_, index)) = best else { break };
        let right = symbols.remove(index);
        symbols[index - 1].push_str(&right);
    }
    let id = |id: usize| u32::try_from(id).unwrap();
    symbols
        .iter()
        .flat_map(|symbol| match ids.get(symbol.as_str()) {
            Some(&known) => vec![id(known)],
            None => symbol
                .bytes()
                .map(|byte| id(3 + usize::from(byte)))
                .collect(),
        })
        .collect()
}

#[test]
fn byte_level_bpe_follows_pattern_and_merges() {
    let tokenizer = Tokenizer::from_gguf(&byte_level_vocab()).unwrap();
    assert_eq!(
        tokenizer.encode("abc ab12<|end|><think>", false).unwrap(),
        [5, 7, 8, 9, 0, 10]
    );
    assert_eq!(
        tokenizer.decode(&[5, 7, 8, 9, 0, 10], true).unwrap(),
        "abc ab12<think>"
    );
    assert_eq!(tokenizer.special().eos_ids, [0]);
    assert_eq!(tokenizer.bos_eos(), BosEos::default());
    assert!(tokenizer.is_special(0) && !tokenizer.is_special(10));
    assert!(tokenizer.check_against(11).is_ok());
    let error = tokenizer.check_against(10).unwrap_err();
    assert_eq!(
        error.to_string(),
        "token \"<think>\" has id 10, but the model's vocabulary has 10 entries"
    );
}

#[test]
fn sentencepiece_adds_bos_and_a_space_and_falls_back_on_bytes() {
    let vocab = sentencepiece_vocab();
    let tokenizer = Tokenizer::from_gguf(&vocab).unwrap();
    let ids = tokenizer.encode("é", true).unwrap();
    assert_eq!(ids, [1, 259, 3 + 0xC3, 3 + 0xA9]);
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "é");
    assert_eq!(
        tokenizer.encode_with_offsets("é", true).unwrap().offsets,
        [0..0, 0..2, 0..2, 0..2]
    );
    let bare = GgufVocab {
        add_space_prefix: Some(false),
        add_bos_token: Some(false),
        ..vocab
    };
    assert_eq!(
        Tokenizer::from_gguf(&bare)
            .unwrap()
            .encode("é", true)
            .unwrap(),
        [3 + 0xC3, 3 + 0xA9]
    );
}

#[test]
fn an_empty_token_gets_a_name() {
    let mut vocab = byte_level_vocab();
    vocab.tokens.push(String::new());
    vocab.token_types.as_mut().unwrap().push(1);
    assert_eq!(
        Tokenizer::from_gguf(&vocab)
            .unwrap()
            .id_to_token(11)
            .unwrap(),
        "[EMPTY_11]"
    );
}

#[test]
fn contradictions_are_named() {
    let check = |change: fn(&mut GgufVocab), expected: &str| {
        let mut vocab = byte_level_vocab();
        change(&mut vocab);
        assert_eq!(
            Tokenizer::from_gguf(&vocab).unwrap_err().to_string(),
            expected
        );
    };
    check(
        |v| v.model = "bert".to_owned(),
        "tokenizer.ggml.model \"bert\" is not supported (supported: gpt2, llama)",
    );
    check(
        |v| v.tokens.clear(),
        "tokenizer.ggml.token_type has 11 entries, but the vocabulary has 0 tokens",
    );
    check(
        |v| v.scores = Some(vec![0.0]),
        "tokenizer.ggml.scores has 1 entries, but the vocabulary has 11 tokens",
    );
    check(
        |v| v.tokens[3] = "a".to_owned(),
        "token \"a\" has two ids, 1 and 3",
    );
    check(
        |v| v.merges.clear(),
        "tokenizer.ggml.merges is missing, but tokenizer.ggml.model \"gpt2\" needs it",
    );
    check(
        |v| v.merges[1] = "abc".to_owned(),
        "merge 1 (\"abc\") is invalid: there is no space between two halves",
    );
    check(
        |v| v.merges[1] = String::new(),
        "merge 1 (\"\") is invalid: there is no space between two halves",
    );
    check(
        |v| v.merges[0] = "a é".to_owned(),
        "merge 0 (\"a é\") is invalid: one of its halves is not in the vocabulary",
    );
    check(
        |v| v.merges[0] = "b a".to_owned(),
        "merge 0 (\"b a\") is invalid: its result is not in the vocabulary",
    );
    check(
        |v| v.eos_token_id = Some(99),
        "tokenizer.ggml.eos_token_id is 99, but the vocabulary has 11 tokens",
    );
    check(
        |v| v.add_bos_token = Some(true),
        "add_bos_token is true, but the tokenizer has no bos token",
    );
}

proptest! {
    #[test]
    fn merges_from_scores_tokenize_like_sentencepiece(text in "[abc é]{0,24}") {
        let vocab = sentencepiece_vocab();
        let tokenizer = Tokenizer::from_gguf(&vocab).unwrap();
        // A leading space is taken for the one that would be added.
        prop_assume!(!text.starts_with(' '));
        prop_assert_eq!(tokenizer.encode(&text, false).unwrap(), join_by_score(&vocab, &text));
    }
}
