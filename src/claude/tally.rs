//! Gathers what the result of a run needs from its output, line by line.

use std::borrow::Cow;
use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

use memchr::memmem;
use serde::Serialize;
use serde_json::{Map, Value};

use super::event::{self, Event, MessageUsage};
use super::failure::is_error_result;
use crate::js_semantics;
use crate::stream::excerpt::Excerpt;
use crate::stream::text_of;

/// Most bytes of assistant texts kept for the summary; the beginning is kept.
const TEXTS: usize = 256 * 1024;
/// Most bytes of the first content line kept for an error message.
const CONTENT_LINE: usize = 8 * 1024;
/// Most different model names remembered.
const MODELS: usize = 32;
/// How many messages are remembered to tell their parts from further messages. The parts of one come close together.
const MESSAGES: usize = 64;
/// Most bytes of a name that the CLI gives for something, such as a session or a model.
const NAME: usize = 256;
/// Most bytes of a word that the CLI gives for something, such as an error.
const WORD: usize = 64;
/// What stands before the name of a model in the CLI's output.
const MODEL_KEY: &[u8] = b"\"model\":\"";

/// Reads the lines of a run once, in order, and keeps only what the result needs.
///
/// Its size does not depend on the length of the run: at most 256 KiB of text for the summary, 160 KiB of output for a
/// failed run, and a few fields.
#[derive(Debug)]
pub struct Tally {
    captured: Captured,
    excerpt: Option<Excerpt>,
    /// Hashes of (key, text) of the collected texts. The CLI prints an `assistant` event per content block, all with
    /// the same message id and index 0, so the key alone would drop new text.
    seen: HashSet<u64>,
    hasher: RandomState,
    most_text: usize,
    most_content: usize,
}

/// What a [`Tally`] kept of a run's output.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Captured {
    /// The last non-empty `session_id` of an init, assistant or result event.
    pub session_id: Option<String>,
    /// The last non-empty `model` of an init event.
    pub init_model: Option<String>,
    /// The last non-empty `apiKeySource` of an init event.
    pub api_key_source: Option<String>,
    /// `error` of the last assistant event, where that was about a request that failed.
    pub error: Option<String>,
    /// A limit of the account was reached, and no message of the model came after that.
    pub rejected: Option<Rejected>,
    /// The last result event. Whether it is that of the run: [`Captured::is_result_of_run`].
    pub result: Option<Value>,
    /// An event of a turn came after the last result event, so that the CLI works on.
    in_turn: bool,
    /// The sum of the result events before it.
    earlier: Earlier,
    /// The tokens of messages after it.
    messages: Messages,
    /// There was an assistant event with stop reason `null` and no output tokens, and neither output nor a result after
    /// it.
    pub llm_api_empty: bool,
    /// There was an assistant event with output tokens, and no result after it.
    pub truncated: bool,
    /// The assistant's texts joined with blank lines, at most 256 KiB from the beginning.
    pub texts: String,
    /// The first line that is not an event of the CLI, trimmed; at most 8 KiB.
    pub content_line: Option<String>,
    /// The values of `"model":"…"` in the output, up to the first content line.
    pub models_named: Vec<String>,
    /// Bytes of output, newlines included.
    pub stdout_bytes: u64,
    /// Lines of output.
    pub lines: u64,
    /// Lines with more than white space.
    pub nonempty_lines: u64,
    /// Events of the CLI.
    pub events: u64,
    /// The output of a run whose last word is not a result, at most 32 KiB of its beginning and 128 KiB of its end; else
    /// empty.
    pub stdout: String,
}

/// What a `rate_limit_event` says of a limit that is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rejected {
    /// When it is lifted, in seconds since 1970.
    pub resets_at: Option<f64>,
}

/// What the result events of earlier turns add to the last one. When a background command ends, the CLI takes another
/// turn, with another result event.
#[derive(Clone, Debug, Default, PartialEq)]
struct Earlier {
    /// Their own tokens, of the main chain of messages.
    usage: Usage,
    /// Their shares of the tokens of all models.
    share: Usage,
    /// One of them did not give its share.
    unknown_share: bool,
    /// Their shares of the cost, in US dollars.
    cost_usd: f64,
    /// One of them did not give its share.
    unknown_cost: bool,
}

/// The tokens of messages that no result event has counted yet.
#[derive(Clone, Debug, Default, PartialEq)]
struct Messages {
    /// Their sum; `None` without a message that gives its tokens.
    usage: Option<Usage>,
    /// The last ones, by their hashed ids. The CLI prints an event per content block, each with the tokens of the whole
    /// message so far.
    last: VecDeque<(u64, Usage)>,
}

/// Tokens: whole numbers, none of them negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Of prompts: those that were not cached, and those that were written to the cache. All of them are billed.
    #[serde(serialize_with = "plain_number")]
    pub input_tokens: f64,
    /// Of prompts: those that were read from the cache.
    #[serde(serialize_with = "plain_number")]
    pub cached_input_tokens: f64,
    /// Of answers.
    #[serde(serialize_with = "plain_number")]
    pub output_tokens: f64,
}

