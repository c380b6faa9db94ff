"use strict";
// Reads what the node tells every few seconds and shows it. Whatever comes from the node is put on the page as text, never as markup.

const SECONDS = 2;
// Points of the chart: five minutes.
const POINTS_MAX = 150;
const ROWS_MAX = 20;
// The graph shows so many nodes; the table below it has all that the page asks for.
const GRAPH_NODES_MAX = 60;
const NODES_MAX = 200;
const BOUND_WARNED_PERCENT = 80;
const CERTIFICATE_WARNED_DAYS = 30;

const $ = (id) => document.getElementById(id);
let language = new URLSearchParams(location.search).get("lang")
  ?? localStorage.getItem("language") ?? (navigator.language.startsWith("zh") ? "zh" : "en");
if (!WORDS[language]) language = "en";

function say(word, values = {}) {
  const text = WORDS[language][word] ?? word;
  return text.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
}

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined && text !== null) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function drawn(tag, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// Drawings have the size that they are seen at, so that their text has, too.
const widthOf = (svg) => Math.max(260, svg.parentElement.clientWidth - 30);

// Figures as people read them.
const count = (value) => value >= 1e6 ? (value / 1e6).toFixed(1) + " M" : value >= 1e4 ? (value / 1e3).toFixed(1) + " k"
  : value >= 100 || Number.isInteger(value) ? Math.round(value).toString() : value.toFixed(1);
const bytes = (value) => value >= 1 << 30 ? (value / (1 << 30)).toFixed(1) + " GiB" : value >= 1 << 20 ? (value / (1 << 20)).toFixed(1) + " MiB"
  : value >= 1024 ? (value / 1024).toFixed(1) + " KiB" : Math.round(value) + " B";
const duration = (seconds) => seconds >= 86400 ? (seconds / 86400).toFixed(1) + " d" : seconds >= 3600 ? (seconds / 3600).toFixed(1) + " h"
  : seconds >= 60 ? Math.round(seconds / 60) + " min" : seconds >= 1 ? seconds.toFixed(1) + " s"
  : seconds >= 1e-3 ? (seconds * 1e3).toFixed(1) + " ms" : Math.round(seconds * 1e6) + " µs";
const shortId = (id) => id.slice(0, 8);
const clock = (date) => date.toLocaleTimeString(language === "zh" ? "zh-CN" : "en-GB");

// Metrics as Prometheus reads them: a list of { labels, value } for each name.
function parseMetrics(text) {
  const metrics = new Map();
  for (const line of text.split("\n")) {
    const found = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/.exec(line);
    if (!found) continue;
    const labels = {};
    for (const [, name, value] of (found[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) {
      labels[name] = value.replace(/\\(.)/g, (_, escaped) => (escaped === "n" ? "\n" : escaped));
    }
    if (!metrics.has(found[1])) metrics.set(found[1], []);
    metrics.get(found[1]).push({ labels, value: Number(found[3].replace("+Inf", "Infinity")) });
  }
  return metrics;
}

const sum = (metrics, name, wanted = () => true) =>
  (metrics.get(name) ?? []).filter((one) => wanted(one.labels)).reduce((total, one) => total + one.value, 0);

// The counts of a histogram's buckets, over all reactors: upper bound and how many lie in the bucket.
function buckets(metrics, name, wanted) {
  const upTo = new Map();
  for (const { labels, value } of metrics.get(name + "_bucket") ?? []) {
    if (!wanted(labels)) continue;
    const bound = Number(labels.le.replace("+Inf", "Infinity"));
    upTo.set(bound, (upTo.get(bound) ?? 0) + value);
  }
  let before = 0;
  return [...upTo].sort((a, b) => a[0] - b[0]).map(([bound, total]) => {
    const here = total - before;
    before = total;
    return { bound, here };
  });
}

// The bound of the bucket in which a quantile lies.
function quantile(parts, share) {
  const wanted = parts.reduce((total, part) => total + part.here, 0) * share;
  let seen = 0;
  for (const part of parts) {
    seen += part.here;
    if (part.here > 0 && seen >= wanted) return part.bound;
  }
  return undefined;
}

function table(target, columns, rows, onChoose) {
  const head = element("tr");
  for (const { word, number } of columns) head.append(element("th", say(word), number ? "number" : ""));
  const made = [head];
  for (const row of rows) {
    const line = element("tr");
    columns.forEach(({ of, number, long, style }) => {
      const cell = element("td", of(row) ?? "", [number ? "number" : "", long ? "long" : "", style?.(row) ?? ""].join(" ").trim());
      line.append(cell);
    });
    if (onChoose) {
      line.className = "link";
      line.tabIndex = 0;
      line.addEventListener("click", () => onChoose(row));
      line.addEventListener("keydown", (event) => { if (event.key === "Enter") onChoose(row); });
    }
    made.push(line);
  }
  if (rows.length === 0) {
    const line = element("tr"), cell = element("td", say("none"));
    cell.colSpan = columns.length;
    line.append(cell);
    made.push(line);
  }
  target.replaceChildren(...made);
}

const state = { last: undefined, points: [], read: undefined, trace: undefined };

async function get(path) {
  const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(5000) });
  const text = await answer.text();
  if (!answer.ok && !["/readyz"].includes(path) && !path.startsWith("/trace/")) throw new Error(answer.status + " " + text.trim());
  return { ok: answer.ok, text };
}
const getJson = async (path) => JSON.parse((await get(path)).text);

const FAILURE_CODES = ["not_sent", "no_receiver", "not_delivered", "timeout", "over_bandwidth"];

function rates(metrics, now) {
  const totals = {
    requests: sum(metrics, "amop_requests_total"), multicasts: sum(metrics, "amop_multicasts_total"),
    deliveries: sum(metrics, "amop_deliveries_total"), received: sum(metrics, "amop_received_bytes_total"),
    sent: sum(metrics, "amop_sent_bytes_total"), processor: sum(metrics, "process_cpu_seconds_total"),
    answered: sum(metrics, "amop_answered_by_subscriber_total"),
    failed: FAILURE_CODES.reduce((total, code) => total + sum(metrics, `amop_answered_${code}_total`), 0),
    start: sum(metrics, "process_start_time_seconds"),
  };
  const last = state.last;
  state.last = { now, totals };
  // A node that was started anew counts from 0 again.
  if (!last || last.totals.start !== totals.start) { state.points = []; return undefined; }
  const seconds = (now - last.now) / 1000, rate = {};
  for (const name of Object.keys(totals)) rate[name] = Math.max(0, totals[name] - last.totals[name]) / seconds;
  state.points.push({ answered: rate.answered, failed: rate.failed });
  state.points.splice(0, state.points.length - POINTS_MAX);
  return rate;
}

function showTiles({ metrics, rate, network }) {
  const tiles = [
    ["requests", rate && count(rate.requests)], ["multicasts", rate && count(rate.multicasts)], ["deliveries", rate && count(rate.deliveries)],
    ["failed", rate && count(rate.failed), rate?.failed > 0 ? "warn" : ""], ["received", rate && bytes(rate.received)], ["sent", rate && bytes(rate.sent)],
    ["openRequests", count(sum(metrics, "amop_pending_requests"))], ["applications", count(sum(metrics, "amop_sessions"))],
    ["nodesReached", network ? count(network.reachable) : undefined], ["memory", bytes(sum(metrics, "process_resident_memory_bytes"))],
    ["processor", rate && Math.round(rate.processor * 100) + " %"],
  ];
  $("tiles").replaceChildren(...tiles.map(([word, value, style]) => {
    const tile = element("div");
    tile.append(element("b", value ?? "–", style), element("span", say(word)));
    return tile;
  }));
}

function showChart() {
  const [width, height, left, bottom] = [widthOf($("chart")), 150, 42, 18];
  const most = Math.max(1, ...state.points.map((point) => Math.max(point.answered, point.failed)));
  const x = (index) => left + (index + POINTS_MAX - state.points.length) * (width - left - 4) / (POINTS_MAX - 1);
  const y = (value) => 8 + (1 - value / most) * (height - bottom - 8);
  const line = (of) => state.points.map((point, index) => `${index ? "L" : "M"}${x(index).toFixed(1)},${y(of(point)).toFixed(1)}`).join("");
  $("chart").setAttribute("viewBox", `0 0 ${width} ${height}`);
  $("chart").setAttribute("aria-label", say("chartLegend"));
  $("chart").replaceChildren(
    drawn("path", { class: "axis", d: `M${left},8V${height - bottom}H${width - 4}` }),
    drawn("text", { x: left - 4, y: 16, "text-anchor": "end" }, count(most)),
    drawn("text", { x: left - 4, y: height - bottom, "text-anchor": "end" }, "0"),
    drawn("path", { class: "one", d: line((point) => point.answered) }),
    drawn("path", { class: "two", d: line((point) => point.failed) }),
  );
  const one = element("span", "— " + say("answered"), "key-one"), two = element("span", " — " + say("notAnswered"), "key-two");
  $("legend").replaceChildren(one, two, " · " + say("chartLegend"));
}

function showLatency(metrics) {
  const all = buckets(metrics, "amop_request_seconds", (labels) => labels.outcome === "answered");
  const total = all.reduce((sum, part) => sum + part.here, 0);
  const used = all.map((part, index) => [part, index]).filter(([part]) => part.here > 0).map(([, index]) => index);
  const parts = total === 0 ? [] : all.slice(Math.max(0, used[0] - 1), used[used.length - 1] + 2);
  const [width, height, bottom] = [widthOf($("latency")), 150, 30];
  $("latency").setAttribute("viewBox", `0 0 ${width} ${height}`);
  $("latency").setAttribute("aria-label", say("latencyLegend"));
  if (parts.length === 0) {
    $("latency").replaceChildren(drawn("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, say("nothingYet")));
    return $("quantiles").replaceChildren(say("latencyLegend"));
  }
  const most = Math.max(...parts.map((part) => part.here)), step = (width - 8) / parts.length;
  const shapes = [drawn("path", { class: "axis", d: `M4,${height - bottom}H${width - 4}` })];
  parts.forEach((part, index) => {
    const high = part.here / most * (height - bottom - 14), x = 4 + index * step;
    const bar = drawn("rect", { class: "bar", x: x + 1, y: height - bottom - high, width: Math.max(1, step - 2), height: high });
    bar.append(drawn("title", {}, `≤ ${duration(part.bound)}: ${part.here}`));
    shapes.push(bar);
    if (index % Math.ceil(parts.length * 60 / width) === 0 && index + 1 < parts.length) {
      const bound = part.bound === Infinity ? "∞" : duration(part.bound).replace(".0 ", " ");
      shapes.push(drawn("text", { x: x + step, y: height - bottom + 14, "text-anchor": "middle" }, bound));
    }
  });
  $("latency").replaceChildren(...shapes);
  const marks = [0.5, 0.99, 0.999].map((share) => `p${String(share * 100)} ≤ ${duration(quantile(all, share))}`);
  $("quantiles").replaceChildren(marks.join(" · ") + " · " + say("latencyLegend"));
}

// Nodes by how far they are: this one in the middle, and a ring for each number of links.
function places(nodes, width, height) {
  const rings = new Map();
  for (const node of nodes) {
    const ring = node.standing === "own" ? 0 : node.hops ?? 99;
    if (!rings.has(ring)) rings.set(ring, []);
    rings.get(ring).push(node);
  }
  const order = [...rings.keys()].sort((a, b) => a - b), at = new Map();
  order.forEach((ring, number) => {
    const around = rings.get(ring);
    around.forEach((node, index) => {
      const angle = 2 * Math.PI * (index + (number % 2) / 2) / around.length - Math.PI / 2;
      const far = number / Math.max(1, order.length - 1);
      at.set(node.id, { ring, x: width / 2 + Math.cos(angle) * far * (width / 2 - 50), y: height / 2 - 8 + Math.sin(angle) * far * (height / 2 - 30) });
    });
  });
  return at;
}

function showGraph(network) {
  const outside = [
    ...network.items.flatMap((node) => (node.peers_2x ?? []).map((peer) => ({ id: peer.id, standing: "node_2x", hops: (node.hops ?? 0) + 1, by: node.id }))),
    ...(network.ledgers ?? []).map((ledger) => ({ id: "ledger " + ledger.number, name: ledger.address, standing: "ledger", hops: 1, by: network.items.find((node) => node.standing === "own")?.id })),
  ];
  const once = new Map([...network.items, ...outside].map((node) => [node.id, node]));
  const nodes = [...once.values()].sort((a, b) => (a.hops ?? 99) - (b.hops ?? 99)).slice(0, GRAPH_NODES_MAX);
  const [width, height] = [widthOf($("graph")), 300];
  const at = places(nodes, width, height), shapes = [], drawnEdges = new Set();
  const edge = (from, to, both) => {
    const name = [from, to].sort().join();
    if (!at.has(from) || !at.has(to) || drawnEdges.has(name)) return;
    drawnEdges.add(name);
    const [a, b] = [at.get(from), at.get(to)];
    // Within a ring it goes around whoever is in the middle.
    const bend = a.ring === b.ring ? 0.25 : 0, x = (a.x + b.x) / 2 + (b.y - a.y) * bend, y = (a.y + b.y) / 2 - (b.x - a.x) * bend;
    shapes.push(drawn("path", { class: both ? "edge" : "edge oneSided", d: `M${a.x},${a.y}Q${x},${y} ${b.x},${b.y}` }));
  };
  for (const node of network.items) for (const neighbour of node.neighbours ?? []) edge(node.id, neighbour.id, neighbour.agreed);
  for (const node of outside) if (node.by) edge(node.by, node.id, true);
  for (const node of nodes) {
    const { x, y } = at.get(node.id), group = drawn("g", { class: "node " + node.standing });
    const isSquare = ["ledger", "node_2x"].includes(node.standing);
    group.append(isSquare ? drawn("rect", { x: x - 8, y: y - 8, width: 16, height: 16 }) : drawn("circle", { cx: x, cy: y, r: 9 }));
    group.append(drawn("text", { x, y: y + 22, "text-anchor": "middle" }, node.name || shortId(node.id)));
    group.append(drawn("title", {}, `${node.id}\n${say(node.standing)}${node.address ? "\n" + node.address : ""}`));
    shapes.push(group);
  }
  $("graph").setAttribute("viewBox", `0 0 ${width} ${height}`);
  $("graph").setAttribute("aria-label", say("network"));
  $("graph").replaceChildren(...shapes);
}

function showNetwork(network) {
  showGraph(network);
  const link = new Map(network.links.map((one) => [one.peer, one]));
  const style = (node) => ({ own: "", neighbour: "good", reachable: "" })[node.standing] ?? "bad";
  table($("nodes"), [
    { word: "node", of: (node) => shortId(node.id) }, { word: "name", of: (node) => node.name, long: true }, { word: "agency", of: (node) => node.agency },
    { word: "state", of: (node) => say(node.standing), style }, { word: "hops", of: (node) => node.hops, number: true },
    { word: "address", of: (node) => node.address ?? node.advertised },
    { word: "roundTrip", of: (node) => link.get(node.id)?.round_trip_smoothed_us === undefined ? "" : duration(link.get(node.id).round_trip_smoothed_us / 1e6), number: true },
    { word: "waits", of: (node) => link.has(node.id) ? bytes(link.get(node.id).queued_bytes) : "", number: true },
    { word: "topicCount", of: (node) => node.topics, number: true },
  ], network.items);
}

function showFailures(failures) {
  const why = (one) => one.refusal !== "none" ? one.refusal : one.code !== undefined && WORDS[language]["code" + one.code] ? say("code" + one.code) : one.end;
  table($("failures"), [
    { word: "time", of: (one) => clock(new Date(one.taken)) }, { word: "code", of: (one) => one.code, number: true }, { word: "why", of: why },
    { word: "topic", of: (one) => one.topic, long: true }, { word: "size", of: (one) => count(one.size), number: true },
    { word: "took", of: (one) => duration(one.took_us / 1e6), number: true }, { word: "application", of: (one) => one.subject ?? one.address, long: true },
    { word: "seq", of: (one) => one.seq.slice(0, 8) },
  ], failures.items, (one) => { location.hash = "trace=" + one.seq; });
}

async function showTrace(seq) {
  const box = $("trace");
  state.trace = seq;
  box.hidden = false;
  box.replaceChildren(element("p", "…"));
  let trace;
  try { trace = await getJson("/trace/" + encodeURIComponent(seq)); } catch (error) { trace = { timeline: [], nodes: [], error }; }
  if (state.trace !== seq) return;
  const title = element("h3"), list = element("ol"), close = element("button", say("close"));
  title.append(say("traceOf") + " ", element("code", seq));
  close.type = "button";
  close.addEventListener("click", () => { location.hash = ""; });
  const names = new Map(trace.nodes.map((node) => [shortId(node.id), node.name]));
  for (const event of trace.timeline) {
    list.append(element("li", `+${duration(event.after_us / 1e6)} ${names.get(event.node) || event.node}: ${event.what}`));
  }
  if (trace.timeline.length === 0) list.append(element("li", trace.error ? say("metricsMissing", { path: "/trace", error: trace.error.message }) : say("noTrace")));
  for (const node of trace.nodes) if (node.remark) list.append(element("li", `${node.name || shortId(node.id)}: ${node.remark}`, "warn"));
  box.replaceChildren(title, list, close);
  box.scrollIntoView({ block: "nearest" });
}

function showSessions(sessions) {
  $("sessionsTotal").textContent = sessions.total > sessions.items.length ? say("shown", { shown: sessions.items.length, total: sessions.total }) : "";
  table($("sessions"), [
    { word: "application", of: (one) => one.subject, long: true }, { word: "address", of: (one) => one.address }, { word: "dialect", of: (one) => one.dialect },
    { word: "topicCount", of: (one) => one.topics, number: true }, { word: "open", of: (one) => one.pending_requests + one.pending_pushes, number: true },
    { word: "waits", of: (one) => bytes(one.queued_bytes), number: true, style: (one) => one.queued_bytes > 1 << 20 ? "warn" : "" },
  ], sessions.items);
}

function showTopics(topics) {
  $("topicsTotal").textContent = topics.total > topics.items.length ? say("shownTopics", { shown: topics.items.length, total: topics.total }) : "";
  table($("topics"), [
    { word: "topic", of: (one) => one.name, long: true }, { word: "kind", of: (one) => say(one.kind) },
    { word: "subscribers", of: (one) => one.sessions, number: true }, { word: "nodes", of: (one) => one.nodes_total, number: true },
  ], topics.items);
}

// What an operator should look at first.
function findProblems({ metrics, network, now }) {
  const found = [];
  for (const [name, values] of metrics) {
    const used = name.replace(/_max$/, "");
    if (used === name || !metrics.has(used) || !(values[0].value > 0)) continue;
    const share = Math.floor(100 * sum(metrics, used) / values[0].value);
    if (share >= BOUND_WARNED_PERCENT) found.push([say("bound", { what: used, share }), share >= 95 ? "bad" : "warn"]);
  }
  for (const [name, values] of metrics) {
    const which = /^amop_(\w+)_not_after_seconds$/.exec(name)?.[1];
    const days = which && Math.floor((values[0].value - now / 1000) / 86400);
    if (which && days < 0) found.push([say("certificateEnded", { which }), "bad"]);
    else if (which && days < CERTIFICATE_WARNED_DAYS) found.push([say("certificate", { which, days }), "warn"]);
  }
  const stalled = sum(metrics, "amop_closed_stalled_total"), lines = sum(metrics, "amop_log_lines_lost_total");
  if (stalled > 0) found.push([say("stalled", { count: stalled }), "warn"]);
  if (lines > 0) found.push([say("linesLost", { count: lines }), "warn"]);
  const out = network?.items.filter((node) => ["lost", "out_of_reach"].includes(node.standing)).length ?? 0;
  if (out > 0) found.push([say("nodesOut", { count: out }), "bad"]);
  return found;
}

function showProblems(found) {
  $("problems").hidden = found.length === 0;
  $("problems").querySelector("ul").replaceChildren(...found.map(([text, style]) => element("li", text, style)));
}

function showHeader({ ready, metrics, network, now }) {
  const own = network?.items.find((node) => node.standing === "own");
  $("name").textContent = own ? own.name || shortId(own.id) : "";
  document.title = "amop " + $("name").textContent;
  $("health").textContent = ready.ok ? say("ready") : say("notReady") + ": " + ready.text.trim();
  $("health").className = "badge " + (ready.ok ? "good" : "bad");
  const build = metrics.get("amop_build_info")?.[0].labels ?? {}, io = metrics.get("amop_engine_info")?.[0].labels.io;
  const facts = [build.version && say("version", { version: build.version }), io,
    say("up", { time: duration(now / 1000 - sum(metrics, "process_start_time_seconds")) }), own?.agency, own && own.id.slice(0, 16)];
  $("facts").textContent = facts.filter(Boolean).join(" · ");
  $("updated").textContent = say("updated", { time: clock(new Date(now)), seconds: SECONDS });
}

function show(read) {
  for (const heading of document.querySelectorAll("[data-word]")) heading.textContent = say(heading.dataset.word);
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  $("language").textContent = say("language");
  if (!read) return;
  showHeader(read);
  showTiles(read);
  showChart();
  showLatency(read.metrics);
  showProblems([...findProblems(read), ...read.missing.map(({ path, error }) => [say("metricsMissing", { path, error }), "bad"])]);
  if (read.network) showNetwork(read.network);
  if (read.failures) showFailures(read.failures);
  if (read.sessions) showSessions(read.sessions);
  if (read.topics) showTopics(read.topics);
}

async function look() {
  const now = Date.now(), missing = [];
  const optional = (path) => getJson(path).catch((error) => { missing.push({ path, error: error.message }); });
  try {
    const [ready, metricsText] = await Promise.all([get("/readyz"), get("/metrics")]);
    const metrics = parseMetrics(metricsText.text), rate = rates(metrics, now);
    // One after the other: the node makes a few lists at a time.
    const network = await optional(`/network?limit=${NODES_MAX}`), failures = await optional(`/failures?sort=taken&order=desc&limit=${ROWS_MAX}`);
    const sessions = await optional(`/sessions?sort=queued_bytes&order=desc&limit=${ROWS_MAX}`), topics = await optional(`/network/topics?limit=${ROWS_MAX}`);
    state.read = { now, ready, metrics, rate, network, failures, sessions, topics, missing };
    show(state.read);
    document.body.dataset.state = "shown";
  } catch (error) {
    $("health").textContent = say("unreachable") + ": " + error.message;
    $("health").className = "badge bad";
    document.body.dataset.state = "unreachable";
  }
  // One that nobody looks at asks for nothing.
  setTimeout(() => document.hidden ? document.addEventListener("visibilitychange", look, { once: true }) : look(), SECONDS * 1000);
}

$("language").addEventListener("click", () => {
  language = language === "zh" ? "en" : "zh";
  localStorage.setItem("language", language);
  show(state.read);
});
// A trace has an address of its own, that can be handed on.
function followHash() {
  const seq = /^#trace=([\w-]+)$/.exec(location.hash)?.[1];
  if (seq) return showTrace(seq);
  state.trace = undefined;
  $("trace").hidden = true;
}
addEventListener("hashchange", followHash);
show(undefined);
followHash();
look();
