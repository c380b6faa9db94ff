//! What the log's queue, thread and lines must hold.

use std::{
    io::{self, Write},
    sync::mpsc::{Receiver, Sender, channel},
    thread,
};

use super::*;
use crate::escape::tests::{HOSTILE, hostile_characters};

/// A reader of the log that takes a write for each permit.
struct Gate {
    permits: Receiver<usize>,
    read: Sender<Vec<u8>>,
}

impl Write for Gate {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.permits.recv() {
            Ok(0) => Err(io::ErrorKind::BrokenPipe.into()),
            Ok(len) => {
                let taken = &bytes[..bytes.len().min(len)];
                self.read.send(taken.to_vec()).unwrap();
                Ok(taken.len())
            }
            // The test is over.
            Err(_) => loop {
                thread::park();
            },
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink for Gate {}

struct Rig {
    queue: Arc<Queue>,
    permits: Sender<usize>,
    read: Receiver<Vec<u8>>,
}

fn rig(lines_max: usize) -> Rig {
    let queue = Arc::new(Queue::with_room(lines_max));
    let ((permits, gate), (sink, read)) = (channel(), channel());
    let mut gate = Gate { permits: gate, read: sink };
    let writer = queue.clone();
    thread::spawn(move || writer.write_to(&mut gate, |lost| format!("lost {lost}\n").into_bytes()));
    Rig { queue, permits, read }
}

impl Rig {
    fn push(&self, text: &str) -> bool {
        self.queue.push(text.as_bytes().to_vec())
    }

