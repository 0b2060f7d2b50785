"use strict";
// Answers that fold, and figures to play with. Without scripts the answers are open, and
// the paragraph in <figure class="explore"> remains; its data were computed by the page.

const NAMESPACE = "http://www.w3.org/2000/svg";
const COLOURS = ["#1f77b4", "#d95f02", "#2ca02c"];
const [WIDTH, HEIGHT, LEFT, BOTTOM] = [400, 280, 48, 40];

function add(parent, tag, attributes, text = "") {
  const node = document.createElementNS(NAMESPACE, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.textContent = text;
  return parent.appendChild(node);
}

function axis(range, logarithmic, [from, to]) {
  const of = logarithmic ? Math.log10 : Number;
  const [low, high] = range.map(of);
  return (value) => from + ((of(value) - low) / (high - low)) * (to - from);
}

// A set of axes; returns the drawing and the two scales.
function axes(row, labels, [xs, ys], logarithmic, ticks, name) {
  const box = { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": name };
  const drawing = add(row, "svg", { ...box, style: "flex: 1 1 18rem; min-width: 0" });
  const x = axis(xs, logarithmic, [LEFT, WIDTH - 12]);
  const y = axis(ys, logarithmic, [HEIGHT - BOTTOM, 12]);
  const text = { fill: "currentColor", "font-size": 11 };
  const [low, high] = [y(ys[0]), y(ys[1])];
  const frame = `M${x(xs[0])} ${high}V${low}H${x(xs[1])}`;
  add(drawing, "path", { d: frame, fill: "none", stroke: "currentColor" });
  for (const tick of ticks[0]) {
    add(drawing, "text", { ...text, x: x(tick), y: low + 15, "text-anchor": "middle" }, tick);
  }
  for (const tick of ticks[1]) {
    add(drawing, "text", { ...text, x: LEFT - 5, y: y(tick) + 4, "text-anchor": "end" }, tick);
  }
  const middle = { ...text, x: (LEFT + WIDTH) / 2, y: HEIGHT - 6, "text-anchor": "middle" };
  add(drawing, "text", middle, labels[0]);
  add(drawing, "text", { ...text, x: LEFT + 6, y: 12 }, labels[1]);
  return [drawing, x, y];
}

function explore(figure) {
  const data = JSON.parse(figure.querySelector("script").textContent);
  const { lambdas, curves, start, slopes } = data;
  const last = lambdas.length - 1;
  figure.querySelector("p").remove();
  const row = figure.appendChild(document.createElement("div"));
  row.style = "display: flex; flex-wrap: wrap; gap: 1rem";

  const ends = [lambdas[0], lambdas[last]];
  const ticks = [[0.001, 0.01, 0.1, 1, 10, 100], [0.0001, 0.01, 1, 100]];
  const [left, x, y] = axes(
    row, ["lambda", ""], [ends, [1e-5, 300]], true, ticks, "losses and norm against lambda"
  );
  Object.entries(curves).forEach(([name, values], i) => {
    const points = values.map((v, j) => `${x(lambdas[j])},${y(Math.max(v, 1e-5))}`);
    add(left, "polyline", { points: points.join(" "), fill: "none", stroke: COLOURS[i], "stroke-width": 2 });
    const key = { x: LEFT + 10, y: HEIGHT - BOTTOM - 10 - 14 * i, "font-size": 12 };
    add(left, "text", { ...key, fill: COLOURS[i], "font-weight": "bold" }, name);
  });
  const cursor = add(left, "path", { stroke: "currentColor", "stroke-dasharray": "4 3" });

  const square = [[-3, 3], [-3, 3]];
  const whole = [-3, -2, -1, 0, 1, 2, 3];
  const labels = ["weight at the start", "weight at the end"];
  const [right, across, up] = axes(
    row, labels, square, false, [whole, whole], "200 weights, end against start"
  );
  const dots = start.map((w) =>
    add(right, "circle", { cx: across(w), r: 2.2, fill: COLOURS[0], "fill-opacity": 0.7 })
  );
  const line = add(right, "path", { stroke: COLOURS[1], "stroke-width": 1.5 });

  const label = figure.appendChild(document.createElement("label"));
  label.textContent = "lambda ";
  label.style = "display: block";
  const slider = label.appendChild(document.createElement("input"));
  Object.assign(slider, { type: "range", min: 0, max: last, style: "width: 100%" });
  const told = figure.appendChild(document.createElement("output"));
  function choose() {
    const i = Number(slider.value);
    const size = lambdas[i].toPrecision(3);
    const parts = Object.entries(curves).map(([n, v]) => `${n} ${v[i].toPrecision(3)}`);
    told.textContent = `lambda ${size}: ${parts.join(", ")}`;
    slider.setAttribute("aria-valuetext", `lambda ${size}`);
    cursor.setAttribute("d", `M${x(lambdas[i])} 12V${HEIGHT - BOTTOM}`);
    dots.forEach((dot, j) => dot.setAttribute("cy", up(data.ends[i * start.length + j])));
    const far = 3 * slopes[i];
    line.setAttribute("d", `M${across(-3)} ${up(-far)}L${across(3)} ${up(far)}`);
  }
  slider.addEventListener("input", choose);
  slider.value = lambdas.findIndex((value) => value >= 0.5);
  choose();
}

function fold(answer) {
  const details = document.createElement("details");
  const summary = details.appendChild(document.createElement("summary"));
  const [title, ...rest] = answer.children;
  summary.append(title);
  details.append(...rest);
  answer.append(details);
}

document.querySelectorAll("figure.explore").forEach(explore);
document.querySelectorAll(".solution.dropdown").forEach(fold);
