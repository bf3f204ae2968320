// Who looks at the page: the token, what it says of itself, and the project that is open.

const TOKEN = "playbook-runs.token";
const SAME = 2_000; // milliseconds between two clocks that count as the same: a server says whole seconds
const RANKS = { VIEWER: 1, EDITOR: 2, OWNER: 3 };

// The token lives in the tab's session storage and in the header of requests, nowhere else.
export class Session {
  #storage;
  #listeners = new Set();
  #clockOffset = null; // milliseconds that the server's clock is ahead of this one; null: not known yet

  constructor(storage) {
    this.#storage = storage;
    this.token = storage.getItem(TOKEN) ?? "";
    this.isAnonymous = false; // the server may ask for no token, or a proxy may send one
    this.problem = null; // why the token was refused
  }

  // Move the token of `#token=…` into the session and out of the address.
  takeFromFragment() {
    const given = new URLSearchParams(location.hash.slice(1)).get("token");
    if (given === null) return;
    history.replaceState(history.state, "", location.pathname + location.search);
    if (given) this.use(given);
  }

  // Use a token. Throws Error, with a message for a person, when it cannot be one.
  use(given) {
    const token = given.trim().replace(/^Bearer\s+/i, "");
    if (claimsOf(token) === null) throw new Error("This is not a token: one has three parts with dots between them.");
    this.token = token;
    this.isAnonymous = false;
    this.problem = null;
    this.#storage.setItem(TOKEN, token);
    this.#changed();
  }

  goAnonymous() {
    this.forget({ isAnonymous: true });
  }

  forget({ isAnonymous = false } = {}) {
    this.token = "";
    this.isAnonymous = isAnonymous;
    this.problem = null;
    this.#storage.removeItem(TOKEN);
    this.#changed();
  }

  // The server refused the token: `problem` has its reason and message.
  refuse(problem) {
    if (this.problem?.reason === problem.reason) return;
    this.problem = problem;
    this.#changed();
  }

  // Call `listener` at each change.
  onChange(listener) {
    this.#listeners.add(listener);
  }

  get claims() {
    return claimsOf(this.token) ?? {};
  }

  // When the token expires, in milliseconds since 1970; null: it does not say.
  get expires() {
    const { exp } = this.claims;
    return typeof exp === "number" ? exp * 1000 : null;
  }

  get isUsable() {
    return this.problem === null && (this.isAnonymous || this.token !== "");
  }

  // Whether the token has expired, as far as this page knows: where this clock is wrong, it does not lock anybody out.
  get hasExpired() {
    return this.#clockOffset !== null && this.expires !== null && this.expires <= this.now();
  }

  // Return the server's time, in milliseconds since 1970.
  now() {
    return Date.now() + (this.#clockOffset ?? 0);
  }

  // Take the server's time; NaN: it does not say.
  setClock(time) {
    if (Number.isNaN(time)) return;
    const offset = time - Date.now();
    this.#clockOffset = Math.abs(offset) > SAME ? offset : 0;
  }

  // The ids of the projects that the token names, and whether it is for every project.
  get projects() {
    const all = Object.keys(this.claims.projects ?? {});
    return { named: all.filter((one) => one !== "*").sort(), every: this.isAnonymous || all.includes("*") };
  }

  // The role in a project: VIEWER, EDITOR, OWNER; "": none.
  roleIn(project) {
    if (this.isAnonymous) return "OWNER";
    const { projects } = this.claims;
    return projects?.[project] ?? projects?.["*"] ?? "";
  }

  // Whether the role in a project is `needed` or higher.
  may(needed, project) {
    return (RANKS[this.roleIn(project)] ?? 0) >= RANKS[needed];
  }

  #changed() {
    for (const listener of this.#listeners) listener();
  }
}

function claimsOf(token) {
  const parts = token.split(".");
  if (parts.length !== 3) return null;
  try {
    const bytes = Uint8Array.from(atob(parts[1].replace(/-/g, "+").replace(/_/g, "/")), (one) => one.charCodeAt(0));
    const claims = JSON.parse(new TextDecoder().decode(bytes));
    return typeof claims === "object" && claims !== null ? claims : null;
  } catch {
    return null;
  }
}
