//! CPU and memory of the agent's container.

use serde_json::Value;

use super::error::RequestError;
use super::raw::Raw;
use super::syntax;
use crate::js_semantics;

/// CPU and memory of the agent's container, as Kubernetes quantities. No request exceeds its limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resources {
    /// `resources.requests.cpu` (1000m).
    pub(crate) requests_cpu: String,
    /// `resources.requests.memory` (2Gi).
    pub(crate) requests_memory: String,
    /// `resources.limits.cpu` (4000m).
    pub(crate) limits_cpu: String,
    /// `resources.limits.memory` (8Gi).
    pub(crate) limits_memory: String,
}

impl Default for Resources {
    fn default() -> Self {
        Self {
            requests_cpu: "1000m".to_owned(),
            requests_memory: "2Gi".to_owned(),
            limits_cpu: "4000m".to_owned(),
            limits_memory: "8Gi".to_owned(),
        }
    }
}

impl Raw<'_> {
    pub(super) fn resources(&mut self) -> Result<Resources, RequestError> {
        let default = Resources::default();
        self.note_unread_resources();
        let (requests_cpu, limits_cpu) =
            self.request_and_limit("cpu", &default.requests_cpu, &default.limits_cpu)?;
        let (requests_memory, limits_memory) =
            self.request_and_limit("memory", &default.requests_memory, &default.limits_memory)?;
        Ok(Resources { requests_cpu, requests_memory, limits_cpu, limits_memory })
    }

    /// Notes what stands in `resources` and is not read.
    fn note_unread_resources(&mut self) {
        const KEY: &str = "resources";
        let Some(resources) = self.get(KEY) else { return };
        let Some(groups) = resources.as_object() else {
            return self.mistyped(KEY, resources, "an object with requests and limits");
        };
        for (group, amounts) in groups.iter().filter(|(_, amounts)| !amounts.is_null()) {
            if !matches!(group.as_str(), "requests" | "limits") {
                self.note(format!("config.{KEY}.{group} ignored: known are requests and limits"));
                continue;
            }
            let Some(amounts) = amounts.as_object() else {
                self.mistyped(&format!("{KEY}.{group}"), amounts, "an object with cpu and memory");
                continue;
            };
            for name in amounts.keys().filter(|name| !matches!(name.as_str(), "cpu" | "memory")) {
                self.note(format!(
                    "config.{KEY}.{group}.{name} ignored: known are cpu and memory, others go into podTemplate"
                ));
            }
        }
    }

    /// Request and limit of one resource. Kubernetes refuses a request above its limit: two configured values
    /// that contradict each other are an error, a default gives way to a configured value.
    fn request_and_limit(
        &mut self,
        resource: &str,
        default_request: &str,
        default_limit: &str,
    ) -> Result<(String, String), RequestError> {
        let (request_key, limit_key) =
            (format!("resources.requests.{resource}"), format!("resources.limits.{resource}"));
        let request = self.quantity(&request_key, "requests", resource)?;
        let limit = self.quantity(&limit_key, "limits", resource)?;
        let amount = |text: &str| syntax::quantity(text).unwrap_or(0.0);
        // 0.1 and 100m are the same amount, but not the same floating-point number.
        let exceeds = |request: &str, limit: &str| amount(request) > amount(limit) * (1.0 + 1e-9);
        Ok(match (request, limit) {
            (Some(request), Some(limit)) => {
                if exceeds(&request, &limit) {
                    let why = format!("must not exceed {limit_key} ({limit})");
                    return Err(RequestError::config(request_key, &Value::from(request), why));
                }
                (request, limit)
            }
            (Some(request), None) if exceeds(&request, default_limit) => {
                self.note(format!("{request_key} {request} is above the default limit {default_limit}: {limit_key} is {request} too"));
                (request.clone(), request)
            }
            (None, Some(limit)) if exceeds(default_request, &limit) => {
                self.note(format!("{limit_key} {limit} is below the default request {default_request}: {request_key} is {limit} too"));
                (limit.clone(), limit)
            }
            (request, limit) => (
                request.unwrap_or_else(|| default_request.to_owned()),
                limit.unwrap_or_else(|| default_limit.to_owned()),
            ),
        })
    }

    /// A quantity under its dotted key (as the form stores it), else nested in `resources` (as people write it).
    fn quantity(&mut self, key: &str, group: &str, resource: &str) -> Result<Option<String>, RequestError> {
        let flat = self.text(key)?;
        let nested = js_semantics::object(self.get("resources"))
            .and_then(|resources| js_semantics::object(resources.get(group)))
            .and_then(|group| group.get(resource))
            .filter(|value| !value.is_null());
        let text = match (flat, nested) {
            (Some(text), _) => text,
            (None, None) => return Ok(None),
            (None, Some(Value::String(text))) if text.is_empty() => return Ok(None),
            (None, Some(Value::String(text))) => text.clone(),
            (None, Some(other)) => {
                self.mistyped(key, other, "a string such as \"500m\" or \"2Gi\"");
                return Ok(None);
            }
        };
        // `m` is a thousandth: 512m of memory are half a byte, with which no container starts.
        if resource == "memory" && text.ends_with(['m', 'u', 'n']) {
            let why = "must be whole bytes, such as 512Mi: m is a thousandth of a byte";
            return Err(RequestError::config(key, &Value::from(text), why));
        }
        match syntax::quantity(&text) {
            Some(amount) if amount >= 0.0 => Ok(Some(text)),
            _ => {
                let why = "must be a Kubernetes quantity such as 500m, 0.5, 512Mi or 2Gi, not negative";
                Err(RequestError::config(key, &Value::from(text), why))
            }
        }
    }
}
