//! What the model answers, by scenario and by the conversation so far, and how the answer is streamed. Pure.

use crate::api::{Conversation, Turn};
use serde_json::{Value, json};

/// What the fake API plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scenario {
    /// One text: every text it has heard from the user in this conversation.
    Text,
    /// A thought, then the text.
    Thinking,
    /// Two calls of tools at once, then one that fails, then a text with all results.
    Tools,
    /// A command left in the background, then the text; its end makes the CLI come back by itself.
    Background,
    /// A call of every tool of an MCP server, then a text with all results.
    Mcp,
}

impl Scenario {
    /// All of them with their names.
    pub(crate) const ALL: [(&'static str, Self); 5] = [
        ("text", Self::Text),
        ("thinking", Self::Thinking),
        ("tools", Self::Tools),
        ("background", Self::Background),
        ("mcp", Self::Mcp),
    ];

    /// The one of that name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(known, _)| *known == name).map(|(_, scenario)| scenario)
    }
}

/// Tokens of every answer.
pub(crate) fn usage() -> Value {
    json!({
        "input_tokens": 120,
        "cache_creation_input_tokens": 16,
        "cache_read_input_tokens": 64,
        "cache_creation": {"ephemeral_5m_input_tokens": 16, "ephemeral_1h_input_tokens": 0},
        "output_tokens": 42,
        "service_tier": "standard",
    })
}

/// The whole answer, as it is without streaming. `id` makes fresh ids, of a message or of a call.
pub(crate) fn message(
    scenario: Scenario,
    conversation: &Conversation,
    mut id: impl FnMut(&str) -> String,
) -> Value {
    let mut content = content(scenario, conversation);
    for block in &mut content {
        if block["type"] == "tool_use" {
            block["id"] = id("toolu_").into();
        }
    }
    let calls = content.iter().any(|block| block["type"] == "tool_use");
    json!({
        "id": id("msg_"),
        "type": "message",
        "role": "assistant",
        "model": conversation.model,
        "content": content,
        "stop_reason": if calls { "tool_use" } else { "end_turn" },
        "stop_sequence": null,
        "usage": usage(),
    })
}

fn content(scenario: Scenario, Conversation { turns, mcp_tools, .. }: &Conversation) -> Vec<Value> {
    let text = |text: String| json!({"type": "text", "text": text});
    let bash = |command: &str, description: &str| {
        json!({
            "type": "tool_use", "id": "", "name": "Bash",
            "input": {"command": command, "description": description},
        })
    };
    let heard = || text(format!("Heard: {}", json!(heard(turns))));
    match scenario {
        Scenario::Text => vec![heard()],
        Scenario::Thinking => vec![
            json!({"type": "thinking", "thinking": "Let me see – naïve café ✓.", "signature": "c3RhbmQtaW4="}),
            heard(),
        ],
        Scenario::Tools => {
            let results = results_since_heard(turns);
            match results.len() {
                0 => vec![
                    text("Looking – naïve café ✓ first.".to_owned()),
                    bash("echo one; echo two", "Say two words"),
                    bash("seq 1 20", "Count to twenty"),
                ],
                1 | 2 => vec![bash("echo oops >&2; exit 3", "Fail")],
                _ => vec![text(format!("Tools said: {}", json!(results)))],
            }
        }
        Scenario::Mcp => {
            let results = results_since_heard(turns);
            if results.is_empty() && !mcp_tools.is_empty() {
                let call = |name: &String| json!({"type": "tool_use", "id": "", "name": name, "input": {"word": "plum"}});
                return mcp_tools.iter().map(call).collect();
            }
            vec![text(format!("Tools said: {}", json!(results)))]
        }
        Scenario::Background => {
            if turns.iter().any(|turn| turn.of_type("tool_use", "id").next().is_some()) {
                return vec![heard()];
            }
            let mut call = bash("sleep 1; echo later", "Wait a second");
            call["input"]["run_in_background"] = true.into();
            vec![call]
        }
    }
}

/// Whether the CLI itself put the text there.
fn is_reminder(text: &str) -> bool {
    text.trim_start().starts_with("<system-reminder>")
}

fn spoken(turn: &Turn) -> impl Iterator<Item = &str> {
    turn.of_type("text", "text").filter(|text| !turn.assistant && !is_reminder(text))
}

/// The texts of the user, in order.
fn heard(turns: &[Turn]) -> Vec<&str> {
    turns.iter().flat_map(spoken).collect()
}

/// What tools answered since the user last spoke.
fn results_since_heard(turns: &[Turn]) -> Vec<Value> {
    let since = turns.iter().rposition(|turn| spoken(turn).next().is_some()).map_or(0, |at| at + 1);
    let results = turns[since..].iter().flat_map(|turn| &turn.blocks).filter(|b| b["type"] == "tool_result");
    results
        .map(|block| {
            json!({"id": block["tool_use_id"], "error": block["is_error"] == true, "text": text_of(&block["content"])})
        })
        .collect()
}

fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let texts: Vec<&str> = parts.iter().filter_map(|part| part["text"].as_str()).collect();
            texts.join("\n")
        }
        _ => String::new(),
    }
}

/// Most characters of a delta.
const PIECE: usize = 12;

/// The events that carry a message, in order: each is the data of one, and its `type` is its name.
pub(crate) fn events(message: &Value) -> Vec<Value> {
    let mut start = message.clone();
    start["content"] = json!([]);
    start["stop_reason"] = Value::Null;
    // What is known before anything was said.
    start["usage"]["output_tokens"] = 1.into();
    let mut events = vec![json!({"type": "message_start", "message": start})];
    for (index, block) in message["content"].as_array().into_iter().flatten().enumerate() {
        let (opening, deltas) = parts(block);
        events.push(json!({"type": "content_block_start", "index": index, "content_block": opening}));
        if index == 0 {
            events.push(json!({"type": "ping"}));
        }
        events.extend(
            deltas
                .into_iter()
                .map(|delta| json!({"type": "content_block_delta", "index": index, "delta": delta})),
        );
        events.push(json!({"type": "content_block_stop", "index": index}));
    }
    events.push(json!({
        "type": "message_delta",
        "delta": {"stop_reason": message["stop_reason"], "stop_sequence": message["stop_sequence"]},
        "usage": {
            "input_tokens": message["usage"]["input_tokens"],
            "cache_creation_input_tokens": message["usage"]["cache_creation_input_tokens"],
            "cache_read_input_tokens": message["usage"]["cache_read_input_tokens"],
            "output_tokens": message["usage"]["output_tokens"],
        },
    }));
    events.push(json!({"type": "message_stop"}));
    events
}

/// A block as it opens, and the deltas that fill it.
fn parts(block: &Value) -> (Value, Vec<Value>) {
    let mut opening = block.clone();
    match block["type"].as_str() {
        Some("tool_use") => {
            opening["input"] = json!({});
            let input = block["input"].to_string();
            let pieces = std::iter::once("").chain(pieces(&input));
            (opening, pieces.map(|text| json!({"type": "input_json_delta", "partial_json": text})).collect())
        }
        Some("thinking") => {
            opening["thinking"] = "".into();
            opening["signature"] = "".into();
            let thought = block["thinking"].as_str().unwrap_or_default();
            let deltas = pieces(thought).map(|text| json!({"type": "thinking_delta", "thinking": text}));
            let signature = json!({"type": "signature_delta", "signature": block["signature"]});
            (opening, deltas.chain([signature]).collect())
        }
        _ => {
            opening["text"] = "".into();
            let text = block["text"].as_str().unwrap_or_default();
            (opening, pieces(text).map(|text| json!({"type": "text_delta", "text": text})).collect())
        }
    }
}

fn pieces(mut text: &str) -> impl Iterator<Item = &str> {
    std::iter::from_fn(move || {
        let end = text.char_indices().nth(PIECE).map_or(text.len(), |(at, _)| at);
        let (piece, rest) = text.split_at(end);
        text = rest;
        (!piece.is_empty()).then_some(piece)
    })
}

