// The page: what is asked, when, and where the answers go.

import { get, link, live } from "./api.js";
import { Chart, point } from "./chart.js";
import { Flame, kinds } from "./flame.js";
import { bytes, cpus, element, matcher, moment, percent, swatch } from "./words.js";

const at = (id) => document.getElementById(id);
// Processes with a colour of their own.
const TOP = 12;
// Time between two looks at the whole series while windows come in one by one, and between two at the flame graph.
const AGAIN_MS = 60_000;
const FLAME_AGAIN_MS = 30_000;
// Of a window: who uses this much and has no colour yet makes the series be asked again.
const NEWCOMER = 0.05;

const tip = {
  show(event, ...content) {
    const box = at("tip");
    box.replaceChildren(...content);
    box.hidden = false;
    const { offsetWidth: width, offsetHeight: height } = box;
    box.style.left = `${Math.max(4, event.clientX + 16 + width > innerWidth ? event.clientX - width - 12 : event.clientX + 16)}px`;
    box.style.top = `${Math.max(4, event.clientY + 18 + height > innerHeight ? event.clientY - height - 10 : event.clientY + 18)}px`;
  },
  hide() {
    at("tip").hidden = true;
  },
};

const chart = new Chart(at("chart"), tip, (range) => {
  state.selected = range;
  pick();
  loadFlame();
});
const flame = new Flame(at("flame-frame"), at("flame-room"), at("flame"), tip, {
  box(words) {
    at("details").replaceChildren(...(words ? [element("strong", { textContent: words.name }), ` ${words.text}`] : [" "]));
  },
  zoomed(is) {
    at("reset").hidden = !is;
  },
  matched(text) {
    at("matched").textContent = text;
  },
  wantsSearch() {
    at("search").focus();
  },
});
const state = { seconds: 3600, process: "", selected: null, names: [], asked: 0, flameAsked: 0, loads: 0, flameLoads: 0 };

const now = () => Date.now() / 1000;

function range() {
  return state.selected ?? [now() - state.seconds, now()];
}

function parameters() {
  const [from, to] = range();
  const text = (seconds) => new Date(Math.round(seconds * 1000)).toISOString();
  return { from: text(from), to: text(to), process: state.process };
}

function message(id, error) {
  const line = at(id);
  line.hidden = !error;
  line.textContent = error ? error.message : "";
  line.classList.toggle("bad", Boolean(error) && !error.isNothing);
}

async function loadSeries() {
  state.asked = Date.now();
  const to = now();
  try {
    const series = await get("series", "/api/v1/series", { from: `-${state.seconds}s`, to: "now", process: state.process, top: TOP });
    state.names = series.processes;
    const points = series.points.map((sent) => point(sent.start_unix_ns, sent.end_unix_ns, sent.duration_ns, sent.values, sent.other));
    chart.show(state.names, points, to - state.seconds, to);
    legend();
    const nothing = points.length ? null : Object.assign(new Error("Nothing is stored of that time yet. The first window appears here when it is closed."), { isNothing: true });
    message("chart-message", nothing);
    state.loads += 1;
  } catch (error) {
    if (error.name === "AbortError") return;
    message("chart-message", error);
    if (error.retryAfter) setTimeout(loadSeries, error.retryAfter * 1000);
  }
}

async function loadFlame() {
  state.flameAsked = Date.now();
  if (!flame.tree) message("flame-message", Object.assign(new Error("Reading the store …"), { isNothing: true }));
  at("flame-frame").hidden = !flame.tree;
  for (const format of ["svg", "pprof", "folded"]) at(`save-${format}`).href = link(format, parameters());
  try {
    const tree = await get("flame", "/api/v1/flamegraph", { ...parameters(), format: "tree" });
    at("flame-frame").hidden = false;
    flame.show(tree);
    at("subtitle").textContent = tree.subtitle;
    kinds(at("kinds"), tree.legend);
    at("quality").replaceChildren(...[tree.quality_line, ...tree.notes].map((text) => element("li", { textContent: text })));
    message("flame-message", null);
    state.flameLoads += 1;
  } catch (error) {
    if (error.name === "AbortError") return;
    flame.clear();
    at("flame-frame").hidden = true;
    at("subtitle").textContent = "";
    message("flame-message", error);
    if (error.retryAfter) setTimeout(loadFlame, error.retryAfter * 1000);
  }
}

