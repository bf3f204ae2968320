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
  #cards = h("nav", { class: "cards", "aria-label": "Playbooks" });
  #seen = () => document.hidden || this.#job.seen();

  constructor(context) {
    this.#context = context;
    const { playbook } = context.place;
    this.#chosen = playbook in PLAYBOOKS ? playbook : Object.keys(PLAYBOOKS)[0];
    this.#job = new JobView(context, this.#chosen, (...estimated) => this.#estimated(...estimated));
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
    this.#countOthers();
    document.addEventListener("visibilitychange", this.#seen);
    live.follow({
      project,
      path: "runs:watch",
      take: ({ name, data }) => data && this.#job.take(data, name === "updated"),
      restarted: () => this.#job.refresh(),
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

  #estimated(playbook, estimate) {
    if (estimate) this.#counts.set(playbook, estimate.totalAffected);
    this.#showCards();
  }

  async #countOthers() {
    const { api, project } = this.#context;
    for (const playbook of Object.keys(PLAYBOOKS)) {
      if (playbook === this.#chosen) continue;
      try {
        this.#estimated(playbook, await api.get(project, `${playbook}/estimate`));
      } catch {
        // The job of the chosen one says what is wrong.
      }
    }
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
