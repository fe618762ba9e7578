// @ts-check
/* What is pressed, written or chosen before the page's scripts have run is told to them when they
   have, in its order. This stands in the page itself (base.html): a request of its own would come too
   late, or hold the page up. */
{
  const KINDS = ["click", "input", "change"];
  const BUTTONS = "button[type=button], [role=button]"; // any other control does its work by itself
  /** @type {[Element, string][]} */
  const early = [];
  const hold = (/** @type {Event} */ event) => {
    if (!(event.target instanceof Element)) return;
    const target = event.type === "click" ? event.target.closest(BUTTONS) : event.target;
    if (!target) return;
    event.stopImmediatePropagation();
    early.push([target, event.type]);
  };
  for (const kind of KINDS) addEventListener(kind, hold, true);
  addEventListener("DOMContentLoaded", () => {
    for (const kind of KINDS) removeEventListener(kind, hold, true);
    for (const [target, type] of early) {
      target.dispatchEvent(new (type === "click" ? MouseEvent : Event)(type, { bubbles: true, cancelable: true }));
    }
  });
}
