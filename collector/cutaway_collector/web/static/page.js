// What every page may use: the "/" key, copying, and j/k between rows. Not needed for anything: pages work without it.

import { plain, typing } from "./keyboard.js";

document.addEventListener("keydown", (event) => {
  const box = document.querySelector("[data-omnibox]");
  if (event.key === "Escape" && event.target === box) box.blur();
  if (!plain(event) || typing(event)) return;
  if (event.key === "/" && box) {
    event.preventDefault();
    box.focus();
    box.select();
  }
});

/** Puts a copy button behind its content. */
class CopyText extends HTMLElement {
  connectedCallback() {
    if (!navigator.clipboard) return;
    const text = (this.querySelector(".value, code") ?? this).textContent;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = "copy";
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(text);
        button.textContent = "copied";
      } catch {
        button.textContent = "not allowed";
      }
      setTimeout(() => (button.textContent = "copy"), 1500);
    });
    this.append(button);
  }
}

/** j and k move between the rows' links; Enter is the link's own. */
class TableKeys extends HTMLElement {
  connectedCallback() {
    this.keys = (event) => {
      if (!plain(event) || typing(event)) return;
      const step = { j: 1, k: -1 }[event.key];
      if (!step) return;
      const links = [...this.querySelectorAll("a.cover")];
      const at = links.indexOf(document.activeElement);
      const current = at >= 0 ? at : links.findIndex((link) => link.hasAttribute("aria-current"));
      const next = links[Math.min(links.length - 1, Math.max(0, current + step))];
      next?.focus();
      next?.scrollIntoView({ block: "nearest" });
    };
    document.addEventListener("keydown", this.keys);
  }

  disconnectedCallback() {
    document.removeEventListener("keydown", this.keys);
  }
}

customElements.define("copy-text", CopyText);
customElements.define("table-keys", TableKeys);
