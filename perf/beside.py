"""The node beside nats-server at equal rates and in closed loops, in the shape of official SDKs; parts of perf/report.

In that shape a client has each frame in a TLS record of its own, each record in a write and in reads of its own, and tells the
node nothing of records that it could share (`amop bench --sdk-shape`). nats-server's client writes and reads likewise; the server
itself puts several messages into one record, since its protocol lets it. Beside them stands the node with our own client, which
shares records, writes and reads.
"""

import statistics
import sys
import time
from pathlib import Path

from rig import Trouble

WHO = {"nats": "nats-server", "amop": "amop", "own": "amop, own client's shape"}
FIGURES = {"cpu": "node_cpu_us_each", "p50": "p50_us", "p99": "p99_us", "rate": "messages_per_second"}
# Offered rates, of nats-server's best; the issue asks about these …
SHARES = (0.2, 0.5, 0.8)
# … and the curve of one pair of links has more of them.
CURVE = (0.02, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.1)
# A rate was carried if so much of it was.
CARRIED = 0.97
# Times are the load's own if it sent so late, as parts of their p99: others had its processor.
LATE = 0.5


class Shape:
    """Who is connected to whom, and how much a message carries."""

    def __init__(self, publishers=1, subscribers=None, payload=256):
        self.publishers, self.subscribers, self.payload = publishers, subscribers, payload

    @property
    def name(self):
        links = f"multicast to {self.subscribers:,}" if self.subscribers else f"{self.publishers} + {self.publishers} links"
        size = self.payload
        told = "" if size == 256 else f", {size >> 20} MiB" if size >= 1 << 20 else f", {size >> 10} KiB" if size >= 1 << 10 else f", {size} B"
        return links + told

    def options(self, peer):
        load = ["--publishers", self.publishers, "--payload", self.payload]
        if self.subscribers:
            load += ["--subscribers", self.subscribers]
            return ["multicast", *load] if peer != "nats" else ["--multicast", *load]
        return load


# What is run in closed loops: the shape, and messages under way for each publisher.
CLOSED = [(Shape(), 1), (Shape(), 16), (Shape(), 128), (Shape(16), 2), (Shape(256), 1),
          (Shape(subscribers=10), 16), (Shape(subscribers=100), 16), (Shape(subscribers=1000), 4),
          (Shape(payload=64), 16), (Shape(payload=4 << 10), 16), (Shape(payload=64 << 10), 4), (Shape(payload=1 << 20), 2)]
# At equal rates: the shape, how much is under way where nats-server's best rate is looked for, and the shares of that.
RATES = [(Shape(), 128, CURVE), (Shape(16), 16, SHARES), (Shape(256), 2, SHARES), (Shape(subscribers=10), 64, SHARES),
         (Shape(subscribers=100), 16, SHARES), (Shape(subscribers=1000), 4, SHARES), (Shape(payload=4 << 10), 64, SHARES),
         (Shape(payload=64 << 10), 16, SHARES)]
# What the short mode leaves of them.
SHORT_CLOSED = [CLOSED[at] for at in (0, 1, 2, 3, 6)]
SHORT_RATES = [(Shape(), 128, SHARES), (Shape(16), 16, SHARES)]


def run_of(bench, who, shape, *load):
    """A function that runs one of them once."""
    options = [*shape.options(who), *load]
    name = f"{WHO[who]}, {shape.name}, {' '.join(str(part) for part in load).replace('--', '')}"
    if who == "nats":
        return lambda: bench.nats_run(name, *options, "--sdk-shape", rate_counts=False)
    return lambda: bench.amop_run(name, *options, *(["--sdk-shape"] if who == "amop" else []), rate_counts=False)


def spread(values):
    """Median, least and most."""
    return [statistics.median(values), min(values), max(values)]


def compared(runs):
    """Figures of each, and the node's as parts of nats-server's, run by run."""
    found = {who: {figure: spread([run[key] for run in of]) for figure, key in FIGURES.items()} for who, of in runs.items()}
    for who, of in runs.items():
        for busy in ("server_busy", "load_busy"):
            found[who][busy] = statistics.median(run[busy] for run in of)
    ratios = {who: {figure: spread([one[key] / max(nats[key], 1e-9) for one, nats in zip(runs[who], runs["nats"])])
                    for figure, key in FIGURES.items()} for who in runs if who != "nats"}
    return {"who": found, "ratios": ratios}


