"use strict";
// Draws the curves and the session inspector from the JSON inside the page. Data reaches the document as text only, never as markup.

function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return made;
}

function drawn(tag, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

function short(value) {
  if (!isNumber(value)) return "–";
  const size = Math.abs(value);
  const text = size !== 0 && (size < 1e-3 || size >= 1e5) ? value.toExponential(2) : String(Number(value.toPrecision(4)));
  return text.replace(/-/g, "\u2212");
}

function fixed(value, digits) {
  return isNumber(value) ? value.toFixed(digits).replace("-", "\u2212") : "–";
}

// Curves

function ticks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough * 0.999);
  const found = [];
  for (let tick = Math.ceil(low / step - 1e-9) * step; tick <= high + step * 1e-9; tick += step) found.push(Math.abs(tick) < step * 1e-9 ? 0 : tick);
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  return found.map((tick) => [tick, tickText(tick, digits, power)]);
}

function tickText(tick, digits, power) {
  if (tick === 0 && digits > 4) return "0";
  const text = (digits > 4 || power >= 1e5) ? String(Number(tick.toPrecision(3)).toExponential()) : tick.toFixed(digits);
  return text.replace(/-/g, "\u2212");
}

function runningMean(values, reach) {
  return values.map((value, at) => {
    const near = values.slice(Math.max(0, at - reach), at + reach + 1).filter(isNumber);
    return isNumber(value) && near.length ? near.reduce((sum, one) => sum + one, 0) / near.length : null;
  });
}

function line(xs, ys) {
  let path = "", pen = "M";
  ys.forEach((y, at) => {
    if (y === null) { pen = "M"; return; }
    path += `${pen}${xs[at].toFixed(1)} ${y.toFixed(1)}`;
    pen = "L";
  });
  return path;
}

function drawChart(figure, chart) {
  const width = Math.max(figure.clientWidth - 28, 200), height = 160, left = 48, right = 10, top = 8, bottom = 20;
  const everything = chart.series.flatMap((one) => [...one.y, ...(one.low || []), ...(one.high || [])]).filter(isNumber);
  let low = Math.min(...everything), high = Math.max(...everything);
  if (!everything.length) { low = 0; high = 1; }
  const room = high > low ? (high - low) * 0.06 : Math.abs(high) * 0.1 || 1;
  low = low >= 0 && low - room < 0 ? 0 : low - room; high += room;
  const first = chart.step[0], last = chart.step[chart.step.length - 1];
  const x = (step) => left + (width - left - right) * (last > first ? (step - first) / (last - first) : 0.5);
  const y = (value) => (isNumber(value) ? top + (height - top - bottom) * (1 - (value - low) / (high - low)) : null);
  const xs = chart.step.map(x);

  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": chart.title });
  for (const [tick, text] of ticks(low, high, 5)) {
    svg.append(drawn("line", { class: tick === 0 && low < 0 ? "zero" : "grid", x1: left, x2: width - right, y1: y(tick), y2: y(tick) }));
    svg.append(drawn("text", { x: left - 6, y: y(tick) + 4, "text-anchor": "end" }, text));
  }
  for (const [tick] of ticks(first, last, Math.max(2, Math.floor(width / 90))).filter(([tick]) => Number.isInteger(tick)))
    svg.append(drawn("text", { x: x(tick), y: height - 5, "text-anchor": "middle" }, String(tick)));
  chart.series.forEach((one, number) => {
    const colour = `stroke:var(--s${number % 8})`, many = one.y.length >= 40;
    svg.append(drawn("path", { class: many ? "faint" : "", style: colour, d: line(xs, one.y.map(y)) }));
    if (many) svg.append(drawn("path", { style: colour, d: line(xs, runningMean(one.y, Math.ceil(one.y.length / 40)).map(y)) }));
    (one.low || []).forEach((end, at) => {
      if (isNumber(end)) svg.append(drawn("line", { style: colour, x1: xs[at], x2: xs[at], y1: y(end), y2: y(one.high[at]) }));
    });
    if (one.y.length < 40) one.y.forEach((value, at) => {
      if (isNumber(value)) svg.append(drawn("circle", { cx: xs[at], cy: y(value), r: one.y.length < 12 ? 3 : 1.6, style: `fill:var(--s${number % 8})` }));
    });
  });
  const cursor = drawn("line", { class: "cursor", y1: top, y2: height - bottom, visibility: "hidden" });
  svg.append(cursor);

  const at = element("span", { class: "at" });
  const legend = chart.series.map((one, number) => element("span", { style: `color:var(--s${number % 8})` }));
  const caption = element("figcaption", {}, chart.title, legend, at);
  const tell = (place) => {
    const index = place === null ? chart.step.length - 1 : place;
    chart.series.forEach((one, number) => {
      const interval = one.low && isNumber(one.low[index]) ? ` [${short(one.low[index])}, ${short(one.high[index])}]` : "";
      legend[number].textContent = `${one.label ? one.label + " " : ""}${short(one.y[index])}${interval}`;
    });
    at.textContent = `step ${chart.step[index]}`;
    cursor.setAttribute("visibility", place === null ? "hidden" : "visible");
    if (place !== null) { cursor.setAttribute("x1", xs[place]); cursor.setAttribute("x2", xs[place]); }
  };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect(), pointer = ((event.clientX - box.left) / box.width) * width;
    tell(xs.reduce((best, one, index) => (Math.abs(one - pointer) < Math.abs(xs[best] - pointer) ? index : best), 0));
  });
  svg.addEventListener("pointerleave", () => tell(null));
  tell(null);
  figure.replaceChildren(caption, svg, chart.note ? element("small", {}, chart.note) : "");
}

