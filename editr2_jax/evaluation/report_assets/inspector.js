// The session inspector's list: everything that was played, filtered and sorted by the page's address, so that every view is a link.
//   #sort=reward&filter=missing,failed · rows=sessions|rollouts · where=all|training|training-STEP|held-out|held-out-STEP · first=TURN|never
//   · subset=NAME · find=WORDS · page=N · open=KEY with view=turns|group, look=picture|change|input, colour=log-prob|ratio
// Only the rows of one page are in the document, and only the blocks of sessions that are shown are ever parsed.

const PAGE_ROWS = 20;
const KEYS_TOLD = "Keys: ↑ ↓ and Enter in the list; in an open session ← → for the next one, D for what changed, G for its rollouts side by side, Esc. Every view is a link.";
const LIST_KEYS = ["rows", "where", "sort", "filter", "first", "subset", "find", "page"];
const SHEET_KEYS = ["open", "view", "look", "colour"];
const FILTERS = { // name -> [label, what it means, whether a rollout has it]
  failed: ["failed", "an instruction was not followed", (one) => one.first_failure !== null],
  filtered: ["filtered", "a turn's picture teaches nothing", (one) => one.filtered > 0],
  missing: ["missing verdict", "a judge that should have answered did not", (one) => one.missing > 0],
  fallback: ["fallback", "the answer held no intent, the instruction stood in", (one) => one.fallback > 0],
  copy: ["near copy", "a picture is almost its input", (one) => one.copies > 0],
};
const SORTS = { // name -> [label, value: the smallest comes first]; with a minus the other way round; what has no value comes last
  reward: ["reward, lowest first", (row) => row.reward],
  "-reward": ["reward, highest first", (row) => row.reward],
  "first-failure": ["first failure, earliest first", (row) => row.first_failure],
  filtered: ["filtered turns, most first", (row) => -row.filtered],
  missing: ["missing verdicts, most first", (row) => -row.missing],
  gain: ["held-out gain, lowest first", (row) => row.gain],
};

function readIndex() {
  const index = JSON.parse(document.getElementById("inspector-index").textContent);
  index.byKey = new Map();
  index.groups.forEach((group, place) => {
    group.place = place;
    group.text = [group.id, group.subset, ...group.said.flat()].join(" ").toLowerCase();
    group.rollouts = group.rollouts.map((values, member) => {
      const one = { group, member, key: `${group.key}.${member}` };
      index.fields.forEach((name, at) => { one[name] = values[at]; });
      one.reward = mean(one.rewards);
      index.byKey.set(one.key, one);
      return one;
    });
  });
  return index;
}

// All about a session, parsed when it is first looked at.
function blockOf(group) {
  if (!group.block) {
    const place = document.getElementById(`group-${group.place}`);
    group.block = JSON.parse(place.textContent);
    place.remove();
  }
  return group.block;
}

// A row tells about all its rollouts; of a held-out session that was played twice, about the last time.
function rowOf(group, rollouts) {
  const paired = group.where === "held-out" && rollouts.length > 1;
  const told = paired ? rollouts.slice(-1) : rollouts;
  const rewards = rollouts.map((one) => one.reward), last = rewards[rewards.length - 1];
  const firsts = told.map((one) => one.first_failure).filter((turn) => turn !== null);
  return {
    group, rollouts, told, rewards, paired, key: told[0].key,
    reward: mean(told.map((one) => one.reward)),
    gain: paired && isNumber(last) && isNumber(rewards[0]) ? last - rewards[0] : null,
    first_failure: firsts.length ? Math.min(...firsts) : null,
    turns: sum(told.map((one) => one.rewards.length)),
    filtered: sum(told.map((one) => one.filtered)),
    missing: sum(told.map((one) => one.missing)),
  };
}

function inside(where) {
  const [, side, step] = /^(training|held-out)(?:-(\d+))?$/.exec(where) || [];
  return { side, holds: (one) => (!side || one.group.where === side) && (step === undefined || one.step === Number(step)) };
}

