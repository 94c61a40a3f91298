// One session, opened over the page: its turns with all that is known about them, or all its rollouts side by side.

const CHANGE_GAIN = 5; // how much brighter a difference is shown than it is
const LOOKS = [["picture", "Picture"], ["change", "Change", `difference to the input picture, ${CHANGE_GAIN} times as strong`], ["input", "Input", "the picture that the turn edits"]];

function showSheet(dialog, one, context) {
  if (!one) { if (dialog.open) dialog.close(); return; }
  const { state, rows, go } = context;
  const several = one.group.rollouts.length > 1;
  const view = several && (state.view || (state.rows === "sessions" ? "group" : "turns")) === "group" ? "group" : "turns";
  const at = rows.findIndex((row) => row.rollouts.includes(one));
  const move = (by) => {
    const next = rows[at + by];
    if (at >= 0 && next) go({ open: next.key, page: String(1 + Math.floor((at + by) / PAGE_ROWS)) });
  };
  const focused = dialog.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") || document.activeElement.textContent : null;
  const top = dialog.dataset.key === one.group.key ? dialog.scrollTop : 0;
  dialog.dataset.key = one.group.key;
  dialog.replaceChildren(element("div", { class: "inner" },
    sheetHead(one, view, at, context, move, () => dialog.close()),
    view === "group" ? groupView(one, context) : element("div", { class: "told" }, turnsOf(one, context))));
  dialog.onkeydown = (event) => sheetKey(event, { view, several, state, go, move });
  dialog.onclick = (event) => { if (event.target === dialog) dialog.close(); }; // outside of it
  if (!dialog.open) { dialog.showModal(); dialog.focus(); }
  dialog.scrollTop = top;
  [...dialog.querySelectorAll("button")].find((button) => focused && (button.getAttribute("aria-label") || button.textContent) === focused)?.focus({ preventScroll: true });
}

function sheetKey(event, { view, several, state, go, move }) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest(".tokens, input, select")) return;
  const act = {
    ArrowRight: () => move(1), ArrowLeft: () => move(-1),
    d: () => go({ look: state.look === "change" ? "" : "change" }),
    g: () => several && go({ view: view === "group" ? "turns" : "group" }),
  }[event.key];
  if (act) { event.preventDefault(); act(); }
}

function sheetHead(one, view, at, { index, state, rows, go }, move, close) {
  const group = one.group, held = group.where === "held-out", several = group.rollouts.length > 1;
  const block = blockOf(group), turns = block.rollouts.flat();
  const member = group.rollouts.map((other) => element("button", {
    type: "button", class: `chip ${tone(other.reward)}`, "aria-pressed": String(other === one), title: `reward ${fixed(other.reward, 3)}`,
    "aria-label": playedAs(other), onclick: () => go({ open: other.key, view: "turns" }),
  }, held ? `step ${other.step}` : String(other.member)));
  const looks = turns.some((turn) => turn.picture) ? segmented("what pictures show", LOOKS, state.look || "picture", (look) => go({ look })) : null;
  const views = several ? segmented("view", [["turns", "Turns"], ["group", held ? "Before and after" : `All ${group.rollouts.length}`]], view, (chosen) => go({ view: chosen })) : null;
  const rated = view === "turns" && turns.some((turn) => (turn.tokens || []).some((token) => isNumber(token[2])));
  const colours = rated ? segmented("colour of words", [["log-prob", "log-prob"], ["ratio", "ratio"]], state.colour || "log-prob", (colour) => go({ colour })) : null;
  const step = (text, by, label) => element("button", { type: "button", "aria-label": label, disabled: !rows[at + by] || at < 0, onclick: () => move(by) }, text);
  return element("header", { class: "sheet-head" },
    element("div", { class: "bar" },
      element("h3", {}, group.id, " ", element("span", { class: "tag" }, group.subset || "")),
      element("div", { class: "moves" }, at >= 0 ? element("span", { class: "quiet" }, `${at + 1} of ${rows.length}`) : null,
        step("‹", -1, "previous"), step("›", 1, "next"), element("button", { type: "button", "aria-label": "close", onclick: close }, "✕"))),
    element("div", { class: "tools" }, views, several ? element("div", { class: "members", role: "group", "aria-label": held ? "evaluation" : "rollout" },
      element("span", { class: "quiet" }, held ? "" : `step ${group.step}, rollout`), member) : element("span", { class: "quiet" }, playedAs(one)), looks, colours));
}

// Pictures

function shot(output, input, look, alt) {
  if (look === "input") return picture(input, `${alt}: what it edits`);
  if (look !== "change") return picture(output, alt);
  if (!output || !input) return picture(null);
  return element("div", { class: "shot", style: `--gain:${CHANGE_GAIN}` }, element("div", { class: "stack" }, picture(output, `${alt}: what changed`), picture(input, "")));
}

// Words, coloured by what the policy thinks of them

const LOWEST = 3, WIDEST = Math.log(1.5); // |log-prob| and |log ratio| that have the full colour

