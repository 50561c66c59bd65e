//! What woke the agent and where it works.

use serde_json::{Map, Value};

use crate::js_semantics;

/// What woke the agent and where it works, as the host sent it.
///
/// The host adds fields with every version, so the map stays raw; the fields that a run needs have accessors.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Context(Map<String, Value>);

impl Context {
    /// Wraps the host's map.
    pub(crate) fn new(raw: Map<String, Value>) -> Self {
        Self(raw)
    }

    /// A field, unchanged.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// A field that is a string with something besides spaces in it, trimmed.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        js_semantics::trimmed(self.get(key))
    }

    /// As [`text`](Self::text), of the first of two fields that is present at all: a present value that is
    /// empty or not a string hides the second.
    pub(crate) fn first_text(&self, key: &str, fallback: &str) -> Option<&str> {
        match self.get(key) {
            None | Some(Value::Null) => self.text(fallback),
            present => js_semantics::trimmed(present),
        }
    }

    /// The task (the host says `taskId`, else `issueId`) this run works on, trimmed. The Job's label and the
    /// pod's variable both come from here.
    pub(crate) fn task_id(&self) -> Option<&str> {
        self.text("taskId").or_else(|| self.text("issueId"))
    }

    /// A field of the workspace that is a string with something besides spaces in it, trimmed.
    pub(crate) fn workspace_text(&self, key: &str) -> Option<&str> {
        js_semantics::trimmed(self.workspace()?.get(key))
    }

    /// The directory the agent starts in, untrimmed; `None` when the host names none.
    pub(crate) fn workspace_cwd(&self) -> Option<&str> {
        js_semantics::text(self.workspace()?.get("cwd"))
    }

    /// A field that is an object.
    pub(crate) fn object(&self, key: &str) -> Option<&Map<String, Value>> {
        js_semantics::object(self.get(key))
    }

    fn workspace(&self) -> Option<&Map<String, Value>> {
        self.object("paperclipWorkspace")
    }
}
