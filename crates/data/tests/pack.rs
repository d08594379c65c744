//! Packing loses nothing, mixes nothing and wastes little.

use flametune_data::{
    EncodedExample, Error, IGNORE_INDEX, PackCursor, PackStatistics, PackedWindows, Row,
    WrapCursor, Wrapped, best_fit_decreasing, pack, permutation,
};
use proptest::prelude::*;

/// Examples of the given lengths whose ids are all different; every third token is not trained.
pub(crate) fn examples(lengths: &[usize]) -> Vec<EncodedExample> {
    let mut next = 0_u32;
    let example = |&length: &usize| {
        let mut example = EncodedExample::default();
        for _ in 0..length {
            example.input_ids.push(next);
            let label = if next % 3 == 2 {
                IGNORE_INDEX
            } else {
                i64::from(next)
            };
            example.labels.push(label);
            next += 1;
        }
        example
    };
    lengths.iter().map(example).collect()
}

/// The segments of rows as examples, first labels masked.
fn segments(rows: &[Row]) -> Vec<EncodedExample> {
    let mut segments: Vec<EncodedExample> = Vec::new();
    for row in rows {
        assert_eq!(row.labels.len(), row.len());
        assert_eq!(row.position_ids.len(), row.len());
        assert_eq!(row.segment_ids.len(), row.len());
        let (mut segment, mut position) = (0, 0);
        for index in 0..row.len() {
            if row.segment_ids[index] != segment {
                assert_eq!(row.segment_ids[index], segment + 1);
                (segment, position) = (segment + 1, 0);
                segments.push(EncodedExample::default());
            }
            assert_eq!(row.position_ids[index], position);
            position += 1;
            let current = segments.last_mut().unwrap();
            current.input_ids.push(row.input_ids[index]);
            current.labels.push(row.labels[index]);
        }
    }
    segments
}

/// As a row holds them: nothing predicts a first token.
fn masked_first(mut example: EncodedExample) -> EncodedExample {
    example.labels[0] = IGNORE_INDEX;
    example
}

fn by_first_id(mut examples: Vec<EncodedExample>) -> Vec<EncodedExample> {
    examples.sort_by_key(|example| example.input_ids[0]);
    examples
}

fn ok(examples: &[EncodedExample]) -> impl Iterator<Item = Result<EncodedExample, Error>> + '_ {
    examples.iter().cloned().map(Ok)
}

/// Best-fit decreasing as its definition reads, in quadratic time.
fn plain_best_fit(lengths: &[usize], max_length: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by(|&a, &b| lengths[b].cmp(&lengths[a]).then(a.cmp(&b)));
    let mut rows: Vec<(usize, Vec<usize>)> = Vec::new();
    for index in order {
        let fitting = rows.iter_mut().filter(|(room, _)| *room >= lengths[index]);
        match fitting.min_by_key(|(room, _)| *room) {
            Some((room, row)) => {
                *room -= lengths[index];
                row.push(index);
            }
            None => rows.push((max_length - lengths[index], vec![index])),
        }
    }
    rows.into_iter().map(|(_, row)| row).collect()
}

/// Number of rows when each example goes, in order, into the first row that has room.
fn first_fit_rows(lengths: &[usize], max_length: usize) -> usize {
    let mut rooms: Vec<usize> = Vec::new();
    for length in lengths {
        match rooms.iter_mut().find(|room| **room >= *length) {
            Some(room) => *room -= length,
            None => rooms.push(max_length - length),
        }
    }
    rooms.len()
}

/// The least number of rows, by trying every row for every example.
fn fewest_rows(lengths: &[usize], rooms: &mut Vec<usize>, max_length: usize) -> usize {
    let Some((length, rest)) = lengths.split_first() else {
        return rooms.len();
    };
    rooms.push(max_length - length);
    let mut fewest = fewest_rows(rest, rooms, max_length);
    rooms.pop();
    for row in 0..rooms.len() {
        if rooms[row] >= *length {
            rooms[row] -= length;
            fewest = fewest.min(fewest_rows(rest, rooms, max_length));
            rooms[row] += length;
        }
    }
    fewest
}

#[test]
fn a_target_never_crosses_a_segment() {
    let example = |ids: &[u32]| EncodedExample {
        input_ids: ids.to_vec(),
        labels: ids.iter().map(|&id| i64::from(id)).collect(),
    };
    let rows = pack(&[example(&[1, 2]), example(&[3, 4, 5])], 5).unwrap();
    let expected = Row {
        input_ids: vec![3, 4, 5, 1, 2],
        labels: vec![-100, 4, 5, -100, 2],
        position_ids: vec![0, 1, 2, 0, 1],
        segment_ids: vec![1, 1, 1, 2, 2],
    };
    assert_eq!(rows, [expected]);
    assert_eq!(rows[0].num_supervised_tokens(), 3);
    let statistics = PackStatistics::of(&rows, 8);
    assert_eq!(
        statistics.to_string(),
        "2 examples in 1 rows, 62.5 % filled, 3 of 5 tokens trained"
    );
}

