// Why a document has its score: its terms, its sides, and its text with what matched.

import { bar, decimalsOf, fixed, make, marked, percent, plural } from "./dom.js";
import { errorView, metadataView, splitView } from "./hits.js";

const FIRST = 20; // terms shown until the user asks for all

/** The dialog of one document's explanation. */
export class Explanation {
  /**
   * dialog: an element to fill.
   * isOwn: see `marked`.
   * closed: called after it is closed, with what `open` was given as `from`.
   */
  constructor(dialog, { isOwn, closed }) {
    this.dialog = dialog;
    this.isOwn = isOwn;
    this.asking = new AbortController();
    dialog.addEventListener("click", (event) => {
      // A selection of text may end outside the dialog: that is not a click to close it.
      if (event.target === dialog && !String(getSelection())) dialog.close();
    });
    dialog.addEventListener("close", () => {
      this.asking.abort();
      closed(this.from);
    });
  }

  /**
   * title: shown until the document is there; place: where it ranks, or null.
   * ask: (signal) → Promise of an ExplainedDocument.
   */
  async open({ title, place, from, ask }) {
    this.asking.abort();
    this.asking = new AbortController();
    this.from = from;
    const { signal } = this.asking;
    this.#show(title, make("p", { class: "note", role: "status" }, "Asking why\u2026"));
    if (!this.dialog.open) this.dialog.showModal();
    try {
      const explained = await ask(signal);
      if (signal.aborted) return;
      const { document: stored } = explained;
      this.#show(stored.title || stored.id, explanationView(explained, place, this.isOwn));
    } catch (error) {
      if (signal.aborted) return;
      if (error.status === undefined) throw error;
      const again = () => this.open({ title, place, from, ask });
      this.#show(title, make("div", { role: "alert" }, errorView(error, again)));
    }
  }

  close() {
    this.dialog.close();
  }

  #show(title, content) {
    const close = make(
      "button",
      { type: "button", class: "icon", "aria-label": "Close", onclick: () => this.close() },
      "\u00d7",
    );
    this.dialog.replaceChildren(
      make("header", { class: "bar-top" }, make("h2", { id: "explanation-heading" }, title), close),
      make("div", { class: "body" }, content),
    );
    if (this.dialog.open) close.focus();
  }
}

/** An ExplainedDocument; isOwn: see `marked`. */
function explanationView({ document: stored, why, marked: text }, place, isOwn) {
  const view = make(
    "div",
    { class: "panes" },
    make(
      "section",
      { class: "pane reasons", tabindex: 0, "aria-labelledby": "why-heading" },
      make("h3", { id: "why-heading" }, "Why it matched"),
      place === null ? null : make("p", { class: "note" }, place),
      ...sidesView(why),
      ...why.sides.flatMap((part) => reasonsView(why, part, isOwn)),
    ),
    make(
      "section",
      { class: "pane document", tabindex: 0, "aria-labelledby": "text-heading" },
      make("h3", { id: "text-heading" }, "The document"),
      make("p", { class: "note" }, stored.id),
      metadataView(stored.metadata),
      text.text
        ? make("p", { class: "text" }, ...marked(text, isOwn))
        : make("p", { class: "note" }, "It has no text."),
    ),
  );
  light(view);
  return view;
}

/** The score, and what each side added to it. */
function sidesView(why) {
  const decimals = decimalsOf(why);
  const score = make("strong", {}, fixed(why.score, decimals));
  if (why.sides.length === 1) return [make("p", { class: "sum" }, "Score ", score)];
  const rounded = why.sides.reduce((sum, { share }) => sum + Number(share.toFixed(decimals)), 0);
  return [
    make(
      "p",
      { class: "sum" },
      `${why.sides.map(({ share }) => fixed(share, decimals)).join(" + ")} = `,
      score,
    ),
    splitView(why),
    make(
      "table",
      { class: "of-sides" },
      make("caption", { class: "hidden" }, "What each side added"),
      make(
        "thead",
        {},
        make(
          "tr",
          {},
          make("th", { scope: "col" }, "side"),
          make("th", { scope: "col" }, "its score"),
          make("th", { scope: "col" }, "adds, normalised"),
        ),
      ),
      make(
        "tbody",
        {},
        ...why.sides.map((part) =>
          make(
            "tr",
            {},
            make(
              "th",
              { scope: "row" },
              make("span", { class: `key ${part.side}`, "aria-hidden": "true" }),
              part.side,
            ),
            make("td", {}, fixed(part.score, decimalsOfSide(part))),
            make("td", {}, fixed(part.share, decimals)),
          ),
        ),
      ),
      make(
        "tfoot",
        {},
        make(
          "tr",
          {},
          make("th", { scope: "row", colspan: 2 }, "= score"),
          make("td", {}, fixed(why.score, decimals)),
        ),
      ),
    ),
    roundingView(rounded, why.score, decimals),
  ];
}

const decimalsOfSide = ({ side }) => (side === "dense" ? 4 : 3);

