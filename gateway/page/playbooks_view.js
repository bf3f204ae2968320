// The playbooks of a project, and the job of the one that is chosen.

import { h, refill } from "./element.js";
import { JobView } from "./job_view.js";
import { linkTo, problemBox } from "./parts.js";
import { PLAYBOOKS } from "./words.js";

export function openPlaybooks(context) {
  const view = new PlaybooksView(context);
  view.start();
  return view;
}

class PlaybooksView {
  title = "Playbooks";
  #context;
  #chosen;
  #job;
  #counts = new Map(); // affected products by playbook id
  #isCounting = false;
  #cards = h("nav", { class: "cards", "aria-label": "Playbooks" });
  #seen = () => document.hidden || this.#job.seen();

  constructor(context) {
    this.#context = context;
    const { playbook } = context.place;
    this.#chosen = playbook in PLAYBOOKS ? playbook : Object.keys(PLAYBOOKS)[0];
    this.#job = new JobView(context, this.#chosen, (estimate) => this.#estimated(estimate));
    this.element = h(
      "section",
      {},
      h("div", { class: "title-row" }, h("h1", {}, "Playbooks")),
      this.#cards,
      this.#job.element,
    );
  }

  start() {
    const { live, project } = this.#context;
    this.#showCards();
    this.#job.start();
    document.addEventListener("visibilitychange", this.#seen);
    live.follow({
      project,
      path: "runs:watch",
      take: ({ name, data }) => data && this.#job.take(data, name === "updated"),
      restarted: () => this.#job.reread(),
      refused: (problem) => this.element.append(problemBox(problem)),
    });
  }

  tick() {
    this.#job.tick();
  }

  close() {
    document.removeEventListener("visibilitychange", this.#seen);
    this.#job.close();
  }

  #estimated({ totalAffected }) {
    this.#counts.set(this.#chosen, totalAffected);
    this.#showCards();
    this.#countOthers();
  }

  async #countOthers() {
    const { api, project } = this.#context;
    if (this.#isCounting) return;
    this.#isCounting = true;
    for (const playbook of Object.keys(PLAYBOOKS)) {
      if (this.#counts.has(playbook)) continue;
      try {
        this.#counts.set(playbook, (await api.get(project, `${playbook}/estimate`)).totalAffected);
      } catch {
        // The next estimate of the chosen one asks again, or says what is wrong.
      }
    }
    this.#isCounting = false;
    this.#showCards();
  }

  #showCards() {
    const { project } = this.#context;
    refill(this.#cards, JSON.stringify([...this.#counts]), () =>
      Object.entries(PLAYBOOKS).map(([playbook, { name }]) => {
        const known = this.#counts.get(playbook);
        const isHere = playbook === this.#chosen ? "page" : null;
        return linkTo(
          { project, view: "playbooks", playbook },
          { class: "card", "aria-current": isHere },
          h("span", {}, name),
          h("span", { class: "quiet small" }, known === undefined ? "…" : `${known.toLocaleString("en")} affected`),
        );
      }),
    );
  }
}
