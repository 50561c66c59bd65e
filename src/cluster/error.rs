//! What can go wrong between a run and a cluster, as data.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

/// The class of an [`ApiError`]. Decisions are made on it, never on a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ApiErrorKind {
    /// 404: the object (or its namespace) does not exist.
    NotFound,
    /// 409 with reason `AlreadyExists`.
    AlreadyExists,
    /// 409 otherwise: a precondition (UID, resourceVersion) did not hold.
    Conflict,
    /// 400: the request cannot be served now, for example a log before its container has started.
    BadRequest,
    /// 401: the server does not know the credentials, or they have expired.
    Unauthorized,
    /// 403: refused by RBAC, a quota or an admission plugin.
    Forbidden,
    /// 410 or reason `Expired`: the server no longer has this resourceVersion.
    Expired,
    /// 422: the object is not valid.
    Invalid,
    /// 429: too many requests; see [`ApiError::retry_after`].
    TooManyRequests,
    /// 5xx.
    Server,
    /// Any other status.
    Other,
    /// No answer: connection refused or reset, name not found, TLS failure.
    Connection,
    /// No answer within the client's own limit.
    Timeout,
    /// An answer that could not be decoded.
    Decode,
    /// The client could not be set up: kubeconfig missing or malformed, not in a cluster.
    Setup,
}

/// What admission plugins say while their caches are filled, after the start of the server or in a new namespace.
const NOT_READY: [&str; 2] = ["not yet ready to handle request", "status unknown for quota"];

/// A failed request: what was tried, and what came back.
///
/// Its `Display` is the `{msg}` of the log lines and messages of the contract: for an answer of the API server
/// one line `HTTP-Code: {code} Message: {message of the Status}`, otherwise a sentence with host, port and cause.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}", self.text())]
pub(crate) struct ApiError {
    /// The class.
    pub kind: ApiErrorKind,
    /// HTTP status, when there was an answer.
    pub code: Option<u16>,
    /// `reason` of the Status object, when there was one.
    pub reason: Option<String>,
    /// `message` of the Status object, or the cause of a failure without an answer.
    pub message: String,
    /// The server refused to create anything in a namespace that is being deleted.
    pub namespace_terminating: bool,
    /// How long the server asked clients to wait (header `Retry-After` or `details.retryAfterSeconds`).
    pub retry_after: Option<Duration>,
    /// No connection was made, so that nothing of the request was sent.
    pub unsent: bool,
    /// A 403 of a server that may not know yet who may do what, so that the same request may be permitted a moment later.
    pub doubted: bool,
    /// What was tried, for example `list jobs in paperclip`.
    pub attempt: String,
    /// The underlying error, when there was one. `message` already says it.
    #[source]
    pub source: Option<Arc<dyn Error + Send + Sync>>,
}

