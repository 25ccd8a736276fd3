// The map: drag to move, Ctrl and wheel or a double click to zoom.  What is drawn moves at once; then the server draws
// the new window with its detail.  Without this file the links above the map do the same.
"use strict";
(() => {
  const WIDTH = 1000, HEIGHT = 680, MAX = 64, PATIENCE_MS = 250;
  let timer = 0, drag = null;
  const planeOf = (target) => target.closest?.("#map svg.plane");
  const box = (svg) => svg.viewBox.baseVal;

  function show(svg, x, y, zoom) {
    const z = Math.max(1, Math.min(MAX, zoom));
    const [w, h] = [WIDTH / z, HEIGHT / z];
    const left = Math.max(0, Math.min(WIDTH - w, x - w / 2));
    const top = Math.max(0, Math.min(HEIGHT - h, y - h / 2));
    svg.setAttribute("viewBox", `${left} ${top} ${w} ${h}`);
    clearTimeout(timer);
    timer = setTimeout(() => fetchWindow((left + w / 2) / WIDTH, (top + h / 2) / HEIGHT, z), PATIENCE_MS);
  }

  function fetchWindow(x, y, zoom) {
    if (drag) return;
    const url = new URL(location.href);
    for (const [name, value] of [["zoom", zoom.toFixed(3)], ["x", x.toFixed(4)], ["y", y.toFixed(4)]]) {
      url.searchParams.set(name, value);
    }
    history.replaceState(history.state, "", url);
    htmx.ajax("GET", url.pathname + url.search, { target: "#map", swap: "outerHTML" });
  }

  function place(svg, event) {
    const screen = svg.getScreenCTM();
    return [(event.clientX - screen.e) / screen.a, (event.clientY - screen.f) / screen.d];
  }

  // Zoom so that the point under the pointer stays there.
  function zoomAt(svg, event, factor) {
    const view = box(svg);
    const now = WIDTH / view.width;
    const next = Math.max(1, Math.min(MAX, now * factor));
    const [x, y] = place(svg, event);
    const share = now / next;
    show(svg, x + (view.x + view.width / 2 - x) * share, y + (view.y + view.height / 2 - y) * share, next);
  }

  document.addEventListener("DOMContentLoaded", () => { document.getElementById("map-hint").hidden = false; });
  document.addEventListener("wheel", (event) => {
    const svg = planeOf(event.target);
    if (!svg || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    zoomAt(svg, event, Math.exp(-event.deltaY / 200));
  }, { passive: false });
  document.addEventListener("dblclick", (event) => {
    const svg = planeOf(event.target);
    if (svg && !event.target.closest("a")) zoomAt(svg, event, event.shiftKey ? 0.5 : 2);
  });
  document.addEventListener("pointerdown", (event) => {
    const svg = planeOf(event.target);
    if (!svg || event.button !== 0 || event.pointerType === "touch") return;
    drag = { svg, x: event.clientX, y: event.clientY, view: { x: box(svg).x, y: box(svg).y }, moved: false, missed: false };
  });
  // A drawing that arrives during a drag would take the dragged one away.
  document.addEventListener("htmx:beforeSwap", (event) => {
    if (!drag || event.detail.target.id !== "map") return;
    event.detail.shouldSwap = false;
    drag.missed = true;
  });
  document.addEventListener("dragstart", (event) => { if (planeOf(event.target)) event.preventDefault(); });
  document.addEventListener("pointermove", (event) => {
    if (!drag) return;
    const screen = drag.svg.getScreenCTM();
    const view = box(drag.svg);
    const [dx, dy] = [(event.clientX - drag.x) / screen.a, (event.clientY - drag.y) / screen.d];
    drag.moved ||= Math.hypot(event.clientX - drag.x, event.clientY - drag.y) > 4;
    if (!drag.moved) return;
    show(drag.svg, drag.view.x - dx + view.width / 2, drag.view.y - dy + view.height / 2, WIDTH / view.width);
  });
  document.addEventListener("pointerup", () => {
    if (!drag) return;
    const { svg, moved, missed } = drag;
    drag = null;
    if (!moved && !missed) return;
    const view = box(svg);
    show(svg, view.x + view.width / 2, view.y + view.height / 2, WIDTH / view.width);
    if (!moved) return;
    // The drag ends on a point that is a link, which must not be followed.
    const stay = (click) => { if (planeOf(click.target)) click.preventDefault(); };
    addEventListener("click", stay, { capture: true });
    setTimeout(() => removeEventListener("click", stay, { capture: true }));
  });
})();
