// @ts-check
/* A part of the page as a picture of its own: plots and heat maps, whose words are HTML, become one
   SVG of shapes and text in plain colours, with a title and a caption; a PNG is painted from that.

   What is drawn is read off the page as the browser has laid it out, in the light colours. */

const MARGIN = 16;
const TITLE = 22; // height of a line
const LINE = 15;
const SCALE = 2; // pixels of a PNG for one of the page
const SVG = "http://www.w3.org/2000/svg";

/* What a shape has of its style that a picture needs. */
const SHAPE = {
  fill: "fill",
  stroke: "stroke",
  "stroke-width": "strokeWidth",
  "stroke-dasharray": "strokeDasharray",
  "stroke-linecap": "strokeLinecap",
  "stroke-linejoin": "strokeLinejoin",
  "fill-opacity": "fillOpacity",
  "stroke-opacity": "strokeOpacity",
  "vector-effect": "vectorEffect",
  "text-anchor": "textAnchor",
  "dominant-baseline": "dominantBaseline",
  "font-family": "fontFamily",
  "font-size": "fontSize",
  "font-weight": "fontWeight",
  opacity: "opacity",
};
const COLOURS = ["fill", "stroke"];
const TEXT = ["text-anchor", "dominant-baseline", "font-family", "font-size", "font-weight"];
const STANDARD = new Set(["none", "normal", "1", "butt", "miter", "start", "auto"]);
const KEPT = new Set(
  "x y x1 y1 x2 y2 cx cy r rx ry d width height points transform viewBox preserveAspectRatio".split(" "),
);

/** @typedef {{text: string, width: number, height: number}} Picture `text` is the SVG's */

/**
 * An element as it stands on the page, as an SVG.
 * @param {HTMLElement} node
 * @param {{title: string, caption: string[]}} words
 * @returns {Picture}
 */
export function pictureOf(node, { title, caption }) {
  const root = document.documentElement;
  const theme = root.dataset.theme ?? "";
  const marks = writtenOut(node);
  root.dataset.theme = "light";
  root.dataset.drawn = ""; // css/export.css: nothing is on its way to another colour
  try {
    return drawn(node, title, caption);
  } finally {
    root.dataset.theme = theme;
    delete root.dataset.drawn;
    for (const mark of marks) mark.remove();
  }
}

/** What the style sheet writes before and after tokens, as nodes that have a place; they take the
 * style sheet's while `data-drawn` stands. @param {HTMLElement} node */
function writtenOut(node) {
  const texts = [node, ...node.querySelectorAll("*")].filter((each) => each.matches(".tokens"));
  return texts.flatMap((each) =>
    /** @type {const} */ (["before", "after"]).flatMap((side) => {
      const content = getComputedStyle(each, `::${side}`).content;
      if (!content.startsWith('"')) return [];
      const mark = document.createElement("i");
      mark.className = "ws";
      mark.textContent = content.slice(1, -1);
      if (side === "before") each.prepend(mark);
      else each.append(mark);
      return [mark];
    }),
  );
}

/** @param {HTMLElement} node @param {string} title @param {string[]} caption @returns {Picture} */
function drawn(node, title, caption) {
  const box = node.getBoundingClientRect();
  const width = Math.ceil(Math.max(box.width, 320) + 2 * MARGIN);
  const style = getComputedStyle(document.body);
  const lines = caption.flatMap((line) => wrapped(line, width - 2 * MARGIN, `11px ${style.fontFamily}`));
  const top = MARGIN + TITLE;
  const height = Math.ceil(top + box.height + 14 + LINE * lines.length + MARGIN);
  const svg = shape("svg", { xmlns: SVG, width, height, viewBox: `0 0 ${width} ${height}` });
  svg.append(shape("title", {}, title), shape("rect", { width, height, fill: colour(style.backgroundColor).fill }));
  const ink = { "font-family": style.fontFamily, fill: colour(style.color).fill };
  svg.append(
    shape("text", { ...ink, x: MARGIN, y: MARGIN + 11, "font-size": 13, "font-weight": 650 }, title),
  );
  const inside = shape("g", { transform: `translate(${MARGIN - box.left} ${top - box.top})` });
  paint(node, inside);
  svg.append(inside);
  lines.forEach((line, i) => {
    const y = top + box.height + 14 + LINE * (i + 0.8);
    svg.append(shape("text", { ...ink, x: MARGIN, y: y.toFixed(1), "font-size": 11 }, line));
  });
  return { text: new XMLSerializer().serializeToString(svg), width, height };
}

/**
 * A picture's PNG.
 * @param {Picture} picture
 * @returns {Promise<Blob>}
 */
export async function pngOf({ text, width, height }) {
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
  await image.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width * SCALE, height * SCALE];
  canvas.getContext("2d")?.drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("no PNG was made"))), "image/png");
  });
}

/* Boxes and words */

