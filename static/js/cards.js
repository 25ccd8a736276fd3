// Hover cards of latents: a link with `data-card` shows what that address answers, by pointer or keyboard.
"use strict";
(() => {
  const cards = new Map(); // address -> text of the card, as it came from the server
  let box = null;
  let wanted = null;

  async function fetchCard(address) {
    if (!cards.has(address)) {
      const answer = await fetch(address, { headers: { "HX-Request": "true" } });
      cards.set(address, answer.ok ? await answer.text() : "");
    }
    return cards.get(address);
  }

  async function showCard(link) {
    if (wanted === link) return;
    wanted = link;
    const text = await fetchCard(link.dataset.card);
    if (wanted !== link || !text || !link.isConnected) return; // the pointer has gone on meanwhile
    box ??= document.body.appendChild(Object.assign(document.createElement("div"), { id: "latent-card" }));
    box.setAttribute("role", "tooltip");
    box.innerHTML = text; // our own server's, escaped there
    box.hidden = false;
    const at = link.getBoundingClientRect();
    const below = at.bottom + box.offsetHeight + 8 < innerHeight;
    box.style.top = `${scrollY + (below ? at.bottom + 4 : Math.max(4, at.top - box.offsetHeight - 4))}px`;
    box.style.left = `${Math.max(4, Math.min(at.left + scrollX, innerWidth - box.offsetWidth - 8))}px`;
  }

  function hideCard() {
    wanted = null;
    if (box) box.hidden = true;
  }

  for (const kind of ["mouseover", "focusin"]) {
    document.addEventListener(kind, (event) => {
      const link = event.target.closest("[data-card]");
      if (link) showCard(link);
      else hideCard();
    });
  }
  document.addEventListener("focusout", hideCard);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hideCard();
  });
  document.addEventListener("htmx:afterSwap", hideCard);
})();
