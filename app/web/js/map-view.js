// @ts-check
/* Where the map's points are in the window, and how that is moved, by pointer, finger, wheel and
   keyboard. A view is what is in the window's middle, in parts of the map's side, and how many pixels
   a side has; x runs to the right and y upwards. What is under the pointer is a link that lies on its
   point, so that it has a card and opens like any. */

/** @typedef {{x: number, y: number, scale: number}} View */
/** @typedef {{width: number, height: number}} Size */
/** @typedef {{x: Float32Array, y: Float32Array}} Places parts of the map's side */

/** @typedef {import("./map-plot.js").Plot} Plot */
/**
 * @typedef {object} Parts
 * @property {HTMLAnchorElement} here
 * @property {HTMLButtonElement} lasso
 * @property {(i: number) => string} pageOf
 * @property {(i: number) => number} numberOf
 * @property {(points: number[]) => void} choose
 * @property {() => void} inView
 */

const ARRAYS = { "<u4": Uint32Array, "<u2": Uint16Array, "<f4": Float32Array };
const MARGIN = 0.94;
const CLOSEST = 4000; // times the whole map
const STILL = 4; // pixels that a click may move
const REACH = 10; // pixels from the pointer to the point that it means
const FINGER = 22;
const STEP = 60; // pixels of an arrow key
const ZOOM = 1.5; // of a key or a button

/** A column of the server's answer. @param {{dtype: string, data: string}} column */
export function decoded({ dtype, data }) {
  const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
  const Kind = ARRAYS[/** @type {keyof typeof ARRAYS} */ (dtype)];
  return new Kind(bytes.buffer);
}

/** The view of all of the map. @param {Size} size @returns {View} */
export const whole = ({ width, height }) => ({
  x: 0.5,
  y: 0.5,
  scale: Math.max(Math.min(width, height) * MARGIN, 1),
});

/** @param {View} view @param {Size} size @param {number} x @param {number} y @returns {[number, number]} */
export const toPixels = (view, size, x, y) => [
  (x - view.x) * view.scale + size.width / 2,
  size.height / 2 - (y - view.y) * view.scale,
];

/** @param {View} view @param {Size} size @param {number} left @param {number} top @returns {[number, number]} */
export const toMap = (view, size, left, top) => [
  (left - size.width / 2) / view.scale + view.x,
  (size.height / 2 - top) / view.scale + view.y,
];

/** A view that still shows some of the map. @param {View} view @param {Size} size @returns {View} */
export function bounded({ x, y, scale }, size) {
  const most = whole(size).scale;
  const part = (/** @type {number} */ value) => Math.min(Math.max(value, 0), 1);
  return { x: part(x), y: part(y), scale: Math.min(Math.max(scale, most / 2), most * CLOSEST) };
}

/** Zoomed so that what is under a pixel stays there.
 * @param {View} view @param {Size} size @param {number} factor @param {number} left @param {number} top */
export function zoomed(view, size, factor, left, top) {
  const { scale } = bounded({ ...view, scale: view.scale * factor }, size);
  const [x, y] = toMap(view, size, left, top);
  return bounded(
    {
      x: x - (left - size.width / 2) / scale,
      y: y - (size.height / 2 - top) / scale,
      scale,
    },
    size,
  );
}

/** @param {View} view @param {Size} size @param {number} right pixels @param {number} down */
export const moved = (view, size, right, down) =>
  bounded({ ...view, x: view.x - right / view.scale, y: view.y + down / view.scale }, size);

/** The point nearest to a pixel, at most `reach` pixels away; -1 for none.
 * @param {Places} places @param {View} view @param {Size} size @param {number} left @param {number} top
 * @param {number} reach @param {(i: number) => boolean} [among] */
export function nearest(places, view, size, left, top, reach, among = () => true) {
  const [x, y] = toMap(view, size, left, top);
  let best = (reach / view.scale) ** 2;
  let result = -1;
  for (let i = 0; i < places.x.length; i++) {
    const apart = (places.x[i] - x) ** 2 + (places.y[i] - y) ** 2;
    if (apart <= best && among(i)) [best, result] = [apart, i];
  }
  return result;
}

