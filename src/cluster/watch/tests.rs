//! The watches against a scripted cluster.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use k8s_openapi::api::core::v1::{Event, Secret};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::super::{
    AccessReview, ApiError, ApiErrorKind, CreatedJob, LogBody, LogQuery, MOST_WATCHED, WatchBody, WatchKind,
    WatchQuery,
};
use super::*;

/// One answer to a watch request.
enum Answer {
    Refused(ApiError),
    Panics,
    /// A watch. After the last line it ends, or stays open and silent.
    Opened {
        lines: Vec<(u64, String)>,
        ends: bool,
    },
}

/// A request: what, when, from which version.
type Sent = (String, Duration, Option<String>);

struct ScriptedCluster {
    origin: Instant,
    sent: Mutex<Vec<Sent>>,
    watches: Mutex<HashMap<WatchKind, VecDeque<Answer>>>,
    lists: Mutex<VecDeque<String>>,
}

impl ScriptedCluster {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            origin: Instant::now(),
            sent: Mutex::default(),
            watches: Mutex::default(),
            lists: Mutex::default(),
        })
    }

    fn jobs(&self, answers: impl IntoIterator<Item = Answer>) -> &Self {
        lock(&self.watches).entry(WatchKind::Jobs).or_default().extend(answers);
        self
    }

    fn pods(&self, answers: impl IntoIterator<Item = Answer>) -> &Self {
        lock(&self.watches).entry(WatchKind::Pods).or_default().extend(answers);
        self
    }

    fn list(&self, body: &Value) -> &Self {
        lock(&self.lists).push_back(body.to_string());
        self
    }

    fn note(&self, what: String, version: Option<String>) {
        lock(&self.sent).push((what, self.origin.elapsed(), version));
    }

    /// When the requests of a kind were made, and from which version.
    fn requests(&self, what: &str) -> Vec<(Duration, Option<String>)> {
        let sent = lock(&self.sent);
        sent.iter().filter(|(is, ..)| is == what).map(|(_, at, from)| (*at, from.clone())).collect()
    }
}

impl Cluster for ScriptedCluster {
    async fn list_for_watch(&self, kind: WatchKind, _: &str, _: &str) -> Result<Vec<u8>, ApiError> {
        self.note(format!("list {}", kind.resource()), None);
        let empty = || json!({"metadata": {"resourceVersion": "1000"}, "items": []}).to_string();
        Ok(lock(&self.lists).pop_front().unwrap_or_else(empty).into_bytes())
    }

    async fn watch(&self, kind: WatchKind, _: &str, query: &WatchQuery) -> Result<WatchBody, ApiError> {
        assert_eq!(query.selector, "a=b");
        assert!(query.timeout < Duration::from_secs(200));
        self.note(format!("watch {}", kind.resource()), query.resource_version.clone());
        let answer = lock(&self.watches).get_mut(&kind).and_then(VecDeque::pop_front);
        match answer {
            Some(Answer::Refused(error)) => Err(error),
            Some(Answer::Panics) => panic!("a bug in the client"),
            Some(Answer::Opened { lines, ends }) => {
                let from = Instant::now();
                let pieces = futures::stream::unfold(VecDeque::from(lines), move |mut lines| async move {
                    let Some((at, text)) = lines.pop_front() else {
                        return if ends { None } else { std::future::pending().await };
                    };
                    tokio::time::sleep_until(from + Duration::from_millis(at)).await;
                    Some((Ok(Bytes::from(text)), lines))
                });
                Ok(Box::pin(pieces))
            }
            None => Ok(Box::pin(futures::stream::pending())),
        }
    }

