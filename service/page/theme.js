"use strict";
// Runs before the page is drawn, so that it does not flash in the other scheme.
{
  const stored = () => {
    try {
      return localStorage;
    } catch {
      return null; // storage is switched off: the choice lasts as long as the page
    }
  };
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;
  const shown = () => root.dataset.theme ?? (dark.matches ? "dark" : "light");

  const chosen = stored()?.getItem("lsr-theme");
  if (chosen === "light" || chosen === "dark") root.dataset.theme = chosen;

  addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const label = () => {
      button.textContent = shown() === "dark" ? "Light" : "Dark";
      button.setAttribute("aria-label", `${button.textContent} colours`);
    };
    button.addEventListener("click", () => {
      root.dataset.theme = shown() === "dark" ? "light" : "dark";
      stored()?.setItem("lsr-theme", root.dataset.theme);
      label();
    });
    dark.addEventListener("change", label);
    label();
  });
}
