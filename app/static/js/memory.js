/* The overview's part about memory, drawn by the server (app/render/memory.py). It is asked for when
   something may have changed: the page is shown or looked at again, a check is over (it loads its
   SAE), and, from time to time, as long as the model or an SAE is being loaded. */

(() => {
  "use strict";

  const js = window.jumpscope;
  const PAUSE = 1000; // ms

  js.followMemory = (main) => {
    let timer = 0;

    function ask() {
      clearTimeout(timer);
      if (!document.hidden) js.ask("memory", {}, take, { quiet: true });
    }

    function take({ error, html, loading }) {
      const slot = document.getElementById("memory");
      // There is none where the address means nothing; without an answer the old one stays.
      if (error || !slot) return;
      fill(slot, html);
      if (loading) timer = setTimeout(ask, PAUSE);
    }

    main.addEventListener("jumpscope:shown", ask);
    document.addEventListener("jumpscope:checked", ask);
    document.addEventListener("visibilitychange", ask);
    addEventListener("focus", ask);
  };

  /* What is folded stays so, and the focus where it is. */
  function fill(slot, html) {
    const fresh = document.createElement("template");
    fresh.innerHTML = html;
    const [from, to] = [fresh.content.firstElementChild, slot.firstElementChild];
    if (from.tagName === "DETAILS" && to?.tagName === "DETAILS") {
      for (const part of ["summary span", ".panel"])
        to.querySelector(part).replaceWith(from.querySelector(part));
    } else {
      slot.replaceChildren(from);
    }
  }
})();
