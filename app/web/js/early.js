// @ts-check
/* What is pressed, keys among it, written, chosen or sent before the page's scripts have run is told
   to them when they have, in its order; a field has its content again, whatever they put there when
   they began. This stands in the page itself (base.html): a request of its own would come too late,
   or hold the page up. */
{
  const KINDS = ["click", "input", "change", "keydown", "submit"];
  const BUTTONS = "button[type=button], [role=button]"; // any other control does its work by itself
  /** @type {[Element, Event, () => void][]} */
  const early = [];
  /** What puts a field's content back. @param {Element} node */
  const contentOf = (node) => {
    if (!(node instanceof HTMLInputElement || node instanceof HTMLTextAreaElement || node instanceof HTMLSelectElement)) {
      return () => {};
    }
    const { value } = node;
    const checked = node instanceof HTMLInputElement && node.checked;
    return () => {
      if (node.type !== "file") node.value = value;
      if (node instanceof HTMLInputElement) node.checked = checked;
    };
  };
  const hold = (/** @type {Event} */ event) => {
    if (!(event.target instanceof Element)) return;
    const target = event.type === "click" ? event.target.closest(BUTTONS) : event.target;
    // A form that names where it goes is answered by the server alone.
    if (!target || (event.type === "submit" && target.hasAttribute("action"))) return;
    event.stopImmediatePropagation();
    if (event.type === "submit") event.preventDefault();
    early.push([target, event, event.type === "keydown" ? () => {} : contentOf(target)]);
  };
  for (const kind of KINDS) addEventListener(kind, hold, true);
  addEventListener("DOMContentLoaded", () => {
    for (const kind of KINDS) removeEventListener(kind, hold, true);
    for (const [target, event, putBack] of early) {
      putBack();
      // A key that no control had is the page's, or of what the key before it has led to.
      const now = event.type === "keydown" && target === document.body ? document.activeElement : target;
      const Kind = /** @type {typeof Event} */ (event.constructor);
      (now ?? target).dispatchEvent(new Kind(event.type, event));
    }
  });
}
