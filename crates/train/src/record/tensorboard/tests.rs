use super::super::tests::{at, eval, step};
use super::*;

/// A field of a message: its number, and what it holds.
#[derive(Debug)]
enum Field<'a> {
    Varint(u64),
    Fixed(&'a [u8]),
    Bytes(&'a [u8]),
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first().unwrap();
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return value;
        }
    }
    panic!("a varint of more than ten bytes");
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> &'a [u8] {
    let (head, rest) = bytes.split_at(len);
    *bytes = rest;
    head
}

fn fields(mut bytes: &[u8]) -> Vec<(u64, Field<'_>)> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let field = match key & 7 {
            0 => Field::Varint(varint(&mut bytes)),
            1 => Field::Fixed(take(&mut bytes, 8)),
            5 => Field::Fixed(take(&mut bytes, 4)),
            2 => {
                let len = usize::try_from(varint(&mut bytes)).unwrap();
                Field::Bytes(take(&mut bytes, len))
            }
            other => panic!("wire type {other}"),
        };
        fields.push((key >> 3, field));
    }
    fields
}

/// The events of a file as text, checksums checked.
fn events(folder: &Path) -> Vec<String> {
    let mut paths: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    paths.sort();
    let mut lines = Vec::new();
    for path in paths {
        let file = fs::read(path).unwrap();
        let mut rest = file.as_slice();
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap());
            let length = usize::try_from(length).unwrap();
            assert_eq!(rest[8..12], frame::masked(&rest[..8]).to_le_bytes());
            let data = &rest[12..12 + length];
            assert_eq!(
                rest[12 + length..16 + length],
                frame::masked(data).to_le_bytes()
            );
            rest = &rest[16 + length..];
            lines.push(event_text(data));
        }
    }
    lines
}

fn event_text(data: &[u8]) -> String {
    let mut text = String::new();
    for (number, field) in fields(data) {
        text += &match (number, field) {
            (1, Field::Fixed(time)) => {
                format!("time {}", f64::from_le_bytes(time.try_into().unwrap()))
            }
            (2, Field::Varint(step)) => format!(" step {step}"),
            (3, Field::Bytes(version)) => format!(" {}", str::from_utf8(version).unwrap()),
            (5, Field::Bytes(summary)) => summary_text(summary),
            (7, Field::Bytes(session)) => format!(" session {session:?}"),
            (number, field) => panic!("field {number}: {field:?}"),
        };
    }
    text
}

fn summary_text(summary: &[u8]) -> String {
    let mut text = String::new();
    for (number, field) in fields(summary) {
        let Field::Bytes(value) = field else {
            panic!("field {number}: {field:?}")
        };
        assert_eq!(number, 1);
        match fields(value).as_slice() {
            [(1, Field::Bytes(tag)), (2, Field::Fixed(value))] => {
                let value = f32::from_le_bytes((*value).try_into().unwrap());
                text += &format!(" {}={value}", str::from_utf8(tag).unwrap());
            }
            other => panic!("{other:?}"),
        }
    }
    text
}

#[test]
fn events_are_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut file = EventFile::new(folder.path());
    file.observe(&at(5.0, Event::Step(step(200, 2.5)))).unwrap();
    file.observe(&at(6.0, Event::Eval(eval("eval", 200, 2.25))))
        .unwrap();
    assert_eq!(
        events(folder.path()),
        [
            "time 5 step 0 brain.Event:2",
            "time 5 step 200 train/loss=2.5 train/grad_norm=1 train/learning_rate=0.0002 \
             train/tokens_per_second=2048 memory/rss_bytes=1073741800",
            "time 6 step 200 eval/loss=2.25",
        ]
    );
}

#[test]
fn a_resumed_run_writes_another_file_and_forgets_later_steps() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = EventFile::new(folder.path());
    first
        .observe(&at(5.0, Event::Eval(eval("eval", 9, 2.0))))
        .unwrap();
    let mut second = EventFile::new(folder.path());
    second.resume(&[], 7).unwrap();
    second
        .observe(&at(5.0, Event::Eval(eval("eval", 8, 1.0))))
        .unwrap();
    assert_eq!(
        events(folder.path())[2..],
        [
            "time 5 step 0 brain.Event:2",
            "time 5 step 8 session [8, 1]",
            "time 5 step 8 eval/loss=1",
        ]
    );
}