fn plain_number<S: serde::Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    js_semantics::number_value(*value).serialize(serializer)
}

impl Default for Tally {
    fn default() -> Self {
        Self::new()
    }
}

impl Tally {
    /// A tally of a run.
    pub fn new() -> Self {
        Self {
            captured: Captured::default(),
            excerpt: Some(Excerpt::default()),
            seen: HashSet::new(),
            hasher: RandomState::new(),
            most_text: TEXTS,
            most_content: CONTENT_LINE,
        }
    }

    /// A tally of a text that is in memory already: without bounds, and without a copy of the output.
    #[cfg(any(test, feature = "compat"))]
    pub(crate) fn over_text() -> Self {
        Self { excerpt: None, most_text: usize::MAX, most_content: usize::MAX, ..Self::new() }
    }

    /// Adds the next line, given without its stamp and its newline, and returns it as text: bytes that are not UTF-8
    /// and NUL become U+FFFD. `left_out`: the number of bytes at its end that were not kept. The same number of what is
    /// returned comes with it.
    pub fn line<'a>(&mut self, line: &'a [u8], left_out: u64) -> (Cow<'a, str>, u64) {
        let (text, more) = text_of(line);
        self.text_line(&text, line.len() as u64 + left_out);
        (text, left_out + more)
    }

    /// Adds a line that is text already.
    pub fn text(&mut self, line: &str) {
        self.text_line(line, line.len() as u64);
    }

    /// Whether the CLI's last word so far is the result of the run: see [`Captured::is_result_last_word`].
    pub fn is_result_last_word(&self) -> bool {
        self.captured.is_result_last_word()
    }

    /// What was kept so far.
    pub fn so_far(&self) -> &Captured {
        &self.captured
    }

    fn text_line(&mut self, text: &str, bytes: u64) {
        let captured = &mut self.captured;
        captured.lines += 1;
        captured.stdout_bytes += bytes + 1;
        if let Some(excerpt) = &mut self.excerpt {
            excerpt.push(text);
        }
        let text = js_semantics::trim(text);
        if text.is_empty() {
            return;
        }
        captured.nonempty_lines += 1;
        // Models matter only for a run without a content line: its error says more than the model does.
        if captured.content_line.is_none() {
            captured.note_models(text);
        }
        let with_texts = captured.texts.len() < self.most_text;
        event::read(text, with_texts, |event| self.event(text, event));
    }

    fn event(&mut self, line: &str, event: Event<'_>) {
        let captured = &mut self.captured;
        captured.events += u64::from(!matches!(event, Event::Content));
        match event {
            Event::Other => {}
            Event::Turn => captured.in_turn = true,
            Event::Content => {
                if captured.content_line.is_none() {
                    captured.content_line = Some(cut(line, self.most_content));
                }
            }
            Event::RateLimit { rejected, resets_at } => {
                if rejected {
                    captured.rejected = Some(Rejected { resets_at });
                }
            }
            Event::Init { session_id, model, api_key_source } => {
                keep(&mut captured.session_id, session_id.as_deref());
                keep(&mut captured.init_model, model.as_deref());
                keep(&mut captured.api_key_source, api_key_source.as_deref().map(word));
                captured.in_turn = true;
            }
            Event::Assistant(assistant) => self.assistant(&assistant),
            Event::Result { session_id, event } => {
                keep(&mut captured.session_id, session_id.as_deref());
                captured.llm_api_empty = false;
                captured.truncated = false;
                captured.in_turn = false;
                captured.take_result(event);
            }
        }
    }

    fn assistant(&mut self, event: &event::Assistant<'_>) {
        let captured = &mut self.captured;
        keep(&mut captured.session_id, event.session_id.as_deref());
        captured.in_turn = true;
        captured.error = event.error.as_deref().map(|error| word(error).to_owned());
        if captured.error.is_none() {
            captured.rejected = None;
        }
        captured.messages.add(event.id.as_deref().map(|id| self.hasher.hash_one(id)), event.usage);
        if event.stop_reason_null && event.output_tokens == 0.0 {
            captured.llm_api_empty = true;
        } else if event.output_tokens > 0.0 || event.has_content {
            captured.llm_api_empty = false;
        }
        if event.output_tokens > 0.0 {
            captured.truncated = true;
        }
        for (index, text) in &event.texts {
            if captured.texts.len() >= self.most_text {
                return;
            }
            let key = event.id.as_deref().map(|id| (id, index));
            if !self.seen.insert(self.hasher.hash_one((key, text))) {
                continue;
            }
            if !captured.texts.is_empty() {
                captured.texts.push_str("\n\n");
            }
            let left = self.most_text.saturating_sub(captured.texts.len());
            captured.texts.push_str(&text[..text.floor_char_boundary(left)]);
        }
    }

    /// The end of the output.
    pub fn finish(self) -> Captured {
        let mut captured = self.captured;
        if !captured.is_result_last_word() {
            captured.stdout = self.excerpt.map(Excerpt::finish).unwrap_or_default();
        }
        captured
    }
}

