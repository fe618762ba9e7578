// @ts-check
/* What can be seen of a page, measured inside it: which elements, where their text is, what cuts it
   off, what lies over it. The other scripts here are checks that are built on this.

   Coordinates are the page's, in CSS px. Markup says what is on purpose: `data-clip` (this box cuts
   its text), `data-overlay` (this lies over other things); ellipses, clamped lines, scroll
   containers, dialogs, popovers and fixed elements say so already. */

(() => {
  /** @typedef {{left: number, top: number, right: number, bottom: number}} Box */
  /** @typedef {{node: Text, element: Element, rects: Box[]}} Words */

  const CARD = ".panel";
  const CONTROLS =
    "a[href], button, summary, select, textarea, input:not([type=hidden]), " +
    "[role=button], [role=tab], [role=switch]";
  const NO_TEXT = "script, style, noscript, template, option, title, desc, textarea";
  const TOUCHING = 2; // px by which glyph boxes may reach into each other
  const SHORTEST = 12; // px a scroll container needs for its text to be read

  /** @type {WeakMap<Element, any>[]} */
  const remembered = [];

  /** A function of an element that is asked once for each, until `forget()`: pages do not move
   * while they are measured.
   * @template T @param {(element: Element) => T} ask @returns {(element: Element) => T} */
  function once(ask) {
    const index = remembered.push(new WeakMap()) - 1;
    return (element) => {
      const answers = remembered[index];
      if (!answers.has(element)) answers.set(element, ask(element));
      return answers.get(element);
    };
  }
  /** @type {Words[] | null} */
  let read = null;
  function forget() {
    remembered.forEach((_, index) => (remembered[index] = new WeakMap()));
    read = null;
  }

  const style = once((element) => {
    const own = getComputedStyle(element);
    const { position, display, overflowX, overflowY, clipPath, clip, transform, contain } = own;
    return { position, display, overflowX, overflowY, clipPath, clip, transform, contain };
  });
  /** @param {Box} box */
  const wide = (box) => Math.max(0, box.right - box.left);
  /** @param {Box} box */
  const tall = (box) => Math.max(0, box.bottom - box.top);
  /** @param {Box} box */
  const size = (box) => `${Math.round(wide(box))}x${Math.round(tall(box))}`;

  /** @param {Box} a @param {Box} b @returns {Box} */
  const meet = (a, b) => ({
    left: Math.max(a.left, b.left),
    top: Math.max(a.top, b.top),
    right: Math.min(a.right, b.right),
    bottom: Math.min(a.bottom, b.bottom),
  });

  /** A rectangle of the window as one of the page. @param {DOMRect} rect @returns {Box} */
  const onPage = (rect) => ({
    left: rect.left + scrollX,
    top: rect.top + scrollY,
    right: rect.right + scrollX,
    bottom: rect.bottom + scrollY,
  });

  /** @param {Element} element */
  const boxOf = (element) => onPage(element.getBoundingClientRect());

  /** The element as a person finds it: `td.share "41 %"`. @param {Element} element */
  function describe(element) {
    const names = [...element.classList].map((name) => `.${name}`).join("");
    const id = element.id && `#${element.id}`;
    const type = element.matches("input") ? `[type=${element.getAttribute("type") ?? "text"}]` : "";
    const label = element.textContent?.trim() || element.getAttribute("aria-label") || "";
    const words = label.replace(/\s+/g, " ").slice(0, 30);
    const parent = !id && !names && element.parentElement ? element.parentElement : null;
    const where = parent
      ? `${parent.localName}${parent.className && `.${[...parent.classList].join(".")}`} > `
      : "";
    return `${where}${element.localName}${id}${names}${type}${words && ` "${words}"`}`;
  }

  /** Whether a box takes its content from the eye: for screen readers alone, or a skip link that
   * waits above the page until it has the focus. */
  const away = once(
    /** @returns {boolean} */ (element) => {
      const { clipPath, clip, position } = style(element);
      if (/^inset\(50%/.test(clipPath) || /^rect\((0|1)px/.test(clip)) return true;
      if (position === "absolute" || position === "fixed") {
        const rect = element.getBoundingClientRect();
        if (overflow(element) && rect.width <= 1) return true;
        if (rect.bottom + scrollY <= 1 || rect.right + scrollX <= 1) return true;
      }
      return element.parentElement !== null && away(element.parentElement);
    },
  );

  /** Whether it is there for the eye. */
  const seen = once(
    (element) =>
      element.checkVisibility({ contentVisibilityAuto: true, visibilityProperty: true }) &&
      !away(element),
  );

  /** How a box cuts off what leaves it, or null. @param {Element} element */
  function overflow(element) {
    const { overflowX, overflowY, display } = style(element);
    if (display === "contents" || display === "inline") return null;
    const root = element === document.body || element === document.documentElement;
    return root || (overflowX === "visible" && overflowY === "visible")
      ? null
      : { x: overflowX, y: overflowY };
  }

  /** The elements around one that may cut it off, nearest first: what is taken out of the flow is
   * cut only from its containing block upwards. */
  const around = once((element) => {
    const cutting = [];
    let { position } = style(element);
    for (let each = element.parentElement; each; each = each.parentElement) {
      const own = style(each);
      const holds = own.position !== "static" || own.transform !== "none" || own.contain !== "none";
      if (position === "fixed" && own.transform === "none") continue;
      if (position === "absolute" && !holds) continue;
      if (overflow(each)) cutting.push(each);
      position = own.position;
    }
    return cutting;
  });

  /** The same for an element, or with `words` for the text in it.
   * @param {Element} element @param {boolean} words */
  const frames = (element, words) =>
    words && overflow(element) ? [element, ...around(element)] : around(element);

  /** What lets an element through: its border box less the borders. */
  const inside = once((element) => {
    const box = boxOf(element);
    const left = box.left + element.clientLeft;
    const top = box.top + element.clientTop;
    return { left, top, right: left + element.clientWidth, bottom: top + element.clientHeight };
  });

  /** Whether a box cuts off text on purpose. @param {Element} element */
  function willing(element) {
    const { textOverflow, webkitLineClamp } = getComputedStyle(element);
    const shortens = textOverflow === "ellipsis" || webkitLineClamp !== "none";
    return shortens || element.matches("[data-clip]");
  }

  /** What is left of a box of an element, or of the text in it, within its frames; with `upTo`
   * within those inside that element.
   * @param {Box} box @param {Element} element @param {boolean} words @param {Element} [upTo] */
  function shown(box, element, words, upTo) {
    return frames(element, words)
      .filter((frame) => !upTo || upTo.contains(frame))
      .reduce((left, frame) => meet(left, inside(frame)), box);
  }

  /** The element that takes this one out of the flow of the page, over other things, or null. */
  const layer = once(
    /** @returns {Element | null} */ (element) => {
      if (element.matches("dialog, [popover], [data-overlay]")) return element;
      if (style(element).position === "fixed") return element;
      return element.parentElement && layer(element.parentElement);
    },
  );

  /** Every text that is there for the eye, with a box for each of its lines. @returns {Words[]} */
  function readTexts() {
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const range = document.createRange();
    const all = [];
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
      const element = node.parentElement;
      if (!element || !node.nodeValue?.trim() || element.closest(NO_TEXT)) continue;
      if (!seen(element)) continue;
      range.selectNodeContents(node);
      const rects = [...range.getClientRects()].map(onPage);
      all.push({ node: /** @type {Text} */ (node), element, rects });
    }
    return all;
  }

  const texts = () => (read ??= readTexts());

  /** What letters fill of a line's box: its ends are room for accents and descenders.
   * @param {Box} box @returns {Box} */
  const letters = (box) => ({
    ...box,
    top: box.top + 0.15 * tall(box),
    bottom: box.bottom - 0.15 * tall(box),
  });

  /** @param {string} selector */
  const all = (selector) => [...document.querySelectorAll(selector)].filter(seen);

  /** Whether a box hides what it lies over, at least in part. @param {Element} element */
  function painted(element) {
    const own = getComputedStyle(element);
    const clear = (/** @type {string} */ colour) => /^(transparent|none|.*[,/] 0\))$/.test(colour);
    if (Number(own.opacity) < 0.05) return false;
    if (element instanceof SVGElement) {
      const filled = !clear(own.fill) && Number(own.fillOpacity) > 0;
      return element instanceof SVGGeometryElement && filled;
    }
    if (element.matches("img, canvas, video, input, select, textarea")) return true;
    return !clear(own.backgroundColor) || own.backgroundImage !== "none";
  }

  /** Whether an element paints a point of the window: its hit area may be larger than itself.
   * @param {Element} element @param {number} x @param {number} y */
  const paints = (element, x, y) =>
    painted(element) &&
    [...element.getClientRects()].some(
      (rect) => rect.left <= x && x <= rect.right && rect.top <= y && y <= rect.bottom,
    );

  /** Brings the middle of a box of an element into the window, not too near its edge; where it is
   * there. What is fixed to the window was measured before any scrolling.
   * @param {Box} box @param {Element} element */
  function bring(box, element) {
    const over = layer(element);
    const fixed = over !== null && style(over).position === "fixed";
    const middle = (box.top + box.bottom) / 2;
    const near = middle >= scrollY + 2 * SHORTEST && middle <= scrollY + innerHeight - 2 * SHORTEST;
    if (fixed || !near) {
      scrollTo({ left: 0, top: fixed ? 0 : middle - innerHeight / 2, behavior: "instant" });
    }
    return { x: (box.left + box.right) / 2 - scrollX, y: middle - scrollY };
  }

  /** How to give an attribute its present value back. @param {Element} element
   * @param {string} name @returns {() => void} */
  function keep(element, name) {
    const value = element.getAttribute(name);
    return () =>
      value === null ? element.removeAttribute(name) : element.setAttribute(name, value);
  }

  /** Lays out everything as it is without scrolling: what is sticky in its place, what is drawn
   * only when it comes into view drawn; and lets hit tests find everything. Returns how to undo
   * that. */
  function flatten() {
    const sheet = new CSSStyleSheet();
    sheet.replaceSync("* { pointer-events: auto !important }");
    document.adoptedStyleSheets.push(sheet);
    /** @type {(() => void)[]} */
    const undo = [() => void document.adoptedStyleSheets.pop()];
    /** @type {NodeListOf<HTMLElement>} */
    const elements = document.querySelectorAll("body *");
    for (const each of elements) {
      const { position, contentVisibility } = getComputedStyle(each);
      if (position !== "sticky" && contentVisibility !== "auto") continue;
      undo.push(keep(each, "style"));
      if (position === "sticky") {
        each.style.setProperty("position", "relative", "important");
        each.style.setProperty("inset", "auto", "important");
      }
      if (contentVisibility === "auto") {
        each.style.setProperty("content-visibility", "visible", "important");
      }
    }
    forget();
    return () => undo.forEach((back) => back());
  }

  /** Ends every transition and animation: those without an end are taken off. */
  function still() {
    for (const animation of document.getAnimations()) {
      const { endTime = Infinity } = animation.effect?.getComputedTiming() ?? {};
      if (Number.isFinite(Number(endTime))) animation.finish();
      else animation.cancel();
    }
  }

  Object.assign(globalThis, {
    visual: {
      ...{ CARD, CONTROLS, SHORTEST, TOUCHING },
      ...{ boxOf, letters, meet, shown, size, tall, wide },
      ...{ frames, inside, layer, overflow, painted, paints, willing },
      ...{ all, bring, describe, flatten, keep, still, texts },
    },
  });
})();