    async fn list_jobs(&self, _: &str, _: &str) -> Result<Vec<Job>, ApiError> {
        unreachable!("the watches make no other request")
    }
    async fn get_job(&self, _: &str, _: &str) -> Result<Job, ApiError> {
        unreachable!("the watches make no other request")
    }
    async fn list_events(&self, _: &str, _: &str) -> Result<Vec<Event>, ApiError> {
        unreachable!("the watches make no other request")
    }
    async fn create_job(&self, _: &str, _: &Job) -> Result<CreatedJob, ApiError> {
        unreachable!("the watches make no other request")
    }
    async fn try_job(&self, _: &str, _: &Job) -> Result<Vec<String>, ApiError> {
        unreachable!("the watches make no other request")
    }

    async fn try_pod(&self, _: &str, _: &Pod) -> Result<(), ApiError> {
        unreachable!("the watches make no other request")
    }
    async fn patch_job(&self, _: &str, _: &str, _: &Value) -> Result<(), ApiError> {
        unreachable!("the watches make no other request")
    }
    async fn delete_job(&self, _: &str, _: &str, _: Option<&str>) -> Result<(), ApiError> {
        unreachable!("the watches make no other request")
    }
    async fn create_secret(&self, _: &str, _: &Secret) -> Result<(), ApiError> {
        unreachable!("the watches make no other request")
    }
    async fn delete_secret(&self, _: &str, _: &str) -> Result<(), ApiError> {
        unreachable!("the watches make no other request")
    }
    async fn get_pod(&self, _: &str, _: &str) -> Result<Pod, ApiError> {
        unreachable!("the watches make no other request")
    }
    async fn list_pods(&self, _: &str, _: &str) -> Result<Vec<Pod>, ApiError> {
        unreachable!("the watches make no other request")
    }
    async fn open_log(&self, _: &str, _: &str, _: &str, _: &LogQuery) -> Result<LogBody, ApiError> {
        unreachable!("the watches make no other request")
    }
    async fn last_log_line(&self, _: &str, _: &str, _: &str) -> Result<Vec<u8>, ApiError> {
        unreachable!("the watches make no other request")
    }
    async fn get_namespace(&self, _: &str) -> Result<bool, ApiError> {
        unreachable!("the watches make no other request")
    }
    async fn get_secret(&self, _: &str, _: &str) -> Result<(), ApiError> {
        unreachable!("the watches make no other request")
    }
    async fn claim_access_modes(&self, _: &str, _: &str) -> Result<Vec<String>, ApiError> {
        unreachable!("the watches make no other request")
    }
    async fn can_i(&self, _: AccessReview<'_>) -> Result<bool, ApiError> {
        unreachable!("the watches make no other request")
    }
}

fn job(name: &str, uid: &str, version: u64) -> Value {
    json!({"metadata": {"name": name, "uid": uid, "resourceVersion": version.to_string()}})
}

fn pod(name: &str, job: &str, uid: &str, version: u64) -> Value {
    json!({"metadata": {"name": name, "uid": format!("{name}-uid"), "resourceVersion": version.to_string(),
        "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": job, "uid": uid}]}})
}

fn line(kind: &str, object: &Value) -> String {
    format!("{}\n", json!({"type": kind, "object": object}))
}

fn bookmark(version: u64) -> String {
    line("BOOKMARK", &json!({"metadata": {"resourceVersion": version.to_string()}}))
}

fn opened(lines: impl IntoIterator<Item = (u64, String)>) -> Answer {
    Answer::Opened { lines: lines.into_iter().collect(), ends: false }
}

fn ended(lines: impl IntoIterator<Item = (u64, String)>) -> Answer {
    Answer::Opened { lines: lines.into_iter().collect(), ends: true }
}

fn refused(code: u16) -> Answer {
    Answer::Refused(ApiError::from_answer("watch", code, None, b"no"))
}

fn list(version: u64, items: &[Value]) -> Value {
    json!({"metadata": {"resourceVersion": version.to_string()}, "items": items})
}

fn watches() -> Watches<ScriptedCluster> {
    Watches::new("a=b")
}

