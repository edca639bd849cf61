// The dialog that asks for a key.

import { find } from "./dom.js";

const dialog = find("key-dialog");
const field = find("key");
let answer = () => {};

/** The key that is given, or null. `reason`: why the last one was not taken, or "". */
export function askForKey(reason) {
  find("key-reason").textContent = reason;
  find("key-reason").hidden = !reason;
  field.value = "";
  dialog.showModal();
  field.focus();
  return new Promise((resolve) => (answer = resolve));
}

find("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  answer(field.value.trim() || null);
  field.value = "";
  dialog.close();
});
find("key-cancel").addEventListener("click", () => dialog.close());
// Escape closes it too. If a key was given, the promise is already resolved.
dialog.addEventListener("close", () => answer(null));
