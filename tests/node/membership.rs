//! Peers and lists that change while a node runs: the built program, told by SIGHUP.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use amop::{
    client::Client,
    internal::{pki::Profile, wire::ResultCode},
};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{
    BOUND, client_at, host_dir,
    peer_2x::ScriptedPeer,
    process::{PROGRAM, Process, write_config},
    runtime, wait_until,
};

/// A node of its own, whose configuration can be written anew.
struct Member {
    process: Process,
    conf: PathBuf,
    dir: tempfile::TempDir,
}

impl Member {
    fn start(number: usize) -> Self {
        Self::start_with(number, "")
    }

    /// With these lines from `[p2p]` on.
    fn start_with(number: usize, more: &str) -> Self {
        let conf = host_dir(Profile::Ec).join(format!("node{number}/conf"));
        let dir = tempfile::tempdir().unwrap();
        let process = Process::run(&Self::write(dir.path(), &conf, more));
        Self { process, conf, dir }
    }

    fn write(dir: &Path, conf: &Path, more: &str) -> PathBuf {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        // A file without a section that the running one has is refused.
        let more =
            format!("{more}\n[certificate_blacklist]\n[certificate_whitelist]\n[admin]\nlisten_port=0\n");
        write_config(dir, conf, false, [any; 2], &more)
    }

    /// Writes its configuration anew, with these lines from `[p2p]` on, and has it read.
    fn reload(&self, more: &str) {
        Self::write(self.dir.path(), &self.conf, more);
        self.hang_up();
    }

    fn hang_up(&self) {
        let pid = Pid::from_child(&self.process.child);
        kill_process(pid, Signal::HUP).unwrap();
    }

    fn id(&self) -> String {
        amop::internal::tls::identity::Identity::load(
            &self.conf.join("node.crt"),
            &self.conf.join("node.key"),
        )
        .unwrap()
        .node_id()
        .unwrap()
        .to_hex()
    }

    /// What it says of another node in its list of the network.
    fn says_of(&self, other: &Self) -> serde_json::Value {
        let id = other.id();
        let network = self.process.admin_json("/network");
        let mut items = network["items"].as_array().unwrap().iter();
        items.find(|node| node["id"] == id.as_str()).cloned().unwrap_or_default()
    }

    fn is_linked_with(&self, other: &Self) -> bool {
        let id = other.id();
        let nodes = self.process.admin_json("/nodes");
        nodes["items"].as_array().unwrap().iter().any(|node| node["id"] == id.as_str())
    }
}

/// An application at a node.
async fn application(member: &Member) -> (Client, amop::client::Messages) {
    client_at(Profile::Ec, vec![member.process.channel.to_string()]).await
}

/// A subscriber that answers.
async fn subscriber(member: &Member, topic: &str) -> Client {
    let (client, mut messages) = application(member).await;
    client.subscribe(&[topic]).await.unwrap();
    let answering = client.clone();
    tokio::spawn(async move {
        while let Some(message) = messages.recv().await {
            answering.respond(&message, &message.payload).await;
        }
    });
    client
}

fn dial(members: &[&Member]) -> String {
    members
        .iter()
        .enumerate()
        .map(|(number, member)| format!("node.{number}={}\n", member.process.p2p))
        .collect()
}

#[test]
fn peers_are_added_and_removed_while_a_node_runs() {
    let [node, first, second] = [0, 1, 2].map(Member::start);
    node.reload(&dial(&[&first]));
    wait_until("the change of membership", || node.is_linked_with(&first));
    node.reload(&dial(&[&first, &second]));
    wait_until("the change of membership", || node.is_linked_with(&second));
    assert!(node.is_linked_with(&first), "who stays in the list keeps its link");
    let before = node.process.figure("node_links");
    node.reload(&dial(&[&second]));
    wait_until("the change of membership", || !node.is_linked_with(&first));
    assert!(node.is_linked_with(&second));
    assert_eq!((before, node.process.figure("node_links")), (2, 1));
}

#[test]
fn a_peer_that_is_removed_while_it_keeps_silent_in_its_handshake_is_hung_up_on() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let member = Member::start_with(0, &format!("node.0={}\n", silent.local_addr().unwrap()));
    let mut dialled = silent.accept().unwrap().0;
    // Far less than a handshake may take.
    dialled.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
    member.reload("");
    std::io::Read::read_to_end(&mut dialled, &mut Vec::new()).expect("it is closed");
}

