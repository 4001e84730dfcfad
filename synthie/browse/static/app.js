// The page's behaviour. What is shown follows from the address; texts come from a language model and are put into
// the page as text only, never as markup.

const PAGE = 20;
const LOOK_MS = 5000;
const TOAST_MS = 6000;
const COLOURS = 10;
const SELECTS = {
  verdict: ["Checks", { accepted: "accepted", rejected: "rejected" }],
  reason: ["Reason of rejection", null],
  hand: ["By hand", { judged: "judged", open: "not judged yet", accept: "accepted", reject: "rejected", against: "against the checks" }],
  judge: ["Judge", { faulty: "found faulty" }],
  prompt: ["Prompt", null],
  model: ["Model", null],
  style: ["Style", null],
  split: ["Split", null],
};
const OUTCOMES = { "": "all sets", both: "both accepted", left: "only left", right: "only right", neither: "neither" };
const DETAILS = {
  prompt: "prompt", model: "model", endpoint: "endpoint", style: "style", usd: "cost", input_tokens: "tokens in",
  cached_input_tokens: "of these cached", output_tokens: "tokens out", latency_s: "seconds", attempts: "attempts",
  finish_reason: "finished by", request_key: "request", prompt_hash: "prompt's hash",
};

const $ = (id) => document.getElementById(id);
const token = document.querySelector("meta[name=browse-token]").content;
const whole = new Intl.NumberFormat("en");
const calm = matchMedia("(prefers-reduced-motion: reduce)");

let address = new URLSearchParams(location.search);
let overview = null;
let shown = []; // [{ record, side, element }] in the order of j and k
let current = -1;
let total = 0;
let known = ""; // state of the files and verdicts that the page shows
let loading = null;
const undoable = [];

// --- Small things ------------------------------------------------------------------------------------------------

function make(tag, { cls, text, ...attributes } = {}, ...children) {
  const element = document.createElement(tag);
  if (cls) element.className = cls;
  if (text !== undefined) element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function plural(count, thing) {
  return `${whole.format(count)} ${thing}${count === 1 ? "" : "s"}`;
}

function percent(share) {
  return share ? `${(100 * share.value).toFixed(1)}%` : "–";
}

function interval(share) {
  return share ? `${(100 * share.low).toFixed(1)}–${(100 * share.high).toFixed(1)}%` : "";
}

function usd(amount) {
  if (amount === null || amount === undefined) return "–";
  if (amount === 0 || amount >= 1) return `$${amount.toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 })}`;
  return `$${amount.toLocaleString("en", { minimumFractionDigits: 2, maximumSignificantDigits: 2 })}`;
}

function wikidata(uri) {
  if (/^Q[1-9]\d*$/.test(uri)) return `https://www.wikidata.org/wiki/${uri}`;
  if (/^P[1-9]\d*$/.test(uri)) return `https://www.wikidata.org/wiki/Property:${uri}`;
  return null;
}

function say(text, { isUndoable = false } = {}) {
  const button = isUndoable ? make("button", { type: "button", cls: "plain", text: "Undo", title: "u", onclick: undo }) : null;
  $("toast").replaceChildren(text, ...(button ? [" ", button] : []));
  $("toast").classList.add("on");
  clearTimeout(say.timer);
  say.timer = setTimeout(() => $("toast").classList.remove("on"), TOAST_MS);
}

function told(parent, ...parts) {
  parent.replaceChildren(...parts.map((part) => (part.b === undefined ? part : make("b", { text: part.b }))));
}

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server does not answer. Start synthie browse again, then load the page again.");
  }
  const data = await answer.json().catch(() => ({ error: `The server failed (${answer.status}); its terminal says why.` }));
  if (!answer.ok) throw Object.assign(new Error(data.error), { status: answer.status });
  return data;
}

const comparing = () => overview.sides.length > 1;

// --- The address -------------------------------------------------------------------------------------------------

function setAddress(changes, { keepPlace = false, replace = false } = {}) {
  for (const [name, value] of Object.entries(changes)) {
    address.delete(name);
    for (const each of [value].flat()) if (each !== "" && each !== null) address.append(name, each);
  }
  if (!keepPlace) {
    address.delete("page");
    address.delete("at");
  }
  const query = address.toString();
  history[replace ? "replaceState" : "pushState"](null, "", query ? `?${query}` : location.pathname);
}

