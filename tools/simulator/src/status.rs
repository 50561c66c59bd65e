//! Errors in the form of the API server's `Status` objects.

use crate::kinds::Kind;
use serde_json::{Value, json};

/// An answer other than success.
#[derive(Debug, Clone)]
pub(crate) struct ApiError {
    /// HTTP status code.
    pub code: u16,
    /// Machine-readable reason; empty when there is none.
    pub reason: String,
    /// The message people see.
    pub message: String,
    /// `details` of the Status; null when there are none.
    pub details: Box<Value>,
    /// Seconds for a `Retry-After` header.
    pub retry_after: Option<u64>,
}

/// What handlers return.
pub(crate) type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    /// An error with a code, a reason and a message.
    pub(crate) fn new(code: u16, reason: &str, message: impl Into<String>) -> Self {
        ApiError {
            code,
            reason: reason.to_string(),
            message: message.into(),
            details: Box::default(),
            retry_after: None,
        }
    }

    fn about(mut self, kind: &Kind, name: &str) -> Self {
        *self.details = json!({"name": name, "kind": kind.plural});
        if !kind.group.is_empty() {
            self.details["group"] = kind.group.into();
        }
        self
    }

    /// 404 for an object.
    pub(crate) fn not_found(kind: &Kind, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", kind.qualified());
        ApiError::new(404, "NotFound", message).about(kind, name)
    }

    /// 404 for a path nothing is served at.
    pub(crate) fn no_such_path() -> Self {
        let mut e = ApiError::new(404, "NotFound", "the server could not find the requested resource");
        *e.details = json!({});
        e
    }

    /// 405 for a verb a resource does not have.
    pub(crate) fn method_not_allowed() -> Self {
        let mut e = ApiError::new(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        );
        *e.details = json!({});
        e
    }

    /// 400.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        ApiError::new(400, "BadRequest", message)
    }

    /// 401.
    pub(crate) fn unauthorized() -> Self {
        ApiError::new(401, "Unauthorized", "Unauthorized")
    }

    /// 409 for a name that is taken.
    pub(crate) fn already_exists(kind: &Kind, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", kind.qualified());
        ApiError::new(409, "AlreadyExists", message).about(kind, name)
    }

    /// 409 for an outdated or mismatching precondition.
    pub(crate) fn conflict(kind: &Kind, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", kind.qualified());
        ApiError::new(409, "Conflict", message).about(kind, name)
    }

    /// 409 of a delete whose precondition does not hold. It names the object by its kind, unlike all others.
    pub(crate) fn precondition(
        kind: &Kind,
        name: &str,
        what: &str,
        asked: &str,
        found: &str,
        since: &str,
    ) -> Self {
        let group = if kind.group.is_empty() { String::new() } else { format!(".{}", kind.group) };
        let message = format!(
            "Operation cannot be fulfilled on {}{group} \"{name}\": the {what} in the precondition ({asked}) does not match the {what} in record ({found}). The object might have been {since}",
            kind.kind
        );
        ApiError::new(409, "Conflict", message).about(kind, name)
    }

    /// 403 with a reason of the server's own (quota, terminating namespace).
    pub(crate) fn forbidden(kind: &Kind, name: &str, why: &str) -> Self {
        let subject =
            if name.is_empty() { kind.qualified() } else { format!("{} \"{name}\"", kind.qualified()) };
        ApiError::new(403, "Forbidden", format!("{subject} is forbidden: {why}")).about(kind, name)
    }

    /// 422 with one cause per problem.
    pub(crate) fn invalid(kind: &Kind, name: &str, problems: &[FieldError]) -> Self {
        let texts: Vec<String> = problems.iter().map(FieldError::text).collect();
        let list = match texts.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let subject = if kind.group.is_empty() {
            kind.kind.to_string()
        } else {
            format!("{}.{}", kind.kind, kind.group)
        };
        let mut e = ApiError::new(422, "Invalid", format!("{subject} \"{name}\" is invalid: {list}"))
            .about(kind, name);
        e.details["kind"] = kind.kind.into();
        e.details["causes"] = problems
            .iter()
            .map(|p| json!({"reason": p.reason, "message": p.body(), "field": p.field}))
            .collect();
        e
    }

    /// 410: the history asked for is gone.
    pub(crate) fn expired(message: impl Into<String>) -> Self {
        ApiError::new(410, "Expired", message)
    }

    /// The `Status` object.
    pub(crate) fn status(&self) -> Value {
        let mut s = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "code": self.code,
        });
        if !self.reason.is_empty() {
            s["reason"] = self.reason.as_str().into();
        }
        if !self.details.is_null() {
            s["details"] = (*self.details).clone();
        }
        if let Some(secs) = self.retry_after {
            crate::util::obj(&mut s, "details")["retryAfterSeconds"] = secs.into();
        }
        s
    }
}

/// One problem of a submitted object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FieldError {
    /// Cause reason, such as `FieldValueInvalid`.
    pub reason: &'static str,
    /// Path of the field.
    pub field: String,
    value: Option<String>,
    detail: String,
}

impl FieldError {
    /// A value that breaks a rule.
    pub(crate) fn invalid(field: impl Into<String>, value: &str, detail: &str) -> Self {
        FieldError {
            reason: "FieldValueInvalid",
            field: field.into(),
            value: Some(value.to_string()),
            detail: detail.to_string(),
        }
    }

    /// A value that is none of those which are known.
    pub(crate) fn not_supported(field: impl Into<String>, value: &str, known: &[&str]) -> Self {
        let known: Vec<String> = known.iter().map(|k| format!("{k:?}")).collect();
        FieldError {
            reason: "FieldValueNotSupported",
            field: field.into(),
            value: Some(value.to_string()),
            detail: format!("supported values: {}", known.join(", ")),
        }
    }

    /// A value that is missing.
    pub(crate) fn required(field: impl Into<String>, detail: &str) -> Self {
        FieldError {
            reason: "FieldValueRequired",
            field: field.into(),
            value: None,
            detail: detail.to_string(),
        }
    }

    /// A value used twice.
    pub(crate) fn duplicate(field: impl Into<String>, value: &str) -> Self {
        FieldError {
            reason: "FieldValueDuplicate",
            field: field.into(),
            value: Some(value.to_string()),
            detail: String::new(),
        }
    }

    /// A value that is too large.
    pub(crate) fn too_long(field: impl Into<String>, most: usize) -> Self {
        FieldError {
            reason: "FieldValueTooLong",
            field: field.into(),
            value: None,
            detail: format!("may not be more than {most} bytes"),
        }
    }

    /// A reference to nothing.
    pub(crate) fn not_found(field: impl Into<String>, value: &str) -> Self {
        FieldError {
            reason: "FieldValueNotFound",
            field: field.into(),
            value: Some(value.to_string()),
            detail: String::new(),
        }
    }

    fn body(&self) -> String {
        let head = match self.reason {
            "FieldValueRequired" => "Required value",
            "FieldValueDuplicate" => "Duplicate value",
            "FieldValueNotFound" => "Not found",
            "FieldValueTooLong" => "Too long",
            "FieldValueNotSupported" => "Unsupported value",
            _ => "Invalid value",
        };
        let mut out = head.to_string();
        if let Some(v) = &self.value {
            out.push_str(&format!(": {v:?}"));
        }
        if !self.detail.is_empty() {
            out.push_str(&format!(": {}", self.detail));
        }
        out
    }

    fn text(&self) -> String {
        format!("{}: {}", self.field, self.body())
    }
}
