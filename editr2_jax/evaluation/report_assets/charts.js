// Draws the curves from the JSON inside their figures.

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
  const drawnAt = new Map();
  const draw = () => {
    for (const [figure, chart] of charts) {
      const width = figure.closest("details:not([open])") ? 0 : figure.clientWidth; // a phone's address bar changes the height alone
      if (width && drawnAt.get(figure) !== width) drawChart(figure, chart);
      drawnAt.set(figure, width);
    }
  };
  draw();
  window.addEventListener("resize", draw);
  document.addEventListener("toggle", draw, true); // of a fold
}
