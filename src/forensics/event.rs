//! What the Events of a Job or pod say about its start. Their absence proves nothing.

use k8s_openapi::api::core::v1::Event;
use k8s_openapi::jiff::Timestamp;

use super::reasons::{Hold, Row, Source};

/// What the newest Event of a Job says that keeps its pod from being created.
pub(crate) fn hold_of_job_events(events: &[Event]) -> Option<Hold> {
    newest(events, Source::JobEvent).map(|(_, hold)| hold)
}

/// What the newest Event of a pod says that keeps it from starting. Once its node is at its images and containers, nodes,
/// volumes and sandbox hold it no longer: a Secret that comes right after its pod fails to mount once.
pub(crate) fn hold_of_pod_events(events: &[Event]) -> Option<Hold> {
    let (at, hold) = newest(events, Source::PodEvent)?;
    let of_containers = events.iter().filter(|event| is_of_containers(event)).filter_map(seen_at).max();
    (of_containers < at || of_containers.is_none()).then_some(hold)
}

/// Whether an Event is about a pod's images and containers.
fn is_of_containers(event: &Event) -> bool {
    let reasons = ["Pulling", "Pulled", "Failed", "BackOff", "Created", "Started"];
    event.reason.as_deref().is_some_and(|reason| reasons.contains(&reason))
}

/// Whether the last word of a pod's Events is that an image is being pulled.
pub(crate) fn is_pulling(events: &[Event]) -> bool {
    events
        .iter()
        .filter(|event| is_of_containers(event))
        .max_by_key(|event| seen_at(event))
        .is_some_and(|event| event.reason.as_deref() == Some("Pulling"))
}

fn newest(events: &[Event], source: Source) -> Option<(Option<Timestamp>, Hold)> {
    let of_table = events.iter().filter_map(|event| {
        let reason = event.reason.as_deref()?;
        Some((event, reason, Row::of(source, reason)?))
    });
    let (event, reason, row) = of_table.max_by_key(|(event, ..)| seen_at(event))?;
    Some((seen_at(event), Hold::of_row(row, None, reason, event.message.as_deref())))
}

/// When the event was seen last.
pub(super) fn seen_at(event: &Event) -> Option<Timestamp> {
    let series =
        event.series.as_ref().and_then(|series| series.last_observed_time.as_ref()).map(|time| time.0);
    let times = [
        series,
        event.last_timestamp.as_ref().map(|time| time.0),
        event.event_time.as_ref().map(|time| time.0),
        event.first_timestamp.as_ref().map(|time| time.0),
        event.metadata.creation_timestamp.as_ref().map(|time| time.0),
    ];
    times.into_iter().flatten().max()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::reasons::Grace;
    use super::*;

    fn events(list: &[(&str, &str, &str)]) -> Vec<Event> {
        let event = |(reason, message, at): &(&str, &str, &str)| {
            serde_json::from_value(json!({"metadata": {"name": "e"}, "involvedObject": {}, "type": "Warning",
                "reason": reason, "message": message, "lastTimestamp": at}))
            .unwrap()
        };
        list.iter().map(event).collect()
    }

    #[test]
    fn newest_event_of_the_table_counts() {
        let list = events(&[
            ("FailedCreate", "Error creating: later", "2026-01-01T00:00:09Z"),
            ("FailedCreate", "Error creating: sooner", "2026-01-01T00:00:05Z"),
            ("Suspended", "Job suspended", "2026-01-01T00:00:10Z"),
        ]);
        let hold = hold_of_job_events(&list).unwrap();
        assert_eq!(hold.grace, Grace::PodCreation);
        assert_eq!(hold.text.as_deref(), Some("No pod was created: Error creating: later"));
        assert_eq!(hold_of_pod_events(&list), None, "these are no Events of a pod");
        let list = events(&[("FailedMount", "secret \"x\" not found", "2026-01-01T00:00:09Z")]);
        let hold = hold_of_pod_events(&list).unwrap();
        assert_eq!(hold.text.as_deref(), Some("A volume cannot be mounted: secret \"x\" not found"));
        assert_eq!(hold_of_job_events(&[]), None);
    }

    #[test]
    fn volume_that_was_mounted_later_holds_nothing() {
        let failed = ("FailedMount", "secret \"x\" not found", "2026-01-01T00:00:02Z");
        let pulled = ("Pulled", "m", "2026-01-01T00:00:03Z");
        assert_eq!(hold_of_pod_events(&events(&[failed, pulled])), None);
        let same_second = ("Started", "m", "2026-01-01T00:00:02Z");
        assert_eq!(hold_of_pod_events(&events(&[failed, same_second])), None);
        let before = ("Scheduled", "m", "2026-01-01T00:00:03Z");
        assert!(hold_of_pod_events(&events(&[failed, before])).is_some());
    }

    #[test]
    fn node_without_a_network_is_named() {
        let list = events(&[("NetworkNotReady", "network is not ready: no CNI", "2026-01-01T00:00:02Z")]);
        let text = "The pod's sandbox cannot be set up: network is not ready: no CNI";
        assert_eq!(hold_of_pod_events(&list).unwrap().text.as_deref(), Some(text));
    }

    #[test]
    fn pull_under_way_is_the_last_word() {
        let at = |second: u32| format!("2026-01-01T00:00:{second:02}Z");
        let list = |reasons: &[&str]| {
            let stamped: Vec<_> =
                (1..).zip(reasons).map(|(second, reason)| (*reason, "m", at(second))).collect();
            let list: Vec<_> =
                stamped.iter().map(|(reason, message, at)| (*reason, *message, at.as_str())).collect();
            is_pulling(&events(&list))
        };
        assert!(list(&["Scheduled", "Pulling", "Pulled", "Created", "Started", "Pulling"]));
        assert!(!list(&["Pulling", "Pulled"]));
        assert!(!list(&["Pulling", "Failed"]));
        assert!(!list(&["Scheduled"]) && !list(&[]));
    }
}
