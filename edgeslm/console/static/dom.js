// Elements and formats of figures. Text from the node is always set as text, never as markup.

export const $ = (id) => document.getElementById(id);

export function el(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key in made && key !== "list") made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export function put(parent, ...children) {
  parent.replaceChildren(...children);
}

export function ms(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  if (value >= 10000) return `${(value / 1000).toFixed(0)} s`;
  if (value >= 1000) return `${(value / 1000).toFixed(1)} s`;
  return `${value < 10 ? value.toFixed(1) : value.toFixed(0)} ms`;
}

export function rate(value) {
  if (value === null || value === undefined) return "–";
  return value === 0 ? "0" : value < 10 ? value.toFixed(value < 1 ? 2 : 1) : value.toFixed(0);
}

export function bytes(value) {
  if (!value) return "–";
  return value >= 1e9 ? `${(value / 1e9).toFixed(1)} GB` : `${(value / 1e6).toFixed(0)} MB`;
}

export function duration(seconds) {
  for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
    if (seconds >= 2 * size) return `${Math.floor(seconds / size)} ${unit}`;
  }
  return `${Math.round(seconds)} s`;
}

export const clock = (at) => new Date(at * 1000).toLocaleTimeString([], { hour12: false });

export function pairs(entries) {
  return el("dl", { className: "pairs" }, ...entries.flatMap(([name, value]) =>
    value === null || value === undefined || value === "" ? [] : [el("dt", {}, name), el("dd", {}, String(value))]));
}

const GOOD = ["ok", "online", "loaded"];
const BUSY = ["waiting", "running", "abstained", "starting", "draining", "busy", "unloaded", "broken off", "cancelled"];

export const mood = (status) => GOOD.includes(status) ? "good" : BUSY.includes(status) ? "busy" : "bad";

export const badge = (status) => el("span", { className: `badge ${mood(status)}` }, status.replaceAll("_", " "));