def closed(bench, report):
    for shape, window in SHORT_CLOSED if bench.args.short else CLOSED:
        what = f"{shape.name}, window {window}"
        runs = bench.rounds({who: run_of(bench, who, shape, "--window", window) for who in WHO})
        report.closed.append({"what": what, "key": [shape.publishers, shape.subscribers, shape.payload, window], **compared(runs)})


def rates(bench, report):
    for shape, window, shares in SHORT_RATES if bench.args.short else RATES:
        # With the load on a processor of its own that does not sleep, times are the servers'.
        found = bench.rounds({"nats": run_of(bench, "nats", shape, "--window", window)})["nats"]
        best = statistics.median(run["messages_per_second"] for run in found)
        offered = [max(int(best * share), 1) for share in shares]
        listed = ",".join(str(rate) for rate in offered)
        rounds = bench.rounds({who: run_of(bench, who, shape, "--spin", "--rate", listed) for who in WHO})
        steps = []
        for at, (share, rate) in enumerate(zip(shares, offered)):
            runs = {who: [run[at] for run in of] for who, of in rounds.items()}
            step = compared(runs)
            for who, told in step["who"].items():
                told["carried"] = told["rate"][0] >= CARRIED * rate
                told["late_us"] = statistics.median(run["sent_late_p99_us"] for run in runs[who])
                told["is_late"] = told["carried"] and told["late_us"] > LATE * told["p99"][0]
            steps.append({"share": share, "rate": rate, **step})
        report.rates.append({"what": shape.name, "key": [shape.publishers, shape.subscribers, shape.payload], "best": best, "steps": steps})


def processor_seconds(pid):
    """What each thread of a process has run, to the nanosecond."""
    return {stat.parent.name: int(stat.read_text().split()[0]) / 1e9 for stat in Path(f"/proc/{pid}/task").glob("*/schedstat")}


def quiet(bench, report):
    """An idle node, and one with 100 messages a second: shares of a processor in percent."""
    seconds = max(4 * bench.args.seconds, 8)

    def share_of(process, load):
        try:
            if load:
                started = load(process.pid)
            time.sleep(3)
            before, start = processor_seconds(process.pid), time.monotonic()
            time.sleep(seconds)
            # A thread that ended meanwhile took with it what it had run since.
            ran = sum(seconds - before.get(thread, 0) for thread, seconds in processor_seconds(process.pid).items())
            share = ran / (time.monotonic() - start) * 100
            if load:
                # It must have run all the while.
                if started.poll() is not None:
                    raise Trouble("the load of 100 messages a second ended before its time")
                started.send_signal(15)
                started.wait()
            return share
        finally:
            bench.stop_all()

    long = ["--rate", 100, "--seconds", 10 * seconds, "--sdk-shape"]
    for what, amop_load, nats_load in (
            ("idle", None, None),
            ("100 messages/s", lambda pid: bench.start_load("amop, 100/s", bench.amop_command([pid], *long)),
             lambda pid: bench.start_load("nats-server, 100/s", bench.nats_command(pid, *long)))):
        shares = {"amop": [], "nats": []}
        for _ in range(min(bench.args.runs, 3)):
            shares["amop"].append(share_of(bench.node(), amop_load))
            shares["nats"].append(share_of(bench.nats(), nats_load))
        report.quiet.append({"what": what, **{who: spread(found) for who, found in shares.items()}})
        print(f"  {what}: " + ", ".join(f"{WHO[who]} {statistics.median(found):.3f} %" for who, found in shares.items()), file=sys.stderr)


def before(bench, report):
    """Our own client's shape, beside an older program: the load is the same."""
    if not bench.args.before:
        return
    for shape, window in ((Shape(), 1), (Shape(), 128), (Shape(16), 2), (Shape(subscribers=100), 16), (Shape(payload=1 << 20), 8)):
        load = [*shape.options("own"), "--window", window]
        runs = bench.rounds({name: lambda name=name, program=program: bench.amop_run(
            f"{name}, own client's shape, {shape.name}, window {window}", *load, program=program, rate_counts=False)
            for name, program in (("before", bench.args.before), ("now", None))})
        ratio = spread([now["node_cpu_us_each"] / old["node_cpu_us_each"] for now, old in zip(runs["now"], runs["before"])])
        report.before.append({"what": f"{shape.name}, window {window}", "ratio": ratio,
                              "now": spread([run["node_cpu_us_each"] for run in runs["now"]]),
                              "p50": spread([now["p50_us"] / old["p50_us"] for now, old in zip(runs["now"], runs["before"])])})


