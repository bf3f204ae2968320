import { h } from "./element.js";
export function openPlaybooks() { return { element: h("h1", {}, "Playbooks"), title: "Playbooks" }; }
