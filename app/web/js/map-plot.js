// @ts-check
/* The map as a picture. Points are written straight into the pixels of one canvas, so that a hundred
   thousand are drawn within a frame; rings and lines go on a second one above it. */

import { toPixels, whole } from "./map-view.js";

/** @typedef {import("./map-view.js").Places} Places */
/** @typedef {import("./map-view.js").View} View */
/** @typedef {{dx: Int32Array, dy: Int32Array, alpha: Uint8Array, reach: number}} Stamp */

const FAINT = 0x38;
const FULL = 0xff;

/** How large points are, in CSS pixels: so that they do not cover each other, and larger nearer by.
 * @param {number} count @param {View} view @param {{width: number, height: number}} size */
export function radiusOf(count, view, size) {
  const scale = whole(size).scale;
  const base = Math.min(Math.max((scale / Math.sqrt(Math.max(count, 1))) * 0.3, 1.1), 3.2);
  return Math.min(base * (view.scale / scale) ** 0.3, 8);
}

/** The pixels of a disc around its middle, each with how much of it is covered.
 * @param {number} radius device pixels @returns {Stamp} */
export function stamp(radius) {
  const reach = Math.ceil(radius + 0.5);
  const [dx, dy, alpha] = [[], [], []].map(() => /** @type {number[]} */ ([]));
  for (let y = -reach; y <= reach; y++) {
    for (let x = -reach; x <= reach; x++) {
      const covered = Math.min(Math.max(radius + 0.5 - Math.hypot(x, y), 0), 1);
      if (!covered) continue;
      dx.push(x);
      dy.push(y);
      alpha.push(Math.round(covered * FULL));
    }
  }
  return { dx: Int32Array.from(dx), dy: Int32Array.from(dy), alpha: Uint8Array.from(alpha), reach };
}

export class Plot {
  /** @param {HTMLElement} host @param {HTMLCanvasElement} dots @param {HTMLCanvasElement} marks */
  constructor(host, dots, marks) {
    this.host = host;
    this.dots = /** @type {CanvasRenderingContext2D} */ (dots.getContext("2d"));
    this.marks = /** @type {CanvasRenderingContext2D} */ (marks.getContext("2d"));
    /** @type {Places} */
    this.places = { x: new Float32Array(), y: new Float32Array() };
    /** @type {ArrayLike<number>} */
    this.classOf = new Uint8Array();
    /** @type {string[]} a class of the style sheet for each class of points */
    this.looks = [];
    /** @type {Set<number>} classes that are shown alone; none: all */
    this.only = new Set();
    /** @type {Set<number>} */
    this.matches = new Set();
    /** @type {Set<number>} */
    this.selected = new Set();
    this.marked = -1;
    this.markedWords = "";
    /** @type {[number, number][]} */
    this.line = [];
    this.size = { width: 1, height: 1 };
    this.view = whole(this.size);
    this.asked = 0;
    /** @type {Map<string, number>} */
    this.cache = new Map();
    this.resize();
  }

  /** Take the size of the host; the map stays where it is. */
  resize() {
    const { clientWidth: width, clientHeight: height } = this.host;
    if (!width || !height) return;
    const parts = this.view.scale / whole(this.size).scale;
    this.size = { width, height };
    this.view = { ...this.view, scale: whole(this.size).scale * parts };
    this.ratio = Math.min(devicePixelRatio || 1, 2);
    for (const { canvas } of [this.dots, this.marks]) {
      canvas.width = Math.round(width * this.ratio);
      canvas.height = Math.round(height * this.ratio);
    }
    this.image = this.dots.createImageData(this.dots.canvas.width, this.dots.canvas.height);
    this.pixels = new Uint32Array(this.image.data.buffer);
    this.draw();
  }

  /** Whether a point is drawn in full. @param {number} i */
  isBright(i) {
    if (this.only.size && !this.only.has(this.classOf[i])) return false;
    return !this.matches.size || this.matches.has(i);
  }

  /** Draw at the next frame. */
  draw() {
    this.asked ||= requestAnimationFrame(() => {
      this.asked = 0;
      this.drawNow();
    });
  }

  drawNow() {
    if (!this.image || !this.pixels) return;
    this.pixels.fill(0);
    const colours = this.looks.map((look) => this.colour(look));
    const plain = !this.only.size && !this.matches.size;
    const disc = stamp(radiusOf(this.places.x.length, this.view, this.size) * (this.ratio ?? 1));
    if (!plain) this.write(disc, colours, (i) => !this.isBright(i), FAINT);
    this.write(disc, colours, plain ? null : (i) => this.isBright(i), FULL);
    this.dots.putImageData(this.image, 0, 0);
    this.drawMarks();
  }