# What is told of it.

def ratio(values):
    middle, low, high = values
    return f"{middle:.2f} × ({low:.2f} to {high:.2f})"


def targets(parts):
    """Rows of the issue's table: what, target, measured, verdict."""
    rows = []
    loops = {tuple(entry["key"]): entry for entry in parts.get("closed", {}).get("closed", [])}
    for key, what, limits in (
            ((1, None, 256, 1), "lone round trip, defaults", {"p50": 0.4, "cpu": 0.6}),
            ((1, None, 256, 128), "1 + 1 links, window 128", {"cpu": 0.5, "p50": 1.0}),
            ((16, None, 256, 2), "16 + 16 links, window 2", {"cpu": 0.6, "p50": 0.8}),
            ((256, None, 256, 1), "256 + 256 links, window 1", {"cpu": 0.6, "p50": 0.8}),
            ((1, 100, 256, 16), "multicast to 100", {"cpu": 0.5}),
            ((1, 1000, 256, 4), "multicast to 1,000", {"cpu": 0.5})):
        names = {"cpu": "CPU", "p50": "p50"}
        target = ", ".join(f"{names[figure]} ≤ {limit:g} ×" for figure, limit in limits.items())
        if key not in loops:
            rows.append((what, target, "not measured", "not reached"))
            continue
        found = loops[key]["ratios"]["amop"]
        missed = [names[figure] for figure, limit in limits.items() if found[figure][0] > limit]
        rows.append((what, target, ", ".join(f"{names[figure]} {ratio(found[figure])}" for figure in limits), verdict(missed)))
    for entry in parts.get("rates", {}).get("rates", []):
        steps = [step for step in entry["steps"] if step["share"] in SHARES]
        missed = [f"{step['share'] * 100:.0f} %" for step in steps if step["ratios"]["amop"]["p99"][0] > 0.5]
        rows.append((f"{entry['what']} at 20, 50, 80 % of nats-server's best", "p99 ≤ 0.5 × each",
                     ", ".join(ratio(step["ratios"]["amop"]["p99"]) for step in steps),
                     verdict(missed) + (" (void: the load was late)" if any(step["who"][who]["is_late"] for step in steps for who in ("amop", "nats")) else "")))
    for entry, limit in zip(parts.get("quiet", {}).get("quiet", []), (0.2, 3)):
        rows.append((f"{entry['what']}: share of a processor", f"≤ {limit:g} %", f"{entry['amop'][0]:.2f} % (nats-server {entry['nats'][0]:.2f} %)",
                     verdict([] if entry["amop"][0] <= limit else ["it"])))
    older = parts.get("before", {}).get("before", [])
    # What a run differs from the next one is not the program's.
    missed = [entry["what"] for entry in older if entry["ratio"][0] > 1.05]
    rows.append(("own client's shape, CPU beside the program before", "≤ 1.05 × each",
                 "; ".join(f"{entry['what']}: {ratio(entry['ratio'])}" for entry in older) or "not measured: --before says beside which program",
                 verdict(missed if older else ["it"])))
    return rows


def verdict(missed):
    return f"not reached: {', '.join(missed)}".removesuffix(": it") if missed else "reached"


def number(values, digits):
    middle, low, high = values
    return f"{middle:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


