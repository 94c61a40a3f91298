// From a cell of a table to the verdicts behind it: #cell=TABLE/ROW/COLUMN opens their list.

const SHOWN = 100;

function behindCell(records, source) {
  const matches = (record) => (source.subset === undefined || source.subset === record.subset)
    && (source.turn === undefined || source.turn === record.turn)
    && (source.task_types === undefined || source.task_types.includes(record.task_type))
    && (!source.kept || record.bg_consistency);
  const last = new Map();
  const chosen = new Set();
  for (const record of records.filter(matches)) {
    last.set(record.session, Math.max(last.get(record.session) ?? -1, record.turn));
    chosen.add(record);
  }
  if (source.reach === "turn") return records.filter((record) => chosen.has(record));
  if (source.reach === "so_far") return records.filter((record) => record.turn <= (last.get(record.session) ?? -1));
  return records.filter((record) => last.has(record.session));
}

function verdictLine(record, score) {
  const said = record.said[score] || { status: "absent", requests: [], parts: {} };
  const value = isNumber(said.score) ? fixed(said.score, 3) : "–";
  const parts = Object.entries(said.parts).map(([name, part]) => `${name} ${isNumber(part) ? fixed(part, 3) : part}`).join(", ");
  const earlier = score === "if" ? record.each || [] : []; // of a single pass: the instructions before, asked about the same picture
  const each = earlier.map((one) => `T${one.turn + 1} ${isNumber(one.score) ? fixed(one.score, 2) : words(one.status)}`).join(", ");
  const asked = [...earlier.flatMap((one) => one.requests.map((request) => [`T${one.turn + 1}: `, request])), ...said.requests.map((request) => ["", request])];
  const requests = asked.map(([of, request]) => element("div", { class: "request" },
    element("div", {}, `${of}${words(request.kind)}, vote ${request.vote}, prompt `, element("code", {}, request.prompt), ", request ", element("code", {}, request.request)),
    element("div", { class: "quiet" }, request.answer === undefined ? "no answer" : String(request.answer))));
  return element("div", { class: "verdict" },
    element("span", { class: `chip ${tone(said.score)}` }, value), " ", element("b", {}, `${record.session}, T${record.turn + 1}`), " ",
    element("span", { class: "quiet" }, `${words(record.task_type)} · ${words(said.status)}${parts ? ` · ${parts}` : ""}${each ? ` · ${each}` : ""}`),
    element("div", {}, record.instruction),
    said.verdict ? element("details", {}, element("summary", {}, `${asked.length} request${asked.length === 1 ? "" : "s"}`),
      element("div", {}, "verdict ", element("code", {}, said.verdict)), requests) : null);
}

function showCell(records) {
  const place = document.getElementById("behind");
  const address = decodeURIComponent(location.hash.slice(1));
  const link = address.startsWith("cell=") && [...document.querySelectorAll("a[data-from]")].find((one) => decodeURIComponent(one.hash.slice(1)) === address);
  place.hidden = !link;
  place.replaceChildren();
  if (!link) return;
  const unfolded = link.closest("details");
  if (unfolded) unfolded.open = true;
  const source = JSON.parse(link.dataset.from);
  const found = behindCell(records, source);
  const list = element("div", {});
  const more = element("button", { type: "button", onclick: () => add() });
  let shown = 0;
  const add = () => {
    list.append(...found.slice(shown, shown + SHOWN).map((record) => verdictLine(record, source.score)));
    shown = Math.min(shown + SHOWN, found.length);
    more.hidden = shown === found.length;
    more.textContent = `${found.length - shown} more`;
  };
  add();
  place.append(
    element("div", { class: "bar" }, element("h3", {}, `${address.slice(5)}: ${link.textContent} from ${found.length} turns`),
      element("button", { type: "button", onclick: () => { location.hash = "closed"; } }, "close")),
    element("code", {}, link.dataset.jq), list, more);
  place.scrollTop = 0;
}

function startBenchmark() {
  try {
    startTheme();
    const kept = document.getElementById("records");
    if (!kept) return;
    const records = JSON.parse(kept.textContent);
    window.addEventListener("hashchange", () => showCell(records));
    window.addEventListener("keydown", (event) => { if (event.key === "Escape") location.hash = "closed"; });
    showCell(records);
  } catch (error) {
    confess(error.message);
  }
}
