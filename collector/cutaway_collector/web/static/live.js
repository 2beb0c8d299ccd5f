// The live tail: rows of a stream of events, newest first. Paused by Space, its button, the pointer over the rows, or a hidden tab.

import { plain } from "./keyboard.js";

const AGAIN_MS = 10_000;
const SUMMARY_MS = 10_000;

const plural = (count, word) => `${count.toLocaleString("en").replaceAll(",", "\u202f")} ${word}${count === 1 ? "" : "s"}`;

class LiveTail extends HTMLElement {
  connectedCallback() {
    this.find = (name) => this.querySelector(`[data-${name}]`);
    this.rows = this.find("rows");
    this.known = new Set([...this.rows.children].map((row) => row.dataset.key));
    this.after = this.dataset.after;
    this.most = Number(this.dataset.rowsMax);
    this.held = [];
    this.skipped = this.sinceSummary = this.failedSince = 0;
    this.paused = this.pointed = this.focused = false;

    const button = this.find("pause");
    button.hidden = false;
    button.addEventListener("click", () => this.pause(!this.paused));
    this.keys = (event) => {
      if (event.key !== " " || !plain(event)) return;
      if (event.target.closest("input, textarea, select, button, a, summary, [contenteditable]")) return;
      event.preventDefault();
      this.pause(!this.paused);
    };
    document.addEventListener("keydown", this.keys);
    const box = this.querySelector(".live-rows");
    box.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && this.hold("pointed", true));
    box.addEventListener("pointerleave", () => this.hold("pointed", false));
    // A row that has the focus must not move away under it.
    box.addEventListener("focusin", () => this.hold("focused", true));
    box.addEventListener("focusout", () => this.hold("focused", false));
    this.seen = () => (document.hidden ? this.close("hidden") : this.open());
    document.addEventListener("visibilitychange", this.seen);
    this.summary = setInterval(() => this.summarise(), SUMMARY_MS);
    if (!document.hidden) this.open();
  }

  disconnectedCallback() {
    document.removeEventListener("keydown", this.keys);
    document.removeEventListener("visibilitychange", this.seen);
    clearInterval(this.summary);
    this.close("left");
  }

  open() {
    if (this.source) return;
    clearTimeout(this.again);
    const address = new URL(this.dataset.events, location.href);
    address.searchParams.set("after", this.after);
    this.source = new EventSource(address);
    this.source.addEventListener("open", () => this.state("following"));
    this.source.addEventListener("rows", (event) => {
      this.after = event.lastEventId;
      this.trouble = "";
      this.take(JSON.parse(event.data));
    });
    this.source.addEventListener("trouble", (event) => this.state("trouble", JSON.parse(event.data).message));
    this.source.addEventListener("error", () => {
      if (this.source?.readyState !== EventSource.CLOSED) return this.state("lost");
      // Refused: every place may be taken. The browser would not ask again by itself.
      this.close("refused");
      this.again = setTimeout(() => !document.hidden && this.open(), AGAIN_MS);
    });
  }

  close(why) {
    clearTimeout(this.again);
    this.source?.close();
    this.source = undefined;
    this.state(why);
  }

  pause(on) {
    this.paused = on;
    const button = this.find("pause");
    button.setAttribute("aria-pressed", String(on));
    this.find("pause-word").textContent = on ? "Go on" : "Pause";
    this.release();
  }

  hold(what, on) {
    this[what] = on;
    this.release();
  }

  get holding() {
    return this.paused || this.pointed || this.focused;
  }

  release() {
    if (!this.holding) this.show(this.held.splice(0));
    this.state();
  }

  take({ lines, skipped }) {
    this.skipped += skipped;
    const fresh = lines.filter((line) => !this.known.has(line.key));
    for (const line of fresh) this.known.add(line.key);
    this.sinceSummary += fresh.length + skipped;
    this.failedSince += fresh.filter((line) => line.failed).length;
    if (this.holding) {
      this.held.unshift(...fresh);
      // What would leave the page at once when it goes on need not be kept.
      this.skipped += this.held.splice(this.most).length;
    } else this.show(fresh);
    this.state("following");
  }

  show(lines) {
    if (!lines.length) return;
    this.rows.prepend(...lines.map((line) => this.row(line)));
    this.find("none").hidden = true;
    while (this.rows.children.length > this.most) {
      this.known.delete(this.rows.lastElementChild.dataset.key);
      this.rows.lastElementChild.remove();
    }
  }

  row(line) {
    const row = this.find("row").content.firstElementChild.cloneNode(true);
    row.dataset.key = line.key;
    row.classList.toggle("failed", line.failed);
    for (const slot of row.querySelectorAll("[data-slot]")) {
      if (slot.dataset.slot !== "failed") slot.textContent = line[slot.dataset.slot];
    }
    row.querySelector("a").href = line.url;
    const time = row.querySelector("time");
    time.dateTime = time.title = line.at;
    const failed = row.querySelector('[data-slot="failed"]');
    failed.hidden = !line.failed;
    failed.title = line.why;
    if (line.heat) row.querySelector('[data-slot="perplexity"]').className = `heat ${line.heat}`;
    row.classList.add("new");
    setTimeout(() => row.classList.remove("new"), 300);
    return row;
  }

  state(word, message = "") {
    if (word) this.word = word;
    if (word) this.message = message;
    const waiting = this.held.length ? `, ${plural(this.held.length, "span")} waiting` : "";
    const [tone, said] = {
      following: this.paused
        ? ["warn", `Paused${waiting}`]
        : this.pointed || this.focused
          ? ["warn", `Held while you are here${waiting}`]
          : ["good", "Following"],
      hidden: ["", "Resting while the tab is hidden"],
      lost: ["warn", "Connection lost, trying again"],
      refused: ["bad", "No stream to be had: too many live views may be open, or the collector is stopping. Trying again in 10 s"],
      trouble: ["bad", this.message],
    }[this.word] ?? ["", ""];
    const badge = this.find("state");
    badge.hidden = !said;
    badge.className = `badge ${tone}`;
    badge.textContent = said;
    this.find("skipped").textContent = this.skipped ? `+${plural(this.skipped, "span")} skipped` : "";
  }

  summarise() {
    const { sinceSummary: count, failedSince: failed } = this;
    this.sinceSummary = this.failedSince = 0;
    if (!count) return;
    this.find("summary").textContent = `${plural(count, "span")} in the last 10 seconds${failed ? `, ${plural(failed, "error")}` : ""}`;
  }
}

customElements.define("live-tail", LiveTail);
