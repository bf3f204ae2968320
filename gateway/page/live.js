// The one event stream of this tab: open while the tab is seen, and resumed where it was.

import { Problem } from "./api.js";
import { eventsOf } from "./events.js";

const SILENCE = 40_000; // milliseconds; a heartbeat comes every 15 s
const FIRST_PAUSE = 500; // milliseconds before the next try; doubles
const LONGEST_PAUSE = 10_000;
const CLOSING = 50; // milliseconds

// Follows one target at a time. `state`: off, connecting, live, lost, paused, hidden, ended.
//
// A target has `project`, `path`, `query`; `take(event)` gets each event once; `restarted()` is called when the stream
// begins anew and changes may have been missed; `refused(problem)` when the server refuses it for good.
export class Live {
  #api;
  #listeners = new Set();
  #following = null; // an AbortController
  #attempt = null; // the AbortController of the request that is open
  #closed = Promise.resolve(); // once the stream of the target before is closed
  #wake = () => {};
  #isPaused = false;

  constructor(api) {
    this.#api = api;
    this.state = "off";
    document.addEventListener("visibilitychange", () => this.#reconsider());
    window.addEventListener("online", () => this.#wake());
    window.addEventListener("pagehide", () => this.#attempt?.abort());
  }

  // Call `listener` at each change of the state; return a function that ends this.
  onChange(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  // Follow a target instead of the one before.
  follow(target) {
    this.stop();
    this.#isPaused = false; // what was paused is not shown any more
    const { signal } = (this.#following = new AbortController());
    this.#set("connecting");
    this.#closed = this.#closed.catch(() => {}).then(() => this.#run(target, signal));
  }

  stop() {
    this.#following?.abort();
    this.#following = null;
    this.#attempt?.abort();
    this.#wake();
    this.#set("off");
  }

  // Close the stream until resume().
  pause() {
    this.#isPaused = true;
    this.#reconsider();
  }

  // Open the stream again, now.
  resume() {
    this.#isPaused = false;
    this.#reconsider();
  }

  get #blocked() {
    if (this.#isPaused) return "paused";
    return document.hidden ? "hidden" : "";
  }

  #reconsider() {
    if (this.#blocked) this.#attempt?.abort();
    this.#wake();
  }

  #set(state) {
    if (state === this.state) return;
    this.state = state;
    for (const listener of this.#listeners) listener(state);
  }

  async #run(target, signal) {
    const at = { lastId: "", query: target.query ?? {}, pause: FIRST_PAUSE, isLate: false };
    while (!signal.aborted) {
      if (this.#blocked) {
        at.isLate = true;
        this.#set(this.#blocked);
        await this.#sleep(null);
        continue;
      }
      const attempt = new AbortController();
      this.#attempt = attempt;
      if (this.state !== "lost") this.#set("connecting");
      try {
        const isOver = await this.#read(target, at, attempt);
        if (signal.aborted) return;
        if (isOver) return void this.#set("ended");
      } catch (error) {
        if (signal.aborted) return;
        if (attempt.signal.aborted && this.#blocked) continue;
        if (!(await this.#recovers(target, at, error))) return;
      } finally {
        attempt.abort();
        at.isLate = true;
        await isClosed();
      }
      if (signal.aborted || this.#blocked) continue;
      if (at.pause > 0) {
        this.#set("lost");
        await this.#sleep(at.pause * (0.75 + Math.random() / 2));
      }
      at.pause = Math.min(at.pause * 2 || FIRST_PAUSE, LONGEST_PAUSE);
    }
  }

  // Read events until the stream ends; return whether it ended for good.
  async #read(target, at, attempt) {
    let watchdog = 0;
    const alive = () => {
      clearTimeout(watchdog);
      watchdog = setTimeout(() => attempt.abort(), SILENCE);
    };
    alive();
    try {
      const response = await this.#api.stream(target.project, target.path, at.query, at.lastId, attempt.signal);
      if (response.status === 204) return true;
      const isResumed = at.lastId !== "";
      let isFirst = true;
      this.#set("live");
      for await (const event of eventsOf(response, alive)) {
        if (attempt.signal.aborted) return false;
        if (event.name === "problem") throw new Problem(event.data.status, event.data);
        const isAnew = isResumed ? event.name === "snapshot" : at.isLate && event.name !== "updated";
        if (isFirst && isAnew) target.restarted();
        isFirst = false;
        at.pause = FIRST_PAUSE;
        if (event.id) at.lastId = event.id;
        target.take(event);
      }
      return target.isOver?.() ?? false;
    } finally {
      clearTimeout(watchdog);
    }
  }

  // Return whether to try again after an error.
  async #recovers(target, at, error) {
    if (!(error instanceof Problem)) return true; // the connection broke
    if (error.status === 401) {
      this.#set("lost");
      this.#api.session.refuse(error);
      return false;
    }
    const hasPosition = at.lastId !== "" || at.query.afterSequence !== undefined;
    if (hasPosition && (error.status === 410 || error.status === 400)) { // the server knows it no more
      at.lastId = "";
      at.query = {};
      at.pause = 0; // at once
      return true;
    }
    if (error.status >= 400 && error.status < 500 && error.status !== 429 && error.status !== 408) {
      this.#set("off");
      target.refused(error);
      return false;
    }
    at.pause = Math.max(at.pause, error.retryAfter * 1000);
    return true;
  }

  #sleep(milliseconds) {
    return new Promise((resolve) => {
      const timer = milliseconds === null ? 0 : setTimeout(resolve, milliseconds);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}

// Wait until the connection of a request that was aborted is closed. A browser says nothing of it, and does it in a task
// that it queues and then in another process: some 15 ms later.
function isClosed() {
  return new Promise((resolve) => setTimeout(resolve, CLOSING));
}
