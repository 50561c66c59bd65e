//! Rules that stand for admission policies: the control API makes them, as an administrator makes a policy with its
//! binding.

use crate::kinds::Kind;
use crate::patch;
use crate::status::{ApiError, ApiResult};
use crate::util::{lock, str_at};
use serde_json::{Value, json};
use std::sync::Mutex;

/// One rule: `{name, resource, namespace?, labels?, deny}` or `{…, patch}`.
struct Policy {
    spec: Value,
}

impl Policy {
    fn text(&self, key: &str) -> &str {
        str_at(&self.spec, &format!("/{key}"))
    }

    fn covers(&self, kind: &Kind, namespace: &str, v: &Value) -> bool {
        let labels = &v["metadata"]["labels"];
        self.text("resource") == kind.plural
            && ["", namespace].contains(&self.text("namespace"))
            && self.spec["labels"]
                .as_object()
                .into_iter()
                .flatten()
                .all(|(k, want)| labels.get(k) == Some(want))
    }
}

/// All rules.
#[derive(Default)]
pub(crate) struct Policies {
    list: Mutex<Vec<Policy>>,
}

impl Policies {
    /// Adds a rule, or replaces the one of the same name.
    pub(crate) fn add(&self, spec: &Value) -> ApiResult<()> {
        let kinds = [spec["deny"].is_string(), spec["patch"].is_array()];
        if str_at(spec, "/name").is_empty() || str_at(spec, "/resource").is_empty() {
            return Err(ApiError::bad_request("name and resource are required"));
        }
        if kinds.iter().filter(|is| **is).count() != 1 {
            return Err(ApiError::bad_request("one of deny, a text, and patch, a list, is required"));
        }
        self.remove(str_at(spec, "/name"));
        lock(&self.list).push(Policy { spec: spec.clone() });
        Ok(())
    }

    /// Removes a rule; false if there is none of that name.
    pub(crate) fn remove(&self, name: &str) -> bool {
        let mut list = lock(&self.list);
        let before = list.len();
        list.retain(|p| p.text("name") != name);
        list.len() < before
    }

    /// Changes a new object as the rules say; false if none covers it.
    pub(super) fn mutate(&self, kind: &Kind, namespace: &str, v: &mut Value) -> ApiResult<bool> {
        let mut changed = false;
        for p in lock(&self.list).iter().filter(|p| p.spec["patch"].is_array()) {
            if !p.covers(kind, namespace, v) {
                continue;
            }
            changed = true;
            patch::json_patch(v, &p.spec["patch"]).map_err(|why| {
                let text = format!(
                    "policy '{}' with binding '{}' denied request: JSON Patch: {why}",
                    p.text("name"),
                    p.text("name")
                );
                ApiError::new(422, "Invalid", text)
            })?;
        }
        Ok(changed)
    }

    /// The refusal of a new object, if a rule refuses it.
    pub(super) fn refusal(&self, kind: &Kind, name: &str, namespace: &str, v: &Value) -> Option<ApiError> {
        let list = lock(&self.list);
        let p = list.iter().find(|p| p.spec["deny"].is_string() && p.covers(kind, namespace, v))?;
        let text = format!(
            "ValidatingAdmissionPolicy '{}' with binding '{}' denied request: {}",
            p.text("name"),
            p.text("name"),
            p.text("deny")
        );
        let mut e = ApiError::forbidden(kind, name, &text);
        e.code = 422;
        e.reason = "Invalid".to_string();
        e.details["causes"] = json!([{"message": text}]);
        Some(e)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::{JOB, POD};

    #[test]
    fn policy_covers_by_resource_namespace_and_labels() {
        let all = Policies::default();
        all.add(
            &json!({"name": "p", "resource": "jobs", "namespace": "n", "labels": {"a": "1"}, "deny": "no"}),
        )
        .expect("valid");
        let job = json!({"metadata": {"name": "j", "labels": {"a": "1", "b": "2"}}});
        let e = all.refusal(&JOB, "j", "n", &job).expect("refused");
        assert_eq!((e.code, e.reason.as_str()), (422, "Invalid"));
        assert_eq!(
            e.message,
            "jobs.batch \"j\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'p' denied request: no"
        );
        assert!(all.refusal(&POD, "j", "n", &job).is_none() && all.refusal(&JOB, "j", "m", &job).is_none());
        assert!(all.refusal(&JOB, "j", "n", &json!({"metadata": {}})).is_none());
        assert!(all.remove("p") && !all.remove("p"));
    }

    #[test]
    fn policy_changes_what_it_covers() {
        let all = Policies::default();
        let patch = json!([{"op": "add", "path": "/spec/suspend", "value": true}]);
        all.add(&json!({"name": "p", "resource": "jobs", "patch": patch})).expect("valid");
        let mut job = json!({"spec": {}});
        assert!(all.mutate(&JOB, "n", &mut job).is_ok_and(|changed| changed));
        assert_eq!(job["spec"]["suspend"], true);
        assert!(all.add(&json!({"name": "p", "resource": "jobs"})).is_err());
    }
}
