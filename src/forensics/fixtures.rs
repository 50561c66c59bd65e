//! Pods for the tests of this module.

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

pub(super) fn pod(status: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p"}, "status": status})).unwrap()
}

pub(super) fn container(name: &str, state: Value) -> Value {
    json!({"name": name, "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state})
}

pub(super) fn waiting(reason: &str, message: Option<&str>) -> Value {
    json!({"waiting": {"reason": reason, "message": message}})
}

pub(super) fn ended(code: i32) -> Value {
    json!({"terminated": {"exitCode": code}})
}