// The rows of a view, in order; `counts` tells how many rows of its sessions each filter would find.
function selectRows(index, state) {
  const scope = inside(state.where), wanted = state.filter.split(",").filter((name) => name in FILTERS);
  const sought = state.find.toLowerCase().split(/\s+/).filter(Boolean);
  const rows = index.groups.filter((group) => (!state.subset || group.subset === state.subset) && sought.every((word) => group.text.includes(word)))
    .flatMap((group) => {
      const there = group.rollouts.filter(scope.holds);
      return state.rows === "rollouts" ? there.map((one) => rowOf(group, [one])) : there.length ? [rowOf(group, there)] : [];
    });
  const counts = Object.fromEntries(Object.entries(FILTERS).map(([name, [, , has]]) => [name, rows.filter((row) => row.told.some(has)).length]));
  const fits = (one) => (!state.first || String(one.first_failure ?? "never") === state.first) && wanted.every((name) => FILTERS[name][2](one));
  return { rows: sorted(rows.filter((row) => row.told.some(fits)), state.sort), counts };
}

function sorted(rows, name) {
  const plain = name.replace(/^-/, ""), sign = name.startsWith("-") ? -1 : 1;
  if (!(plain in SORTS)) return rows;
  const valued = rows.map((row) => [SORTS[plain][1](row), row]);
  const known = valued.filter(([value]) => isNumber(value)).sort(([a], [b]) => sign * (a - b)); // stable: equals stay as recorded
  return [...known, ...valued.filter(([value]) => !isNumber(value))].map(([, row]) => row);
}

// Addresses

function readState(index) {
  const given = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
  const state = Object.fromEntries([...LIST_KEYS, ...SHEET_KEYS].map((key) => [key, given.get(key) || ""]));
  if (!state.where) state.where = index.groups.some((group) => group.where === "training") ? "training" : "all";
  if (!state.rows) state.rows = "sessions";
  return state;
}

function addressOf(index, state) {
  const defaults = { rows: "sessions", where: index.groups.some((group) => group.where === "training") ? "training" : "all", page: "1" };
  const kept = Object.entries(state).filter(([key, value]) => value && value !== defaults[key]);
  return kept.length ? `#${new URLSearchParams(kept).toString().replaceAll("%2C", ",")}` : "#inspector";
}

// What a row shows

const playedAs = (one) => (one.group.where === "held-out" ? `held-out, step ${one.step}` : `step ${one.step}, rollout ${one.member}`);

function playedBy(row) {
  if (row.rollouts.length === 1) return playedAs(row.rollouts[0]);
  if (row.paired) return `held-out, steps ${row.rollouts.map((one) => one.step).join(" → ")}`;
  return `step ${row.group.step}, ${row.rollouts.length} rollouts`;
}

function thumbs(row) {
  const block = blockOf(row.group);
  const last = (one) => { const turns = block.rollouts[one.member]; return turns.length ? turns[turns.length - 1].picture : null; };
  const shown = row.rollouts.length > 1 ? row.rollouts.slice(0, 8).map(last) : block.rollouts[row.rollouts[0].member].map((turn) => turn.picture);
  if (![block.source, ...shown].some(Boolean)) return nothing;
  return element("div", { class: "thumbs", "aria-hidden": "true" }, picture(block.source, ""), element("span", { class: "arrow" }, "›"), shown.map((one) => picture(one, "")));
}

function rewardOf(row) {
  if (row.paired) return [row.rewards.map((value) => fixed(value, 2)).join(" → "), element("small", { class: gainTone(row.gain, 2) }, signed(row.gain))];
  if (row.rollouts.length === 1)
    return [fixed(row.reward, 2), element("span", { class: "by-turn" }, row.rollouts[0].rewards.map((value, turn) =>
      element("i", { class: `chip ${tone(value)}`, title: `turn ${turn}: ${fixed(value, 2)}` }, fixed(value, 2))))];
  const found = row.rewards.filter(isNumber);
  return [fixed(row.reward, 2), found.length ? element("small", { class: "quiet" }, `${fixed(Math.min(...found), 2)} to ${fixed(Math.max(...found), 2)}`) : null];
}

const nothing = Symbol("nothing"); // an empty cell: a dash where there are columns, no line where there are none
const countOf = (count, turns, tone) => (count ? element("span", { class: tone }, String(count), element("small", { class: "quiet" }, ` of ${turns}`)) : nothing);

