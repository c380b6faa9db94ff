//! The pages that are made of what reactors, the registry and other nodes answer: where each is, and who makes it.

use hyper::StatusCode;

use super::{
    Answer, Watched,
    ask::Unanswered,
    failures, json_answer, ledgers,
    listing::QueryError,
    lists, network, nodes, peers_2x,
    ping::{self, NodeError},
    trace, with_json,
};

/// Why a page is not given: whose fault that is, and a line for whoever asked.
#[derive(Debug)]
pub(super) struct NoPage {
    pub(super) status: StatusCode,
    pub(super) line: String,
}

impl NoPage {
    pub(super) fn new(status: StatusCode, why: impl ToString) -> Self {
        Self { status, line: why.to_string() }
    }
}

impl From<Unanswered> for NoPage {
    fn from(error: Unanswered) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error)
    }
}

impl From<QueryError> for NoPage {
    fn from(error: QueryError) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error)
    }
}

impl From<NodeError> for NoPage {
    fn from(error: NodeError) -> Self {
        let is_unknown = matches!(error, NodeError::Unknown(_));
        Self::new(if is_unknown { StatusCode::NOT_FOUND } else { StatusCode::BAD_REQUEST }, error)
    }
}

/// A page, with what its path says beyond where it is.
pub(super) enum Page<'a> {
    Nodes,
    Sessions,
    Links,
    Ledgers,
    Peers2x,
    Topics,
    Failures,
    Network,
    NetworkTopics,
    Trace(&'a str),
    Ping(&'a str),
}

impl<'a> Page<'a> {
    /// Those that there are, for people.
    pub(super) const PATHS: &'static str = "/nodes, /sessions, /links, /ledgers, /peers_2x, /topics, /failures, /network, /network/topics, /trace/SEQ, /ping/NODE";

    pub(super) fn of(path: &'a str) -> Option<Self> {
        Some(match path {
            "/nodes" => Self::Nodes,
            "/sessions" => Self::Sessions,
            "/links" => Self::Links,
            "/ledgers" => Self::Ledgers,
            "/peers_2x" => Self::Peers2x,
            "/topics" => Self::Topics,
            "/failures" => Self::Failures,
            "/network" => Self::Network,
            "/network/topics" => Self::NetworkTopics,
            _ => match path.strip_prefix('/')?.split_once('/')? {
                ("trace", seq) => Self::Trace(seq),
                ("ping", node) => Self::Ping(node),
                _ => return None,
            },
        })
    }

    /// Whether it may be some megabytes long.
    pub(super) fn is_long(&self) -> bool {
        !matches!(self, Self::Ping(_))
    }

    pub(super) async fn make(self, watched: &Watched, query: &str) -> Result<Answer, NoPage> {
        let list = match self {
            Self::Nodes => nodes::nodes(watched, query).await,
            Self::Sessions => lists::sessions(watched, query).await,
            Self::Links => lists::links(watched, query).await,
            Self::Ledgers => ledgers::ledgers(watched, query).await,
            Self::Peers2x => peers_2x::peers_2x(watched, query).await,
            Self::Topics => lists::topics(watched, query).await,
            Self::Failures => failures::failures(watched, query).await,
            Self::Network => network::network(watched, query).await,
            Self::NetworkTopics => network::topics(watched, query).await,
            Self::Trace(seq) => return trace::page(watched, seq).await,
            Self::Ping(node) => return Ok(json_answer(&ping::ping(watched, node).await?)),
        };
        list.map(with_json)
    }
}
