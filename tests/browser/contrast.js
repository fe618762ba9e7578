/* Texts on the page that do not stand out from what is behind them, by WCAG 2: 4.5 for text, 3 for
   large text. Disabled controls are exempt. */
() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, under) => under.map((value, i) => top[i] * top[3] + value * (1 - top[3]));
  const linear = (value) => (value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  const light = (colour) =>
    colour.reduce((sum, value, i) => sum + linear(value / 255) * [0.2126, 0.7152, 0.0722][i], 0);
  const ancestors = (node) => (node ? [node, ...ancestors(node.parentElement)] : []);
  const poor = new Set();
  for (const node of document.querySelectorAll("#jumpscope *")) {
    const own = [...node.childNodes].some(
      (child) => child.nodeType === 3 && child.textContent.trim(),
    );
    if (!own || !node.getClientRects().length) continue;
    if (node.closest(":disabled, .off, .vh, option")) continue;
    const styles = ancestors(node).map((each) => getComputedStyle(each));
    const under = styles
      .map((style) => rgba(style.backgroundColor))
      .reverse()
      .reduce((below, top) => over(top, below), [255, 255, 255]);
    const ink = rgba(styles[0].color);
    ink[3] *= styles.reduce((product, style) => product * Number(style.opacity), 1);
    const [a, b] = [light(over(ink, under)), light(under)].sort((x, y) => y - x);
    const size = parseFloat(styles[0].fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(styles[0].fontWeight) >= 700);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < (large ? 3 : 4.5)) {
      poor.add(`${ratio.toFixed(2)} ${node.tagName} ${node.textContent.trim().slice(0, 30)}`);
    }
  }
  return [...poor];
};
