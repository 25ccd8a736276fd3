// Keys, theme, tooltips.  Without this file every page works, except for the keys.
"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const typing = (event) =>
    event.target.closest("input, textarea, select, [contenteditable]") || event.ctrlKey || event.metaKey || event.altKey;

  // Theme: system -> the other one -> back to system.
  function setUpTheme() {
    const button = byId("theme");
    const root = document.documentElement;
    const systemDark = () => matchMedia("(prefers-color-scheme: dark)").matches;
    const show = () => {
      const theme = root.dataset.theme || (systemDark() ? "dark" : "light");
      button.textContent = theme === "dark" ? "Light" : "Dark";
      button.setAttribute("aria-label", `Switch to the ${theme === "dark" ? "light" : "dark"} theme`);
    };
    button.hidden = false;
    button.addEventListener("click", () => {
      const now = root.dataset.theme || (systemDark() ? "dark" : "light");
      root.dataset.theme = now === "dark" ? "light" : "dark";
      try {
        localStorage.setItem("theme", root.dataset.theme);
      } catch {
        // Storage is refused: the choice lasts for this page.
      }
      show();
    });
    show();
  }

  // Tooltips: show `title` at once, and also for the keyboard.
  const tip = { box: null, from: null };
  function showTip(element) {
    if (tip.from === element) return;
    hideTip();
    const text = element.getAttribute("title") || tokenWords(element);
    if (!text) return;
    tip.from = element;
    if (element.hasAttribute("title")) {
      element.dataset.title = text;
      element.removeAttribute("title"); // or the browser would show its own as well
    }
    tip.box.textContent = text;
    tip.box.hidden = false;
    const at = element.getBoundingClientRect();
    const size = tip.box.getBoundingClientRect();
    const top = at.top - size.height - 4 < 0 ? at.bottom + 4 : at.top - size.height - 4;
    tip.box.style.top = `${top}px`;
    tip.box.style.left = `${Math.max(4, Math.min(at.left, innerWidth - size.width - 4))}px`;
  }
  // Silent tokens are bare <i>: a page holds thousands of them.
  const tokensOf = (row) => [...row.querySelectorAll(".t, i")];
  // The tooltip of a token that does not fire: its row has the ids of all its tokens, which saves bytes.
  function tokenWords(element) {
    const row = element.closest("[data-ids]");
    if (!row) return "";
    const index = tokensOf(row).indexOf(element);
    const groups = row.dataset.ids.split(" ").map((ids) => ids.split("+"));
    const ids = groups[index] || [];
    const before = groups.slice(0, index).reduce((n, group) => n + group.length, 0);
    const place = row.dataset.at === undefined ? "" : ` · position ${Number(row.dataset.at) + before}`;
    return `“${element.textContent}” id ${ids.join(", ")}${place}`;
  }
  function hideTip() {
    if (!tip.from) return;
    if (tip.from.dataset.title) {
      tip.from.setAttribute("title", tip.from.dataset.title);
      delete tip.from.dataset.title;
    }
    tip.from = null;
    tip.box.hidden = true;
  }

  // A focused text row: arrows walk its tokens, so that the tokens need not be tab stops.
  function walkTokens(row, step) {
    const tokens = tokensOf(row);
    if (!tokens.length) return;
    const current = row.querySelector(".at");
    const start = current ? tokens.indexOf(current) : Math.max(0, tokens.findIndex((t) => t.classList.contains("peak")) - step);
    const next = tokens[Math.max(0, Math.min(tokens.length - 1, start + step))];
    if (current) current.classList.remove("at");
    next.classList.add("at");
    next.scrollIntoView({ block: "nearest", inline: "nearest" });
    showTip(next);
  }

  function moveRow(step) {
    const rows = [...document.querySelectorAll("[data-row]")];
    if (!rows.length) return;
    const now = rows.indexOf(document.activeElement && document.activeElement.closest("[data-row]"));
    const next = rows[Math.max(0, Math.min(rows.length - 1, now + step))];
    const target = next.matches("[tabindex], a, button") ? next : next.querySelector("a, button, [tabindex]");
    if (target) target.focus();
  }

  // Show the target of a token that is a link on this page.
  function openPiece(piece) {
    const into = piece.closest("[data-into]").dataset.into;
    document.querySelectorAll(".t.chosen").forEach((t) => t.classList.remove("chosen"));
    piece.classList.add("chosen");
    htmx.ajax("GET", piece.getAttribute("href"), { target: into, swap: "innerHTML" });
  }

  const follow = (selector) => {
    const link = document.querySelector(selector);
    if (link) link.click();
    return Boolean(link);
  };

  function onKey(event) {
    if (event.key === "Escape") {
      hideTip();
      document.querySelectorAll("details.switcher[open], details.account[open], details.term[open]").forEach((d) => d.removeAttribute("open"));
      return;
    }
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && event.target.matches?.("textarea[data-sends]")) {
      event.target.form.requestSubmit();
      return;
    }
    if (typing(event) || document.querySelector("dialog[open]")) return;
    const row = event.target.closest ? event.target.closest(".ctx") : null;
    if (row && event.key === "Enter") {
      const at = row.querySelector("a.t.at");
      if (at) at.click();
      else if (row.dataset.href && event.target === row) location.assign(row.dataset.href);
      return;
    }
    const actions = {
      "/": () => byId("search").focus(),
      "?": () => byId("key-help").showModal(),
      j: () => moveRow(1),
      k: () => moveRow(-1),
      s: () => follow("[data-key='s']"),
      t: () => follow("[data-opens='try']"),
      f: () => follow("[data-key='f']"),
      ArrowLeft: () => (row ? walkTokens(row, -1) : follow("a[rel='prev']")),
      ArrowRight: () => (row ? walkTokens(row, 1) : follow("a[rel='next']")),
    };
    const action = actions[event.key];
    if (!action) return;
    if (action() !== false) event.preventDefault();
  }

  // Rows with a main link: a click anywhere in the row opens it, except on other controls.
  function onClick(event) {
    const opener = event.target.closest("[data-opens]");
    const part = opener && byId(opener.dataset.opens);
    if (part && !event.ctrlKey && !event.metaKey && !event.shiftKey) {
      event.preventDefault();
      part.open = true;
      part.querySelector("textarea, input").focus();
      return;
    }
    document.querySelectorAll("details.switcher[open], details.account[open], details.term[open]").forEach((details) => {
      if (!details.contains(event.target)) details.removeAttribute("open");
    });
    const piece = event.target.closest("[data-into] a.t");
    if (piece && window.htmx && !event.ctrlKey && !event.metaKey && !event.shiftKey) {
      event.preventDefault();
      openPiece(piece);
      return;
    }
    const row = event.target.closest("[data-href]");
    if (!row || event.target.closest("a, button, input, summary, label") || String(getSelection())) return;
    location.assign(row.dataset.href);
  }

  function setUpFilters() {
    document.addEventListener("input", (event) => {
      const list = event.target.dataset && event.target.dataset.filter;
      if (!list) return;
      const wanted = event.target.value.trim().toLowerCase();
      for (const item of document.querySelectorAll(`${list} > *`)) {
        item.hidden = !item.textContent.toLowerCase().includes(wanted);
      }
    });
  }

  // Say in a form that its answer never came, or that the server failed.
  function showTrouble(event) {
    const form = event.target.closest("form");
    const { xhr } = event.detail;
    if (!form || (xhr && xhr.status > 0 && (xhr.status < 500 || xhr.status === 503))) return;
    form.querySelector(".trouble")?.remove();
    const notice = document.createElement("p");
    notice.className = "notice notice-error trouble";
    notice.setAttribute("role", "alert");
    notice.textContent = xhr && xhr.status ? "The server failed; the reason is in its log. Nothing you typed is lost."
      : "The server does not answer. Nothing you typed is lost: try again when it runs.";
    form.prepend(notice);
  }

  // A drag over the bars of a chart that can be zoomed fills in its form and sends it.
  function setUpZoom() {
    let drag = null; // the chart, the band that shows what is chosen, where it began
    const place = (event, svg) => {
      const box = svg.getBoundingClientRect();
      return Math.max(0, Math.min(1, (event.clientX - box.left) / box.width));
    };
    const value = (svg, share) => {
      const [low, high] = [Number(svg.dataset.low), Number(svg.dataset.high)];
      return "log" in svg.dataset ? low * (high / low) ** share : low + share * (high - low);
    };
    const stretch = (event) => [drag.start, place(event, drag.svg)].sort((a, b) => a - b);
    document.addEventListener("pointerdown", (event) => {
      const svg = event.target.closest("svg[data-low]");
      if (!svg || event.button !== 0) return;
      const band = document.createElementNS(svg.namespaceURI, "rect");
      band.setAttribute("class", "c-chosen");
      band.setAttribute("height", "100%");
      svg.append(band);
      drag = { svg, band, start: place(event, svg) };
      event.preventDefault();
    });
    document.addEventListener("dragstart", (event) => { if (drag) event.preventDefault(); });
    document.addEventListener("pointermove", (event) => {
      if (!drag) return;
      const [low, high] = stretch(event);
      drag.band.setAttribute("x", `${100 * low}%`);
      drag.band.setAttribute("width", `${100 * (high - low)}%`);
    });
    document.addEventListener("pointerup", (event) => {
      if (!drag) return;
      const { svg } = drag;
      const [low, high] = stretch(event);
      drag.band.remove();
      drag = null;
      if (high - low < 0.02) return;
      // The drag ends on a bar that may be a link, which must not be followed.
      const stay = (click) => { if (click.target.closest("svg[data-low]")) click.preventDefault(); };
      addEventListener("click", stay, { capture: true });
      setTimeout(() => removeEventListener("click", stay, { capture: true }));
      const details = svg.closest("figure").querySelector(".zoom");
      const [first, last] = details.querySelectorAll("input[type=number]");
      first.value = value(svg, low).toPrecision(4);
      last.value = value(svg, high).toPrecision(4);
      details.querySelector("form").requestSubmit();
    });
  }

  document.addEventListener("DOMContentLoaded", () => {
    setUpZoom();
    if (matchMedia("(max-width: 1000px)").matches) {
      document.querySelectorAll("[data-narrow-closed]").forEach((details) => { details.open = false; });
    }
    document.addEventListener("htmx:responseError", showTrouble);
    document.addEventListener("htmx:sendError", showTrouble);
    tip.box = byId("tip");
    setUpTheme();
    setUpFilters();
    byId("keys").hidden = false;
    byId("keys").addEventListener("click", () => byId("key-help").showModal());
    document.addEventListener("keydown", onKey);
    document.addEventListener("click", onClick);
    document.addEventListener("mouseover", (event) => {
      const element = event.target.closest(".t[title], .t[data-title], [data-ids] .t, [data-ids] i");
      if (element) showTip(element);
      else hideTip();
    });
    document.addEventListener("focusout", () => {
      document.querySelectorAll(".text .at").forEach((t) => t.classList.remove("at"));
      hideTip();
    });
    document.addEventListener("scroll", hideTip, { passive: true, capture: true });
  });
})();
