// What is known of a playbook of a project: its estimate, its newest runs, the rules of its draft.

const RUNS = 20; // of the newest runs

// Reads and keeps what a Job needs. `changed()` is called after each change. The views read the draft themselves.
export class JobStore {
  #context;
  #changed;
  #runs = new Map(); // by id
  #round = 0;
  estimate = null;
  isEmpty = false; // the project has no products at all
  problem = null; // why the estimate could not be read

  constructor(context, playbook, changed) {
    this.#context = context;
    this.playbook = playbook;
    this.#changed = changed;
  }

  // The known runs of the playbook, newest first.
  get runs() {
    return [...this.#runs.values()].sort((one, other) => (one.id < other.id ? 1 : -1));
  }

  // Estimate what these rules would do.
  async readEstimate(rules) {
    const { api, project } = this.#context;
    const round = ++this.#round;
    try {
      const estimate = await api.post(project, `${this.playbook}/estimate`, { rules });
      const isEmpty = estimate.totalAffected === 0 && (await this.#hasNoProducts());
      if (round !== this.#round) return;
      this.estimate = estimate;
      this.isEmpty = isEmpty;
      this.problem = null;
    } catch (error) {
      if (round !== this.#round) return;
      this.problem = error;
    }
    this.#changed();
  }

  async readRuns() {
    const { api, project } = this.#context;
    const { value } = await api.page(project, "runs", { playbookId: this.playbook, limit: RUNS });
    for (const run of value) this.take(run);
  }

  // Return the rules that a draft was made with; null: they are not known any more.
  async rulesOf(draft) {
    const { api, project } = this.#context;
    const query = { playbookId: this.playbook, runType: "PREVIEW_GENERATE", scopeId: draft.scopeId, limit: 100 };
    const { value } = await api.page(project, "runs", query);
    return value.find((run) => run.rulesHash === draft.rulesHash && run.status === "SUCCEEDED")?.meta?.rules ?? null;
  }

  // Take a run as the stream or an answer has it; return whether it has ended just now. `isNews`: it has changed now;
  // else it is one of a list, and may have ended long ago.
  take(run, isNews = false) {
    if (run.playbookId !== this.playbook) return false;
    const known = this.#runs.get(run.id);
    if (known && known.sequence >= run.sequence) return false;
    this.#runs.set(run.id, run);
    if (this.#runs.size > 2 * RUNS) this.#forget();
    return Boolean(run.finishedAt) && (known ? !known.finishedAt : isNews);
  }

  close() {
    this.#round += 1;
  }

  async #hasNoProducts() {
    const { api, project } = this.#context;
    return (await api.page(project, "products", { limit: 1 })).value.length === 0;
  }

  #forget() {
    for (const run of this.runs.slice(RUNS)) if (run.finishedAt) this.#runs.delete(run.id);
  }
}
