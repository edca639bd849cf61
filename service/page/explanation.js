// Why a document has its score: its terms, its sides, and its text with what matched.

import { bar, decimalsOf, fixed, make, marked, percent, plural } from "./dom.js";
import { errorView, splitView } from "./hits.js";

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

  /** ask: (signal) → Promise of an ExplainedDocument; place: where the document ranks. */
  async open({ title, place, from, ask }) {
    this.asking.abort();
    this.asking = new AbortController();
    this.from = from;
    const { signal } = this.asking;
    this.#show(title, make("p", { class: "note", role: "status" }, "Asking why\u2026"));
    if (!this.dialog.open) this.dialog.showModal();
    try {
      const explained = await ask(signal);
      if (!signal.aborted) this.#show(title, explanationView(explained, place, this.isOwn));
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
      make("p", { class: "note" }, place),
      sidesView(why),
      termsView(why, isOwn),
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

function sidesView(why) {
  const decimals = decimalsOf(why);
  const score = make("strong", {}, fixed(why.score, decimals));
  if (why.dense_score === null) {
    return make("p", { class: "sum" }, "Score ", score);
  }
  if (why.sparse_score === null) {
    return [
      make("p", { class: "sum" }, "Score ", score),
      make(
        "p",
        { class: "note" },
        "The dense side compares one vector of the query with one of the document. ",
        "Their dot product is the score; there are no terms to show.",
      ),
    ];
  }
  const row = (side, before, after) =>
    make(
      "tr",
      {},
      make(
        "th",
        { scope: "row" },
        make("span", { class: `key ${side}`, "aria-hidden": "true" }),
        side,
      ),
      make("td", {}, fixed(before, side === "dense" ? 4 : 3)),
      make("td", {}, fixed(after, decimals)),
    );
  const shown = Number(why.sparse.toFixed(decimals)) + Number(why.dense.toFixed(decimals));
  return [
    make(
      "p",
      { class: "sum" },
      `${fixed(why.sparse, decimals)} + ${fixed(why.dense, decimals)} = `,
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
        row("sparse", why.sparse_score, why.sparse),
        row("dense", why.dense_score, why.dense),
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
    roundingView(shown, why.score, decimals),
    make("h4", {}, `What made the sparse side\u2019s ${fixed(why.sparse_score)}`),
  ];
}

function termsView(why, isOwn) {
  if (why.sparse_score === null) return null;
  if (why.terms.length === 0) {
    return make("p", { class: "note" }, "Query and document share no term.");
  }
  const table = make("table", { class: "terms" });
  const draw = (all) => {
    const shown = all ? why.terms : why.terms.slice(0, FIRST);
    const rest = why.terms.slice(shown.length);
    table.replaceChildren(
      make("caption", { class: "hidden" }, "Terms, largest contribution first"),
      make(
        "thead",
        {},
        make(
          "tr",
          {},
          make("th", { scope: "col" }, "term"),
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
          make(
            "th",
            { scope: "row", colspan: 3 },
            why.dense_score === null ? "= score" : "= sparse score",
          ),
          make("td", {}, fixed(why.sparse_score)),
        ),
      ),
    );
  };
  draw(why.terms.length <= FIRST + 1); // one more term takes no more room than a button
  const rounded = why.terms.reduce((sum, term) => sum + Number(term.contribution.toFixed(3)), 0);
  return [table, roundingView(rounded, why.sparse_score, 3)];
}

function roundingView(rounded, exact, decimals) {
  const [sum, score] = [fixed(rounded, decimals), fixed(exact, decimals)];
  const text =
    sum === score
      ? `Rounded to ${decimals} decimals; the lines add up as shown.`
      : `Rounded to ${decimals} decimals: the lines add up to ${sum}, exact ones to ${score}.`;
  return make("p", { class: "note rounding" }, text);
}

function rowView(term, isOwn) {
  return make(
    "tr",
    { "data-term": term.term, tabindex: -1 },
    make(
      "th",
      { scope: "row" },
      make("span", { class: "term" }, term.term),
      make(
        "span",
        { class: "meter" },
        make(
          "span",
          { class: "rail" },
          bar(term.from_feedback ? "feedback" : "sparse", term.share),
        ),
        make("small", {}, percent(term.share)),
      ),
    ),
    weightCell(
      term.query_weight,
      origin(term.from_feedback, isOwn(term.term) ?? term.literal_in_query),
      "",
    ),
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
      `${plural(rest.length, "more term")} `,
      make("button", { type: "button", onclick: all }, "Show all"),
    ),
    make("td", { class: "contribution" }, `= ${fixed(sum)}`),
  );
}

function metadataView(metadata) {
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
