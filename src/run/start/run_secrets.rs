//! In which namespaces this host may not create Secrets.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use crate::run::timing;

/// Kubeconfig and namespace of each refusal, and when it was.
#[derive(Default)]
pub(crate) struct RunSecrets {
    refused: Mutex<HashMap<[String; 2], Instant>>,
}

impl RunSecrets {
    /// Whether a Secret was refused there a short time ago. Later it is tried again: the Role may have changed.
    pub(super) fn are_refused(&self, kubeconfig: Option<&str>, namespace: &str) -> bool {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.get(&key(kubeconfig, namespace)).is_some_and(|at| at.elapsed() < timing::SECRETS_REFUSED)
    }

    /// Notes a refusal. Returns whether it is the first there, which is logged.
    pub(super) fn note_refusal(&self, kubeconfig: Option<&str>, namespace: &str) -> bool {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.insert(key(kubeconfig, namespace), Instant::now()).is_none()
    }
}

fn key(kubeconfig: Option<&str>, namespace: &str) -> [String; 2] {
    [kubeconfig.unwrap_or_default().to_owned(), namespace.to_owned()]
}
