"""Servers and loads, each pinned to a processor of its own; shared by perf/report, perf/scaling and perf/io."""

import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SERVER_CPU, LOAD_CPU = 0, 1
BUSY_MIN, LOAD_MAX = 0.95, 0.90
TRIES = 2
CHANNEL_PORT, P2P_PORT, NATS_PORT = 22200, 32300, 24222


class Trouble(Exception):
    """What the reader must mend."""


def sh(command, **more):
    return subprocess.run([str(part) for part in command], check=True, text=True, capture_output=True, **more).stdout


def load_average():
    return Path("/proc/loadavg").read_text().split()[0]


def processor_times():
    """All and stolen time of each processor since the machine started, in ticks; under None those of all together."""
    times = {}
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name.startswith("cpu"):
            ticks = [int(field) for field in fields[:8]]
            times[int(name[3:]) if name != "cpu" else None] = (sum(ticks), ticks[7])
    return times


def stolen_share(before, processor=None):
    """Share of a processor's time since then that the machine's host gave to others."""
    (all_before, stolen_before), (all_now, stolen_now) = before[processor], processor_times()[processor]
    return (stolen_now - stolen_before) / max(all_now - all_before, 1)


class Bench:
    def __init__(self, args):
        self.args = args
        target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
        self.amop, self.peers = target / "amop", target / "peers"
        self.dir = Path(tempfile.mkdtemp(prefix="amop-report-"))
        self.running = []
        self.commands = []
        sh([self.amop, "pki", "network", "-l", "127.0.0.1:2", "--p2p-port", P2P_PORT, "--channel-port", CHANNEL_PORT,
            "--listen-ip", "127.0.0.1", "-o", self.dir / "nodes"])
        self.host = self.dir / "nodes" / "127.0.0.1"
        self.certs = self.host / "sdk"
        self.configs = 0

    def close(self):
        self.stop_all()
        shutil.rmtree(self.dir, ignore_errors=True)

    def stop_all(self):
        for process in self.running:
            process.send_signal(signal.SIGTERM)
        for process in self.running:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.running.clear()

    def under(self):
        """What servers and loads run under besides."""
        return ["chrt", "--fifo", "5"] if getattr(self.args, "realtime", False) else []

    def spawn(self, command, cpu, **more):
        pinned = [*self.under(), *(command if cpu is None else ["taskset", "-c", str(cpu), *command])]
        process = subprocess.Popen([str(part) for part in pinned], **more)
        self.running.append(process)
        return process

    def more_certs(self, count):
        """Directories of that many further certificates for applications."""
        issuer = self.dir / "nodes" / "cert" / "agency" / "channel"
        directories = [self.dir / f"sdk{number}" for number in range(count)]
        for directory in directories:
            if not directory.exists():
                sh([self.amop, "pki", "sdk", "--agency", issuer, "--name", directory.name, "--out", directory])
        return [str(directory) for directory in directories]

    def note(self, name, command):
        text = " ".join(str(part) for part in command).replace(str(self.dir), "DIR")
        text = text.replace(str(self.amop.parent), "target/release").replace(str(ROOT) + "/", "")
        self.commands.append((name, text))

    def node(self, number=0, engine="", tls="", cpu=SERVER_CPU, alone=True, program=None):
        """Starts a node with more settings, of another program perhaps; gives its process."""
        base = (self.host / f"node{number}" / "config.ini").read_text()
        if alone:
            base = "\n".join(line for line in base.splitlines() if not line.strip().startswith("node."))
        self.configs += 1
        config = self.host / f"node{number}" / f"report{self.configs}.ini"
        engine = engine if "reactors=" in engine else f"reactors=1\n{engine}"
        config.write_text(f"{base}\n[engine]\n{engine}\n[tls]\n{tls}\n")
        process = self.spawn([program or self.amop, "node", "-c", config, "--log-level", "error"], cpu)
        self.wait_for(CHANNEL_PORT + number, process)
        return process

    def nats(self):
        config = self.dir / "nats.conf"
        config.write_text(
            f"host: 127.0.0.1\nport: {NATS_PORT}\nmax_payload: 8MB\nmax_pending: 256MB\n"
            f"tls {{ cert_file: \"{self.certs}/sdk.crt\"\n key_file: \"{self.certs}/sdk.key\"\n"
            f" ca_file: \"{self.certs}/ca.crt\"\n verify: true\n timeout: 10 }}\n")
        command = [self.args.nats, "-c", config, "-l", self.dir / "nats.log"]
        process = self.spawn(command, SERVER_CPU, env={**os.environ, "GOMAXPROCS": "1"})
        self.wait_for(NATS_PORT, process)
        return process

    def wait_for(self, port, process):
        import socket
        for _ in range(300):
            if process.poll() is not None:
                raise Trouble(f"a server ended at its start: {process.args}")
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.05)
        raise Trouble(f"nothing listens on port {port}")

    def measure(self, name, command, rate_counts=True, under=()):
        """Runs a load, under another command perhaps, until it is valid; gives its figures."""
        pinned = [*(under or self.under()), "taskset", "-c", str(LOAD_CPU), *[str(part) for part in command]]
        self.note(name, pinned)
        for _ in range(TRIES):
            before = processor_times()
            done = subprocess.run(pinned, text=True, capture_output=True)
            lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
            if not lines:
                raise Trouble(f"{name}: {done.stderr.strip()}")
            figures = [json.loads(line) for line in lines]
            last = figures[-1]
            for figure in figures:
                if not figure.get("is_clean", True):
                    raise Trouble(f"{name}: messages were lost, failed or came twice: "
                                  f"{ {key: figure[key] for key in ('failed', 'lost', 'unmatched', 'unsent')} }")
            # Of the time that the host left: what it took, neither could have used.
            for figure in figures:
                figure["stolen_share"] = stolen_share(before)
                figure["server_busy"] = figure.get("node_processor_share", 0) / (1 - stolen_share(before, SERVER_CPU))
                figure["load_busy"] = figure.get("own_processor_share", 0) / (1 - stolen_share(before, LOAD_CPU))
                figure["load_average"] = load_average()
                figure["valid"] = not rate_counts or (figure["server_busy"] >= BUSY_MIN and figure["load_busy"] <= LOAD_MAX)
            if last["valid"]:
                break
        for figure in figures:
            figure.pop("histogram_us", None)
        share = f"server {last['server_busy']:.2f} busy, load {last['load_busy']:.2f}, stolen {last['stolen_share'] * 100:.0f} %"
        print(f"  {name}: {last.get('node_cpu_us_each', 0):.3f} µs each, {last.get('messages_per_second', 0):.0f}/s, {share}"
              f"{'' if last['valid'] else ' VOID'}", file=sys.stderr)
        return figures if len(figures) > 1 else last

    def bench(self, name, pids, *options, nodes=(0,), rate_counts=True, under=()):
        return self.measure(name, self.amop_command(pids, *options, nodes=nodes), rate_counts, under)

    def amop_command(self, pids, *options, nodes=(0,)):
        where = [part for number in nodes for part in ("-n", f"127.0.0.1:{CHANNEL_PORT + number}")]
        seconds = [] if "--seconds" in options else ["--seconds", self.args.seconds]
        return [self.amop, "bench", *options, *where, "-c", self.certs, "--pid", ",".join(map(str, pids)), "--json", *seconds]

    def nats_command(self, pid, *options):
        seconds = [] if "--seconds" in options else ["--seconds", self.args.seconds]
        return [self.peers, "nats-load", "-n", f"127.0.0.1:{NATS_PORT}", "-c", self.certs, "--pid", pid, *seconds, *options]

    def start_load(self, name, command):
        """A load that runs until it is ended; what it finds is not wanted."""
        self.note(name, ["taskset", "-c", str(LOAD_CPU), *command])
        return self.spawn(command, LOAD_CPU, stdout=subprocess.DEVNULL)

    def aead(self, frame, frames_per_record):
        command = [self.peers, "aead", "--frame", frame, "--frames-per-record", frames_per_record]
        self.note("AEAD alone", command)
        each = [json.loads(sh(["taskset", "-c", SERVER_CPU, *command]))["cpu_us_each"] for _ in range(self.args.runs)]
        return statistics.median(each)

    def sockets(self):
        command = [self.peers, "sockets", "--server", SERVER_CPU, "--load", LOAD_CPU]
        self.note("bare sockets", command)
        runs = [json.loads(sh(command)) for _ in range(self.args.runs)]
        return {name: statistics.median(run[name] for run in runs) for name in runs[0]}

    # What is run. Each gives figures for one run; `alternate` runs them in turn.

    def amop_run(self, name, *options, engine="", tls="", cpu=SERVER_CPU, program=None, **more):
        process = self.node(engine=engine, tls=tls, cpu=cpu, program=program)
        try:
            return self.bench(name, [process.pid], *options, **more)
        finally:
            self.stop_all()

    def two_nodes_run(self, name, *options):
        processes = [self.node(number, alone=False) for number in (0, 1)]
        try:
            return self.bench(name, [process.pid for process in processes], *options, nodes=(0, 1))
        finally:
            self.stop_all()

    def nats_run(self, name, *options, rate_counts=True):
        process = self.nats()
        try:
            return self.measure(name, self.nats_command(process.pid, *options), rate_counts)
        finally:
            self.stop_all()

    def floor_run(self, name, pairs, window):
        server = self.spawn([self.peers, "floor", "--pairs", pairs], SERVER_CPU, stdout=subprocess.PIPE, text=True)
        address = server.stdout.readline().strip()
        try:
            return self.measure(name, [self.peers, "floor-load", "-n", address, "--publishers", pairs, "--window", window,
                                       "--pid", server.pid, "--seconds", self.args.seconds])
        finally:
            self.stop_all()

    def rounds(self, runs):
        """Runs each of `runs` in turn, as often as said, every other time in the opposite order; gives all that each found."""
        found = {name: [] for name in runs}
        for number in range(self.args.runs):
            for name in list(runs)[:: 1 if number % 2 == 0 else -1]:
                found[name].append(runs[name]())
        return found

    def alternate(self, *runs, by="node_cpu_us_each"):
        """Runs each of `runs` in turn, as often as said; gives for each all figures of the run that is the median in one of them."""
        figures = [[] for _ in runs]
        for _ in range(self.args.runs):
            for run, into in zip(runs, figures):
                into.append(run())
        medians = []
        for into in figures:
            ordered = sorted(into, key=lambda one: one[by])
            median = dict(ordered[len(ordered) // 2])
            costs = sorted(one["node_cpu_us_each"] for one in into)
            median["spread"] = [costs[0], costs[-1]]
            median["valid"] = all(one["valid"] for one in into)
            medians.append(median)
        return medians


def processor():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def arguments(description):
    """The options that both scripts have, for argparse."""
    import argparse
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / "perf" / "results")
    parser.add_argument("--realtime", action="store_true", help="servers and loads in real time (chrt --fifo), before others' work")
    parser.add_argument("--built", action="store_true", help="do not build")
    return parser


def build(args):
    if os.cpu_count() < 2:
        raise Trouble("two processors are needed: one for the server, one for the load")
    if not args.built:
        subprocess.run(["cargo", "build", "--release", "-p", "amop", "-p", "amop-perf", "--bin", "amop", "--bin", "peers"], cwd=ROOT, check=True)
