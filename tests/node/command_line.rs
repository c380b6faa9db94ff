//! What commands print, answer and refuse: nothing is lost, nothing is claimed that did not happen, and nothing that
//! others wrote reaches a terminal.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use amop::{
    client::file,
    internal::{
        pki::Profile,
        relay::settings::FRAME_LEN_SETTABLE_MAX,
        wire::{
            ResultCode,
            sdk::{self, FrameType},
        },
    },
};

use crate::support::{
    BOUND, Nobody, RawSdk, TestNode, client, host_dir,
    process::{PROGRAM, output},
    runtime,
};

const PROFILE: Profile = Profile::Ec;
/// What a terminal would obey.
const HOSTILE: &str = "\u{1b}[2J\r\n\u{9b}31m\u{202e}\u{7f}\0";

fn node() -> TestNode {
    TestNode::start(PROFILE, 0, &[], "[admin]\nlisten_port=0\n")
}

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The program as an application of a node.
fn application(node: &TestNode, arguments: &[&str]) -> Command {
    let mut command = program(arguments);
    command.arg("-n").arg(node.node().channel_address().to_string());
    command.arg("-c").arg(host_dir(PROFILE).join("sdk"));
    command
}

/// Starts a subscriber and waits until its node knows it.
fn subscribe(node: &TestNode, topic: &str, command: &mut Command) -> Child {
    let child = command.spawn().unwrap();
    node.wait_for_subscribers(topic, 1);
    child
}

/// A file as standard output that takes nothing.
fn full() -> Stdio {
    fs::OpenOptions::new().write(true).open("/dev/full").unwrap().into()
}

/// A pipe as standard output whose reader has left.
fn closed() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

/// Fails if a terminal would obey anything in it.
fn assert_harmless(output: &[u8]) {
    for line in text(output).lines() {
        assert!(
            line.chars().all(|character| character.escape_debug().len() == 1 || "\\\"'".contains(character)),
            "{line:?}"
        );
    }
}

fn json(output: &[u8]) -> serde_json::Value {
    serde_json::from_slice(output)
        .unwrap_or_else(|error| panic!("{error}: {:?}", String::from_utf8_lossy(output)))
}

#[test]
fn what_cannot_be_printed_is_an_error_and_a_reader_that_left_is_none() {
    let node = node();
    let admin = node.node().admin_address().unwrap().to_string();
    let dir = tempfile::tempdir().unwrap();
    let config = host_dir(PROFILE).join("node0/config.ini");
    let certificate = host_dir(PROFILE).join("sdk/sdk.crt");
    let (config, certificate) = (config.to_str().unwrap(), certificate.to_str().unwrap());
    let made = program(&["keys", "new", "--out"]).arg(dir.path()).output().unwrap();
    let key = text(&made.stdout).lines().nth(2).unwrap()["private file ".len()..].to_owned();
    let seq = "0123456789abcdef0123456789abcdef";
    let id = node.node().id().to_hex();
    let commands: &[&[&str]] = &[
        &["--version"],
        &["--help"],
        &["sub", "--help"],
        &["completions", "bash"],
        &["bounds", "-c", config],
        &["node", "-c", config, "--check"],
        &["pki", "show", certificate],
        &["keys", "show", &key],
        &["keys", "convert", &key, "--to", "public-hex"],
        &["net", "--admin", &admin],
        &["net", "--admin", &admin, "--json"],
        &["net", "--admin", &admin, "--dot"],
        &["net", "--admin", &admin, "--topics"],
        &["net", "announce", "hello", "--admin", &admin],
        &["top", "--admin", &admin, "--once", "--interval", "0.1"],
        &["trace", seq, "--admin", &admin],
        &["trace", seq, "--admin", &admin, "--json"],
        &["demo"],
    ];
    for arguments in commands {
        let Output { status, stderr, .. } = program(arguments).stdout(full()).output().unwrap();
        assert_eq!(status.code(), Some(1), "{arguments:?}: {}", text(&stderr));
        assert!(text(&stderr).contains("No space left on device"), "{arguments:?}: {}", text(&stderr));
        let Output { status, stderr, .. } = program(arguments).stdout(closed()).output().unwrap();
        assert!(matches!(status.code(), Some(0 | 3)), "{arguments:?}: {status:?} {}", text(&stderr));
        assert_eq!(text(&stderr), "", "{arguments:?}");
        // Nobody can read why either, and that is no reason to panic.
        let Output { status, .. } = program(arguments).stdout(full()).stderr(full()).output().unwrap();
        assert_eq!(status.code(), Some(1), "{arguments:?}");
    }
    // A ping of oneself is refused before anything is printed; one of a network is not at hand here.
    let refused = program(&["net", "ping", &id, "--admin", &admin]).stderr(full()).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    for arguments in
        [&["pub", "t", "x"][..], &["pub", "t", "x", "-o", "json"], &["pub", "t", "x", "--count", "3"]]
    {
        let output = application(&node, arguments).stdout(full()).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert!(text(&output.stderr).contains("No space left on device"), "{}", text(&output.stderr));
        // Nobody subscribes, and the status says so whoever reads.
        let output = application(&node, arguments).stdout(closed()).output().unwrap();
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(3), ""), "{arguments:?}");
    }
    let bench = ["bench", "--seconds", "1", "--warm-up", "0", "--window", "1"];
    let output = application(&node, &bench).stdout(full()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    node.stop();
}