function tint(token, colour) {
  const [, logProb, ratio] = token;
  if (colour === "ratio") {
    if (!isNumber(ratio) || ratio <= 0) return "";
    return `--tint:var(--${ratio >= 1 ? "up" : "down"});--depth:${Math.min(1, Math.abs(Math.log(ratio)) / WIDEST).toFixed(3)}`;
  }
  return isNumber(logProb) ? `--tint:var(--half);--depth:${Math.min(1, -logProb / LOWEST).toFixed(3)}` : "";
}

function tokensOf(tokens, colour) {
  const logProbs = tokens.map((token) => token[1]).filter(isNumber), ratios = tokens.map((token) => token[2]).filter(isNumber);
  const summary = `${tokens.length} tokens · mean log-prob ${fixed(mean(logProbs), 3)}` + (ratios.length ? ` · ratio ${fixed(Math.min(...ratios), 3)} to ${fixed(Math.max(...ratios), 3)}` : "");
  const readout = element("small", { class: "readout", "aria-live": "polite" }, summary);
  const tell = (token) => { readout.textContent = `“${token[0]}” · log-prob ${fixed(token[1], 3)}` + (isNumber(token[1]) ? ` · p ${fixed(Math.exp(token[1]), 3)}` : "") + (isNumber(token[2]) ? ` · ratio ${fixed(token[2], 4)}` : ""); };
  const spans = tokens.map((token, place) => element("span", {
    class: "token", style: tint(token, colour), tabindex: place ? "-1" : "0",
    onpointerenter: () => tell(token), onclick: () => tell(token), onfocus: () => tell(token),
  }, token[0].replace(/\n/g, "⏎") || "·"));
  const line = element("div", { class: "tokens", "data-colour": colour, onpointerleave: () => { readout.textContent = summary; }, onkeydown: (event) => {
    const to = { ArrowRight: 1, ArrowLeft: -1 }[event.key], next = spans[spans.indexOf(document.activeElement) + to];
    if (to && next) { event.preventDefault(); next.focus(); }
  } }, spans);
  const ends = colour === "ratio" ? ["less likely", "now more likely"] : ["certain", "surprising"];
  return [line, element("div", { class: "legend" }, readout, element("span", { class: `scale ${colour}` }, ends[0], element("i"), ends[1]))];
}

function intentOf(turn, colour) {
  if (!turn.intent && !turn.intent_raw && !turn.tokens) return [element("span", { class: "quiet" }, "none: the instruction as given")];
  const fallback = turn.intent_fallback ? element("p", {}, element("span", { class: "chip half" }, "fallback"), element("small", {}, " what was written held no intent; the instruction stood in")) : null;
  const raw = !turn.tokens && turn.intent_raw && turn.intent_raw !== turn.intent ? element("p", { class: "raw" }, "written: ", turn.intent_raw) : null;
  return [turn.intent ? element("q", {}, turn.intent) : null, fallback, raw, ...(turn.tokens ? tokensOf(turn.tokens, colour === "ratio" && turn.tokens.some((token) => isNumber(token[2])) ? "ratio" : "log-prob") : [])];
}

// Scores and the judge's words

function spoken(value) {
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value === "number") return short(value);
  if (typeof value === "string") return `“${value}”`;
  return Array.isArray(value) ? value.map(spoken).join(", ") : JSON.stringify(value);
}

function judged(detail) {
  const { reason, ...rest } = detail || {};
  const said = [reason, ...Object.entries(rest).map(([name, value]) => `${words(name)} ${spoken(value)}`)].filter((text) => text !== undefined && text !== null).join(" · ");
  if (said.length <= 320) return element("span", { class: "words" }, said);
  return element("details", { class: "words" }, element("summary", {}, said.slice(0, 120), "…"), element("pre", {}, JSON.stringify(detail, null, 2)));
}

function scoresOf(turn, labels) {
  return element("ul", { class: "scores-list" }, Object.entries(turn.scores || {}).map(([name, value]) => {
    const status = (turn.status || {})[name];
    const mark = element("span", { class: `chip ${isNumber(value) ? tone(value) : status === "not_applicable" ? "even" : "half"}` }, `${labels[name] || name} ${isNumber(value) ? fixed(value, 2) : words(status || "none")}`);
    return element("li", {}, mark, judged((turn.detail || {})[name]));
  }));
}

// The numbers of a turn

function windowOf(turn) {
  const { steps = [], t = [] } = turn.window;
  const marks = t.map((time) => element("i", { style: `left:${(100 * (1 - time)).toFixed(1)}%` }));
  return [`steps ${steps.join(", ")}`, t.length ? element("span", { class: "window", title: `t = ${t.map((time) => fixed(time, 3)).join(", ")}: 1 is noise, left; 0 is the picture, right` }, marks) : null];
}

function teaches(turn) {
  const wrote = turn.tokens || turn.intent || turn.intent_raw || turn.text_learns; // turn 0 has no intent to learn from
  const parts = [["picture", turn.image_learns], ...(wrote ? [["intent", turn.text_learns]] : [])].map(([name, taught]) => `${name} ${taught ? "yes" : "no"}`);
  return [parts.join(", "), turn.why_filtered ? element("small", {}, turn.why_filtered) : null];
}

