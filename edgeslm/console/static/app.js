// The page: one event stream from the node, split among the views.

import { $, bytes, duration, mood } from "./dom.js";
import { Live, showRoutes } from "./live.js";
import { Ask } from "./ask.js";
import { showCollections, showModels } from "./cards.js";
import { Teach } from "./teach.js";

const VIEWS = { live: "Live", try: "Try", teach: "Teach", models: "Models", collections: "Collections" };
const known = { health: null, info: null, routes: null, models: null, collections: null };
let csrf = "";

async function send(path, body) {
  try {
    const response = await fetch(path, {
      method: "POST", body: JSON.stringify(body ?? {}),
      headers: { "Content-Type": "application/json", "X-Edgeslm-Secret": csrf },
    });
    if (response.status === 401) {
      signIn();
      return { ok: false, body: { error: "Sign in again." } };
    }
    return { ok: response.ok, body: await response.json() };
  } catch {
    return { ok: false, body: { error: "The node can't be reached." } };
  }
}

// Shows the sign-in page, and the same view after it. The sign-in leaves no fragment in the address.
function signIn() {
  try { sessionStorage.setItem("view", location.hash); } catch { /* a browser may refuse to store */ }
  location.reload();
}

function goOn() {
  try {
    const view = sessionStorage.getItem("view");
    if (view && !location.hash) history.replaceState(null, "", view);
    sessionStorage.removeItem("view");
  } catch { /* as above */ }
}

const live = new Live(showText);
const ask = new Ask(send);
const teach = new Teach(send);
let teaches = false;

function take(news) {
  if (news.first) {
    csrf = news.csrf;
    document.body.classList.toggle("with-texts", news.texts);
    $("leave").hidden = news.ingress;
    ask.teaches = teaches = news.teaches;
    document.body.classList.toggle("with-teaching", teaches);
    if (teaches && current() === "teach") showView(false);
    live.begin();
  }
  for (const part of Object.keys(known)) if (part in news) known[part] = news[part];
  if (news.rows) live.takeRows(news.rows);
  if (news.moments) live.takeMoments(news.moments);
  if (news.health) live.takeHealth(news.health);
  if (news.routes) showRoutes(news.routes);
  if (news.info) live.takeTasks(Object.keys(news.info.tasks));
  if (known.info && (news.info || news.health)) ask.takeInfo(known.info, known.health?.answers_per_s ?? {});
  if (known.models && (news.models || news.health)) keepOpen($("models"), () => showModels(known.models, known.health?.memory_bytes ?? {}));
  if (news.collections) showCollections(known.collections);
  if (news.info || news.health) showHead();
}

// Don't redraw below the user's selection or focus.
function keepOpen(box, draw) {
  const chosen = getSelection();
  if (!chosen.isCollapsed && box.contains(chosen.anchorNode)) return;
  draw();
}

function showHead() {
  const { info, health } = known;
  if (info) $("node").textContent = info.node;
  if (health) {
    $("state").textContent = health.state;
    $("state").className = `badge ${mood(health.state)}`;
    const memory = Object.entries(health.memory_bytes).map(([name, size]) => `${name} ${bytes(size)}`).join(", ");
    $("facts").textContent = [info ? `edgeslm ${info.version}` : "", `up ${duration(health.uptime_s)}`, `memory: ${memory}`].filter(Boolean).join(" · ");
  }
  showTitle();
}

function showTitle() {
  const alerts = known.health?.alerts.length ?? 0;
  document.title = `${alerts ? `(${alerts}) ` : ""}${$("node").textContent} · ${VIEWS[current()]}`;
}

// Connection

let stream = null;

function connect() {
  stream = new EventSource("events");
  stream.onopen = () => broken(null);
  stream.onmessage = (event) => take(JSON.parse(event.data));
  stream.onerror = async () => {
    broken("The connection to the node is lost; trying again. The figures below are the last ones.");
    if (stream.readyState !== EventSource.CLOSED) return;
    const reason = await fetch("api/node").then((response) => response.status, () => 0);
    if (reason === 401) signIn();
    else setTimeout(connect, 3000);
  };
}

function broken(sentence) {
  document.body.classList.toggle("stale", sentence !== null);
  $("broken").hidden = sentence === null;
  $("broken").textContent = sentence ?? "";
  if (sentence !== null) {
    $("state").textContent = "not connected";
    $("state").className = "badge bad";
  }
}

// Views

function current() {
  const view = location.hash.slice(1);
  return view in VIEWS && (view !== "teach" || teaches) ? view : "live";
}

function showView(moves) {
  const view = current();
  for (const name of Object.keys(VIEWS)) {
    $(`view-${name}`).hidden = name !== view;
    const link = document.querySelector(`nav a[href="#${name}"]`);
    if (name === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  showTitle();
  if (moves) {
    $(`h-${view}`).focus();
    scrollTo(0, 0);
  }
  teach.show(view === "teach");
}

addEventListener("hashchange", () => {
  if (location.hash === "#main") $("main").focus();
  else showView(true);
});

// Texts of a request, if they are kept

async function showText(row) {
  const said = await fetch(`api/text/${row.n}`).then((response) => response.json(), () => ({}));
  $("h-text").textContent = `Request ${row.n}, ${row.task}`;
  $("text-input").textContent = said.input ?? "It isn't kept any more.";
  $("text-output").textContent = said.output ?? "There is none yet.";
  $("text").showModal();
}

$("text-close").addEventListener("click", () => $("text").close());
$("leave").addEventListener("click", async () => { await send("logout"); location.reload(); });
addEventListener("pagehide", () => stream?.close());

goOn();
showView(false);
connect();
