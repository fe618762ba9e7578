// @ts-check
/* The colours that were chosen: as the system, light or dark. A classic script in the head, so that
   the first thing that is painted has them; the style sheet does the rest by `data-theme`.

   In a frame of another site localStorage throws when it is touched. */

(() => {
  const KEY = "jumpscope-theme";
  /** @type {Record<string, string>} */
  const WORDS = { system: "as the system", light: "light", dark: "dark" };
  const NAMES = Object.keys(WORDS);
  const root = document.documentElement;

  function remembered() {
    try {
      return localStorage.getItem(KEY) ?? "";
    } catch {
      return "";
    }
  }

  /** @param {string} name */
  function remember(name) {
    try {
      localStorage.setItem(KEY, name);
    } catch {
      // It lasts as long as the page, then.
    }
  }

  /** @param {string} name */
  function paint(name) {
    root.dataset.theme = name in WORDS ? name : "system";
    label();
  }

  function label() {
    const button = document.getElementById("theme");
    const words = `Colours: ${WORDS[root.dataset.theme ?? "system"]}`;
    button?.setAttribute("aria-label", words);
    button?.setAttribute("data-tip", words);
  }

  paint(remembered());
  document.addEventListener("DOMContentLoaded", label);
  document.addEventListener("click", (event) => {
    if (!(event.target instanceof Element) || !event.target.closest("#theme")) return;
    const next = (NAMES.indexOf(root.dataset.theme ?? "system") + 1) % NAMES.length;
    paint(NAMES[next]);
    remember(NAMES[next]);
  });
  addEventListener("storage", (event) => event.key === KEY && paint(event.newValue ?? ""));
})();