function go(changes, options) {
  setAddress(changes, options);
  load();
}

const pageNumber = () => Math.max(0, (parseInt(address.get("page") || "1", 10) || 1) - 1);

// --- The head ----------------------------------------------------------------------------------------------------

function showHead() {
  const [one, other] = overview.sides;
  const kinds = { run: "Texts of a run", "data set": "A data set", file: "A file of records" };
  $("kind").textContent = other ? "The same sets, told twice" : `${kinds[one.kind]} · ${one.path}`;
  $("name").textContent = other ? `${one.name} and ${other.name}` : one.name;
  document.title = `${$("name").textContent} · synthie browse`;
  showAgreement();
}

function showFigures(prompts) {
  const sides = comparing() ? prompts : [prompts];
  const rows = sides.flatMap((figures, side) => figures.map((figure) => ({ ...figure, side })));
  const isTable = rows.length > 1;
  if (!isTable) {
    const [all] = rows;
    $("prompts").replaceChildren();
    if (!all) {
      told($("summary"), "No text in the present choice.");
    } else {
      const what = [all.prompt, all.model].filter(Boolean).join(", ");
      const costs = all.usd ? ` ${usd(all.usd_per_accepted)} for each accepted text.` : "";
      told($("summary"), { b: percent(all.rate) }, ` (${interval(all.rate)}) of ${plural(all.texts, "text")} pass the checks.${costs}${what ? ` ${what}.` : ""}`);
    }
    return;
  }
  const head = { prompt: "", texts: "number", "pass the checks": "", "cost per accepted": "number", words: "number", "fail most": "" };
  const body = rows.map((row) => {
    const where = [row.model, comparing() ? overview.sides[row.side].name : ""].filter(Boolean).join(" · ");
    const name = make("td", { cls: "name" }, make("span", { text: row.prompt || "no prompt" }), make("small", { text: where }));
    return make("tr", {}, name,
      make("td", { cls: "number", "data-unit": "texts", text: whole.format(row.texts) }),
      make("td", {}, make("span", { cls: "rate" }, bar(row.rate), make("span", { text: percent(row.rate), title: `95% interval ${interval(row.rate)}` }))),
      make("td", { cls: "number", "data-unit": "per accepted", text: usd(row.usd_per_accepted) }),
      make("td", { cls: "number", "data-unit": "words", text: row.words.toFixed(1) }),
      make("td", {}, make("small", { text: row.checks.slice(0, 3).map(([check, count]) => `${check.replaceAll("_", " ")} ${whole.format(count)}`).join(", ") || "nothing" })));
  });
  $("prompts").replaceChildren(
    make("table", {}, make("thead", {}, make("tr", {}, ...Object.entries(head).map(([text, cls]) => make("th", { scope: "col", text, cls })))), make("tbody", {}, ...body)));
  $("summary").replaceChildren();
}

function bar(rate) {
  const svg = (tag, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };
  const drawing = svg("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" });
  drawing.append(
    svg("rect", { class: "whole", width: 100, height: 10, rx: 1 }),
    svg("rect", { class: "part", width: 100 * rate.value, height: 10, rx: 1 }),
    svg("line", { class: "interval", x1: 100 * rate.low, x2: 100 * rate.high, y1: 5, y2: 5 }));
  return drawing;
}

function showAgreement() {
  const judged = overview.sides.filter((side) => side.agreement.judged);
  $("agreement").hidden = !judged.length;
  const parts = [];
  for (const side of judged) {
    const { agreement } = side;
    parts.push(comparing() ? `${side.name}: ` : "", { b: `${plural(agreement.judged, "text")} judged by hand` });
    if (agreement.precision) {
      const { accept, reject } = agreement.counts.accepted;
      parts.push(`; of ${whole.format(accept + reject)} that the checks accept, you accept ${percent(agreement.precision)} (${interval(agreement.precision)}) and reject ${whole.format(reject)}`);
    }
    if (agreement.wrongly_rejected) {
      const { accept, reject } = agreement.counts.rejected;
      parts.push(`; of ${whole.format(accept + reject)} that they reject, you accept ${whole.format(accept)}`);
    }
    parts.push(". ");
  }
  overview.sides.forEach((side, number) => {
    if (!side.agreement.judged) return;
    const link = (ending) => make("a", { href: `api/verdicts.${ending}?side=${number}`, download: "", text: ending.toUpperCase() });
    parts.push(comparing() ? `Export ${side.name}: ` : "Export ", link("csv"), " ", link("jsonl"), " ");
  });
  if (judged.length) told($("agreement"), ...parts);
}