#[test]
fn a_subscriber_answers_nothing_that_it_could_not_print() {
    let node = node();
    let mut deaf =
        subscribe(&node, "t", application(&node, &["sub", "t", "--reply", "taken"]).stdout(full()));
    let published = application(&node, &["pub", "t", "x"]).output().unwrap();
    assert_eq!(published.status.code(), Some(3), "{}", text(&published.stdout));
    assert!(!text(&published.stdout).contains("taken"));
    assert_eq!(deaf.wait().unwrap().code(), Some(1));
    let mut said = String::new();
    deaf.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("standard output cannot be written"), "{said}");
    node.stop();
}

/// `amop sub --save` that cannot write more than a few KiB into any file.
fn subscriber_of_small_files(node: &TestNode, dir: &Path, more: &[&str]) -> Child {
    let mut shell = Command::new("sh");
    // Ignored signals stay ignored: what is too long fails, as on a full disk.
    shell.args([
        "-c",
        "trap '' XFSZ; ulimit -f 8; exec \"$@\"",
        "sh",
        PROGRAM,
        "sub",
        "f",
        "--reply",
        "saved",
    ]);
    shell.arg("-n").arg(node.node().channel_address().to_string());
    shell.arg("-c").arg(host_dir(PROFILE).join("sdk")).arg("--save").arg(dir).args(more);
    shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    subscribe(node, "f", &mut shell)
}

#[test]
fn a_file_is_answered_for_once_it_is_saved_and_one_that_is_not_leaves_nothing_and_ends_nothing() {
    let node = node();
    let files = tempfile::tempdir().unwrap();
    let (long, short) = (files.path().join("long.bin"), files.path().join("short.bin"));
    // In base64, twice, it still fits into a pipe that nobody reads yet.
    fs::write(&long, vec![7; 20_000]).unwrap();
    fs::write(&short, b"short").unwrap();
    for output in ["text", "json"] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("short.bin"), b"was there").unwrap();
        let subscriber = subscriber_of_small_files(&node, dir.path(), &["-o", output, "--count", "3"]);
        let publish = |path: &Path, more: &[&str]| {
            let mut command = application(&node, &["pub", "f", "-o", "json"]);
            json(&command.arg("--file").arg(path).args(more).output().unwrap().stdout)
        };
        let refused = publish(&long, &[]);
        assert_eq!(refused["code"], 1, "{refused}");
        assert!(refused["answer"].as_str().unwrap().contains("could not be written"), "{refused}");
        assert_eq!(publish(&short, &[])["answer"], "saved");
        assert_eq!(publish(&long, &["--multicast"])["code"], 0);
        let Output { status, stdout, stderr } = subscriber.wait_with_output().unwrap();
        assert_eq!(status.code(), Some(4), "{}", text(&stderr));
        assert_eq!(text(&stderr).matches("long.bin").count(), 2, "{}", text(&stderr));
        assert_eq!(text(&stdout).lines().count(), 3, "{}", text(&stdout));
        let mut names: Vec<_> =
            fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["short.bin", "short.bin.1"]);
        assert_eq!(fs::read(dir.path().join("short.bin")).unwrap(), b"was there");
        assert_eq!(fs::read(dir.path().join("short.bin.1")).unwrap(), b"short");
        node.wait_for_subscribers("f", 0);
    }
    node.stop();
}

