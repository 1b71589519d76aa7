// The view that teaches: labels by single keys, the learning curve, training, and the switch to the new head.

import { $, el, put } from "./dom.js";
import { curve } from "./charts.js";

const POLL_MS = 1000, SLOW_MS = 5000;
const DECISIONS = ["train", "use", "back"];
const UNDO = "u", SKIP = "s";

const percent = (share) => `${Math.round(100 * share)} %`;
const messages = (count) => `${count} ${count === 1 ? "message" : "messages"}`;

export class Teach {
  constructor(send) {
    this.send = send;
    this.state = null;
    this.error = "";
    this.pending = 0;
    this.queue = Promise.resolve();
    this.turn = 0;
    this.failed = this.deciding = "";
    new ResizeObserver(() => this.state && this.drawCurve(this.state)).observe($("teach-curve"));
    $("teach-box").addEventListener("keydown", (event) => this.key(event));
    $("teach-task").addEventListener("change", () => this.act("open", { task: $("teach-task").value }));
    $("teach-undo").addEventListener("click", () => this.act("undo"));
    $("teach-skip").addEventListener("click", () => this.skip());
    $("teach-confirm").addEventListener("click", () => this.confirm());
    $("teach-accept").addEventListener("click", () => this.accept());
    $("teach-train").addEventListener("click", () => this.act("train"));
    $("teach-use").addEventListener("click", () => this.act("use"));
    $("teach-back").addEventListener("click", () => this.act("back"));
  }

  // Called when the view is shown, and when it is left.
  show(visible) {
    this.visible = visible;
    clearTimeout(this.timer);
    if (visible) this.act("open").then(() => $("teach-box").focus({ preventScroll: true }));
  }

  // Actions go to the node one after the other; what each is about is what the page shows now.
  act(action, more = {}) {
    if (DECISIONS.includes(action)) {
      if (this.deciding) return this.queue;
      this.deciding = action;
    }
    clearTimeout(this.timer);
    this.turn += 1;
    this.pending += 1;
    if (action === "use" || action === "back") this.say(action === "use" ? "Switching …" : "Going back …");
    const body = { action, ...(this.state ? { task: this.state.task } : {}), ...more };
    this.queue = this.queue.then(async () => {
      const said = await this.send("api/teach", body);
      this.pending -= 1;
      if (action === this.deciding) this.deciding = "";
      if (!said.ok) this.failed = said.body.error;
      if (this.pending) return; // the page is ahead of this state
      this.error = this.failed;
      this.failed = "";
      if (said.ok) this.take(said.body);
      else if (this.state) await this.look();
      else this.wait();
    });
    return this.queue;
  }

  // Asks for the state. If something is done meanwhile, its state is newer.
  async look() {
    const turn = this.turn;
    const { ok, body } = await this.send("api/teach", { action: "state", ...(this.state ? { task: this.state.task } : {}) });
    if (turn !== this.turn) return;
    if (ok && this.unreached) this.error = "";
    if (!ok) this.error = body.error;
    this.unreached = !ok;
    if (ok) this.take(body);
    else this.wait();
  }

  take(state) {
    this.state = state;
    this.wait();
  }

  wait() {
    this.draw();
    const wants = !this.state || this.state.doing || this.state.is_proposing || (!this.state.message && !this.state.is_over);
    clearTimeout(this.timer);
    if (this.visible) this.timer = setTimeout(() => this.look(), wants ? POLL_MS : SLOW_MS);
  }

  // Shows the next message at once; the node's state follows.
  pass() {
    const [message = null, ...following] = this.state.following;
    const proposals = this.state.proposals.filter((one) => one.id !== this.state.message.id);
    this.state = { ...this.state, message, following, proposals, doing: this.state.doing || (message ? "" : "choosing") };
    this.draw();
  }

