// The rankings that can be shown, each a column: the modes of a search, and feedback.

/**
 * name → its label, what it is, the sides of an index that it needs, and settings: of its
 * requests to an index, an IndexState. Feedback moves all queries of the index's own mode.
 */
export const RANKINGS = {
  words: {
    label: "Words",
    about: "BM25",
    needs: ["words"],
    settings: () => ({ mode: "words" }),
  },
  learned: {
    label: "Learned",
    about: "the encoder\u2019s terms",
    needs: ["learned"],
    settings: () => ({ mode: "learned" }),
  },
  sparse: {
    label: "Sparse",
    about: "words + learned terms",
    needs: ["words"],
    settings: () => ({ mode: "sparse" }),
  },
  dense: {
    label: "Dense",
    about: "one vector a text",
    needs: ["dense"],
    settings: () => ({ mode: "dense" }),
  },
  hybrid: {
    label: "Hybrid",
    about: "with dense, interpolated",
    needs: ["dense"],
    settings: () => ({ mode: "hybrid" }),
  },
  feedback: {
    label: "Feedback",
    about: "asked again, moved towards the first 3 hits",
    needs: [],
    settings: ({ mode }) => ({ mode, feedback: mode === "hybrid" ? { side: "both" } : {} }),
  },
};

/** Whether an index, an IndexState, has a ranking. */
export const has = (index, name) => RANKINGS[name].needs.every((side) => index.sides.includes(side));

/** What the rankings need that an index, an IndexState, lacks; "" if it has all. */
export function lacksOf({ sides, encoder }) {
  const lacks = [];
  if (!sides.includes("learned")) lacks.push(`Encoder ${encoder} gives no learned terms.`);
  if (!sides.includes("dense")) lacks.push("Dense and hybrid need an index built with --dense.");
  return lacks.join(" ");
}

/** Why a ranking does not follow the weights of terms. */
export const unmoved = (learnedIsShown) => {
  const why =
    "Term weights have neither words nor a dense vector: this is still the text\u2019s ranking.";
  return learnedIsShown ? why : `${why} Choose Learned to see the weights at work.`;
};

/** Rank of each hit by its id. */
export const ranksOf = (hits) => new Map(hits.map(({ id }, place) => [id, place + 1]));

/** Places that each hit has moved up from its rank in `base`; null where it was not there. */
export const movesOf = (hits, base) =>
  new Map(hits.map(({ id }, place) => [id, base.has(id) ? base.get(id) - place - 1 : null]));

/** The answer to a query without terms. */
export const NOTHING = {
  hits: [],
  cursor: null,
  approximate: [],
  took_ms: 0,
  hints: ["Every term is left out: give one a weight, or reset."],
};