// --- Filters -----------------------------------------------------------------------------------------------------

function showFilters(facets) {
  for (const input of $("form").querySelectorAll("input[name]")) {
    if (input !== document.activeElement) input.value = address.get(input.name) || "";
    input.classList.toggle("on", Boolean(address.get(input.name)));
  }
  $("sort").value = address.get("sort") || "";
  $("sort-label").hidden = comparing();
  const label = (uri) => `${overview.relations[uri] || uri} (${uri})`;
  $("relations").replaceChildren(
    ...Object.entries(facets.relation || {})
      .sort((a, b) => b[1] - a[1])
      .map(([uri, count]) => make("option", { value: label(uri), text: plural(count, "text") })));
  $("chosen").replaceChildren(
    ...address.getAll("relation").map((uri) =>
      make("li", {}, make("button", {
        type: "button", text: `${overview.relations[uri] || uri} ×`, "aria-label": `Without ${overview.relations[uri] || uri}`,
        onclick: () => go({ relation: address.getAll("relation").filter((other) => other !== uri) }),
      }))));
  const fields = Object.entries(SELECTS).flatMap(([name, [title, labels]]) =>
    comparing() && (name === "prompt" || name === "model")
      ? [select(`${name}_a`, `${title}, left`, null, sideValues(0, name)), select(`${name}_b`, `${title}, right`, null, sideValues(1, name))]
      : [select(name, title, labels, facets[name] || {})]);
  const focused = document.activeElement?.name;
  $("selects").replaceChildren(...fields.filter(Boolean));
  if (focused) $("selects").querySelector(`[name="${CSS.escape(focused)}"]`)?.focus();
  const set = [...new Set(address.keys())].filter((name) => !["page", "at", "search", "sort", "seed"].includes(name)).length;
  $("more").textContent = set ? `Filters (${set})` : "Filters";
  $("clear").hidden = !set && !address.get("search");
}

function sideValues(side, name) {
  const counts = {};
  for (const figure of overview.sides[side].prompts) counts[figure[name]] = (counts[figure[name]] || 0) + figure.texts;
  return counts;
}

function select(name, title, labels, counts) {
  const chosen = address.get(name) || "";
  const values = labels ? Object.keys(labels).filter((value) => counts[value] || value === chosen) : Object.keys(counts).sort();
  if (chosen && !values.includes(chosen)) values.push(chosen);
  const isUseful = chosen || (labels && name !== "verdict" ? values.some((value) => value !== "open") : values.length > 1);
  if (!isUseful) return null;
  const options = values.map((value) =>
    make("option", { value, text: `${labels?.[value] ?? value.replaceAll("_", " ")} (${whole.format(counts[value] || 0)})` }));
  const field = make("select", { name, cls: chosen ? "on" : "" }, make("option", { value: "", text: "all" }), ...options);
  field.value = chosen;
  return make("label", {}, make("span", { text: title }), field);
}

// --- Texts -------------------------------------------------------------------------------------------------------

function coloursOf(...records) {
  const colours = new Map();
  for (const record of records) {
    for (const { uri } of record.entities) if (!colours.has(uri)) colours.set(uri, colours.size);
  }
  return colours;
}

function node(entity, colours, isFound) {
  const href = wikidata(entity.uri);
  const attributes = {
    cls: `node e${colours.get(entity.uri) % COLOURS}${isFound ? "" : " missing"}`, text: entity.name, "data-entity": entity.uri,
    title: isFound ? entity.uri : `${entity.uri}: not found in the text`,
  };
  return href ? make("a", { ...attributes, href, target: "_blank", rel: "noopener noreferrer" }) : make("span", attributes);
}

function partsOf(record, triplet) {
  return [record.entities[triplet.subject].uri, triplet.relation.uri, record.entities[triplet.object].uri];
}