/// An event on the wire.
pub(crate) fn wire(event: &Value) -> String {
    format!("event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(scenario: Scenario, messages: Value) -> Value {
        let body = json!({"model": "claude-x", "max_tokens": 64, "messages": messages});
        let mut count = 0;
        message(scenario, &Conversation::of(&body).expect("a conversation"), |prefix| {
            count += 1;
            format!("{prefix}{count}")
        })
    }

    /// What a client makes of the events.
    fn put_together(events: &[Value]) -> Value {
        let mut message = Value::Null;
        let mut json_text = String::new();
        for event in events {
            let at = event["index"].as_u64().unwrap_or_default() as usize;
            let append = |slot: &mut Value, text: &Value| {
                let joined =
                    format!("{}{}", slot.as_str().unwrap_or_default(), text.as_str().unwrap_or_default());
                *slot = joined.into();
            };
            match event["type"].as_str().expect("a type") {
                "message_start" => message = event["message"].clone(),
                "content_block_start" => {
                    json_text.clear();
                    let blocks = message["content"].as_array_mut().expect("blocks");
                    assert_eq!(blocks.len(), at);
                    blocks.push(event["content_block"].clone());
                }
                "content_block_delta" => {
                    let (delta, block) = (&event["delta"], &mut message["content"][at]);
                    match delta["type"].as_str().expect("a type") {
                        "text_delta" => append(&mut block["text"], &delta["text"]),
                        "thinking_delta" => append(&mut block["thinking"], &delta["thinking"]),
                        "signature_delta" => append(&mut block["signature"], &delta["signature"]),
                        "input_json_delta" => {
                            json_text.push_str(delta["partial_json"].as_str().expect("text"));
                        }
                        other => panic!("{other}"),
                    }
                }
                "content_block_stop" if !json_text.is_empty() => {
                    message["content"][at]["input"] = serde_json::from_str(&json_text).expect("whole JSON");
                }
                "message_delta" => {
                    message["stop_reason"] = event["delta"]["stop_reason"].clone();
                    message["usage"]["output_tokens"] = event["usage"]["output_tokens"].clone();
                }
                "content_block_stop" | "ping" | "message_stop" => {}
                other => panic!("{other}"),
            }
        }
        message
    }

    #[test]
    fn text_repeats_the_user_and_leaves_reminders_out() {
        let reply = answer(
            Scenario::Text,
            json!([
                {"role": "user", "content": [
                    {"type": "text", "text": "<system-reminder>\nbe good\n</system-reminder>"},
                    {"type": "text", "text": "one \"1\""},
                ]},
                {"role": "assistant", "content": "yes"},
                {"role": "user", "content": "two"},
            ]),
        );
        assert_eq!(reply["content"], json!([{"type": "text", "text": r#"Heard: ["one \"1\"","two"]"#}]));
        assert_eq!((&reply["stop_reason"], &reply["model"]), (&json!("end_turn"), &json!("claude-x")));
    }

    #[test]
    fn tools_are_called_in_turn_and_results_repeated() {
        let go = json!({"role": "user", "content": "go"});
        let first = answer(Scenario::Tools, json!([go]));
        let kinds: Vec<&Value> =
            first["content"].as_array().expect("blocks").iter().map(|b| &b["type"]).collect();
        assert_eq!(kinds, ["text", "tool_use", "tool_use"]);
        assert_eq!(first["stop_reason"], "tool_use");
        let results = json!({"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "toolu_1", "content": "one\ntwo"},
            {"type": "tool_result", "tool_use_id": "toolu_2", "content": [{"type": "text", "text": "1"}]},
            {"type": "text", "text": "<system-reminder>hurry</system-reminder>"},
        ]});
        let said = json!({"role": "assistant", "content": first["content"]});
        let second = answer(Scenario::Tools, json!([go, said, results]));
        assert_eq!(second["content"][0]["input"]["command"], "echo oops >&2; exit 3");
        let failing = second["content"][0]["id"].clone();
        let failed = json!({"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": failing, "content": "Exit code 3", "is_error": true}]});
        let third = answer(
            Scenario::Tools,
            json!([go, said, results, {"role": "assistant", "content": second["content"]}, failed]),
        );
        let text = third["content"][0]["text"].as_str().expect("a text");
        let results: Value =
            serde_json::from_str(text.strip_prefix("Tools said: ").expect("a list")).expect("JSON");
        assert_eq!(results[0], json!({"id": "toolu_1", "error": false, "text": "one\ntwo"}));
        assert_eq!(results[1]["text"], "1");
        assert_eq!((&results[2]["error"], &results[2]["text"]), (&json!(true), &json!("Exit code 3")));
    }

    #[test]
    fn every_tool_of_mcp_servers_is_called_once() {
        let go = json!({"role": "user", "content": "go"});
        let body = |messages: Value| {
            json!({"model": "claude-x", "max_tokens": 64, "messages": messages,
                "tools": [{"name": "Bash"}, {"name": "mcp__a__look"}, {"name": "mcp__b__look"}]})
        };
        let reply = |messages: Value| {
            let conversation = Conversation::of(&body(messages)).expect("a conversation");
            message(Scenario::Mcp, &conversation, str::to_owned)
        };
        let first = reply(json!([go]));
        let names: Vec<&Value> =
            first["content"].as_array().expect("blocks").iter().map(|block| &block["name"]).collect();
        assert_eq!(names, ["mcp__a__look", "mcp__b__look"]);
    }

    #[test]
    fn background_command_is_started_once() {
        let go = json!({"role": "user", "content": "go"});
        let first = answer(Scenario::Background, json!([go]));
        assert_eq!(first["content"][0]["input"]["run_in_background"], true);
        let id = &first["content"][0]["id"];
        let started = json!({"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": id, "content": "running"}]});
        let said = json!({"role": "assistant", "content": first["content"]});
        let second = answer(Scenario::Background, json!([go, said, started]));
        assert_eq!(second["content"], json!([{"type": "text", "text": r#"Heard: ["go"]"#}]));
    }

    #[test]
    fn events_of_a_message_add_up_to_it() {
        for (_, scenario) in Scenario::ALL {
            let reply =
                answer(scenario, json!([{"role": "user", "content": "naïve – a longer text, to be cut ✓"}]));
            let events = events(&reply);
            assert_eq!(put_together(&events), reply, "{scenario:?}");
            assert_eq!(events.last().expect("events")["type"], "message_stop");
            for event in &events {
                let text = wire(event);
                let data = text.lines().nth(1).and_then(|line| line.strip_prefix("data: ")).expect("data");
                assert_eq!(serde_json::from_str::<Value>(data).expect("JSON"), *event);
                assert!(text.ends_with("\n\n") && text.lines().count() == 3, "{text}");
            }
        }
    }
}
