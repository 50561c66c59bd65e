//! Bearer tokens, users and rules.

use crate::status::ApiError;
use crate::util::{list_at, lock, str_at};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// What a user may do.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rule {
    groups: Vec<String>,
    resources: Vec<String>,
    verbs: Vec<String>,
    names: Vec<String>,
    namespace: Option<String>,
}

/// Who asks.
#[derive(Debug, Clone)]
pub(crate) struct User {
    /// User name.
    pub name: String,
    /// Allowed everything, the control API included.
    pub admin: bool,
    rules: Vec<Rule>,
}

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Attributes<'a> {
    /// Verb, such as `get` or `deletecollection`.
    pub verb: &'a str,
    /// API group.
    pub group: &'a str,
    /// Resource, without the subresource.
    pub resource: &'a str,
    /// Subresource, or empty.
    pub subresource: &'a str,
    /// Namespace; empty means all of them, or a cluster-scoped resource.
    pub namespace: &'a str,
    /// Object name, or empty.
    pub name: &'a str,
}

impl Attributes<'_> {
    fn full_resource(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.to_string()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }

    /// The server's 403 for a user without permission.
    pub(crate) fn denied(&self, user: &str) -> ApiError {
        let mut subject = self.resource.to_string();
        if !self.group.is_empty() {
            subject = format!("{subject}.{}", self.group);
        }
        if !self.name.is_empty() {
            subject = format!("{subject} \"{}\"", self.name);
        }
        let place = if self.namespace.is_empty() {
            "at the cluster scope".to_string()
        } else {
            format!("in the namespace \"{}\"", self.namespace)
        };
        let message = format!(
            "{subject} is forbidden: User \"{user}\" cannot {} resource \"{}\" in API group \"{}\" {place}",
            self.verb,
            self.full_resource(),
            self.group
        );
        let mut e = ApiError::new(403, "Forbidden", message);
        *e.details = json!({"kind": self.resource});
        for (key, value) in [("name", self.name), ("group", self.group)] {
            if !value.is_empty() {
                e.details[key] = value.into();
            }
        }
        e
    }
}

fn has(set: &[String], value: &str) -> bool {
    set.iter().any(|s| s == "*" || s == value)
}

impl User {
    /// Whether the user may do that.
    pub(crate) fn allows(&self, a: &Attributes<'_>) -> bool {
        if self.admin {
            return true;
        }
        let resource = a.full_resource();
        self.rules.iter().any(|r| {
            let any_sub = !a.subresource.is_empty() && has(&r.resources, &format!("*/{}", a.subresource));
            r.namespace.as_deref().is_none_or(|n| n == a.namespace)
                && has(&r.verbs, a.verb)
                && has(&r.groups, a.group)
                && (has(&r.resources, &resource) || any_sub)
                && (r.names.is_empty() || r.names.iter().any(|n| n == a.name))
        })
    }
}

/// All tokens.
#[derive(Default)]
pub(crate) struct Authz {
    tokens: Mutex<HashMap<String, Arc<User>>>,
}

impl Authz {
    /// Adds a token that may do everything.
    pub(crate) fn add_admin(&self, token: &str) {
        let user = User { name: "kubernetes-admin".to_string(), admin: true, rules: Vec::new() };
        lock(&self.tokens).insert(token.to_string(), Arc::new(user));
    }

    /// Adds or replaces a token from `{token, user, namespace?, rules}`.
    pub(crate) fn add(&self, spec: &Value) -> Result<(), ApiError> {
        let token = str_at(spec, "/token");
        let name = str_at(spec, "/user");
        if token.is_empty() || name.is_empty() {
            return Err(ApiError::bad_request("token and user are required"));
        }
        let rules = list_at(spec, "/rules")
            .iter()
            .map(|r| {
                let texts = |p: &str| -> Vec<String> {
                    list_at(r, p).iter().filter_map(|v| v.as_str().map(str::to_string)).collect()
                };
                let namespace = r.get("namespace").or(spec.get("namespace"));
                Rule {
                    groups: texts("/apiGroups"),
                    resources: texts("/resources"),
                    verbs: texts("/verbs"),
                    names: texts("/resourceNames"),
                    namespace: namespace.and_then(Value::as_str).map(str::to_string),
                }
            })
            .collect();
        let user =
            User { name: name.to_string(), admin: spec.get("admin").is_some_and(|a| a == true), rules };
        lock(&self.tokens).insert(token.to_string(), Arc::new(user));
        Ok(())
    }