impl Captured {
    fn note_models(&mut self, text: &str) {
        static FINDER: LazyLock<memmem::Finder<'static>> = LazyLock::new(|| memmem::Finder::new(MODEL_KEY));
        let mut rest = text.as_bytes();
        while let Some(found) = FINDER.find(rest) {
            rest = &rest[found + MODEL_KEY.len()..];
            let Some(end) = memchr::memchr(b'"', rest) else { return };
            let name = &rest[..end];
            rest = &rest[end..];
            let known = |model: &String| model.as_bytes() == name;
            if name.len() <= 256 && self.models_named.len() < MODELS && !self.models_named.iter().any(known) {
                self.models_named.extend(String::from_utf8(name.to_vec()));
            }
        }
    }

    /// Whether the output names the model, as it is written or with `_` for every `-`.
    pub fn names_model(&self, model: &str) -> bool {
        let underscored = model.replace('-', "_");
        self.models_named.iter().any(|named| named == model || *named == underscored)
    }

    /// The model of the init event, else of the result event, else none.
    pub fn model(&self) -> Option<&str> {
        self.init_model.as_deref().or_else(|| js_semantics::string_field(self.result.as_ref()?, "model"))
    }

    /// Whether the result event is the CLI's last word: no event of a turn came after it, and it is not one of those that
    /// the CLI prints, when it resumes a session, for each background task of the run before.
    pub fn is_result_last_word(&self) -> bool {
        self.result.as_ref().is_some_and(|result| !self.in_turn && !is_without_turn(result))
    }

    /// Whether the result event is that of a run whose container ended with this code. Unless it is the CLI's last word,
    /// only a container that ended with 0 had done its work; and a result without a turn is that of a CLI that did
    /// nothing else.
    pub fn is_result_of_run(&self, exit_code: Option<i32>) -> bool {
        let Some(result) = &self.result else { return false };
        self.is_result_last_word() || (exit_code == Some(0) && !(self.in_turn && is_without_turn(result)))
    }

    /// Whether the CLI had finished a turn, and was in another one when its output ended.
    pub fn is_in_later_turn(&self) -> bool {
        self.in_turn && self.result.as_ref().is_some_and(|result| !is_without_turn(result))
    }

    /// A result event replaces the last one, unless it stands for no turn. Where both have ids and these differ, the
    /// other one counts as well.
    fn take_result(&mut self, event: Value) {
        // It counts the messages before it, if it counts any.
        if models_of_turn(&event).or_else(|| models(&event)).is_some()
            || event.get("usage").and_then(Usage::of_chain).is_some()
        {
            self.messages = Messages::default();
        }
        let Some(last) = self.result.take() else {
            self.result = Some(event);
            return;
        };
        let keeps_last = is_without_turn(&event) && !is_without_turn(&last);
        let (result, other) = if keeps_last { (last, event) } else { (event, last) };
        let id = |event| js_semantics::string_field(event, "uuid");
        if let (Some(other_id), Some(id)) = (id(&other), id(&result))
            && other_id != id
        {
            let own = other.get("usage").and_then(Usage::of_chain).unwrap_or_default();
            self.earlier.usage = self.earlier.usage.plus(own);
            match turn_usage(&other) {
                Some(share) => self.earlier.share = self.earlier.share.plus(share),
                None => self.earlier.unknown_share = true,
            }
            match turn_cost_usd(&other) {
                Some(cost) => self.earlier.cost_usd += cost,
                None => self.earlier.unknown_cost = true,
            }
        }
        self.result = Some(result);
    }

    /// The cost of the run in US dollars: the shares of its result events, else `total_cost_usd` of the last one. In newer
    /// versions of the CLI that is the cost of the whole session.
    pub fn cost_usd(&self) -> Option<f64> {
        let result = self.result.as_ref()?;
        match turn_cost_usd(result) {
            Some(cost) if !self.earlier.unknown_cost => Some(self.earlier.cost_usd + cost),
            _ => result.get("total_cost_usd").and_then(cost),
        }
    }

    /// The tokens of the run, subagents included: as its result events count them, and those of messages after them.
    /// `None` where nothing says it.
    pub fn usage(&self) -> Option<Usage> {
        match (self.result.as_ref().and_then(|result| self.usage_of_results(result)), self.messages.usage) {
            (Some(results), Some(messages)) => Some(results.plus(messages)),
            (results, messages) => results.or(messages),
        }
    }

