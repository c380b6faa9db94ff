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
}

/// A bound of the code.
pub(crate) fn fixed(
    name: &'static str,
    value: usize,
    unit: &'static str,
    per: &'static str,
    then: &'static str,
) -> Bound {
    Bound { name, value: value as u64, unit, per, set_by: None, then, memory: 0 }
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
}
