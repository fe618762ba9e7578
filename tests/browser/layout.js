// @ts-check
/* What is wrong with where things are: text that is cut off or squeezed, things over each other,
   things that leave their card or the window. Each check returns sentences. */

(() => {
  /** @typedef {{left: number, top: number, right: number, bottom: number}} Box */

  const { visual } = /** @type {any} */ (globalThis);
  const { CARD, SHORTEST, TOUCHING } = visual;
  const MANY_LINES = 4; // that one text is broken into
  const SHORT_LINE = 7; // letters in each of them on average
  const { boxOf, bring, describe, frames, inside, layer, letters, meet } = visual;
  const { overflow, painted, paints, shown, size, tall, wide, willing } = visual;
  /** @type {() => {node: Text, element: Element, rects: Box[]}[]} */
  const texts = visual.texts;
  /** @type {(selector: string) => any[]} */
  const all = visual.all;

  /** What cuts off a line of text where nothing says that it should, as a sentence, or null.
   * @param {Element} element @param {Box} line */
  function cutter(element, line) {
    let rest = line;
    for (const frame of frames(element, true)) {
      const kinds = /** @type {{x: string, y: string}} */ (overflow(frame));
      const hole = inside(frame);
      const left = meet(rest, hole);
      const may = willing(frame);
      /** @param {(box: Box) => number} length @param {string} kind */
      const lost = (length, kind) =>
        may || /auto|scroll/.test(kind)
          ? length(hole) < SHORTEST
          : length(left) < length(rest) - TOUCHING;
      if (lost(wide, kinds.x) || lost(tall, kinds.y)) {
        const what = `${describe(element)} is cut off: ${describe(frame)}`;
        return `${what} of ${size(hole)} px shows ${size(left)} of ${size(line)}`;
      }
      rest = left;
    }
    return null;
  }

  /** Text without a box, or cut off by one. */
  function cut() {
    return texts().flatMap(({ element, rects }) => {
      if (!rects.some((rect) => wide(rect) >= 1 && tall(rect) >= 1)) {
        return element.closest("[aria-hidden=true]") ? [] : [`${describe(element)} has no box`];
      }
      const says = rects.map((rect) => cutter(element, letters(rect))).find((each) => each);
      return says ? [says] : [];
    });
  }

  /** Fields that are too narrow for the number in them. */
  function cutNumbers() {
    return all("input[type=number]")
      .filter((field) => field.scrollWidth > field.clientWidth + 1)
      .map((field) => `${describe(field)} is too narrow for ${field.value}`);
  }

  /** Text in a box so narrow that it is read down in place of along. */
  function squeezed() {
    return texts().flatMap(({ node, element, rects }) => {
      const lines = new Set(rects.filter((rect) => wide(rect) >= 1).map((rect) => Math.round(rect.top)));
      const length = (node.textContent ?? "").trim().length;
      if (lines.size < MANY_LINES || length / lines.size >= SHORT_LINE) return [];
      return [`${describe(element)} is squeezed: ${length} letters in ${lines.size} lines`];
    });
  }

  /** @param {Element} a @param {Element} b */
  const related = (a, b) => a.contains(b) || b.contains(a);

  /** Text over text, text over fields and buttons, and text under something else. */
  function overlaps() {
    const says = new Set();
    const words = texts().flatMap(({ node, element, rects }) =>
      rects.map((rect) => ({ node, element, box: shown(letters(rect), element, true) })),
    );
    const fields = all("button, input, select, textarea")
      .filter((each) => painted(each) || parseFloat(getComputedStyle(each).borderTopWidth) > 0)
      .filter((each) => Number(getComputedStyle(each).opacity) > 0.05)
      .map((element) => ({ node: element, element, box: shown(boxOf(element), element, false) }));
    const items = [...words, ...fields]
      .filter(({ box }) => wide(box) > TOUCHING && tall(box) > TOUCHING)
      .map((item) => ({ ...item, layer: layer(item.element) }))
      .sort((a, b) => a.box.top - b.box.top);
    items.forEach((a, i) => {
      for (const b of items.slice(i + 1)) {
        if (b.box.top > a.box.bottom) break;
        if (a.node === b.node || a.layer !== b.layer) continue;
        if (a.node.contains(b.node) || b.node.contains(a.node)) continue;
        const both = meet(a.box, b.box);
        if (wide(both) <= TOUCHING || tall(both) <= TOUCHING) continue;
        says.add(`${describe(a.element)} and ${describe(b.element)} overlap by ${size(both)} px`);
      }
    });
    for (const { element, box, layer: own } of items) {
      if (element.matches("input, select, textarea, option")) continue;
      const { x, y } = bring(box, element);
      for (const over of document.elementsFromPoint(x, y)) {
        if (related(over, element)) break;
        if (layer(over) !== own || !paints(over, x, y)) continue;
        says.add(`${describe(over)} lies over ${describe(element)}`);
        break;
      }
    }
    scrollTo({ left: 0, top: 0, behavior: "instant" });
    return [...says];
  }

  /** What leaves its card or the window, where no scroll container holds it. */
  function escapes() {
    const says = new Set();
    const width = document.documentElement.clientWidth;
    const over = /** @type {Element} */ (document.scrollingElement).scrollWidth - width;
    if (over > 0) says.add(`the page is ${over} px wider than the window of ${width}`);
    const words = texts().flatMap(({ element, rects }) =>
      rects.map((box) => ({ element, box, text: true })),
    );
    const things = all(
      `button, input, select, textarea, table, pre, svg, img, canvas, ${CARD}`,
    ).map((element) => ({ element, box: boxOf(element), text: false }));
    for (const { element, box, text } of [...words, ...things]) {
      if (wide(box) < 1 || tall(box) < 1) continue;
      const whole = shown(box, element, text);
      if (wide(whole) && tall(whole) && (whole.left < -1 || whole.right > width + 1)) {
        const [from, to] = [whole.left, whole.right].map(Math.round);
        says.add(`${describe(element)} leaves the window of ${width} px: ${from} to ${to}`);
      }
      const card = element.parentElement?.closest(CARD);
      if (!card || layer(element) !== layer(card)) continue;
      const left = shown(box, element, text, card);
      const edge = boxOf(card);
      const by = [
        edge.left - left.left,
        edge.top - left.top,
        left.right - edge.right,
        left.bottom - edge.bottom,
      ];
      if (wide(left) && tall(left) && Math.max(...by) > 1) {
        says.add(`${describe(element)} leaves its card by ${Math.round(Math.max(...by))} px`);
      }
    }
    return [...says];
  }

  Object.assign(visual, { cut: () => [...cut(), ...cutNumbers()], escapes, overlaps, squeezed });
})();
