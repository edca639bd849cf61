// The page: its state, its address, and when it calls the service.

import * as address from "./address.js";
import { call, connect, hasKey, setKey } from "./api.js";
import { Choices, factsView } from "./controls.js";
import { debounced, find, make } from "./dom.js";
import { Explanation } from "./explanation.js";
import { glide } from "./glide.js";
import { columnView, describeColumn, errorView, pair } from "./hits.js";
import { askForKey } from "./key.js";
import { listen } from "./keyboard.js";
import { countsOf, filterOf, Narrow } from "./narrow.js";
import { has, lacksOf, movesOf, NOTHING, RANKINGS, ranksOf, unmoved } from "./rankings.js";
import { startView } from "./start.js";
import { Terms } from "./terms.js";

const PAGE = 10; // hits of one request
const TYPING = 150; // milliseconds without typing before a search
const DRAGGING = 80;
const MOST = 100; // hits of a request while weights are moved
const MOST_ABREAST = 4; // columns; others are below them

// chosen: names of rankings, see `shown`; opened: {name, id} of the hit that is explained, or null;
// filter: as it was typed; picked: pairs of a key of metadata and a value; sort: see `Narrow.draw`.
const state = { query: "", index: null, chosen: [], opened: null, filter: "", picked: [], sort: "" };
let indexes = []; // IndexState of each
const columns = new Map(); // name → {answer, base, error, busy, asking}; see `run`
let expanding = new AbortController(); // the text, and by feedback
let feeding = new AbortController();
let settled = true; // whether the next letter begins a new entry of the history

const queryField = find("query");
const results = find("results");
const terms = new Terms(find("terms"), {
  changed: debounced(edit, DRAGGING),
  check: (weights) => post("expand", { query: weights }),
});
const isOwn = (term) => terms.isOwn(term);

const post = (what, body, signal) =>
  call(`indexes/${encodeURIComponent(state.index)}/${what}`, body, signal);
const current = () => indexes.find(({ index }) => index === state.index);
const settingsOf = (name) => RANKINGS[name].settings(current());
const isEditable = (name) => name === "learned";

/** The chosen rankings that the index has; the index's own where none is. */
function shown() {
  const known = current();
  if (!known) return [];
  const names = Object.keys(RANKINGS).filter(
    (name) => state.chosen.includes(name) && has(known, name),
  );
  return names.length ? names : [known.mode];
}

/** The request of a column, as it is now. */
const requestOf = (name) => ({
  ...settingsOf(name),
  filter: filterOf(state, current()),
  query: terms.edited && isEditable(name) ? terms.weights : state.query,
});

// The address.

function readAddress() {
  const given = address.read();
  state.query = given.get("q") ?? "";
  const asked = given.get("index");
  state.index = indexes.some(({ index }) => index === asked) ? asked : (indexes[0]?.index ?? null);
  state.chosen = (given.get("columns") ?? "").split(",");
  state.filter = given.get("filter") ?? "";
  state.picked = given.getAll("pick").flatMap(readPick);
  state.sort = given.get("sort") ?? "";
  const [id, of] = [given.get("hit"), given.get("of")];
  const name = shown().includes(of) ? of : shown()[0];
  state.opened = state.query && id !== null && name ? { name, id } : null;
}

/** A pair of a key and a value, in a list; none where the address holds something else. */
function readPick(text) {
  try {
    const pick = JSON.parse(text);
    const fits = Array.isArray(pick) && pick.length === 2 && typeof pick[0] === "string";
    return fits && ["string", "number", "boolean"].includes(typeof pick[1]) ? [pick] : [];
  } catch {
    return [];
  }
}

/** The parameters of the address that `readAddress` reads. */
function parameters() {
  const names = shown();
  const { query, index, opened, filter, picked, sort } = state;
  return [
    query && ["q", query],
    indexes.length > 1 && ["index", index],
    names.length && String(names) !== current().mode && ["columns", names],
    filter && ["filter", filter],
    ...picked.map((pick) => ["pick", JSON.stringify(pick)]),
    sort && ["sort", sort],
    opened && ["hit", opened.id],
    opened && names.length > 1 && ["of", opened.name],
  ].filter(Boolean);
}

