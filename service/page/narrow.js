// What narrows a search down: a filter as text, values of metadata that are picked; and the order.

import { make, plural, whole } from "./dom.js";

const KEYS = 8; // of metadata, whose values are listed
const VALUES = 6; // of each

/** The filter of a search: what was typed, and what was picked; null without any. */
export function filterOf({ filter, picked }, index) {
  const conditions = picked.map((pick) => conditionOf(pick, index));
  if (filter && conditions.length) conditions.unshift(`(${filter})`);
  else if (filter) return filter;
  return conditions.length ? conditions.join(" and ") : null;
}

function conditionOf([key, value], index) {
  // An integer too large for JavaScript is a text here, see api.js.
  const isText = typeof value === "string" && index.metadata[key]?.includes("string");
  return `${quoted(key)} = ${isText ? quoted(value) : value}`;
}

/** A key as filters have it. */
const plain = (key) => (/^[\w.]+$/.test(key) ? key : quoted(key));

/** A string as filters have it: their escapes are those of JSON, without three of them. */
const quoted = (text) =>
  JSON.stringify(text)
    .replaceAll("\\b", "\\u0008")
    .replaceAll("\\f", "\\u000c")
    .replaceAll("\\r", "\\u000d");

/** What a search asks for beside its hits: the values of the documents that pass the filter. */
export const countsOf = (index) => {
  const keys = Object.keys(index.metadata).slice(0, KEYS);
  return { facets: keys.map((key) => ({ key, limit: VALUES })) };
};

/** The field of the filter, the choice of the order, and the values to pick. */
export class Narrow {
  /**
   * parts: {row, field, order, facets}, elements; changed: called with what was changed of
   * {filter, picked, sort}.
   */
  constructor(parts, changed) {
    const { field, order, facets } = Object.assign(this, parts);
    this.changed = changed;
    field.addEventListener("change", () => changed({ filter: field.value.trim() }));
    order.addEventListener("change", () => changed({ sort: order.value }));
    this.count = make("span", { class: "count" });
    this.lists = make("div");
    facets.replaceChildren(
      make(
        "details",
        {},
        make("summary", {}, make("h2", { id: "facets-heading" }, "Metadata"), this.count),
        this.lists,
      ),
    );
    facets.firstElementChild.open = matchMedia("(min-width: 60rem)").matches;
  }

  /** index: an IndexState; filter: as it was typed; sort: a key of metadata, after - if descending. */
  draw(index, { filter, sort }) {
    const keys = Object.keys(index.metadata);
    this.row.hidden = keys.length === 0;
    this.field.placeholder = keys.length ? `such as exists(${plain(keys[0])})` : "";
    if (document.activeElement !== this.field) this.field.value = filter;
    const orders = keys.flatMap((key) => [
      [key, `${key}, ascending`],
      [`-${key}`, `${key}, descending`],
    ]);
    this.order.replaceChildren(
      ...[["", "best first"], ...orders].map(([value, label]) => make("option", { value }, label)),
    );
    this.order.value = sort;
  }

  /**
   * Show how many documents pass, and their values; without an answer nothing.
   *
   * answer: an Answer with what `countsOf` asks for; picked: pairs of a key and a value.
   */
  tell(answer, picked) {
    const facets = answer?.facets ?? [];
    const shown = facets.filter(({ key, values }) => values.length > 1 || has(picked, key));
    this.facets.hidden = shown.length === 0;
    if (!shown.length) return;
    this.count.textContent = plural(answer.total, "document");
    const focus = document.activeElement?.dataset?.pick;
    this.lists.replaceChildren(...shown.map((facet) => this.#list(facet, picked)));
    const held = [...this.lists.querySelectorAll("button")].find(
      (button) => button.dataset.pick === focus,
    );
    held?.focus({ preventScroll: true });
  }

  #list({ key, values, others }, picked) {
    return make(
      "section",
      {},
      make("h3", {}, key),
      make("ul", {}, ...values.map((each) => make("li", {}, this.#value(key, each, picked)))),
      others ? make("p", { class: "note" }, `and ${plural(others, "other value")}`) : null,
    );
  }

  #value(key, { value, documents }, picked) {
    const is = same([key, value]);
    const on = picked.some(is);
    const change = () =>
      this.changed({ picked: on ? picked.filter((pick) => !is(pick)) : [...picked, [key, value]] });
    return make(
      "button",
      {
        type: "button",
        class: "value",
        "aria-pressed": String(on),
        "data-pick": JSON.stringify([key, value]),
        onclick: change,
      },
      make("span", {}, String(value)),
      make("small", {}, whole(documents)),
    );
  }
}

const has = (picked, key) => picked.some(([of]) => of === key);
const same = (pick) => (other) => JSON.stringify(pick) === JSON.stringify(other);
