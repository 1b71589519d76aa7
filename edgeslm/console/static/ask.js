// The form to try a task, and its result.

import { $, badge, el, ms, pairs, put, rate } from "./dom.js";

const ABOUT = {
  classify: "Gives one of its labels.",
  extract: "Gives fields of the text.",
  answer: "Answers a question.",
  summarize: "Makes a few sentences of the text.",
  generate: "Writes a text.",
  embed: "Makes a vector of the text.",
  search: "Finds passages in the node's documents.",
};

export class Ask {
  constructor(send) {
    this.send = send;
    this.tasks = {};
    $("ask").addEventListener("submit", (event) => { event.preventDefault(); this.run(); });
    $("ask").addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("ask").requestSubmit();
    });
    $("ask-task").addEventListener("change", () => this.describe());
  }

  takeInfo(info, perSecond) {
    const names = Object.keys(info.tasks), select = $("ask-task"), chosen = select.value;
    this.tasks = info.tasks;
    if (names.join("\n") !== [...select.options].map((option) => option.value).join("\n")) {
      put(select, ...names.map((name) => el("option", { value: name }, name)));
      select.value = names.includes(chosen) ? chosen : names[0];
    }
    this.describe();
    put($("tasks").tBodies[0], ...names.map((name) => {
      const task = info.tasks[name];
      const model = (task.stages ?? [task.model ?? "–"]).join(" → ");
      const kind = [task.kind, ...(task.taught === false ? [", untrained: ", this.advice(name)] : [])];
      const sends = task.sends ? el("small", {}, `sends ${task.sends.what} to ${task.sends.to}`) : "";
      return el("tr", {}, el("td", {}, name), el("td", {}, ...kind), el("td", {}, model, sends ? el("br") : "", sends),
        el("td", { className: "number" }, rate(perSecond[name] ?? 0)), el("td", { className: "topic", title: task.request }, task.request));
    }));
  }

  advice(name) {
    return this.teaches ? el("a", { href: "#teach" }, "teach it") : el("code", {}, `edgeslm teach ${name}`);
  }

  describe() {
    const task = this.tasks[$("ask-task").value];
    $("ask-about").textContent = task ? ABOUT[task.kind] ?? "" : "";
    const wants = Boolean(task?.kind === "answer" && task.options?.context);
    $("ask-context-part").hidden = !wants;
  }

  async run() {
    const button = $("ask").querySelector("button.main"), began = performance.now();
    const options = !$("ask-context-part").hidden && $("ask-context").value ? { context: $("ask-context").value } : {};
    button.disabled = true;
    put($("answer"), el("p", { className: "empty" }, "Running …"));
    const { ok, body } = await this.send("api/ask", { task: $("ask-task").value, input: $("ask-text").value, options });
    button.disabled = false;
    if (!ok) put($("answer"), el("p", { className: "bad" }, body.error));
    else put($("answer"), ...this.shown(body, performance.now() - began));
  }

  shown(result, took) {
    const timings = result.timings_ms ?? {};
    const head = el("div", { className: "bar" }, badge(result.error?.code ?? result.status),
      el("span", { className: "quiet" }, [`${ms(timings.total ?? took)}`, timings.queue > 1 ? `${ms(timings.queue)} of it waiting` : "",
        result.model ?? ""].filter(Boolean).join(" · ")));
    if (result.error) return [head, el("p", {}, result.error.message)];
    return [head, ...this.content(result.result ?? {}), el("details", {}, el("summary", {}, "As it goes over MQTT"),
      el("pre", { tabIndex: 0 }, JSON.stringify(shortened(result), null, 1)))];
  }

  content(made) {
    const parts = [];
    if (made.label !== undefined) parts.push(el("p", { className: "label" }, made.label));
    if (made.scores) {
      const scores = Object.entries(made.scores).sort((a, b) => b[1] - a[1]).slice(0, 12);
      parts.push(el("div", { className: "scores" }, ...scores.flatMap(([label, score]) => [
        el("span", {}, label), el("meter", { min: 0, max: 1, value: score, "aria-label": label }), el("span", { className: "number" }, score.toFixed(2))])));
    }
    if (made.fields) parts.push(pairs(Object.entries(made.fields).map(([name, value]) => [name, value === null ? "not there" : typeof value === "object" ? JSON.stringify(value) : value])));
    if (made.text) parts.push(el("blockquote", {}, made.text));
    for (const one of made.citations ?? []) {
      parts.push(el("p", { className: "quiet" }, [one.source, one.heading].filter(Boolean).join(" · ")));
    }
    for (const one of made.passages ?? []) {
      parts.push(el("blockquote", {}, one.text), el("p", { className: "quiet" }, [one.source, one.heading].filter(Boolean).join(" · ")));
    }
    if (made.vector) parts.push(el("p", {}, `A vector of ${made.vector.length} numbers.`));
    return parts;
  }
}

function shortened(result) {
  const vector = result.result?.vector;
  if (!vector) return result;
  return { ...result, result: { ...result.result, vector: [...vector.slice(0, 4), `and ${vector.length - 4} more`] } };
}
