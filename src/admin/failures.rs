//! `/failures`: the last messages of this node that did not end with 0; `/trace/SEQ` tells what became of each.

use super::{
    Watched, json,
    listing::{Field, Query},
    lists::{Clock, page},
    pages::NoPage,
};
use crate::{
    relay::diagnostic::{Question, failures::Failure},
    wire::trace::seq_to_text,
};

const FAILURE_FIELDS: &[Field<json::Failure>] = &[
    ("taken", |a, b| a.taken.cmp(&b.taken).then_with(|| a.seq.cmp(&b.seq))),
    ("code", |a, b| a.code.cmp(&b.code)),
    ("topic", |a, b| a.topic.cmp(&b.topic)),
    ("took_us", |a, b| a.took_us.cmp(&b.took_us)),
    ("size", |a, b| a.size.cmp(&b.size)),
];

pub(super) async fn failures(watched: &Watched, query: &str) -> Result<Vec<u8>, NoPage> {
    let query = Query::parse(query, FAILURE_FIELDS)?;
    let clock = Clock::now();
    let mut failures = Vec::new();
    for (told, at) in watched.ask_reactors::<Vec<Failure>>(&Question::Failures).await? {
        let before_us = clock.before_us(at);
        failures.extend(told.into_iter().map(|failure| show(failure, before_us, &clock)));
    }
    Ok(page(failures.len(), query.page(failures).into_iter()))
}

/// A failure that was told so long before the clock's moment.
fn show(Failure { seq, known }: Failure, told_before_us: i64, clock: &Clock) -> json::Failure {
    let trace = known.trace;
    let age_us = i64::try_from(trace.age_us).unwrap_or(i64::MAX / 2);
    json::Failure {
        seq: seq_to_text(&seq),
        taken: clock.show_micros(told_before_us.saturating_add(age_us)),
        role: trace.role.name().into(),
        end: trace.end.name().into(),
        refusal: trace.refusal.name().into(),
        code: trace.code().map(|code| code.0),
        topic: known.topic,
        size: trace.size,
        took_us: trace.took_us,
        address: known.sender.as_deref().map(|sender| sender.address.clone()),
        subject: known.sender.as_deref().map(|sender| sender.subject.clone()),
    }
}