#[test]
fn an_example_that_no_row_holds_is_named() {
    let error = pack(&examples(&[3, 9, 2]), 8).unwrap_err();
    assert_eq!(
        error.to_string(),
        "example 1 has 9 tokens, more than max_length 8"
    );
    let all = examples(&[3, 2, 9]);
    let mut stream = PackedWindows::new(ok(&all), 8, 2).unwrap();
    assert!(stream.next().unwrap().is_ok());
    let error = stream.next().unwrap().unwrap_err();
    assert_eq!(
        error.to_string(),
        "example 2 has 9 tokens, more than max_length 8"
    );
    assert!(stream.next().is_none());
}

#[test]
fn best_fit_decreasing_fills_rows_better_than_first_fit() {
    // Lengths like those of instructions: many short, few long.
    let mut better = 0;
    for seed in 0..100 {
        let order = permutation(seed, 0, 400);
        let lengths: Vec<usize> = order
            .iter()
            .map(|&rank| 8 + rank * rank / 400 * (1 + rank % 3))
            .map(|length| length.min(1024))
            .collect();
        let best = best_fit_decreasing(&lengths, 1024).unwrap().len();
        let first = first_fit_rows(&lengths, 1024);
        assert!(best <= first, "seed {seed}: {best} rows, first fit {first}");
        better += usize::from(best < first);
    }
    assert!(better > 50, "{better}");
}

#[test]
fn an_error_of_the_source_comes_first_and_loses_nothing() {
    let all = examples(&[4, 4, 4]);
    let items = || {
        let failing = Err(Error::EmptyField { field: "text" });
        [
            Ok(all[0].clone()),
            failing,
            Ok(all[1].clone()),
            Ok(all[2].clone()),
        ]
        .into_iter()
    };
    let mut stream = PackedWindows::new(items(), 8, 2).unwrap();
    assert!(stream.next().unwrap().is_err());
    let rows: Vec<Row> = stream.by_ref().map(Result::unwrap).collect();
    assert_eq!(segments(&rows).len(), 3);
    assert_eq!(stream.cursor(), PackCursor { items: 4, rows: 0 });
    let mut stream = Wrapped::new(items(), 6).unwrap();
    assert!(stream.next().unwrap().is_err());
    let rows: Vec<Row> = stream.map(Result::unwrap).collect();
    assert_eq!(rows.iter().map(Row::len).collect::<Vec<_>>(), [6, 6]);
}

#[test]
fn cursors_of_other_examples_are_refused() {
    let all = examples(&[4, 4, 4]);
    let beyond = PackCursor { items: 0, rows: 2 };
    let mut stream = PackedWindows::resume(ok(&all), 8, 3, beyond).unwrap();
    assert_eq!(
        stream.next().unwrap().unwrap_err().to_string(),
        "cannot resume: the number of rows after which the window was left was 2, but is beyond the 2 that it has"
    );
    let end = PackCursor {
        items: u64::MAX,
        rows: 1,
    };
    let mut stream = PackedWindows::resume(ok(&[]), 8, 3, end).unwrap();
    assert!(matches!(
        stream.next(),
        Some(Err(Error::CursorMismatch { .. }))
    ));
    let beyond = WrapCursor {
        items: u64::MAX,
        tokens: 4,
    };
    let mut stream = Wrapped::resume(ok(&all), 8, beyond).unwrap();
    assert_eq!(
        stream.next().unwrap().unwrap_err().to_string(),
        "cannot resume: the number of tokens after which the example was left was 4, but is beyond the 4 that it has"
    );
    assert!(stream.next().is_none());
    for window in [
        PackedWindows::new(ok(&all), 0, 1).err().unwrap(),
        PackedWindows::new(ok(&all), 1, 0).err().unwrap(),
        Wrapped::new(ok(&all), 1).err().unwrap(),
    ] {
        assert!(matches!(window, Error::InvalidOption { .. }), "{window}");
    }
}

