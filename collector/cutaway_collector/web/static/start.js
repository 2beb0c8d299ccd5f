// The first run: asks every two seconds whether a span has arrived, and says so where the page said that none had.

const EVERY_MS = 2000;

class FirstRun extends HTMLElement {
  connectedCallback() {
    const auto = this.querySelector("[data-auto]");
    if (!auto) return;
    auto.hidden = false;
    this.ask = async () => {
      if (!document.hidden) {
        try {
          const answer = await fetch(this.dataset.url, { headers: { Accept: "application/json" } });
          const { arrived } = answer.ok ? await answer.json() : {};
          if (arrived) return this.show(arrived);
        } catch {
          // The collector is away: the next question may find it.
        }
      }
      if (this.isConnected) this.timer = setTimeout(this.ask, EVERY_MS);
    };
    this.timer = setTimeout(this.ask, EVERY_MS);
  }

  disconnectedCallback() {
    clearTimeout(this.timer);
  }

  show({ name, service, url }) {
    const card = this.querySelector("[data-arrived]").content.cloneNode(true);
    card.querySelector("a").href = url;
    card.querySelector("[data-name]").textContent = name;
    card.querySelector("[data-service]").textContent = service;
    this.querySelector("h1").textContent = "The first span has arrived";
    this.querySelector("[data-state]").replaceChildren(card);
  }
}

customElements.define("first-run", FirstRun);
