//! The service manager that runs the node, systemd or another one that speaks its protocols: the listening sockets that it hands
//! over, which outlive the node, and what it is told (`sd_notify`). Where there is none, nothing is handed over, and nobody is
//! told.
//!
//! Imports nothing of ours.

use std::{
    net::{IpAddr, SocketAddr, TcpListener},
    time::Duration,
};

use listenfd::ListenFd;
use sd_notify::NotifyState;
use tracing::warn;

/// How often the status is looked at; it is told when it has changed.
const STATUS_EVERY: Duration = Duration::from_secs(2);
/// Pings in the time after which the service manager takes the node for hung.
const PINGS_IN_TIME: u32 = 3;
/// The least pause between two looks, whatever time is asked for.
const LOOK_PAUSE_MIN: Duration = Duration::from_millis(10);

/// Why the sockets of the service manager cannot be used; the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum InheritError {
    /// What the environment says of them does not hold.
    #[error(
        "the sockets that the service manager hands over cannot be taken (LISTEN_FDS, LISTEN_FDNAMES): {0}"
    )]
    Environment(std::io::Error),
    /// Nobody would accept on it.
    #[error(
        "the service manager hands over a socket named {}, on which nobody would accept: FileDescriptorName= in its socket unit \
         must be channel, p2p or admin", crate::escape::shown(.0)
    )]
    Unknown(String),
    /// One for each listener.
    #[error("the service manager hands over two sockets named {0}: one ListenStream= for each, please")]
    Twice(&'static str),
    /// Nobody would accept on this either.
    #[error(
        "the service manager hands over a socket named admin, and there is no admin endpoint: set [admin] listen_port"
    )]
    NoAdmin,
    /// It is something else.
    #[error("the service manager's socket named {name} is none that listens for TCP: {source}")]
    Unusable {
        /// Its name.
        name: &'static str,
        /// What is wrong with it.
        source: std::io::Error,
    },
}

/// Listening sockets that the service manager hands over, by their names (`FileDescriptorName=`). It keeps them open itself, so
/// that connections wait in them while no node runs.
#[derive(Debug, Default)]
pub struct InheritedSockets {
    /// For applications.
    pub channel: Option<TcpListener>,
    /// For nodes.
    pub p2p: Option<TcpListener>,
    /// For the admin endpoint.
    pub admin: Option<TcpListener>,
}

impl InheritedSockets {
    /// Takes those of this process. To be called once, before anything else opens files.
    pub fn take() -> Result<Self, InheritError> {
        let named = sd_notify::listen_fds_with_names().map_err(InheritError::Environment)?;
        let mut descriptors = ListenFd::from_env();
        let mut sockets = Self::default();
        for (index, (_, given)) in named.enumerate() {
            let (name, place) = sockets.place(&given)?;
            let unusable = |source| InheritError::Unusable { name, source };
            let listener = descriptors.take_tcp_listener(index).map_err(unusable)?;
            let listener = listener.ok_or(std::io::ErrorKind::NotFound.into()).map_err(unusable)?;
            if !socket2::SockRef::from(&listener).is_listener().map_err(unusable)? {
                return Err(unusable(std::io::Error::other("nobody listens on it")));
            }
            if place.replace(listener).is_some() {
                return Err(InheritError::Twice(name));
            }
        }
        Ok(sockets)
    }

    /// Says where a socket is elsewhere than the configuration has the listener.
    pub(crate) fn warn_where_elsewhere(&self, channel: (&str, u16), p2p: (&str, u16)) {
        for (name, socket, (ip, port)) in [("channel", &self.channel, channel), ("p2p", &self.p2p, p2p)] {
            let Some(address) = socket.as_ref().and_then(|socket| socket.local_addr().ok()) else { continue };
            if is_elsewhere(address, ip, port) {
                warn!(
                    %address, configured = %format_args!("{ip}:{port}"),
                    "the service manager's socket named {name} holds, and not the address of the configuration: make ListenStream= and config.ini one",
                );
            }
        }
    }