impl ApiError {
    /// An error without an answer of the server.
    pub(crate) fn local(kind: ApiErrorKind, attempt: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            kind,
            code: None,
            reason: None,
            message: message.into(),
            namespace_terminating: false,
            retry_after: None,
            unsent: kind == ApiErrorKind::Setup,
            doubted: false,
            attempt: attempt.into(),
            source: None,
        }
    }

    /// The error of an HTTP answer. `body` is a `Status` object from an API server, and any text from a proxy.
    pub(crate) fn from_answer(
        attempt: impl Into<String>,
        code: u16,
        retry_after: Option<Duration>,
        body: &[u8],
    ) -> Self {
        #[derive(serde::Deserialize)]
        struct Reason {
            reason: Option<String>,
        }
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Details {
            retry_after_seconds: Option<u64>,
            causes: Option<Vec<Reason>>,
        }
        #[derive(serde::Deserialize)]
        struct Status {
            kind: String,
            message: Option<String>,
            reason: Option<String>,
            details: Option<Details>,
        }
        let status = serde_json::from_slice::<Status>(body).ok().filter(|status| status.kind == "Status");
        let (message, reason, details) = match status {
            Some(status) => (status.message, status.reason, status.details),
            None => (None, None, None),
        };
        let seconds = details.as_ref().and_then(|details| details.retry_after_seconds);
        let causes = details.and_then(|details| details.causes).unwrap_or_default();
        let namespace_terminating =
            code == 403 && causes.iter().any(|cause| cause.reason.as_deref() == Some("NamespaceTerminating"));
        let message = message.filter(|text| !text.is_empty()).unwrap_or_else(|| {
            let text = String::from_utf8_lossy(body);
            let text = text.trim();
            let short: String = text.chars().take(300).collect();
            if short.is_empty() { "no body".to_owned() } else { short.replace(['\r', '\n'], " ") }
        });
        let doubted = code == 403 && NOT_READY.iter().any(|text| message.contains(text));
        let kind = match (code, reason.as_deref()) {
            (_, Some("Expired")) | (410, _) => ApiErrorKind::Expired,
            (400, _) => ApiErrorKind::BadRequest,
            (401, _) => ApiErrorKind::Unauthorized,
            (403, _) => ApiErrorKind::Forbidden,
            (404, _) => ApiErrorKind::NotFound,
            (409, Some("AlreadyExists")) => ApiErrorKind::AlreadyExists,
            (409, _) => ApiErrorKind::Conflict,
            (422, _) => ApiErrorKind::Invalid,
            (429, _) => ApiErrorKind::TooManyRequests,
            (500..=599, _) => ApiErrorKind::Server,
            _ => ApiErrorKind::Other,
        };
        Self {
            kind,
            code: Some(code),
            reason,
            message,
            namespace_terminating,
            retry_after: retry_after.or(seconds.map(Duration::from_secs)),
            unsent: false,
            doubted,
            attempt: attempt.into(),
            source: None,
        }
    }

    /// The same error with its cause.
    pub(crate) fn with_source(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(Arc::from(source.into()));
        self
    }

    fn text(&self) -> String {
        match self.code {
            Some(code) => format!("HTTP-Code: {code} Message: {}", self.message),
            None => self.message.clone(),
        }
    }

    /// True for a 403 of the authorizer: the account lacks the permission, as far as the server knows. Quotas and admission
    /// plugins refuse in other words.
    pub(crate) fn is_unpermitted(&self) -> bool {
        let text = &self.message;
        self.kind == ApiErrorKind::Forbidden
            && text.contains("forbidden: User \"")
            && text.contains("\" cannot ")
    }

    /// True when the request may have been carried out although it failed: it was sent, and no answer of the API server
    /// says that it was refused. A gateway answers 502, 503 and 504 for a server that goes on.
    pub(crate) fn may_have_been_carried_out(&self) -> bool {
        match self.code {
            Some(code) => !(400..500).contains(&code),
            None => !self.unsent,
        }
    }

    /// True when the same request may succeed a moment later.
    pub(crate) fn is_transient(&self) -> bool {
        self.doubted
            || matches!(
                self.kind,
                ApiErrorKind::TooManyRequests
                    | ApiErrorKind::Server
                    | ApiErrorKind::Connection
                    | ApiErrorKind::Timeout
                    | ApiErrorKind::Decode
            )
    }

    /// True for a 404.
    pub(crate) fn is_not_found(&self) -> bool {
        self.kind == ApiErrorKind::NotFound
    }

    /// For a deletion with a UID as its precondition: the object does not exist, or its name belongs to another by now.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self.kind, ApiErrorKind::NotFound | ApiErrorKind::Conflict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_object_gives_kind_message_and_delay() {
        let body = br#"{"kind":"Status","message":"slow down","reason":"TooManyRequests","details":{"retryAfterSeconds":7}}"#;
        let error = ApiError::from_answer("list jobs", 429, None, body);
        assert_eq!(error.kind, ApiErrorKind::TooManyRequests);
        assert_eq!(error.retry_after, Some(Duration::from_secs(7)));
        assert_eq!(error.to_string(), "HTTP-Code: 429 Message: slow down");
    }

    #[test]
    fn html_page_of_a_proxy_becomes_one_short_line() {
        let body = format!("<html>\nbad gateway{}</html>", " ".repeat(2000));
        let error = ApiError::from_answer("get job", 502, None, body.as_bytes());
        assert_eq!(error.kind, ApiErrorKind::Server);
        assert!(error.is_transient());
        assert!(!error.to_string().contains('\n'));
        assert!(error.to_string().len() < 400);
    }

    #[test]
    fn conflict_and_existing_object_are_different_kinds() {
        let exists = br#"{"kind":"Status","message":"x","reason":"AlreadyExists"}"#;
        let conflict = br#"{"kind":"Status","message":"x","reason":"Conflict"}"#;
        assert_eq!(ApiError::from_answer("", 409, None, exists).kind, ApiErrorKind::AlreadyExists);
        assert_eq!(ApiError::from_answer("", 409, None, conflict).kind, ApiErrorKind::Conflict);
    }

    #[test]
    fn only_a_refusal_shows_that_nothing_was_done() {
        for (code, open) in
            [(400, false), (403, false), (422, false), (429, false), (500, true), (503, true), (504, true)]
        {
            assert_eq!(
                ApiError::from_answer("", code, None, b"").may_have_been_carried_out(),
                open,
                "{code}"
            );
        }
        let lost = ApiError::local(ApiErrorKind::Connection, "", "reset");
        assert!(lost.may_have_been_carried_out());
        assert!(!ApiError { unsent: true, ..lost }.may_have_been_carried_out());
        assert!(ApiError::local(ApiErrorKind::Timeout, "", "").may_have_been_carried_out());
        assert!(ApiError::local(ApiErrorKind::Decode, "", "").may_have_been_carried_out());
        assert!(!ApiError::local(ApiErrorKind::Setup, "", "").may_have_been_carried_out());
    }

    #[test]
    fn refusals_of_the_authorizer_are_told_from_others() {
        let refused = |message: &str| {
            let body = serde_json::json!({"kind": "Status", "message": message}).to_string();
            ApiError::from_answer("", 403, None, body.as_bytes())
        };
        let unpermitted = refused(
            r#"jobs.batch "a" is forbidden: User "u" cannot delete resource "jobs" in API group "batch" in the namespace "n""#,
        );
        assert!(unpermitted.is_unpermitted() && !unpermitted.is_transient());
        for (message, transient) in [
            (r#"jobs.batch "a" is forbidden: exceeded quota: ours"#, false),
            (r#"admission webhook "w" denied the request: no"#, false),
            (r#"jobs.batch "a" is forbidden: not yet ready to handle request"#, true),
            (
                r#"jobs.batch "a" is forbidden: status unknown for quota: ours, resources: count/jobs.batch"#,
                true,
            ),
        ] {
            let error = refused(message);
            assert_eq!((error.is_unpermitted(), error.is_transient()), (false, transient), "{message}");
        }
    }

    #[test]
    fn source_is_kept_and_leaves_the_text_alone() {
        let error = ApiError::local(ApiErrorKind::Connection, "get job", "request failed, reason: reset")
            .with_source(std::io::Error::other("reset"));
        assert_eq!(error.to_string(), "request failed, reason: reset");
        assert_eq!(error.source().map(ToString::to_string).as_deref(), Some("reset"));
    }
}
