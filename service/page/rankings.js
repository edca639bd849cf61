// The rankings that can be shown, each a column.

/**
 * name → its label, what it is, and settings: of its requests, by whether the index has a dense
 * side. Feedback moves both sides' queries where there are two.
 */
export const RANKINGS = {
  sparse: { label: "Sparse", about: "shared terms", settings: () => ({ mode: "sparse" }) },
  dense: { label: "Dense", about: "one vector a text", settings: () => ({ mode: "dense" }) },
  hybrid: { label: "Hybrid", about: "sparse + dense", settings: () => ({ mode: "hybrid" }) },
  feedback: {
    label: "Feedback",
    about: "asked again, moved towards the first 3 hits",
    settings: (dense) =>
      dense ? { mode: "hybrid", feedback: { side: "both" } } : { mode: "sparse", feedback: {} },
  },
};

/** Whether an index, an IndexState, has a ranking. */
export const has = (index, name) =>
  name === "sparse" || name === "feedback" || index.dense !== null;

/** Why a ranking does not follow the weights of terms. */
export const unmoved = (sparseIsShown) => {
  const why = "Term weights have no dense vector: this is still the text\u2019s ranking.";
  return sparseIsShown ? why : `${why} Choose Sparse to see the weights at work.`;
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