const writeAddress = (push) => address.write(parameters(), push, state.opened !== null);

// Searching.

/** Search for a new text, or in another index. */
function search() {
  expanding.abort();
  feeding.abort();
  for (const { asking } of columns.values()) asking.abort();
  columns.forEach((column) => Object.assign(column, { base: null, edited: false, stale: true }));
  document.title = state.query ? `${state.query} \u2013 lsr` : "lsr";
  drawControls();
  if (!state.query) {
    columns.clear();
    terms.load([]);
    narrow.tell(null, []);
    draw();
    find("told").textContent = "";
    return;
  }
  terms.wait();
  expand();
  const running = new Map(shown().map((name) => [name, run(name)]));
  if (state.opened) reopen(running.get(state.opened.name));
}

/** Ask for the terms of the text, and for those that feedback adds. */
async function expand() {
  expanding.abort();
  expanding = new AbortController();
  const { signal } = expanding;
  const own = await expanded({ query: state.query }, signal);
  if (signal.aborted) return;
  terms.load(own);
  expandFeedback();
}

async function expandFeedback() {
  feeding.abort();
  feeding = new AbortController();
  const { signal } = feeding;
  const asked = shown().includes("feedback");
  const moved = asked ? await expanded(requestOf("feedback"), signal) : [];
  if (!signal.aborted) terms.loadFeedback(moved.filter((term) => term.from_feedback));
}

/** The terms of a request; none if it fails, since its column shows the error. */
async function expanded(request, signal) {
  try {
    return (await post("expand", request, signal)).terms;
  } catch (error) {
    if (!signal.aborted && error.status === undefined) throw error;
    return [];
  }
}

/** Ask for a column: k hits from the first on, or those that follow the ones it has. */
async function run(name, { k = PAGE, more = false, moving = false } = {}) {
  const column = columns.get(name) ?? {};
  columns.set(name, column);
  column.asking?.abort();
  column.asking = new AbortController();
  const { signal } = column.asking;
  column.busy = true;
  if (!moving) draw(); // drawing would stop hits that are gliding
  let first;
  const shows = { k, snippets: true, explain: true, text: false };
  if (state.sort) shows.sort = [state.sort];
  // They are the same for all columns.
  const counts = name === shown()[0] && !more ? countsOf(current()) : {};
  const ask = (request) => post("search", { ...request, ...shows, ...counts }, signal);
  try {
    const edited = terms.edited && isEditable(name);
    if (edited && !column.base) {
      column.base = ranksOf((await ask({ ...requestOf(name), query: state.query })).hits);
    }
    const request = requestOf(name);
    const answer =
      edited && Object.keys(request.query).length === 0
        ? NOTHING
        : await ask({ ...request, cursor: more ? column.answer.cursor : null });
    if (signal.aborted) return;
    [first] = answer.hits;
    const hits = more ? [...column.answer.hits, ...answer.hits] : answer.hits;
    column.answer = { ...answer, hits, took: answer.took_ms };
    if (counts.facets && answer.facets) narrow.tell(answer, state.picked);
    if (!edited) column.base = ranksOf(hits);
    column.edited = edited;
    column.error = null;
    if (answer.state) follow(answer.state);
  } catch (error) {
    if (signal.aborted) return;
    if (error.status === undefined) throw error;
    column.error = error;
  }
  column.busy = column.stale = false;
  if (moving) glide(results, draw);
  else draw();
  if (more && !column.error) focusOn(`${name} ${first?.id}`);
  tell();
}