function tripletList(record, colours, isFound) {
  const faulty = new Set(record.reasons.flatMap((reason) => reason.triplets));
  return make("ol", { cls: "triplets", "aria-label": "Triplets" }, ...record.triplets.map((triplet, number) => {
    const [subject, object] = [record.entities[triplet.subject], record.entities[triplet.object]];
    const href = wikidata(triplet.relation.uri);
    return make("li", { "data-lights": JSON.stringify(partsOf(record, triplet)) },
      node(subject, colours, isFound(subject)),
      make("button", { type: "button", cls: "relation", "aria-pressed": "false", text: triplet.relation.name, title: "Show in the text" }),
      node(object, colours, isFound(object)),
      faulty.has(number) ? make("span", { cls: "flag", text: "fault" }) : null,
      href ? make("a", { cls: "relation-link", href, target: "_blank", rel: "noopener noreferrer", text: triplet.relation.uri, "aria-label": `${triplet.relation.name} on Wikidata` }) : null);
  }));
}

function textOf(record, colours) {
  return make("p", { cls: "text", dir: "auto" }, ...record.pieces.map((piece) => {
    if (!piece.entities && !piece.faults) return document.createTextNode(piece.text);
    const uris = (piece.entities || []).map((number) => record.entities[number].uri);
    const classes = [uris.length ? `entity e${colours.get(uris[0]) % COLOURS}` : "", piece.faults ? "fault" : ""];
    return make("mark", {
      cls: classes.join(" ").trim(), text: piece.text, "data-entities": uris.length ? JSON.stringify(uris) : null,
      "data-faults": piece.faults ? JSON.stringify(piece.faults) : null,
      title: uris.map((uri) => record.entities.find((entity) => entity.uri === uri).name).join(", ") || null,
    });
  }));
}

function reasonList(record) {
  if (!record.reasons.length) return make("div", { cls: "margin" });
  const parts = (number) => JSON.stringify(partsOf(record, record.triplets[number]));
  return make("div", { cls: "margin" }, make("ul", { cls: "reasons", "aria-label": "Faults" }, ...record.reasons.map((reason, number) =>
    make("li", { "data-fault": number, "data-triplets": JSON.stringify(reason.triplets.map(parts)), tabindex: "0" },
      make("b", { text: reason.check.replaceAll("_", " ") + (reason.by === "judge" ? ", says a judge" : "") }),
      make("span", { text: reason.detail, dir: "auto" })))));
}

function actions(item) {
  const { record } = item;
  const press = (verdict) => judge(item, record.hand?.verdict === verdict ? null : verdict);
  const facts = Object.entries(DETAILS).filter(([name]) => record.details[name] !== undefined).flatMap(([name, title]) => {
    const value = record.details[name];
    const number = { usd: usd, latency_s: (seconds) => seconds.toFixed(2) }[name] || ((n) => (typeof n === "number" ? whole.format(n) : n));
    return [make("dt", { text: title }), make("dd", { text: number(value) })];
  });
  return make("div", { cls: "actions" },
    make("button", { type: "button", cls: "accept", text: "Accept", "aria-pressed": "false", onclick: () => press("accept") }),
    make("button", { type: "button", cls: "reject", text: "Reject", "aria-pressed": "false", onclick: () => press("reject") }),
    make("button", { type: "button", cls: "plain write", text: "Note", "aria-expanded": "false", onclick: () => writeNote(item) }),
    facts.length ? make("details", {}, make("summary", { text: "How it was made" }), make("dl", { cls: "facts" }, ...facts)) : null);
}

