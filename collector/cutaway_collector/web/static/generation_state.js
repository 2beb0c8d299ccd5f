// What the address says of the cursor: token, layer, range, threshold. Every other switch of the page is a link of the server's.

const KEYS = ["tok", "layer", "range", "threshold"];
const PAUSE_MS = 200;

export class State {
  constructor(base) {
    this.base = base;
    this.values = Object.fromEntries(KEYS.map((key) => [key, new URL(location.href).searchParams.get(key) ?? ""]));
  }

  /** Takes up changes; "" takes one away. The address follows when they pause, for browsers limit how often it may. */
  set(changes) {
    Object.assign(this.values, changes);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.write(), PAUSE_MS);
  }

  write() {
    clearTimeout(this.timer);
    const url = this.into(new URL(location.href));
    url.searchParams.sort();
    if (url.href !== location.href) history.replaceState(history.state, "", url);
  }

  into(url) {
    for (const key of KEYS) {
      if (this.values[key] === "") url.searchParams.delete(key);
      else url.searchParams.set(key, this.values[key]);
    }
    if (this.values.tok !== "") url.searchParams.delete("start");
    return url;
  }

  /** A link of this page takes the cursor along, as far as it fits where it leads. */
  follow(link) {
    const [here, url] = [new URL(location.href), new URL(link.href)];
    if (url.pathname !== this.base || link.closest("[data-window]")) return;
    const same = (key) => (here.searchParams.get(key) ?? "") === (url.searchParams.get(key) ?? "");
    if (!same("seq")) return;
    const bound = same("signal") && same("unit") && same("agg") ? this.values.threshold : "";
    this.into(url);
    if (bound === "") url.searchParams.delete("threshold");
    url.searchParams.sort();
    link.href = url.href;
  }
}
