//! Limits how much work of one kind runs at once; the rest waits in line.

use std::pin::pin;
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

/// Work that takes longer gives its permit back, so that work that hangs hardly delays the rest.
const PERMIT_HELD: Duration = Duration::from_secs(1);

/// Lets a number of requests, or of other work, through at once; the others wait in line.
///
/// Each request in flight has a connection and a TLS handshake of its own, and a server does not serve thousands of them
/// any sooner than a few.
pub(crate) struct Gate {
    permits: Semaphore,
}

impl Gate {
    pub(crate) fn new(permits: usize) -> Self {
        Self { permits: Semaphore::new(permits) }
    }

    /// Waits in line for a permit, and passes without one after `patience`.
    pub(crate) async fn enter(&self, patience: Duration) -> Pass<'_> {
        let permit = tokio::time::timeout(patience, self.permits.acquire()).await;
        Pass { _permit: permit.ok().and_then(Result::ok) }
    }

    /// Plays a request once it has a permit; without one when it has waited for `patience`.
    pub(crate) async fn pass<T>(&self, patience: Duration, request: impl Future<Output = T>) -> T {
        self.enter(patience).await.hold_during(request).await
    }
}

/// A permit of the gate, if it was free in time.
#[must_use]
pub(crate) struct Pass<'a> {
    _permit: Option<SemaphorePermit<'a>>,
}

impl Pass<'_> {
    /// Plays the work, and gives the permit back when it is done or takes longer than [`PERMIT_HELD`].
    pub(crate) async fn hold_during<T>(self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        if let Ok(done) = tokio::time::timeout(PERMIT_HELD, &mut work).await {
            return done;
        }
        drop(self);
        work.await
    }
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;
    use tokio::time::{Instant, sleep};

    use super::*;

    /// When each of these requests began, if each takes `takes`, in milliseconds since the first.
    async fn begun(requests: usize, takes: Duration, patience: Duration) -> Vec<u128> {
        let gate = Gate::new(2);
        let first = Instant::now();
        join_all((0..requests).map(|_| {
            gate.pass(patience, async {
                let begun = first.elapsed().as_millis();
                sleep(takes).await;
                begun
            })
        }))
        .await
    }

    #[tokio::test(start_paused = true)]
    async fn requests_beyond_the_permits_wait_in_line() {
        let took = begun(6, Duration::from_millis(200), Duration::from_secs(10)).await;
        assert_eq!(took, [0, 0, 200, 200, 400, 400]);
    }

    #[tokio::test(start_paused = true)]
    async fn request_that_hangs_gives_its_permit_back() {
        let took = begun(4, Duration::from_secs(60), Duration::from_secs(10)).await;
        assert_eq!(took, [0, 0, 1_000, 1_000]);
    }

    #[tokio::test(start_paused = true)]
    async fn request_that_waited_long_enough_needs_no_permit() {
        let took = begun(9, Duration::from_secs(60), Duration::from_millis(2_500)).await;
        assert_eq!(took, [0, 0, 1_000, 1_000, 2_000, 2_000, 2_500, 2_500, 2_500]);
    }
}
