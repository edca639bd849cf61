// A ranking: its hits, each with what it matched, its place elsewhere and how far it moved.

import { bar, decimalsOf, fixed, make, marked, percent, plural } from "./dom.js";

const CHIPS = 4; // how many terms are shown that only the document's expansion has

/**
 * A column.
 *
 * column: {name, label, about, note, busy, error, answer, moves}; moves: id → places up, or null
 *     for a document that came in.
 * others: of columns beside it, {label, ranks: id → rank, seen: how many}.
 * tools: {isOwn, more, again, single}
 */
export function columnView(column, others, tools) {
  const { name, answer, error } = column;
  const heading = `heading-${name}`;
  return make(
    "section",
    {
      class: "column",
      "data-column": name,
      "aria-labelledby": heading,
      "aria-busy": column.busy ? "true" : null,
    },
    make(
      "header",
      {},
      make("h2", { id: heading, class: `side ${name}` }, column.label),
      make("p", { class: "note about" }, column.about),
      answer && !error ? make("p", { class: "note took" }, facts(answer)) : null,
    ),
    column.note ? make("p", { class: "note held" }, column.note) : null,
    ...(answer && !error
      ? [
          ...answer.approximate.map((why) => `Approximate: ${why}.`),
          ...(answer.notices ?? []).map((notice) => `Note: ${notice}.`),
        ].map((text) => make("p", { class: "note" }, text))
      : []),
    error
      ? errorView(error, tools.again)
      : answer
        ? listView(column, others, tools)
        : waitingView(),
  );
}

export function errorView(error, again) {
  const lasting = [400, 403, 404, 413, 422].includes(error.status); // trying again would not help
  return make(
    "div",
    { class: "problem" },
    make("p", {}, error.message),
    lasting
      ? null
      : make(
          "button",
          { type: "button", onclick: again },
          error.status === 401 ? "Enter a key" : "Try again",
        ),
  );
}

const facts = ({ hits, took }) =>
  `${plural(hits.length, "hit")} \u00b7 ${fixed(took, took < 10 ? 1 : 0)} ms`;

const waitingView = () =>
  make("div", { class: "waiting", "aria-hidden": "true" }, ...[0, 1, 2].map(() => make("div")));

function listView(column, others, tools) {
  const { answer } = column;
  if (answer.hits.length === 0) return emptyView(column);
  const decimals = decimalsOf(answer.hits[0].why);
  return [
    make(
      "ol",
      { class: "hits" },
      ...answer.hits.map((hit, place) => hitView(column, hit, place + 1, decimals, others, tools)),
    ),
    answer.cursor === null
      ? null
      : make(
          "button",
          {
            type: "button",
            class: "more",
            "data-focus": `${column.name} more`,
            onclick: () => tools.more(column.name),
          },
          "More",
        ),
  ];
}

function emptyView(column) {
  const hints = column.answer.hints ?? [
    "Try other words, or look for a misspelling.",
    "A hit needs a word or a term that query and document share: see which terms the text becomes.",
  ];
  return make(
    "div",
    { class: "empty" },
    make("p", { class: "big" }, "No document matches."),
    make("ul", {}, ...hints.map((hint) => make("li", {}, hint))),
  );
}

function hitView(column, hit, rank, decimals, others, tools) {
  const open = make(
    "button",
    {
      type: "button",
      class: "open",
      "data-focus": `${column.name} ${hit.id}`,
      "aria-haspopup": "dialog",
    },
    hit.title || hit.id,
  );
  return make(
    "li",
    { class: "hit", "data-id": hit.id, "data-rank": rank },
    make("span", { class: "rank", "aria-hidden": "true" }, rank),
    make(
      "div",
      { class: "matter" },
      make(
        "div",
        { class: "head" },
        make("h3", {}, open),
        make(
          "span",
          { class: "score" },
          make("span", { class: "hidden" }, "score "),
          fixed(hit.score, decimals),
        ),
      ),
      placesView(column, hit, others),
      hit.snippet?.text
        ? make("p", { class: "snippet" }, ...marked(hit.snippet, tools.isOwn))
        : null,
      metadataView(hit.metadata),
      hit.why ? sidesView(hit.why) : null,
      hit.why ? chipsView(hit.why.terms) : null,
    ),
  );
}

