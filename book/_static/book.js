"use strict";
// Answers that fold, and figures to play with, whose data experiments/common/explore.py
// wrote. Without scripts the answers are open, and a picture takes the figure's place.

const LOOKS = [["#1f77b4", "━"], ["#d95f02", "╍"], ["#2ca02c", "┅"]];
const DASHES = { "━": "", "╍": "7 3", "┅": "2 3" };
const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [400, 280, 58, 388, 24, 240];
// How a point at x, y is drawn from the last one, and with which pen.
const KINDS = {
  bars: [(x, y) => `M${x} ${BOTTOM}V${y}`, { "stroke-opacity": 0.5 }],
  dots: [(x, y) => `M${x} ${y}h0`, { "stroke-width": 4, "stroke-linecap": "round" }],
  lines: [(x, y, begins) => `${begins ? "M" : "L"}${x} ${y}`, { "stroke-width": 2 }],
};

function add(parent, tag, attributes = {}, text = "") {
  const drawn = ["svg", "path", "text"].includes(tag) ? "2000/svg" : "1999/xhtml";
  const node = document.createElementNS(`http://www.w3.org/${drawn}`, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.textContent = text;
  return parent.appendChild(node);
}

// Three digits of a number; a word as it is.
function show(value) {
  if (!value?.toPrecision) return value ?? "not a number";
  const short = Number(value.toPrecision(3));
  const plain = short === 0 || (Math.abs(short) >= 1e-3 && Math.abs(short) < 1e5);
  return plain ? String(short) : short.toExponential().replace("+", "");
}

// A function from values to places; null where there is none.
function scale([low, high], logarithmic, from, to) {
  const of = logarithmic ? Math.log10 : Number;
  const none = (value) => value === null || (logarithmic && value <= 0);
  const share = (value) => (of(value) - of(low)) / (of(high) - of(low));
  return (value) => (none(value) ? null : from + share(value) * (to - from));
}

// Draw axes and a legend; return what draws a setting.
function draw(row, { labels, limits, log, ticks, x, cursor, ...series }) {
  const box = add(row, "div");
  const name = `${labels[1]} against ${labels[0]}`;
  const size = { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": name };
  const drawing = add(box, "svg", size);
  const across = scale(limits[0], log[0], LEFT, RIGHT);
  const up = scale(limits[1], log[1], BOTTOM, TOP);
  const say = (words, x, y, anchor) =>
    add(drawing, "text", { x, y, "text-anchor": anchor }, words);
  const path = (look) => add(drawing, "path", { stroke: "currentColor", fill: "none", ...look });
  path({ d: `M${LEFT} ${TOP}V${BOTTOM}H${RIGHT}` });
  ticks[0].forEach((tick) => say(show(tick), across(tick), BOTTOM + 15, "middle"));
  ticks[1].forEach((tick) => say(show(tick), LEFT - 5, up(tick) + 4, "end"));
  say(labels[0], (LEFT + RIGHT) / 2, HEIGHT - 6, "middle");
  say(labels[1], 4, 12, "start");
  const legend = add(box, "div");
  const places = x.map(across);
  const draws = [];
  for (const [kind, [step, pen]] of Object.entries(KINDS)) {
    for (const [title, values] of Object.entries(series[kind])) {
      const [colour, sign] = LOOKS[draws.length];
      const shape = { bars: "▮", dots: "●" }[kind] ?? sign;
      add(add(legend, "span"), "span", { style: `color: ${colour}` }, shape).after(` ${title} `);
      const look = { stroke: colour, "stroke-width": (0.7 * (RIGHT - LEFT)) / x.length, ...pen };
      if (kind === "lines") look["stroke-dasharray"] = DASHES[sign];
      const drawn = path(look);
      draws.push((at) => {
        const first = values.length > x.length ? at * x.length : 0;
        const heights = x.map((_, i) => up(values[first + i]));
        const steps = heights.map((height, i) =>
          height === null ? "" : step(places[i], height, (heights[i - 1] ?? null) === null)
        );
        drawn.setAttribute("d", steps.join(""));
      });
    }
  }
  if (cursor) {
    const line = path({ "stroke-dasharray": "4 3" });
    const mark = (value) => line.setAttribute("d", `M${across(value)} ${TOP}V${BOTTOM}`);
    draws.push((_, chosen) => mark(chosen[cursor]));
  }
  return (at, chosen) => draws.forEach((one) => one(at, chosen));
}

function explore(figure) {
  const data = JSON.parse(figure.querySelector("script").textContent);
  const sliders = Object.entries(data.sliders);
  figure.querySelector("img").remove();
  const row = add(figure, "div", { class: "panels" });
  const draws = data.panels.map((panel) => draw(row, panel));
  const inputs = sliders.map(([name, { length }], i) => {
    const label = add(figure, "label", {}, `${name} `);
    const range = { type: "range", min: 0, max: length - 1, value: data.start[i] };
    return add(label, "input", range);
  });
  const output = add(figure, "output");
  figure.append(figure.querySelector("a"));
  function choose() {
    const places = inputs.map((input) => Number(input.value));
    const at = places.reduce((sum, place, i) => sum * sliders[i][1].length + place, 0);
    const chosen = sliders.map(([name, values], i) => [name, values[places[i]]]);
    const results = Object.entries(data.told).map(([name, values]) => [name, values[at]]);
    const words = (pairs) => pairs.map(([name, value]) => `${name} ${show(value)}`);
    words(chosen).forEach((text, i) => inputs[i].setAttribute("aria-valuetext", text));
    output.textContent = `${words(chosen).join(", ")}: ${words(results).join(", ")}`;
    draws.forEach((one) => one(at, Object.fromEntries(chosen)));
  }
  inputs.forEach((input) => input.addEventListener("input", choose));
  choose();
}

function fold(answer) {
  const details = document.createElement("details");
  const summary = details.appendChild(document.createElement("summary"));
  const [title, ...rest] = answer.children;
  title.querySelectorAll("a").forEach((link) => link.replaceWith(...link.childNodes));
  summary.append(title);
  details.append(...rest);
  answer.append(details);
}

document.querySelectorAll("figure.explore").forEach(explore);
document.querySelectorAll(".solution.dropdown").forEach(fold);
// Every exercise has a section of these names.
const repeated = "#exercise-content, #solution-content";
document.querySelectorAll(repeated).forEach((one) => one.removeAttribute("id"));
// What a reader of the screen hears is what is written there.
document.querySelectorAll("summary[aria-label]").forEach((one) => one.removeAttribute("aria-label"));
