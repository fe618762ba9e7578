// @ts-check
/* Style sheets keep to their pages: every rule in a page's own sheet begins with
   `[data-page="NAME"]`, so that no class of one page lays out another. */

(() => {
  const { visual } = /** @type {any} */ (globalThis);
  const PAGES = ["overview", "features", "prompt", "steer", "run", "api"];

  /** The name of a sheet: the first word of its file's name, or its element's `data-sheet`.
   * @param {CSSStyleSheet} sheet */
  function nameOf({ href, ownerNode }) {
    const file = href ? (new URL(href).pathname.split("/").pop() ?? "") : "";
    return /^[a-z]+/.exec(file)?.[0] ?? /** @type {any} */ (ownerNode)?.dataset?.sheet ?? "";
  }

  /** The selectors of a list, parted at commas outside brackets. @param {string} list */
  function selectors(list) {
    let depth = 0;
    let all = [""];
    for (const sign of list) {
      if (/[([]/.test(sign)) depth += 1;
      if (/[)\]]/.test(sign)) depth -= 1;
      if (sign === "," && depth === 0) all = [...all, ""];
      else all[all.length - 1] += sign;
    }
    return all.map((each) => each.trim());
  }

  /** @param {CSSRuleList} rules @param {string} page @param {string[]} says */
  function visit(rules, page, says) {
    const scope = new RegExp(`^(html|:root)?(:where\\()?\\[data-page="?${page}"?\\]`);
    for (const rule of rules) {
      if (rule instanceof CSSStyleRule) {
        // What is nested in a rule is within its scope.
        for (const each of selectors(rule.selectorText)) {
          if (!scope.test(each)) {
            says.push(`${page}: "${each}" does not begin with [data-page="${page}"]`);
          }
        }
      } else if ("cssRules" in rule && !(rule instanceof CSSKeyframesRule)) {
        visit(/** @type {CSSGroupingRule} */ (rule).cssRules, page, says);
      }
    }
  }

  /** Rules of pages' sheets that reach other pages. */
  function sheets() {
    /** @type {string[]} */
    const says = [];
    for (const sheet of document.styleSheets) {
      const page = nameOf(sheet);
      if (PAGES.includes(page)) visit(sheet.cssRules, page, says);
    }
    return says;
  }

  const sheetNames = () => [...document.styleSheets].map(nameOf);

  Object.assign(visual, { sheetNames, sheets });
})();
