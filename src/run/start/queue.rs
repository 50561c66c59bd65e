//! The runs of an agent start one after the other within this process, in call order
//! (`docs/contract.md`, "Order of an agent's runs"). A turn is given back on every way out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::OwnedMutexGuard;

type Locks = Arc<Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>>;

/// One fair lock per agent id; an id without a turn takes no memory.
#[derive(Default)]
pub(crate) struct AgentQueues {
    locks: Locks,
}

/// A turn in the queue of one agent's runs. Dropping it gives the turn back.
pub(crate) struct Turn {
    guard: Option<OwnedMutexGuard<()>>,
    waiting: Option<BoxFuture<'static, OwnedMutexGuard<()>>>,
    locks: Locks,
    agent: String,
}

impl AgentQueues {
    /// Queues for this agent. The order is that of these calls, not of the first waits.
    pub(crate) fn queue(&self, agent: &str) -> Turn {
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            locks.entry(agent.to_owned()).or_default().clone()
        };
        let mut waiting = lock.lock_owned().boxed();
        // Polled once now, because the mutex is fair in the order of first polls.
        let guard = (&mut waiting).now_or_never();
        let waiting = guard.is_none().then_some(waiting);
        Turn { guard, waiting, locks: self.locks.clone(), agent: agent.to_owned() }
    }

    /// How many agents have a run in the queue.
    pub(crate) fn count(&self) -> usize {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Turn {
    /// Waits until it is this run's turn; the turn lasts until this is dropped.
    pub(crate) async fn wait(&mut self) {
        if let Some(waiting) = &mut self.waiting {
            self.guard = Some(waiting.await);
            self.waiting = None;
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        self.waiting.take();
        self.guard.take();
        // Only the map holds the lock: no run waits for it, and none can start to while the map is locked.
        if locks.get(&self.agent).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            locks.remove(&self.agent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn turns_of_one_agent_come_in_call_order() {
        let queues = AgentQueues::default();
        let mut first = queues.queue("a");
        first.wait().await;
        let mut other = queues.queue("b");
        other.wait().await;
        let turns: Vec<Turn> = (0..5).map(|_| queues.queue("a")).collect();
        let order = Arc::new(Mutex::new(Vec::new()));
        // Waited for in reverse: the order of the calls counts.
        let mut tasks = Vec::new();
        for (call, mut turn) in turns.into_iter().enumerate().rev() {
            let order = order.clone();
            tasks.push(tokio::spawn(async move {
                turn.wait().await;
                order.lock().expect("order").push(call);
            }));
            tokio::task::yield_now().await;
        }
        assert!(order.lock().expect("order").is_empty());
        drop(first);
        for task in tasks {
            task.await.expect("task");
        }
        assert_eq!(*order.lock().expect("order"), [0, 1, 2, 3, 4]);
        assert_eq!(queues.locks.lock().expect("locks").len(), 1, "only b still has a turn");
    }

    #[tokio::test]
    async fn dropped_waiter_leaves_queue_empty() {
        let queues = AgentQueues::default();
        let held = queues.queue("a");
        let mut waiting = queues.queue("a");
        let mut next = queues.queue("a");
        let waited = tokio::time::timeout(std::time::Duration::from_millis(5), waiting.wait()).await;
        assert!(waited.is_err());
        drop(waiting);
        drop(held);
        next.wait().await;
        drop(next);
        assert!(queues.locks.lock().expect("locks").is_empty());
    }
}
