//! The few protocol-buffer messages that scalars need, written by hand.
//!
//! ```text
//! Event       { double wall_time = 1; int64 step = 2; string file_version = 3; Summary summary = 5;
//!               SessionLog session_log = 7 }
//! Summary     { repeated Value value = 1 }      Value { string tag = 1; float simple_value = 2 }
//! SessionLog  { SessionStatus status = 1 }      SessionStatus { START = 1 }
//! ```

const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;
const FIXED32: u64 = 5;

/// The first event of every file.
pub(super) fn version(time: f64) -> Vec<u8> {
    let mut event = event(time, 0);
    bytes(&mut event, 3, b"brain.Event:2");
    event
}

/// Tells the reader that `step` and those after it begin anew.
pub(super) fn session_start(time: f64, step: usize) -> Vec<u8> {
    let mut session = Vec::new();
    key(&mut session, 1, VARINT);
    varint(&mut session, 1);
    let mut event = event(time, step);
    bytes(&mut event, 7, &session);
    event
}

/// Numbers by tag.
pub(super) fn scalars(time: f64, step: usize, values: &[(&str, f64)]) -> Vec<u8> {
    let mut summary = Vec::new();
    for &(tag, number) in values {
        let mut value = Vec::new();
        bytes(&mut value, 1, tag.as_bytes());
        key(&mut value, 2, FIXED32);
        #[expect(clippy::cast_possible_truncation, reason = "TensorBoard keeps f32")]
        value.extend((number as f32).to_le_bytes());
        bytes(&mut summary, 1, &value);
    }
    let mut event = event(time, step);
    bytes(&mut event, 5, &summary);
    event
}

fn event(time: f64, step: usize) -> Vec<u8> {
    let mut event = Vec::new();
    key(&mut event, 1, FIXED64);
    event.extend(time.to_le_bytes());
    key(&mut event, 2, VARINT);
    varint(&mut event, step as u64);
    event
}

fn bytes(message: &mut Vec<u8>, field: u64, content: &[u8]) {
    key(message, field, BYTES);
    varint(message, content.len() as u64);
    message.extend(content);
}

fn key(message: &mut Vec<u8>, field: u64, wire_type: u64) {
    varint(message, (field << 3) | wire_type);
}

fn varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        let [low, ..] = value.to_le_bytes();
        message.push(low | 0x80);
        value >>= 7;
    }
    let [low, ..] = value.to_le_bytes();
    message.push(low);
}
