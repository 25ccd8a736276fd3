// The inspector: hover cards of latents, copied links, Ctrl+Enter.  It all works without, by links and buttons.
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
    const text = event.target.closest("#text, #text2");
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && text) {
      document.querySelector("#inspect-form .run").click();
    }
  });
  document.addEventListener("click", async (event) => {
    const share = event.target.closest("[data-copy]");
    if (!share || !navigator.clipboard) return;
    event.preventDefault();
    try {
      await navigator.clipboard.writeText(share.href);
      share.textContent = "Link copied";
    } catch {
      location.assign(share.href);
    }
  });
  document.addEventListener("htmx:afterSwap", hideCard);
})();