/** Draw an element and what is in it. @param {Element} node @param {SVGElement} into */
function paint(node, into) {
  const style = getComputedStyle(node);
  const hasBox = style.display !== "contents";
  if (hasBox && !node.checkVisibility({ visibilityProperty: true, opacityProperty: true })) return;
  if (node.matches(".vh, input, select, textarea, noscript, title, .plain, .primary, .close")) return;
  if (node instanceof SVGSVGElement) {
    into.append(plot(node));
    return;
  }
  if (node instanceof HTMLCanvasElement) {
    const { left: x, top: y, width, height } = node.getBoundingClientRect();
    into.append(shape("image", { x, y, width, height, href: node.toDataURL() }));
    return;
  }
  for (const box of node.getClientRects()) boxes(box, style, into);
  for (const child of node.childNodes) {
    if (child instanceof Element) paint(child, into);
    else if (child instanceof Text) words(child, style, into);
  }
}

/** An element's background, borders and outline. @param {DOMRect} box @param {CSSStyleDeclaration} style
 * @param {SVGElement} into */
function boxes({ left: x, top: y, width, height }, style, into) {
  if (width <= 0 && height <= 0) return;
  const corner = Number.parseFloat(style.borderTopLeftRadius) || null;
  const rx = corner && style.borderTopLeftRadius.endsWith("%") ? (corner / 100) * Math.min(width, height) : corner;
  const behind = colour(style.backgroundColor);
  const line = colour(style.borderTopColor);
  const turned = style.rotate !== "none" || /^matrix\([^,]+, (?!0,)/.test(style.transform);
  if (turned || (rx && width === height && rx >= width / 2)) {
    // A mark of a plot: a diamond or a ring.
    const thick = Number.parseFloat(style.borderTopWidth);
    const edge = thick ? { stroke: line.fill, "stroke-width": thick } : {};
    const [cx, cy, half] = [x + width / 2, y + height / 2, (width - thick) / 2];
    const diamond = `${cx},${cy - half} ${cx + half},${cy} ${cx},${cy + half} ${cx - half},${cy}`;
    const look = { ...behind, ...edge };
    into.append(turned ? shape("polygon", { points: diamond, ...look }) : shape("circle", { cx, cy, r: half, ...look }));
    return;
  }
  if (behind["fill-opacity"] !== 0) into.append(shape("rect", { x, y, width, height, rx, ...behind }));
  for (const [side, x1, y1, x2, y2] of /** @type {const} */ ([
    ["Top", x, y, x + width, y],
    ["Right", x + width, y, x + width, y + height],
    ["Bottom", x, y + height, x + width, y + height],
    ["Left", x, y, x, y + height],
  ])) {
    const thick = Number.parseFloat(style[`border${side}Width`]);
    const { fill, "fill-opacity": opacity } = colour(style[`border${side}Color`]);
    if (!thick || style[`border${side}Style`] === "none" || opacity === 0) continue;
    into.append(shape("line", { x1, y1, x2, y2, stroke: fill, "stroke-opacity": opacity, "stroke-width": thick }));
  }
  const outlined = Number.parseFloat(style.outlineWidth);
  if (style.outlineStyle !== "none" && outlined) {
    const { fill } = colour(style.outlineColor);
    const dash = style.outlineStyle === "dashed" ? "3 2" : null;
    const outline = { fill: "none", stroke: fill, "stroke-width": outlined, "stroke-dasharray": dash };
    into.append(shape("rect", { x, y, width, height, rx, ...outline }));
  }
}

/** A text word by word, each where it stands: another font does not move the next ones.
 * @param {Text} text @param {CSSStyleDeclaration} style @param {SVGElement} into */
function words(text, style, into) {
  const range = document.createRange();
  const font = `${style.fontStyle} ${style.fontWeight} ${style.fontSize} ${style.fontFamily}`;
  const rise = measure(font).measureText("x").fontBoundingBoxAscent;
  const look = {
    "font-family": style.fontFamily,
    "font-size": Number.parseFloat(style.fontSize),
    "font-weight": style.fontWeight === "400" ? null : style.fontWeight,
    "font-style": style.fontStyle === "normal" ? null : style.fontStyle,
    ...colour(style.color),
  };
  for (const match of text.data.matchAll(/\S+/g)) {
    for (const [start, end] of onLines(text, match.index, match.index + match[0].length, range)) {
      range.setStart(text, start);
      range.setEnd(text, end);
      const { left, top, width } = range.getBoundingClientRect();
      if (!width) continue;
      const place = { x: left.toFixed(2), y: (top + rise).toFixed(2) };
      into.append(shape("text", { ...place, ...look }, text.data.slice(start, end)));
    }
  }
}

/** A word in parts, one for each line that it stands on. @param {Text} text @param {number} start
 * @param {number} end @param {Range} range @returns {[number, number][]} */
function onLines(text, start, end, range) {
  range.setStart(text, start);
  range.setEnd(text, end);
  if (range.getClientRects().length < 2) return [[start, end]];
  /** @type {[number, number][]} */
  const parts = [];
  let line = NaN;
  for (let at = start; at < end; ) {
    const next = at + String.fromCodePoint(text.data.codePointAt(at) ?? 0).length;
    range.setStart(text, at);
    range.setEnd(text, next);
    const { top } = range.getBoundingClientRect();
    if (top === line) parts[parts.length - 1][1] = next;
    else parts.push([at, next]);
    [line, at] = [top, next];
  }
  return parts;
}

/* Plots */

/** An SVG of the page where it stands, its style written into its shapes. @param {SVGSVGElement} svg */
function plot(svg) {
  const { left: x, top: y, width, height } = svg.getBoundingClientRect();
  const copy = styled(svg);
  for (const [name, value] of Object.entries({ x, y, width, height, overflow: "visible" })) {
    copy.setAttribute(name, String(value));
  }
  return copy;
}

/** @param {SVGElement} node @returns {SVGElement} */
function styled(node) {
  const style = getComputedStyle(node);
  const kind = node.localName === "a" ? "g" : node.localName;
  const copy = shape(kind, {});
  for (const { name, value } of node.attributes) if (KEPT.has(name)) copy.setAttribute(name, value);
  const holds = ["svg", "g"].includes(kind);
  for (const [name, property] of Object.entries(SHAPE)) {
    const value = /** @type {any} */ (style)[property];
    if (holds ? name !== "opacity" : TEXT.includes(name) && !["text", "tspan"].includes(kind)) continue;
    if (COLOURS.includes(name)) {
      const { fill, "fill-opacity": opacity } = value === "none" ? { fill: "none", "fill-opacity": 1 } : colour(value);
      copy.setAttribute(name, opacity === 0 ? "none" : fill);
      if (opacity && opacity < 1) copy.setAttribute(`${name}-opacity`, String(opacity));
    } else if (!STANDARD.has(value) && !copy.hasAttribute(name)) copy.setAttribute(name, value);
  }
  for (const child of node.childNodes) {
    if (child instanceof Text) copy.append(child.data);
    else if (child instanceof SVGElement && isDrawn(child)) copy.append(styled(child));
  }
  return copy;
}

/** Whether a shape can be seen: not what only the pointer finds. @param {SVGElement} node */
function isDrawn(node) {
  const { display, visibility, fill, stroke } = getComputedStyle(node);
  if (display === "none" || visibility === "hidden") return false;
  if (["g", "a", "svg", "text", "title", "tspan"].includes(node.localName)) return true;
  return [fill, stroke].some((each) => each !== "none" && colour(each)["fill-opacity"] !== 0);
}

/* Small things */

/** @param {string} name @param {Record<string, unknown>} attributes @param {string} [text] */
function shape(name, attributes, text) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key !== "xmlns" && value !== null && value !== undefined) node.setAttribute(key, String(value));
  }
  if (text !== undefined) node.textContent = text;
  return node;
}