    fn place(&mut self, name: &str) -> Result<(&'static str, &mut Option<TcpListener>), InheritError> {
        match name {
            "channel" => Ok(("channel", &mut self.channel)),
            "p2p" => Ok(("p2p", &mut self.p2p)),
            "admin" => Ok(("admin", &mut self.admin)),
            _ => Err(InheritError::Unknown(name.to_owned())),
        }
    }
}

/// Whether a socket is none that this configuration asks for. What listens on all addresses of IPv6 may do so for IPv4, too.
fn is_elsewhere(address: SocketAddr, ip: &str, port: u16) -> bool {
    let wanted = ip.parse::<IpAddr>();
    let is_ip =
        wanted.is_ok_and(|ip| ip == address.ip() || ip.is_unspecified() && address.ip().is_unspecified());
    !is_ip || port != 0 && port != address.port()
}

/// The service manager, as far as it wants to be told.
#[derive(Debug)]
pub struct ServiceManager {
    reports: Reports,
    is_told: bool,
    /// Whether a report has failed: that is logged once.
    has_failed: bool,
}

impl ServiceManager {
    /// That of this process, if there is one.
    pub fn of_process() -> Self {
        let is_told = std::env::var_os("NOTIFY_SOCKET").is_some();
        let watchdog = sd_notify::watchdog_enabled().filter(|_| is_told);
        Self { reports: Reports { watchdog, ..Reports::default() }, is_told, has_failed: false }
    }

    /// None.
    pub fn none() -> Self {
        Self { reports: Reports::default(), is_told: false, has_failed: false }
    }

    /// When it is due to [`look`](Self::look).
    pub(crate) fn looks(&self) -> tokio::time::Interval {
        let mut looks = tokio::time::interval(self.reports.pause());
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        looks
    }

    /// Tells how the node is, if that is new, and that it lives, if it does.
    pub(crate) fn look(&mut self, status: String, is_live: bool) {
        if self.is_told {
            let report = self.reports.look(status, is_live);
            self.tell(&report);
        }
    }

    /// Applications are let in.
    pub(crate) fn ready(&mut self) {
        let report = self.reports.ready();
        self.tell(&report);
    }

    /// The configuration is being read again.
    pub(crate) fn reloading(&mut self) {
        let report = self.reports.reloading();
        self.tell(&report);
    }

    /// That is done, whatever came of it.
    pub(crate) fn reloaded(&mut self) {
        let report = self.reports.reloaded();
        self.tell(&report);
    }

    /// The node ends.
    pub fn stopping(&mut self) {
        let report = self.reports.stopping();
        self.tell(&report);
    }

    fn tell(&mut self, report: &[String]) {
        if !self.is_told || report.is_empty() {
            return;
        }
        let states: Vec<_> = report.iter().map(|line| NotifyState::Custom(line)).collect();
        if let Err(error) = sd_notify::notify(&states)
            && !std::mem::replace(&mut self.has_failed, true)
        {
            warn!(%error, "the service manager cannot be told how the node is (NOTIFY_SOCKET); it may take it for hung");
        }
    }
}

/// What is told, and when.
///
/// # Invariants
/// - "Ready" comes first of all, but for the status and pings; a reload is told of only after it.
/// - A status is told when it differs from the last one.
#[derive(Debug, Default)]
struct Reports {
    watchdog: Option<Duration>,
    is_ready: bool,
    is_reloading: bool,
    /// The status that was told last.
    status: String,
}

impl Reports {
    /// Between two looks.
    fn pause(&self) -> Duration {
        let ping = self.watchdog.map_or(STATUS_EVERY, |time| time / PINGS_IN_TIME);
        ping.clamp(LOOK_PAUSE_MIN, STATUS_EVERY)
    }

