//! The two text formats of metrics, and who gets which: OpenMetrics for whoever asks for it by `Accept`, else what Prometheus
//! has read since its beginning (text, version 0.0.4).
//!
//! The library writes OpenMetrics; the older format is made of that, line by line.

use hyper::header::{ACCEPT, HeaderMap};

/// How metrics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// `text/plain; version=0.0.4`.
    Text,
    /// `application/openmetrics-text; version=1.0.0`.
    OpenMetrics,
}

/// A weight of `Accept`, in thousandths.
type Weight = u16;
const WEIGHT_MAX: Weight = 1_000;

impl Format {
    /// The one that suits whoever asks with these headers: OpenMetrics if it is named and weighs no less than text.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let (mut open_metrics, mut text) = (0, (0, 0));
        let fields = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        for Accepted { range, version, weight } in
            fields.flat_map(|field| field.split(',')).filter_map(accepted)
        {
            // The range that says most of a format decides about it.
            let says = match range.as_str() {
                "application/openmetrics-text" if matches!(version, None | Some("1.0.0")) => {
                    open_metrics = open_metrics.max(weight);
                    continue;
                }
                "text/plain" if version == Some("0.0.4") => 4,
                "text/plain" if version.is_none() => 3,
                "text/*" => 2,
                "*/*" => 1,
                _ => continue,
            };
            text = text.max((says, weight));
        }
        if open_metrics > 0 && open_metrics >= text.1 { Self::OpenMetrics } else { Self::Text }
    }

    /// What tells scrapers how to read it.
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// The same metrics in this format.
    pub(super) fn write(self, open_metrics: String) -> String {
        match self {
            Self::Text => text_of(&open_metrics),
            Self::OpenMetrics => open_metrics,
        }
    }
}

/// One element of `Accept`.
struct Accepted<'a> {
    range: String,
    version: Option<&'a str>,
    weight: Weight,
}

fn accepted(element: &str) -> Option<Accepted<'_>> {
    let mut parts = element.split(';').map(str::trim);
    let range = parts.next()?.to_ascii_lowercase();
    let mut accepted = Accepted { range, version: None, weight: WEIGHT_MAX };
    for (key, value) in parts.filter_map(|part| part.split_once('=')) {
        match key.trim_end().to_ascii_lowercase().as_str() {
            "version" => accepted.version = Some(value.trim().trim_matches('"')),
            "q" => accepted.weight = weight(value.trim())?,
            _ => {}
        }
    }
    Some(accepted)
}

/// From 0 to 1, with up to three digits behind the point.
fn weight(text: &str) -> Option<Weight> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let is_weight = matches!(whole, "0" | "1") && part.len() <= 3 && part.bytes().all(|b| b.is_ascii_digit());
    let thousandths: Weight = format!("{whole}{part:0<3}").parse().ok().filter(|_| is_weight)?;
    (thousandths <= WEIGHT_MAX).then_some(thousandths)
}

/// Metadata has the names of samples, there is neither `info` nor a unit nor an end.
fn text_of(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len() + open_metrics.len() / 16);
    let mut help = None;
    for line in open_metrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            // How the samples are called depends on the kind, which comes next.
            help = rest.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                kind => ("", kind),
            };
            if let Some((_, about)) = help.take_if(|(of, _)| *of == name) {
                text.extend(["# HELP ", name, suffix, " ", about, "\n"]);
            }
            text.extend(["# TYPE ", name, suffix, " ", kind, "\n"]);
        } else if !line.starts_with('#') {
            text.extend([line, "\n"]);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn of(fields: &[&str]) -> Format {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(ACCEPT, HeaderValue::from_str(field).unwrap());
        }
        Format::of(&headers)
    }

    #[test]
    fn open_metrics_is_for_whoever_asks_for_it() {
        for fields in [
            // Prometheus 2.42, 3.x, and with scrape_protocols turned around.
            &[
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            ][..],
            &[
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            ],
            &["application/openmetrics-text"],
            &["Application/OpenMetrics-Text; Version=\"1.0.0\"; Q=0.001"],
            &["text/plain;q=0.9", "application/openmetrics-text;q=0.9"],
            // What is said of text itself goes before what is said of everything.
            &["*/*, text/plain;q=0.1, application/openmetrics-text;q=0.2"],
            &["text/*, text/plain;q=0, application/openmetrics-text;q=0.2"],
        ] {
            assert_eq!(of(fields), Format::OpenMetrics, "{fields:?}");
        }
        for fields in [
            &[][..],
            &["*/*"],
            &["text/plain"],
            &["text/plain;version=0.0.4;q=0.6,application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.1"],
            &["application/openmetrics-text;q=0.5, */*"],
            &["application/openmetrics-text;q=0"],
            &["application/openmetrics-text;version=0.0.1"],
            &["application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"],
            &["text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"],
            // No weight.
            &["application/openmetrics-text;q=2"],
            &["application/openmetrics-text;q=1.001"],
            &["application/openmetrics-text;q=0.5555"],
            &["application/openmetrics-text;q=", ",;=;q,,"],
        ] {
            assert_eq!(of(fields), Format::Text, "{fields:?}");
        }
    }

    #[test]
    fn the_older_text_has_the_same_samples_under_metadata_of_their_names() {
        let open_metrics = "# HELP amop_requests Requests.\n# TYPE amop_requests counter\namop_requests_total 3\n\
            # HELP amop_request_seconds Time.\n# TYPE amop_request_seconds histogram\n# UNIT amop_request_seconds seconds\n\
            amop_request_seconds_sum 1.5\namop_request_seconds_count 1\namop_request_seconds_bucket{le=\"+Inf\"} 1\n\
            # HELP amop_build What runs.\n# TYPE amop_build info\namop_build_info{version=\"# HELP \\\"\"} 1\n\
            # HELP amop_sessions Sessions.\n# TYPE amop_sessions gauge\namop_sessions 2\n# EOF\n";
        let text = "# HELP amop_requests_total Requests.\n# TYPE amop_requests_total counter\namop_requests_total 3\n\
            # HELP amop_request_seconds Time.\n# TYPE amop_request_seconds histogram\n\
            amop_request_seconds_sum 1.5\namop_request_seconds_count 1\namop_request_seconds_bucket{le=\"+Inf\"} 1\n\
            # HELP amop_build_info What runs.\n# TYPE amop_build_info gauge\namop_build_info{version=\"# HELP \\\"\"} 1\n\
            # HELP amop_sessions Sessions.\n# TYPE amop_sessions gauge\namop_sessions 2\n";
        assert_eq!(Format::Text.write(open_metrics.to_owned()), text);
        assert_eq!(Format::OpenMetrics.write(open_metrics.to_owned()), open_metrics);
    }
}