function recordOf(record, side, colours = coloursOf(record), isPair = false) {
  const item = { record, side };
  const meta = make("p", { cls: "meta" },
    make("span", { cls: "id", text: `#${record.id}` }),
    make("span", { cls: `verdict ${record.verdict}`, text: record.verdict === "accepted" ? "✓ passes the checks" : "✗ rejected by the checks" }),
    make("span", { cls: "hand", hidden: "" }),
    make("span", { text: plural(record.words, "word") }),
    record.split ? make("span", { text: record.split.replaceAll("_", " ") }) : null);
  const isTopicKnown = record.topic && !record.triplets.length;
  const topic = isTopicKnown ? make("p", { cls: "topic", text: `States no triplet; its topic is ${record.topic}.` }) : null;
  const left = record.withheld.length ? make("p", { cls: "topic", text: `The label leaves out: ${record.withheld.join("; ")}.` }) : null;
  const found = (entity) => entity.found;
  const body = make("div", { cls: "body" }, isPair ? sideName(record, side) : null, meta, textOf(record, colours),
    isPair ? null : tripletList(record, colours, found), topic, left);
  item.element = make("article", { cls: "record", tabindex: "-1", "aria-label": `Set ${record.id}, ${record.verdict} by the checks` }, body, reasonList(record));
  const below = make("div", { cls: "body" }, actions(item), make("p", { cls: "note-text", hidden: "" }));
  item.element.append(below);
  item.element.addEventListener("pointerdown", () => choose(shown.indexOf(item), { scroll: false }));
  item.element.addEventListener("focusin", () => choose(shown.indexOf(item), { scroll: false }));
  showHand(item);
  return item;
}

function sideName(record, side) {
  const { prompt, model } = record.details;
  return make("p", { cls: "side-name", text: [prompt, model, overview.sides[side].name].filter(Boolean).join(" · ") });
}

function pairOf([left, right]) {
  const colours = coloursOf(left, right);
  const sides = [recordOf(left, 0, colours, true), recordOf(right, 1, colours, true)];
  const foundBy = (record) => new Set(record.entities.filter((entity) => entity.found).map((entity) => entity.uri));
  const [inLeft, inRight] = [foundBy(left), foundBy(right)];
  const fuller = left.triplets.length < right.triplets.length ? right : left; // a label may leave some out
  const element = make("section", { cls: "pair", "aria-label": `Set ${left.id}` },
    tripletList({ ...fuller, reasons: [] }, colours, (entity) => inLeft.has(entity.uri) || inRight.has(entity.uri)),
    make("div", { cls: "columns" }, ...sides.map((side) => side.element)));
  return { element, sides };
}

function showHand(item) {
  const { hand } = item.record;
  const badge = item.element.querySelector(".hand");
  badge.hidden = !hand;
  badge.className = `hand ${hand?.verdict ?? ""}`;
  badge.textContent = hand ? `you ${hand.verdict} it` : "";
  for (const verdict of ["accept", "reject"]) {
    item.element.querySelector(`.actions .${verdict}`).setAttribute("aria-pressed", String(hand?.verdict === verdict));
  }
  const note = item.element.querySelector(".note-text");
  note.hidden = !hand?.note;
  note.textContent = hand?.note ? `“${hand.note}”` : "";
}

// Light what belongs together: a triplet and its mentions, a fault and its span.

function light(from) {
  const scope = from.closest(".pair, .record");
  for (const lit of scope.querySelectorAll(".lit")) lit.classList.remove("lit");
  const pinned = scope.querySelector("li.pinned");
  const triplet = from.closest("li[data-lights]") || (from.closest("mark, li") ? null : pinned);
  const fault = from.closest("li[data-fault]");
  const mark = from.closest("mark[data-entities]");
  const uris = triplet ? JSON.parse(triplet.dataset.lights) : mark ? JSON.parse(mark.dataset.entities) : [];
  scope.classList.toggle("lighting", uris.length > 0);
  if (uris.length) {
    for (const each of scope.querySelectorAll("mark[data-entities]")) {
      if (JSON.parse(each.dataset.entities).some((uri) => uris.includes(uri))) each.classList.add("lit");
    }
    for (const each of scope.querySelectorAll("li[data-lights]")) {
      const isLit = triplet ? each === triplet : JSON.parse(each.dataset.lights).some((uri) => uris.includes(uri));
      each.classList.toggle("lit", isLit);
      for (const name of each.querySelectorAll(".node")) name.classList.toggle("lit", isLit && uris.includes(name.dataset.entity));
    }
  }
  if (fault) {
    const triplets = JSON.parse(fault.dataset.triplets);
    for (const each of scope.querySelectorAll("li[data-lights]")) each.classList.toggle("lit", triplets.includes(each.dataset.lights));
    for (const each of scope.querySelectorAll("mark[data-faults]")) {
      if (each.closest(".record") === fault.closest(".record") && JSON.parse(each.dataset.faults).includes(Number(fault.dataset.fault))) each.classList.add("lit");
    }
  }
}

