//! What a bound is: how much of what, who sets it, what happens there.

/// One bound: how much of what, who sets it, what happens there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// What is bounded.
    pub name: &'static str,
    /// How much.
    pub value: u64,
    /// Of what.
    pub unit: &'static str,
    /// For each of what.
    pub per: &'static str,
    /// The key of config.ini that sets it; `None` if it is fixed.
    pub set_by: Option<&'static str>,
    /// What happens there, and the counter that shows it.
    pub then: &'static str,
    /// Bytes of memory that the whole node takes for it when it is reached everywhere; 0 if they are in
    /// another bound, or there are none.
    pub memory: u64,
    /// The metric that tells it; `None` if none does.
    pub metric: Option<BoundMetric>,
}

/// The metric that tells a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoundMetric {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub help: &'static str,
    /// The metric that is bounded.
    pub of: &'static str,
}

/// A bound of the code.
pub(crate) fn fixed(
    name: &'static str,
    value: usize,
    unit: &'static str,
    per: &'static str,
    then: &'static str,
) -> Bound {
    Bound { name, value: value as u64, unit, per, set_by: None, then, memory: 0, metric: None }
}

impl Bound {
    /// The same, as an operator may set it.
    pub(crate) fn set_by(self, key: &'static str) -> Self {
        Self { set_by: Some(key), ..self }
    }

    /// The same, with the memory that the node takes for it.
    pub(crate) fn memory(self, bytes: usize) -> Self {
        Self { memory: bytes as u64, ..self }
    }

    /// The same, told by the metric `name`, which is that of what is bounded with `_max` behind it.
    pub(crate) fn metric(self, name: &'static str, help: &'static str) -> Self {
        let of = name.strip_suffix("_max").unwrap_or(name);
        Self { metric: Some(BoundMetric { name, help, of }), ..self }
    }

    /// The same, where the metric of what is bounded has another name.
    pub(crate) fn metric_of(self, of: &'static str, name: &'static str, help: &'static str) -> Self {
        Self { metric: Some(BoundMetric { name, help, of }), ..self }
    }

    /// Whether each reactor may reach it, so that their metrics do not add up.
    pub fn is_of_each_reactor(&self) -> bool {
        matches!(self.per, "reactor" | "neighbour")
    }
}
