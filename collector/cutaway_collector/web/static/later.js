// Parts of a page that come after it, as HTML that the server made: fetched when they come into view, and put in their place.
// Not needed for anything: each holds a link that leads to the page with the part in it.

/** The parsed answer of a fragment's address: an element of this document. The browser's own parser reads it, no string becomes markup. */
export function fragment(url) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("GET", url);
    request.responseType = "document";
    request.onload = () => {
      const found = request.status === 200 ? request.response?.body?.firstElementChild : null;
      if (found) resolve(document.adoptNode(found));
      else reject(new Error(`the server answered ${request.status}`));
    };
    request.onerror = () => reject(new Error("the server did not answer"));
    request.send();
  });
}

const IDLE_MS_MAX = 500;
const AT_ONCE = 2;
const waiting = [];
let running = 0;

/** The page has all its scripts and can answer to keys: counting takes every core of a small server, and may be the same machine's. */
const settled = new Promise((resolve) => {
  const idle = () => (window.requestIdleCallback ? window.requestIdleCallback(resolve, { timeout: IDLE_MS_MAX }) : setTimeout(resolve, 0));
  if (document.readyState === "complete") idle();
  else window.addEventListener("load", idle, { once: true });
});

/** Few at a time, in the order in which they were asked for: ten at once would all come as late as the last. */
function inTurn(work) {
  return new Promise((resolve, reject) => {
    waiting.push(() => settled.then(work).then(resolve, reject).finally(() => { running--; next(); }));
    next();
  });
}

function next() {
  if (running >= AT_ONCE || !waiting.length) return;
  running++;
  waiting.shift()();
}

/** data-src: where the part is. Its ".later" says how far things are. What is fetched may be such an element again, and goes on. */
class LaterPart extends HTMLElement {
  connectedCallback() {
    this.watch = new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && this.fetch());
    this.watch.observe(this.firstElementChild);
  }

  disconnectedCallback() {
    this.watch.disconnect();
  }

  async fetch() {
    this.watch.disconnect();
    const inside = () => this.contains(document.activeElement);
    const began = inside();
    const note = this.querySelector(".later");
    note?.replaceChildren(note.dataset.doing ?? "counting …");
    try {
      const part = await inTurn(() => (this.isConnected ? fragment(this.dataset.src) : Promise.reject(new Error("it is gone"))));
      // Who was in it with the keyboard and has not gone elsewhere stays there, at its first link.
      const stays = inside() || (began && document.activeElement === document.body);
      this.replaceWith(part);
      if (stays) part.querySelector("a, button, input")?.focus({ preventScroll: true });
      part.dispatchEvent(new CustomEvent("came-later", { bubbles: true }));
    } catch (error) {
      note?.replaceChildren(`This did not come: ${error.message}.`);
    }
  }
}

customElements.define("later-part", LaterPart);
