//! Feeds mutated output of agents to what reads it. `npm run fuzz` builds and starts it.
//!
//! Every input follows from the seed and its number, so a failure is repeated by `--seed S --at N`. The checks are those of
//! `check_…`; any panic counts too, and in a debug build so does an overflow.

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use paperclip_adapter_claude_k8s::claude::Tally;
use paperclip_adapter_claude_k8s::stream::{LineSplitter, MOST_LINE, Resume, Splice, Stamp, Verdict};

/// What is mutated: lines of every kind of event, and recorded output.
const CORPUS: [&str; 4] = [
    include_str!("../__test__/support/event-lines.jsonl"),
    include_str!("../tools/simulator/fixtures/claude-cli-2.1.197/success.jsonl"),
    include_str!("../tools/simulator/fixtures/claude-cli-2.1.330/background.jsonl"),
    include_str!("../tools/simulator/fixtures/claude-cli-2.1.330/resume.jsonl"),
];

/// What is put into lines: what the readers look for.
const TOKENS: [&[u8]; 28] = [
    b"{\"type\":\"result\"",
    b"{\"type\":\"assistant\"",
    b"{\"type\":\"system\",\"subtype\":\"init\"",
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b"\\udc00",
    b":",
    b",",
    b"\0",
    b"\xff",
    b"\xf0\x9f\x92",
    b"\xe2\x80\xae",
    b"\x1b]52;c;eA==\x07",
    b"\n",
    b"\r",
    b"-1",
    b"1e999",
    b"9007199254740993",
    b"null",
    b"\"session_id\":\"--x\"",
    b"\"__proto__\":",
    b"2026-01-02T03:04:05.000000000Z ",
];

/// A generator of numbers: splitmix64.
struct Numbers(u64);

