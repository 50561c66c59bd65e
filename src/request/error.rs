//! Why a request is refused.

use serde_json::Value;

/// Characters of a refused value that an error message shows.
const SHOWN: usize = 80;

/// Why a request cannot be carried out.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The host's text is not JSON.
    #[error("The run request is not valid JSON: {0}")]
    Json(#[source] serde_json::Error),
    /// The host's JSON is not an object.
    #[error("The run request is not a JSON object")]
    NotAnObject,
    /// A setting has the right type and a value that cannot work.
    #[error("Invalid adapter config: {key} = {value}: {why}")]
    Config {
        /// The setting, with its path for a nested one (`tolerations[0].effect`).
        key: String,
        /// The refused value as JSON, shortened; of a secret only that it is one.
        value: String,
        /// What would be accepted.
        why: String,
    },
}

impl RequestError {
    /// An error about the setting `key`.
    pub(super) fn config(key: impl Into<String>, value: &Value, why: impl Into<String>) -> Self {
        let json = value.to_string();
        let mut shown: String = json.chars().take(SHOWN).collect();
        if shown.len() < json.len() {
            shown.push('…');
        }
        Self::Config { key: key.into(), value: shown, why: why.into() }
    }

    /// An error about a setting whose value must not be shown.
    pub(super) fn hidden(key: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Config { key: key.into(), value: "(hidden)".to_owned(), why: why.into() }
    }
}
