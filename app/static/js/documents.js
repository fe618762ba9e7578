/* Pages that the server draws: overview, feature list, feature. The address says what to show; links
   within the page change it without loading the page again, and back and forward work. */

(() => {
  "use strict";

  const js = window.jumpscope;

  const here = (link) => link.origin === location.origin && link.pathname === location.pathname;

  function documents(main) {
    history.scrollRestoration = "manual";

    function show({ scroll = 0, focus = true } = {}) {
      js.ask("show", { search: location.search }, (answer) => {
        if (answer.address) history.replaceState(history.state, "", answer.address);
        js.carrySae();
        if (answer.error) {
          main.replaceChildren(
            js.el("h1", {}, "Nothing to show"),
            js.problem(answer.error),
            back(),
          );
          js.title("Nothing to show");
        } else {
          swap(main, answer.html);
          js.title(answer.title);
        }
        if (scroll !== null) window.scrollTo(0, scroll);
        if (focus && document.activeElement === document.body) refocus(main);
        main.dispatchEvent(new Event("jumpscope:shown"));
      });
    }

    const back = () =>
      js.el(
        "p",
        {},
        js.el("a", { href: js.address("features", { sae: saeIfKnown() }) }, "All features"),
      );
    const saeIfKnown = () => (js.known(js.sae()) ? js.saeInAddress(js.sae()) : "");

    function go(target, { push = true, scroll = 0 } = {}) {
      if (push) {
        history.replaceState({ ...history.state, scroll: window.scrollY }, "");
        history.pushState({}, "", target);
      } else {
        history.replaceState(history.state, "", target);
      }
      show({ scroll });
    }

    addEventListener("popstate", () => show({ scroll: history.state?.scroll ?? 0 }));

    main.addEventListener("click", (event) => {
      const link = event.target.closest("a[href]");
      if (
        !link ||
        event.defaultPrevented ||
        event.button ||
        event.ctrlKey ||
        event.metaKey ||
        event.shiftKey
      )
        return;
      // An SVG link's address is an object of its own kind.
      const target = new URL(link.href.baseVal ?? link.href, document.baseURI);
      if (!here(target)) {
        if (link.href.baseVal) {
          event.preventDefault();
          location.assign(target);
        }
        return;
      }
      event.preventDefault();
      go(target.href, { scroll: link.closest("[data-part]") && link.closest("th") ? null : 0 });
    });

    document.getElementById("sae").addEventListener("change", (event) => {
      const kept = js.query();
      // A feature's number means nothing in another SAE.
      delete kept.feature;
      delete kept.page;
      go(js.address(location.pathname, { ...kept, sae: js.saeInAddress(event.target.value) }));
    });

    show();
    return { go };
  }

  /* Put new markup in place. Parts of the same view are exchanged, so that the field somebody is
     typing in stays; the focus returns to the element with the same id. */
  function swap(main, html) {
    const focused = document.activeElement?.id;
    const fresh = document.createElement("template");
    fresh.innerHTML = html;
    const [from, to] = [fresh.content.firstElementChild, main.firstElementChild];
    const parts = [...from.querySelectorAll("[data-part]")];
    if (to?.dataset.view === from.dataset.view && parts.length) {
      for (const part of parts)
        main.querySelector(`[data-part="${part.dataset.part}"]`).replaceWith(part);
    } else {
      main.replaceChildren(fresh.content);
    }
    if (focused && document.activeElement === document.body) {
      document.getElementById(focused)?.focus({ preventScroll: true });
    }
  }

  let opened = false;

  function refocus(main) {
    // Not when the page has just been opened: the first Tab belongs to the navigation.
    if (opened) {
      const heading = main.querySelector("h1");
      heading?.setAttribute("tabindex", "-1");
      heading?.focus({ preventScroll: true });
    }
    opened = true;
  }

  js.pages.overview = (main) => {
    js.followMemory(main);
    documents(main);
    // Gradio's page of the API, which lists what this page of the app brings: all endpoints.
    const showApi = () => document.querySelector("footer .show-api")?.click();
    document.getElementById("api").addEventListener("click", (event) => {
      event.preventDefault();
      showApi();
    });
    // Gradio's own `?view=api` opens nothing on loading, and makes its button close it.
    if (js.query().api) setTimeout(showApi);
  };

  js.pages.features = (main) => {
    const { go } = documents(main);
    searching(main, go);
    testing(main);
    unfolding(main);
    shortcuts(main);
  };

  function searching(main, go) {
    let timer = 0;
    const search = (form, push) => {
      const values = Object.fromEntries(new FormData(form));
      // Sorting may have changed since the form was drawn.
      const { sort, desc } = js.query();
      go(js.address(location.pathname, { ...values, sort, desc }), { push, scroll: null });
    };
    main.addEventListener("input", (event) => {
      const form = event.target.closest("form[data-search]");
      if (!form) return;
      clearTimeout(timer);
      // Typing is one step of the history, a choice another.
      const typing = event.target.name === "q";
      timer = setTimeout(() => search(form, !typing || !js.query().q), typing ? 160 : 0);
    });
    main.addEventListener("submit", (event) => {
      if (!event.target.matches("form[data-search]")) return;
      event.preventDefault();
      clearTimeout(timer);
      const { q, sae } = Object.fromEntries(new FormData(event.target));
      // Where features are found by number alone, Enter opens the one.
      const number = /^\s*#?(\d+)\s*$/.exec(q);
      if ("jump" in event.target.dataset && number)
        go(js.address(location.pathname, { sae, feature: number[1] }));
      else search(event.target, false);
    });
    // Links, back and forward: the fields say what the address says, but for one being typed in.
    main.addEventListener("jumpscope:shown", () => {
      const form = main.querySelector("form[data-search]");
      if (!form) return;
      const query = js.query();
      for (const name of ["q", "min", "max"]) {
        const field = form.elements[name];
        if (field && field !== document.activeElement) field.value = query[name] ?? "";
      }
    });
  }

  function testing(main) {
    let timer = 0;
    const test = (form) => {
      const view = form.closest("[data-view]");
      const text = form.elements.text.value;
      js.setQuery({ ...js.query(), text });
      for (const id of ["previous", "next", "random"]) {
        const link = document.getElementById(id);
        if (!link?.href) continue;
        const target = new URL(link.href);
        if (text) target.searchParams.set("text", text);
        else target.searchParams.delete("text");
        link.href = target.href;
      }
      const result = form.querySelector(".result");
      if (!text.trim()) return result.replaceChildren();
      return js.ask(
        "test",
        { sae: view.dataset.sae, feature: Number(view.dataset.feature), text },
        (answer) => {
          if (answer.error) result.replaceChildren(js.problem(answer.error));
          else result.innerHTML = answer.html;
        },
      );
    };
    main.addEventListener("input", (event) => {
      const form = event.target.closest("form[data-test]");
      if (!form) return;
      clearTimeout(timer);
      timer = setTimeout(() => test(form), 220);
    });
    main.addEventListener("submit", (event) => {
      if (!event.target.matches("form[data-test]")) return;
      event.preventDefault();
      clearTimeout(timer);
      test(event.target);
    });
    main.addEventListener("jumpscope:shown", () => {
      const form = main.querySelector("form[data-test]");
      if (form?.elements.text.value) test(form);
    });
  }

  function unfolding(main) {
    main.addEventListener("click", (event) => {
      const button = event.target.closest("[data-unfold]");
      if (!button) return;
      const folded = main.querySelector(".contexts").classList.toggle("compact");
      button.setAttribute("aria-pressed", String(!folded));
      button.textContent = folded ? "More of each context" : "Less of each context";
    });
  }

  function shortcuts(main) {
    addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
      if (event.target.closest?.("input, textarea, select, [data-steps]")) return;
      const ids = { ArrowLeft: "previous", ArrowRight: "next", r: "random" };
      const target =
        event.key === "/" ? main.querySelector("input") : document.getElementById(ids[event.key]);
      if (!target) return;
      event.preventDefault();
      if (target.href) target.click();
      else target.focus();
    });
  }
})();
