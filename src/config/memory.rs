//! From `[engine] memory_max` to the bounds that are parts of memory: what the file does not say follows from it.
//!
//! ```text
//!   memory_max ─► reactors, longest frame ─► one step for all other parts, the largest with which
//!                                            the sum of all bounds is at most memory_max
//! ```
//!
//! Nothing is reckoned here that the lists of bounds say already: a step is tried by making the lists and adding them up.
//! Where even the lowest step is too much, the start is refused.

use super::{Ini, processors};
use crate::{
    bounds,
    engine::{EngineSettings, memory_bytes},
    relay::{
        registry::NEIGHBOURS_MAX,
        settings::{SESSIONS_MAX, Settings, Tables, queue_bytes_of},
    },
    wire::sdk,
};

/// The step with which tables are as large as their constants say, and pools have their part of memory.
const STEP_FULL: usize = Tables::WHOLE;
/// Pools may have some times their part where tables leave it to them.
const STEP_MAX: usize = 4 * STEP_FULL;
/// There are no more reactors than leave so much for everything else.
const STEP_FOR_REACTORS: usize = STEP_FULL / 8;
/// By default a node takes this part of the memory that there is …
const DEFAULT_PART: u64 = 4;
/// … but no less than this, as far as it is at most …
const DEFAULT_LEAST: u64 = 256 << 20;
/// … so many of four parts of it.
const DEFAULT_QUARTERS_MAX: u64 = 3;
/// Frames are by default no longer than this part of memory where it has no room for the longest of the protocol.
const FRAME_PART: u64 = 32;
/// By default none is shorter than this.
const FRAME_LEN_LEAST: u64 = 1 << 20;
/// There is always room for so many neighbours, and for those that the file names.
const NEIGHBOURS_LEAST: usize = 8;
/// Receive buffers of a reactor where memory is little.
const RECEIVE_BUFFERS_FEW: u16 = 64;

/// How much memory the node may take, and what it has no room for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryMax {
    /// In bytes.
    pub bytes: u64,
    /// Whether the file says it.
    pub is_set: bool,
    /// What is less than it would be with more memory; for people to read.
    pub shortages: Vec<String>,
}

/// Bounds that do not follow from memory, and are parts of it.
#[derive(Clone, Copy)]
pub(super) struct Others {
    pub(super) address_handshakes_max: usize,
    pub(super) log_files_max: usize,
}

/// What a node runs on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Machine {
    /// Bytes of memory that this process may have.
    pub(super) memory: u64,
    /// Processors that it may use.
    pub(super) processors: u16,
}

impl Machine {
    /// This one.
    pub(super) fn this() -> Self {
        Self { memory: memory_bytes() as u64, processors: processors() }
    }
}

/// What all parts have to go by.
struct Ground {
    memory_max: u64,
    reactors: u64,
    frame_len_max: u64,
}

/// A key whose default follows from memory.
struct Key {
    section: &'static str,
    name: &'static str,
    /// What the file may say.
    range: (u64, u64),
    /// The least that is of use, which it is with step 0.
    least: fn(&Ground) -> u64,
    /// What it is with [`STEP_FULL`].
    full: fn(&Ground) -> u64,
    /// The most that it is by default.
    most: u64,
    set: fn(&mut EngineSettings, &mut Settings, usize),
}

