//! Setup is serial per agent within this process: in call order, released on every way out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use tokio::sync::OwnedMutexGuard;

type Locks = Arc<Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>>;

/// One fair lock per agent id; an id without holders takes no memory.
#[derive(Default)]
pub(crate) struct AgentLocks {
    locks: Locks,
}

/// A place in the queue of one agent's runs. Dropping it gives the place up.
pub struct Turn {
    guard: Option<OwnedMutexGuard<()>>,
    waiting: Option<BoxFuture<'static, OwnedMutexGuard<()>>>,
    locks: Locks,
    agent: String,
}

impl AgentLocks {
    /// Queues for this agent. The place counts from this call on, not from when it is first waited for.
    pub(crate) fn queue(&self, agent: &str) -> Turn {
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            locks.entry(agent.to_owned()).or_default().clone()
        };
        let mut waiting = lock.lock_owned().boxed();
        // The mutex is fair in the order of first polls.
        let guard = (&mut waiting).now_or_never();
        let waiting = guard.is_none().then_some(waiting);
        Turn { guard, waiting, locks: self.locks.clone(), agent: agent.to_owned() }
    }
}

impl AgentLocks {
    /// How many agents have a run in the queue.
    pub(crate) fn count(&self) -> usize {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Turn {
    /// Waits for the turn; it is held until this is dropped.
    pub(crate) async fn come(&mut self) {
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
        let locks = AgentLocks::default();
        let mut first = locks.queue("a");
        first.come().await;
        let mut other = locks.queue("b");
        other.come().await;
        let turns: Vec<Turn> = (0..5).map(|_| locks.queue("a")).collect();
        let order = Arc::new(Mutex::new(Vec::new()));
        // Waited for the other way round: the order of the calls counts.
        let mut tasks = Vec::new();
        for (call, mut turn) in turns.into_iter().enumerate().rev() {
            let order = order.clone();
            tasks.push(tokio::spawn(async move {
                turn.come().await;
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
        assert_eq!(locks.locks.lock().expect("locks").len(), 1, "only b is still held");
    }

    #[tokio::test]
    async fn a_waiter_that_gives_up_leaves_nothing_behind() {
        let locks = AgentLocks::default();
        let held = locks.queue("a");
        let mut waiting = locks.queue("a");
        let mut next = locks.queue("a");
        let came = tokio::time::timeout(std::time::Duration::from_millis(5), waiting.come()).await;
        assert!(came.is_err());
        drop(waiting);
        drop(held);
        next.come().await;
        drop(next);
        assert!(locks.locks.lock().expect("locks").is_empty());
    }
}
