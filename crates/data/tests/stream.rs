//! Streaming decoding equals decoding the whole.

use flametune_data::Tokenizer;
use proptest::prelude::*;

use crate::fixtures::{TOKENIZERS, tokenizer};

/// The pieces of a stream, the held-back rest last.
fn pieces(tokenizer: &Tokenizer, ids: &[u32], skip_special: bool) -> Vec<String> {
    let mut stream = tokenizer.text_stream(skip_special);
    let mut pieces: Vec<String> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    pieces.push(stream.finish().unwrap());
    pieces
}

#[test]
fn an_emoji_comes_out_whole() {
    for name in ["bytelevel_bpe", "llama2_bpe_bytefallback"] {
        let tokenizer = tokenizer(name);
        let ids = tokenizer.encode("a 😀日 b", false).unwrap();
        let pieces = pieces(&tokenizer, &ids, true);
        assert_eq!(pieces.concat(), "a 😀日 b");
        assert!(
            pieces.iter().all(|piece| !piece.contains('\u{fffd}')),
            "{name}: {pieces:?}"
        );
        assert!(
            pieces.iter().filter(|piece| !piece.is_empty()).count() > 3,
            "{name}: {pieces:?}"
        );
    }
}

#[test]
fn ids_without_a_token_are_skipped() {
    let tokenizer = tokenizer("bytelevel_bpe");
    assert_eq!(
        pieces(&tokenizer, &[u32::MAX, 43, 999_999], true).concat(),
        "H"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn random_ids_stream_like_the_whole(seed in prop::collection::vec(any::<u32>(), 0..40), skip in any::<bool>()) {
        for name in TOKENIZERS {
            let tokenizer = tokenizer(name);
            let size = u32::try_from(tokenizer.vocab_size()).unwrap();
            let ids: Vec<u32> = seed.iter().map(|id| id % (size + 2)).collect();
            let whole = tokenizer.decode(&ids, skip).unwrap();
            prop_assert_eq!(pieces(&tokenizer, &ids, skip).concat(), whole, "{}: {:?}", name, ids);
        }
    }

    #[test]
    fn bytes_alone_stream_like_the_whole(bytes in prop::collection::vec(0_u8..=255, 0..24), gap in 1_usize..6) {
        let tokenizer = tokenizer("llama2_bpe_bytefallback");
        let word = tokenizer.token_to_id("e").unwrap();
        let mut ids = Vec::new();
        for (index, byte) in bytes.iter().enumerate() {
            ids.push(tokenizer.token_to_id(&format!("<0x{byte:02X}>")).unwrap());
            if index % gap == 0 {
                ids.push(word);
            }
        }
        prop_assert_eq!(pieces(&tokenizer, &ids, true).concat(), tokenizer.decode(&ids, true).unwrap());
    }

    #[test]
    fn valid_text_is_never_cut_inside_of_a_character(text in "[a-cé日😀 ]{0,20}") {
        for name in ["bytelevel_bpe", "llama3_bpe", "smollm_bpe", "llama2_bpe_bytefallback"] {
            let tokenizer = tokenizer(name);
            let ids = tokenizer.encode(&text, false).unwrap();
            for piece in pieces(&tokenizer, &ids, true) {
                prop_assert!(!piece.contains('\u{fffd}'), "{}: {:?}", name, piece);
            }
        }
    }
}