def tables(parts):
    """Lines of Markdown."""
    lines = []
    for entry in parts.get("closed", {}).get("closed", []):
        if not lines:
            lines += ["## Closed loops", "", "Each publisher sends the next message when one is done. CPU is the server's processor time in µs: for each round trip, or each",
                      "delivery of a multicast. × is beside nats-server. Median (least to most) of the runs.", "",
                      "| shape | who | CPU µs | × | p50 µs | × | p99 µs | messages/s | server busy | load busy |", "|---|---|---|---|---|---|---|---|---|---|"]
        for who, told in entry["who"].items():
            beside = entry["ratios"].get(who)
            lines.append(f"| {entry['what']} | {WHO[who]} | {number(told['cpu'], 2)} | {ratio(beside['cpu']) if beside else ''} | "
                         f"{number(told['p50'], 0)} | {ratio(beside['p50']) if beside else ''} | {told['p99'][0]:,.0f} | {told['rate'][0]:,.0f} | "
                         f"{told['server_busy']:.2f} | {told['load_busy']:.2f} |")
    if lines:
        lines.append("")
    chosen = parts.get("rates", {}).get("rates", [])
    if chosen:
        lines += ["## At equal rates", "", "Messages are sent when they are due, whatever became of those before, and times begin then. The load does not sleep. Rates are parts",
                  "of what nats-server carried in a closed loop with many messages under way. \"Not carried\": less than "
                  f"{CARRIED * 100:.0f} % of the rate was. \"Load late\": at p99 it sent later than half of the p99 of times, so that those are its own.", "", "![at equal rates](rates.svg)", "",
                  "| shape | messages/s | who | CPU µs | × | p50 µs | × | p99 µs | × | |", "|---|---|---|---|---|---|---|---|---|---|"]
    for entry in chosen:
        for step in entry["steps"]:
            for who, told in step["who"].items():
                beside = step["ratios"].get(who)
                by = {figure: ratio(beside[figure]) if beside else "" for figure in FIGURES}
                lines.append(f"| {entry['what']} | {step['rate']:,} ({step['share'] * 100:.0f} %) | {WHO[who]} | {told['cpu'][0]:.2f} | {by['cpu']} | "
                             f"{told['p50'][0]:,.0f} | {by['p50']} | {told['p99'][0]:,.0f} | {by['p99']} | {'not carried' if not told['carried'] else 'load late' if told['is_late'] else ''} |")
    return lines + [""] if chosen else lines


COLORS = {"nats": "#c44", "amop": "#276", "own": "#69c"}


def draw(entries, path):
    """Latency and processor time over the rate, a row of two panels for each shape; both axes of latency are logarithmic."""
    import math
    width, panel, margin = 1100, 240, 62
    half = width / 2
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{panel * len(entries) + 30}" font-family="sans-serif" font-size="12">',
           f'<rect width="{width}" height="{panel * len(entries) + 30}" fill="white"/>']
    for place, (who, color) in enumerate(COLORS.items()):
        out.append(f'<text x="{margin + 260 * place}" y="18" fill="{color}">{WHO[who]}</text>')
    out.append(f'<text x="{margin + 780}" y="18">latency: p50 dashed, p99 whole</text>')
    for row, entry in enumerate(entries):
        top, bottom = row * panel + 64, row * panel + panel - 8
        steps = entry["steps"]
        most_rate = max(step["rate"] for step in steps)

        def across(rate, left):
            return left + margin + rate / most_rate * (half - 2 * margin)

        times = [step["who"][who][figure][0] for step in steps for who in step["who"] for figure in ("p50", "p99")]
        low, high = math.floor(math.log10(max(min(times), 1))), math.ceil(math.log10(max(times) + 1))
        costs = max(step["who"][who]["cpu"][0] for step in steps for who in step["who"])

        def by_time(value):
            return bottom - (math.log10(max(value, 1)) - low) / max(high - low, 1) * (bottom - top)

        def by_cost(value):
            return bottom - value / costs * (bottom - top)

        out.append(f'<text x="{margin}" y="{top - 12}" font-size="14">{entry["what"]}: µs over messages/s</text>')
        out.append(f'<text x="{half + margin}" y="{top - 12}" font-size="14">server\'s processor µs, each</text>')
        for power in range(low, high + 1):
            y = by_time(10 ** power)
            out.append(f'<line x1="{margin}" x2="{half - margin}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
                       f'<text x="{margin - 6}" y="{y + 4:.1f}" text-anchor="end">{10 ** power:,}</text>')
        for part in (0, 0.5, 1):
            y = by_cost(costs * part)
            out.append(f'<line x1="{half + margin}" x2="{width - margin}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>'
                       f'<text x="{half + margin - 6}" y="{y + 4:.1f}" text-anchor="end">{costs * part:.1f}</text>')
        for left in (0, half):
            for step in steps:
                out.append(f'<text x="{across(step["rate"], left):.1f}" y="{bottom + 14:.1f}" text-anchor="middle" font-size="10">{step["rate"]:,}</text>')
        for who in steps[0]["who"]:
            for figure, dash, left, at in (("p50", "5 4", 0, by_time), ("p99", "none", 0, by_time), ("cpu", "none", half, by_cost)):
                points = " ".join(f"{across(step['rate'], left):.1f},{at(step['who'][who][figure][0]):.1f}" for step in steps)
                out.append(f'<polyline points="{points}" fill="none" stroke="{COLORS[who]}" stroke-width="2" stroke-dasharray="{dash}"/>')
    path.write_text("\n".join(out + ["</svg>", ""]))


PARTS = {part.__name__: part for part in (closed, rates, quiet, before)}