const KEYS: [Key; 10] = [
    Key {
        section: "amop",
        name: "node_sessions_max",
        range: (1, SESSIONS_MAX as u64),
        least: |_| 1_024,
        // A node without sessions is none: they get their full number first.
        full: |_| 4 * SESSIONS_MAX as u64,
        most: SESSIONS_MAX as u64,
        set: |_, relay, value| relay.sessions_max = value,
    },
    Key {
        section: "amop",
        name: "node_topics_max",
        range: (1, 1_000_000),
        least: |_| 4_096,
        full: |_| 1_000_000,
        most: 1_000_000,
        set: |_, relay, value| relay.node_topics_max = value,
    },
    Key {
        section: "amop",
        name: "node_subscriptions_max",
        range: (1, 1 << 28),
        least: |_| 4_096,
        full: |_| 1_000_000,
        most: 1_000_000,
        set: |_, relay, value| relay.node_subscriptions_max = value,
    },
    Key {
        section: "amop",
        name: "pending_requests_max",
        range: (1, 1 << 24),
        least: |_| 4_096,
        full: |_| 262_144,
        most: 262_144,
        set: |_, relay, value| relay.pending_requests_max = value,
    },
    Key {
        section: "amop",
        name: "records_bytes_max",
        range: (1 << 20, 1 << 40),
        least: |_| 1 << 20,
        full: |ground| ground.memory_max / 16,
        most: 1 << 40,
        set: |_, relay, value| relay.records_bytes_max = value,
    },
    Key {
        section: "amop",
        name: "windows_bytes_max",
        range: (1 << 20, 1 << 36),
        least: |ground| ground.reactors << 20,
        // There it holds more than one of the longest frames, if possible: others pass beside it.
        full: |ground| {
            let for_frames = 4 * queue_bytes_of(ground.frame_len_max as usize) as u64;
            (ground.memory_max / 16).max(for_frames.min(ground.memory_max / 12))
        },
        most: 1 << 36,
        set: |_, relay, value| relay.windows_bytes_max = value,
    },
    Key {
        section: "amop",
        name: "retained_bytes_max",
        range: (0, 1 << 36),
        least: |ground| ground.reactors << 20,
        full: |ground| ground.memory_max / 32,
        most: 1 << 36,
        set: |_, relay, value| relay.retained_bytes_max = value,
    },
    Key {
        section: "ledger",
        name: "bytes_max",
        range: (1 << 20, 1 << 36),
        least: |ground| ground.reactors << 20,
        full: |ground| ground.memory_max / 32,
        most: 1 << 36,
        set: |_, relay, value| {
            if let Some(ledger) = &mut relay.ledger {
                ledger.bytes_max = value;
            }
        },
    },
    Key {
        section: "engine",
        name: "unfinished_bytes_max",
        range: (1 << 20, 1 << 40),
        // The longest frame fits while others begin.
        least: |ground| ground.frame_len_max + (2 << 20),
        full: |ground| ground.memory_max / 4,
        most: 1 << 40,
        set: |engine, _, value| engine.unfinished_bytes_max = value,
    },
    Key {
        section: "engine",
        name: "queues_bytes_max",
        range: (1 << 20, 1 << 40),
        least: |ground| ground.reactors << 20,
        full: |ground| {
            // The largest part: what waits for applications that read slowly is what a relay has memory for.
            let for_frames = ground.reactors * queue_bytes_of(ground.frame_len_max as usize) as u64;
            (ground.memory_max / 4).max(for_frames.min(ground.memory_max / 3))
        },
        most: 1 << 40,
        set: |engine, _, value| engine.queues_bytes_max = value,
    },
];

/// What the file says of memory and its parts.
pub(super) struct Wanted {
    memory_max: Option<u64>,
    reactors: Option<u16>,
    receive_buffers: Option<u16>,
    frame_len_max: Option<u64>,
    keys: [Option<u64>; KEYS.len()],
    /// Nodes that are to be dialled.
    peers: usize,
}

/// A node's settings, as far as they depend on memory, with the sum of their bounds.
pub(super) struct Plan {
    pub(super) memory_max: MemoryMax,
    pub(super) reactors: u16,
    pub(super) engine: EngineSettings,
    pub(super) relay: Settings,
}

/// Bytes of memory that a node takes unless the file says how much: a quarter of what there is, on small machines more.
fn default_memory_max(there_is: u64) -> u64 {
    (there_is / DEFAULT_PART).max(DEFAULT_LEAST.min(there_is / 4 * DEFAULT_QUARTERS_MAX))
}

/// A number of bytes, with or without a unit.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim_start() {
        "" => 0,
        "KiB" | "K" => 10,
        "MiB" | "M" => 20,
        "GiB" | "G" => 30,
        _ => return None,
    };
    let number: u64 = number.parse().ok()?;
    number.checked_mul(1 << shift).filter(|&bytes| bytes > 0 && bytes <= 1 << 44)
}