/** Keys and values of a document's metadata. */
export function metadataView(metadata) {
  const entries = Object.entries(metadata);
  if (entries.length === 0) return null;
  return make(
    "dl",
    { class: "metadata" },
    ...entries.map(([key, value]) =>
      make(
        "div",
        {},
        make("dt", {}, key),
        make("dd", {}, Array.isArray(value) ? value.join(", ") : String(value)),
      ),
    ),
  );
}

/** How far it moved, and its rank in the columns beside. */
function placesView(column, hit, others) {
  const places = [];
  const move = column.moves?.get(hit.id);
  if (move === null) {
    places.push(make("span", { class: "move up" }, "new"));
  } else if (move) {
    const way = move > 0 ? "up" : "down";
    places.push(
      make(
        "span",
        { class: `move ${way}` },
        make(
          "span",
          { "aria-hidden": "true" },
          `${move > 0 ? "\u25b2" : "\u25bc"}${Math.abs(move)}`,
        ),
        make("span", { class: "hidden" }, `moved ${way} by ${Math.abs(move)}`),
      ),
    );
  }
  for (const { label, ranks, seen } of others) {
    const rank = ranks.get(hit.id);
    const side = label.toLowerCase();
    places.push(
      make(
        "span",
        {
          class: rank ? "place" : "place absent",
          title: rank ? `rank ${rank} in ${side}` : `not among the first ${seen} of ${side}`,
        },
        `${side} ${rank ?? `>${seen}`}`,
      ),
    );
  }
  return places.length === 0
    ? null
    : make("p", { class: "places" }, ...places.flatMap((place, i) => (i ? [" ", place] : [place])));
}

/** What each side added to an interpolated score. */
function sidesView(why) {
  if (why.sides.length === 1) return null;
  const parts = why.sides.map(({ side, share }) => `${side} ${fixed(share, 4)}`);
  return make("p", { class: "sides" }, splitView(why), make("span", {}, parts.join(" + ")));
}

/** The sides' shares of a score as one bar. */
export function splitView({ sides }) {
  const total = sides.reduce((sum, { share }) => sum + Math.abs(share), 0);
  const parts = sides.map(({ side, share }) => [side, total ? Math.abs(share) / total : 0]);
  return make(
    "span",
    {
      class: "split",
      role: "img",
      "aria-label": parts.map(([side, part]) => `${side} ${percent(part)}`).join(", "),
    },
    ...parts.map(([side, part]) => bar(side, part)),
  );
}

function chipsView(terms) {
  const found = terms.filter((term) => !term.literal_in_document);
  if (found.length === 0) return null;
  const more = found.length - CHIPS;
  return make(
    "p",
    { class: "chips" },
    make("span", { class: "hidden" }, "Terms that only its expansion has: "),
    ...found.slice(0, CHIPS).flatMap((term) => [chipView(term), " "]),
    more > 0 ? make("span", { class: "note" }, `and ${more} more`) : null,
  );
}

const product = (term) =>
  [term.query_weight, " \u00d7 ", term.document_weight, " = ", term.contribution]
    .map((part) => (typeof part === "number" ? fixed(part) : part))
    .join("");

const chipView = (term) =>
  make(
    "span",
    { class: term.from_feedback ? "chip feedback" : "chip", title: product(term) },
    term.term,
  );

/** Describe a column in a sentence: how many hits it has, and how many of them moved. */
export function describeColumn({ label, answer, error, moves }) {
  if (error) return `${label}: ${error.message}`;
  const counted = `${label}: ${plural(answer.hits.length, "hit")}`;
  if (!moves) return counted;
  const all = [...moves.values()];
  const fresh = all.filter((move) => move === null).length;
  return `${counted}, ${all.filter(Boolean).length} moved, ${fresh} new`;
}

/** Highlight the hit that is pointed at, or has the focus, in every column. */
export function pair(results) {
  const light = (event, on) => {
    const id = event.target.closest(".hit")?.dataset.id;
    if (id === undefined) return;
    for (const hit of results.querySelectorAll(".hit")) {
      if (hit.dataset.id === id) hit.classList.toggle("same", on);
    }
  };
  for (const kind of ["pointerover", "focusin"]) {
    results.addEventListener(kind, (event) => light(event, true));
  }
  for (const kind of ["pointerout", "focusout"]) {
    results.addEventListener(kind, (event) => light(event, false));
  }
}
