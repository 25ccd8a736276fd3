// The steering form: sliders, live coefficients, new seeds, copied links.  It all works without, by number boxes.
"use strict";
(() => {
  const END = 10; // × max activation at the slider's ends
  const WARN = 0.5;
  const STRONG = 1;
  const toStrength = (position) => {
    const size = END * (Math.abs(position) / 100) ** 2;
    return Math.sign(position) * (size < 1 ? Math.round(size * 100) / 100 : Math.round(size * 20) / 20);
  };
  const toPosition = (strength) => Math.sign(strength) * 100 * Math.sqrt(Math.min(Math.abs(strength) / END, 1));

  // Through the button: htmx sends a form to where the button that was pressed last would send it.
  const run = () => document.querySelector("#steer-form .run").click();

  // What a number of a latent comes to: raw activation, norm ratio, warning.
  function show(control, value) {
    const line = control.querySelector(".coefficient");
    if (!line || !Number.isFinite(value)) return;
    const chip = control.closest(".chip");
    const ratio = Math.abs(value) * parseFloat(chip.dataset.unitRatio);
    line.querySelector(".raw").textContent = (value * parseFloat(chip.dataset.max)).toFixed(2);
    const shown = line.querySelector(".ratio");
    if (shown) shown.textContent = ratio.toFixed(2);
    line.classList.toggle("warn", ratio >= WARN && ratio < STRONG);
    line.classList.toggle("strong", ratio >= STRONG);
  }

  function setUp(root) {
    for (const slider of root.querySelectorAll(".chip .slider")) slider.hidden = false;
  }

  const field = (id) => document.getElementById(id);

  function summarise() {
    const where = field("positions").selectedOptions[0].text;
    field("settings-summary").textContent =
      `temperature ${field("temperature").value} · ${field("length").value} tokens · seed ${field("seed").value} · ${where}`;
  }

  // Without strengths typed a sweep tries those that suit the latent and its mode: the field shows which.
  function showSweep() {
    const chips = document.querySelectorAll(".chip");
    const chip = chips[Number(document.querySelector("[name=sweep_of]")?.value || 0)];
    if (!chip) return;
    const scaled = chip.querySelector("[name=mode]").value === "scale";
    field("sweep").placeholder = scaled ? chip.dataset.sweepFactor : chip.dataset.sweep;
  }

  // What was wrong in the last attempt is no longer said once an attempt went through.
  function clearFaults(form) {
    form.querySelectorAll(".error-text, .notice-error").forEach((message) => message.remove());
    form.querySelectorAll("[aria-invalid]").forEach((input) => input.removeAttribute("aria-invalid"));
    form.querySelectorAll("[data-error]").forEach((part) => part.removeAttribute("data-error"));
  }

  document.addEventListener("input", (event) => {
    if (event.target.closest(".settings")) summarise();
    if (["mode", "sweep_of"].includes(event.target.name)) showSweep();
    const control = event.target.closest(".control");
    if (!control) return;
    const slider = control.querySelector(".slider");
    const box = control.querySelector("[type='number']");
    if (event.target === slider) box.value = toStrength(Number(slider.value));
    else if (event.target === box) slider.value = toPosition(parseFloat(box.value) || 0);
    show(control, parseFloat(box.value));
  });

  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && event.target.id === "add") {
      event.preventDefault(); // Enter in the number of a latent adds it; elsewhere it runs
      document.querySelector(".add-latent").click();
    } else if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && event.target.id === "prompt") {
      run();
    }
  });

  document.addEventListener("click", async (event) => {
    const share = event.target.closest("[data-copy]");
    if (event.target.closest("[data-into='#next-tokens'] a.t")) document.querySelector(".next-panel").open = true;
    if (event.target.closest(".new-seed")) {
      event.preventDefault();
      field("seed").value = Math.floor(Math.random() * 1e6);
      summarise();
      run();
    } else if (share && navigator.clipboard) {
      event.preventDefault();
      try {
        await navigator.clipboard.writeText(share.href);
        share.textContent = "Link copied";
      } catch {
        location.assign(share.href);
      }
    }
  });

  // A full queue answers 503 with the form and a message in it: show it, as other answers are shown.
  document.addEventListener("htmx:beforeSwap", (event) => {
    if (event.detail.xhr?.status === 503) event.detail.shouldSwap = true;
  });
  // The panel with a token's tables grew: the token must not be under it.
  function keepInSight(token, panel) {
    const under = token.getBoundingClientRect().bottom + 8 - panel.getBoundingClientRect().top;
    if (getComputedStyle(panel).position === "sticky" && under > 0) scrollBy(0, under);
  }

  document.addEventListener("htmx:afterSwap", (event) => {
    setUp(document);
    const chosen = document.querySelector(".steer-text .t.chosen");
    if (event.target.id === "next-tokens" && chosen) keepInSight(chosen, event.target.closest(".next-panel"));
    const { requestConfig, xhr } = event.detail;
    if (!["/steer", "/steer/sweep"].includes(requestConfig?.path) || xhr.status !== 200) return;
    clearFaults(field("steer-form"));
    // On a small screen the result lies below the form: go to it, but never move a page that shows it already.
    field("result").scrollIntoView({ block: "nearest" });
  });
  document.addEventListener("DOMContentLoaded", () => setUp(document));
})();
