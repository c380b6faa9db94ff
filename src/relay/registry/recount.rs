//! Counts anew what the registry counts as it comes and goes, like `shard/recount.rs`.

use super::Registry;

impl Registry {
    /// For tests: what does not agree with the tables that it is the sum of, in words; `None` if all does.
    pub fn miscount(&self) -> Option<String> {
        let (open, order, counts) = self.requests.counted();
        let (tombstones, ranks) = self.tombstones.counted();
        let counts = [
            (
                "bytes of records",
                self.records_bytes,
                self.known.values().map(|known| known.record.footprint()).sum(),
            ),
            (
                "bytes of JSON-RPC requests",
                self.rpc_waiting_bytes,
                self.rpc_waiting.iter().map(|request| request.cost()).sum(),
            ),
            ("requests for state, by their time,", order, open),
            ("requests for state, by who is asked,", counts, open),
            ("tombstones", ranks, tombstones),
        ];
        let wrong = counts.into_iter().find(|(_, counted, anew)| counted != anew);
        wrong.map(|(what, counted, anew)| format!("{counted} {what} are counted, and there are {anew}"))
    }
}
