//! Ports of one node that get into each other's way.

use std::net::IpAddr;

use super::ini::Ini;

/// Refuses two listeners on one port whose addresses overlap: the later one could not be opened.
pub(super) fn refuse_conflicts(
    ini: &mut Ini,
    channel: &(String, u16),
    p2p: &(String, u16),
    admin: Option<(IpAddr, u16)>,
) {
    // An address that is none is refused already.
    let listener = |section, key, (ip, port): &(String, u16)| Some((section, key, ip.parse().ok()?, *port));
    let listeners = [
        listener("rpc", "channel_listen_port", channel),
        listener("p2p", "listen_port", p2p),
        admin.map(|(ip, port)| ("admin", "listen_port", ip, port)),
    ];
    let listeners: Vec<_> = listeners.into_iter().flatten().filter(|(.., port)| *port != 0).collect();
    for (index, &(section, key, ip, port)) in listeners.iter().enumerate() {
        let before = &listeners[..index];
        if let Some((other, other_key, ..)) =
            before.iter().find(|(.., at, on)| *on == port && overlap(*at, ip))
        {
            ini.fault(
                section,
                key,
                &format!("= {port} is the port of [{other}] {other_key}, too: they must differ"),
            );
        }
    }
}

/// Whether nobody can listen on one of the addresses while somebody does on the other, on the same port.
fn overlap(one: IpAddr, other: IpAddr) -> bool {
    let (one, other) = (one.to_canonical(), other.to_canonical());
    let is_all = |ip: IpAddr, of: IpAddr| ip.is_unspecified() && (ip.is_ipv6() || of.is_ipv4());
    one == other || is_all(one, other) || is_all(other, one)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    #[test]
    fn addresses_overlap_where_the_kernel_refuses_the_second_listener() {
        for (one, other, expected) in [
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("0.0.0.0", "127.0.0.1", true),
            ("::", "127.0.0.1", true),
            ("::", "0.0.0.0", true),
            ("0.0.0.0", "::1", false),
            ("::1", "::", true),
            ("::ffff:127.0.0.1", "127.0.0.1", true),
        ] {
            let [a, b] = [one, other].map(|ip: &str| ip.parse().unwrap());
            assert_eq!((overlap(a, b), overlap(b, a)), (expected, expected), "{one}, {other}");
        }
    }

    #[test]
    fn two_listeners_on_one_port_are_refused_and_port_0_is_never_the_same() {
        let problems = |text: &str| match Config::parse(text, Path::new(".")) {
            Ok(_) => Vec::new(),
            Err(problems) => problems.into_iter().map(|problem| (problem.line, problem.text)).collect(),
        };
        assert_eq!(
            problems("[rpc]\nchannel_listen_port=7\n[p2p]\nlisten_port=7\n"),
            [(
                4,
                "[p2p] listen_port = 7 is the port of [rpc] channel_listen_port, too: they must differ"
                    .to_owned()
            )]
        );
        // 30300 is the port of nodes where nothing else is said.
        assert_eq!(problems("[admin]\nlisten_port=30300\n").len(), 1);
        assert_eq!(
            problems("[rpc]\nchannel_listen_port=0\n[p2p]\nlisten_port=0\n[admin]\nlisten_port=0\n"),
            []
        );
        let apart = "[rpc]\nchannel_listen_ip=127.0.0.1\nchannel_listen_port=7\n[p2p]\nlisten_ip=127.0.0.2\nlisten_port=7\n";
        assert_eq!(problems(apart), []);
    }
}