/** Weights have been moved: search again in the rankings that depend on them. */
function edit() {
  for (const name of shown().filter(isEditable)) {
    const had = columns.get(name)?.answer?.hits.length ?? 0;
    run(name, { k: Math.min(MOST, Math.max(PAGE, had)), moving: true });
  }
  if (!shown().some(isEditable)) draw();
}

/** If an answer comes from a newer state than the header shows, load the new state. */
async function follow({ index, generation, commit }) {
  const known = indexes.find((each) => each.index === index);
  if (known.generation === generation && known.commit === commit) return;
  Object.assign(known, { generation, commit });
  try {
    Object.assign(known, await call(`indexes/${encodeURIComponent(known.index)}`));
  } catch (error) {
    if (error.status === undefined) throw error; // other errors: the next answer tries again
  }
  drawControls();
  // A newer generation may have other sides.
  for (const name of shown()) if (!columns.has(name)) run(name);
}

// Drawing.

const choices = new Choices(find("columns"), toggle);
const narrow = new Narrow(
  { row: find("narrow"), field: find("filter"), order: find("order"), facets: find("facets") },
  (change) => {
    Object.assign(state, change, { opened: null });
    settled = true;
    writeAddress(true);
    search();
  },
);

function drawControls() {
  const [known, names] = [current(), shown()];
  const several = indexes.length > 1;
  find("index").hidden = !several;
  find("index").value = state.index;
  find("index-name").textContent = several || !known ? "" : known.index;
  find("facts").replaceChildren(...(known ? factsView(known) : []));
  choices.draw(known, names);
  if (known) narrow.draw(known, state);
  const lacks = known ? lacksOf(known) : "";
  find("unavailable").hidden = !lacks;
  find("unavailable").textContent = lacks;
  find("forget").hidden = !hasKey();
  find("legend").hidden = !state.query;
  find("terms").hidden = !state.query || !known?.sides.includes("learned");
  find("legend-feedback").hidden = !names.includes("feedback");
}

function draw() {
  const focus = document.activeElement?.dataset?.focus;
  if (state.query) {
    const names = shown();
    results.dataset.columns = find("layout").dataset.columns = Math.min(names.length, MOST_ABREAST);
    results.replaceChildren(
      ...names.map((name) =>
        columnView(viewOf(name), othersOf(name, names), {
          isOwn,
          more: (of) => run(of, { more: true }),
          again: () => run(name),
        }),
      ),
    );
  } else {
    results.dataset.columns = find("layout").dataset.columns = 0;
    results.replaceChildren(startView(current()));
  }
  if (focus) focusOn(focus);
}

function viewOf(name) {
  const { label, about } = RANKINGS[name];
  const column = columns.get(name) ?? { busy: true };
  const moves = column.edited ? movesOf(column.answer.hits, column.base) : null;
  const held = terms.edited && !isEditable(name);
  const note = held ? unmoved(shown().includes("learned")) : null;
  return { ...column, name, label, about, moves, note };
}

function othersOf(name, names) {
  const others = names.filter(
    (other) => other !== name && columns.get(other)?.answer && !columns.get(other).stale,
  );
  return others.map((other) => {
    const { hits } = columns.get(other).answer;
    return { label: RANKINGS[other].label, ranks: ranksOf(hits), seen: hits.length };
  });
}

/** Focus the element that has the mark. */
function focusOn(mark) {
  const marked = [...results.querySelectorAll("[data-focus]")];
  marked.find((element) => element.dataset.focus === mark)?.focus({ preventScroll: true });
}

/** Announce the results to screen readers. */
function tell() {
  const views = shown().map(viewOf);
  if (views.every((view) => !view.busy)) find("told").textContent = views.map(describeColumn).join(". ");
}

// Explanations.

const explanation = new Explanation(find("explanation"), { isOwn, closed });
const markOf = (opened) => (opened ? `${opened.name} ${opened.id}` : null);

/** Open the explanation of a hit, and an entry of the history with it. */
function open(name, id) {
  settled = true;
  state.opened = { name, id };
  writeAddress(true);
  explain();
}

