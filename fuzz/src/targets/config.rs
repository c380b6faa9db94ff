//! `config.ini`: any text is read or refused with lines that exist.

use std::path::Path;

use amop::internal::config::Config;

pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let lines = text.lines().count() as u32 + 1;
    let read = |text: &str| Config::parse(text, Path::new("node"));
    let problems = match read(text) {
        Ok((config, warnings)) => {
            // What was read is within its bounds, whatever stood there.
            assert!(config.relay.push_timeout <= config.relay.request_timeout);
            assert!((1024..=1 << 30).contains(&config.relay.frame_len_max));
            assert!(config.bandwidth.is_none_or(|limit| limit.bytes_per_second > 0.0));
            assert!(config.reactors.is_none_or(|count| (1..=256).contains(&count)));
            assert!(config.engine.receive_buffers.is_power_of_two());
            warnings
        }
        Err(problems) => {
            assert!(!problems.is_empty(), "refused without a reason");
            problems
        }
    };
    for problem in problems {
        assert!(problem.line <= lines, "a line that is not there: {problem:?}");
        assert!(!problem.text.is_empty());
    }
    assert_eq!(
        read(text).is_ok(),
        read(&text.replace('\n', "\r\n")).is_ok(),
        "the same with other line ends"
    );
}

/// A node's file as it is written, and every key that is known.
pub fn seeds() -> Vec<Vec<u8>> {
    vec![
        b"[rpc]\nchannel_listen_ip=0.0.0.0\nchannel_listen_port=20200\njsonrpc_listen_port=8545\n\
          [p2p]\nlisten_ip=0.0.0.0\nlisten_port=30300\nnode.0=127.0.0.1:30300\nnode.1=[::1]:30301\n\
          [certificate_blacklist]\n; crl.0 is a node id\n[group]\ngroup_data_path=data/\n\
          [network_security]\ndata_path=conf/\nkey=node.key\ncert=node.crt\nca_cert=ca.crt\n\
          [chain]\nid=1\nsm_crypto=false\nrsa_crypto_channel=true\n[compatibility]\nsupported_version=2.9.0\n\
          [flow_control]\noutgoing_bandwidth_limit=2.5\nlimit_req=1000\n[log]\nenable=true\nlevel=info\n"
            .to_vec(),
        b"[amop]\nframe_len_max=1048576\npush_timeout_ms=5000\nrequest_timeout_ms=30000\n\
          retry_after_push_timeout=false\nidle_timeout_ms=60000\nstall_timeout_ms=20000\n\
          session_topics_max=100\nnode_topics_max=1000\nsession_queue_bytes_max=65536\n\
          window_bytes_max=1048576\npending_requests_max=10\nshutdown_timeout_ms=0\n\
          [engine]\nreactors=2\npin=0,1\nspin_us=10\nreceive_buffers=256\nunfinished_bytes_max=1048576\n\
          [tls]\nchannel_versions=1.2,1.3\nchannel_groups=X25519,secp256k1\n\
          p2p_cipher_suites=ECDHE-ECDSA-AES128-GCM-SHA256\n[rpc]\nlist_topics=false\n[log]\nformat=json\n"
            .to_vec(),
        b"\xef\xbb\xbf[p2p]\r\nlisten_port=1\r\nlisten_port=2\r\nlisten_prt=3\r\nnonsense\r\n#x\r\n".to_vec(),
    ]
}