    fn look(&mut self, status: String, is_live: bool) -> Vec<String> {
        let mut report = Vec::new();
        if self.watchdog.is_some() && is_live {
            report.push(NotifyState::Watchdog.to_string());
        }
        if status != self.status {
            report.push(NotifyState::Status(&status).to_string());
            self.status = status;
        }
        report
    }

    fn ready(&mut self) -> Vec<String> {
        self.is_ready = true;
        vec![NotifyState::Ready.to_string()]
    }

    fn reloading(&mut self) -> Vec<String> {
        // Without the time the service manager would take it for a fault.
        match NotifyState::monotonic_usec_now() {
            Ok(now) if self.is_ready => {
                self.is_reloading = true;
                vec![NotifyState::Reloading.to_string(), now.to_string()]
            }
            _ => Vec::new(),
        }
    }

    fn reloaded(&mut self) -> Vec<String> {
        match std::mem::take(&mut self.is_reloading) {
            true => self.ready(),
            false => Vec::new(),
        }
    }

    fn stopping(&mut self) -> Vec<String> {
        let status = "stopping: what is in flight is answered, no new links";
        vec![NotifyState::Stopping.to_string(), NotifyState::Status(status).to_string()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_watchdog(time: Duration) -> Reports {
        Reports { watchdog: Some(time), ..Reports::default() }
    }

    #[test]
    fn a_node_that_hangs_sends_no_pings_and_one_that_lives_again_does() {
        let mut reports = with_watchdog(Duration::from_secs(30));
        assert_eq!(reports.look("fine".to_owned(), true), ["WATCHDOG=1", "STATUS=fine"]);
        assert_eq!(reports.look("fine".to_owned(), true), ["WATCHDOG=1"]);
        assert_eq!(reports.look("hangs".to_owned(), false), ["STATUS=hangs"]);
        assert_eq!(reports.look("hangs".to_owned(), false), [""; 0]);
        assert_eq!(reports.look("fine".to_owned(), true), ["WATCHDOG=1", "STATUS=fine"]);
        assert_eq!(
            Reports::default().look("fine".to_owned(), true),
            ["STATUS=fine"],
            "nobody asks for pings"
        );
    }

    #[test]
    fn pings_come_thrice_in_the_time_of_the_watchdog_and_looks_every_two_seconds_at_least() {
        let pause = |millis| with_watchdog(Duration::from_millis(millis)).pause();
        assert_eq!([0, 300, 3_000, 30_000].map(pause), [10, 100, 1_000, 2_000].map(Duration::from_millis));
        assert_eq!(Reports::default().pause(), STATUS_EVERY);
    }

    #[test]
    fn a_socket_is_compared_with_the_address_of_the_configuration() {
        let address = |text: &str| text.parse().unwrap();
        assert!(!is_elsewhere(address("127.0.0.1:20200"), "127.0.0.1", 20_200));
        assert!(!is_elsewhere(address("127.0.0.1:20200"), "127.0.0.1", 0), "any port will do");
        assert!(!is_elsewhere(address("[::]:20200"), "0.0.0.0", 20_200));
        assert!(is_elsewhere(address("0.0.0.0:20200"), "127.0.0.1", 20_200));
        assert!(is_elsewhere(address("127.0.0.1:20201"), "127.0.0.1", 20_200));
    }

    #[test]
    fn a_reload_is_told_of_with_its_time_and_only_once_the_node_is_ready() {
        let mut reports = Reports::default();
        assert_eq!(reports.reloading(), [""; 0]);
        assert_eq!(reports.reloaded(), [""; 0], "it would say that the node is ready");
        assert_eq!(reports.ready(), ["READY=1"]);
        let reloading = reports.reloading();
        assert_eq!(reloading[0], "RELOADING=1");
        let time = reloading[1].strip_prefix("MONOTONIC_USEC=").unwrap();
        assert!(time.parse::<u64>().unwrap() > 0);
        assert_eq!(reports.reloaded(), ["READY=1"]);
        assert_eq!(reports.reloaded(), [""; 0]);
    }
}
