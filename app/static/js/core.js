/* What every page uses: the channels to the server, numbers, small pieces of DOM, the theme.

   A channel is an invisible Gradio component (app/pages/channel.py). `ask` sends a question and
   calls back with each answer to it; an answer to an older question is dropped, so the latest
   question always wins. Text from outside only ever becomes textContent. */

window.jumpscope = (() => {
  "use strict";

  const channels = new Map();
  let lastId = 0;

  const channel = (name) => {
    if (!channels.has(name)) channels.set(name, { send: null, waiting: null, current: null });
    return channels.get(name);
  };

  /* Called by the component itself once it stands in the page. */
  function connect(name, event, trigger, props, watch) {
    const c = channel(name);
    c.send = (message) => trigger(event, message);
    watch("value", () => receive(name, props.value));
    if (c.waiting) {
      c.send(c.waiting);
      c.waiting = null;
    }
  }

  /* A `quiet` question shows nobody that it waits. */
  function ask(name, question, onAnswer, { quiet = false } = {}) {
    const c = channel(name);
    c.current = { id: ++lastId, onAnswer, quiet };
    const message = { id: c.current.id, ask: question };
    if (c.send) c.send(message);
    else c.waiting = message;
    busy();
  }

  function receive(name, text) {
    if (!text) return;
    const answer = JSON.parse(text);
    const c = channel(name);
    if (!c.current || answer.id !== c.current.id) return;
    const { onAnswer } = c.current;
    if (answer.final) c.current = null;
    busy();
    onAnswer(answer);
  }

  /* Gradio could not deliver: the server is gone or its queue is full. */
  function failed(name) {
    const c = channel(name);
    if (!c.current) return;
    const { onAnswer } = c.current;
    c.current = null;
    busy();
    onAnswer({
      final: true,
      error: "The server did not answer: it is busy or has stopped. Try again.",
    });
  }

  /* Ask a stream to end; its last answer says that it was stopped. */
  function stop(name) {
    const c = channel(name);
    if (c.current) ask(`stop-${name}`, { stop: c.current.id }, () => {});
  }

  /* No longer interested: what still arrives is dropped. */
  function forget(name) {
    channel(name).current = null;
    busy();
  }

  const pending = (name) => channel(name).current !== null;

  /* A thin line under the navigation, shown by the style sheet after a moment of waiting. */
  function busy() {
    const waiting = [...channels.values()].some((c) => c.current && !c.current.quiet);
    document.documentElement.toggleAttribute("data-busy", waiting);
    document.getElementById("content")?.setAttribute("aria-busy", String(waiting));
  }

  /* Numbers, by the rules of app/render/numbers.py. */
  const MINUS = "\u2212";
  // Made once for each number of decimals: making one costs more than a table row.
  const formats = new Map();
  function grouped(value, decimals) {
    if (!formats.has(decimals)) {
      const digits = { minimumFractionDigits: decimals, maximumFractionDigits: decimals };
      formats.set(decimals, new Intl.NumberFormat("en-US", digits));
    }
    return formats.get(decimals).format(Math.abs(value));
  }

  const format = {
    number(value, digits = 3) {
      if (value === null || !Number.isFinite(value)) return "–";
      if (value === 0) return "0";
      const decimals = Math.min(
        8,
        Math.max(0, digits - 1 - Math.floor(Math.log10(Math.abs(value)))),
      );
      return (value < 0 ? MINUS : "") + grouped(value, decimals);
    },
    fixed(value, decimals) {
      if (value === null || !Number.isFinite(value)) return "–";
      return (value < 0 ? MINUS : "") + grouped(value, decimals);
    },
    signed(value, decimals = 2) {
      if (value === null || !Number.isFinite(value)) return "–";
      return (value < 0 ? MINUS : "+") + grouped(value, decimals);
    },
    percent(share) {
      if (!Number.isFinite(share)) return "–";
      const value = 100 * share;
      return (value >= 10 || value === 0 ? grouped(value, 0) : format.number(value, 2)) + "\u00a0%";
    },
  };

  /* An element: el("a", {href: "…", class: "id"}, "text", child). Children become text nodes. */
  function el(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children.flat().filter((child) => child !== null && child !== undefined));
    return node;
  }

  /* A token's text in a node: line breaks are drawn and kept. */
  function tokenText(node, text) {
    const [first, ...rest] = text.replaceAll("\r", "").split("\n");
    if (first) node.append(first);
    for (const part of rest) {
      node.append(el("i", { class: "nl" }, "↵"), el("br"));
      if (part) node.append(part);
    }
    return node;
  }

  const quoted = (text) => `“${text.replaceAll("\n", "↵").replaceAll("\t", "⇥")}”`;

  /* The address of a page; empty values are left out. */
  function address(page, query) {
    const kept = new URLSearchParams();
    for (const [name, value] of Object.entries(query)) {
      if (value !== null && value !== undefined && value !== "") kept.set(name, value);
    }
    const text = kept.toString();
    return text ? `${page}?${text}` : page;
  }

  /* The query of this page. Values too long for a link (the server takes 64 KB in all) are kept in
     the history instead: back, forward and reloading bring them back, a link leaves them out. */
  const LONGEST = 6000;
  const query = () => ({
    ...history.state?.long,
    ...Object.fromEntries(new URLSearchParams(location.search)),
  });

  function setQuery(values, { push = false } = {}) {
    const entries = Object.entries(values);
    const tooLong = ([, value]) => encodeURIComponent(value ?? "").length > LONGEST;
    const long = Object.fromEntries(entries.filter(tooLong));
    const short = Object.fromEntries(entries.filter((entry) => !tooLong(entry)));
    const target = address(location.pathname, short);
    const same = target === location.pathname + location.search;
    history[push && !same ? "pushState" : "replaceState"]({ long }, "", target);
    carrySae();
  }

  /* The SAE on the page; "" in the address stands for the bundle's first. */
  const select = () => document.getElementById("sae");
  const firstSae = () => select().options[0].value;
  const sae = () => query().sae || firstSae();
  const saeInAddress = (name) => (name === firstSae() ? "" : name);
  const saes = () => [...select().options].map((option) => [option.value, option.textContent]);
  /* Where an SAE reads, as the choice of SAE says it; its name where two read at one place. */
  const place = (words) => words.replace(/ · [0-9,]+ features$/, "");
  function saeLabel(name) {
    const words = place(saes().find(([value]) => value === name)?.[1] ?? name);
    return saes().filter(([, other]) => place(other) === words).length > 1 ? name : words;
  }
  const known = (name) => [...select().options].some((option) => option.value === name);

  /* The links of the navigation keep the SAE; whoever shows something of it hears of a change. */
  function carrySae() {
    const name = known(sae()) ? saeInAddress(sae()) : "";
    for (const link of document.querySelectorAll("a[data-page]")) {
      link.setAttribute("href", address(link.getAttribute("href").split("?")[0], { sae: name }));
    }
    if (known(sae())) select().value = sae();
    document.dispatchEvent(new Event("jumpscope:sae"));
  }

  function problem(sentence) {
    return el("p", { class: "problem", role: "alert" }, sentence);
  }

  function title(text) {
    document.title = text ? `${text} · Jumpscope` : "Jumpscope";
  }

  async function copy(text, button, done = "Copied") {
    const words = button.textContent;
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = done;
    } catch {
      button.textContent = "Copying is not allowed here";
    }
    setTimeout(() => (button.textContent = words), 1600);
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("[data-copy]");
    if (button) copy(button.dataset.copy, button);
  });

  /* That an SAE has no index, and the command that builds it, as app/render/notices.py writes it. */
  function missing({ reason, command }) {
    const words = `${reason}, so what its features fire on is not known. `;
    const button = el("button", { type: "button", class: "plain", "data-copy": command }, "Copy");
    return el(
      "div",
      { class: "panel notice", role: "note" },
      el("p", {}, `${words}This builds it from text of yours:`),
      el("div", { class: "command" }, el("code", {}, command), button),
    );
  }

  /* Colours: as the system, light or dark. */
  const THEMES = { system: "as the system", light: "light", dark: "dark" };
  const theme = () => localStorage.getItem("jumpscope-theme") ?? "system";
  function paint() {
    const chosen = theme() in THEMES ? theme() : "system";
    document.documentElement.dataset.theme = chosen;
    const dark =
      chosen === "dark" ||
      (chosen === "system" && matchMedia("(prefers-color-scheme: dark)").matches);
    document.documentElement.dataset.dark = String(dark);
    document.body?.classList.toggle("dark", dark);
    document.getElementById("theme")?.setAttribute("aria-label", `Colours: ${THEMES[chosen]}`);
    document.getElementById("theme")?.setAttribute("data-tip", `Colours: ${THEMES[chosen]}`);
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
  paint();

  const pages = {};

  /* Called by the frame once it stands in the page. */
  function mount(root) {
    // Gradio wraps everything, the navigation too, in its own main landmark.
    root.closest("main")?.setAttribute("role", "presentation");
    const main = root.querySelector("#content");
    paint();
    root.querySelector("#theme").addEventListener("click", () => {
      const names = Object.keys(THEMES);
      localStorage.setItem("jumpscope-theme", names[(names.indexOf(theme()) + 1) % names.length]);
      paint();
    });
    // The document has a base address, which would turn "#content" into another page.
    root.querySelector(".skip").addEventListener("click", (event) => {
      event.preventDefault();
      main.focus();
    });
    carrySae();
    pages[main.dataset.pageName](main);
  }

  return {
    connect,
    ask,
    failed,
    stop,
    forget,
    pending,
    format,
    el,
    tokenText,
    quoted,
    address,
    query,
    setQuery,
    sae,
    saeInAddress,
    saes,
    saeLabel,
    known,
    carrySae,
    problem,
    missing,
    title,
    copy,
    mount,
    pages,
  };
})();
