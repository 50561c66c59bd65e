//! Futures side by side in one task that are not polled for each other's wake-ups.

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;

/// The same future, but polled only after it was woken itself.
///
/// Futures in a `select!` or `join!` are all polled whenever one of them is woken. A run waits for a dozen futures
/// while its log arrives line by line: polling all of them for each line costs more than reading the line.
pub(crate) fn isolate<F: Future>(future: F) -> impl Future<Output = F::Output> {
    // Not in the async block, which would keep room for it beside its place on the heap.
    let mut only = FuturesUnordered::new();
    only.push(future);
    async move {
        match only.next().await {
            Some(output) => output,
            // There is one, so its output comes first.
            None => std::future::pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn isolated_future_is_polled_only_when_woken() {
        let polled = AtomicU32::new(0);
        let (send, receive) = tokio::sync::oneshot::channel::<u8>();
        let mut receive = pin!(receive);
        let mut slow = pin!(isolate(std::future::poll_fn(|context| {
            polled.fetch_add(1, Ordering::Relaxed);
            receive.as_mut().poll(context)
        })));
        for _ in 0..10 {
            tokio::select! {
                biased;
                _ = &mut slow => panic!("nothing was sent"),
                () = tokio::task::yield_now() => {}
            }
        }
        assert_eq!(polled.load(Ordering::Relaxed), 1);
        let _ = send.send(7);
        assert_eq!(slow.await, Ok(7));
        assert_eq!(polled.load(Ordering::Relaxed), 2);
    }
}
