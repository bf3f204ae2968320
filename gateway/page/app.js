// The frame: which view is shown, and the bar above it.

import * as address from "./address.js";
import { Bar } from "./bar.js";
import { fill } from "./element.js";
import { openPlaybooks } from "./playbooks_view.js";
import { openRun } from "./run_view.js";
import { openRuns } from "./runs_view.js";
import { showTimes } from "./times.js";
import { openProject, openToken } from "./token_view.js";

const VIEWS = { runs: openRuns, run: openRun, playbooks: openPlaybooks };
const TICK = 1_000; // milliseconds between changes of durations that go on
const LAST_PROJECT = "playbook-runs.project";

// Shows a view for the address. A view is {element, title}, and may have: change(place), which returns whether it shows
// another place of its own; tick(); close().
export class App {
  #main = document.getElementById("main");
  #view = null;
  #place = null;
  #list = null; // the list that was open last, with its filters
  #rules = new Map(); // rules that were edited here, by project and playbook
  #shown = ""; // the address of what is shown
  #day = new Date().toDateString();
  #bar;

  constructor(session, api, live, notices) {
    this.session = session;
    this.api = api;
    this.live = live;
    this.notices = notices;
    this.#bar = new Bar(this);
  }

  start() {
    this.session.onChange(() => this.show({ isAnew: true }));
    window.addEventListener("popstate", () => this.#moved());
    window.addEventListener("hashchange", () => this.#takeToken());
    document.addEventListener("click", (event) => this.#follow(event));
    setInterval(() => this.#tick(), TICK);
    this.show();
  }

  // Go to a place, and keep the one before in the history.
  go(place) {
    history.pushState(null, "", address.of({ project: this.#place?.project ?? "", ...place }));
    this.show({ hasMoved: true });
  }

  // Ask for the project to open.
  chooseProject() {
    sessionStorage.removeItem(LAST_PROJECT);
    this.go({ project: "", view: "runs" });
  }

  // Show what the address says. `isAnew`: as another person, so that nothing of the view before stays.
  show({ hasMoved = false, isAnew = false } = {}) {
    const place = address.read();
    this.#shown = location.search;
    place.project ||= this.#usualProject();
    if (place.view === "runs") this.#list = place;
    const isSame = this.#place?.view === place.view && this.#place.project === place.project;
    const isReady = this.session.isUsable && place.project !== "";
    if (isReady && isSame && !isAnew && this.#view?.change?.(place)) {
      this.#place = place;
      this.#bar.show(place);
      return;
    }
    this.#close();
    this.#place = place;
    this.#bar.show(place);
    this.#view = this.#open(place);
    fill(this.#main, this.#view.element);
    document.title = `${this.#view.title} · Playbook runs`;
    if (hasMoved) {
      window.scrollTo(0, 0);
      this.#main.focus({ preventScroll: true });
    }
  }

  #open(place) {
    if (!this.session.isUsable) return openToken(this);
    if (!place.project) return openProject(this);
    sessionStorage.setItem(LAST_PROJECT, place.project);
    const { project } = place;
    const { session, api, live, notices } = this;
    const list = this.#list?.project === project ? this.#list : { project, view: "runs" };
    const go = (to) => this.go(to);
    return VIEWS[place.view]({ session, api, live, notices, place, project, list, rules: this.#rules, go });
  }

  #close() {
    this.live.stop();
    this.#view?.close?.();
    this.#view = null;
    for (const question of document.querySelectorAll("dialog")) question.close(); // it was about what was shown
  }

  // Back or forward; or to a part of this view, which is no other place.
  #moved() {
    if (location.search !== this.#shown) this.show();
  }

  // The project where the address names none.
  #usualProject() {
    if (!this.session.isUsable) return "";
    const { named, every } = this.session.projects;
    const last = sessionStorage.getItem(LAST_PROJECT) ?? "";
    if (named.includes(last) || (every && last)) return last;
    return every ? "" : (named[0] ?? "");
  }

  #takeToken() {
    try {
      this.session.takeFromFragment();
    } catch (error) {
      this.notices.say(error.message, "failed");
    }
  }

  #tick() {
    if (document.hidden) return;
    if (this.session.hasExpired) {
      this.session.refuse({ status: 401, reason: "TOKEN_EXPIRED", message: "The token has expired." });
      return;
    }
    this.#view?.tick?.();
    const day = new Date().toDateString();
    if (day !== this.#day) showTimes(); // what was today is yesterday
    this.#day = day;
  }

  // Follow links to places of this page without loading it again.
  #follow(event) {
    const link = event.target.closest?.("a[href^='?']");
    const isPlain = event.button === 0 && !(event.metaKey || event.ctrlKey || event.shiftKey || event.altKey);
    if (!link || !isPlain || event.defaultPrevented) return;
    event.preventDefault();
    history.pushState(null, "", link.getAttribute("href"));
    this.show({ hasMoved: true });
  }
}