#[test]
fn bytes_go_in_and_come_out_as_they_are() {
    let node = node();
    let bytes: Vec<u8> = (0..=255).collect();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bytes");
    fs::write(&path, &bytes).unwrap();
    let path = path.to_str().unwrap();
    for (arguments, input) in
        [(&["--stdin"][..], &bytes[..]), (&["-"], &bytes), (&["--raw", "-"], &bytes), (&["--raw", path], b"")]
    {
        let subscriber =
            subscribe(&node, "b", &mut application(&node, &["sub", "b", "--raw", "--count", "1"]));
        let mut publisher =
            application(&node, &["pub", "b"]).args(arguments).stdin(Stdio::piped()).spawn().unwrap();
        publisher.stdin.take().unwrap().write_all(input).unwrap();
        assert!(publisher.wait().unwrap().success(), "{arguments:?}");
        assert_eq!(subscriber.wait_with_output().unwrap().stdout, bytes, "{arguments:?}");
        node.wait_for_subscribers("b", 0);
    }
    for wrong in [&["x", "--stdin"][..], &["--file", path, "--raw", path], &[]] {
        let refused = application(&node, &["pub", "b"]).args(wrong).output().unwrap();
        assert_eq!(refused.status.code(), Some(2), "{wrong:?}");
    }
    node.stop();
}

#[test]
fn json_loses_no_byte_of_a_message_or_an_answer() {
    let node = node();
    let binary = b"\x00\xff\xfe\x80raw";
    let file = file::encode("a.txt", b"abc");
    runtime().block_on(async {
        let (publisher, _messages) = client(PROFILE, &[&node]).await;
        let cases: [(&[u8], &str, &str); 4] = [
            (b"pay 5", "text", "pay 5"),
            (b"", "text", ""),
            (binary, "base64", "AP/+gHJhdw=="),
            (&file, "base64", "////gAAAAAVhLnR4dGFiYw=="),
        ];
        for (payload, field, value) in cases {
            let subscriber =
                subscribe(&node, "j", &mut application(&node, &["sub", "j", "-o", "json", "--count", "1"]));
            let answer = publisher.request("j", payload, BOUND).await.unwrap();
            assert_eq!(answer.code, ResultCode::OK);
            let message = json(&subscriber.wait_with_output().unwrap().stdout);
            assert_eq!(message[field], value, "{message}");
            assert_eq!(message["bytes"], payload.len(), "{message}");
            let other = if field == "text" { "base64" } else { "text" };
            assert!(message.get(other).is_none(), "{message}");
            node.wait_for_subscribers("j", 0);
        }
        let (subscriber, mut messages) = client(PROFILE, &[&node]).await;
        subscriber.subscribe(&["j"]).await.unwrap();
        node.wait_for_subscribers("j", 1);
        tokio::spawn(async move {
            while let Some(message) = messages.recv().await {
                subscriber.respond(&message, &message.payload).await;
            }
        });
        let ask = |arguments: &[&str], input: &'static [u8]| {
            let mut child = application(&node, &["pub", "j", "--stdin"])
                .args(arguments)
                .stdin(Stdio::piped())
                .spawn()
                .unwrap();
            child.stdin.take().unwrap().write_all(input).unwrap();
            child.wait_with_output().unwrap().stdout
        };
        let answer = json(&ask(&["-o", "json"], binary));
        assert_eq!(
            (&answer["answer_base64"], answer.get("answer")),
            (&"AP/+gHJhdw==".into(), None),
            "{answer}"
        );
        let answer = json(&ask(&["-o", "json"], b"text"));
        assert_eq!((&answer["answer"], answer.get("answer_base64")), (&"text".into(), None), "{answer}");
        // As text, bytes can be told from what they look like.
        let shown = ask(&[], binary);
        assert!(text(&shown).ends_with(": \\0\\xff\\xfe\\x80raw\n"), "{}", text(&shown));
    });
    node.stop();
}