/** Show why the opened hit has its score. */
function explain() {
  const { name, id } = state.opened;
  const hits = columns.get(name)?.answer?.hits;
  const rank = hits && ranksOf(hits).get(id);
  const ranking = RANKINGS[name].label.toLowerCase();
  const absent = hits ? `Not among the first ${hits.length} of ${ranking}` : null;
  explanation.open({
    title: (rank && hits[rank - 1].title) || id,
    place: rank ? `Rank ${rank} in ${ranking}` : absent,
    from: markOf(state.opened),
    ask: (signal) => post("explain", { ...requestOf(name), id }, signal),
  });
}

/** Open the hit that the address names, once its ranking is there. */
async function reopen(running) {
  const { opened } = state;
  await running;
  if (state.opened === opened) explain();
}

/** The explanation was closed: the address no longer names its hit. */
function closed(from) {
  focusOn(from);
  if (!state.opened) return; // the history has gone back to the list
  state.opened = null;
  address.leave(parameters());
}

results.addEventListener("click", (event) => {
  const hit = event.target.closest(".hit");
  // A click that ends a selection is for copying the text.
  if (hit && !String(getSelection()))
    open(hit.closest(".column").dataset.column, hit.dataset.id);
});

// Controls.

function toggle(name) {
  const before = shown();
  const added = !before.includes(name);
  if (!added && before.length === 1) return; // one ranking is always shown
  state.chosen = added ? [...before, name] : before.filter((each) => each !== name);
  state.opened = null;
  settled = true;
  writeAddress(true);
  drawControls();
  if (!state.query) return;
  const column = columns.get(name);
  if (added && (terms.edited || column?.stale !== false)) run(name);
  else draw();
  if (name === "feedback") expandFeedback();
}

function typed() {
  typing.cancel();
  const query = queryField.value.trim();
  if (query === state.query || !current()) return; // `start` will search for the text that is there by then
  state.query = query;
  state.opened = null;
  writeAddress(settled);
  settled = false;
  search();
}
const typing = debounced(typed, TYPING);

queryField.addEventListener("input", (event) => event.isComposing || typing());
queryField.addEventListener("compositionend", typing);
queryField.addEventListener("change", () => {
  typed();
  settled = true;
});
find("search").addEventListener("submit", (event) => {
  event.preventDefault();
  typed();
  settled = true;
});
find("index").addEventListener("change", (event) => {
  // Another index has other metadata.
  Object.assign(state, { index: event.target.value, opened: null, filter: "", picked: [], sort: "" });
  writeAddress(true);
  search();
});
find("forget").addEventListener("click", () => {
  setKey(null);
  location.reload();
});

const searched = () => {
  const { query, index, filter, picked, sort } = state;
  return JSON.stringify([query, index, filter, picked, sort, shown()]);
};

address.listenToHistory(() => {
  const [before, opened] = [searched(), markOf(state.opened)];
  readAddress();
  if (searched() !== before) {
    settled = true;
    queryField.value = state.query;
    if (!state.opened) explanation.close();
    search();
  } else if (markOf(state.opened) !== opened) {
    if (state.opened) explain();
    else explanation.close();
  } // else it is a place in the page, such as #results
});

listen(queryField, results);
pair(results);
connect(askForKey, (text) => {
  find("notice").textContent = text;
  find("notice").hidden = !text;
});

async function start() {
  try {
    ({ indexes } = await call("indexes"));
  } catch (error) {
    if (error.status === undefined) throw error;
    results.replaceChildren(errorView(error, start));
    find("told").textContent = error.message;
    return;
  }
  // Use what was typed while the page was loading.
  const early = queryField.value.trim();
  find("index").replaceChildren(
    ...indexes.map(({ index }) => make("option", { value: index }, index)),
  );
  readAddress();
  if (early && early !== state.query) Object.assign(state, { query: early, opened: null });
  queryField.value = state.query;
  writeAddress(false);
  search();
}

drawControls();
start();
