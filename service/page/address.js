// The page's address, and the history of the browser.

// The arguments of what was written while the history goes back, see `leave`; else null.
let returning = null;

/** Parameters of the address. */
export const read = () => new URLSearchParams(location.search);

/**
 * Make the address hold parameters, pairs of a name and a text.
 *
 * push: whether the history gets a new entry; closable: see `leave`.
 */
export function write(pairs, push, closable = false) {
  if (returning) {
    returning = { pairs, push: returning.push || push, closable };
    return;
  }
  const query = String(new URLSearchParams(pairs)).replaceAll("%2C", ",");
  const address = location.pathname + (query ? `?${query}` : "");
  if (address === location.pathname + location.search) return;
  if (push) history.pushState({ closable }, "", address);
  else history.replaceState(history.state, "", address);
}

/**
 * Give up an entry of something that was closed, for parameters without it.
 *
 * Go back if the entry before is the one that it was opened from; so closing leaves no entry
 * behind. An address that was opened from outside is replaced.
 */
export function leave(pairs) {
  if (returning || !history.state?.closable) {
    write(pairs, false);
    return;
  }
  returning = { pairs, push: false, closable: false };
  history.back();
}

/** Call `moved` when the user goes back or forward. */
export function listenToHistory(moved) {
  addEventListener("popstate", () => {
    if (returning === null) return moved();
    const { pairs, push, closable } = returning;
    returning = null;
    write(pairs, push, closable);
  });
}
