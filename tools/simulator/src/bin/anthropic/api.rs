//! The Messages API's errors, and what it refuses. Pure.

use serde_json::{Value, json};

/// The types of error the API has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ErrorType {
    /// 400.
    InvalidRequest,
    /// 401.
    Authentication,
    /// 403.
    Permission,
    /// 404.
    NotFound,
    /// 413.
    RequestTooLarge,
    /// 429.
    RateLimit,
    /// 500.
    Api,
    /// 529.
    Overloaded,
}

impl ErrorType {
    /// All of them.
    pub(crate) const ALL: [Self; 8] = [
        Self::InvalidRequest,
        Self::Authentication,
        Self::Permission,
        Self::NotFound,
        Self::RequestTooLarge,
        Self::RateLimit,
        Self::Api,
        Self::Overloaded,
    ];

    /// Name, status and the message it comes with when nothing more is known.
    const fn facts(self) -> (&'static str, u16, &'static str) {
        match self {
            Self::InvalidRequest => ("invalid_request_error", 400, "Invalid request"),
            Self::Authentication => ("authentication_error", 401, "invalid x-api-key"),
            Self::Permission => {
                ("permission_error", 403, "Your API key does not have permission to use this")
            }
            Self::NotFound => ("not_found_error", 404, "Not found"),
            Self::RequestTooLarge => {
                ("request_too_large", 413, "Request exceeds the maximum allowed number of bytes")
            }
            Self::RateLimit => ("rate_limit_error", 429, "This request would exceed your rate limit"),
            Self::Api => ("api_error", 500, "Internal server error"),
            Self::Overloaded => ("overloaded_error", 529, "Overloaded"),
        }
    }

    /// As the API spells it.
    pub(crate) const fn name(self) -> &'static str {
        self.facts().0
    }

    /// The one of that name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|error| error.name() == name)
    }

    /// The HTTP status.
    pub(crate) const fn status(self) -> u16 {
        self.facts().1
    }

    /// Whether the API asks clients to retry (`x-should-retry`).
    pub(crate) const fn worth_a_retry(self) -> bool {
        matches!(self, Self::RateLimit | Self::Api | Self::Overloaded)
    }
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    /// What kind of.
    pub kind: ErrorType,
    /// For people.
    pub message: String,
}

impl ApiError {
    /// One with the message it comes with when nothing more is known.
    pub(crate) fn plain(kind: ErrorType) -> Self {
        ApiError { kind, message: kind.facts().2.to_owned() }
    }

    fn invalid(message: impl Into<String>) -> Self {
        ApiError { kind: ErrorType::InvalidRequest, message: message.into() }
    }

    /// The body of the answer, and the data of an `error` event.
    pub(crate) fn to_json(&self, request_id: &str) -> Value {
        json!({
            "type": "error",
            "error": {"type": self.kind.name(), "message": self.message},
            "request_id": request_id,
        })
    }
}

/// The headers that matter, each as it came.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Credentials<'a> {
    /// `x-api-key`.
    pub api_key: Option<&'a str>,
    /// `authorization`.
    pub authorization: Option<&'a str>,
}

impl Credentials<'_> {
    /// Refuses a request without a key, or with another one than `accepted` (`None`: any).
    pub(crate) fn check(self, accepted: Option<&str>) -> Result<(), ApiError> {
        let bearer = self.authorization.and_then(|value| value.strip_prefix("Bearer "));
        let (key, complaint) = match (self.api_key, bearer) {
            (Some(key), _) => (key, "invalid x-api-key"),
            (None, Some(token)) => (token, "Invalid bearer token"),
            (None, None) => {
                let message = "x-api-key header is required".to_owned();
                return Err(ApiError { kind: ErrorType::Authentication, message });
            }
        };
        if key.is_empty() || accepted.is_some_and(|accepted| accepted != key) {
            return Err(ApiError { kind: ErrorType::Authentication, message: complaint.to_owned() });
        }
        Ok(())
    }
}

/// What one side said, with the messages of the system left out and neighbours of one side put together.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Turn {
    /// Whether the model said it.
    pub assistant: bool,
    /// Its content blocks.
    pub blocks: Vec<Value>,
}

impl Turn {
    /// The `field` of every block of that type.
    pub(crate) fn of_type<'a>(&'a self, kind: &'a str, field: &'a str) -> impl Iterator<Item = &'a str> {
        self.blocks.iter().filter(move |block| block["type"] == kind).filter_map(move |b| b[field].as_str())
    }
}

