// The server's API, as this page calls it.

const TIMEOUT = 60_000; // milliseconds

// An answer that is an error. `status` 0: there was no answer.
export class Problem extends Error {
  constructor(status, { reason = "", message = "", fields = [], metadata = {}, requestId = "" } = {}, retryAfter = 0) {
    super(message);
    Object.assign(this, { status, reason, fields: fields ?? [], metadata: metadata ?? {}, requestId, retryAfter });
  }

  static async of(response) {
    const after = Number(response.headers.get("retry-after")) || 0;
    const content = await response.json().catch(() => ({ message: `The server answered with ${response.status}.` }));
    return new Problem(response.status, content, after);
  }

  static unreachable() {
    return new Problem(0, { reason: "UNREACHABLE", message: "The server cannot be reached." });
  }
}

// Calls with the session's token. Every method throws Problem; one with status 401 reaches the session first.
export class Api {
  constructor(session) {
    this.session = session;
  }

  // Return the server's time, in milliseconds since 1970.
  now() {
    return this.session.now();
  }

  // Return a resource.
  async get(project, path, query = {}, signal = undefined) {
    return (await this.#json("GET", project, path, query, undefined, signal)).value;
  }

  // Return a page of a list, and `next`: the token of the page after it, "" on the last one.
  async page(project, path, query = {}, signal = undefined) {
    const { value, headers } = await this.#json("GET", project, path, query, undefined, signal);
    const link = /<([^>]*)>; rel="next"/.exec(headers.get("link") ?? "");
    const next = link ? new URL(link[1], location.origin).searchParams.get("pageToken") : "";
    return { value, next: next ?? "" };
  }

  // Return what a POST answers.
  async post(project, path, body = {}, signal = undefined) {
    return (await this.#json("POST", project, path, {}, body, signal)).value;
  }

  // Return the response of an event stream that resumes after the event `lastId`.
  async stream(project, path, query, lastId, signal) {
    const headers = { accept: "text/event-stream", ...(lastId ? { "last-event-id": lastId } : {}) };
    return this.#fetch(urlOf(project, path, query), { headers, signal });
  }

  async #json(method, project, path, query, body, signal) {
    const headers = { accept: "application/json", ...(body ? { "content-type": "application/json" } : {}) };
    const timeout = AbortSignal.timeout(TIMEOUT);
    const either = signal ? AbortSignal.any([signal, timeout]) : timeout;
    const sent = { method, headers, body: body && JSON.stringify(body), signal: either };
    const response = await this.#fetch(urlOf(project, path, query), sent);
    const value = await response.json().catch(() => {
      if (signal?.aborted) throw signal.reason;
      throw Problem.unreachable();
    });
    return { value, headers: response.headers };
  }

  async #fetch(url, options) {
    const token = this.session.token;
    const authorization = token ? { authorization: `Bearer ${token}` } : {};
    let response;
    try {
      response = await fetch(url, {
        ...options,
        headers: { ...options.headers, ...authorization },
        cache: "no-store",
        credentials: "same-origin",
      });
    } catch (error) {
      if (options.signal?.aborted && options.signal.reason?.name !== "TimeoutError") throw error;
      throw Problem.unreachable();
    }
    this.session.setClock(Date.parse(response.headers.get("date") ?? ""));
    if (response.ok) return response;
    const problem = await Problem.of(response);
    if (problem.status === 401 && token === this.session.token) this.session.refuse(problem);
    throw problem;
  }
}

function urlOf(project, path, query) {
  const url = new URL(`api/projects/${encodeURIComponent(project)}/automation-playbooks/${path}`, document.baseURI);
  for (const [name, value] of Object.entries(query)) {
    for (const one of [value].flat()) if (one !== "" && one !== undefined) url.searchParams.append(name, one);
  }
  return url;
}