function pin(button) {
  const item = button.closest("li");
  const isPinned = !item.classList.contains("pinned");
  for (const other of item.closest(".pair, .record").querySelectorAll("li.pinned")) {
    other.classList.remove("pinned");
    other.querySelector(".relation").setAttribute("aria-pressed", "false");
  }
  item.classList.toggle("pinned", isPinned);
  button.setAttribute("aria-pressed", String(isPinned));
  light(isPinned ? item : item.closest(".pair, .record"));
}

for (const [on, off] of [["pointerover", "pointerleave"], ["focusin", "focusout"]]) {
  $("records").addEventListener(on, ({ target }) => target.closest(".pair, .record") && light(target));
  $("records").addEventListener(off, ({ target }) => target.closest?.(".pair, .record") && light(target.closest(".pair, .record")));
}
$("records").addEventListener("click", ({ target }) => target.matches(".relation") && pin(target));

// --- Loading -----------------------------------------------------------------------------------------------------

async function load({ quiet = false } = {}) {
  loading?.abort();
  loading = new AbortController();
  const query = new URLSearchParams(address);
  query.set("offset", pageNumber() * PAGE);
  query.set("limit", PAGE);
  if (!quiet) $("records").setAttribute("aria-busy", "true");
  try {
    const answer = await ask(`api/${comparing() ? "pairs" : "records"}?${query}`, { signal: loading.signal });
    show(answer);
  } catch (error) {
    if (error.name === "AbortError") return;
    $("records").removeAttribute("aria-busy");
    if (error.status === 409) return void setTimeout(load, 1000);
    tell(error.message, { isBad: true });
  }
}

function show(answer) {
  total = answer.total;
  known = answer.state;
  $("news").hidden = true;
  showFigures(answer.prompts);
  showFilters(answer.facets);
  const first = pageNumber() * PAGE;
  const rows = answer.pairs || answer.records;
  if (answer.pairs) {
    const pairs = answer.pairs.map(pairOf);
    shown = pairs.flatMap((pair) => pair.sides);
    $("records").replaceChildren(...pairs.map((pair) => pair.element));
    showOutcomes(answer.outcomes);
  } else {
    shown = answer.records.map((record) => recordOf(record, 0));
    $("records").replaceChildren(...shown.map((item) => item.element));
  }
  $("records").removeAttribute("aria-busy");
  const thing = answer.pairs ? "set" : "text";
  const drawn = answer.matched > total ? ` drawn from ${whole.format(answer.matched)}` : "";
  told($("count"), { b: plural(total, thing) }, drawn);
  if (!rows.length) showNothing();
  const pages = Math.ceil(total / PAGE);
  $("pager").hidden = pages < 2;
  $("previous").disabled = first === 0;
  $("next").disabled = first + rows.length >= total;
  $("where").textContent = `${whole.format(first + 1)}–${whole.format(first + rows.length)} of ${whole.format(total)}`;
  const at = parseInt(address.get("at") || "0", 10) || 0;
  current = -1;
  if (shown.length) choose(Math.min(at, shown.length - 1), { scroll: address.has("at"), remember: false });
}

function showNothing() {
  const rows = overview.sides[0].rows;
  const empty = rows
    ? make("div", { cls: "empty" }, make("p", { text: total ? "This page is behind the last one." : "Nothing is like this." }),
        make("button", { type: "button", text: total ? "To the first page" : "Clear the filters", onclick: () => (total ? go({}) : clear()) }))
    : make("div", { cls: "empty" }, make("p", { text: "No texts yet. They appear here as soon as the run has checked some." }));
  $("records").replaceChildren(empty);
}

function showOutcomes(outcomes) {
  const all = Object.values(outcomes).reduce((sum, count) => sum + count, 0);
  const chosen = address.get("outcome") || "";
  const buttons = Object.entries(OUTCOMES).map(([name, title]) =>
    make("button", {
      type: "button", text: `${title} ${whole.format(name ? outcomes[name] : all)}`, "aria-pressed": String(name === chosen),
      onclick: () => go({ outcome: name }),
    }));
  $("prompts").append(make("div", { cls: "outcomes", role: "group", "aria-label": "Which of the two pass the checks" }, ...buttons));
}