/// A request that the API takes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Conversation {
    /// The model asked for.
    pub model: String,
    /// Whether the answer is streamed.
    pub stream: bool,
    /// What was said so far; the last turn is the user's.
    pub turns: Vec<Turn>,
    /// The names of the tools of MCP servers.
    pub mcp_tools: Vec<String>,
}

impl Conversation {
    /// Checks the body of a `POST /v1/messages` as the API does.
    pub(crate) fn of(body: &Value) -> Result<Self, ApiError> {
        let required = |field: &str| ApiError::invalid(format!("{field}: Field required"));
        let model = body["model"].as_str().ok_or_else(|| required("model"))?;
        if model.is_empty() {
            return Err(ApiError::invalid("model: String should have at least 1 character"));
        }
        let most = body.get("max_tokens").ok_or_else(|| required("max_tokens"))?;
        if most.as_u64().is_none_or(|most| most == 0) {
            return Err(ApiError::invalid("max_tokens: Input should be greater than or equal to 1"));
        }
        let messages = body["messages"].as_array().ok_or_else(|| required("messages"))?;
        let turns = turns(messages)?;
        if turns.last().is_none_or(|last| last.assistant) {
            return Err(ApiError::invalid("messages: the conversation must end with a user message"));
        }
        check_tools(&turns)?;
        let tools = body["tools"].as_array().into_iter().flatten();
        let names = tools.filter_map(|tool| tool["name"].as_str());
        let mcp_tools = names.filter(|name| name.starts_with("mcp__")).map(str::to_owned).collect();
        Ok(Conversation { model: model.to_owned(), stream: body["stream"] == true, turns, mcp_tools })
    }
}

fn turns(messages: &[Value]) -> Result<Vec<Turn>, ApiError> {
    if messages.is_empty() {
        return Err(ApiError::invalid("messages: at least one message is required"));
    }
    let mut turns: Vec<Turn> = Vec::new();
    for (at, message) in messages.iter().enumerate() {
        let blocks = match &message["content"] {
            Value::String(text) => vec![json!({"type": "text", "text": text})],
            Value::Array(blocks) => blocks.clone(),
            _ => return Err(ApiError::invalid(format!("messages.{at}.content: Field required"))),
        };
        if blocks.iter().any(|block| block["type"] == "text" && block["text"] == "") {
            return Err(ApiError::invalid("messages: text content blocks must be non-empty"));
        }
        let assistant = match message["role"].as_str() {
            Some("user") => false,
            Some("assistant") => true,
            // The system may speak up in the middle of a conversation.
            Some("system") => continue,
            _ => {
                let message = format!("messages.{at}.role: Input should be 'user' or 'assistant'");
                return Err(ApiError::invalid(message));
            }
        };
        match turns.last_mut() {
            Some(last) if last.assistant == assistant => last.blocks.extend(blocks),
            _ => turns.push(Turn { assistant, blocks }),
        }
    }
    if turns.first().is_some_and(|first| first.assistant) {
        return Err(ApiError::invalid("messages: first message must use the \"user\" role"));
    }
    Ok(turns)
}