impl Numbers {
    fn of(seed: u64, number: u64) -> Self {
        let mut numbers = Self(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        numbers.next();
        numbers
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`.
    fn below(&mut self, limit: usize) -> usize {
        if limit == 0 { 0 } else { (self.next() % limit as u64) as usize }
    }

    fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }
}

/// A line of the corpus, changed in some places.
fn line(numbers: &mut Numbers, lines: &[&[u8]]) -> Vec<u8> {
    let mut line = lines[numbers.below(lines.len())].to_vec();
    for _ in 0..numbers.below(6) {
        let at = numbers.below(line.len() + 1);
        match numbers.below(7) {
            0 => line.truncate(at),
            1 if at < line.len() => line[at] = numbers.next() as u8,
            2 => {
                let token = TOKENS[numbers.below(TOKENS.len())];
                line.splice(at..at, token.iter().copied());
            }
            3 => {
                let end = at + numbers.below(line.len() + 1 - at).min(64);
                line.drain(at..end);
            }
            4 => {
                let other = lines[numbers.below(lines.len())];
                let from = numbers.below(other.len() + 1);
                line.splice(at..at, other[from..].iter().copied());
            }
            5 => {
                let token = TOKENS[numbers.below(TOKENS.len())];
                let times = 1 << numbers.below(10);
                line.splice(at..at, token.iter().copied().cycle().take(token.len() * times));
            }
            _ => {
                let pieces = numbers.below(3) * 16 * 1024;
                line.splice(at..at, std::iter::repeat_n(b'x', pieces + numbers.below(3)));
            }
        }
    }
    line
}

/// Bytes in any pieces give the lines of the whole, and their text is bounded.
fn check_framing(numbers: &mut Numbers, lines: &[&[u8]]) -> usize {
    let mut body = Vec::new();
    for _ in 0..=numbers.below(4) {
        body.extend(line(numbers, lines));
        body.push(b'\n');
    }
    body.truncate(body.len().saturating_sub(numbers.below(3)));
    let mut splitter = LineSplitter::new();
    let mut split: Vec<Vec<u8>> = Vec::new();
    let mut rest = &body[..];
    while !rest.is_empty() {
        let most = rest.len().min(1 << numbers.below(16));
        let (piece, after) = rest.split_at(1 + numbers.below(most));
        splitter.push(piece, |line, left_out| {
            assert_eq!(left_out, 0, "no line is that long");
            split.push(line.to_vec());
        });
        rest = after;
    }
    let whole: Vec<&[u8]> = body.split(|byte| *byte == b'\n').collect();
    assert!(
        split.iter().map(Vec::as_slice).eq(whole[..whole.len() - 1].iter().copied()),
        "the lines of the whole"
    );
    let mut tally = Tally::new();
    let mut splice = Splice::default();
    let (mut given, mut gotten) = (0, 0);
    for line in &split {
        given += line.len();
        splice.push(line, |line| gotten += line.len());
        let (text, left_out) = tally.line(line, 0);
        assert!(text.len() <= MOST_LINE && left_out == 0 && !text.contains('\0'));
    }
    splice.finish(|line| gotten += line.len());
    assert_eq!(given, gotten, "no byte is lost where stderr is taken out of stdout");
    body.len()
}

/// A log that is read in bodies which break anywhere is delivered once and in order.
fn check_resume(numbers: &mut Numbers, lines: &[&[u8]]) -> usize {
    const START: i64 = 1_767_323_045_000_000_000;
    let mut nanos = START;
    let mut log: Vec<(i64, Vec<u8>)> = Vec::new();
    for number in 0..=numbers.below(12) {
        nanos += [1, 1_000_000, 700_000_000, 3_000_000_000][numbers.below(4)];
        let mut text = line(numbers, lines);
        text.retain(|byte| *byte != b'\n');
        text.extend(number.to_string().bytes());
        log.push((nanos, text));
    }
    let mut resume = Resume::new();
    let mut delivered: Vec<Vec<u8>> = Vec::new();
    let mut bytes = 0;
    for attempt in 0..40 {
        // A kubelet filters by whole seconds.
        let since = resume.since().map_or(i64::MIN, Stamp::nanos);
        let mut body = Vec::new();
        for (nanos, text) in log.iter().filter(|(nanos, _)| *nanos >= since) {
            body.extend(format!("{} ", Stamp::from_nanos(*nanos)).bytes());
            body.extend(text);
            body.push(b'\n');
        }
        let cut = if attempt < 30 && !numbers.one_in(4) { numbers.below(body.len() + 1) } else { body.len() };
        bytes += cut;
        resume.begin_body();
        let mut splitter = LineSplitter::new();
        splitter.push(&body[..cut], |raw, _| match resume.line(raw, true) {
            Verdict::Deliver(text) | Verdict::Gap(_, text) => delivered.push(text.to_vec()),
            Verdict::Duplicate | Verdict::Partial | Verdict::Noise(_) | Verdict::Refetch => {}
        });
        resume.end_body(false);
        let known: Vec<&[u8]> = log.iter().map(|(_, text)| text.as_slice()).take(delivered.len()).collect();
        assert!(delivered.iter().map(Vec::as_slice).eq(known), "once and in order");
        if delivered.len() == log.len() {
            return bytes;
        }
    }
    panic!("{} of {} lines were delivered", delivered.len(), log.len());
}

/// Whatever an agent prints, what is kept of it is bounded, and its numbers can be counted with.
fn check_events(numbers: &mut Numbers, lines: &[&[u8]]) -> usize {
    let mut tally = Tally::new();
    let mut bytes = 0;
    for _ in 0..=numbers.below(8) {
        let line = line(numbers, lines);
        bytes += line.len();
        let _ = tally.line(&line, numbers.below(2) as u64);
    }
    let captured = tally.finish();
    assert!(captured.texts.len() <= 300 * 1024 && captured.stdout.len() <= 300 * 1024);
    for name in [&captured.session_id, &captured.init_model, &captured.api_key_source] {
        assert!(name.as_ref().is_none_or(|name| name.len() <= 256), "a name");
    }
    if let Some(usage) = captured.usage() {
        for count in [usage.input_tokens, usage.cached_input_tokens, usage.output_tokens] {
            assert!(count >= 0.0 && count.is_finite() && count.fract() == 0.0, "{count} tokens");
        }
    }
    assert!(captured.cost_usd().is_none_or(|cost| cost >= 0.0 && cost.is_finite()), "a cost");
    let _ = captured.summary();
    if let Some(result) = captured.result {
        let text = result.to_string();
        let read: Result<serde_json::Value, _> = serde_json::from_str(&text);
        assert!(read.is_ok() || text.matches(['[', '{']).count() > 100, "the result can be read again");
    }
    bytes
}

/// Makes an input of this number and checks it; the number of its bytes.
type Check = fn(&mut Numbers, &[&[u8]]) -> usize;
const TARGETS: [(&str, Check); 3] =
    [("framing", check_framing), ("resume", check_resume), ("events", check_events)];

fn option(name: &str) -> Option<u64> {
    let mut args = std::env::args().skip_while(|arg| arg != name);
    args.nth(1).map(|value| value.parse().unwrap_or_else(|_| panic!("{name} {value}: a number is needed")))
}

fn main() {
    let name = std::env::args().nth(1).unwrap_or_default();
    let Some((name, check)) = TARGETS.into_iter().find(|(target, _)| *target == name) else {
        let names = TARGETS.map(|(name, _)| name).join(", ");
        panic!("usage: fuzz TARGET --seconds N --seed N [--at N], with one of {names}");
    };
    let lines: Vec<&[u8]> = CORPUS.iter().flat_map(|text| text.lines()).map(str::as_bytes).collect();
    let seed = option("--seed").expect("--seed N");
    if let Some(number) = option("--at") {
        check(&mut Numbers::of(seed, number), &lines);
        println!("{name}: input {number} of seed {seed} passes");
        return;
    }
    let until = Instant::now() + Duration::from_secs(option("--seconds").expect("--seconds N"));
    let (mut inputs, mut bytes) = (0, 0);
    while Instant::now() < until {
        let input = AssertUnwindSafe(|| check(&mut Numbers::of(seed, inputs), &lines));
        match std::panic::catch_unwind(input) {
            Ok(length) => bytes += length,
            Err(_) => {
                println!(
                    "{name}: input {inputs} of seed {seed} fails (fuzz {name} --seed {seed} --at {inputs})"
                );
                std::process::exit(1);
            }
        }
        inputs += 1;
    }
    println!("{name}: {inputs} inputs, {} MiB, seed {seed}: no failure", bytes >> 20);
}