/** What made the score of one side. */
function reasonsView(why, part, isOwn) {
  const alone = why.sides.length === 1;
  if (part.side === "dense") {
    if (!alone) return [];
    return [
      make(
        "p",
        { class: "note" },
        "The dense side compares one vector of the query with one of the document. ",
        "Their dot product is the score; there are no terms to show.",
      ),
    ];
  }
  const heading = alone
    ? null
    : make("h4", {}, `What made the ${part.side} side\u2019s ${fixed(part.score)}`);
  return [heading, ...termsView(termsOf(why, part.side), part, alone, isOwn)];
}

/** The terms of one side; a side has both learned terms and words only where it is sparse. */
const termsOf = ({ terms }, side) =>
  side === "sparse" ? terms : terms.filter(({ field }) => (field === "learned") === (side === "learned"));

// side → what its terms are called
const NOUNS = { words: "word", learned: "term", sparse: "word or term" };

function termsView(terms, { side, score }, alone, isOwn) {
  if (terms.length === 0) {
    return [make("p", { class: "note" }, `Query and document share no ${NOUNS[side]}.`)];
  }
  const table = make("table", { class: "terms", "data-side": side });
  const draw = (all) => {
    const shown = all ? terms : terms.slice(0, FIRST);
    const rest = terms.slice(shown.length);
    table.replaceChildren(
      make("caption", { class: "hidden" }, `By ${NOUNS[side]}, largest contribution first`),
      make(
        "thead",
        {},
        make(
          "tr",
          {},
          make("th", { scope: "col" }, NOUNS[side]),
          ...["query weight", "\u00d7 document weight", "= contribution"].map((text) =>
            make("th", { scope: "col" }, text),
          ),
        ),
      ),
      make("tbody", {}, ...shown.map((term) => rowView(term, isOwn))),
      make(
        "tfoot",
        {},
        rest.length ? restView(rest, () => draw(true)) : null,
        make(
          "tr",
          { class: "total" },
          make("th", { scope: "row", colspan: 3 }, alone ? "= score" : `= ${side} score`),
          make("td", {}, fixed(score)),
        ),
      ),
    );
  };
  draw(terms.length <= FIRST + 1); // one more line takes no more room than a button
  const rounded = terms.reduce((sum, term) => sum + Number(term.contribution.toFixed(3)), 0);
  return [table, roundingView(rounded, score, 3)];
}

function roundingView(rounded, exact, decimals) {
  const [sum, score] = [fixed(rounded, decimals), fixed(exact, decimals)];
  const text =
    sum === score
      ? `Rounded to ${decimals} decimals; the lines add up as shown.`
      : `Rounded to ${decimals} decimals: the lines add up to ${sum}, exact ones to ${score}.`;
  return make("p", { class: "note rounding" }, text);
}

// field → what it is called
const FIELDS = { learned: "learned", words: "word", title: "word of the title" };

function rowView(term, isOwn) {
  const kind = term.field === "learned" ? "learned" : "words";
  // Where weights were moved, the query is terms, and only the text knows which are its own.
  const own = kind === "learned" ? isOwn(term.term) : undefined;
  return make(
    "tr",
    { "data-term": term.term, tabindex: -1 },
    make(
      "th",
      { scope: "row" },
      make("span", { class: "term" }, term.term),
      " ",
      make("small", { class: `field ${term.field}` }, FIELDS[term.field]),
      make(
        "span",
        { class: "meter" },
        make(
          "span",
          { class: "rail" },
          bar(term.from_feedback ? "feedback" : kind, term.share),
        ),
        make("small", {}, percent(term.share)),
      ),
    ),
    weightCell(term.query_weight, origin(term.from_feedback, own ?? term.literal_in_query), ""),
    weightCell(term.document_weight, origin(false, term.literal_in_document), "\u00d7 "),
    make("td", { class: "contribution" }, `= ${fixed(term.contribution)}`),
  );
}

// [kind, words]
const origin = (feedback, literal) =>
  feedback ? ["feedback", "feedback"] : literal ? ["own", "own word"] : ["expanded", "expanded"];

const weightCell = (weight, [kind, words], sign) =>
  make("td", {}, sign, fixed(weight), make("small", { class: kind }, words));

function restView(rest, all) {
  const sum = rest.reduce((total, term) => total + Number(term.contribution.toFixed(3)), 0);
  return make(
    "tr",
    {},
    make(
      "th",
      { scope: "row", colspan: 3 },
      `${plural(rest.length, "more line")} `,
      make("button", { type: "button", onclick: all }, "Show all"),
    ),
    make("td", { class: "contribution" }, `= ${fixed(sum)}`),
  );
}

/** A row that is pointed at lights up its words in the text, and the other way round. */
function light(view) {
  const set = (event, on) => {
    const term = event.target.closest?.("[data-term]")?.dataset.term;
    if (term === undefined) return;
    for (const each of view.querySelectorAll("[data-term]")) {
      if (each.dataset.term === term) each.classList.toggle("lit", on);
    }
  };
  view.addEventListener("pointerover", (event) => set(event, true));
  view.addEventListener("pointerout", (event) => set(event, false));
}