    /// Forgets a token.
    pub(crate) fn remove(&self, token: &str) -> bool {
        lock(&self.tokens).remove(token).is_some()
    }

    /// The user of an `Authorization` header; no header is the anonymous user.
    pub(crate) fn user(&self, header: Option<&str>) -> Result<Arc<User>, ApiError> {
        let Some(header) = header else {
            return Ok(Arc::new(User {
                name: "system:anonymous".to_string(),
                admin: false,
                rules: Vec::new(),
            }));
        };
        let token = match header.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
            _ => return Err(ApiError::unauthorized()),
        };
        lock(&self.tokens).get(token).cloned().ok_or_else(ApiError::unauthorized)
    }
}

/// Answers a SelfSubjectAccessReview.
pub(crate) fn review(user: &User, mut body: Value) -> Value {
    let spec = body.pointer("/spec/resourceAttributes").cloned().unwrap_or(Value::Null);
    let (resource, sub) = {
        let r = str_at(&spec, "/resource");
        match r.split_once('/') {
            Some((r, s)) => (r.to_string(), s.to_string()),
            None => (r.to_string(), str_at(&spec, "/subresource").to_string()),
        }
    };
    let allowed = if spec.is_null() {
        user.admin
    } else {
        user.allows(&Attributes {
            verb: str_at(&spec, "/verb"),
            group: str_at(&spec, "/group"),
            resource: &resource,
            subresource: &sub,
            namespace: str_at(&spec, "/namespace"),
            name: str_at(&spec, "/name"),
        })
    };
    body["kind"] = "SelfSubjectAccessReview".into();
    body["apiVersion"] = "authorization.k8s.io/v1".into();
    let meta = crate::util::obj(&mut body, "metadata");
    crate::util::default(meta, "creationTimestamp", Value::Null);
    body["status"] = json!({"allowed": allowed});
    if allowed {
        body["status"]["reason"] = "RBAC: allowed by embedded rules".into();
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user() -> Arc<User> {
        let authz = Authz::default();
        authz
            .add(&json!({"token": "t", "user": "system:serviceaccount:ns:sa", "namespace": "ns", "rules": [
                {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get", "create"]},
                {"apiGroups": [""], "resources": ["pods/log"], "verbs": ["*"]},
                {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"], "resourceNames": ["one"]},
            ]}))
            .expect("valid");
        authz.user(Some("Bearer t")).expect("known")
    }

    fn ask(verb: &str, group: &str, resource: &str, sub: &str, ns: &str, name: &str) -> bool {
        user().allows(&Attributes { verb, group, resource, subresource: sub, namespace: ns, name })
    }

    #[test]
    fn role_rules_grant_what_they_name() {
        assert!(ask("get", "batch", "jobs", "", "ns", "x"));
        assert!(!ask("get", "batch", "jobs", "", "other", "x"));
        assert!(!ask("watch", "batch", "jobs", "", "ns", ""));
        assert!(!ask("get", "", "jobs", "", "ns", "x"));
        assert!(ask("get", "", "pods", "log", "ns", "x"));
        assert!(!ask("get", "", "pods", "", "ns", "x"));
        assert!(ask("get", "", "secrets", "", "ns", "one"));
        assert!(!ask("get", "", "secrets", "", "ns", "two"));
    }

    #[test]
    fn refusal_names_the_account_and_verb() {
        let a = Attributes {
            verb: "create",
            group: "batch",
            resource: "jobs",
            namespace: "ns",
            ..Attributes::default()
        };
        assert_eq!(
            a.denied("u").message,
            "jobs.batch is forbidden: User \"u\" cannot create resource \"jobs\" in API group \"batch\" in the namespace \"ns\""
        );
        let authz = Authz::default();
        assert_eq!(authz.user(Some("Bearer x")).map(|_| ()).expect_err("unknown").code, 401);
        assert!(!authz.user(None).expect("anonymous").admin);
    }

    #[test]
    fn access_review_answers_by_the_rules() {
        let ask = |resource: &str, sub: &str| {
            let spec = json!({"verb": "get", "resource": resource, "subresource": sub, "namespace": "ns"});
            review(&user(), json!({"spec": {"resourceAttributes": spec}}))["status"]["allowed"].clone()
        };
        assert_eq!(ask("pods/log", ""), true);
        assert_eq!(ask("pods", "log"), true);
        assert_eq!(ask("pods", ""), false);
    }
}