function tell(text, { isBad = false, action = null } = {}) {
  const [words, button] = $("news").children;
  words.textContent = text;
  button.hidden = !action;
  button.onclick = action;
  $("news").classList.toggle("bad", isBad);
  $("news").hidden = false;
}

async function look() {
  if (document.hidden || !overview) return;
  try {
    const { state } = await ask("api/state");
    if (state === known) return;
    const revisions = (each) => each.split("-").map((side) => side.split(".")[0]).join();
    if (revisions(state) !== revisions(known)) {
      overview = await ask("api/overview");
      showHead();
      if (shown.length) tell("The texts have changed.", { action: () => load() });
      else load();
    } else {
      await takeVerdicts();
    }
  } catch (error) {
    tell(error.message, { isBad: true });
  }
}

// Verdicts given elsewhere, shown without moving anything.
async function takeVerdicts() {
  overview = await ask("api/overview");
  showAgreement();
  const query = new URLSearchParams(address);
  query.set("offset", pageNumber() * PAGE);
  query.set("limit", PAGE);
  const answer = await ask(`api/${comparing() ? "pairs" : "records"}?${query}`);
  const fresh = (answer.pairs ? answer.pairs.flatMap((pair) => pair.map((record, side) => [`${side} ${record.key}`, record])) : answer.records.map((record) => [`0 ${record.key}`, record]));
  const byKey = new Map(fresh);
  for (const item of shown) {
    const now = byKey.get(`${item.side} ${item.record.key}`);
    if (now) {
      item.record.hand = now.hand;
      showHand(item);
    }
  }
  known = answer.state;
}

// --- Verdicts ----------------------------------------------------------------------------------------------------

async function send(order) {
  return ask("api/verdicts", {
    method: "POST",
    headers: { "content-type": "application/json", "x-browse-token": token },
    body: JSON.stringify(order),
  });
}

async function judge(item, verdict, { note = null } = {}) {
  const { record, side } = item;
  const before = record.hand;
  const written = note ?? item.element.querySelector(".note textarea")?.value ?? before?.note ?? "";
  try {
    const answer = await send({ side, key: record.key, verdict, note: verdict ? written : "" });
    undoable.push({ side, key: record.key, id: record.id, before, now: verdict });
    took(item, answer, side);
    say(verdict ? `#${record.id} ${verdict}ed.` : `#${record.id}: verdict withdrawn.`, { isUndoable: true });
    return true;
  } catch (error) {
    tell(error.message, { isBad: true });
    return false;
  }
}

function took(item, answer, side) {
  overview.sides[side].agreement = answer.agreement;
  known = answer.state;
  showAgreement();
  if (item) {
    item.record.hand = answer.hand;
    item.element.querySelector(".note")?.remove();
    item.element.querySelector(".write").setAttribute("aria-expanded", "false");
    showHand(item);
  }
}

async function undo() {
  const last = undoable.pop();
  if (!last) return say("There is nothing to undo.");
  try {
    const answer = await send({
      side: last.side, key: last.key, verdict: last.before?.verdict ?? null, note: last.before?.note ?? "", expected: last.now,
    });
    const place = shown.findIndex((item) => item.side === last.side && item.record.key === last.key);
    took(shown[place], answer, last.side);
    if (place >= 0) choose(place);
    say(`#${last.id}: undone.`);
  } catch (error) {
    tell(error.message, { isBad: true });
  }
}

function writeNote(item) {
  const open = item.element.querySelector(".note");
  if (open) return void (open.contains(document.activeElement) ? closeNote(item) : open.querySelector("textarea").focus());
  const field = make("textarea", { maxlength: "2000", "aria-label": "Note to the verdict", placeholder: "Why? Kept with Accept or Reject." });
  field.value = item.record.hand?.note || "";
  field.addEventListener("keydown", (event) => {
    if (event.key === "Escape") closeNote(item);
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      if (item.record.hand) judge(item, item.record.hand.verdict);
      else say("Accept or reject the text: the note is kept with the verdict.");
    }
    event.stopPropagation();
  });
  item.element.querySelector(".actions").after(make("div", { cls: "note" }, field));
  item.element.querySelector(".write").setAttribute("aria-expanded", "true");
  field.focus();
}

