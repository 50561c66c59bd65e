//! Jobs whose pod said its own end, and whose container was not seen to end: the agent may have printed that line itself.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The most names that are kept; the oldest is dropped first.
const MOST: usize = 64;

/// The names of such Jobs, of all runs of this process; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct UnconfirmedEnds(Arc<Mutex<VecDeque<String>>>);

impl UnconfirmedEnds {
    fn lock(&self) -> MutexGuard<'_, VecDeque<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the name of a Job.
    pub(super) fn add(&self, job: &str) {
        let mut jobs = self.lock();
        if jobs.len() == MOST {
            jobs.pop_front();
        }
        jobs.push_back(job.to_owned());
    }

    /// Whether a Job is one of these.
    pub(super) fn contains(&self, job: &str) -> bool {
        self.lock().iter().any(|known| known == job)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_names_are_kept() {
        let jobs = UnconfirmedEnds::default();
        (0..=MOST).for_each(|n| jobs.add(&format!("j{n}")));
        assert!(!jobs.contains("j0") && jobs.contains("j1") && jobs.contains(&format!("j{MOST}")));
        assert_eq!(jobs.lock().len(), MOST);
    }
}