  key(event) {
    if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "SELECT" || !this.state) return;
    const label = this.state.labels.find((one) => one.key === event.key.toLowerCase());
    if (event.key.toLowerCase() === UNDO) this.act("undo");
    else if (event.key.toLowerCase() === SKIP) this.skip();
    else if (label) this.label(label.name);
    else if (event.key === "Enter" && event.target.tagName !== "BUTTON") this.confirm();
    else return;
    event.preventDefault();
  }

  label(label) {
    if (!this.state?.message) return;
    this.act("label", { message: this.state.message.id, label, was: "" });
    this.pass();
  }

  // Takes the guess or proposal that is shown.
  confirm() {
    if (this.state?.message?.guess) this.label(this.state.message.guess);
  }

  // Takes the proposals that are listed, all at once.
  accept() {
    const ids = this.state?.proposals.map((one) => one.id) ?? [];
    if (!ids.length) return;
    this.act("accept", { message: ids.join(",") });
    this.state = { ...this.state, message: null, following: [], proposals: [], doing: this.state.doing || "choosing" };
    this.draw();
  }

  skip() {
    if (!this.state?.message) return;
    this.act("skip", { message: this.state.message.id });
    this.pass();
  }

  say(sentence) {
    $("teach-said").textContent = sentence;
  }

  draw() {
    const focused = document.activeElement, isHere = $("view-teach").contains(focused);
    const doubt = [...$("teach-doubted").querySelectorAll("button")].indexOf(focused);
    this.drawAll();
    if (!isHere || (focused.isConnected && !focused.disabled)) return;
    const doubts = $("teach-doubted").querySelectorAll("button");
    const next = doubt < 0 ? null : doubts[Math.min(doubt, doubts.length - 1)];
    (next ?? $("teach-box")).focus({ preventScroll: true }); // so that keys go on working
  }

  drawAll() {
    const state = this.state;
    $("teach-error").textContent = this.error || state?.problem || "";
    $("teach-error").hidden = !$("teach-error").textContent;
    $("teach-parts").hidden = state === null;
    if (state === null) return;
    const select = $("teach-task");
    if (state.tasks.join("\n") !== [...select.options].map((option) => option.value).join("\n")) {
      put(select, ...state.tasks.map((name) => el("option", { value: name }, name)));
    }
    select.value = state.task;
    $("teach-progress").textContent = `${state.labelled} labelled of ${messages(state.messages)}`;
    this.drawMessage(state);
    this.drawLabels(state);
    this.drawCurve(state);
    this.drawResult(state);
    this.drawProposals(state);
    this.drawDoubts(state);
  }

  drawMessage(state) {
    const shown = state.message;
    if (this.drawn !== (shown?.id ?? "")) $("teach-text").scrollTop = 0;
    this.drawn = shown?.id ?? "";
    const none = state.doing === "training" ? "Training …"
      : state.doing ? "Choosing the next messages …"
      : state.messages === 0 ? "No messages yet. The node keeps those that come from now on."
      : "All messages have a label or were skipped.";
    $("teach-text").textContent = shown ? shown.text : none;
    $("teach-text").classList.toggle("none", !shown);
    const guess = !shown || shown.guess === null ? ""
      : shown.model !== undefined ? `${shown.model}, untaught, proposes ${shown.guess} (${percent(shown.confidence)} sure)`
      : shown.by !== undefined ? `${shown.by || "An app without a name"} says: ${shown.guess}`
      : `So far it would say ${shown.guess} (${percent(shown.confidence)} sure)`;
    $("teach-guess").textContent = guess;
    $("teach-confirm").hidden = !guess;
    $("teach-undo").disabled = !state.can_undo;
    $("teach-skip").disabled = !shown;
  }

  drawLabels(state) {
    const names = state.labels.map((one) => one.name).join("\n");
    if (this.names !== names) {
      this.names = names;
      put($("teach-labels"), ...state.labels.map((one) => {
        const button = el("button", { type: "button", title: one.meaning || null },
          el("kbd", {}, one.key), el("span", {}, one.name), el("span", { className: "count" }));
        button.addEventListener("click", () => this.label(one.name));
        return button;
      }));
    }
    [...$("teach-labels").children].forEach((button, number) => {
      button.querySelector(".count").textContent = String(state.labels[number].count);
      button.setAttribute("aria-disabled", String(!state.message));
    });
  }

  drawCurve(state) {
    const last = state.curve[state.curve.length - 1];
    $("teach-now").textContent = last ? `${percent(last[1])} right` : "";
    curve($("teach-curve"), state.curve);
    const { labels, counts } = state.confusion ?? { labels: [], counts: [] };
    $("teach-confusion").hidden = !labels.length;
    if (!labels.length) return;
    put($("teach-confusion").tHead.rows[0], el("th", { scope: "col" }, "labelled"), ...labels.map((name) =>
      el("th", { scope: "col", className: "number" }, name)));
    put($("teach-confusion").tBodies[0], ...labels.map((name, row) => el("tr", {}, el("th", { scope: "row" }, name),
      ...counts[row].map((count, column) => el("td", {
        className: `number ${count === 0 ? "quiet" : row === column ? "good" : "bad"}` }, String(count))))));
  }

  drawResult(state) {
    const { report, compared } = state;
    const words = [];
    if (state.doing === "training") words.push("Training on the labels so far; you can go on.");
    else if (state.few.length) words.push(`Each label needs 2 messages; there are fewer of ${state.few.join(", ")}. 20 or more of each are useful.`);
    if (report) {
      const [low, high] = report.interval.map((share) => Math.round(100 * share));
      words.push(`Taught with ${messages(report.rows)}: right on ${Math.round(100 * report.accuracy)} of 100 messages like these (${low} to ${high}), in cross-validation.`);
      if (compared?.is_head) {
        if (compared.accuracy) words.push(`The head that was at work had ${Math.round(100 * compared.accuracy)} of 100 when it was trained: on other messages, so the two figures can't be compared.`);
      } else if (compared) words.push(`The untrained model that was at work: right on ${compared.right} of ${compared.asked} of these.`);
    }
    if (state.bias) words.push(`The untaught model has a ${state.bias}.`);
    const which = state.is_used ? "The taught head" : state.is_taught ? "Another head" : "No head";
    words.push(`${which} is at work${state.is_on_trial ? ", on trial: if requests fail, the node goes back by itself." : "."}`);
    put($("teach-said"), ...words.map((said) => el("span", {}, said)));
    $("teach-train").disabled = state.few.length > 0 || state.doing === "training";
    $("teach-use").disabled = !report || state.is_used || state.doing === "training";
    $("teach-back").disabled = !state.can_go_back;
    const rows = report?.thresholds ?? [];
    $("teach-thresholds").hidden = !rows.length;
    put($("teach-thresholds").tBodies[0], ...rows.map(([threshold, answered, wrong]) => el("tr", {},
      el("th", { scope: "row" }, threshold === state.threshold ? `${threshold} (set)` : String(threshold)),
      el("td", { className: "number" }, percent(answered)), el("td", { className: "number" }, percent(wrong)))));
  }

  drawProposals(state) {
    const proposed = state.proposals;
    $("teach-proposals").hidden = proposed.length < 2;
    $("teach-accept").textContent = `Take all ${proposed.length}`;
    const drawn = proposed.map((one) => `${one.id} ${one.guess}`).join();
    if (this.proposed === drawn) return;
    this.proposed = drawn;
    put($("teach-proposed"), ...proposed.map((one) => el("li", {}, el("b", {}, one.guess),
      el("span", { className: "quiet" }, ` ${percent(one.confidence)} sure `), one.text)));
  }

  drawDoubts(state) {
    $("teach-doubts").hidden = !state.doubted.length;
    const drawn = state.doubted.map((one) => one.id).join();
    if (this.doubts === drawn) return;
    this.doubts = drawn;
    put($("teach-doubted"), ...state.doubted.map((one) => {
      const keep = el("button", { type: "button" }, `Keep ${one.label}`);
      keep.addEventListener("click", () => this.act("keep", { message: one.id }));
      const change = el("button", { type: "button" }, `Change to ${one.guess}`);
      change.addEventListener("click", () => this.act("label", { message: one.id, label: one.guess, was: one.label }));
      return el("li", {}, el("p", {}, one.text), el("div", { className: "bar" }, keep, change));
    }));
  }
}