    /// Lets the reader take so much of one write, and gives what it took.
    fn read(&self, len: usize) -> String {
        self.permits.send(len).unwrap();
        String::from_utf8(self.read.recv().unwrap()).unwrap()
    }
}

#[test]
fn a_reader_that_stalls_keeps_nobody_waiting_and_what_is_lost_is_counted_and_said_in_its_place() {
    let rig = rig(2);
    // One is being written, two wait.
    assert!(rig.push("1\n"));
    while !rig.queue.is_idle() {
        thread::yield_now();
    }
    assert!(rig.push("2\n") && rig.push("3\n"));
    for _ in 0..5 {
        assert!(!rig.push("lost\n"));
    }
    assert_eq!(rig.queue.lines_lost(), 5);
    assert!(!rig.queue.flush(Duration::ZERO, Duration::ZERO));
    assert_eq!(rig.read(100) + &rig.read(100), "1\n2\n");
    // The third is being written: there is room again.
    while !rig.queue.is_idle() {
        thread::yield_now();
    }
    assert!(rig.push("4\n"));
    assert_eq!(rig.read(100) + &rig.read(100) + &rig.read(100), "3\nlost 5\n4\n");
    assert!(rig.queue.flush(Duration::MAX / 4, Duration::MAX / 4));
    assert_eq!((rig.queue.lines_lost(), rig.queue.bytes()), (5, 0));
}

#[test]
fn what_was_lost_last_is_said_although_nothing_else_is_logged() {
    let rig = rig(1);
    assert!(rig.push("1\n"));
    while !rig.queue.is_idle() {
        thread::yield_now();
    }
    assert!(rig.push("2\n"));
    assert!(!rig.push("lost\n"));
    assert_eq!(rig.read(100) + &rig.read(100) + &rig.read(100), "1\n2\nlost 1\n");
}

#[test]
fn bytes_have_a_bound_too() {
    let rig = rig(100);
    assert!(rig.queue.push(vec![b'x'; BYTES_MAX - 1]));
    assert!(!rig.push("1\n"));
    assert!(rig.push("\n"));
    assert!(!rig.push("\n"));
    assert_eq!((rig.queue.lines_lost(), rig.queue.bytes()), (2, BYTES_MAX));
}

#[test]
fn a_line_that_cannot_be_written_is_lost_and_the_next_one_begins_a_line() {
    let rig = rig(10);
    assert!(rig.push("one\n"));
    assert_eq!(rig.read(2), "on");
    rig.permits.send(0).unwrap();
    assert!(rig.push("two\n"));
    let all: String = (0..3).map(|_| rig.read(100)).collect();
    assert!(all == "\ntwo\nlost 1\n" || all == "\nlost 1\ntwo\n", "{all:?}");
    assert_eq!(rig.queue.lines_lost(), 1);
}

#[test]
fn an_end_waits_for_a_slow_reader_that_goes_on_and_not_for_one_that_stalls() {
    let rig = rig(10);
    assert!(rig.push("0123456789\n"));
    let queue = rig.queue.clone();
    let waiting = thread::spawn(move || queue.flush(Duration::MAX / 4, Duration::MAX / 4));
    for expected in "0123456789\n".chars() {
        assert_eq!(rig.read(1), expected.to_string());
    }
    assert!(waiting.join().unwrap());
    assert!(rig.push("stuck\n"));
    assert!(!rig.queue.flush(Duration::from_millis(1), Duration::MAX / 4));
}

const FORMS: [Form; 3] = [Form::Logfmt { colours: false }, Form::Logfmt { colours: true }, Form::Json];

fn line(form: Form, key: &'static str, value: &str) -> String {
    let mut line = Line::new(form, Level::INFO, "amop::tests");
    line.text(key, value);
    String::from_utf8(line.finish()).unwrap()
}

/// The pairs of a line, as a reader of logfmt has them.
fn pairs(line: &str) -> Vec<(String, String)> {
    let mut rest = line.strip_suffix('\n').expect("a whole line");
    let mut pairs = Vec::new();
    while !rest.is_empty() {
        let (key, value) = rest.split_once('=').expect("a pair");
        assert!(!key.contains(|c: char| c <= ' ' || c == '"'), "{line}");
        let len = if value.starts_with('"') {
            let mut quoted = serde_json::Deserializer::from_str(value).into_iter::<String>();
            pairs.push((key.to_owned(), quoted.next().expect("a value").expect("JSON's quotes")));
            quoted.byte_offset()
        } else {
            let len = value.find(' ').unwrap_or(value.len());
            assert!(!value[..len].contains(['"', '=', '\\']), "{line}");
            pairs.push((key.to_owned(), value[..len].to_owned()));
            len
        };
        rest = &value[len..];
        rest = if rest.is_empty() { rest } else { rest.strip_prefix(' ').expect("a space between pairs") };
    }
    pairs
}

#[test]
fn a_line_for_people_is_logfmt() {
    let mut line = Line::new(Form::Logfmt { colours: false }, Level::WARN, "amop::tests");
    let values = [
        ("subject", "CN=shop, O=agency"),
        ("reason", "closed by the peer"),
        ("address", "127.0.0.1:20200"),
        ("empty", ""),
        ("quotes", "\"a\" level=ERROR"),
        ("backslash", "\\n"),
        ("plain", "链上"),
        ("wide", "链\u{3000}上"),
    ];
    for (key, value) in values {
        line.text(key, value);
    }
    line.number("session", 3);
    // Wherever it comes, it is first.
    line.text("message", "session cut");
    let text = String::from_utf8(line.finish()).unwrap();
    let read = pairs(&text);
    let mut expected = vec![("level", "WARN"), ("msg", "session cut")];
    expected.extend(values);
    expected.push(("session", "3"));
    assert_eq!(read[0].0, "time");
    let read: Vec<_> = read[1..].iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    assert_eq!(read, expected);
    assert!(
        text.contains(
            " subject=\"CN=shop, O=agency\" reason=\"closed by the peer\" address=127.0.0.1:20200 "
        )
    );
    assert!(text.contains(" plain=链上 ") && text.contains(" empty=\"\" "), "{text}");
}

#[test]
fn no_text_of_others_ends_a_line_or_controls_a_terminal_and_all_of_it_can_be_read_back() {
    for hostile in hostile_characters() {
        let text = format!("a{hostile} level=ERROR msg=\"b\"{hostile}");
        for key in ["subject", "message"] {
            for form in FORMS {
                let line = line(form, key, &text);
                let inside = line.strip_suffix('\n').unwrap();
                let own_colours = inside.replace("\x1b[32mINFO\x1b[0m", "INFO");
                assert!(!own_colours.contains(hostile), "{hostile:?} {line:?}");
                let read = match form {
                    Form::Json => {
                        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
                        line["fields"][key].as_str().unwrap().to_owned()
                    }
                    Form::Logfmt { .. } | Form::Journal => pairs(&line).pop().unwrap().1,
                };
                assert_eq!(read, text);
            }
        }
    }
    let line = line(Form::Json, "subject", HOSTILE);
    assert!(line.strip_suffix('\n').unwrap().chars().all(|c| c.is_ascii_graphic() || c == ' '), "{line:?}");
}

#[test]
fn json_has_numbers_as_numbers_and_the_target() {
    let mut line = Line::new(Form::Json, Level::ERROR, "amop::node");
    line.number("reactors", 4);
    line.text("message", "the node is up");
    let line = line.finish();
    assert!(line.ends_with(
        b"\"fields\":{\"message\":\"the node is up\",\"reactors\":4},\"target\":\"amop::node\"}\n"
    ));
    let line: serde_json::Value = serde_json::from_slice(&line).unwrap();
    assert_eq!(line["level"], "ERROR");
    let time = line["timestamp"].as_str().unwrap();
    assert!(time.len() == 27 && time.ends_with('Z') && time.as_bytes()[10] == b'T', "{time}");
    let nothing = Line::new(Form::Json, Level::INFO, "amop").finish();
    serde_json::from_slice::<serde_json::Value>(&nothing).unwrap();
}

#[test]
fn a_process_that_ends_itself_says_why_also_where_nothing_is_logged() {
    const MARK: &str = "AMOP_TEST_ABORTS";
    if std::env::var_os(MARK).is_some() {
        let _log = start("off", false, None);
        abort("meant");
    }
    let mut again = std::process::Command::new(std::env::current_exe().unwrap());
    let name = "log::tests::a_process_that_ends_itself_says_why_also_where_nothing_is_logged";
    let ended = again.args(["--exact", name, "--nocapture"]).env(MARK, "1").output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(!ended.status.success() && said.contains("meant: the node ends"), "{said}");
}

/// What a program with a log does.
#[test]
#[ignore = "a program of its own, which the test below starts"]
fn a_program_that_panics() {
    let _logging = start("info", false, None).unwrap();
    assert!(supervise::guarded(|| panic!("over a stranger")).is_none());
    eprintln!("it goes on");
    panic!("over its own");
}

#[test]
fn a_panic_ends_the_program_by_a_line_unless_it_is_over_what_a_peer_sent() {
    let arguments = ["--exact", "--ignored", "--nocapture", "log::tests::a_program_that_panics"];
    let program =
        std::process::Command::new(std::env::current_exe().unwrap()).args(arguments).output().unwrap();
    let told = String::from_utf8_lossy(&program.stderr);
    let at = |what: &str| told.find(what).unwrap_or_else(|| panic!("no {what:?} in {told}"));
    assert!(
        at("only that connection ends") < at("over a stranger") && at("over a stranger") < at("it goes on")
    );
    assert!(at("it goes on") < at("the node ends") && at("the node ends") < at("over its own"));
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&program.status), Some(6), "{told}");
}