#[test]
fn the_seq_of_a_message_is_shown_whatever_became_of_it() {
    let node = node();
    let is_seq = |word: &str| word.len() == 32 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let seq_of = |output: &Output| {
        let line = text(&output.stdout).trim_end();
        let (_, rest) = line.split_once(", seq ").unwrap_or_else(|| panic!("{line}"));
        rest.split(':').next().unwrap().to_owned()
    };
    let nobody = application(&node, &["pub", "s", "x"]).output().unwrap();
    assert!(is_seq(&seq_of(&nobody)), "{}", text(&nobody.stdout));
    let subscriber =
        subscribe(&node, "s", &mut application(&node, &["sub", "s", "--reply", "ok", "--count", "2"]));
    for more in [&[][..], &["--multicast"]] {
        let answered = application(&node, &["pub", "s", "x"]).args(more).output().unwrap();
        assert!(is_seq(&seq_of(&answered)), "{}", text(&answered.stdout));
    }
    assert!(subscriber.wait_with_output().unwrap().status.success());
    node.stop();
}

#[test]
fn what_others_wrote_does_not_reach_a_terminal() {
    let node = node();
    let admin = node.node().admin_address().unwrap().to_string();
    let topic = format!("t{}", HOSTILE.replace(['\0', '\t'], ""));
    let named = file::encode(&format!("n{HOSTILE}"), b"abc");
    for arguments in [&[][..], &["-o", "json"]] {
        let mut command = application(&node, &["sub", &topic, "--count", "2"]);
        let subscriber =
            subscribe(&node, &topic, command.args(arguments).args(["--reply", &HOSTILE.replace('\0', "")]));
        let listed = program(&["net", "--topics", "--admin", &admin]).output().unwrap();
        assert_harmless(&listed.stdout);
        assert!(text(&listed.stdout).contains("t\\u{1b}[2J\\r\\n"), "{}", text(&listed.stdout));
        let published = application(&node, &["pub", &topic, "line one\nline two\u{1b}]0;x\u{7}"])
            .args(arguments)
            .output()
            .unwrap();
        assert!(published.status.success());
        assert_harmless(&published.stdout);
        let mut sdk = RawSdk::connect(PROFILE, &node);
        sdk.send(&sdk::encode_amop(FrameType::MULTICAST, &[0x1b; 32], ResultCode::OK, &topic, &named));
        let Output { stdout, stderr, status } = subscriber.wait_with_output().unwrap();
        assert!(status.success(), "{}", text(&stderr));
        assert_harmless(&stdout);
        assert_harmless(&stderr);
        assert_eq!(text(&stdout).lines().count(), 2, "a message is a line: {}", text(&stdout));
        node.wait_for_subscribers(&topic, 0);
    }
    // Names of files, on the way to an error too.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a\u{1b}[2J\namop: done.pem");
    fs::write(&path, "no certificate").unwrap();
    for arguments in [
        &["pki", "show"][..],
        &["keys", "show"],
        &["keys", "new", "--out"],
        &["pub", "t", "x", "-c"],
        &["bounds", "-c"],
        &["node", "--check", "-c"],
    ] {
        let refused = program(arguments).arg(&path).output().unwrap();
        assert!(!refused.status.success());
        assert_harmless(&refused.stderr);
        let said = text(&refused.stderr);
        assert!(said.lines().count() == 1 && said.contains("a\\u{1b}[2J\\namop: done.pem"), "{said}");
    }
    node.stop();
}

#[test]
fn a_subject_that_others_chose_is_shown_and_not_obeyed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hostile.crt");
    fs::write(&path, hostile_certificate()).unwrap();
    let shown = program(&["pki", "show"]).arg(&path).output().unwrap();
    assert!(shown.status.success(), "{}", text(&shown.stderr));
    assert_harmless(&shown.stdout);
    let subjects: Vec<_> = text(&shown.stdout).lines().filter(|line| line.starts_with("subject:")).collect();
    assert!(matches!(subjects[..], [subject] if subject.contains("\\u{1b}[2J")), "{subjects:?}");
}

