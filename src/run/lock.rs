//! Setup is serial per agent within this process: in call order, released on every way out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

type Locks = Arc<Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>>;

/// One fair lock per agent id; an id without holders takes no memory.
#[derive(Default)]
pub(crate) struct AgentLocks {
    locks: Locks,
}

/// A held lock; dropping it lets the agent's next run start.
pub(crate) struct Held {
    guard: Option<OwnedMutexGuard<()>>,
    locks: Locks,
    agent: String,
}

impl AgentLocks {
    /// Waits for this agent's turn.
    pub(crate) async fn acquire(&self, agent: &str) -> Held {
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            locks.entry(agent.to_owned()).or_default().clone()
        };
        let guard = lock.lock_owned().await;
        Held { guard: Some(guard), locks: self.locks.clone(), agent: agent.to_owned() }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        self.guard.take();
        // Only the map holds it: nobody waits, and nobody can start to while the map is locked.
        if locks.get(&self.agent).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            locks.remove(&self.agent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_agent_is_serial_in_call_order_and_others_do_not_wait() {
        let locks = Arc::new(AgentLocks::default());
        let first = locks.acquire("a").await;
        let _other = locks.acquire("b").await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for turn in 0..5 {
            let (locks, order) = (locks.clone(), order.clone());
            tasks.push(tokio::spawn(async move {
                let _held = locks.acquire("a").await;
                order.lock().expect("order").push(turn);
            }));
            tokio::task::yield_now().await;
        }
        assert!(order.lock().expect("order").is_empty());
        drop(first);
        for task in tasks {
            task.await.expect("task");
        }
        assert_eq!(*order.lock().expect("order"), [0, 1, 2, 3, 4]);
        assert_eq!(locks.locks.lock().expect("locks").len(), 1, "only b is still held");
    }

    #[tokio::test]
    async fn a_waiter_that_gives_up_leaves_nothing_behind() {
        let locks = AgentLocks::default();
        let held = locks.acquire("a").await;
        let waiting = tokio::time::timeout(std::time::Duration::from_millis(5), locks.acquire("a")).await;
        assert!(waiting.is_err());
        drop(held);
        assert!(locks.locks.lock().expect("locks").is_empty());
    }
}
