/* "Reproduce": a button beside numbers, and the card that it opens: what a number was computed
   from, and a script that prints it. The server draws the card (app/render/card.py).

   A choice is {words, asked, value}: one number that the card can be about, as app/cards.py asks
   for it; `value` where the page alone knows it. */

(() => {
  "use strict";

  const js = window.jumpscope;
  const { el } = js;

  const select = el("select", { "aria-label": "Number" });
  const body = el("div", { class: "card-body", "aria-live": "polite" });
  const close = el("button", { type: "button", class: "close", "aria-label": "Close" }, "×");
  const head = el("div", { class: "card-head" }, el("h2", { id: "card-title" }), select, close);
  const inside = el("div", { class: "card-inside" }, head, body);
  const dialog = el("dialog", { id: "card", "aria-labelledby": "card-title" }, inside);
  head.firstChild.textContent = "Reproduce this number";
  let choices = [];

  function open(given) {
    choices = given;
    select.replaceChildren(...choices.map(({ words }, i) => el("option", { value: i }, words)));
    select.hidden = choices.length < 2;
    body.replaceChildren();
    // Inside the frame, for its styles.
    if (!dialog.isConnected) document.getElementById("jumpscope").append(dialog);
    dialog.showModal();
    show();
  }

  function show() {
    const { asked, value = null } = choices[Number(select.value) || 0];
    body.setAttribute("aria-busy", "true");
    js.ask("card", { asked, value }, (answer) => {
      body.removeAttribute("aria-busy");
      if (answer.error) body.replaceChildren(js.problem(answer.error));
      else body.innerHTML = answer.html;
    });
  }

  select.addEventListener("change", show);
  close.addEventListener("click", () => dialog.close());
  dialog.addEventListener("close", () => js.forget("card"));
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close(); // outside of the card
    const button = event.target.closest("[data-copy-script]");
    if (button) js.copy(body.querySelector("code").textContent, button);
  });
  // The page's own keys rest while the card is open.
  dialog.addEventListener("keydown", (event) => event.stopPropagation());

  /* A button that opens the card on the first of the choices that `choose` returns. */
  js.reproduceButton = (choose, of) =>
    el(
      "button",
      {
        type: "button",
        class: "plain",
        "aria-haspopup": "dialog",
        "aria-label": `Reproduce: ${of}`,
        onclick: () => open(choose()),
      },
      "Reproduce",
    );

  /* Buttons that the server draws. */
  document.addEventListener("click", (event) => {
    const button = event.target.closest?.("[data-reproduce]");
    if (!button) return;
    const { asked, choices: given } = JSON.parse(button.dataset.reproduce);
    open(given.map((choice) => ({ ...choice, asked: { ...asked, ...choice.asked } })));
  });
})();
