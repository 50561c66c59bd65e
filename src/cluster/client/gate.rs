//! Limits how many requests are in flight at once.

use std::pin::pin;
use std::time::Duration;

use tokio::sync::Semaphore;

/// A request that takes longer gives its place back, so that those which hang hardly delay the others.
const PLACE_HELD: Duration = Duration::from_secs(1);

/// Lets a number of requests through at once; the others wait in line.
///
/// Each request in flight has a connection and a TLS handshake of its own, and a server does not serve thousands of them
/// any sooner than a few.
pub(super) struct Gate {
    places: Semaphore,
}

impl Gate {
    pub(super) fn new(places: usize) -> Self {
        Self { places: Semaphore::new(places) }
    }

    /// Plays a request once there is a place for it; without one when it has waited for `patience`.
    pub(super) async fn pass<T>(&self, patience: Duration, request: impl Future<Output = T>) -> T {
        let place = tokio::time::timeout(patience, self.places.acquire()).await;
        let mut request = pin!(request);
        if let Ok(answer) = tokio::time::timeout(PLACE_HELD, &mut request).await {
            return answer;
        }
        drop(place);
        request.await
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
    async fn requests_beyond_the_places_wait_in_line() {
        let took = begun(6, Duration::from_millis(200), Duration::from_secs(10)).await;
        assert_eq!(took, [0, 0, 200, 200, 400, 400]);
    }

    #[tokio::test(start_paused = true)]
    async fn request_that_hangs_gives_its_place_back() {
        let took = begun(4, Duration::from_secs(60), Duration::from_secs(10)).await;
        assert_eq!(took, [0, 0, 1_000, 1_000]);
    }

    #[tokio::test(start_paused = true)]
    async fn request_that_has_waited_long_enough_goes_without_a_place() {
        let took = begun(9, Duration::from_secs(60), Duration::from_millis(2_500)).await;
        assert_eq!(took, [0, 0, 1_000, 1_000, 2_000, 2_000, 2_500, 2_500, 2_500]);
    }
}
