//! How long requests and pushes took, as the metrics show it.

use std::time::Duration;

use amop::internal::relay::counters::{Histogram, Outcome};

use crate::kit::{Behaviour, LINK_LATENCY, Network};

const BOUND: Duration = Duration::from_secs(40);

/// The bounds, in seconds, between which the one thing lies that was counted; `None` if there is not
/// exactly one.
fn only(histogram: &Histogram) -> Option<(f64, f64)> {
    let mut below = 0.0;
    let mut found = None;
    for (bound, count) in histogram.buckets() {
        if count > 0 {
            if count > 1 || found.is_some() {
                return None;
            }
            found = Some((below, bound));
        }
        below = bound;
    }
    found
}

fn holds((above, bound): (f64, f64), least: Duration, most: Duration) -> bool {
    bound >= least.as_secs_f64() && above <= most.as_secs_f64()
}

#[test]
fn a_request_counts_from_being_taken_to_its_answer_where_it_is_coordinated() {
    let mut net = Network::mesh(71, 2, 1);
    let slow = Duration::from_millis(300);
    let subscriber = net.app(1, Behaviour::Echo(slow));
    net.subscribe(subscriber, &["t"]);
    let publisher = net.app(0, Behaviour::Silent);
    let seq = net.unicast(publisher, "t", b"x");
    assert_eq!(net.answer(publisher, &seq, BOUND).0, 0);
    let here = &net.nodes[0].shared.counters[0].latencies;
    let there = &net.nodes[1].shared.counters[0].latencies;
    let (push, request) = (only(&there.pushes).unwrap(), only(here.requests(Outcome::Answered)).unwrap());
    assert!(holds(push, slow, slow + 4 * LINK_LATENCY), "{push:?}");
    assert!(holds(request, slow, slow + 8 * LINK_LATENCY), "{request:?}");
    assert!(here.requests(Outcome::Answered).sum_seconds() > there.pushes.sum_seconds());
    assert_eq!(only(&here.pushes), None);
    assert_eq!(only(there.requests(Outcome::Answered)), None);
}

#[test]
fn a_request_that_fails_counts_under_how_it_ended() {
    let mut net = Network::mesh(72, 1, 1);
    let publisher = net.app(0, Behaviour::Silent);
    let seq = net.unicast(publisher, "nobody's", b"x");
    assert_eq!(net.answer(publisher, &seq, BOUND).0, 100);
    let silent = net.app(0, Behaviour::Silent);
    net.subscribe(silent, &["t"]);
    let seq = net.unicast(publisher, "t", b"x");
    assert_eq!(net.answer(publisher, &seq, BOUND).0, 102);
    let shared = net.nodes[0].shared.clone();
    let latencies = &shared.counters[0].latencies;
    let refused = only(latencies.requests(Outcome::NoReceiver)).unwrap();
    assert!(holds(refused, Duration::ZERO, LINK_LATENCY), "{refused:?}");
    let timeout = only(latencies.requests(Outcome::Timeout)).unwrap();
    let push_timeout = shared.settings.push_timeout;
    assert!(holds(timeout, push_timeout, push_timeout + LINK_LATENCY), "{timeout:?}");
    for outcome in [Outcome::Answered, Outcome::NotSent, Outcome::NotDelivered, Outcome::OverBandwidth] {
        assert_eq!(only(latencies.requests(outcome)), None, "{outcome:?}");
    }
    assert_eq!(only(&latencies.pushes), None, "a push that is not answered took no time");
}