/** @type {CanvasRenderingContext2D | null} */
let context = null;

/** A canvas to measure words on. @param {string} font */
function measure(font) {
  context ??= /** @type {CanvasRenderingContext2D} */ (
    document.createElement("canvas").getContext("2d", { willReadFrequently: true })
  );
  context.font = font;
  return context;
}

/** @type {Map<string, {fill: string, "fill-opacity": number}>} */
const colours = new Map();

/** A colour of any notation as one that every viewer knows. @param {string} css */
function colour(css) {
  const seen = colours.get(css);
  if (seen) return seen;
  const pen = measure("10px sans-serif");
  pen.clearRect(0, 0, 1, 1);
  pen.fillStyle = css;
  pen.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = pen.getImageData(0, 0, 1, 1).data;
  const hex = [r, g, b].map((each) => each.toString(16).padStart(2, "0")).join("");
  const made = { fill: `#${hex}`, "fill-opacity": Number((a / 255).toFixed(3)) };
  colours.set(css, made);
  return made;
}

/** A caption in lines of a width. @param {string} text @param {number} width @param {string} font */
function wrapped(text, width, font) {
  const pen = measure(font);
  const fits = (/** @type {string} */ line) => pen.measureText(line).width <= width;
  /** @type {string[]} */
  const lines = [];
  let line = "";
  for (const word of text.split(" ")) {
    let rest = word;
    if (line && !fits(`${line} ${word}`)) {
      lines.push(line);
      line = "";
    }
    // A long address has no spaces.
    while (!line && !fits(rest)) {
      let many = rest.length - 1;
      while (many > 1 && !fits(rest.slice(0, many))) many -= 1;
      lines.push(rest.slice(0, many));
      rest = rest.slice(many);
    }
    line = line ? `${line} ${rest}` : rest;
  }
  return [...lines, line].filter(Boolean);
}
