//! What an API server has permitted this process, so that a refusal can be doubted.
//!
//! The authorizer of an API server that has just started does not know all Roles yet and refuses what they permit; where
//! there are several servers, one of them may lag behind. A 403 is therefore not final at once where the same was permitted
//! before, or where the server did not answer a moment ago.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::{ApiError, ApiErrorKind};

/// For how long refusals of one kind in a row are doubted: the caches of a server are filled within seconds.
const DOUBT_LIMIT: Duration = Duration::from_secs(10);
/// For how long after a request without an answer a server may be one that has just started.
const AFTER_OUTAGE: Duration = Duration::from_secs(30);

/// What one API server has permitted.
#[derive(Default)]
pub(crate) struct Permissions(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    permitted: HashSet<String>,
    /// The first of the refusals since the last permission.
    refused: HashMap<String, Instant>,
    /// When a request last got no answer of the server.
    unanswered: Option<Instant>,
}

impl Permissions {
    /// Notes an answer and marks it where it is a refusal to be doubted. `access` is what was asked for: verb, resource and
    /// namespace.
    pub(crate) fn judge<T>(&self, access: &str, answer: Result<T, ApiError>) -> Result<T, ApiError> {
        let now = Instant::now();
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Err(mut error) if error.is_unpermitted() => {
                let first = *seen.refused.entry(access.to_owned()).or_insert(now);
                let after_outage = seen.unanswered.is_some_and(|at| now - at < AFTER_OUTAGE);
                let expected = seen.permitted.contains(access) || after_outage;
                error.doubted = expected && now - first < DOUBT_LIMIT;
                Err(error)
            }
            Err(error) if is_unanswered(&error) => {
                seen.unanswered = Some(now);
                Err(error)
            }
            Err(error) if error.kind == ApiErrorKind::Unauthorized => Err(error),
            // Whatever else it was, the authorizer let it pass.
            answer => {
                if !seen.permitted.contains(access) {
                    seen.permitted.insert(access.to_owned());
                }
                seen.refused.remove(access);
                answer
            }
        }
    }
}

/// Whether the server is away, or answers to no request.
fn is_unanswered(error: &ApiError) -> bool {
    error.kind != ApiErrorKind::Setup
        && matches!(error.code, None | Some(429 | 500..=599))
        && error.kind != ApiErrorKind::Decode
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal() -> Result<(), ApiError> {
        let message = r#"jobs is forbidden: User "u" cannot list resource "jobs""#;
        let body = serde_json::json!({"kind": "Status", "message": message}).to_string();
        Err(ApiError::from_answer("list jobs", 403, None, body.as_bytes()))
    }

    fn is_doubted(permissions: &Permissions, access: &str) -> bool {
        permissions.judge(access, refusal()).expect_err("refused").doubted
    }

    #[tokio::test(start_paused = true)]
    async fn refusal_is_doubted_where_it_was_permitted_before() {
        let permissions = Permissions::default();
        assert!(!is_doubted(&permissions, "list"), "nothing is known");
        permissions.judge("list", Ok(())).expect("permitted");
        assert!(is_doubted(&permissions, "list"));
        assert!(!is_doubted(&permissions, "delete"));
        // An answer of a server that has looked at the request counts as well.
        let not_found = ApiError::from_answer("", 404, None, b"");
        permissions.judge::<()>("delete", Err(not_found)).expect_err("not found");
        assert!(is_doubted(&permissions, "delete"));
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_in_a_row_are_doubted_for_ten_seconds() {
        let permissions = Permissions::default();
        permissions.judge("list", Ok(())).expect("permitted");
        for _ in 0..2 {
            let first = Instant::now();
            while first.elapsed() < Duration::from_secs(20) {
                assert_eq!(is_doubted(&permissions, "list"), first.elapsed() < DOUBT_LIMIT);
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            permissions.judge("list", Ok(())).expect("permitted again");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn refusal_right_after_an_outage_is_doubted() {
        for code in [None, Some(503)] {
            let away = || match code {
                Some(code) => ApiError::from_answer("", code, None, b""),
                None => ApiError::local(ApiErrorKind::Connection, "", "refused"),
            };
            let permissions = Permissions::default();
            permissions.judge::<()>("list", Err(away())).expect_err("away");
            tokio::time::sleep(Duration::from_secs(29)).await;
            assert!(is_doubted(&permissions, "delete"), "{code:?}");
            tokio::time::sleep(Duration::from_secs(2)).await;
            assert!(!is_doubted(&permissions, "get"), "{code:?}");
        }
    }
}
