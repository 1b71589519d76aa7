// Line charts of the last 15 minutes, drawn as SVG at the size of their element.

const SVG = "http://www.w3.org/2000/svg";
const SHORTEST_S = 120, LONGEST_S = 900;
const LEFT = 44, BOTTOM = 18, TOP = 6;

function shape(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// The smallest of 1, 2, 4, 10, 20 ... not below the value; its half is a round number too.
function ceiling(value, least) {
  const size = 10 ** Math.floor(Math.log10(Math.max(value, least)));
  for (const step of [1, 2, 4, 10]) if (step * size >= Math.max(value, least)) return step * size;
  return 10 * size;
}

// The learning curve: points of [labels, share, low, high], with their interval as an area.
export function curve(box, points) {
  const width = box.clientWidth, height = box.clientHeight;
  if (width < 80) return;
  const most = ceiling(Math.max(0, ...points.map((point) => point[0])), 20);
  const least = Math.min(0.5, ...points.map((point) => Math.floor(10 * point[2]) / 10));
  const x = (labels) => LEFT + (width - LEFT) * labels / most;
  const y = (share) => TOP + (height - TOP - BOTTOM) * (1 - (share - least) / (1 - least));
  const last = points[points.length - 1];
  const said = last ? `${last[0]} labels: right on ${Math.round(100 * last[1])} of 100, ${Math.round(100 * last[2])} to ${Math.round(100 * last[3])}` : "no figure yet";
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Learning curve. ${said}.` });
  for (const share of [least, (1 + least) / 2, 1]) {
    svg.append(shape("line", { class: "grid", x1: LEFT, x2: width, y1: y(share), y2: y(share) }));
    svg.append(shape("text", { x: LEFT - 7, y: y(share) + 4, "text-anchor": "end" }, `${Math.round(100 * share)} %`));
  }
  for (const [labels, anchor] of [[0, "start"], [most / 2, "middle"], [most, "end"]]) {
    svg.append(shape("text", { x: x(labels), y: height - 3, "text-anchor": anchor }, `${labels}${labels === most ? " labels" : ""}`));
  }
  const path = (values) => values.map(([labels, share]) => `${x(labels).toFixed(1)} ${y(share).toFixed(1)}`).join("L");
  if (points.length > 1) {
    const ends = [...points.map((point) => [point[0], point[3]]), ...[...points].reverse().map((point) => [point[0], point[2]])];
    svg.append(shape("path", { class: "area", d: `M${path(ends)}Z` }));
  }
  const line = path(points.map((point) => [point[0], point[1]]));
  if (points.length) svg.append(shape("path", { class: "line first", d: `M${line}${points.length > 1 ? "" : "h.01"}` }));
  box.replaceChildren(svg);
}

export class Chart {
  // lines: [{key, name, className, area}]; words: formats a value; onPoint: called with the moment pointed at, or null
  constructor(box, { lines, words, least, title, onPoint }) {
    Object.assign(this, { box, lines, words, least, title, onPoint, moments: [], at: null });
    new ResizeObserver(() => this.draw()).observe(box);
    box.addEventListener("pointermove", (event) => this.point(event));
    box.addEventListener("pointerleave", () => { this.at = null; this.draw(); onPoint(null); });
  }

  show(moments) {
    this.moments = moments;
    this.draw();
  }

  point(event) {
    const { left, width } = this.box.getBoundingClientRect();
    const end = this.end();
    const wanted = end - this.span() * (1 - (event.clientX - left - LEFT) / (width - LEFT));
    let near = null;
    for (const moment of this.moments) {
      if (near === null || Math.abs(moment.at - wanted) < Math.abs(near.at - wanted)) near = moment;
    }
    this.at = near && Math.abs(near.at - wanted) < 20 ? near.at : null;
    this.draw();
    this.onPoint(this.at === null ? null : near);
  }

  end() {
    return this.moments.length ? this.moments[this.moments.length - 1].at : Date.now() / 1000;
  }

  span() {
    const first = this.moments.length ? this.moments[0].at : this.end();
    return Math.min(LONGEST_S, Math.max(SHORTEST_S, this.end() - first));
  }

  draw() {
    const span = this.span(), minutes = (back) => `${Math.round(back / 30) / 2} min ago`;
    const width = this.box.clientWidth, height = this.box.clientHeight;
    if (width < 80) return;
    const end = this.end(), shown = this.moments.filter((moment) => moment.at >= end - span);
    const values = shown.flatMap((moment) => this.lines.map((line) => moment[line.key] ?? 0));
    const top = ceiling(Math.max(0, ...values), this.least);
    const x = (at) => LEFT + (width - LEFT) * (1 - (end - at) / span);
    const y = (value) => TOP + (height - TOP - BOTTOM) * (1 - value / top);
    const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": this.sentence(shown) });
    for (const share of [0, 0.5, 1]) {
      const level = y(top * share);
      svg.append(shape("line", { class: "grid", x1: LEFT, x2: width, y1: level, y2: level }));
      svg.append(shape("text", { x: LEFT - 7, y: level + 4, "text-anchor": "end" }, this.words(top * share)));
    }
    for (const [back, said, anchor] of [[span, minutes(span), "start"], [span / 2, minutes(span / 2), "middle"], [0, "now", "end"]]) {
      svg.append(shape("text", { x: x(end - back), y: height - 3, "text-anchor": anchor }, said));
    }
    for (const line of this.lines) svg.append(...this.strokes(line, shown, x, y));
    if (this.at !== null) {
      svg.append(shape("line", { class: "mark", x1: x(this.at), x2: x(this.at), y1: TOP, y2: height - BOTTOM }));
    }
    this.box.replaceChildren(svg);
  }

  // One path per stretch without a gap; a single moment is a point.
  strokes(line, shown, x, y) {
    const made = [];
    let run = [];
    const close = () => {
      if (!run.length) return;
      const points = run.map((moment) => `${x(moment.at).toFixed(1)} ${y(moment[line.key]).toFixed(1)}`);
      const path = points.length > 1 ? `M${points.join("L")}` : `M${points[0]}h.01`;
      if (line.area && points.length > 1) {
        const ends = `L${x(run[run.length - 1].at).toFixed(1)} ${y(0)}L${x(run[0].at).toFixed(1)} ${y(0)}Z`;
        made.push(shape("path", { class: "area", d: path + ends }));
      }
      made.push(shape("path", { class: `line ${line.className}`, d: path }));
      run = [];
    };
    let last = null;
    for (const moment of shown) {
      const value = moment[line.key];
      if (last !== null && moment.at - last > 8) close();
      if (value !== null && value !== undefined) {
        run.push(moment);
        last = moment.at;
      }
    }
    close();
    return made;
  }

  sentence(shown) {
    const said = this.lines.map((line) => {
      const values = shown.map((moment) => moment[line.key]).filter((value) => value !== null && value !== undefined);
      if (!values.length) return `${line.name}: nothing`;
      return `${line.name}: last ${this.words(values[values.length - 1])}, highest ${this.words(Math.max(...values))}`;
    });
    return `${this.title}, last ${Math.round(this.span() / 60)} minutes. ${said.join("; ")}.`;
  }
}
