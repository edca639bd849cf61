// Elements and numbers. Whatever comes from the service becomes text, never markup.

/** An element; functions are listeners ("onclick"); null, undefined and false set nothing. */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== null && value !== undefined && value !== false) {
      element.setAttribute(key, value);
    }
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

export const find = (id) => document.getElementById(id);

export const fixed = (value, decimals = 3) => value.toFixed(decimals).replace("-", "\u2212");
export const whole = (value) => value.toLocaleString("en");
export const percent = (share) =>
  share > 0 && share < 0.005 ? "<1 %" : `${Math.round(100 * share)} %`;
export const plural = (count, noun) => `${whole(count)} ${noun}${count === 1 ? "" : "s"}`;

/** Enough decimals to distinguish scores: those of vectors and of sums are mostly below 1. */
export const decimalsOf = (why) =>
  why && (why.sides.length > 1 || why.sides[0].side === "dense") ? 4 : 3;

/** A part of a bar, as wide as its share. */
export function bar(kind, share) {
  const part = make("span", { class: `bar ${kind}` });
  part.style.width = `${Math.min(100, Math.max(0, 100 * share))}%`;
  return part;
}

/**
 * The text of a `Marked` with its marks.
 *
 * Their places are in code points, of which a JavaScript string may need two units for one.
 */
export function marked({ text, marks }, isOwn) {
  const characters = Array.from(text);
  const nodes = [];
  let done = 0;
  for (const { start, end, term, literal } of marks) {
    if (start < done) continue;
    const own = isOwn(term) ?? literal;
    const why = own ? "a word of the query" : "found through the query\u2019s expansion";
    nodes.push(
      characters.slice(done, start).join(""),
      make(
        "mark",
        { class: own ? "own" : "expanded", title: `${term}: ${why}`, "data-term": term },
        characters.slice(start, end).join(""),
      ),
    );
    done = end;
  }
  nodes.push(characters.slice(done).join(""));
  return nodes;
}

export function debounced(action, milliseconds) {
  let timer;
  const later = () => {
    clearTimeout(timer);
    timer = setTimeout(action, milliseconds);
  };
  later.cancel = () => clearTimeout(timer);
  return later;
}
