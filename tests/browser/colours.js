// @ts-check
/* How text stands out from what is behind it, by WCAG 2, in every state that a control can be in.

   What is behind a text is composited as a browser does: the backgrounds of its ancestors from the
   root inwards, each group mixed in by its own opacity, and what else is painted under its middle
   (bars of a chart, boxes out of the flow). A gradient stands for each of its colours: the worst
   counts. Not seen here: images, backgrounds of ::before and ::after, blend modes, and filters
   other than brightness. */

(() => {
  /** @typedef {[number, number, number, number]} Colour red, green, blue of 255, and alpha of 1 */

  const { visual } = /** @type {any} */ (globalThis);
  const LEAST = 4.5;
  const MOST_BACKDROPS = 16;

  const canvas = /** @type {CanvasRenderingContext2D} */ (
    document.createElement("canvas").getContext("2d", { willReadFrequently: true })
  );
  /** @type {Map<string, Colour>} */
  const parsed = new Map();

  /** @param {string} colour of a computed style @returns {Colour} */
  function rgba(colour) {
    const cached = parsed.get(colour);
    if (cached) return cached;
    const numbers = (colour.match(/-?[\d.]+(e-?\d+)?/g) ?? []).map(Number);
    const [r = 0, g = 0, b = 0, alpha = 1] = numbers;
    /** @type {Colour} */
    let value = [r, g, b, alpha];
    if (colour.startsWith("color(srgb ")) value = [r * 255, g * 255, b * 255, alpha];
    else if (!/^rgba?\(/.test(colour)) {
      canvas.clearRect(0, 0, 1, 1);
      canvas.fillStyle = colour;
      canvas.fillRect(0, 0, 1, 1);
      const [red, green, blue, a] = canvas.getImageData(0, 0, 1, 1).data;
      value = [red, green, blue, a / 255];
    }
    parsed.set(colour, value);
    return value;
  }

  /** @param {Colour} top @param {Colour} under @param {number} [alpha] @returns {Colour} */
  function over(top, under, alpha = top[3]) {
    const mix = (/** @type {number} */ i) => top[i] * alpha + under[i] * (1 - alpha);
    return [mix(0), mix(1), mix(2), 1];
  }

  /** @param {Colour} colour */
  function luminance([r, g, b]) {
    const linear = (/** @type {number} */ value) => {
      const share = value / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    };
    return 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  }

  /** @param {Colour} a @param {Colour} b */
  function ratio(a, b) {
    const [light, dark] = [luminance(a), luminance(b)].sort((x, y) => y - x);
    return (light + 0.05) / (dark + 0.05);
  }

  /** Colours that a box paints behind its content: its background, over it each colour of a
   * gradient that fills at least half of the box's height.
   * @param {CSSStyleDeclaration} style @param {number} height @returns {Colour[]} */
  function paints(style, height) {
    const plain = rgba(style.backgroundColor);
    const image = style.backgroundImage;
    const [first] = style.backgroundSize.split(",");
    const [, size = "auto"] = first.trim().split(" ");
    const tall = size.endsWith("px") ? parseFloat(size) >= height / 2 : true;
    if (!image.includes("gradient(") || !tall) return [plain];
    const stops = image.match(/(rgba?|color|oklab|oklch|lab|lch)\([^()]*\)/g) ?? [];
    const everywhere = /^(auto|cover|100%|100% 100%)$/.test(first.trim());
    return (everywhere ? stops : [...stops, "transparent"]).map(rgba).map((stop) => {
      const alpha = stop[3] + plain[3] * (1 - stop[3]);
      const under = /** @type {Colour} */ ([plain[0], plain[1], plain[2], 1]);
      const [r, g, b] = over(stop, under);
      return plain[3] ? [r, g, b, alpha] : stop;
    });
  }

  /** @param {Colour} colour @param {string} filter @returns {Colour} */
  function filtered([r, g, b, alpha], filter) {
    const by = Number(/brightness\(([\d.]+)\)/.exec(filter)?.[1] ?? 1);
    return [Math.min(255, r * by), Math.min(255, g * by), Math.min(255, b * by), alpha];
  }

  /** The colour under everything. @returns {Colour} */
  const ground = () =>
    getComputedStyle(document.documentElement).colorScheme.includes("dark")
      ? [18, 18, 18, 1]
      : [255, 255, 255, 1];

  /** What reads styles once, for as long as they do not change. */
  class Reader {
    /** @type {Map<Element, any>} */
    #boxes = new Map();
    /** @type {Map<Element, Colour[] | null>} */
    #backs = new Map();

    /** @param {Element} element */
    box(element) {
      if (!this.#boxes.has(element)) {
        const style = getComputedStyle(element);
        const svg = element instanceof SVGElement;
        const { height } = element.getBoundingClientRect();
        this.#boxes.set(element, {
          ink: svg ? style.fill : style.color,
          opacity: Number(style.opacity),
          filter: style.filter,
          paints: svg ? [rgba(style.fill)] : paints(style, height),
        });
      }
      return this.#boxes.get(element);
    }

    /** The colours behind the content of an element, or null where groups are mixed in by an
     * opacity or a filter. @param {Element} element @returns {Colour[] | null} */
    backs(element) {
      const known = this.#backs.get(element);
      if (known !== undefined) return known;
      const { opacity, filter, paints: own } = this.box(element);
      const parent = element.parentElement;
      const below = parent ? this.backs(parent) : [ground()];
      const plain = opacity === 1 && filter === "none" && below !== null;
      const backs = plain ? layered(element instanceof SVGElement ? [] : own, below) : null;
      this.#backs.set(element, backs);
      return backs;
    }
  }

  /** Each of the colours over each of those below; none is no layer.
   * @param {Colour[]} colours @param {Colour[]} below @param {number} [strength] */
  function layered(colours, below, strength = 1) {
    if (!colours.length) return below;
    const all = below.flatMap((back) => colours.map((top) => over(top, back, top[3] * strength)));
    return all.slice(0, MOST_BACKDROPS);
  }

  /** @param {Element} element @returns {Element[]} from the root inwards */
  const chain = (element) =>
    element.parentElement ? [...chain(element.parentElement), element] : [element];

  /** Pairs of colours at a text: what is behind it, and the text on it. `ink` is its colour;
   * `beneath` what is painted under it besides its ancestors, lowest first.
   * @param {Element} element @param {Colour} ink @param {Element[]} beneath
   * @param {Reader} read @returns {Colour[][]} */
  function pairs(element, ink, beneath, read) {
    const backs = beneath.length ? null : read.backs(element);
    if (backs) return backs.map((back) => [back, over(ink, back)]);
    const path = chain(element);
    /** @param {number} i @param {Colour[]} below @returns {Colour[][]} */
    const paint = (i, below) => {
      const { opacity, filter, paints: own } = read.box(path[i]);
      const others = beneath.filter(
        (each) => path[i].contains(each) && !path[i + 1]?.contains(each),
      );
      const inner = others
        .reduce(
          (under, each) => layered(read.box(each).paints, under, read.box(each).opacity),
          layered(path[i] instanceof SVGElement ? [] : own, [below[0]]),
        )
        .flatMap((back) => (path[i + 1] ? paint(i + 1, [back, back]) : [[back, over(ink, back)]]));
      return inner.map((pair) =>
        pair.map((colour, k) => over(filtered(colour, filter), below[k], opacity)),
      );
    };
    return paint(0, [ground(), ground()]);
  }

  /** Texts with their inks: [element, what it says, colour of a computed style].
   * @returns {{element: Element, ink: (read: Reader) => string, words: () => string, box: any}[]}
   */
  function inked() {
    const list = visual.texts().map((/** @type {any} */ { element, rects }) => ({
      element,
      box: visual.letters(rects[0] ?? visual.boxOf(element)),
      words: () => visual.describe(element),
      ink: (/** @type {Reader} */ read) => read.box(element).ink,
    }));
    for (const field of visual.all("input, select, textarea")) {
      if (/^(checkbox|radio|range|color|file|hidden)$/.test(field.type)) continue;
      const part = field.value || !field.placeholder ? null : "::placeholder";
      list.push({
        element: field,
        box: visual.boxOf(field),
        words: () => `${visual.describe(field)}${part ?? ""}`,
        ink: () => getComputedStyle(field, part).color,
      });
    }
    return [...list, ...generated()];
  }

  /** Words that the style sheet adds before and after elements. */
  function generated() {
    return visual.all("body *").flatMap((/** @type {Element} */ element) =>
      ["::before", "::after"]
        .filter((part) =>
          /[\p{L}\p{N}\p{S}\p{P}]/u.test(
            getComputedStyle(element, part).content.replace(/^"|"$|^(none|normal)$/g, ""),
          ),
        )
        .map((part) => ({
          element,
          box: visual.boxOf(element),
          words: () => `${visual.describe(element)}${part}`,
          ink: () => getComputedStyle(element, part).color,
        })),
    );
  }

  const ALWAYS = ":not([data-unforced])"; // as specific as a pseudo-class, and true of everything

  /** Rewrites the page's rules so that a pseudo-class holds. @param {string} name
   * @param {string} by @returns {(() => void)[]} */
  function hold(name, by) {
    /** @type {(() => void)[]} */
    const undo = [];
    /** @param {CSSRuleList} rules */
    const visit = (rules) => {
      for (const rule of rules) {
        if (rule instanceof CSSStyleRule && rule.selectorText.includes(name)) {
          const { selectorText } = rule;
          rule.selectorText = selectorText.replace(new RegExp(`${name}(?![\\w-])`, "g"), by);
          undo.push(() => void (rule.selectorText = selectorText));
        }
        if ("cssRules" in rule) visit(/** @type {CSSGroupingRule} */ (rule).cssRules);
      }
    };
    for (const sheet of document.styleSheets) visit(sheet.cssRules);
    return undo;
  }

  /** Gives elements an attribute. @param {Iterable<Element>} elements @param {string} name
   * @param {string} value @returns {(() => void)[]} */
  function mark(elements, name, value) {
    return [...elements].map((element) => {
      const back = visual.keep(element, name);
      element.setAttribute(name, value);
      return back;
    });
  }

  const select = (/** @type {string} */ selector) => [...document.querySelectorAll(selector)];

  /** What brings every element that can be in a state into it; each returns how to undo that. */
  const STATES = {
    hover: () => hold(":hover", ALWAYS),
    focus: () => [
      ...mark(select(`${visual.CONTROLS}, [tabindex]`), "data-forced", ""),
      ...hold(":focus-visible", "[data-forced]"),
      ...hold(":focus", "[data-forced]"),
    ],
    disabled: () => mark(select("button, input, select, textarea, fieldset"), "disabled", ""),
    busy: () => mark(select("button, [role=button], .button"), "aria-busy", "true"),
    "busy region": () => mark(select("main, [aria-busy]"), "aria-busy", "true"),
    chosen: () => [
      ...mark(select("[aria-pressed]"), "aria-pressed", "true"),
      ...mark(select("[aria-selected]"), "aria-selected", "true"),
      ...select("[aria-current]").flatMap((each) =>
        mark(
          [...(each.parentElement?.children ?? [])].filter(
            (other) => other.localName === each.localName,
          ),
          "aria-current",
          each.getAttribute("aria-current") || "true",
        ),
      ),
      ...hold(":checked", ALWAYS),
    ],
  };
  const TOGETHER = [
    [],
    ["hover"],
    ["focus"],
    ["disabled"],
    ["disabled", "hover"],
    ["busy"],
    ["busy", "disabled"],
    ["busy region"],
    ["chosen"],
    ["chosen", "hover"],
  ];

  /** Text that does not stand out; with `states` in every state too. @param {boolean} states */
  function contrast(states) {
    const texts = inked().map((text) => {
      const { x, y } = visual.bring(text.box, text.element);
      const all = document.elementsFromPoint(x, y);
      const own = all.findIndex((each) => text.element.contains(each));
      const beneath = all
        .slice(own + 1)
        .filter((each) => !each.contains(text.element) && visual.paints(each, x, y));
      return { ...text, beneath: own < 0 ? [] : beneath.reverse() };
    });
    scrollTo({ left: 0, top: 0, behavior: "instant" });
    /** @type {Map<any, string>} */
    const says = new Map();
    for (const names of states ? TOGETHER : [[]]) {
      const undo = names.flatMap((name) => /** @type {any} */ (STATES)[name]());
      visual.still();
      const read = new Reader();
      for (const text of texts) {
        if (says.has(text)) continue;
        const worst = Math.min(
          ...pairs(text.element, rgba(text.ink(read)), text.beneath, read).map(([a, b]) =>
            ratio(a, b),
          ),
        );
        if (worst >= LEAST - 0.005) continue;
        const state = names.length ? `, ${names.join(" and ")}` : "";
        says.set(text, `${text.words()}${state}: contrast ${worst.toFixed(2)}`);
      }
      for (const back of undo.reverse()) back();
    }
    return [...new Set(says.values())];
  }

  /** The colour behind an element, its ancestors' alone.
   * @param {Element} element @param {Reader} [read] @returns {Colour} */
  const behind = (element, read = new Reader()) =>
    pairs(element.parentElement ?? element, [0, 0, 0, 0], [], read)[0][0];

  Object.assign(visual, { Reader, behind, contrast, over, ratio, rgba });
})();
