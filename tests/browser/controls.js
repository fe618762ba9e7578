// @ts-check
/* What a finger, a keyboard and forced colours need: targets that can be hit, rings around what has
   the focus, and marks that are more than a colour. */

(() => {
  const { visual } = /** @type {any} */ (globalThis);
  const SMALLEST = 24; // CSS px, WCAG 2.5.8
  const RING = 3; // contrast of a ring, WCAG 1.4.11
  const BARELY = 1.3; // contrast at which two areas are told apart
  const MOST_PEERS = 5;
  const RUNNING_TEXT = ".tokens, [data-running-text]";
  const MARKS = ".bar, .mini i, [data-mark]";
  const CHOSEN =
    '[aria-pressed="true"], [aria-current]:not([aria-current="false"]), [aria-selected="true"]';

  /** Whether a control is words within a sentence: other words stand in the same block.
   * @param {Element} element */
  function inSentence(element) {
    if (element.closest(RUNNING_TEXT)) return true;
    if (!getComputedStyle(element).display.startsWith("inline")) return false;
    let block = element.parentElement;
    while (block && getComputedStyle(block).display === "inline") block = block.parentElement;
    if (!block) return false;
    const walker = document.createTreeWalker(block, NodeFilter.SHOW_TEXT);
    let around = "";
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
      if (!node.parentElement?.closest(visual.CONTROLS)) around += node.nodeValue;
    }
    return /\p{L}{2}/u.test(around);
  }

  /** For how many px around a point, to both sides, something holds.
   * @param {(by: number) => boolean} holds */
  function reach(holds) {
    if (!holds(0)) return 0;
    if ([-1, 1].every((side) => holds((side * SMALLEST) / 2))) return SMALLEST;
    const side = (/** @type {number} */ step) => {
      let by = 0;
      while (Math.abs(by) < SMALLEST && holds(by + step)) by += step;
      return Math.abs(by);
    };
    return side(1) + side(-1) + 1;
  }

  /** How to scroll a box back to where it is. @param {Element} element */
  function unscroll(element) {
    const { scrollLeft: left, scrollTop: top } = element;
    return () => element.scrollTo({ left, top, behavior: "instant" });
  }

  /** Controls too small for a finger: by their box, and by where a press reaches them or what leads
   * to the same address. */
  function targets() {
    const says = new Set();
    /** @type {(() => void)[]} */
    const scrolled = [];
    for (const element of visual.all(visual.CONTROLS)) {
      const box = visual.boxOf(element);
      if (Math.min(visual.wide(box), visual.tall(box)) >= SMALLEST - 0.5) continue;
      if (element.closest("svg") || element.disabled || inSentence(element)) continue;
      scrolled.push(...visual.frames(element, false).map(unscroll));
      element.scrollIntoView({ block: "center", inline: "center", behavior: "instant" });
      const { left, right, top, bottom } = element.getBoundingClientRect();
      const [x, y] = [(left + right) / 2, (top + bottom) / 2];
      const hits = (/** @type {number} */ dx, /** @type {number} */ dy) => {
        const at = document.elementFromPoint(x + dx, y + dy);
        const label = at?.closest("label");
        const link = at?.closest("a");
        return Boolean(
          element.contains(at) ||
          label?.control === element ||
          (link?.href && link.href === element.href),
        );
      };
      const wide = reach((by) => hits(by, 0));
      const tall = reach((by) => hits(0, by));
      const hit = Math.min(wide, tall) >= SMALLEST - 1;
      if (!hit) says.add(`${visual.describe(element)} is a target of ${visual.size(box)} px`);
    }
    for (const back of scrolled.reverse()) back();
    scrollTo({ left: 0, top: 0, behavior: "instant" });
    return [...says];
  }

  /** What reads the colours behind elements: those do not change while one is looked at. */
  let reader = new visual.Reader();

  /** What of an element can be seen besides its text's colour.
   * @param {Element} element @param {string | null} [part] */
  function look(element, part = null) {
    const style = /** @type {any} */ (getComputedStyle(element, part));
    /** @param {string} name @param {string[]} more */
    const line = (name, ...more) =>
      style[`${name}Style`] !== "none" && parseFloat(style[`${name}Width`]) > 0
        ? ["Style", "Width", "Color", ...more].map((each) => style[name + each])
        : "";
    const svg = element instanceof SVGElement;
    const under = style.textDecorationLine;
    return [
      line("outline", "Offset"),
      ["Top", "Right", "Bottom", "Left"].map((side) => line(`border${side}`)),
      under === "none" ? "" : [under, style.textDecorationStyle, style.textDecorationThickness],
      svg ? [style.fill, style.stroke, style.strokeWidth] : "",
      // The system's background keeps the alpha of the page's: it is seen only where it differs.
      visual
        .over(visual.rgba(style.backgroundColor), visual.behind(element, reader))
        .map(Math.round),
      style.backgroundImage,
      style.boxShadow,
      style.fontWeight,
      style.display,
      style.visibility,
      part ? style.content : "",
    ].join();
  }

  /** The same with what the style sheet adds to it. @param {Element} element */
  const whole = (element) =>
    [null, "::before", "::after"].map((part) => look(element, part)).join();

  /** The same of all that is in it. @param {Element} element */
  const looks = (element) => [element, ...element.querySelectorAll("*")].map(whole).join(";");

  /** Where the focus of an element may show: on it, beside it (a styled radio button), around it.
   * @param {Element} element @returns {Element[]} */
  const places = (element) =>
    [element, element.nextElementSibling, element.closest("label"), element.parentElement].filter(
      (each) => each !== null,
    );

  /** Controls that do not show that they have the focus; two of each kind are tried. The page must
   * have been used by keyboard last, or focus is not shown. */
  function rings() {
    const says = new Set();
    reader = new visual.Reader();
    /** @type {Map<string, number>} */
    const tried = new Map();
    for (const element of visual.all(`${visual.CONTROLS}, [tabindex]`)) {
      if (element.tabIndex < 0 || element.disabled) continue;
      const kind = [
        element.localName,
        element.className,
        element.id,
        element.parentElement?.className,
      ].join();
      tried.set(kind, (tried.get(kind) ?? 0) + 1);
      if ((tried.get(kind) ?? 0) > 2) continue;
      /** @type {HTMLElement | null} */ (document.activeElement)?.blur();
      visual.still();
      const before = places(element).map((each) => look(each));
      element.focus({ preventScroll: true });
      if (document.activeElement !== element) continue;
      visual.still();
      const after = places(element).map((each) => look(each));
      const changed = places(element).filter((_, i) => before[i] !== after[i]);
      const { outlineStyle, outlineColor } = getComputedStyle(element);
      if (!changed.length) {
        says.add(`${visual.describe(element)} does not show that it has the focus`);
      } else if (changed[0] === element && !/none|auto/.test(outlineStyle)) {
        const back = visual.behind(element);
        const stands = visual.ratio(visual.over(visual.rgba(outlineColor), back), back);
        if (stands < RING) {
          says.add(`${visual.describe(element)} has a focus ring of contrast ${stands.toFixed(2)}`);
        }
        if (hidden(element)) {
          says.add(`${visual.describe(element)} has a focus ring that is cut off`);
        }
      }
    }
    /** @type {HTMLElement | null} */ (document.activeElement)?.blur();
    return [...says];
  }

  /** Whether boxes around an element cut its outline off on every side.
   * @param {Element} element */
  function hidden(element) {
    const { outlineOffset } = getComputedStyle(element);
    const by = parseFloat(outlineOffset) + 1;
    const box = visual.boxOf(element);
    if (by <= 0) return false;
    const [left, top, right, bottom] = [
      box.left - by,
      box.top - by,
      box.right + by,
      box.bottom + by,
    ];
    const rest = visual.shown({ left, top, right, bottom }, element, false);
    const sides = [rest.left >= box.left, rest.top >= box.top, rest.right <= box.right];
    return sides.every(Boolean) && rest.bottom <= box.bottom;
  }

  /** Whether an element, with what follows it, looks as it does after a change, and like some peer
   * beside it that lacks what it has, if there is one.
   * @param {Element} element @param {() => void} change @param {() => void} back
   * @param {(peer: Element) => boolean} [lacks] */
  function same(element, change, back, lacks = () => false) {
    const peers = [...(element.parentElement?.children ?? [])]
      .filter((each) => each.localName === element.localName && lacks(each))
      .filter((each) => each.checkVisibility())
      .slice(0, MOST_PEERS);
    const own = whole(element);
    if (peers.length && peers.every((peer) => whole(peer) !== own)) return false;
    const parts = () =>
      [element, element.nextElementSibling]
        .filter((each) => each !== null)
        .map(looks)
        .join("|");
    const before = parts();
    change();
    visual.still();
    const after = parts();
    back();
    return before === after;
  }

  /** Values that look as if there were none. @returns {string[]} */
  function valueless() {
    return visual.all('[style*="--a"]').flatMap((/** @type {HTMLElement} */ element) => {
      const share = element.style.getPropertyValue("--a");
      const off = () => {
        element.style.removeProperty("--a");
        if (!element.style.length) element.removeAttribute("style");
      };
      const lacks = (/** @type {Element} */ peer) => !peer.hasAttribute("style");
      if (!(Number(share) > 0.05)) return [];
      if (!same(element, off, visual.keep(element, "style"), lacks)) return [];
      return [`${visual.describe(element)} of value ${share} looks as if it had none`];
    });
  }

  /** What is chosen and does not look it. @returns {string[]} */
  function unmarked() {
    const names = ["aria-pressed", "aria-current", "aria-selected"];
    return visual.all(CHOSEN).flatMap((/** @type {Element} */ element) => {
      // A chosen row shows that the button in it is.
      if (element.parentElement?.closest(CHOSEN)) return [];
      const name = names.find((each) => element.hasAttribute(each)) ?? "";
      const off = () =>
        name === "aria-current"
          ? element.removeAttribute(name)
          : element.setAttribute(name, "false");
      const lacks = (/** @type {Element} */ peer) => !peer.matches(CHOSEN);
      if (!same(element, off, visual.keep(element, name), lacks)) return [];
      return [`${visual.describe(element)} is chosen (${name}) and does not look it`];
    });
  }

  /** Boxes and buttons of the page's own drawing that are checked and do not look it.
   * @returns {string[]} */
  function unchecked() {
    const boxes = "input[type=radio]:checked, input[type=checkbox]:checked";
    return visual.all(boxes).flatMap((/** @type {HTMLInputElement} */ element) => {
      const { appearance, opacity } = getComputedStyle(element);
      if (appearance !== "none" && Number(opacity) > 0.5) return [];
      const [off, on] = [() => (element.checked = false), () => (element.checked = true)];
      if (!same(element, off, on)) return [];
      return [`${visual.describe(element)} is checked and does not look it`];
    });
  }

  /** Bars that are not told from what is behind them. @returns {string[]} */
  function faint() {
    return visual.all(MARKS).flatMap((/** @type {Element} */ element) => {
      const box = visual.boxOf(element);
      const style = getComputedStyle(element);
      const { borderTopWidth, borderRightWidth, outlineStyle, backgroundImage } = style;
      const edged = parseFloat(borderTopWidth) > 0 || parseFloat(borderRightWidth) > 0;
      if (visual.wide(box) < 1 || visual.tall(box) < 1) return [];
      if (edged || outlineStyle !== "none" || backgroundImage !== "none") return [];
      const svg = element instanceof SVGElement;
      const stroked = svg && style.stroke !== "none" && parseFloat(style.strokeWidth) > 0;
      const paints = svg
        ? [style.fill, ...(stroked ? [style.stroke] : [])]
        : [style.backgroundColor];
      const back = visual.behind(element);
      const stands = (/** @type {string} */ paint) =>
        paint !== "none" && visual.ratio(visual.over(visual.rgba(paint), back), back) >= BARELY;
      if (paints.some(stands)) return [];
      const what = `${visual.describe(element)} of ${visual.size(box)} px`;
      return [`${what} is not told from what is behind it`];
    });
  }

  /** Marks that are gone when the system's colours replace the page's: what carries a value or is
   * chosen must look different from the same without it, by more than the colour of its text. */
  function marks() {
    visual.still();
    reader = new visual.Reader();
    return [...new Set([...valueless(), ...unmarked(), ...unchecked(), ...faint()])];
  }

  Object.assign(visual, { marks, rings, targets });
})();