#[test]
fn a_node_that_is_put_on_the_blacklist_is_cut_off_at_once_and_let_in_again_when_it_is_taken_off() {
    let [node, other, third] = [0, 1, 2].map(Member::start);
    let peers = dial(&[&other, &third]);
    node.reload(&peers);
    wait_until("the change of membership", || node.is_linked_with(&other) && node.is_linked_with(&third));
    // Also one that dials by itself.
    other.reload(&dial(&[&node]));
    let refused = node.process.figure("door_nodes_refused_by_list");
    node.reload(&format!("{peers}[certificate_blacklist]\ncrl.0={}\n", other.id()));
    wait_until("the change of membership", || !node.is_linked_with(&other));
    wait_until("the change of membership", || node.process.figure("door_nodes_refused_by_list") > refused);
    assert!(!node.is_linked_with(&other) && node.is_linked_with(&third));
    node.reload(&peers);
    wait_until("the change of membership", || node.is_linked_with(&other));
}

#[test]
fn a_whitelist_that_leaves_somebody_out_closes_its_links() {
    let [node, other, third] = [0, 1, 2].map(Member::start);
    let peers = dial(&[&other, &third]);
    node.reload(&peers);
    wait_until("the change of membership", || node.is_linked_with(&other) && node.is_linked_with(&third));
    node.reload(&format!("{peers}[certificate_whitelist]\ncal.0={}\n", third.id()));
    wait_until("the change of membership", || !node.is_linked_with(&other));
    assert!(node.is_linked_with(&third));
}

#[test]
fn a_configuration_that_cannot_be_used_changes_nothing() {
    let [node, other] = [0, 1].map(Member::start);
    node.reload(&dial(&[&other]));
    wait_until("the change of membership", || node.is_linked_with(&other));
    node.reload("node.0=nonsense\n[certificate_blacklist]\ncrl.0=nothing\n");
    node.reload(&dial(&[&other]));
    // Signals are taken one after the other: this one shows that those before were.
    let third = Member::start(2);
    node.reload(&dial(&[&other, &third]));
    wait_until("the change of membership", || node.is_linked_with(&third));
    assert!(node.is_linked_with(&other));
    assert_eq!(node.process.figure("node_links"), 2);
}

#[test]
fn a_broken_file_takes_neither_peers_nor_lists_away() {
    let [node, other, kept_out] = [0, 1, 2].map(Member::start);
    let good = format!("{}[certificate_blacklist]\ncrl.0={}\n", dial(&[&other]), kept_out.id());
    node.reload(&good);
    kept_out.reload(&dial(&[&node]));
    wait_until("the blacklist to hold", || {
        node.is_linked_with(&other) && node.process.figure("door_nodes_refused_by_list") > 0
    });
    let path = node.dir.path().join("config.ini");
    let whole = std::fs::read_to_string(&path).unwrap();
    let without_lists = whole.replace("[certificate_blacklist]", "").replace("crl.0=", ";");
    let other_port = whole.replace("listen_port=0\nnode", "listen_port=1\nnode");
    let broken =
        ["", "\n", &whole[..whole.len() / 2], &whole[..whole.len() - 20], &without_lists, &other_port];
    let refusal = "configuration read again and not taken over: everything stays as it is";
    for (index, text) in broken.into_iter().enumerate() {
        std::fs::write(&path, text).unwrap();
        node.hang_up();
        wait_until("the refusal", || node.process.logged(refusal).len() == index + 1);
    }
    assert!(node.process.logged(refusal)[0]["error"].as_str().unwrap().contains("the file is empty"));
    // What an operator means is done: an empty section is an empty list.
    node.reload(&dial(&[&other, &kept_out]));
    wait_until("the node that was kept out", || node.is_linked_with(&kept_out));
    assert!(node.is_linked_with(&other));
    node.reload("");
    wait_until("no peers any more", || !node.is_linked_with(&other));
}

#[test]
fn the_lists_of_the_first_releases_hold() {
    let other = Member::start(1);
    let lists = format!("{}[crl]\ncrl.0={}\n", dial(&[&other]), other.id());
    let node = Member::start_with(0, &lists);
    wait_until("the old blacklist to hold", || node.process.figure("door_nodes_refused_by_list") > 0);
    assert!(!node.is_linked_with(&other));
}

#[test]
fn neighbours_neighbours_that_tell_their_address_are_dialled_where_that_is_wanted_and_the_lists_admit_them() {
    let advertise = "advertise=127.0.0.1:0\n";
    let [middle, far] = [1, 2].map(|number| Member::start_with(number, advertise));
    let discover = format!("discover=true\n{}", dial(&[&middle]));
    let only_middle = format!("{discover}[certificate_whitelist]\ncal.0={}\n", middle.id());
    let node = Member::start_with(0, &only_middle);
    far.reload(&format!("{advertise}{}", dial(&[&middle])));
    wait_until("the far node to be known", || node.process.figure("registry_nodes_known") == 2);
    assert!(!node.is_linked_with(&far), "the whitelist leaves it out");
    node.reload(&discover);
    wait_until("a link with the far node", || node.is_linked_with(&far));
    assert!(node.is_linked_with(&middle));
}

