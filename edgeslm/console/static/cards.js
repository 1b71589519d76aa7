// Models with their report cards, and collections.

import { $, badge, bytes, el, pairs, put } from "./dom.js";

export function showModels(models, memory) {
  const names = Object.keys(models);
  put($("models"), ...names.map((name) => {
    const model = models[name];
    const about = [model.bundle, model.kind, model.recipe].filter(Boolean).join(" · ");
    const card = model.card.length
      ? [el("h4", {}, "Report card"), pairs(model.card.map(([key, value], number) => [key || "\u00a0".repeat(number + 1), value]))]
      : [el("h4", {}, "Report card"), el("p", { className: "quiet" }, "The bundle has none.")];
    return el("article", { className: "panel" },
      el("div", { className: "bar" }, el("h3", {}, name), model.loaded ? badge("loaded") : badge("unloaded")),
      el("p", { className: "quiet" }, about),
      pairs([
        ["in memory", memory[name] ? bytes(memory[name]) : "not loaded"],
        ["weights", bytes(model.bytes)],
        ["context", model.context_length ? `${model.context_length} tokens` : null],
        ["prepared for this machine", model.prepared === null ? null : model.prepared ? "yes" : "not yet"],
        ["source", model.source], ["licence", model.licence], ["digest", model.digest.slice(0, 19)],
      ]), ...card);
  }));
  if (!names.length) put($("models"), el("p", { className: "empty panel" }, "This node loads no model."));
}

export function showCollections(collections) {
  const names = Object.keys(collections);
  const count = (value) => value === null ? "can't be read now" : value.toLocaleString("en");
  put($("collections"), ...names.map((name) => {
    const one = collections[name];
    return el("article", { className: "panel" }, el("h3", {}, name), pairs([
      ["documents", count(one.documents)], ["passages", count(one.passages)],
      ["searched by", one.encoder ? `words and meaning (${one.encoder})` : "words"],
      ["read by", one.reader],
      ["kept up to date from", one.watched ? `${one.watched} watched ${one.watched > 1 ? "places" : "place"}` : null],
      ["remembers", one.remembers.join(", ")], ["used by", one.tasks.join(", ")],
    ]));
  }));
  if (!names.length) {
    put($("collections"), el("p", { className: "empty panel" }, "This node has no collections. Manuals and logs that it should search go into knowledge in its configuration."));
  }
}