function listRow(row, href) {
  const cell = (name, ...content) => element("td", { "data-name": name, class: content.every((one) => one === nothing) ? "none" : null }, content.map((one) => (one === nothing ? element("span", { class: "quiet" }, "–") : one)));
  const link = element("a", { href, class: "open" }, row.group.id);
  return element("tr", { "data-key": row.key, onclick: (event) => { if (!event.target.closest("a") && !String(getSelection())) link.click(); } },
    cell("session", link, " ", element("span", { class: "tag" }, row.group.subset || ""), element("p", { class: "asked" }, (row.group.said[0] || [""])[0] || "")),
    cell("pictures", thumbs(row)),
    cell("played", element("span", { class: "quiet" }, playedBy(row))),
    cell("reward", element("b", {}, rewardOf(row)[0]), rewardOf(row)[1]),
    cell("first failure", row.first_failure === null ? nothing : element("span", { class: "down" }, `turn ${row.first_failure}`)),
    cell("filtered", countOf(row.filtered, row.turns)),
    cell("missing", countOf(row.missing, row.turns, "half")));
}

// Controls are made once; what they show follows the state.

function segmented(name, options, chosen, choose) {
  return element("div", { class: "segmented", role: "group", "aria-label": name }, options.map(([value, text, title]) =>
    element("button", { type: "button", "aria-pressed": String(value === chosen), title, onclick: () => choose(value) }, text)));
}

function makeControls(index, go) {
  const places = { training: new Set(), "held-out": new Set() };
  index.groups.forEach((group) => group.rollouts.forEach((one) => places[group.where].add(one.step)));
  const both = places.training.size && places["held-out"].size;
  const options = [...(both ? [["all", "everything"]] : []), ...Object.entries(places).flatMap(([side, steps]) => {
    const each = [...steps].sort((a, b) => a - b).map((step) => [`${side}-${step}`, `${words(side)}, step ${step}`]);
    return steps.size ? [[side, side === "training" ? "training, all steps" : "held-out, before and after"], ...(steps.size > 1 ? each : [])] : [];
  })];
  const select = (name, label, choices) => element("select", { name, "aria-label": label, onchange: (event) => go({ [name]: event.target.value, page: "" }) },
    choices.map(([value, text]) => element("option", { value }, text)));
  const subsets = [...new Set(index.groups.map((group) => group.subset).filter(Boolean))];
  const longest = Math.max(0, ...index.groups.flatMap((group) => group.rollouts.map((one) => one.rewards.length)));
  const failures = [["", "any first failure"], ...Array.from({ length: longest }, (_, turn) => [String(turn), `first failure at turn ${turn}`]), ["never", "never failed"]];
  return {
    rows: element("span", {}), filters: element("div", { class: "filters", role: "group", "aria-label": "filters" }),
    where: select("where", "which sessions", options),
    subset: subsets.length > 1 ? select("subset", "subset", [["", "all subsets"], ...subsets.map((name) => [name, name])]) : null,
    first: select("first", "turn of first failure", failures),
    sort: select("sort", "sort by", [["", "as recorded"], ...Object.entries(SORTS).map(([name, [label]]) => [name, label])]),
    find: element("input", { type: "search", name: "find", placeholder: "find words or an id", "aria-label": "find", oninput: (event) => go({ find: event.target.value, page: "" }) }),
  };
}

function showControls(controls, state, counts, go) {
  for (const name of ["where", "subset", "first", "sort"]) if (controls[name]) controls[name].value = state[name];
  if (controls.find.value !== state.find) controls.find.value = state.find;
  const chose = controls.rows.contains(document.activeElement);
  controls.rows.replaceChildren(segmented("rows", [["sessions", "Sessions"], ["rollouts", "Rollouts"]], state.rows, (rows) => go({ rows, page: "" })));
  if (chose) controls.rows.querySelector("[aria-pressed=true]").focus();
  const chosen = state.filter.split(",").filter(Boolean);
  controls.filters.replaceChildren(...Object.entries(FILTERS).map(([name, [label, title]]) => {
    const on = chosen.includes(name);
    const next = on ? chosen.filter((one) => one !== name) : [...chosen, name];
    return element("button", { type: "button", class: "filter", title, "data-filter": name, "aria-pressed": String(on), disabled: !counts[name] && !on,
      onclick: () => { go({ filter: next.join(","), page: "" }); controls.filters.querySelector(`[data-filter="${name}"]`).focus(); } },
    label, element("small", {}, String(counts[name])));
  }));
}