/// Rounded down.
fn whole_mebibytes(bytes: u64) -> u64 {
    (bytes >> 20) << 20
}

/// As people write it, rounded up.
fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes.div_ceil(1 << 20))
}

impl Wanted {
    pub(super) fn read(ini: &mut Ini, peers: usize) -> Self {
        let must_be = "a number of bytes, such as 1073741824, 1024M or 1G, up to 16384G";
        let memory_max = ini.optional("engine", "memory_max", must_be, bytes);
        let reactors = ini.optional("engine", "reactors", "a number of reactors from 1 to 256", |text| {
            text.parse::<u16>().ok().filter(|count| (1..=256).contains(count))
        });
        let must_be = "a power of two from 16 to 16384";
        let receive_buffers = ini.optional("engine", "receive_buffers", must_be, |text| {
            text.parse::<u16>().ok().filter(|count| count.is_power_of_two() && (16..=16_384).contains(count))
        });
        let frame_len_max = ini.number_if_set(
            "amop",
            "frame_len_max",
            1024,
            crate::relay::settings::FRAME_LEN_SETTABLE_MAX as u64,
        );
        let keys = KEYS.map(|key| ini.number_if_set(key.section, key.name, key.range.0, key.range.1));
        Self { memory_max, reactors, receive_buffers, frame_len_max, keys, peers }
    }

    /// What follows; a fault of `ini` where it does not fit.
    pub(super) fn plan(
        &self,
        ini: &mut Ini,
        engine: EngineSettings,
        relay: Settings,
        others: Others,
        machine: Machine,
    ) -> Plan {
        let bytes = self.memory_max.unwrap_or_else(|| default_memory_max(machine.memory));
        let mut draft =
            Draft { wanted: self, machine, memory_max: bytes, engine, relay, others, reactors: 1 };
        if !draft.fit() {
            let text = draft.refusal();
            ini.fault("engine", "memory_max", &text);
        }
        let Draft { engine, relay, reactors, .. } = draft;
        let shortages = self.shortages(reactors, &relay, machine);
        let memory_max = MemoryMax { bytes, is_set: self.memory_max.is_some(), shortages };
        Plan { memory_max, reactors, engine, relay }
    }

    /// What the file does not say and is less than it would be with more memory.
    fn shortages(&self, reactors: u16, relay: &Settings, machine: Machine) -> Vec<String> {
        let mut shortages = Vec::new();
        let mut note = |is: u64, would_be: u64, text: &str| {
            if is < would_be {
                shortages.push(format!("{text} {is} instead of {would_be}"));
            }
        };
        if self.reactors.is_none() {
            note(reactors.into(), machine.processors.into(), "reactors:");
        }
        if self.frame_len_max.is_none() {
            note(relay.frame_len_max as u64, sdk::FRAME_LEN_MAX as u64, "bytes of the longest frame:");
        }
        if self.keys[0].is_none() {
            note(relay.sessions_max as u64, SESSIONS_MAX as u64, "sessions:");
        }
        note(relay.neighbours_max as u64, NEIGHBOURS_MAX as u64, "neighbours:");
        shortages
    }
}

/// Settings that are being found.
struct Draft<'a> {
    wanted: &'a Wanted,
    machine: Machine,
    memory_max: u64,
    reactors: u16,
    engine: EngineSettings,
    relay: Settings,
    others: Others,
}