/** Names, colours and shares of what is shown. Clicking one asks for it alone. */
function legend() {
  const recorded = chart.points.reduce((sum, point) => sum + (point.end - point.start), 0) || 1;
  const mean = (value) => chart.points.reduce((sum, point) => sum + value(point) * (point.end - point.start), 0) / recorded;
  const row = (name, share, colour) => {
    const button = element("button", { type: "button", title: name }, swatch(colour), element("span", { className: "name", textContent: name }), element("span", { className: "value", textContent: cpus(share) }));
    button.setAttribute("aria-pressed", String(state.process === name));
    return button;
  };
  const rows = state.names.map((name, index) => {
    const button = row(name, mean((point) => point.values[index]), chart.colour(name));
    button.addEventListener("click", () => filter(state.process === name ? "" : name));
    return element("li", {}, button);
  });
  const others = mean((point) => point.other);
  if (others > 0) {
    const button = row("others", others, getComputedStyle(document.body).getPropertyValue("--other"));
    button.disabled = true;
    rows.push(element("li", {}, button));
  }
  at("legend").replaceChildren(...rows);
  const names = new Set([...at("names").children].map((option) => option.value).concat(state.names));
  at("names").replaceChildren(...[...names].slice(0, 200).map((name) => element("option", { value: name })));
}

function pick() {
  const [from, to] = range();
  const span = to - from;
  const text = `${moment(from, 1)} – ${moment(to, 1)} (${span >= 120 ? `${(span / 60).toFixed(1)} min` : `${span.toFixed(0)} s`})`;
  at("picked").textContent = state.selected ? text : "Drag over a stretch of time, or click a window.";
  at("whole").hidden = !state.selected;
}

function filter(process) {
  at("process").value = process;
  if (process && !matcher(process, true)) return;
  state.process = process;
  loadSeries();
  loadFlame();
}

/** A window was closed: the chart goes on by it, without a question. */
function onWindow(sent) {
  figures(sent);
  if (!sent.processes || sent.type !== "cpu") return;
  const to = now();
  const start = sent.start_unix_ns / 1e9;
  const fits = state.process ? matcher(state.process, true) : () => true;
  const of = new Map(sent.processes.filter(({ name }) => fits(name)).map(({ name, value }) => [name, value]));
  const values = state.names.map((name) => of.get(name) ?? 0);
  const all = [...of.values()].reduce((sum, value) => sum + value, 0) + (state.process ? 0 : sent.other);
  const other = all - values.reduce((sum, value) => sum + value, 0);
  const last = chart.points.at(-1);
  const isNew = !last || start >= last.end - 0.5;
  const points = chart.points.filter((point) => point.end > to - state.seconds);
  if (isNew) points.push(point(sent.start_unix_ns, sent.start_unix_ns + sent.duration_ns, sent.duration_ns, values, other));
  chart.show(state.names, points, to - state.seconds, to);
  if (isNew) message("chart-message", null);
  const isNewcomer = state.names.length < TOP && sent.processes.some(({ name, value }) => fits(name) && value > all * NEWCOMER && !state.names.includes(name));
  if (isNewcomer || Date.now() - state.asked > AGAIN_MS) loadSeries();
  const isIdle = !state.selected && flame.zoom < 0 && flame.hover < 0;
  if (isIdle && (!flame.tree || Date.now() - state.flameAsked > FLAME_AGAIN_MS)) loadFlame();
}

function figures(sent) {
  const rows = [
    ["windows", sent.windows.toLocaleString("en").replaceAll(",", " ")],
    ["lost", sent.lost.toLocaleString("en").replaceAll(",", " ")],
    ["cost", `${percent(sent.cost_percent, 100)} of the machine`],
    ["memory", bytes(sent.rss_bytes)],
  ];
  at("figures").replaceChildren(...rows.map(([name, text]) => element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: text }))));
}

function onState(is) {
  const chip = at("live");
  chip.className = `chip ${is}`;
  chip.textContent = is === "on" ? "live" : "not connected";
}

at("range").addEventListener("change", (event) => {
  state.seconds = Number(event.target.value);
  chart.select(null, false);
  state.selected = null;
  pick();
  loadSeries();
  loadFlame();
});
at("process").addEventListener("change", (event) => filter(event.target.value.trim()));
at("whole").addEventListener("click", () => chart.select(null));
at("reset").addEventListener("click", () => flame.zoomTo(-1));
at("search").addEventListener("input", (event) => flame.search(event.target.value.trim()));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { chart.draw(); legend(); flame.draw(); });

fetch("/api/v1/status").then((response) => response.json()).then((answer) => {
  at("host").textContent = answer.host ?? "";
  if (answer.host) document.title = `${answer.host} · perf-agent`;
}).catch(() => {});
pick();
loadSeries();
loadFlame();
live(onWindow, onState);

// For whoever looks from the console.
globalThis.perfAgent = { chart, flame, state };