  /** Points into the pixels.
   * @param {Stamp} disc @param {number[]} colours @param {((i: number) => boolean) | null} wanted
   * @param {number} strength */
  write({ dx, dy, alpha, reach }, colours, wanted, strength) {
    const { width, height } = this.dots.canvas;
    const pixels = /** @type {Uint32Array} */ (this.pixels);
    const ratio = this.ratio ?? 1;
    const { x: xs, y: ys } = this.places;
    const scale = this.view.scale * ratio;
    const left = width / 2 - this.view.x * scale;
    const top = height / 2 + this.view.y * scale;
    for (let i = 0; i < xs.length; i++) {
      const x = Math.round(xs[i] * scale + left);
      const y = Math.round(top - ys[i] * scale);
      if (x < -reach || y < -reach || x >= width + reach || y >= height + reach) continue;
      if (wanted && !wanted(i)) continue;
      const colour = colours[this.classOf[i]];
      const cut = x < reach || y < reach || x >= width - reach || y >= height - reach;
      for (let k = 0; k < dx.length; k++) {
        const px = x + dx[k];
        const py = y + dy[k];
        if (cut && (px < 0 || py < 0 || px >= width || py >= height)) continue;
        const at = py * width + px;
        const cover = (alpha[k] * strength) / FULL;
        // An edge takes nothing from a point that is there.
        if (pixels[at] >>> 24 < cover) pixels[at] = colour | (cover << 24);
      }
    }
  }

  /** Rings around what matches, frames around what is selected, a cross at the feature that the
   * address names, and the lasso. */
  drawMarks() {
    const { marks, size } = this;
    const ratio = this.ratio ?? 1;
    const radius = radiusOf(this.places.x.length, this.view, size) + 3;
    marks.setTransform(ratio, 0, 0, ratio, 0, 0);
    marks.clearRect(0, 0, size.width, size.height);
    marks.lineWidth = 1.5;
    marks.strokeStyle = this.css("ring");
    marks.beginPath();
    for (const i of this.matches) {
      const [x, y] = this.at(i);
      marks.moveTo(x + radius, y);
      marks.arc(x, y, radius, 0, 2 * Math.PI);
    }
    marks.stroke();
    marks.strokeStyle = this.css("frame");
    marks.beginPath();
    for (const i of this.selected) {
      if (this.matches.has(i)) continue;
      const [x, y] = this.at(i);
      marks.rect(x - radius, y - radius, 2 * radius, 2 * radius);
    }
    marks.stroke();
    if (this.marked >= 0) this.drawCross(radius + 3);
    if (this.line.length > 1) {
      marks.strokeStyle = this.css("ring");
      marks.setLineDash([5, 4]);
      marks.beginPath();
      for (const [x, y] of this.line) marks.lineTo(x, y);
      marks.closePath();
      marks.stroke();
      marks.setLineDash([]);
    }
  }

  /** @param {number} radius */
  drawCross(radius) {
    const { marks } = this;
    const [x, y] = this.at(this.marked);
    marks.strokeStyle = marks.fillStyle = this.css("ring");
    marks.lineWidth = 2;
    marks.beginPath();
    marks.arc(x, y, radius, 0, 2 * Math.PI);
    for (const [right, down] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      marks.moveTo(x + right * radius, y + down * radius);
      marks.lineTo(x + right * (radius + 8), y + down * (radius + 8));
    }
    marks.stroke();
    marks.font = "600 14px system-ui, sans-serif";
    const text = /** @type {const} */ ([this.markedWords, x + radius + 4, y - radius - 2]);
    marks.strokeStyle = this.css("behind");
    marks.lineWidth = 4;
    marks.strokeText(...text);
    marks.fillText(...text);
  }

  /** Where a point is, in CSS pixels. @param {number} i */
  at(i) {
    return toPixels(this.view, this.size, this.places.x[i], this.places.y[i]);
  }

  /** What the style sheet has as colour for `look`. @param {string} look */
  css(look) {
    const probe = this.host.querySelector(`.probe.${look}`);
    return probe ? getComputedStyle(probe).color : "#888";
  }

  /** The same as the three lower bytes of a pixel. @param {string} look */
  colour(look) {
    const css = this.css(look);
    const kept = this.cache.get(css);
    if (kept !== undefined) return kept;
    const one = /** @type {OffscreenCanvasRenderingContext2D} */ (
      new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true })
    );
    one.fillStyle = css;
    one.fillRect(0, 0, 1, 1);
    const [red, green, blue] = one.getImageData(0, 0, 1, 1).data;
    const colour = red | (green << 8) | (blue << 16);
    this.cache.set(css, colour);
    return colour;
  }
}
