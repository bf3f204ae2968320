// The start of the page.

import { Api } from "./api.js";
import { App } from "./app.js";
import { Live } from "./live.js";
import { Notices } from "./notices.js";
import { Session } from "./session.js";

const session = new Session(sessionStorage);
const notices = new Notices();
try {
  session.takeFromFragment();
} catch (error) {
  notices.say(error.message, "failed");
}
const api = new Api(session);
new App(session, api, new Live(api), notices).start();
