"use strict";
// Asks for the page again from time to time, and replaces those of its parts that change. What
// somebody has put the focus in, or has selected, stays as it is.
(() => {
  const every = Number(document.body.dataset.reload);
  if (!every) return;

  const inUse = (part) => {
    if (part.contains(document.activeElement)) return true;
    const selection = document.getSelection();
    return selection !== null && !selection.isCollapsed && part.contains(selection.anchorNode);
  };

  // Says that the dashboard, or Redis behind it, does not answer.
  const away = (is) => {
    const text = is ? "The dashboard does not answer just now; what is shown may be old." : "";
    const place = document.getElementById("away");
    if (place.textContent !== text) place.textContent = text; // a screen reader says it once
  };

  const reload = async () => {
    const answer = await fetch(location.href, { credentials: "same-origin", cache: "no-store" });
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    for (const part of document.querySelectorAll("[data-live]")) {
      const next = page.getElementById(part.id);
      if (next && !inUse(part) && next.innerHTML !== part.innerHTML) part.replaceWith(next);
    }
    away(!answer.ok);
    return !answer.ok || page.body.dataset.reload;
  };

  const loop = async () => {
    let again = true;
    if (document.visibilityState === "visible") {
      try {
        again = await reload();
      } catch {
        away(true);
      }
    }
    if (again) setTimeout(loop, every);
  };
  setTimeout(loop, every);
})();