function closeNote(item) {
  item.element.querySelector(".note")?.remove();
  const button = item.element.querySelector(".write");
  button.setAttribute("aria-expanded", "false");
  button.focus();
}

// --- Moving ------------------------------------------------------------------------------------------------------

function choose(place, { scroll = true, remember = true } = {}) {
  if (place < 0 || place >= shown.length) return;
  if (place !== current) {
    shown[current]?.element.classList.remove("current");
    shown[current]?.element.removeAttribute("aria-current");
    current = place;
    shown[place].element.classList.add("current");
    shown[place].element.setAttribute("aria-current", "true");
    if (remember) setAddress({ at: place || "" }, { keepPlace: true, replace: true });
  }
  if (scroll) {
    shown[place].element.focus({ preventScroll: true });
    shown[place].element.scrollIntoView({ block: "nearest", behavior: calm.matches ? "auto" : "smooth" });
  }
}

function move(by) {
  const place = current + by;
  if (place >= 0 && place < shown.length) return choose(place);
  turn(by > 0 ? 1 : -1);
}

function turn(by) {
  const page = pageNumber() + by;
  if (page < 0 || page * PAGE >= total) return;
  const step = comparing() ? 2 : 1;
  setAddress({ page: page ? page + 1 : "", at: by > 0 ? "" : PAGE * step - step }, { keepPlace: true });
  load().then(() => {
    if (by > 0) window.scrollTo({ top: Math.max(0, $("main").offsetTop - 16) });
    choose(current);
  });
}

const KEYS = {
  j: () => move(comparing() ? 2 - (current % 2) : 1),
  k: () => move(comparing() ? -2 : -1),
  h: () => comparing() && choose(current - (current % 2)),
  l: () => comparing() && choose(current - (current % 2) + 1),
  a: () => judgeAndGo("accept"),
  r: () => judgeAndGo("reject"),
  u: undo,
  n: () => shown[current] && writeNote(shown[current]),
  "/": () => $("search").focus(),
  "?": () => $("help").showModal(),
};

async function judgeAndGo(verdict) {
  if (shown[current] && (await judge(shown[current], verdict))) move(1);
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
  if (event.target.matches("input, select, textarea")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const act = KEYS[event.key];
  if (act) {
    event.preventDefault();
    act();
  }
});

// --- Filters' events ---------------------------------------------------------------------------------------------

function clear() {
  address = new URLSearchParams();
  go({});
}

$("form").addEventListener("submit", (event) => event.preventDefault());
$("form").addEventListener("input", ({ target }) => {
  if (target.id === "relation") return addRelation(target);
  if (target.tagName !== "INPUT" || !target.name) return;
  clearTimeout(addRelation.timer);
  addRelation.timer = setTimeout(() => go({ [target.name]: target.value.trim() }), 250);
});
document.addEventListener("change", ({ target }) => target.matches("select[name]") && go({ [target.name]: target.value }));
$("relation").addEventListener("change", ({ target }) => addRelation(target, true));

function addRelation(field, isDone = false) {
  const given = field.value.trim();
  const uri = Object.keys(overview.relations).find((each) =>
    given === `${overview.relations[each]} (${each})` || (isDone && (given === each || given.toLowerCase() === overview.relations[each].toLowerCase())));
  if (!uri) return void (isDone && given && say(`No text has the relation “${given}”.`));
  field.value = "";
  go({ relation: [...new Set([...address.getAll("relation"), uri])] });
}

$("dice").addEventListener("click", () =>
  go({ sample: address.get("sample") || "50", seed: String(Math.floor(Math.random() * 10000)) }));
$("clear").addEventListener("click", clear);
$("more").addEventListener("click", () => {
  const isOpen = $("fields").classList.toggle("open");
  $("more").setAttribute("aria-expanded", String(isOpen));
});
$("previous").addEventListener("click", () => turn(-1));
$("next").addEventListener("click", () => turn(1));
$("show-help").addEventListener("click", () => $("help").showModal());
addEventListener("popstate", () => {
  address = new URLSearchParams(location.search);
  load();
});

// --- Begin -------------------------------------------------------------------------------------------------------

try {
  overview = await ask("api/overview");
  showHead();
  await load();
  setInterval(look, LOOK_MS);
  addEventListener("focus", look);
} catch (error) {
  tell(error.message, { isBad: true });
}
