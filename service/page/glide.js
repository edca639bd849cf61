// Hits glide from where they were to where they are now.

const key = (hit) => `${hit.closest(".column").dataset.column} ${hit.dataset.id}`;
const hits = (results) => [...results.querySelectorAll(".hit")];

/** Redraw the results by `draw`, and animate the hits that moved. */
export function glide(results, draw) {
  const before = new Map(hits(results).map((hit) => [key(hit), hit.getBoundingClientRect().top]));
  draw();
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  for (const hit of hits(results)) {
    const distance = before.get(key(hit)) - hit.getBoundingClientRect().top;
    if (distance) {
      hit.animate([{ transform: `translateY(${distance}px)` }, { transform: "none" }], {
        duration: 220,
        easing: "ease-out",
      });
    }
  }
}
