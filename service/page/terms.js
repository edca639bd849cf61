// The query's own expansion: its terms with weights that can be moved, left out and added.

import { fixed, make, plural } from "./dom.js";

const STEPS = 200; // of a slider

export class Terms {
  /**
   * root: an element to fill.
   * changed: called after each change of a weight.
   * check: (weights) → Promise; rejects with why the index does not know a term.
   */
  constructor(root, { changed, check }) {
    this.root = root;
    this.changed = changed;
    this.check = check;
    this.terms = new Map(); // term → {given, weight, own}, given: the text's weight, 0 if added
    this.count = make("span", { class: "count" });
    this.list = make("ol", { class: "weights" });
    this.nothing = make("p", { class: "note" }, "The index knows no term of this text.");
    this.feedback = make("p", { class: "feedback-terms", hidden: true });
    this.problem = make("p", { class: "error", id: "add-problem", role: "alert", hidden: true });
    this.input = make("input", {
      id: "add-term",
      type: "text",
      autocomplete: "off",
      autocapitalize: "off",
      spellcheck: "false",
      placeholder: "Add a term",
      "aria-describedby": "add-problem",
    });
    this.undo = make("button", { type: "button", onclick: () => this.reset() }, "Reset");
    root.replaceChildren(
      make(
        "details",
        {},
        make("summary", {}, make("h2", { id: "terms-heading" }, "Query terms"), this.count),
        make(
          "p",
          { class: "note about" },
          "What the encoder makes of the text. Move a weight, and the learned ranking follows; ",
          "at 0 a term is left out.",
        ),
        this.list,
        this.nothing,
        this.feedback,
        make(
          "form",
          { class: "add", onsubmit: (event) => this.#add(event) },
          make("label", { class: "hidden", for: "add-term" }, "Term to add"),
          this.input,
          make("button", { type: "submit" }, "Add"),
          this.undo,
        ),
        this.problem,
      ),
    );
    this.details = root.firstElementChild;
    // On small screens it would push the results out of sight, so it starts closed.
    this.details.open = matchMedia("(min-width: 60rem)").matches;
  }

  /** The text has changed: its old terms cannot be edited until the new ones are there. */
  wait() {
    for (const value of this.terms.values()) value.weight = value.given;
    this.details.inert = true;
  }

  /** Show the terms of a text, heaviest first. */
  load(terms) {
    this.details.inert = false;
    this.terms = new Map(
      terms.map(({ term, weight, literal }) => [term, { given: weight, weight, own: literal }]),
    );
    // The scale is fixed while weights are edited, so that only the held slider moves.
    this.most = 2 * Math.max(0, ...terms.map(({ weight }) => weight)) || 2;
    this.#say("");
    this.#draw();
  }

  /** Show what feedback adds to the query: terms that cannot be moved. */
  loadFeedback(terms) {
    this.feedback.hidden = terms.length === 0;
    this.feedback.replaceChildren(
      make("span", { class: "note" }, "Feedback adds "),
      ...terms.flatMap(({ term, weight }) => [
        make("span", { class: "chip feedback" }, term, make("small", {}, fixed(weight, 2))),
        " ",
      ]),
    );
  }

  get edited() {
    return [...this.terms.values()].some(({ given, weight }) => given !== weight);
  }

  /** Term → weight of the current query. */
  get weights() {
    const kept = [...this.terms].filter(([, { weight }]) => weight > 0);
    return Object.fromEntries(kept.map(([term, { weight }]) => [term, weight]));
  }

  /** Whether a term is a word of the query itself; undefined if the query lacks the term. */
  isOwn(term) {
    return this.terms.get(term)?.own;
  }

  reset() {
    for (const [term, value] of this.terms) {
      if (value.given) value.weight = value.given;
      else this.terms.delete(term);
    }
    this.#say("");
    this.#draw();
    this.changed();
  }

  #draw() {
    this.list.replaceChildren(...Array.from(this.terms, ([term, value]) => this.#row(term, value)));
    this.nothing.hidden = this.terms.size > 0;
    this.#note();
  }

  #row(term, value) {
    const number = make("span", { class: "number", "aria-hidden": "true" });
    const slider = make("input", {
      type: "range",
      min: 0,
      max: this.most,
      step: this.most / STEPS,
      value: value.weight,
      "aria-label": `weight of ${term}`,
    });
    const out = make(
      "button",
      { type: "button", class: "icon", "aria-label": `leave ${term} out`, title: "Leave out" },
      "\u00d7",
    );
    const row = make(
      "li",
      {},
      make("span", { class: `term ${value.own ? "own" : "expanded"}` }, term),
      slider,
      number,
      out,
    );
    const show = () => {
      number.textContent = value.weight > 0 ? fixed(value.weight, 2) : "out";
      slider.setAttribute(
        "aria-valuetext",
        value.weight > 0 ? fixed(value.weight, 2) : "0, left out",
      );
      slider.style.setProperty("--part", `${(100 * value.weight) / this.most}%`);
      row.classList.toggle("out", value.weight === 0);
      row.classList.toggle("moved", value.weight !== value.given);
    };
    const set = (weight) => {
      value.weight = weight;
      show();
      this.#note();
      this.changed();
    };
    slider.addEventListener("input", () => set(Number(slider.value)));
    out.addEventListener("click", () => {
      slider.value = 0;
      set(0);
    });
    show();
    return row;
  }

  async #add(event) {
    event.preventDefault();
    const term = this.input.value.trim();
    if (!term) return;
    const known = this.terms.get(term);
    if (known?.weight > 0) {
      this.#say(`${term} is among the terms already.`);
      return;
    }
    const weight = this.most / 2;
    const { terms } = this;
    try {
      await this.check({ [term]: weight });
    } catch (error) {
      if (error.status === undefined) throw error;
      this.#say(error.message);
      return;
    }
    if (this.terms !== terms) return; // the text has changed meanwhile
    this.terms.set(term, { given: known?.given ?? 0, weight, own: known?.own ?? true });
    this.input.value = "";
    this.#say("");
    this.#draw();
    this.changed();
  }

  #say(problem) {
    this.problem.hidden = !problem;
    this.problem.textContent = problem;
  }

  #note() {
    const edited = this.edited;
    this.count.textContent = `${plural(this.terms.size, "term")}${edited ? ", edited" : ""}`;
    this.undo.disabled = !edited;
    this.root.classList.toggle("edited", edited);
  }
}