function listHead(state, go) {
  const column = (label, sort) => {
    const now = state.sort.replace(/^-/, "") === sort && sort, reversed = state.sort.startsWith("-");
    if (!sort) return element("th", { scope: "col" }, label);
    const upwards = (sort === "filtered" || sort === "missing") === reversed;
    return element("th", { scope: "col", "aria-sort": now ? (upwards ? "ascending" : "descending") : "none" },
      element("button", { type: "button", class: "sort", onclick: () => go({ sort: now && !reversed ? `-${sort}` : now ? "" : sort, page: "" }) }, label, now ? (upwards ? " ↑" : " ↓") : ""));
  };
  return element("thead", {}, element("tr", {}, column("session"), column("pictures"), column("played"), column("reward", "reward"),
    column("first failure", "first-failure"), column("filtered", "filtered"), column("missing", "missing")));
}

function pager(page, pages, rows, go) {
  const from = (page - 1) * PAGE_ROWS;
  const told = rows.length ? `${from + 1} to ${Math.min(from + PAGE_ROWS, rows.length)} of ${rows.length}` : "";
  if (pages < 2) return element("p", { class: "pager quiet" }, rows.length ? `${rows.length} shown` : "");
  const turn = (text, to, label) => element("button", { type: "button", "aria-label": label, disabled: to < 1 || to > pages, onclick: () => go({ page: String(to) }) }, text);
  return element("nav", { class: "pager", "aria-label": "pages" }, turn("‹", page - 1, "previous page"), element("span", { class: "quiet" }, told), turn("›", page + 1, "next page"));
}

function startInspector() {
  const root = document.getElementById("inspect");
  if (!root) return;
  const index = readIndex();
  let state = readState(index), listed = null, found = { rows: [], counts: {} };
  const list = element("div", { class: "list" }), dialog = element("dialog", { class: "sheet", "aria-label": "session", tabindex: "-1" });
  const go = (changes) => {
    history.replaceState(null, "", addressOf(index, { ...state, ...changes }));
    show();
  };
  const controls = makeControls(index, go);
  root.replaceChildren(
    element("div", { class: "controls" }, controls.rows, controls.where, controls.subset, controls.first, controls.sort, controls.find),
    controls.filters, list, element("p", { class: "quiet keys" }, KEYS_TOLD), dialog);

  const showList = () => {
    const pages = Math.max(1, Math.ceil(found.rows.length / PAGE_ROWS)), page = Math.min(Math.max(1, Number(state.page) || 1), pages);
    const shown = found.rows.slice((page - 1) * PAGE_ROWS, page * PAGE_ROWS);
    const body = shown.map((row) => listRow(row, addressOf(index, { ...state, open: row.key })));
    const table = element("div", { class: "scroll rows" }, element("table", {}, listHead(state, go), element("tbody", {}, body)));
    list.replaceChildren(shown.length ? table : element("p", { class: "missing" }, "Nothing here fits these filters."), pager(page, pages, found.rows, go));
  };
  const show = () => {
    state = readState(index);
    const now = JSON.stringify(LIST_KEYS.map((key) => state[key]));
    if (now !== listed) {
      found = selectRows(index, state);
      showControls(controls, state, found.counts, go);
      showList();
    }
    listed = now;
    showSheet(dialog, index.byKey.get(state.open), { index, state, rows: found.rows, go });
  };
  dialog.addEventListener("close", () => { if (state.open) go(Object.fromEntries(SHEET_KEYS.map((key) => [key, ""]))); });
  list.addEventListener("keydown", (event) => {
    const links = [...list.querySelectorAll("a.open")], at = links.indexOf(document.activeElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1 }[event.key];
    if (at >= 0 && links[to]) { event.preventDefault(); links[to].focus(); }
  });
  window.addEventListener("hashchange", () => {
    if (location.hash && !location.hash.includes("=") && !dialog.open) return; // a section's address
    const before = listed;
    show();
    if (listed !== before && !state.open) document.getElementById("inspector").scrollIntoView();
  });
  if (location.hash.includes("=")) document.getElementById("inspector").scrollIntoView({ behavior: "instant" });
  show();
}
