// Keys: "/" goes to the search field, arrows into the hits and through them.

/** field: where queries are typed; results: where the lists of hits are. */
export function listen(field, results) {
  addEventListener("keydown", (event) => {
    const { key, target } = event;
    if (event.altKey || event.ctrlKey || event.metaKey || document.querySelector("dialog[open]"))
      return;
    if (key === "/" && !target.matches("input:not([type=range]), select, textarea")) {
      event.preventDefault();
      field.focus();
      field.select();
    } else if (key.startsWith("Arrow") && (target === field || target.matches(".open"))) {
      const next = following(key, target, field, results);
      if (!next) return;
      event.preventDefault();
      next.focus();
    }
  });
}

function following(key, target, field, results) {
  const lists = Array.from(results.querySelectorAll(".hits"), (list) => [
    ...list.querySelectorAll(".open"),
  ]);
  if (target === field) return key === "ArrowDown" ? lists[0]?.[0] : undefined;
  const column = lists.findIndex((list) => list.includes(target));
  const place = lists[column].indexOf(target);
  const beside = (list) => list?.[Math.min(place, list.length - 1)];
  switch (key) {
    case "ArrowDown":
      return lists[column][place + 1];
    case "ArrowUp":
      return place ? lists[column][place - 1] : field;
    case "ArrowRight":
      return beside(lists[column + 1]);
    default:
      return beside(lists[column - 1]);
  }
}
