// @ts-check
/* What is pressed, written or chosen before the page's scripts have run is told to them when they
   have, in its order; a field has its content again, whatever they put there when they began. This
   stands in the page itself (base.html): a request of its own would come too late, or hold the page
   up. */
{
  const KINDS = ["click", "input", "change"];
  const BUTTONS = "button[type=button], [role=button]"; // any other control does its work by itself
  /** @type {[Element, string, () => void][]} */
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
    if (!target) return;
    event.stopImmediatePropagation();
    early.push([target, event.type, contentOf(target)]);
  };
  for (const kind of KINDS) addEventListener(kind, hold, true);
  addEventListener("DOMContentLoaded", () => {
    for (const kind of KINDS) removeEventListener(kind, hold, true);
    for (const [target, type, putBack] of early) {
      putBack();
      target.dispatchEvent(new (type === "click" ? MouseEvent : Event)(type, { bubbles: true, cancelable: true }));
    }
  });
}