async fn sleep_ms(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

/// Waits until a subscription's snapshot meets a condition.
async fn wait_for<C>(subscription: &Subscription<C>, condition: impl FnMut(&Snapshot) -> bool) -> Snapshot {
    let mut changes = subscription.changes();
    let seen = tokio::time::timeout(Duration::from_secs(600), changes.wait_for(condition)).await;
    seen.expect("the condition is met").expect("watched").clone()
}

fn version<T>(seen: &Seen<T>, meta: impl Fn(&T) -> Option<String>) -> (&'static str, Option<String>) {
    match seen {
        Seen::Unseen => ("unseen", None),
        Seen::Present(object) => ("present", meta(object)),
        Seen::Deleted(object) => ("deleted", meta(object)),
    }
}

fn job_seen(snapshot: &Snapshot) -> (&'static str, Option<String>) {
    version(&snapshot.job, |job| job.metadata.resource_version.clone())
}

fn pod_seen(snapshot: &Snapshot, name: &str) -> (&'static str, Option<String>) {
    version(&snapshot.pods[name], |pod| pod.metadata.resource_version.clone())
}

#[expect(clippy::unnecessary_wraps, reason = "compared with the `Option` of a list")]
fn at(version: u64) -> Option<String> {
    Some(version.to_string())
}

#[tokio::test(start_paused = true)]
async fn subscription_keeps_the_last_state_of_its_own_objects() {
    let cluster = ScriptedCluster::new();
    cluster.jobs([opened([
        (0, line("ADDED", &job("a", "1", 5)) + &line("ADDED", &job("b", "2", 4))),
        (100, line("MODIFIED", &job("a", "1", 7))),
        (200, line("DELETED", &job("a", "1", 9))),
    ])]);
    // Two events in one piece, and one event in three.
    let added = line("ADDED", &pod("a-x", "a", "1", 6));
    let (head, tail) = added.split_at(40);
    cluster.pods([opened([
        (0, head.to_owned()),
        (50, tail[..10].to_owned()),
        (60, tail[10..].to_owned()),
        (210, line("MODIFIED", &pod("a-x", "a", "1", 8)) + &line("DELETED", &pod("a-x", "a", "1", 10))),
    ])]);
    let watches = watches();
    let a = watches.subscribe(&cluster, "ns", "a", Some("1"));
    let b = watches.subscribe(&cluster, "ns", "b", Some("2"));
    sleep_ms(80).await;
    assert_eq!(
        (job_seen(&a.snapshot()), pod_seen(&a.snapshot(), "a-x")),
        (("present", at(5)), ("present", at(6)))
    );
    let late = watches.subscribe(&cluster, "ns", "a", Some("1"));
    assert_eq!(pod_seen(&late.snapshot(), "a-x"), ("present", at(6)), "a late subscriber gets what is known");
    assert_eq!(job_seen(&late.snapshot()), ("present", at(5)));
    sleep_ms(200).await;
    for subscription in [&a, &late] {
        let snapshot = subscription.snapshot();
        assert_eq!((job_seen(&snapshot), snapshot.job_events), (("deleted", at(9)), 3));
        assert_eq!(pod_seen(&snapshot, "a-x"), ("deleted", at(10)), "its last state is kept");
        assert!(snapshot.pod().is_none() && snapshot.last_pod("a-x").is_some());
    }
    let snapshot = b.snapshot();
    assert_eq!((job_seen(&snapshot), snapshot.job_events, snapshot.pods.len()), (("present", at(4)), 1, 0));
    assert_eq!((cluster.requests("watch jobs").len(), cluster.requests("watch pods").len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn pod_without_owner_is_not_of_a_job_with_known_uid() {
    let cluster = ScriptedCluster::new();
    let forged =
        json!({"metadata": {"name": "a-x", "uid": "u", "resourceVersion": "6", "labels": {"job-name": "a"}}});
    cluster.pods([opened([(0, line("ADDED", &forged)), (0, line("ADDED", &pod("a-y", "a", "1", 7)))])]);
    let watches = watches();
    let known = watches.subscribe(&cluster, "ns", "a", Some("1"));
    let unknown = watches.subscribe(&cluster, "ns", "a", None);
    sleep_ms(50).await;
    assert_eq!(known.snapshot().pods.keys().collect::<Vec<_>>(), ["a-y"]);
    assert_eq!(unknown.snapshot().pods.keys().collect::<Vec<_>>(), ["a-x", "a-y"]);
}

#[tokio::test(start_paused = true)]
async fn pod_that_lost_its_owner_is_still_of_its_job() {
    let cluster = ScriptedCluster::new();
    let mut orphan = pod("a-y", "a", "1", 8);
    orphan["metadata"]["ownerReferences"] = json!([]);
    orphan["metadata"]["labels"] = json!({"job-name": "a"});
    let mut other = orphan.clone();
    other["metadata"]["uid"] = json!("another");
    other["metadata"]["resourceVersion"] = json!("9");
    cluster.pods([opened([
        (0, line("ADDED", &pod("a-y", "a", "1", 7))),
        (50, line("MODIFIED", &orphan)),
        (100, line("ADDED", &other)),
    ])]);
    let watches = watches();
    let watch = watches.subscribe(&cluster, "ns", "a", Some("1"));
    let version =
        || watch.snapshot().pods["a-y"].last().and_then(|pod| pod.metadata.resource_version.clone());
    sleep_ms(75).await;
    assert_eq!(version().as_deref(), Some("8"));
    sleep_ms(75).await;
    assert_eq!(version().as_deref(), Some("8"), "a pod of the same name is another pod");
}

#[tokio::test(start_paused = true)]
async fn reused_name_is_another_job() {
    let cluster = ScriptedCluster::new();
    cluster.jobs([opened([
        (0, line("ADDED", &job("a", "1", 5))),
        // Its deletion never arrived.
        (100, line("ADDED", &job("a", "2", 8))),
        (200, line("DELETED", &job("a", "1", 7))),
    ])]);
    let watches = watches();
    let old = watches.subscribe(&cluster, "ns", "a", Some("1"));
    let new = watches.subscribe(&cluster, "ns", "a", Some("2"));
    sleep_ms(150).await;
    assert_eq!(job_seen(&old.snapshot()), ("deleted", at(5)));
    assert_eq!(job_seen(&new.snapshot()), ("present", at(8)));
    sleep_ms(100).await;
    assert_eq!(job_seen(&new.snapshot()), ("present", at(8)), "a late deletion of the other Job");
    assert_eq!(job_seen(&watches.subscribe(&cluster, "ns", "a", Some("2")).snapshot()), ("present", at(8)));
}

#[tokio::test(start_paused = true)]
async fn reopened_watch_lists_only_without_a_version() {
    let cluster = ScriptedCluster::new();
    cluster.jobs([
        // Only first objects, which come in any order: no version to continue from.
        ended([(0, line("ADDED", &job("a", "1", 50))), (6_000, String::new())]),
        ended([(6_000, bookmark(200))]),
        ended([(0, line("ADDED", &job("b", "2", 205))), (6_000, String::new())]),
        opened([]),
    ]);
    cluster.list(&list(100, &[job("a", "1", 50)]));
    let watches = watches();
    let a = watches.subscribe(&cluster, "ns", "a", Some("1"));
    sleep_ms(30_000).await;
    let from: Vec<_> = cluster.requests("watch jobs").into_iter().map(|(_, from)| from).collect();
    assert_eq!(from, [None, at(100), at(200), at(205)]);
    assert_eq!(cluster.requests("list jobs").len(), 1);
    assert_eq!(a.snapshot().job_events, 1, "an unchanged object on a list is not an event");
}

#[tokio::test(start_paused = true)]
async fn object_missing_from_a_readable_list_is_deleted() {
    let expired = json!({"kind": "Status", "code": 410, "reason": "Expired", "metadata": {}});
    let cluster = ScriptedCluster::new();
    cluster.jobs([
        opened([
            (0, line("ADDED", &job("a", "1", 5)) + &line("ADDED", &job("b", "2", 6))),
            (1_000, line("ERROR", &expired)),
        ]),
        opened([(1_000, line("ERROR", &expired))]),
        opened([(1_000, line("ERROR", &expired))]),
        opened([]),
    ]);
    // First the bad item may be any object; then it is `b`; then `b` is not listed either.
    cluster
        .list(&list(10, &[json!({"metadata": {"name": 7}})]))
        .list(&list(20, &[json!({"metadata": {"name": "b"}, "status": "x"})]))
        .list(&list(30, &[]));
    let watches = watches();
    let a = watches.subscribe(&cluster, "ns", "a", Some("1"));
    let b = watches.subscribe(&cluster, "ns", "b", Some("2"));
    sleep_ms(1_500).await;
    assert_eq!((job_seen(&a.snapshot()).0, job_seen(&b.snapshot()).0), ("present", "present"));
    let snapshot = wait_for(&a, |snapshot| matches!(snapshot.job, Seen::Deleted(_))).await;
    assert_eq!(job_seen(&snapshot), ("deleted", at(5)), "with its last state");
    assert_eq!(job_seen(&b.snapshot()).0, "present");
    assert_eq!(b.snapshot().unreadable, 1, "b is to be read directly");
    wait_for(&b, |snapshot| matches!(snapshot.job, Seen::Deleted(_))).await;
    assert_eq!(cluster.requests("list jobs").len(), 3);
    assert_eq!(a.snapshot().health, Health::Live);
}

#[tokio::test(start_paused = true)]
async fn unreadable_event_concerns_only_its_job() {
    let cluster = ScriptedCluster::new();
    let mut bad = pod("a-x", "a", "1", 6);
    bad["status"] = json!(7);
    cluster.pods([opened([
        (0, "{\"type\":\"ADD\n\n<html>\n".to_owned() + &line("ADDED", &bad)),
        (1, line("ADDED", &pod("b-x", "b", "2", 7))),
    ])]);
    let watches = watches();
    let a = watches.subscribe(&cluster, "ns", "a", Some("1"));
    let b = watches.subscribe(&cluster, "ns", "b", Some("2"));
    sleep_ms(10).await;
    assert_eq!((a.snapshot().unreadable, b.snapshot().unreadable), (1, 0));
    assert_eq!(pod_seen(&b.snapshot(), "b-x"), ("present", at(7)));
    assert_eq!(cluster.requests("watch pods").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn panic_ends_neither_watch() {
    let cluster = ScriptedCluster::new();
    cluster.jobs([Answer::Panics, Answer::Panics]);
    cluster.list(&list(9, &[job("a", "1", 5)])).list(&list(10, &[job("a", "1", 6)]));
    cluster.pods([opened([(0, line("ADDED", &pod("a-x", "a", "1", 6)))])]);
    let watches = watches();
    let a = watches.subscribe(&cluster, "ns", "a", Some("1"));
    sleep_ms(1).await;
    assert_eq!(a.snapshot().health, Health::Broken, "subscribers poll meanwhile");
    assert_eq!(pod_seen(&a.snapshot(), "a-x").0, "present");
    let snapshot = wait_for(&a, |snapshot| snapshot.health == Health::Live).await;
    assert_eq!(job_seen(&snapshot), ("present", at(6)));
    assert_eq!((cluster.requests("watch jobs").len(), cluster.requests("watch pods").len()), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn pauses_honour_retry_after_and_reset_on_progress() {
    let cluster = ScriptedCluster::new();
    let slow = ApiError {
        retry_after: Some(Duration::from_secs(17)),
        ..ApiError::from_answer("watch", 429, None, b"slow down")
    };
    cluster.jobs([Answer::Refused(slow)]).jobs((0..5).map(|_| refused(503)));
    cluster.jobs([ended([(0, bookmark(9))]), opened([])]);
    let watches = watches();
    let a = watches.subscribe(&cluster, "ns", "a", None);
    sleep_ms(60_000).await;
    let at: Vec<Duration> = cluster.requests("watch jobs").into_iter().map(|(at, _)| at).collect();
    assert_eq!(at.len(), 8);
    assert!(at[1].abs_diff(at[0]) >= Duration::from_secs(17), "{at:?}");
    assert!(at[6].abs_diff(at[5]) > Duration::from_secs(2), "pauses grow: {at:?}");
    assert!(at[7].abs_diff(at[6]) <= Duration::from_millis(250), "and start again: {at:?}");
    assert_eq!(a.snapshot().health, Health::Live);
}

#[tokio::test(start_paused = true)]
async fn empty_watch_is_reopened_with_growing_pauses() {
    let cluster = ScriptedCluster::new();
    cluster.jobs((0..100).map(|_| ended([])));
    let watches = watches();
    let a = watches.subscribe(&cluster, "ns", "a", None);
    sleep_ms(30_000).await;
    let requests = cluster.requests("watch jobs").len();
    assert!((5..15).contains(&requests), "{requests}");
    assert_eq!(a.snapshot().health, Health::Broken);
}

#[tokio::test(start_paused = true)]
async fn silent_watch_is_listed_and_reopened() {
    let cluster = ScriptedCluster::new();
    cluster.list(&list(9, &[job("a", "1", 5)]));
    cluster.jobs([opened([(1_000, bookmark(3))]), opened([])]);
    cluster.pods([opened((0..20).map(|n| (n * 60_000, bookmark(n + 1))))]);
    let watches = watches();
    let a = watches.subscribe(&cluster, "ns", "a", Some("1"));
    let snapshot = wait_for(&a, |snapshot| snapshot.job_events > 0).await;
    let (now, jobs) = (cluster.origin.elapsed(), cluster.requests("watch jobs"));
    assert!(now <= Duration::from_secs(1 + 180 + 30 + 1) && now > Duration::from_secs(150), "{now:?}");
    assert_eq!(job_seen(&snapshot), ("present", at(5)), "events may be lost, so it is listed");
    assert_eq!((jobs.len(), &jobs[1].1), (2, &at(9)));
    assert_eq!(cluster.requests("watch pods").len(), 1, "the other watch has its bookmarks");
}

#[tokio::test(start_paused = true)]
async fn resync_request_reopens_only_a_mature_watch() {
    let cluster = ScriptedCluster::new();
    cluster.jobs([opened([(0, line("ADDED", &job("a", "1", 5)))])]);
    cluster.list(&list(9, &[]));
    let watches = watches();
    let a = watches.subscribe(&cluster, "ns", "a", Some("1"));
    sleep_ms(9_000).await;
    a.request_resync();
    sleep_ms(1_000).await;
    assert_eq!(job_seen(&a.snapshot()), ("present", at(5)), "too young for a resync");
    a.request_resync();
    sleep_ms(1_000).await;
    assert_eq!(job_seen(&a.snapshot()), ("deleted", at(5)));
    assert_eq!((cluster.requests("watch jobs").len(), cluster.requests("list jobs").len()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn refusal_holds_for_both_kinds_for_ten_minutes() {
    for code in [403, 405] {
        let cluster = ScriptedCluster::new();
        cluster.jobs([refused(code)]);
        let watches = watches();
        let a = watches.subscribe(&cluster, "ns", "a", None);
        assert_eq!(a.snapshot().health, Health::Starting);
        wait_for(&a, |snapshot| snapshot.health == Health::Refused).await;
        let b = watches.subscribe(&cluster, "ns", "b", None);
        assert_eq!(b.snapshot().health, Health::Refused, "known without a request");
        assert!(watches.is_first_refusal(&cluster) && !watches.is_first_refusal(&cluster));
        assert!(watches.is_first_refusal(&ScriptedCluster::new()), "each cluster is reported once");
        drop(a);
        sleep_ms(599_000).await;
        assert_eq!(cluster.requests("watch jobs").len(), 1);
        sleep_ms(2_000).await;
        let c = watches.subscribe(&cluster, "ns", "c", None);
        wait_for(&c, |snapshot| snapshot.health == Health::Live).await;
        assert_eq!(b.snapshot().health, Health::Live, "for all subscribers");
    }
}

#[tokio::test(start_paused = true)]
async fn doubted_refusal_does_not_end_the_watch() {
    let cluster = ScriptedCluster::new();
    let doubted =
        || Answer::Refused(ApiError { doubted: true, ..ApiError::from_answer("watch", 403, None, b"no") });
    cluster.jobs([ended([(0, bookmark(1))]), doubted(), doubted(), opened([])]);
    let watches = watches();
    let a = watches.subscribe(&cluster, "ns", "a", None);
    wait_for(&a, |snapshot| snapshot.health == Health::Broken).await;
    wait_for(&a, |snapshot| snapshot.health == Health::Live).await;
    assert_eq!(cluster.requests("watch jobs").len(), 4);
}

#[tokio::test(start_paused = true)]
async fn watches_stop_after_the_last_subscription_and_restart() {
    let cluster = ScriptedCluster::new();
    let watches = watches();
    for round in 1..=3 {
        let first = watches.subscribe(&cluster, "ns", "a", None);
        let other = watches.subscribe(&cluster, "elsewhere", "a", None);
        sleep_ms(1_000).await;
        drop(first);
        sleep_ms(5_000).await;
        let next = watches.subscribe(&cluster, "ns", "b", None);
        sleep_ms(60_000).await;
        assert_eq!(next.snapshot().health, Health::Live);
        assert_eq!(cluster.requests("watch jobs").len(), 2 * round, "one per namespace, shared");
        drop((next, other));
        sleep_ms(11_000).await;
        assert_eq!(Arc::strong_count(&cluster), 3, "held by two idle namespaces and no task");
    }
    let elsewhere = watches.subscribe(&cluster, "third", "a", None);
    assert_eq!(lock(&watches.namespaces).len(), 1, "unused namespaces are removed");
    drop(elsewhere);
}

#[tokio::test(start_paused = true)]
async fn watch_that_does_not_open_counts_as_broken() {
    let cluster = ScriptedCluster::new();
    cluster.jobs([Answer::Refused(ApiError::local(ApiErrorKind::Timeout, "watch", "no answer")), opened([])]);
    let watches = watches();
    let a = watches.subscribe(&cluster, "ns", "a", None);
    wait_for(&a, |snapshot| snapshot.health == Health::Broken).await;
    wait_for(&a, |snapshot| snapshot.health == Health::Live).await;
}

#[tokio::test(start_paused = true)]
async fn more_objects_than_are_kept_make_runs_poll() {
    let cluster = ScriptedCluster::new();
    let small = |at: usize| json!({"metadata": {"name": format!("j-{at}")}});
    let all: Vec<Value> = (0..=MOST_WATCHED).map(small).collect();
    let lines = all.iter().fold(String::new(), |lines, object| lines + &line("ADDED", object));
    // Without a version the server sends all of them; afterwards they are on a list.
    cluster
        .list(&list(9, &all))
        .jobs([opened([(0, lines)]), opened([(0, line("ADDED", &job("a", "1", 8)))])]);
    let watches = watches();
    let a = watches.subscribe(&cluster, "ns", "a", Some("1"));
    let polled = wait_for(&a, |snapshot| snapshot.health == Health::Broken).await;
    assert_eq!(job_seen(&polled).0, "unseen");
    // The next list has as many as can be kept.
    let live = wait_for(&a, |snapshot| snapshot.health == Health::Live).await;
    assert_eq!(job_seen(&wait_for(&a, |snapshot| snapshot.job_events > 0).await), ("present", at(8)));
    assert_eq!(live.health, Health::Live);
    assert_eq!(cluster.requests("list jobs").len(), 2);
}
