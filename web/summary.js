// SPDX-License-Identifier: Apache-2.0
// The head of a model's page: name, how far all nodes are, rate, time left, deadline, roll-out.
import {html, set, setText} from "./dom.js";
import {bits, bytes, clock, left, percent, PHASES, rate, STATES} from "./words.js";

function figure(name) {
	const value = html("dd"), more = html("dd", {class: "more"});
	return {element: html("div", {class: "figure"}, html("dt", {}, name), value, more), value, more};
}

function verdictKind(verdict) {
	if (/^(made it|will make it)/.test(verdict)) return "good";
	return /^(will not|too late)/.test(verdict) ? "bad" : "open";
}

/** A step per wave; the one that is going on is marked. */
function waves(rollout) {
	const over = ["done", "returned"].includes(rollout.phase), steps = [];
	for (let wave = 1; wave <= rollout.waves; wave++) {
		const state = rollout.phase === "done" || wave < rollout.wave ? "done" : wave === rollout.wave && !over ? "now" : "next";
		steps.push(html("li", {"data-state": state, "aria-current": state === "now" ? "step" : null}, `wave ${wave}`));
	}
	return html("ol", {class: "waves", "aria-label": `wave ${rollout.wave} of ${rollout.waves}`}, ...steps);
}

function rolloutWords(rollout) {
	let text = `Roll-out: ${PHASES[rollout.phase] ?? rollout.phase}`;
	if (rollout.phase === "soaking" && rollout.soaked_us) text += ` until ${clock(rollout.soaked_us)}`;
	text += `, ${rollout.ready} of ${rollout.placed} have the new version`;
	return rollout.why ? `${text}: ${rollout.why}` : text;
}

export class Summary {
	constructor(name) {
		this.chips = html("span", {class: "chips"});
		this.facts = html("p", {class: "quiet facts"});
		this.bar = html("div", {class: "bar", role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100, "aria-label": "All nodes"}, html("div"));
		this.ready = figure("ready");
		this.moved = figure("moved");
		this.rate = figure("rate");
		this.left = figure("left");
		this.deadline = figure("deadline");
		this.rollout = html("div", {class: "rollout"});
		this.element = html("section", {class: "summary", "aria-label": "Summary"},
			html("div", {class: "title"}, html("h1", {}, name), this.chips), this.facts, this.bar,
			html("dl", {class: "figures"}, ...[this.ready, this.moved, this.rate, this.left, this.deadline].map((one) => one.element)),
			this.rollout);
	}

	show(document) {
		const nodes = document.nodes, ready = nodes.filter((node) => node.state === "ready").length;
		const failed = nodes.filter((node) => node.state === "failed").length;
		const share = document.total_bytes ? document.have_bytes / document.total_bytes : 0;
		this.bar.firstElementChild.style.width = `${share * 100}%`;
		set(this.bar, "aria-valuenow", Math.floor(share * 100));
		set(this.bar, "data-state", failed ? "failed" : share >= 1 ? "ready" : "fetching");
		const others = ["waiting", "fetching", "loading", "paused", "cached", "failed"].map((state) => [state, nodes.filter((node) => node.state === state).length]);
		const more = others.filter(([, count]) => count).map(([state, count]) => `${count} ${STATES[state]}`).join(", ");
		this.put(this.ready, `${ready} of ${nodes.length}`, more || (nodes.length ? "all" : "no node"));
		this.put(this.moved, percent(share), `${bytes(document.have_bytes)} of ${bytes(document.total_bytes)}`);
		this.put(this.rate, document.fetch_rate >= 1 ? rate(document.fetch_rate) : "–", document.fetch_rate >= 1 ? bits(document.fetch_rate) : "nothing moves");
		const nothing = document.total_bytes === 0;
		this.put(this.left, document.eta_us === 0 ? "–" : left(document.eta_us),
			document.eta_us > 0 ? `done at ${clock(document.eta_us)}` : document.eta_us === 0 && !nothing ? "all is there" : "");
		this.showDeadline(document);
		this.showChips(document);
		this.showRollout(document.rollout);
		const facts = [document.architecture, document.quantization, document.license, document.on?.length ? `on ${document.on.join("; ")}` : "placed nowhere"];
		setText(this.facts, facts.filter(Boolean).join(" · "));
	}

	put(figure, value, more) {
		setText(figure.value, value);
		setText(figure.more, more);
	}

	showDeadline(document) {
		set(this.deadline.element, "hidden", document.verdict ? null : "");
		if (!document.verdict) return;
		set(this.deadline.element, "data-verdict", verdictKind(document.verdict));
		const words = document.verdict.replace(/\d{4}-\d\d-\d\dT[\d:]+Z/g, (time) => clock(Date.parse(time) * 1000));
		this.put(this.deadline, clock(document.by_us), words);
	}

	showChips(document) {
		const chips = [];
		if (document.paused) chips.push(["paused", "paused"]);
		if (document.retired) chips.push(["retired", "paused"]);
		if (document.rollout?.phase === "halted") chips.push(["roll-out halted", "failed"]);
		if (["returning", "returned"].includes(document.rollout?.phase)) chips.push([`roll-out ${PHASES[document.rollout.phase]}`, "failed"]);
		const key = JSON.stringify(chips);
		if (key === this.chipsKey) return;
		this.chipsKey = key;
		this.chips.replaceChildren(...chips.map(([text, state]) => html("span", {class: "chip", "data-state": state}, text)));
	}

	showRollout(rollout) {
		const key = rollout ? JSON.stringify([rollout.phase, rollout.wave, rollout.waves, rollout.why, rollout.ready, rollout.placed, rollout.soaked_us]) : "";
		if (key === this.rolloutKey) return;
		this.rolloutKey = key;
		this.rollout.replaceChildren(...(rollout ? [waves(rollout), html("p", {}, rolloutWords(rollout))] : []));
	}
}
