// The runs of a project that are loaded: pages of the list, and what the stream says meanwhile.

import { timeKey } from "./times.js";

const PAGE = 50;
const MOST = 1_000; // runs that the stream may add; beyond it, the list begins anew

export class RunList {
  #api;
  #project;
  #runs = new Map(); // by id, each as its highest sequence
  #floor = ""; // the key of the oldest run of the pages; "": there are no more pages
  #next = "";
  // Since the last load began: ids of the runs that were taken, and how many of them were new.
  #taken = new Set();
  #added = 0;
  #loading = new AbortController();

  constructor(api, project, filters) {
    this.#api = api;
    this.#project = project;
    this.filters = filters; // playbook, type, status, scope; "": all
  }

  get hasMore() {
    return this.#next !== "";
  }

  // Return the runs that pass the filters, newest first.
  get visible() {
    const keyed = [];
    for (const run of this.#runs.values()) {
      const key = keyOf(run);
      if (key >= this.#floor && this.#passes(run)) keyed.push([key, run]);
    }
    return keyed.sort(([one], [other]) => (one < other ? 1 : -1)).map(([, run]) => run);
  }

  // Load the first page anew; what was taken meanwhile stays. Throws Problem.
  async load() {
    this.#loading.abort();
    this.#loading = new AbortController();
    this.#taken.clear();
    this.#added = 0;
    const { value, next } = await this.#page("", this.#loading.signal);
    for (const id of this.#runs.keys()) if (!this.#taken.has(id)) this.#runs.delete(id);
    this.#append(value, next);
  }

  // Load the next page. Throws Problem.
  async more() {
    const { value, next } = await this.#page(this.#next, this.#loading.signal);
    this.#append(value, next);
  }

  // Take a run as the stream or an answer has it; return whether the list should be loaded again, for it has grown.
  take(run) {
    if (!this.#runs.has(run.id)) this.#added += 1;
    this.#taken.add(run.id);
    this.#keep(run);
    return this.#added > MOST;
  }

  // Stop loading.
  close() {
    this.#loading.abort();
  }

  #page(pageToken, signal) {
    const { playbook, type, status, scope } = this.filters;
    const query = { playbookId: playbook, runType: type, status, scopeId: scope, limit: PAGE, pageToken };
    return this.#api.page(this.#project, "runs", query, signal);
  }

  #append(runs, next) {
    for (const run of runs) this.#keep(run);
    this.#next = next;
    this.#floor = next && runs.length ? keyOf(runs.at(-1)) : "";
  }

  #keep(run) {
    const known = this.#runs.get(run.id);
    if (!known || known.sequence < run.sequence) this.#runs.set(run.id, run);
  }

  #passes(run) {
    const { playbook, type, status, scope } = this.filters;
    return (
      (!playbook || run.playbookId === playbook) &&
      (!type || run.runType === type) &&
      (!status || run.status === status) &&
      (!scope || run.scopeId === scope)
    );
  }
}

function keyOf(run) {
  return `${timeKey(run.createdAt)} ${run.id}`;
}
