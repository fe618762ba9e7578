// @ts-check
/* A panel that stands beside the page where there is room, and on a phone opens over its lower edge.

   It is no dialog: what is above it can be used, another token be chosen. Opened over a token, it
   leaves that in sight. The focus goes into the sheet and, when it is closed, back to where it was;
   Escape closes it. Where there is room it is always open, and the focus stays where it is. */

const NARROW = "(max-width: 900px)"; // as in overlays.css
const MARGIN = 12; // px between what was chosen and the sheet

/**
 * @param {HTMLElement} node an element with class sheet, as the macro `sheet` of parts.html makes it
 * @param {{onClose?: () => void}} [options] `onClose`: a person closed it
 * @returns {{open: (over?: Element | null) => void, close: () => void, isOver: () => boolean}}
 * `open` after its content was drawn; `isOver`: whether it lies over the page now
 */
export function sheet(node, { onClose = () => {} } = {}) {
  const narrow = matchMedia(NARROW);
  /** @type {Element | null} */
  let opener = null;
  const isOver = () => narrow.matches && node.hasAttribute("data-open");

  /** @param {Element | null} [over] what was chosen */
  function open(over) {
    const fresh = !node.hasAttribute("data-open");
    if (fresh) opener = over ?? document.activeElement;
    else if (over) opener = over;
    node.setAttribute("data-open", "");
    if (!narrow.matches) return;
    node.scrollTop = 0;
    if (fresh) node.focus({ preventScroll: true });
    reveal(over ?? null);
  }

  /** Scroll the page until `over` is above the sheet. @param {Element | null} over */
  function reveal(over) {
    const box = over?.getBoundingClientRect();
    if (!box) return;
    const hidden = box.bottom + MARGIN - node.getBoundingClientRect().top;
    if (hidden > 0) scrollBy({ top: hidden });
  }

  function close() {
    const back = isOver() && node.contains(document.activeElement) ? opener : null;
    node.removeAttribute("data-open");
    if (back?.isConnected && back instanceof HTMLElement) back.focus({ preventScroll: true });
    opener = null;
  }

  function dismiss() {
    close();
    onClose();
  }

  node.addEventListener("click", (event) => {
    if (event.target instanceof Element && event.target.closest("[data-sheet-close]")) dismiss();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !event.defaultPrevented && isOver()) dismiss();
  });
  return { open, close, isOver };
}