/// A certificate of somebody who wants to write into terminals.
fn hostile_certificate() -> String {
    use x509_cert::der::{Decode, Encode, asn1::Utf8StringRef};
    let own = fs::read(host_dir(PROFILE).join("sdk/sdk.crt")).unwrap();
    let mut certificate = x509_cert::Certificate::load_pem_chain(&own).unwrap().remove(0);
    let name = Utf8StringRef::new("shop\nsubject: bank\u{1b}[2J").unwrap();
    let mut subject = certificate.tbs_certificate.subject.clone();
    for relative in &mut subject.0 {
        let mut attributes = relative.0.clone().into_vec();
        for attribute in &mut attributes {
            attribute.value = x509_cert::der::Any::from_der(&name.to_der().unwrap()).unwrap();
        }
        relative.0 = x509_cert::der::asn1::SetOfVec::try_from(attributes).unwrap();
    }
    certificate.tbs_certificate.subject = subject;
    let der = certificate.to_der().unwrap();
    x509_cert::der::pem::encode_string("CERTIFICATE", x509_cert::der::pem::LineEnding::LF, &der).unwrap()
}

#[test]
fn what_some_node_may_take_is_for_the_node_to_refuse_and_more_is_refused_before_any_is_asked() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("zeros");
    let usual_max = sdk::payload_len_max("t".len());
    let len_max = FRAME_LEN_SETTABLE_MAX - sdk::FRAME_LEN_MAX + usual_max;
    let nobody = Nobody::new();
    let refused = |arguments: &[&str], len: usize| {
        fs::File::create(&file).unwrap().set_len(len as u64).unwrap();
        // Nobody is there: what may be sent fails by that.
        let command = output(
            program(&["pub", "t", "-n", &nobody.address(), "-c"])
                .arg(host_dir(PROFILE).join("sdk"))
                .args(arguments)
                .arg(&file),
        );
        text(&command.stderr).to_owned()
    };
    for (option, header_len) in [("--raw", 0), ("--file", file::encode("zeros", b"").len())] {
        let fits = refused(&[option], usual_max + 1);
        assert!(fits.contains("no node could be reached"), "{fits}");
        let too_long = refused(&[option], len_max - header_len + 1);
        assert!(too_long.contains(&format!("more than the {} bytes", len_max - header_len)), "{too_long}");
    }
    // The node that is asked takes less.
    let node = node();
    fs::File::create(&file).unwrap().set_len(usual_max as u64 + 1).unwrap();
    let refused = output(application(&node, &["pub", "t"]).arg("--raw").arg(&file));
    let said = text(&refused.stderr);
    assert!(
        said.contains("[amop] frame_len_max of the node") && said.contains(&format!("{usual_max}")),
        "{said}"
    );
    node.stop();
}

#[test]
fn a_certificate_that_cannot_be_written_is_not_in_the_way_of_the_next_try() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("rsa");
    let mut chain = vec![PROGRAM, "pki", "chain", "--rsa", "--out"];
    chain.push(out.to_str().unwrap());
    // In so many blocks the certificate fits and its key does not, or neither does.
    for blocks in [3, 1] {
        let limited = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\"");
        let refused = Command::new("sh").args(["-c", &limited, "sh"]).args(&chain).output().unwrap();
        assert_eq!(refused.status.code(), Some(1));
        assert!(text(&refused.stderr).contains("File too large"), "{}", text(&refused.stderr));
        assert_eq!(fs::read_dir(&out).unwrap().count(), 0);
    }
    let made = program(&chain[1..]).output().unwrap();
    assert!(made.status.success(), "{}", text(&made.stderr));
}

#[test]
fn a_reader_that_has_seen_enough_ends_a_subscriber_quietly() {
    let node = node();
    let mut subscriber = subscribe(&node, "q", &mut application(&node, &["sub", "q", "--reply", "ok"]));
    let mut lines = BufReader::new(subscriber.stdout.take().unwrap()).lines();
    assert!(application(&node, &["pub", "q", "one"]).output().unwrap().status.success());
    assert_eq!(lines.next().unwrap().unwrap(), "q (unicast) one");
    drop(lines);
    let published = application(&node, &["pub", "q", "two"]).output().unwrap();
    assert_eq!(published.status.code(), Some(3), "it is not answered for what nobody saw");
    let status = subscriber.wait().unwrap();
    assert_eq!((status.code(), status.signal()), (Some(0), None));
    node.stop();
}
