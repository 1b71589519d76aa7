// The live view: alerts, figures, charts, requests.

import { $, badge, bytes, clock, duration, el, ms, put, rate } from "./dom.js";
import { Chart } from "./charts.js";

const MOST_ROWS = 50;
const MOMENTS = 450;
const SKIPPED = {
  retained: "retained", not_text: "not text", empty: "without text", condition: "by when", rate: "over max_rate",
  template: "not as the template expects", own_topic: "to a topic of the node", poisoned: "that crashed the node", too_large: "too large",
};

export class Live {
  constructor(onText) {
    this.onText = onText;
    this.rows = new Map();
    this.moments = [];
    this.paused = false;
    this.latency = new Chart($("latency"), {
      title: "Latency", words: ms, least: 10, onPoint: (moment) => this.sayLatency(moment),
      lines: [{ key: "p95", name: "p95", className: "second" }, { key: "p50", name: "median", className: "first" }],
    });
    this.queue = new Chart($("queue"), {
      title: "Queue", words: (value) => Number(value.toFixed(1)).toString(), least: 4, onPoint: (moment) => this.sayQueue(moment),
      lines: [{ key: "queue", name: "waiting", className: "first", area: true }],
    });
    this.tiles({});
    $("pause").addEventListener("click", () => this.pause());
    $("only-task").addEventListener("change", () => this.list());
    $("only-errors").addEventListener("change", () => this.list());
  }

  begin() {
    this.rows.clear();
    this.moments = [];
    this.list();
  }

  takeRows(rows) {
    for (const row of rows) this.rows.set(row.n, row);
    const numbers = [...this.rows.keys()].sort((a, b) => a - b);
    for (const number of numbers.slice(0, -200)) this.rows.delete(number);
    if (!this.paused) this.list();
  }

  takeMoments(moments) {
    this.moments = [...this.moments, ...moments].slice(-MOMENTS);
    this.latency.show(this.moments);
    this.queue.show(this.moments);
    if (this.latency.at === null) this.sayLatency(null);
    if (this.queue.at === null) this.sayQueue(null);
  }

  takeHealth(health) {
    const alerts = health.alerts.length ? [el("ul", {}, ...health.alerts.map((said) => el("li", {}, said)))] : [];
    put($("alerts"), ...alerts);
    this.tiles(health);
  }

  tiles(health) {
    const total = (figures) => Object.values(figures ?? {}).reduce((sum, value) => sum + value, 0);
    const latency = health.latency_ms ?? {};
    const tiles = [
      ["Answers/s", rate(health.answers_per_s && total(health.answers_per_s))],
      ["Waiting", health.queue ?? "–"],
      ["Running", health.in_flight ?? "–"],
      ["Median", ms(latency.p50)],
      ["p95", ms(latency.p95)],
      ["Tokens/s", rate(health.tokens_per_s)],
      ["Memory", bytes(total(health.memory_bytes))],
      ["Temperature", typeof health.temperature_c !== "number" ? null : `${health.temperature_c.toFixed(0)} °C`],
      ["Uptime", health.uptime_s === undefined ? "–" : duration(health.uptime_s)],
    ].filter(([, value]) => value !== null);
    put($("tiles"), ...tiles.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, String(value)))));
  }

  takeTasks(names) {
    const select = $("only-task"), chosen = select.value;
    put(select, el("option", { value: "" }, "all"), ...names.map((name) => el("option", { value: name }, name)));
    select.value = names.includes(chosen) ? chosen : "";
  }

  sayLatency(moment) {
    const last = moment ?? [...this.moments].reverse().find((one) => one.p50 !== null) ?? null;
    const said = last === null ? "nothing answered yet" : [
      moment ? clock(moment.at) : "",
      el("span", {}, el("span", { className: "first" }, "median "), el("b", {}, ms(last.p50))),
      el("span", {}, el("span", { className: "second" }, "p95 "), el("b", {}, ms(last.p95)))];
    put($("latency-now"), ...[said].flat());
  }

  sayQueue(moment) {
    const last = moment ?? this.moments[this.moments.length - 1] ?? null;
    const said = last === null ? [] : [moment ? clock(moment.at) : "",
      el("span", {}, el("b", {}, String(last.queue)), " waiting"), el("span", {}, el("b", {}, String(last.running)), " running")];
    put($("queue-now"), ...said);
  }

  pause() {
    this.paused = !this.paused;
    $("pause").setAttribute("aria-pressed", String(this.paused));
    $("pause").textContent = this.paused ? "Go on" : "Pause";
    if (!this.paused) this.list();
  }

  list() {
    const task = $("only-task").value, errors = $("only-errors").checked;
    const good = ["ok", "waiting", "running", "abstained"];
    const shown = [...this.rows.values()]
      .filter((row) => (!task || row.task === task) && (!errors || !good.includes(row.status)))
      .sort((a, b) => b.n - a.n).slice(0, MOST_ROWS);
    const focused = document.activeElement?.dataset?.n;
    put($("requests").tBodies[0], ...shown.map((row) => this.row(row)));
    if (focused) document.querySelector(`button[data-n="${CSS.escape(focused)}"]`)?.focus();
    $("no-requests").hidden = shown.length > 0;
    $("no-requests").textContent = this.rows.size ? "None of the last requests fits." : "No requests yet. They appear here as they come.";
    $("requests").hidden = shown.length === 0;
  }

  row(row) {
    const button = el("button", { type: "button", "aria-label": `Text of request ${row.n}` }, "Text");
    button.dataset.n = row.n;
    button.addEventListener("click", () => this.onText(row));
    const cell = (name, content) => el("td", { className: name, role: "cell" }, content);
    return el("tr", { role: "row" },
      cell("time", clock(row.at)), cell("task", row.task), cell("status", badge(row.status)),
      cell("number took", ms(row.ms)), cell("number waited", ms(row.wait)),
      cell("number tokens", row.tokens === null ? "–" : String(row.tokens)),
      el("td", { className: "topic", role: "cell", title: row.topic }, row.topic), cell("texts", button));
  }
}

export function showRoutes(routes) {
  $("routes-part").hidden = routes.length === 0;
  put($("routes").tBodies[0], ...routes.map((route) => {
    const { read = 0, ...skipped } = route.counts;
    const said = Object.entries(skipped).map(([reason, count]) => `${count} ${SKIPPED[reason] ?? reason}`).join(", ");
    const last = route.unusable ? el("div", { className: "quiet" }, `last: ${route.unusable}`) : null;
    const cell = (className, ...content) => el("td", { className, role: "cell" }, ...content);
    return el("tr", { role: "row" }, cell("", el("b", {}, route.name)), cell("from", route.from), cell("", route.task ?? "–"),
      cell("number", String(read)), cell("skipped", said || "–", last));
  }));
}