    /// The tokens of all models since the turn before, of each turn. Where the CLI does not give that, those of all models
    /// so far: in newer versions that is since the session began, so it comes second. Else those of the main chain.
    fn usage_of_results(&self, last: &Value) -> Option<Usage> {
        if let Some(share) = turn_usage(last)
            && !self.earlier.unknown_share
        {
            return Some(self.earlier.share.plus(share));
        }
        if let Some(models) = models(last) {
            return Some(Usage::of_models(models));
        }
        last.get("usage").and_then(Usage::of_chain).map(|own| self.earlier.usage.plus(own))
    }

    /// Who serves the model, in the CLI's word; `firstParty` is Anthropic.
    pub fn platform(&self) -> Option<&str> {
        let models = self.result.as_ref()?.get("modelUsage")?.as_object()?;
        models.values().find_map(|model| js_semantics::string_field(model, "provider"))
    }

    /// The result's text, else the assistant's texts; trimmed.
    pub fn summary(&self) -> &str {
        let result = self.result.as_ref().and_then(|result| js_semantics::string_field(result, "result"));
        js_semantics::trim(result.unwrap_or(&self.texts))
    }
}

impl Messages {
    /// Adds a message, or a further part of one.
    fn add(&mut self, id: Option<u64>, usage: MessageUsage) {
        let MessageUsage { input, cache_creation, cache_read, output } = usage;
        if [input, cache_creation, cache_read, output].iter().all(Option::is_none) {
            return;
        }
        let mut usage = Usage {
            input_tokens: tokens(input) + tokens(cache_creation),
            cached_input_tokens: tokens(cache_read),
            output_tokens: tokens(output),
        };
        let total = self.usage.get_or_insert_default();
        let known = id.and_then(|id| self.last.iter_mut().find(|(known, _)| *known == id));
        if let Some((_, known)) = known {
            usage = usage.max(*known);
            *total = total.minus(*known);
            *known = usage;
        } else if let Some(id) = id {
            self.last.truncate(MESSAGES - 1);
            self.last.push_front((id, usage));
        }
        *total = total.plus(usage);
    }
}

impl Usage {
    /// `usage` of a result event: the tokens of the main chain of messages. `None` without any number.
    fn of_chain(usage: &Value) -> Option<Self> {
        let number = |key: &str| usage.get(key).and_then(Value::as_f64);
        let keys =
            ["input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens"];
        let [input, created, read, output] = keys.map(number);
        if [input, created, read, output].iter().all(Option::is_none) {
            return None;
        }
        Some(Self {
            input_tokens: tokens(input) + tokens(created),
            cached_input_tokens: tokens(read),
            output_tokens: tokens(output),
        })
    }

    /// The tokens of all models.
    fn of_models(models: &Map<String, Value>) -> Self {
        models.values().fold(Self::default(), |sum, model| {
            let number = |key: &str| tokens(model.get(key).and_then(Value::as_f64));
            sum.plus(Self {
                input_tokens: number("inputTokens") + number("cacheCreationInputTokens"),
                cached_input_tokens: number("cacheReadInputTokens"),
                output_tokens: number("outputTokens"),
            })
        })
    }

    /// Each number of tokens, but no more than this.
    pub(crate) fn at_most(self, most: f64) -> Self {
        Self {
            input_tokens: self.input_tokens.min(most),
            cached_input_tokens: self.cached_input_tokens.min(most),
            output_tokens: self.output_tokens.min(most),
        }
    }

    fn max(self, other: Self) -> Self {
        Self {
            input_tokens: self.input_tokens.max(other.input_tokens),
            cached_input_tokens: self.cached_input_tokens.max(other.cached_input_tokens),
            output_tokens: self.output_tokens.max(other.output_tokens),
        }
    }

    fn minus(self, other: Self) -> Self {
        Self {
            input_tokens: self.input_tokens - other.input_tokens,
            cached_input_tokens: self.cached_input_tokens - other.cached_input_tokens,
            output_tokens: self.output_tokens - other.output_tokens,
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            input_tokens: self.input_tokens + other.input_tokens,
            cached_input_tokens: self.cached_input_tokens + other.cached_input_tokens,
            output_tokens: self.output_tokens + other.output_tokens,
        }
    }
}

/// Whether a result event that is no failure stands for no turn at all.
fn is_without_turn(result: &Value) -> bool {
    result.get("num_turns").and_then(Value::as_f64) == Some(0.0) && !is_error_result(result)
}

/// A number of tokens that can be counted with: whole, not negative, and small enough for that.
fn tokens(number: Option<f64>) -> f64 {
    const MOST: f64 = 1e15;
    number.filter(|number| number.is_finite()).map_or(0.0, |number| number.clamp(0.0, MOST).floor())
}

/// A cost that can be counted with.
fn cost(value: &Value) -> Option<f64> {
    value.as_f64().filter(|cost| cost.is_finite() && *cost >= 0.0)
}

/// The models with what they were used for so far.
fn models(result: &Value) -> Option<&Map<String, Value>> {
    result.get("modelUsage")?.as_object().filter(|models| !models.is_empty())
}