proptest! {
    #[test]
    fn every_token_is_packed_once_and_in_order(lengths in proptest::collection::vec(1_usize..=16, 1..40)) {
        let all = examples(&lengths);
        let rows = pack(&all, 16).unwrap();
        prop_assert!(rows.iter().all(|row| row.len() <= 16));
        let expected: Vec<_> = all.iter().cloned().map(masked_first).collect();
        prop_assert_eq!(by_first_id(segments(&rows)), expected);
        let targets: usize = all.iter().map(EncodedExample::num_supervised_tokens).sum();
        let statistics = PackStatistics::of(&rows, 16);
        prop_assert_eq!(statistics.supervised_tokens, targets);
        prop_assert_eq!(statistics.segments, lengths.len());
        prop_assert_eq!(statistics.tokens, lengths.iter().sum::<usize>());
    }

    #[test]
    fn rows_are_those_of_the_definition(lengths in proptest::collection::vec(0_usize..=20, 0..60)) {
        let rows = best_fit_decreasing(&lengths, 20).unwrap();
        prop_assert_eq!(&rows, &plain_best_fit(&lengths, 20));
        // Two rows that would fit into one are never both opened.
        let loads: Vec<usize> = rows.iter().map(|row| row.iter().map(|&index| lengths[index]).sum()).collect();
        for (index, a) in loads.iter().enumerate() {
            prop_assert!(loads[..index].iter().all(|b| a + b > 20));
        }
    }

    #[test]
    fn no_packing_is_much_better(lengths in proptest::collection::vec(1_usize..=12, 1..9)) {
        let rows = best_fit_decreasing(&lengths, 12).unwrap().len();
        let fewest = fewest_rows(&lengths, &mut Vec::new(), 12);
        prop_assert!(rows * 9 <= fewest * 11 + 9, "{} rows, {} are enough", rows, fewest);
    }

    #[test]
    fn windows_pack_the_stream_and_resume_anywhere(
        lengths in proptest::collection::vec(1_usize..=16, 0..30),
        window in 1_usize..12,
    ) {
        let all = examples(&lengths);
        let mut stream = PackedWindows::new(ok(&all), 16, window).unwrap();
        let mut rows: Vec<Row> = Vec::new();
        let mut cursors = vec![stream.cursor()];
        while let Some(row) = stream.next() {
            rows.push(row.unwrap());
            cursors.push(stream.cursor());
        }
        let expected: Vec<_> = all.chunks(window).flat_map(|chunk| pack(chunk, 16).unwrap()).collect();
        prop_assert_eq!(&rows, &expected);
        for (done, cursor) in cursors.into_iter().enumerate() {
            let cursor: PackCursor = serde_json::from_str(&serde_json::to_string(&cursor).unwrap()).unwrap();
            let rest = &all[usize::try_from(cursor.items).unwrap()..];
            let resumed = PackedWindows::resume(ok(rest), 16, window, cursor).unwrap();
            prop_assert_eq!(resumed.cursor(), cursor);
            let resumed: Vec<Row> = resumed.map(Result::unwrap).collect();
            prop_assert_eq!(&resumed, &rows[done..]);
        }
    }

    #[test]
    fn wrapped_rows_are_full_and_resume_anywhere(
        lengths in proptest::collection::vec(2_usize..=20, 0..20),
        max_length in 2_usize..12,
    ) {
        let all = examples(&lengths);
        let mut stream = Wrapped::new(ok(&all), max_length).unwrap();
        let mut rows: Vec<Row> = Vec::new();
        let mut cursors = vec![stream.cursor()];
        while let Some(row) = stream.next() {
            rows.push(row.unwrap());
            cursors.push(stream.cursor());
        }
        let ids: Vec<u32> = rows.iter().flat_map(|row| row.input_ids.clone()).collect();
        let total: usize = lengths.iter().sum();
        // Ids count from 0 in the order of the stream; a rest that is less than a row may be missing.
        prop_assert!(ids.iter().copied().eq(0..u32::try_from(ids.len()).unwrap()));
        if ids.len() < total {
            prop_assert!(ids.len().is_multiple_of(max_length) && total - ids.len() < max_length);
            let starts = lengths.iter().scan(0, |end, length| {
                *end += length;
                Some(*end - length)
            });
            let starts: Vec<usize> = starts.chain([ids.len()]).collect();
            // No token of the rest is a target: each is either not trained or the first of a segment.
            prop_assert!((ids.len()..total).all(|id| id % 3 == 2 || starts.contains(&id)));
        }
        let (last, full) = rows.split_last().map_or((0, &[][..]), |(last, full)| (last.len(), full));
        prop_assert!(full.iter().all(|row| row.len() == max_length) && last <= max_length);
        segments(&rows);
        cursors.truncate(rows.len());
        for (done, cursor) in cursors.into_iter().enumerate() {
            let cursor: WrapCursor = serde_json::from_str(&serde_json::to_string(&cursor).unwrap()).unwrap();
            let rest = &all[usize::try_from(cursor.items).unwrap()..];
            let resumed = Wrapped::resume(ok(rest), max_length, cursor).unwrap();
            let resumed: Vec<Row> = resumed.map(Result::unwrap).collect();
            prop_assert_eq!(&resumed, &rows[done..]);
        }
    }
}
