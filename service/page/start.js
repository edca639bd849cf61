// What the page shows before the first search.

import { make, whole } from "./dom.js";

const TIPS = [
  [
    "Ask in your own words.",
    "Each hit shows the words, and the terms beyond them, by which it was found.",
  ],
  ["Open a hit.", "Query weight \u00d7 document weight, word by word and term by term."],
  ["Compare rankings.", "Choose several above to see them side by side."],
  ["Move a weight.", "The query\u2019s terms are yours to change, and the learned ranking follows."],
];

/** index: an IndexState, or undefined if none is served. */
export function startView(index) {
  if (!index) return make("p", { class: "note" }, "No index is served here.");
  const facts = [
    [whole(index.documents), "documents"],
    [index.terms ? whole(index.terms) : "none", "terms in the vocabulary"],
    [index.encoder, "encoder"],
    [index.dense ?? "none", "dense side"],
    [index.language, "language"],
    [index.generation, "generation"],
  ];
  return make(
    "div",
    { class: "start" },
    make(
      "ul",
      { class: "tips" },
      ...TIPS.map(([what, why]) => make("li", {}, make("strong", {}, what), " ", why)),
    ),
    make("h2", {}, `Index ${index.index}`),
    make(
      "dl",
      { class: "facts" },
      ...facts.map(([value, name]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))),
    ),
    make(
      "p",
      { class: "note keys" },
      make("kbd", {}, "/"),
      " to the search field, ",
      make("kbd", {}, "\u2193"),
      " into the hits, ",
      make("kbd", {}, "\u2190"),
      make("kbd", {}, "\u2192"),
      " between rankings, ",
      make("kbd", {}, "Enter"),
      " to see why, ",
      make("kbd", {}, "Esc"),
      " back.",
    ),
  );
}