/// The models with what they were used for since the result event before this one.
fn models_of_turn(result: &Value) -> Option<&Map<String, Value>> {
    result.get("model_usage_since_last_result")?.as_object()
}

/// The tokens since the result event before this one, of all models; `None` where the CLI does not give them.
fn turn_usage(result: &Value) -> Option<Usage> {
    models_of_turn(result).map(Usage::of_models)
}

/// The cost since the result event before this one, of all models; `None` where the CLI does not give it.
fn turn_cost_usd(result: &Value) -> Option<f64> {
    models_of_turn(result)?.values().map(|model| cost(model.get("costUSD")?)).sum()
}

/// The beginning of a word that the CLI gives.
fn word(text: &str) -> &str {
    &text[..text.floor_char_boundary(WORD)]
}

fn keep(slot: &mut Option<String>, value: Option<&str>) {
    if let Some(value) = value.map(|value| &value[..value.floor_char_boundary(NAME)])
        && slot.as_deref() != Some(value)
    {
        *slot = Some(value.to_owned());
    }
}

fn cut(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    format!("{}…", &text[..text.floor_char_boundary(most)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn tally(lines: &[&str]) -> Captured {
        let mut tally = Tally::new();
        lines.iter().for_each(|line| tally.text(line));
        tally.finish()
    }

    macro_rules! fixture {
        ($name:literal) => {
            fixture!("2.1.197", $name)
        };
        ($version:literal, $name:literal) => {
            include_str!(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/tools/simulator/fixtures/claude-cli-",
                $version,
                "/",
                $name,
                ".jsonl"
            ))
        };
    }

    #[test]
    fn recorded_runs_are_tallied() {
        let auth = "Invalid API key · Fix external API key";
        let overload = "API Error: 529 Overloaded. This is a server-side issue, usually temporary — try again in a \
                        moment. If it persists, check your inference gateway (127.0.0.1:8080).";
        let refused = "API Error: Unable to connect to API (ConnectionRefused)";
        let opus = Some("claude-opus-4-8[1m]");
        for (name, text, session, model, summary, cost, usage) in [
            ("success", fixture!("success"), "52f5bda4", opus, "All done.", 0.003364, [240.0, 128.0, 84.0]),
            (
                "max-turns",
                fixture!("max-turns"),
                "bf5de0db",
                opus,
                "Looking — naïve café ✓ first.",
                0.001682,
                [120.0, 64.0, 42.0],
            ),
            ("auth", fixture!("auth"), "66bbc342", opus, auth, 0.0, [0.0; 3]),
            ("overload", fixture!("overload"), "0a0805ca", opus, overload, 0.0, [0.0; 3]),
            ("unreachable", fixture!("unreachable"), "6afb4bef", opus, refused, 0.0, [0.0; 3]),
            ("unknown-session", fixture!("unknown-session"), "11111111", None, "", 0.0, [0.0; 3]),
            ("bad-session", fixture!("bad-session"), "5f75a4d1", None, "", 0.0, [0.0; 3]),
        ] {
            let lines: Vec<&str> = text.lines().collect();
            let captured = tally(&lines);
            assert!(captured.session_id.as_deref().unwrap().starts_with(session), "{name}");
            assert_eq!(captured.init_model.as_deref(), model, "{name}");
            assert_eq!(captured.summary(), summary, "{name}");
            assert_eq!(captured.cost_usd(), Some(cost), "{name}");
            let [input_tokens, cached_input_tokens, output_tokens] = usage;
            assert_eq!(
                captured.usage(),
                Some(Usage { input_tokens, cached_input_tokens, output_tokens }),
                "{name}"
            );
            assert!(!captured.llm_api_empty && !captured.truncated, "{name}");
            assert_eq!(captured.content_line, None, "{name}");
            assert_eq!(captured.stdout_bytes, text.len() as u64, "{name}");
            assert_eq!(captured.nonempty_lines, lines.len() as u64, "{name}");
            assert_eq!(captured.stdout, "", "{name}");
        }
    }

    #[test]
    fn results_of_all_turns_are_added_up() {
        let text = fixture!("2.1.330", "background");
        let lines: Vec<&str> = text.lines().collect();
        let captured = tally(&lines);
        let usage = Usage { input_tokens: 408.0, cached_input_tokens: 192.0, output_tokens: 126.0 };
        assert_eq!(captured.usage(), Some(usage));
        assert_eq!(captured.cost_usd(), Some(0.0042384));
        // A repeated line counts once.
        let twice: Vec<&str> = lines.iter().flat_map(|line| [*line, *line]).collect();
        assert_eq!(tally(&twice).usage(), Some(usage));
        assert_eq!(tally(&twice).cost_usd(), Some(0.0042384));
        // An older CLI gives the cost of the run so far, and no share per turn.
        let result = |uuid: &str, cost: f64| {
            json!({"type": "result", "uuid": uuid, "total_cost_usd": cost, "usage": {"input_tokens": 10}})
                .to_string()
        };
        let captured = tally(&[&result("a", 0.25), &result("b", 0.75)]);
        assert_eq!(captured.cost_usd(), Some(0.75));
        assert_eq!(captured.usage().map(|usage| usage.input_tokens), Some(20.0));
    }

    #[test]
    fn resumed_session_costs_only_this_run() {
        for (text, total) in [
            (fixture!("2.1.330", "first"), 0.0014128),
            // The total cost is that of the session.
            (fixture!("2.1.330", "resume"), 0.0028256),
        ] {
            let lines: Vec<&str> = text.lines().collect();
            let captured = tally(&lines);
            assert_eq!(
                captured.result.as_ref().and_then(|result| result["total_cost_usd"].as_f64()),
                Some(total)
            );
            assert_eq!(captured.cost_usd(), Some(0.0014128));
            assert_eq!(captured.usage().map(|usage| usage.input_tokens), Some(136.0));
        }
    }

    #[test]
    fn tokens_of_all_models_count() {
        // A subagent's tokens are in `modelUsage` only.
        let model = |input: f64, output: f64, read: f64, created: f64| {
            json!({"inputTokens": input, "outputTokens": output, "cacheReadInputTokens": read,
                "cacheCreationInputTokens": created, "costUSD": 0.25})
        };
        let usage = json!({"input_tokens": 100, "output_tokens": 40, "cache_read_input_tokens": 30});
        let models = json!({"a": model(100.0, 40.0, 30.0, 7.0), "b": model(20.0, 60.0, 0.0, 0.0)});
        let result = json!({"type": "result", "uuid": "1", "usage": usage, "modelUsage": models, "total_cost_usd": 0.5});
        let of = |results: &[&Value]| {
            let lines: Vec<String> = results.iter().map(ToString::to_string).collect();
            let captured = tally(&lines.iter().map(String::as_str).collect::<Vec<_>>());
            captured.usage().map(|usage| [usage.input_tokens, usage.output_tokens, usage.cached_input_tokens])
        };
        assert_eq!(of(&[&result]), Some([127.0, 100.0, 30.0]));
        // The sum of all turns is in the last one, unless the turns give their shares.
        let mut second = result.clone();
        second["uuid"] = "2".into();
        second["modelUsage"]["a"]["inputTokens"] = 150.into();
        assert_eq!(of(&[&result, &second]), Some([177.0, 100.0, 30.0]));
        second["model_usage_since_last_result"] = json!({"a": model(50.0, 1.0, 0.0, 0.0)});
        assert_eq!(of(&[&result, &second]), Some([177.0, 100.0, 30.0]));
        let mut first = result.clone();
        first["model_usage_since_last_result"] = json!({"a": model(5.0, 1.0, 2.0, 1.0)});
        assert_eq!(of(&[&first, &second]), Some([56.0, 2.0, 2.0]));
        // What cannot be counted.
        let odd =
            json!({"a": {"inputTokens": -5, "outputTokens": 2.7, "cacheReadInputTokens": "9"}, "b": null});
        assert_eq!(of(&[&json!({"type": "result", "modelUsage": odd})]), Some([0.0, 2.0, 0.0]));
        assert_eq!(of(&[&json!({"type": "result", "modelUsage": {}, "usage": {}})]), None);
        assert_eq!(of(&[&json!({"type": "result"})]), None);
    }

    #[test]
    fn run_without_a_result_counts_its_messages() {
        let part = |id: &str, input: i64, output: i64| {
            json!({"type": "assistant", "message": {"id": id, "usage": {
                "input_tokens": input, "cache_creation_input_tokens": 1, "cache_read_input_tokens": 4,
                "output_tokens": output}}})
            .to_string()
        };
        let lines = [part("a", 10, 1), part("a", 10, 5), part("b", 20, 3), part("a", 10, 5)];
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let usage = |lines: &[&str]| tally(lines).usage();
        let sum = Usage { input_tokens: 32.0, cached_input_tokens: 8.0, output_tokens: 8.0 };
        assert_eq!(usage(&lines), Some(sum));
        assert_eq!(usage(&[r#"{"type":"assistant","message":{"id":"a"}}"#]), None);
        // A result counts the messages before it.
        let result = r#"{"type":"result","usage":{"input_tokens":1,"output_tokens":2}}"#;
        let of_result = Usage { input_tokens: 1.0, output_tokens: 2.0, ..Usage::default() };
        assert_eq!(usage(&[lines[0], result]), Some(of_result));
        let after = Usage { input_tokens: 12.0, cached_input_tokens: 4.0, output_tokens: 3.0 };
        assert_eq!(usage(&[result, lines[0]]), Some(after));
    }

    #[test]
    fn negative_cost_is_unknown() {
        for (cost, expected) in [("-1", None), ("1e999", None), ("0", Some(0.0)), ("0.5", Some(0.5))] {
            let captured = tally(&[&format!(r#"{{"type":"result","total_cost_usd":{cost}}}"#)]);
            assert_eq!(captured.cost_usd(), expected, "{cost}");
        }
    }

    #[test]
    fn account_and_refused_requests_are_kept() {
        let init = r#"{"type":"system","subtype":"init","apiKeySource":"none"}"#;
        let rejected = r#"{"type":"rate_limit_event","rate_limit_info":{"status":"rejected","resetsAt":60}}"#;
        let allowed = r#"{"type":"rate_limit_event","rate_limit_info":{"status":"allowed","resetsAt":90}}"#;
        let failed = r#"{"type":"assistant","error":"rate_limit","message":{}}"#;
        let fine = r#"{"type":"assistant","message":{}}"#;
        assert_eq!(tally(&[init]).api_key_source.as_deref(), Some("none"));
        let limit = Some(Rejected { resets_at: Some(60.0) });
        for (lines, error, expected) in [
            (&[rejected, allowed, failed][..], Some("rate_limit"), limit),
            // The request was repeated, and the model answered.
            (&[rejected, failed, fine], None, None),
            (&[fine, rejected], None, limit),
        ] {
            let captured = tally(lines);
            assert_eq!((captured.error.as_deref(), captured.rejected), (error, expected), "{lines:?}");
        }
    }

    #[test]
    fn message_printed_in_parts_keeps_every_text() {
        let part = |text: &str| {
            json!({"type": "assistant", "message": {"id": "m", "content": [{"type": "text", "text": text}]}})
                .to_string()
        };
        let (a, b) = (part("one"), part("two"));
        assert_eq!(tally(&[&a, &b, &a, &b]).summary(), "one\n\ntwo");
    }

    #[test]
    fn flags_follow_the_last_assistant_event() {
        let event = |stop: Value, tokens: i64, content: Value| {
            json!({"type": "assistant", "message": {"stop_reason": stop, "output_tokens": tokens, "content": content}})
                .to_string()
        };
        let empty = event(Value::Null, 0, json!([]));
        let some = event(Value::Null, 5, json!([]));
        let tool = json!({"type": "assistant", "message": {"content": [{"type": "tool_use"}]}}).to_string();
        let nothing = json!({"type": "assistant", "message": {}}).to_string();
        let result = r#"{"type":"result"}"#;
        for (lines, flags) in [
            (vec![&empty[..]], (true, false)),
            (vec![&empty, &some], (false, true)),
            (vec![&some, &empty], (true, true)),
            (vec![&empty, &tool], (false, false)),
            (vec![&empty, &nothing], (true, false)),
            (vec![&empty, &some, result], (false, false)),
            (vec![result, &empty], (true, false)),
            (vec![result, &empty, &some], (false, true)),
        ] {
            let captured = tally(&lines);
            assert_eq!((captured.llm_api_empty, captured.truncated), flags, "{lines:?}");
        }
    }

    #[test]
    fn result_counts_only_as_the_last_word() {
        let init = r#"{"type":"system","subtype":"init","session_id":"s"}"#;
        let says = r#"{"type":"assistant","message":{"usage":{"output_tokens":3}}}"#;
        let tool = r#"{"type":"user","message":{"content":[]}}"#;
        let part = r#"{"type":"stream_event","event":{"type":"message_start"}}"#;
        let system = r#"{"type":"system","subtype":"task_updated"}"#;
        let rate = r#"{"type":"rate_limit_event"}"#;
        let real = r#"{"type":"result","subtype":"success","num_turns":2,"result":"x"}"#;
        let none = r#"{"type":"result","subtype":"success","num_turns":0,"result":""}"#;
        let refused = r#"{"type":"result","subtype":"error_during_execution","num_turns":0}"#;
        // Last word, and whether it is the run's result after exit code 0 and after any other end.
        for (lines, last, after_0, otherwise) in [
            (&[][..], false, false, false),
            (&[init, says], false, false, false),
            (&[init, says, real], true, true, true),
            (&[init, says, real, system, rate, "text"], true, true, true),
            (&[init, says, real, init], false, true, false),
            (&[init, says, real, says], false, true, false),
            (&[init, says, real, tool], false, true, false),
            (&[init, says, real, part], false, true, false),
            (&[init, says, real, init, says, real], true, true, true),
            (&[none], false, true, false),
            (&[init, none], false, true, false),
            (&[init, none, init], false, false, false),
            (&[none, none, init, says, real], true, true, true),
            (&[refused], true, true, true),
        ] {
            let captured = tally(lines);
            assert_eq!(captured.is_result_last_word(), last, "{lines:?}");
            assert_eq!(captured.is_result_of_run(Some(0)), after_0, "{lines:?}");
            for exit_code in [None, Some(1), Some(143)] {
                assert_eq!(captured.is_result_of_run(exit_code), otherwise, "{lines:?}");
            }
            assert_eq!(captured.stdout.is_empty(), last || lines.is_empty(), "{lines:?}");
        }
        let captured = tally(&[real, none]);
        assert_eq!(captured.summary(), "x", "a result without a turn replaces none of a turn");
        assert!(captured.is_result_of_run(None));
        assert!(tally(&[init, real, init]).is_in_later_turn());
        assert!(!tally(&[init, none, init]).is_in_later_turn());
    }

    #[test]
    fn invalid_utf8_and_nul_are_replaced() {
        let mut tally = Tally::new();
        tally.line(b"caf\xc3", 0);
        tally.line(b"{\"type\":\"result\",\"result\":\"\xff\",\"session_id\":\"s\"}", 0);
        tally.line(b"\xe2\x82", 0);
        let captured = tally.finish();
        assert_eq!(captured.lines, 3);
        assert_eq!(Tally::new().line(b"a\0\xff\0", 0).0, "a\u{fffd}\u{fffd}\u{fffd}");
        assert_eq!(captured.content_line.as_deref(), Some("caf\u{fffd}"));
        assert_eq!(captured.summary(), "\u{fffd}");
        assert_eq!(captured.stdout_bytes, 5 + 48 + 3);
    }

    #[test]
    fn run_without_a_result_keeps_its_output() {
        let captured = tally(&["", " \t\r", "plain", r#"{"type":"user"}"#, "more\r"]);
        assert_eq!((captured.lines, captured.nonempty_lines), (5, 3));
        assert_eq!(captured.content_line.as_deref(), Some("plain"));
        assert_eq!(captured.stdout, "\n \t\r\nplain\n{\"type\":\"user\"}\nmore\r\n");
        assert_eq!(captured.stdout_bytes, captured.stdout.len() as u64);
    }

    #[test]
    fn model_names_count_until_the_first_content_line() {
        let init = r#"{"type":"system","subtype":"init","model":"claude-a"}"#;
        let spaced = r#"{"type":"system","model": "claude-b"}"#;
        let under =
            r#"{"type":"user","x":{"model":"claude_c_1"},"y":"\"model\":\"claude-d\"","z":"model\":\""}"#;
        let captured = tally(&[init, spaced, under, init, "stop", r#"{"type":"user","model":"claude-e"}"#]);
        for (model, named) in [
            ("claude-a", true),
            ("claude-b", false),
            ("claude-c-1", true),
            ("claude-d", false),
            ("claude-e", false),
        ] {
            assert_eq!(captured.names_model(model), named, "{model}");
        }
    }

    #[test]
    fn last_result_and_last_session_count() {
        let captured = tally(&[
            r#"{"type":"system","subtype":"init","session_id":"a","model":"m"}"#,
            r#"{"type":"system","subtype":"init","session_id":"","model":""}"#,
            r#"{"type":"result","session_id":"b","result":"first"}"#,
            r#"{"type":"result","result":" second ","usage":{"input_tokens":"7","output_tokens":2}}"#,
        ]);
        assert_eq!(captured.session_id.as_deref(), Some("b"));
        assert_eq!(captured.model(), Some("m"));
        assert_eq!(captured.summary(), "second");
        assert_eq!(captured.usage(), Some(Usage { output_tokens: 2.0, ..Usage::default() }));
        assert_eq!(captured.cost_usd(), None);
    }

    #[test]
    fn memory_is_bounded() {
        let mut tally = Tally::new();
        tally.line("x".repeat(100_000).as_bytes(), 0);
        for n in 0..2000 {
            let text = format!("{n} {}", "é".repeat(500));
            let event = json!({"type": "assistant", "message": {"id": "m", "content": [{"type": "text", "text": text}]}});
            tally.line(event.to_string().as_bytes(), 0);
        }
        for n in 0..2000 {
            let event = json!({"type": "assistant", "message": {"id": format!("m{n}"), "usage": {"output_tokens": 1}}});
            tally.line(event.to_string().as_bytes(), 0);
        }
        assert!(tally.seen.len() < 300);
        assert!(tally.captured.messages.last.len() <= MESSAGES);
        let captured = tally.finish();
        assert!(captured.texts.len() <= TEXTS && captured.texts.len() > TEXTS - 4);
        assert!(captured.texts.starts_with("0 éé"));
        assert!(captured.stdout.len() < 257 * 1024);
        assert!(captured.content_line.unwrap().len() <= CONTENT_LINE + 3);
    }

    proptest! {
        #[test]
        fn any_bytes_are_tallied_without_panic(lines in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..20)) {
            let mut tally = Tally::new();
            lines.iter().for_each(|line| drop(tally.line(line, 0)));
            let captured = tally.finish();
            prop_assert_eq!(captured.lines, lines.len() as u64);
            prop_assert_eq!(captured.stdout_bytes, lines.iter().map(|line| line.len() as u64 + 1).sum::<u64>());
        }
    }
}
