// Shows how far an export has come, and lets it be stopped. Without this script the form's own answer is the file.

const NEWLINE = 10;

/** Number of line ends in a piece of a file: its rows, as near as a bar needs. */
const lines = (piece) => piece.reduce((count, byte) => count + (byte === NEWLINE), 0);

const size = (bytes) => (bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(1)} MB`);

class ExportForm extends HTMLElement {
  connectedCallback() {
    this.form = this.querySelector("form");
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.start();
    });
  }

  /** The place where progress is shown, made anew for each export. */
  shown() {
    this.box?.remove();
    this.box = document.createElement("div");
    this.box.className = "export-progress";
    this.bar = document.createElement("progress");
    this.bar.setAttribute("aria-label", "Progress of the export");
    this.said = document.createElement("p");
    this.said.setAttribute("role", "status");
    this.stop = document.createElement("button");
    this.stop.type = "button";
    this.stop.className = "button";
    this.stop.textContent = "Stop";
    this.box.append(this.said, this.bar, this.stop);
    this.append(this.box);
  }

  async start() {
    this.aborting?.abort();
    const aborting = (this.aborting = new AbortController());
    const wanted = new URLSearchParams(new FormData(this.form));
    const total = Number(wanted.get("rows") === "these" ? this.form.dataset.these : this.form.dataset.all);
    this.shown();
    this.stop.addEventListener("click", () => aborting.abort());
    this.said.textContent = "The first rows are being read.";
    this.stop.focus();
    try {
      const answer = await fetch(`${this.form.action}?${wanted}`, { signal: aborting.signal });
      if (this.aborting !== aborting) return; // another was started since
      if (!answer.ok) {
        this.form.submit(); // asks once more, as without script: the refusal is a page that says why
        return;
      }
      await this.receive(answer, total, wanted.get("format") !== "parquet");
    } catch (error) {
      if (this.aborting !== aborting) return;
      this.end(aborting.signal.aborted ? "Stopped. Nothing was saved." : error.message, "failed");
    }
  }

  async receive(answer, total, counted) {
    const pieces = [];
    let bytes = 0;
    let rows = 0;
    if (counted) this.bar.max = total;
    for (const reader = answer.body.getReader(); ; ) {
      const { done, value } = await reader.read();
      if (done) break;
      pieces.push(value);
      bytes += value.length;
      rows += counted ? lines(value) : 0;
      if (counted) this.bar.value = Math.min(rows, total);
      this.said.textContent = counted
        ? `${Math.min(rows, total).toLocaleString("en")} of ${total.toLocaleString("en")} rows, ${size(bytes)}`
        : size(bytes);
    }
    const name = /filename="([^"]+)"/.exec(answer.headers.get("Content-Disposition") ?? "")?.[1] ?? "export";
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob(pieces, { type: answer.headers.get("Content-Type") }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    this.bar.max = 1;
    this.bar.value = 1;
    this.end(`Saved as ${name}, ${size(bytes)}.`, "done");
  }

  end(text, state) {
    this.said.textContent = text;
    this.box.dataset.state = state;
    if (state === "failed") this.bar.remove();
    if (this.stop === document.activeElement) this.form.querySelector("[type=submit]").focus();
    this.stop.remove();
  }
}

customElements.define("export-form", ExportForm);