function factsOf(turn, labels) {
  const given = turn.reward_parts || {}, order = Object.keys(turn.scores || {}).filter((name) => name in given);
  const parts = order.map((name) => `${labels[name] || name} ${fixed(given[name], 2)}`).join(" + ");
  const worth = (value) => element("span", { class: gainTone(value, 3) }, signed(value, 3));
  const facts = [
    ["reward", fixed(turn.reward, 3), parts ? element("small", {}, `= ${parts}`) : null],
    isNumber(turn.advantage) ? ["advantage", worth(turn.advantage), isNumber(turn.advantage_text) ? element("small", {}, "intent ", worth(turn.advantage_text)) : null] : null,
    "image_learns" in turn ? ["teaches", ...teaches(turn)] : null,
    isNumber(turn.changed) ? ["changed", `${fixed(100 * turn.changed, 1)} %`, element("small", {}, "mean over pixels")] : null,
    turn.window ? ["window", ...windowOf(turn)] : null,
    turn.image_ratio ? ["picture ratio", turn.image_ratio.map((value) => fixed(value, 5)).join(", ")] : null,
    isNumber(turn.kl) ? ["KL to reference", short(turn.kl)] : null,
  ];
  return element("dl", { class: "facts" }, facts.filter(Boolean).map(([name, ...content]) => element("div", {}, element("dt", {}, name), element("dd", {}, ...content))));
}

// Views

function turnsOf(one, { index, state }) {
  const block = blockOf(one.group), turns = block.rollouts[one.member], inputs = [block.source, ...turns.map((turn) => turn.picture)];
  const source = block.source ? element("div", { class: "source-line" }, picture(block.source, "source picture"), element("p", { class: "quiet" }, "source")) : null;
  return [source, ...turns.map((turn, place) => {
    const [asked, type] = one.group.said[place] || [], formatted = block.formatted[place];
    return element("article", { class: "turn-row", "data-turn": place },
      element("div", { class: "shot-column" }, shot(turn.picture, inputs[place], state.look, `picture of turn ${place}`)),
      element("div", { class: "turn-told" },
        element("h4", {}, `Turn ${place}`, " ", element("span", { class: "tag" }, words(type || ""))),
        element("p", { class: "instruction", title: formatted ? `scored as: ${formatted}` : null }, asked || ""),
        element("div", { class: "part" }, element("h5", {}, "intent"), element("div", {}, intentOf(turn, state.colour))),
        element("div", { class: "part" }, element("h5", {}, "scores"), scoresOf(turn, index.labels)),
        factsOf(turn, index.labels)));
  })];
}

function groupView(one, { index, state, go }) {
  const group = one.group, block = blockOf(group), held = group.where === "held-out";
  const inputs = block.rollouts.map((turns) => [block.source, ...turns.map((turn) => turn.picture)]);
  const longest = Math.max(...block.rollouts.map((turns) => turns.length));
  const head = element("tr", {}, group.rollouts.map((other) =>
    element("th", { scope: "col", "aria-selected": String(other === one) }, held ? `step ${other.step}` : `rollout ${other.member}`, element("b", {}, fixed(other.reward, 2)))));
  const chips = (turn) => Object.entries(turn.scores || {}).filter(([, value]) => isNumber(value)).map(([name, value]) => element("span", { class: `chip ${tone(value)}` }, `${index.labels[name] || name} ${fixed(value, 2)}`));
  const cell = (other, turn, place) => element("td", { class: turn.image_learns === false ? "masked" : "", title: turn.why_filtered },
    element("button", { type: "button", class: "peek", "aria-label": `${playedAs(other)}, turn ${place}`, onclick: () => go({ open: other.key, view: "turns" }) }, shot(turn.picture, inputs[other.member][place], state.look, `${playedAs(other)}, turn ${place}`)),
    element("p", {}, element("span", { class: `chip ${tone(turn.reward)}` }, fixed(turn.reward, 2)), isNumber(turn.advantage) ? element("small", { class: gainTone(turn.advantage, 2) }, ` ${signed(turn.advantage)}`) : null),
    group.rollouts.length < 4 ? element("div", { class: "chips" }, chips(turn)) : null,
    turn.intent ? element("q", {}, turn.intent) : null);
  const body = Array.from({ length: longest }).flatMap((_, place) => [
    element("tr", { class: "asked-row" }, element("th", { colspan: String(group.rollouts.length), scope: "rowgroup" }, element("div", {}, element("span", { class: "tag" }, `turn ${place}`), " ", (group.said[place] || [""])[0]))),
    element("tr", {}, group.rollouts.map((other) => { const turn = block.rollouts[other.member][place]; return turn ? cell(other, turn, place) : element("td", {}); })),
  ]);
  return element("div", { class: "told" },
    block.source ? element("div", { class: "source-line" }, picture(block.source, "source picture"), element("p", { class: "quiet" }, held ? "source · played without noise" : "source · chips: reward, beside it the advantage · hatched: the picture teaches nothing")) : null,
    element("div", { class: "side-by-side" }, element("table", { style: `--columns:${group.rollouts.length}` }, element("thead", {}, head), element("tbody", {}, body))));
}