/** Whether a point is inside of a closed line, by the number of its sides to the right of it.
 * @param {[number, number][]} line @param {number} x @param {number} y */
export function isInside(line, x, y) {
  let inside = false;
  for (let i = 0, j = line.length - 1; i < line.length; j = i++) {
    const [ax, ay] = line[i];
    const [bx, by] = line[j];
    if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) inside = !inside;
  }
  return inside;
}

/** The points inside of a line drawn in the window.
 * @param {Places} places @param {View} view @param {Size} size @param {[number, number][]} line pixels */
export function enclosed(places, view, size, line) {
  /** @type {number[]} */
  const result = [];
  if (line.length < 3) return result;
  const lefts = line.map(([left]) => left);
  const tops = line.map(([, top]) => top);
  const [left, right] = [Math.min(...lefts), Math.max(...lefts)];
  const [top, bottom] = [Math.min(...tops), Math.max(...tops)];
  for (let i = 0; i < places.x.length; i++) {
    const [x, y] = toPixels(view, size, places.x[i], places.y[i]);
    const near = x >= left && x <= right && y >= top && y <= bottom;
    if (near && isInside(line, x, y)) result.push(i);
  }
  return result;
}

/** @param {Plot} plot @param {Parts} parts */
export function startMoving(plot, { here, lasso, pageOf, numberOf, choose, inView }) {
  const { host } = plot;
  /** @type {Map<number, [number, number]>} */
  const down = new Map();
  /** @type {[number, number] | null} where the pointer went down, as long as it is still */
  let begun = null;
  let drawing = false;
  let dragged = false;

  /** @param {PointerEvent | WheelEvent} event @returns {[number, number]} */
  const place = (event) => {
    const box = host.getBoundingClientRect();
    return [event.clientX - box.left - host.clientLeft, event.clientY - box.top - host.clientTop];
  };

  /** @param {View} view */
  function look(view) {
    plot.view = view;
    point(-1);
    plot.draw();
  }

  /** Zoom about the middle of the window. @param {number} factor */
  const zoom = (factor) =>
    look(zoomed(plot.view, plot.size, factor, plot.size.width / 2, plot.size.height / 2));

  /** @param {number} left @param {number} top @param {number} reach */
  const under = (left, top, reach) =>
    nearest(plot.places, plot.view, plot.size, left, top, reach, (i) => plot.isBright(i));

  /** Lay the link on a point; -1: on none. The pointer rests when the link comes under it, so nothing
   * else says that it points at a feature now (glance.js). @param {number} i */
  function point(i) {
    const before = here.hidden ? -1 : Number(here.dataset.point);
    here.hidden = i < 0;
    if (i >= 0) {
      const [x, y] = plot.at(i);
      here.style.transform = `translate(${x}px, ${y}px)`;
      here.dataset.point = String(i);
      here.href = pageOf(i);
      here.setAttribute("aria-label", `#${numberOf(i)}`);
    }
    if (i !== before) (i < 0 ? host : here).dispatchEvent(new CustomEvent("pointed", { bubbles: true }));
  }

  host.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    down.set(event.pointerId, place(event));
    begun = down.size === 1 ? place(event) : null;
    dragged = down.size > 1;
    drawing = down.size === 1 && (event.shiftKey || lasso.ariaPressed === "true");
    plot.line = [];
  });

  host.addEventListener("pointermove", (event) => {
    const now = place(event);
    const before = down.get(event.pointerId);
    if (!before) {
      if (event.pointerType === "mouse" && event.buttons === 0) point(under(...now, REACH));
      return;
    }
    if (begun && Math.hypot(now[0] - begun[0], now[1] - begun[1]) < STILL) return;
    if (begun) {
      // Only now: a click that is caught here would not reach the link.
      host.setPointerCapture(event.pointerId);
      begun = null;
      dragged = true;
      host.classList.add("dragging");
      if (drawing) plot.line = [before];
    }
    const others = [...down].filter(([id]) => id !== event.pointerId).map(([, other]) => other);
    down.set(event.pointerId, now);
    point(-1);
    if (drawing) {
      plot.line.push(now);
      plot.draw();
    } else if (others.length === 1) pinch(before, now, others[0]);
    else if (!others.length) look(moved(plot.view, plot.size, now[0] - before[0], now[1] - before[1]));
  });

  /** Two fingers: what is between them goes with them.
   * @param {[number, number]} before @param {[number, number]} now @param {[number, number]} other */
  function pinch(before, now, other) {
    const apart = (/** @type {[number, number]} */ one) =>
      Math.max(Math.hypot(one[0] - other[0], one[1] - other[1]), 1);
    const between = [(before[0] + other[0]) / 2, (before[1] + other[1]) / 2];
    const closer = zoomed(plot.view, plot.size, apart(now) / apart(before), between[0], between[1]);
    look(moved(closer, plot.size, (now[0] - before[0]) / 2, (now[1] - before[1]) / 2));
  }

  /** @param {PointerEvent} event */
  function up(event) {
    if (!down.delete(event.pointerId)) return;
    host.classList.remove("dragging");
    if (plot.line.length) {
      const line = plot.line;
      plot.line = [];
      plot.draw();
      if (event.type === "pointerup") choose(enclosed(plot.places, plot.view, plot.size, line).filter((i) => plot.isBright(i)));
    } else if (!dragged && event.type === "pointerup" && event.pointerType !== "mouse") {
      const i = under(...place(event), FINGER);
      if (i >= 0) choose([i]);
    }
  }
  host.addEventListener("pointerup", up);
  host.addEventListener("pointercancel", up);
  host.addEventListener("pointerleave", () => {
    if (!down.size && !here.matches(":hover")) point(-1);
  });
  host.addEventListener("click", (event) => {
    if (dragged) event.preventDefault();
    dragged = false;
  });

  host.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      const lines = event.deltaMode === WheelEvent.DOM_DELTA_PIXEL ? 1 : 30;
      look(zoomed(plot.view, plot.size, Math.exp(-event.deltaY * lines * 0.002), ...place(event)));
    },
    { passive: false },
  );

  /** @type {Record<string, () => void>} */
  const keys = {
    ArrowLeft: () => look(moved(plot.view, plot.size, STEP, 0)),
    ArrowRight: () => look(moved(plot.view, plot.size, -STEP, 0)),
    ArrowUp: () => look(moved(plot.view, plot.size, 0, STEP)),
    ArrowDown: () => look(moved(plot.view, plot.size, 0, -STEP)),
    "+": () => zoom(ZOOM),
    "=": () => zoom(ZOOM),
    "-": () => zoom(1 / ZOOM),
    0: () => look(whole(plot.size)),
    Enter: inView,
  };
  host.addEventListener("keydown", (event) => {
    if (event.target !== host || event.ctrlKey || event.metaKey || event.altKey) return;
    const act = keys[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });

  document.getElementById("map-closer")?.addEventListener("click", () => zoom(ZOOM));
  document.getElementById("map-farther")?.addEventListener("click", () => zoom(1 / ZOOM));
  document.getElementById("map-whole")?.addEventListener("click", keys[0]);
  lasso.addEventListener("click", () => {
    const pressed = lasso.ariaPressed !== "true";
    lasso.ariaPressed = String(pressed);
    host.classList.toggle("lasso", pressed);
  });

  new ResizeObserver(() => plot.resize()).observe(host);
  // Colours are those of the scheme.
  new MutationObserver(() => plot.draw()).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  for (const query of ["(prefers-color-scheme: dark)", "(forced-colors: active)", "(prefers-contrast: more)"]) {
    matchMedia(query).addEventListener("change", () => plot.draw());
  }
}