impl Draft<'_> {
    /// Finds what fits; `false` if nothing does.
    fn fit(&mut self) -> bool {
        let reactors_max = self.wanted.reactors.unwrap_or(self.machine.processors);
        let reactors_min = self.wanted.reactors.unwrap_or(1);
        for frame_len_max in self.frame_lens() {
            for reactors in (reactors_min..=reactors_max).rev() {
                let step = if reactors > reactors_min { STEP_FOR_REACTORS } else { 0 };
                if self.sum(reactors, frame_len_max, step) <= self.memory_max {
                    self.take_largest_step(reactors, frame_len_max, step);
                    return true;
                }
            }
        }
        false
    }

    /// The lengths of the longest frame that may be, the best first.
    fn frame_lens(&self) -> Vec<u64> {
        if let Some(set) = self.wanted.frame_len_max {
            return vec![set];
        }
        let shorter = whole_mebibytes(self.memory_max / FRAME_PART).min(sdk::FRAME_LEN_MAX as u64);
        let halves = std::iter::successors(Some(shorter), |len| Some(whole_mebibytes(len / 2)));
        let mut lens = vec![sdk::FRAME_LEN_MAX as u64];
        lens.extend(halves.take_while(|&len| len > FRAME_LEN_LEAST));
        lens.push(FRAME_LEN_LEAST);
        lens
    }

    /// Takes the largest step that fits; `fits` does.
    fn take_largest_step(&mut self, reactors: u16, frame_len_max: u64, fits: usize) {
        let (mut low, mut high) = (fits, STEP_MAX + 1);
        while high - low > 1 {
            let middle = low.midpoint(high);
            if self.sum(reactors, frame_len_max, middle) <= self.memory_max {
                low = middle;
            } else {
                high = middle;
            }
        }
        let sum = self.sum(reactors, frame_len_max, low);
        debug_assert!(sum <= self.memory_max, "a larger step takes no less");
    }

    /// Bytes of all bounds with a step, which the settings are left with.
    fn sum(&mut self, reactors: u16, frame_len_max: u64, step: usize) -> u64 {
        self.set(reactors, frame_len_max, step, None);
        self.memory()
    }

    fn memory(&self) -> u64 {
        let reactors = self.reactors.into();
        let Others { address_handshakes_max, log_files_max } = self.others;
        bounds::memory(&bounds::of(
            &self.engine,
            &self.relay,
            reactors,
            address_handshakes_max,
            log_files_max,
        ))
    }

    /// As the file says, and else by the step. Of what it says the key `left_out` is left out.
    fn set(&mut self, reactors: u16, frame_len_max: u64, step: usize, left_out: Option<usize>) {
        let ground = Ground { memory_max: self.memory_max, reactors: reactors.into(), frame_len_max };
        let Self { wanted, engine, relay, .. } = self;
        relay.frame_len_max = frame_len_max as usize;
        relay.tables = Tables::of_parts(step);
        for (index, key) in KEYS.iter().enumerate() {
            let by_step = || {
                let part = u128::from((key.full)(&ground)) * step as u128 / STEP_FULL as u128;
                (part as u64).min(key.most).max((key.least)(&ground))
            };
            let set = wanted.keys[index].filter(|_| left_out != Some(index));
            (key.set)(engine, relay, set.unwrap_or_else(by_step) as usize);
        }
        relay.pending_pushes_max =
            (262_144 * step / STEP_FULL).clamp(4_096, Settings::default().pending_pushes_max);
        relay.neighbours_max = (4 * NEIGHBOURS_MAX * step / STEP_FULL)
            .clamp((NEIGHBOURS_LEAST + wanted.peers).min(NEIGHBOURS_MAX), NEIGHBOURS_MAX);
        let receive_buffers = if step < STEP_FOR_REACTORS {
            RECEIVE_BUFFERS_FEW
        } else {
            EngineSettings::default().receive_buffers
        };
        engine.receive_buffers = wanted.receive_buffers.unwrap_or(receive_buffers);
        self.reactors = reactors;
    }

    /// Why nothing fits, with what takes most and what to do.
    fn refusal(&mut self) -> String {
        let reactors = self.wanted.reactors.unwrap_or(1);
        let shortest = FRAME_LEN_LEAST;
        let frame_len_max = self.wanted.frame_len_max.unwrap_or(shortest);
        let all = self.sum(reactors, frame_len_max, 0);
        let mut parts = Vec::new();
        let mut note = |text: String, without: u64| parts.push((all.saturating_sub(without), text));
        if let Some(count) = self.wanted.reactors {
            note(format!("[engine] reactors={count}"), self.sum(1, frame_len_max, 0));
        }
        if let Some(len) = self.wanted.frame_len_max {
            note(format!("[amop] frame_len_max={len}"), self.sum(reactors, shortest.min(len), 0));
        }
        if let Some(count) = self.wanted.receive_buffers {
            let less = count.saturating_sub(16);
            let bytes = u64::from(less) * self.engine.receive_buffer_len as u64 * u64::from(reactors);
            note(format!("[engine] receive_buffers={count}"), all - bytes);
        }
        for (index, key) in KEYS.iter().enumerate() {
            if let Some(value) = self.wanted.keys[index] {
                self.set(reactors, frame_len_max, 0, Some(index));
                let Key { section, name, .. } = key;
                note(format!("[{section}] {name}={value}"), self.memory());
            }
        }
        // What is below a mebibyte is not worth a word.
        parts.retain(|(bytes, _)| *bytes >> 20 > 0);
        parts.sort_by(|one, other| other.cmp(one));
        let said: u64 = parts.iter().map(|(bytes, _)| bytes).sum();
        let parts: Vec<_> =
            parts.iter().map(|(bytes, text)| format!("{} for {text}", mebibytes(*bytes))).collect();
        let of_what = match self.wanted.memory_max {
            Some(bytes) => format!("= {}", mebibytes(bytes)),
            None => format!(
                "is not set, and by default {} of the {} that this machine or its control group has",
                mebibytes(self.memory_max),
                mebibytes(self.machine.memory)
            ),
        };
        let (arithmetic, remedy) = match parts.as_slice() {
            [] => ("all bounds at their least".to_owned(), "raise it, or give the node more memory"),
            _ => (
                format!(
                    "{}, and {} for all else at its least",
                    parts.join(", "),
                    mebibytes(all.saturating_sub(said))
                ),
                "lower these keys, or raise memory_max",
            ),
        };
        format!("{of_what}, must be at least {}: {arithmetic}; {remedy}", mebibytes(all))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    const GIB: u64 = 1 << 30;
    const MIB: u64 = 1 << 20;

    fn on(memory: u64, processors: u16, text: &str) -> Result<Config, Vec<String>> {
        Config::parse_on(text, Path::new("."), Machine { memory, processors })
            .map(|(config, _)| config)
            .map_err(|problems| problems.into_iter().map(|problem| problem.text).collect())
    }

    const LEDGER: &str = "[ledger]\nnode.0=127.0.0.1:20200\namop=true\n";

    #[test]
    fn on_every_machine_a_node_starts_and_all_its_bounds_together_are_within_memory_max() {
        for memory in [256 * MIB, 512 * MIB, GIB, 2 * GIB, 3_800 * MIB, 16 * GIB, 64 * GIB, 1_024 * GIB] {
            for processors in [1, 2, 4, 16, 64, 256] {
                for text in ["", LEDGER] {
                    let config = on(memory, processors, text).expect("a node");
                    let (max, sum) = (config.memory_max.bytes, bounds::memory(&config.bounds()));
                    assert!(sum <= max, "{memory} {processors}: {sum} of {max}");
                    assert!(max <= memory / 4 * 3 && max >= memory / 4);
                    // It is used, too, where tables and pools can grow.
                    assert!(sum > max / 10 * 9, "{memory} {processors}: {sum} of {max}");
                    assert!(config.relay.sessions_max >= 1_024 && config.relay.neighbours_max >= 8);
                }
            }
        }
    }

    #[test]
    fn frames_of_100_mib_are_taken_on_a_machine_of_4_gib_and_shorter_ones_where_there_is_less() {
        // The kernel has its part of 4 GiB.
        for text in ["", LEDGER] {
            let config = on(3_800 * MIB, 2, text).expect("a node");
            assert_eq!(config.relay.frame_len_max, sdk::FRAME_LEN_MAX);
            assert!(config.engine.unfinished_bytes_max > sdk::FRAME_LEN_MAX);
        }
        let config = on(256 * MIB, 2, "").expect("a node");
        assert!((1 << 20..64 << 20).contains(&config.relay.frame_len_max));
        assert!(config.memory_max.shortages.iter().any(|text| text.contains("longest frame")));
        assert_eq!(on(24 * GIB, 2, "").expect("a node").memory_max.shortages, [""; 0]);
    }

    #[test]
    fn what_the_file_says_holds_and_the_rest_gives_way() {
        let base = on(16 * GIB, 2, "").expect("a node");
        let text = "[engine]\nqueues_bytes_max=1073741824\n[amop]\nnode_sessions_max=5000\n";
        let config = on(16 * GIB, 2, text).expect("a node");
        assert_eq!(config.engine.queues_bytes_max, 1 << 30);
        assert_eq!(config.relay.sessions_max, 5_000);
        assert!(config.engine.unfinished_bytes_max < base.engine.unfinished_bytes_max);
        assert!(bounds::memory(&config.bounds()) <= config.memory_max.bytes);
        let more = on(16 * GIB, 2, "[engine]\nmemory_max=8G\n").expect("a node");
        assert_eq!(more.memory_max.bytes, 8 * GIB);
        assert!(more.engine.unfinished_bytes_max > base.engine.unfinished_bytes_max);
    }

    #[test]
    fn memory_max_is_bytes_or_has_a_unit() {
        for (text, expected) in [
            ("1073741824", Some(GIB)),
            ("1G", Some(GIB)),
            ("1GiB", Some(GIB)),
            ("512 MiB", Some(512 * MIB)),
            ("4K", Some(4_096)),
            ("1.5G", None),
            ("0", None),
            ("25%", None),
            ("G", None),
            ("99999999999999999999", None),
            ("99999999999G", None),
        ] {
            assert_eq!(bytes(text), expected, "{text}");
        }
        let refused = on(16 * GIB, 2, "[engine]\nmemory_max=25%\n").unwrap_err();
        assert_eq!(
            refused,
            [
                "[engine] memory_max = \"25%\" must be a number of bytes, such as 1073741824, 1024M or 1G, up to 16384G"
            ]
        );
    }

    #[test]
    fn where_not_even_the_least_fits_the_start_is_refused_with_the_sum_and_what_to_lower() {
        let refused = |text: &str| on(16 * GIB, 2, text).unwrap_err().concat();
        let text = refused("[engine]\nmemory_max=64M\n");
        let least = text.split("at least ").nth(1).and_then(|rest| rest.split(' ').next()).expect("a number");
        assert!(text.starts_with("[engine] memory_max = 64 MiB, must be at least "), "{text}");
        assert!(
            text.ends_with("all bounds at their least; raise it, or give the node more memory"),
            "{text}"
        );
        // What is said there is enough, and not by a mebibyte too much.
        let least: u64 = least.parse().expect("a number");
        assert!(on(16 * GIB, 2, &format!("[engine]\nmemory_max={least}M\n")).is_ok());
        assert!(on(16 * GIB, 2, &format!("[engine]\nmemory_max={}M\n", least - 1)).is_err());

        let text = refused(
            "[engine]\nmemory_max=1G\nqueues_bytes_max=1073741824\n[amop]\nretained_bytes_max=104857600\n",
        );
        assert!(text.contains("2046 MiB for [engine] queues_bytes_max=1073741824, 198 MiB for [amop] retained_bytes_max=104857600, and "), "{text}");
        assert!(text.ends_with("for all else at its least; lower these keys, or raise memory_max"), "{text}");
        let text = refused("[engine]\nunfinished_bytes_max=8589934592\n");
        assert!(
            text.starts_with("[engine] memory_max is not set, and by default 4096 MiB of the 16384 MiB"),
            "{text}"
        );
        assert!(on(16 * GIB, 2, "[engine]\nmemory_max=16G\nunfinished_bytes_max=8589934592\n").is_ok());
        let text = refused("[engine]\nreactors=64\n[amop]\nframe_len_max=104857600\n");
        assert!(
            text.contains("for [engine] reactors=64") && text.contains("for [amop] frame_len_max=104857600"),
            "{text}"
        );
    }

    #[test]
    fn neighbours_that_the_file_names_have_room_however_little_memory_there_is() {
        let peers: String =
            (0..40).map(|number| format!("node.{number}=127.0.0.1:{}\n", 30_301 + number)).collect();
        let config = on(512 * MIB, 1, &format!("[p2p]\n{peers}")).expect("a node");
        assert!(config.relay.neighbours_max >= 48);
    }
}