function startCharts() {
  const charts = [...document.querySelectorAll("figure.chart")].map((figure) => [figure, JSON.parse(figure.querySelector("script").textContent)]);
  let width = 0;
  const draw = () => {
    if (window.innerWidth === width) return; // a phone's address bar changes the height alone
    width = window.innerWidth;
    charts.forEach(([figure, chart]) => drawChart(figure, chart));
  };
  draw();
  window.addEventListener("resize", draw);
}

// Session inspector

const tone = (value) => (!isNumber(value) ? "even" : value >= 0.75 ? "up" : value <= 0.25 ? "down" : "half");
const signTone = (value) => (!isNumber(value) || value === 0 ? "even" : value > 0 ? "up" : "down");
const signed = (value) => (isNumber(value) && value > 0 ? "+" : "") + fixed(value, 2);
const mean = (values) => { const found = values.filter(isNumber); return found.length ? found.reduce((a, b) => a + b, 0) / found.length : null; };

function photo(image) { if (image.naturalWidth > 192) image.classList.add("photo"); }

function picture(address, alt) {
  if (!address) return element("div", { class: "picture absent" }, "no picture");
  return element("img", { class: "picture", src: address, alt, loading: "lazy", onload: (event) => photo(event.target) });
}

function learns(turn) {
  const wrote = turn.intent || turn.intent_raw || turn.text_learns; // turn 0 has no intent to learn from
  const badges = [["picture", turn.image_learns], ...(wrote ? [["intent", turn.text_learns]] : [])].map(([name, taught]) =>
    element("span", { class: `chip ${taught ? "up" : "even"}` }, `${name} ${taught ? "learns" : "does not learn"}`));
  return element("div", { class: "chips" }, badges);
}

function intentOf(turn) {
  const raw = turn.intent_raw && turn.intent_raw !== turn.intent
    ? element("details", {}, element("summary", {}, "as written"), element("pre", {}, turn.intent_raw)) : null;
  const fallback = turn.intent_fallback ? element("span", { class: "chip half" }, "fallback: what was written could not be used") : null;
  return [turn.intent ? element("q", {}, turn.intent) : element("span", { class: "quiet" }, "none"), fallback, raw];
}

