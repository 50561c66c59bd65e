//! The watches against a cluster that follows a script.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use k8s_openapi::api::core::v1::Secret;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::super::{
    AccessQuestion, ApiError, ApiErrorKind, LogBody, LogQuery, WatchBody, WatchKind, WatchQuery,
};
use super::*;

/// One answer to a watch request.
enum Answer {
    Refused(ApiError),
    Panics,
    /// It is opened; nothing comes any more after the last line, or it ends.
    Opened {
        lines: Vec<(u64, String)>,
        ends: bool,
    },
}

/// A request: what, when, from which version.
type Asked = (String, Duration, Option<String>);

struct Scripted {
    origin: Instant,
    asked: Mutex<Vec<Asked>>,
    watches: Mutex<HashMap<WatchKind, VecDeque<Answer>>>,
    lists: Mutex<VecDeque<String>>,
}

impl Scripted {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            origin: Instant::now(),
            asked: Mutex::default(),
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
        lock(&self.asked).push((what, self.origin.elapsed(), version));
    }

    /// When and from where the requests of a kind were made.
    fn asked(&self, what: &str) -> Vec<(Duration, Option<String>)> {
        let asked = lock(&self.asked);
        asked.iter().filter(|(is, ..)| is == what).map(|(_, at, from)| (*at, from.clone())).collect()
    }
}