#[test]
fn a_node_that_relays_nothing_ends_the_way_between_its_neighbours() {
    let [near, far] = [0, 2].map(Member::start);
    runtime().block_on(async {
        let _subscriber = subscriber(&far, "t").await;
        let (publisher, _messages) = application(&near).await;
        for (relay, code) in [(false, ResultCode::NO_RECEIVER), (true, ResultCode::OK)] {
            let middle = Member::start_with(1, &format!("relay={relay}\n{}", dial(&[&near, &far])));
            wait_until("the near node knows of the far one, and how far it is", || {
                let (middle, far) = (near.says_of(&middle), near.says_of(&far));
                let standing = if relay { "reachable" } else { "out_of_reach" };
                middle["relays"] == relay && far["standing"] == standing && far["topics"] == 1
            });
            assert_eq!(publisher.request("t", b"x", BOUND).await.unwrap().code, code);
            for figure in ["relayed", "relayed_bytes"] {
                assert_eq!(middle.process.figure(figure) > 0, relay, "{figure}");
            }
            for figure in
                ["relay_dropped", "relay_refused", "sealed_refused", "sealed_late", "strangers_refused"]
            {
                assert_eq!(middle.process.figure(figure), 0, "{figure}");
            }
            let admin = middle.process.admin.unwrap().to_string();
            let mut top = Command::new(PROGRAM);
            top.args(["top", "--once", "--interval", "0.1", "--admin", &admin]);
            let shown = String::from_utf8(top.output().unwrap().stdout).unwrap();
            assert!(shown.contains("of them passed on for others"), "{shown}");
            assert_eq!(middle.process.stop(), Some(0));
        }
    });
}

#[test]
fn lists_hold_at_once_for_nodes_behind_others_too_and_disturb_nobody_else() {
    let [near, far, third] = [0, 2, 3].map(Member::start);
    let middle = Member::start_with(1, &dial(&[&near, &far, &third]));
    runtime().block_on(async {
        let _subscribers = [subscriber(&near, "near").await, subscriber(&far, "far").await];
        let (publisher, _messages) = application(&near).await;
        let (far_publisher, _messages) = application(&far).await;
        let (third_publisher, _messages) = application(&third).await;
        let blacklist = format!("[certificate_blacklist]\ncrl.0={}\n", far.id());
        let whitelist = format!("[certificate_whitelist]\ncal.0={}\ncal.1={}\n", middle.id(), third.id());
        for lists in [blacklist, whitelist] {
            for (lists, there, back) in [
                ("", ResultCode::OK, ResultCode::OK),
                (lists.as_str(), ResultCode::NO_RECEIVER, ResultCode::NOT_DELIVERED),
            ] {
                near.reload(lists);
                let admitted = lists.is_empty();
                wait_until("the change of the lists", || {
                    let far = near.says_of(&far);
                    far["standing"] == "reachable" && far["admitted"] == admitted && far["routed"] == admitted
                });
                for node in [&far, &third] {
                    wait_until("the topics to be known", || {
                        node.process.subscribers("near") == 1 && third.process.subscribers("far") == 1
                    });
                }
                let refused = near.process.figure("not_admitted");
                assert_eq!(publisher.request("far", b"x", BOUND).await.unwrap().code, there);
                assert_eq!(far_publisher.request("near", b"x", BOUND).await.unwrap().code, back);
                for topic in ["near", "far"] {
                    let answer = third_publisher.request(topic, b"x", BOUND).await.unwrap();
                    assert_eq!(answer.code, ResultCode::OK, "{topic}");
                }
                let (left_out, refused_now) = if admitted { (0, 0) } else { (1, 1) };
                assert_eq!(near.process.figure("registry_nodes_not_admitted"), left_out);
                assert_eq!(near.process.figure("not_admitted") - refused, refused_now);
            }
        }
        assert!(near.is_linked_with(&middle), "who is admitted keeps its link");
    });
}

#[test]
fn a_node_of_fisco_bcos_2x_is_dialled_removed_and_blacklisted_like_any_other() {
    let node = Member::start(0);
    let peer = ScriptedPeer::start(3, None);
    peer.subscribe(&["theirs"]);
    let linked = || node.process.admin_json("/peers_2x")["total"] == 1;
    let named = format!("node.0={}\n", peer.address);
    node.reload(&named);
    wait_until("it is linked", linked);
    node.reload("");
    wait_until("it is named no more", || !linked());
    node.reload(&named);
    wait_until("it is linked", linked);
    node.reload(&format!("{named}[certificate_blacklist]\ncrl.0={}\n", peer.id.to_hex()));
    wait_until("it is cut off", || !linked());
    let before = peer.links_in_all();
    let refused = node.process.figure("door_nodes_refused_by_list");
    peer.dial(node.process.p2p);
    wait_until("it has tried, in vain", || node.process.figure("door_nodes_refused_by_list") > refused + 3);
    assert!(!linked());
    node.reload(&named);
    wait_until("it is let in again", || linked() && peer.links_in_all() > before);
}
