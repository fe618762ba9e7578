/* Values on demand: one tip for the whole page, by pointer, finger and keyboard.

   Anything with data-tip (a sentence) or data-v (a token's value) shows it on hover, on focus and at
   a touch. A group with data-steps="selector" takes the focus once; the arrow keys walk through
   what the selector finds in it. */

(() => {
  "use strict";

  const js = window.jumpscope;
  const tip = js.el("div", { id: "tip", role: "tooltip" });
  const live = js.el("div", { class: "vh", "aria-live": "polite" });
  let shownFor = null;

  const words = (target) => {
    if (target.dataset.tip) return target.dataset.tip;
    const text = target.textContent.trim();
    return text ? `${js.quoted(target.textContent)}  ${target.dataset.v}` : target.dataset.v;
  };

  function show(target, { announce = false } = {}) {
    if (!tip.isConnected) document.body.append(tip, live);
    shownFor = target;
    tip.textContent = words(target);
    tip.classList.add("on");
    // A token may be broken over two lines; the tip stands over the first piece.
    const box = target.getClientRects()[0] ?? target.getBoundingClientRect();
    const own = tip.getBoundingClientRect();
    const middle = box.left + box.width / 2 - own.width / 2;
    const left = Math.max(
      8,
      Math.min(middle, document.documentElement.clientWidth - own.width - 8),
    );
    const above = box.top - own.height - 7;
    const below = box.bottom + 7;
    // A definition stands below its word, where it does not hide the number above.
    const fits = below + own.height < innerHeight;
    const top = (target.matches(".term") && fits) || above < 4 ? below : above;
    tip.style.transform = `translate(${Math.round(left)}px, ${Math.round(top)}px)`;
    if (announce) live.textContent = tip.textContent;
  }

  function hide() {
    tip.classList.remove("on");
    shownFor = null;
  }

  const tipped = (node) => node.closest?.("[data-tip], [data-v]");

  document.addEventListener("pointerover", (event) => {
    if (event.pointerType === "touch") return;
    const target = tipped(event.target);
    if (target) show(target);
    else if (shownFor && !shownFor.matches(":focus-visible, .at")) hide();
  });
  document.addEventListener("pointerdown", (event) => {
    if (event.pointerType !== "touch") return;
    const target = tipped(event.target);
    if (target) show(target);
    else hide();
  });
  document.addEventListener("focusin", (event) => {
    const target = tipped(event.target);
    if (target && event.target.matches(":focus-visible")) show(target);
  });
  document.addEventListener("focusout", (event) => {
    unmark(event.target);
    hide();
  });
  document.addEventListener("scroll", () => shownFor && hide(), { capture: true, passive: true });

  const unmark = (group) => group.querySelector?.(".at")?.classList.remove("at");

  /* The next item for an arrow key; up and down go by place on the page. */
  function next(items, at, key) {
    if (key === "Home") return items[0];
    if (key === "End") return items.at(-1);
    if (at < 0) return items[0];
    if (key === "ArrowRight") return items[at + 1];
    if (key === "ArrowLeft") return items[at - 1];
    const from = items[at].getClientRects()[0];
    if (!from) return undefined;
    const down = key === "ArrowDown";
    const placed = items
      .map((item) => [item, item.getClientRects()[0]])
      .filter(([, box]) => box && (down ? box.top > from.top + 4 : box.top < from.top - 4));
    if (!placed.length) return undefined;
    const line = down
      ? Math.min(...placed.map(([, box]) => box.top))
      : Math.max(...placed.map(([, box]) => box.top));
    return placed
      .filter(([, box]) => Math.abs(box.top - line) < 4)
      .reduce((best, each) =>
        Math.abs(each[1].left - from.left) < Math.abs(best[1].left - from.left) ? each : best,
      )[0];
  }

  const KEYS = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End"];

  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && shownFor) return hide();
    const group = event.target.closest?.("[data-steps]");
    if (!group || event.target !== group) return undefined;
    const items = [...group.querySelectorAll(group.dataset.steps)].filter(
      (item) => (item.dataset.v || item.dataset.tip) && item.getClientRects().length,
    );
    const at = items.findIndex((item) => item.classList.contains("at"));
    if (event.key === "Enter" && items[at])
      return items[at].dispatchEvent(new MouseEvent("click", { bubbles: true, cancelable: true }));
    if (!KEYS.includes(event.key) || event.ctrlKey || event.metaKey || event.altKey)
      return undefined;
    const item = next(items, at, event.key);
    if (!item) return undefined;
    event.preventDefault();
    unmark(group);
    item.classList.add("at");
    item.scrollIntoView({ block: "nearest", inline: "nearest" });
    show(item, { announce: true });
    return undefined;
  });

  js.nextStep = next;
  js.stepKeys = KEYS;
})();