impl Cluster for Scripted {
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
        unreachable!("the watches ask for nothing else")
    }
    async fn get_job(&self, _: &str, _: &str) -> Result<Job, ApiError> {
        unreachable!("the watches ask for nothing else")
    }
    async fn create_job(&self, _: &str, _: &Job) -> Result<Job, ApiError> {
        unreachable!("the watches ask for nothing else")
    }
    async fn patch_job(&self, _: &str, _: &str, _: &Value) -> Result<(), ApiError> {
        unreachable!("the watches ask for nothing else")
    }
    async fn delete_job(&self, _: &str, _: &str, _: Option<&str>) -> Result<(), ApiError> {
        unreachable!("the watches ask for nothing else")
    }
    async fn create_secret(&self, _: &str, _: &Secret) -> Result<(), ApiError> {
        unreachable!("the watches ask for nothing else")
    }
    async fn patch_secret(&self, _: &str, _: &str, _: &Value) -> Result<(), ApiError> {
        unreachable!("the watches ask for nothing else")
    }
    async fn delete_secret(&self, _: &str, _: &str) -> Result<(), ApiError> {
        unreachable!("the watches ask for nothing else")
    }
    async fn get_pod(&self, _: &str, _: &str) -> Result<Pod, ApiError> {
        unreachable!("the watches ask for nothing else")
    }
    async fn list_pods(&self, _: &str, _: &str) -> Result<Vec<Pod>, ApiError> {
        unreachable!("the watches ask for nothing else")
    }
    async fn open_log(&self, _: &str, _: &str, _: &str, _: &LogQuery) -> Result<LogBody, ApiError> {
        unreachable!("the watches ask for nothing else")
    }
    async fn get_namespace(&self, _: &str) -> Result<(), ApiError> {
        unreachable!("the watches ask for nothing else")
    }
    async fn get_secret(&self, _: &str, _: &str) -> Result<(), ApiError> {
        unreachable!("the watches ask for nothing else")
    }
    async fn claim_access_modes(&self, _: &str, _: &str) -> Result<Vec<String>, ApiError> {
        unreachable!("the watches ask for nothing else")
    }
    async fn can_i(&self, _: AccessQuestion<'_>) -> Result<bool, ApiError> {
        unreachable!("the watches ask for nothing else")
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

fn watches() -> Watches<Scripted> {
    Watches::new("a=b")
}

async fn after(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

/// Waits until a subscription shows something.
async fn shows<C>(subscription: &Subscription<C>, what: impl FnMut(&Snapshot) -> bool) -> Snapshot {
    let mut view = subscription.follow();
    let seen = tokio::time::timeout(Duration::from_secs(600), view.wait_for(what)).await;
    seen.expect("shown").expect("watched").clone()
}

fn version<T>(sight: &Seen<T>, meta: impl Fn(&T) -> Option<String>) -> (&'static str, Option<String>) {
    match sight {
        Seen::Unseen => ("unseen", None),
        Seen::Present(object) => ("present", meta(object)),
        Seen::Deleted(object) => ("deleted", meta(object)),
    }
}

fn job_seen(view: &Snapshot) -> (&'static str, Option<String>) {
    version(&view.job, |job| job.metadata.resource_version.clone())
}

fn pod_seen(view: &Snapshot, name: &str) -> (&'static str, Option<String>) {
    version(&view.pods[name], |pod| pod.metadata.resource_version.clone())
}

fn at(version: u64) -> Option<String> {
    Some(version.to_string())
}

#[tokio::test(start_paused = true)]
async fn each_subscription_gets_its_own_objects_and_keeps_the_last() {
    let cluster = Scripted::new();
    cluster.jobs([opened([
        (0, line("ADDED", &job("a", "1", 5)) + &line("ADDED", &job("b", "2", 4))),
        (100, line("MODIFIED", &job("a", "1", 7))),
        (200, line("DELETED", &job("a", "1", 9))),
    ])]);
    // Two events in one piece, and one in three.
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
    after(80).await;
    assert_eq!((job_seen(&a.view()), pod_seen(&a.view(), "a-x")), (("present", at(5)), ("present", at(6))));
    let late = watches.subscribe(&cluster, "ns", "a", Some("1"));
    assert_eq!(pod_seen(&late.view(), "a-x"), ("present", at(6)), "what is known is told to who comes late");
    assert_eq!(job_seen(&late.view()), ("present", at(5)));
    after(200).await;
    for subscription in [&a, &late] {
        let view = subscription.view();
        assert_eq!((job_seen(&view), view.job_events), (("deleted", at(9)), 3));
        assert_eq!(pod_seen(&view, "a-x"), ("deleted", at(10)), "its final object is kept");
        assert!(view.pod().is_none() && view.last_pod("a-x").is_some());
    }
    let view = b.view();
    assert_eq!((job_seen(&view), view.job_events, view.pods.len()), (("present", at(4)), 1, 0));
    assert_eq!((cluster.asked("watch jobs").len(), cluster.asked("watch pods").len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_used_again_is_another_job() {
    let cluster = Scripted::new();
    cluster.jobs([opened([
        (0, line("ADDED", &job("a", "1", 5))),
        // Its deletion was never told.
        (100, line("ADDED", &job("a", "2", 8))),
        (200, line("DELETED", &job("a", "1", 7))),
    ])]);
    let watches = watches();
    let old = watches.subscribe(&cluster, "ns", "a", Some("1"));
    let new = watches.subscribe(&cluster, "ns", "a", Some("2"));
    after(150).await;
    assert_eq!(job_seen(&old.view()), ("deleted", at(5)));
    assert_eq!(job_seen(&new.view()), ("present", at(8)));
    after(100).await;
    assert_eq!(job_seen(&new.view()), ("present", at(8)), "a late deletion is not its own");
    assert_eq!(job_seen(&watches.subscribe(&cluster, "ns", "a", Some("2")).view()), ("present", at(8)));
}

#[tokio::test(start_paused = true)]
async fn a_watch_goes_on_where_it_was_and_lists_only_where_it_must() {
    let cluster = Scripted::new();
    cluster.jobs([
        // Nothing but first objects, which come in any order: no place to go on from.
        ended([(0, line("ADDED", &job("a", "1", 50))), (6_000, String::new())]),
        ended([(6_000, bookmark(200))]),
        ended([(0, line("ADDED", &job("b", "2", 205))), (6_000, String::new())]),
        opened([]),
    ]);
    cluster.list(&list(100, &[job("a", "1", 50)]));
    let watches = watches();
    let a = watches.subscribe(&cluster, "ns", "a", Some("1"));
    after(30_000).await;
    let from: Vec<_> = cluster.asked("watch jobs").into_iter().map(|(_, from)| from).collect();
    assert_eq!(from, [None, at(100), at(200), at(205)]);
    assert_eq!(cluster.asked("list jobs").len(), 1);
    assert_eq!(a.view().job_events, 1, "what is listed unchanged is no event");
}

#[tokio::test(start_paused = true)]
async fn what_a_list_does_not_show_is_gone_unless_the_list_cannot_be_read() {
    let expired = json!({"kind": "Status", "code": 410, "reason": "Expired", "metadata": {}});
    let cluster = Scripted::new();
    cluster.jobs([
        opened([
            (0, line("ADDED", &job("a", "1", 5)) + &line("ADDED", &job("b", "2", 6))),
            (1_000, line("ERROR", &expired)),
        ]),
        opened([(1_000, line("ERROR", &expired))]),
        opened([(1_000, line("ERROR", &expired))]),
        opened([]),
    ]);
    // First nobody can say which one the bad item is; then it is `b`; then `b` is gone as well.
    cluster
        .list(&list(10, &[json!({"metadata": {"name": 7}})]))
        .list(&list(20, &[json!({"metadata": {"name": "b"}, "status": "x"})]))
        .list(&list(30, &[]));
    let watches = watches();
    let a = watches.subscribe(&cluster, "ns", "a", Some("1"));
    let b = watches.subscribe(&cluster, "ns", "b", Some("2"));
    after(1_500).await;
    assert_eq!((job_seen(&a.view()).0, job_seen(&b.view()).0), ("present", "present"));
    let view = shows(&a, |view| matches!(view.job, Seen::Deleted(_))).await;
    assert_eq!(job_seen(&view), ("deleted", at(5)), "with the last object there was");
    assert_eq!(job_seen(&b.view()).0, "present");
    assert_eq!(b.view().unreadable, 1, "somebody should look at b");
    shows(&b, |view| matches!(view.job, Seen::Deleted(_))).await;
    assert_eq!(cluster.asked("list jobs").len(), 3);
    assert_eq!(a.view().health, Health::Live);
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_event_concerns_only_its_own_job() {
    let cluster = Scripted::new();
    let mut bad = pod("a-x", "a", "1", 6);
    bad["status"] = json!(7);
    cluster.pods([opened([
        (0, "{\"type\":\"ADD\n\n<html>\n".to_owned() + &line("ADDED", &bad)),
        (1, line("ADDED", &pod("b-x", "b", "2", 7))),
    ])]);
    let watches = watches();
    let a = watches.subscribe(&cluster, "ns", "a", Some("1"));
    let b = watches.subscribe(&cluster, "ns", "b", Some("2"));
    after(10).await;
    assert_eq!((a.view().unreadable, b.view().unreadable), (1, 0));
    assert_eq!(pod_seen(&b.view(), "b-x"), ("present", at(7)));
    assert_eq!(cluster.asked("watch pods").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_panic_ends_neither_watch() {
    let cluster = Scripted::new();
    cluster.jobs([Answer::Panics, Answer::Panics]);
    cluster.list(&list(9, &[job("a", "1", 5)])).list(&list(10, &[job("a", "1", 6)]));
    cluster.pods([opened([(0, line("ADDED", &pod("a-x", "a", "1", 6)))])]);
    let watches = watches();
    let a = watches.subscribe(&cluster, "ns", "a", Some("1"));
    after(1).await;
    assert_eq!(a.view().health, Health::Broken, "whoever subscribed should look for himself meanwhile");
    assert_eq!(pod_seen(&a.view(), "a-x").0, "present");
    let view = shows(&a, |view| view.health == Health::Live).await;
    assert_eq!(job_seen(&view), ("present", at(6)));
    assert_eq!((cluster.asked("watch jobs").len(), cluster.asked("watch pods").len()), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn the_server_sets_the_pace_and_progress_resets_the_pauses() {
    let cluster = Scripted::new();
    let slow = ApiError {
        retry_after: Some(Duration::from_secs(17)),
        ..ApiError::from_answer("watch", 429, None, b"slow down")
    };
    cluster.jobs([Answer::Refused(slow)]).jobs((0..5).map(|_| refused(503)));
    cluster.jobs([ended([(0, bookmark(9))]), opened([])]);
    let watches = watches();
    let a = watches.subscribe(&cluster, "ns", "a", None);
    after(60_000).await;
    let at: Vec<Duration> = cluster.asked("watch jobs").into_iter().map(|(at, _)| at).collect();
    assert_eq!(at.len(), 8);
    assert!(at[1] - at[0] >= Duration::from_secs(17), "{at:?}");
    assert!(at[6] - at[5] > Duration::from_secs(2), "pauses grow: {at:?}");
    assert!(at[7] - at[6] <= Duration::from_millis(250), "and start again: {at:?}");
    assert_eq!(a.view().health, Health::Live);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_brings_nothing_is_opened_anew_with_growing_pauses() {
    let cluster = Scripted::new();
    cluster.jobs((0..100).map(|_| ended([])));
    let watches = watches();
    let a = watches.subscribe(&cluster, "ns", "a", None);
    after(30_000).await;
    let asked = cluster.asked("watch jobs").len();
    assert!((5..15).contains(&asked), "{asked}");
    assert_eq!(a.view().health, Health::Broken);
}

#[tokio::test(start_paused = true)]
async fn silence_is_noticed() {
    let cluster = Scripted::new();
    cluster.list(&list(9, &[job("a", "1", 5)]));
    cluster.jobs([opened([(1_000, bookmark(3))]), opened([])]);
    cluster.pods([opened((0..20).map(|n| (n * 60_000, bookmark(n + 1))))]);
    let watches = watches();
    let a = watches.subscribe(&cluster, "ns", "a", Some("1"));
    let view = shows(&a, |view| view.job_events > 0).await;
    let (now, jobs) = (cluster.origin.elapsed(), cluster.asked("watch jobs"));
    assert!(now <= Duration::from_secs(1 + 180 + 30 + 1) && now > Duration::from_secs(150), "{now:?}");
    assert_eq!(job_seen(&view), ("present", at(5)), "nobody knows what it kept back: listed");
    assert_eq!((jobs.len(), &jobs[1].1), (2, &at(9)));
    assert_eq!(cluster.asked("watch pods").len(), 1, "the other one has its bookmarks");
}

#[tokio::test(start_paused = true)]
async fn a_doubt_opens_the_watches_anew() {
    let cluster = Scripted::new();
    cluster.jobs([opened([(0, line("ADDED", &job("a", "1", 5)))])]);
    cluster.list(&list(9, &[]));
    let watches = watches();
    let a = watches.subscribe(&cluster, "ns", "a", Some("1"));
    after(9_000).await;
    a.request_resync();
    after(1_000).await;
    assert_eq!(job_seen(&a.view()), ("present", at(5)), "it is new");
    a.request_resync();
    after(1_000).await;
    assert_eq!(job_seen(&a.view()), ("deleted", at(5)));
    assert_eq!((cluster.asked("watch jobs").len(), cluster.asked("list jobs").len()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_holds_for_both_kinds_and_for_a_while() {
    for code in [403, 405] {
        let cluster = Scripted::new();
        cluster.jobs([refused(code)]);
        let watches = watches();
        let a = watches.subscribe(&cluster, "ns", "a", None);
        assert_eq!(a.view().health, Health::Starting);
        shows(&a, |view| view.health == Health::Refused).await;
        let b = watches.subscribe(&cluster, "ns", "b", None);
        assert_eq!(b.view().health, Health::Refused, "known without a request");
        assert!(watches.tell_refusal(&cluster) && !watches.tell_refusal(&cluster));
        assert!(watches.tell_refusal(&Scripted::new()), "another cluster is another matter");
        drop(a);
        after(599_000).await;
        assert_eq!(cluster.asked("watch jobs").len(), 1);
        after(2_000).await;
        let c = watches.subscribe(&cluster, "ns", "c", None);
        shows(&c, |view| view.health == Health::Live).await;
        assert_eq!(b.view().health, Health::Live, "the others have it too");
    }
}

#[tokio::test(start_paused = true)]
async fn watches_stop_after_the_last_subscription_and_start_again() {
    let cluster = Scripted::new();
    let watches = watches();
    for round in 1..=3 {
        let first = watches.subscribe(&cluster, "ns", "a", None);
        let other = watches.subscribe(&cluster, "elsewhere", "a", None);
        after(1_000).await;
        drop(first);
        after(5_000).await;
        let next = watches.subscribe(&cluster, "ns", "b", None);
        after(60_000).await;
        assert_eq!(next.view().health, Health::Live);
        assert_eq!(cluster.asked("watch jobs").len(), 2 * round, "one for each namespace, shared");
        drop((next, other));
        after(11_000).await;
        assert_eq!(Arc::strong_count(&cluster), 3, "held by two idle namespaces, by no task");
    }
    let elsewhere = watches.subscribe(&cluster, "third", "a", None);
    assert_eq!(lock(&watches.areas).len(), 1, "what nobody needs is forgotten");
    drop(elsewhere);
}

#[tokio::test(start_paused = true)]
async fn an_opening_that_hangs_does_not_hold_runs_up() {
    let cluster = Scripted::new();
    cluster.jobs([Answer::Refused(ApiError::local(ApiErrorKind::Timeout, "watch", "no answer")), opened([])]);
    let watches = watches();
    let a = watches.subscribe(&cluster, "ns", "a", None);
    shows(&a, |view| view.health == Health::Broken).await;
    shows(&a, |view| view.health == Health::Live).await;
}
