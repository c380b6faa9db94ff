//! The status page in a browser: Chromium without a window, which runs its script and prints what is there then. Without `chromium` these
//! tests say so and pass, unless AMOP_INTEROP_REQUIRED is set, as in CI. With AMOP_PICTURES=DIR there are pictures, too, to be looked at.

use std::{path::Path, process::Command};

use amop::internal::{
    pki::Profile,
    wire::{
        ResultCode,
        sdk::{FrameType, encode_amop},
    },
};

use crate::{
    kit::{ADMIN, text},
    support::{RawSdk, TestNode, have, seq},
};

/// How long the page may look at the node, in milliseconds of the browser's own time: two rounds.
const LOOKS_MS: u32 = 5_000;
/// Somebody's topic, which is no markup of the page.
const MARKUP: &str = "<img src=x onerror=\"document.body.dataset.state='broken'\">";

fn browser(arguments: &[String]) -> String {
    let home = tempfile::tempdir().unwrap();
    let output = Command::new("chromium")
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"])
        .arg(format!("--user-data-dir={}", home.path().display()))
        .arg(format!("--virtual-time-budget={LOOKS_MS}"))
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// What is on the page once its script has run.
fn page(url: &str) -> String {
    if let Some(directory) = std::env::var_os("AMOP_PICTURES") {
        for (size, width, height) in [("desk", 1_400, 1_400), ("phone", 390, 2_200)] {
            let language = if url.contains("zh") { "zh" } else { "en" };
            let file = Path::new(&directory).join(format!("status-page-{size}-{language}.png"));
            let arguments = [
                format!("--window-size={width},{height}"),
                format!("--screenshot={}", file.display()),
                url.to_owned(),
            ];
            browser(&arguments);
        }
    }
    browser(&["--dump-dom".to_owned(), url.to_owned()])
}

#[test]
fn the_page_shows_the_node_its_network_and_what_failed_in_both_languages() {
    if !have("chromium", "--version") {
        return;
    }
    let first = TestNode::start(Profile::Ec, 0, &[], ADMIN);
    let second = TestNode::start(Profile::Ec, 1, &[&first], "");
    first.wait_for_neighbours(&[&second]);
    let mut subscriber = RawSdk::connect(Profile::Ec, &second);
    subscriber.subscribe(&["payments"]);
    first.wait_for_subscribers("payments", 1);
    let mut publisher = RawSdk::connect(Profile::Ec, &first);
    let nobody = ["nobody", MARKUP];
    for (number, topic) in (1..).zip(nobody) {
        publisher.send(&encode_amop(FrameType::REQUEST, &seq(number), ResultCode::OK, topic, b"lost"));
        publisher.frame().expect("an answer");
    }

    let admin = first.node().admin_address().expect("the endpoint is configured");
    let [failed, _] = [1, 2].map(|number| String::from_utf8(seq(number).to_vec()).unwrap());
    let other = &second.node().id().to_hex()[..8];
    for (language, words) in [
        ("en", ["ready", "Recent failures", "nobody can receive it", "neighbour", "What became of"]),
        ("zh", ["就绪", "最近的失败", "没有可接收的节点", "邻居", "消息经过："]),
    ] {
        let page = page(&format!("http://{admin}/?lang={language}#trace={failed}"));
        assert!(page.contains("data-state=\"shown\""), "{page}");
        for word in words.into_iter().chain(["payments", "nobody", other, "&lt;img src=x"]) {
            assert!(page.contains(word), "no {word:?} in {page}");
        }
        assert!(!page.contains("<img"), "{page}");
        assert!(page.contains("answers 100"), "no trace of the message in {page}");
    }
}