function turnCard(number, said, turn, labels) {
  const row = (name, ...content) => [element("dt", {}, name), element("dd", {}, ...content)];
  const scores = Object.entries(turn.scores || {}).map(([name, value]) => {
    const status = (turn.status || {})[name];
    return element("span", { class: `chip ${tone(value)}` }, `${labels[name] || name} ${isNumber(value) ? fixed(value, 2) : (status || "none").replaceAll("_", " ")}`);
  });
  const detail = turn.detail && Object.keys(turn.detail).length
    ? element("details", {}, element("summary", {}, "how it was judged"), element("pre", {}, JSON.stringify(turn.detail, null, 2))) : null;
  return element("article", { class: "card" },
    element("h4", {}, `turn ${number}`, element("span", { class: "tag" }, (said.task_type || "").replaceAll("_", " "))),
    picture(turn.picture, `picture after turn ${number}`),
    element("dl", {},
      row("instruction", said.instruction || ""),
      row("scored as", element("small", {}, said.formatted_instruction || "")),
      row("intent", ...intentOf(turn)),
      row("scores", element("div", { class: "chips" }, scores)),
      row("reward", fixed(turn.reward, 3)),
      row("advantage", element("span", { class: signTone(turn.advantage) }, signed(turn.advantage))),
      row("teaches", learns(turn), turn.why_filtered ? element("small", {}, turn.why_filtered) : "")),
    detail);
}

function groupMatrix(group, chosen, choose) {
  const turns = Math.max(...group.rollouts.map((rollout) => rollout.turns.length));
  const head = element("tr", {}, element("th", {}, "rollout"), Array.from({ length: turns }, (_, turn) => element("th", {}, `turn ${turn}`)), element("th", {}, "mean reward"));
  const rows = group.rollouts.map((rollout, number) => element("tr", { "aria-selected": String(number === chosen) },
    element("th", {}, String(number)),
    rollout.turns.map((turn) => element("td", {}, element("button", {
      type: "button", class: `cell chip ${tone(turn.reward)}${turn.image_learns ? "" : " masked"}`,
      title: turn.why_filtered || "reward and advantage", onclick: () => choose(number),
    }, `${fixed(turn.reward, 2)}  (${signed(turn.advantage)})`))),
    element("td", {}, fixed(mean(rollout.turns.map((turn) => turn.reward)), 3))));
  return element("div", { class: "scroll matrix" }, element("table", {}, element("thead", {}, head), element("tbody", {}, rows)));
}

function startInspector() {
  const root = document.getElementById("inspect");
  if (!root) return;
  const data = JSON.parse(root.querySelector("script").textContent);
  const chosen = { step: data.steps.length - 1, group: 0, rollout: 0 };
  const select = (name, options) => element("label", {}, name, element("select", {
    "aria-label": name, onchange: (event) => { chosen[name] = Number(event.target.value); if (name !== "rollout") chosen.rollout = 0; if (name === "step") chosen.group = 0; show(name); },
  }, options.map((text, value) => element("option", { value, selected: value === chosen[name] }, text))));
  const show = (focus) => {
    const step = data.steps[chosen.step], group = step.groups[chosen.group];
    if (!group || !group.rollouts.length) { root.replaceChildren(element("p", { class: "missing" }, "This step has no rollouts.")); return; }
    const rollout = group.rollouts[chosen.rollout], said = group.session.turns || [];
    root.replaceChildren(
      element("div", { class: "controls" },
        select("step", data.steps.map((one) => String(one.step))),
        select("group", step.groups.map((one) => `${one.session.id} · ${one.session.subset || ""}`)),
        select("rollout", group.rollouts.map((one, number) => `${number} · reward ${fixed(mean(one.turns.map((turn) => turn.reward)), 2)}`))),
      groupMatrix(group, chosen.rollout, (number) => { chosen.rollout = number; show("rollout"); }),
      element("p", { class: "quiet" }, "Each cell: reward (advantage). Hatched: the picture teaches nothing; its card says why."),
      element("div", { class: "cards" },
        element("article", { class: "card source" }, element("h4", {}, "source"), picture(group.source, "source picture"),
          element("p", { class: "quiet" }, group.session.id, " ", element("span", { class: "tag" }, group.session.subset || ""))),
        rollout.turns.map((turn, number) => turnCard(number, said[number] || {}, turn, data.labels))));
    if (focus) root.querySelector(`select[aria-label="${focus}"]`).focus({ preventScroll: true });
  };
  show(null);
}

function startTheme() {
  const button = document.getElementById("theme");
  button.hidden = false;
  button.addEventListener("click", () => {
    const now = document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
    document.documentElement.dataset.theme = now === "dark" ? "light" : "dark";
  });
}

document.querySelectorAll("img.picture").forEach((image) => {
  if (image.complete) photo(image);
  image.addEventListener("load", () => photo(image));
});
for (const start of [startTheme, startCharts, startInspector]) {
  try { start(); } catch (error) { console.error(error); }
}