/// Every call of a tool is answered in the next turn, and nothing else is.
fn check_tools(turns: &[Turn]) -> Result<(), ApiError> {
    let mut open: Vec<&str> = Vec::new();
    for (at, turn) in turns.iter().enumerate() {
        if turn.assistant {
            open = turn.of_type("tool_use", "id").collect();
            continue;
        }
        for id in turn.of_type("tool_result", "tool_use_id") {
            let Some(found) = open.iter().position(|called| *called == id) else {
                return Err(ApiError::invalid(format!(
                    "messages.{at}: unexpected `tool_use_id` found in `tool_result` blocks: {id}. Each `tool_result` \
                     block must have a corresponding `tool_use` block in the previous message."
                )));
            };
            open.remove(found);
        }
        if !open.is_empty() {
            return Err(ApiError::invalid(format!(
                "messages.{}: `tool_use` ids were found without `tool_result` blocks immediately after: {}. Each \
                 `tool_use` block must have a corresponding `tool_result` block in the next message.",
                at - 1,
                open.join(", ")
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(messages: Value) -> Value {
        json!({"model": "claude-x", "max_tokens": 64, "messages": messages})
    }

    fn refusal(body: &Value) -> String {
        let error = Conversation::of(body).expect_err("a refusal");
        assert_eq!(error.kind, ErrorType::InvalidRequest);
        error.message
    }

    #[test]
    fn error_type_has_its_name_and_status() {
        for error in ErrorType::ALL {
            assert_eq!(ErrorType::named(error.name()), Some(error));
            assert!((400..600).contains(&error.status()));
        }
        assert_eq!(ErrorType::named("teapot_error"), None);
        let overloaded = ApiError::plain(ErrorType::Overloaded);
        assert_eq!(overloaded.kind.status(), 529);
        assert_eq!(
            overloaded.to_json("req_1"),
            json!({
                "type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}, "request_id": "req_1"
            })
        );
    }

    #[test]
    fn only_the_accepted_key_is_let_in() {
        let key = |key| Credentials { api_key: Some(key), authorization: None };
        let token = |header| Credentials { api_key: None, authorization: Some(header) };
        for (credentials, accepted, complaint) in [
            (key("k"), Some("k"), None),
            (key("k"), None, None),
            (key("x"), Some("k"), Some("invalid x-api-key")),
            (key(""), None, Some("invalid x-api-key")),
            (token("Bearer k"), Some("k"), None),
            (token("Bearer x"), Some("k"), Some("Invalid bearer token")),
            (token("Basic k"), Some("k"), Some("x-api-key header is required")),
            (Credentials::default(), None, Some("x-api-key header is required")),
        ] {
            let error = credentials.check(accepted).err();
            assert_eq!(error.as_ref().map(|error| error.message.as_str()), complaint, "{credentials:?}");
            assert!(error.is_none_or(|error| error.kind == ErrorType::Authentication));
        }
    }

    #[test]
    fn conversation_is_split_into_turns() {
        let conversation = Conversation::of(&json!({
            "model": "claude-x", "max_tokens": 64, "stream": true,
            "messages": [
                {"role": "user", "content": "one"},
                {"role": "system", "content": "by the way"},
                {"role": "user", "content": [{"type": "text", "text": "two"}]},
                {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "Bash", "input": {}}]},
                {"role": "system", "content": "by the way"},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "done"}]},
            ],
        }))
        .expect("a conversation");
        assert!(conversation.stream);
        let texts: Vec<&str> = conversation.turns[0].of_type("text", "text").collect();
        assert_eq!(texts, ["one", "two"]);
        assert_eq!(conversation.turns.len(), 3);
    }

    #[test]
    fn request_that_the_api_refuses_is_refused() {
        let said = json!([{"role": "user", "content": "hi"}]);
        for (body, complaint) in [
            (json!({"max_tokens": 1, "messages": said}), "model: Field required"),
            (json!({"model": "", "max_tokens": 1, "messages": said}), "model: String should have"),
            (json!({"model": "m", "messages": said}), "max_tokens: Field required"),
            (json!({"model": "m", "max_tokens": 0, "messages": said}), "max_tokens: Input should"),
            (json!({"model": "m", "max_tokens": 1}), "messages: Field required"),
            (body(json!([])), "messages: at least one message is required"),
            (body(json!([{"role": "user"}])), "messages.0.content: Field required"),
            (
                body(json!([{"role": "user", "content": ""}])),
                "messages: text content blocks must be non-empty",
            ),
            (body(json!([{"role": "robot", "content": "hi"}])), "messages.0.role"),
            (body(json!([{"role": "assistant", "content": "hi"}])), "messages: first message"),
            (
                body(json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])),
                "messages: the conversation must end with a user message",
            ),
        ] {
            let message = refusal(&body);
            assert!(message.starts_with(complaint), "{message}");
        }
    }

    #[test]
    fn tool_calls_and_results_must_match() {
        let call = json!({"type": "tool_use", "id": "t1", "name": "Bash", "input": {}});
        let result = json!({"type": "tool_result", "tool_use_id": "t1", "content": "done"});
        let of = |calls: Value, results: Value| {
            body(json!([
                {"role": "user", "content": "go"}, {"role": "assistant", "content": calls},
                {"role": "user", "content": results},
            ]))
        };
        assert!(Conversation::of(&of(json!([call]), json!([result]))).is_ok());
        let message = refusal(&of(json!([call]), json!("never mind")));
        assert!(message.starts_with("messages.1: `tool_use` ids were found without"), "{message}");
        let message = refusal(&of(json!("no call"), json!([result])));
        assert!(message.starts_with("messages.2: unexpected `tool_use_id`"), "{message}");
        let message = refusal(&of(json!([call]), json!([result, result])));
        assert!(message.starts_with("messages.2: unexpected `tool_use_id`"), "{message}");
    }
}
