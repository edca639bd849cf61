// What is above the results: which rankings are shown, and what the index is.

import { make, plural } from "./dom.js";
import { has, RANKINGS } from "./rankings.js";

/** A button for each ranking. */
export class Choices {
  /** root: an element to fill; toggle: called with the name of a ranking. */
  constructor(root, toggle) {
    this.buttons = Object.entries(RANKINGS).map(([name, { label }]) => [
      name,
      make("button", { type: "button", class: "toggle", onclick: () => toggle(name) }, label),
    ]);
    root.append(...this.buttons.map(([, button]) => button));
  }

  /** index: an IndexState, or undefined; shown: names of the rankings that are shown. */
  draw(index, shown) {
    for (const [name, button] of this.buttons) {
      button.disabled = index !== undefined && !has(index, name);
      button.setAttribute("aria-pressed", shown.includes(name));
      if (button.disabled) button.setAttribute("aria-describedby", "unavailable");
      else button.removeAttribute("aria-describedby");
    }
  }
}

/** What an index, an IndexState, is. */
export const factsView = ({ documents, generation, language, encoder, dense }) => [
  `${plural(documents, "document")} \u00b7 generation ${generation}`,
  make(
    "span",
    { class: "more-facts" },
    ` \u00b7 language ${language} \u00b7 encoder ${encoder}`,
    dense === null ? "" : ` \u00b7 dense ${dense}`,
  ),
];
