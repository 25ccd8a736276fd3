// The inspector: copied links, Ctrl+Enter.  It all works without, by links and buttons.
"use strict";
(() => {
  document.addEventListener("keydown", (event) => {
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
})();
