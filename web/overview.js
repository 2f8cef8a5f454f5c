// SPDX-License-Identifier: Apache-2.0
// The first page: every model with how far it is, those that move first; and the network in a line.
import {html, Keyed, set, setText} from "./dom.js";
import {bytes, percent, plural, rate} from "./words.js";

function stateOf(model) {
	if (model.placed === 0) return "nowhere";
	if (model.failed) return "failed";
	if (model.paused && model.ready < model.placed) return "paused";
	return model.have_bytes < model.total_bytes || model.fetch_rate >= 1 ? "fetching" : "ready";
}

const ORDER = ["fetching", "failed", "paused", "ready", "nowhere"];

function makeCard() {
	return html("li", {}, html("a", {class: "card"}, html("strong"), html("span", {class: "quiet"}), html("div", {class: "bar"}, html("div")), html("span", {class: "line"})));
}

function updateCard(element, model) {
	const card = element.firstElementChild, [name, facts, bar, line] = card.children, state = stateOf(model);
	const title = `${model.name}:${model.tag}`, share = model.total_bytes ? model.have_bytes / model.total_bytes : 0;
	set(card, "href", `#/model/${encodeURIComponent(title)}`);
	set(card, "data-state", state);
	setText(name, title);
	setText(facts, [model.quantization, bytes(model.files.reduce((sum, file) => sum + file.size, 0))].filter(Boolean).join(" · "));
	set(bar, "data-state", state);
	bar.firstElementChild.style.width = `${share * 100}%`;
	const parts = state === "nowhere" ? ["placed nowhere"] : [percent(share), `${model.ready} of ${plural(model.placed, "node")} ready`];
	if (model.failed) parts.push(`${model.failed} failed`);
	if (state === "paused") parts.push("paused");
	if (model.fetch_rate >= 1) parts.push(rate(model.fetch_rate));
	setText(line, parts.join(" · "));
}

export class Overview {
	constructor() {
		this.list = html("ul", {class: "cards"});
		this.empty = html("p", {class: "quiet", hidden: ""}, "There is no model yet. ", html("code", {}, "mdn push FILE NAME:TAG"), " brings one.");
		this.element = html("div", {class: "overview"}, html("h1", {}, "Models"), this.list, this.empty);
		this.cards = new Keyed(this.list, (model) => `${model.name}:${model.tag}`, makeCard, updateCard);
	}

	show(models) {
		const rank = (model) => ORDER.indexOf(stateOf(model));
		const name = (model) => `${model.name}:${model.tag}`;
		set(this.empty, "hidden", models.length ? "" : null);
		this.cards.showOrdered([...models].sort((a, b) => rank(a) - rank(b) || name(a).localeCompare(name(b), "en", {numeric: true})));
	}
}

/** "5 of 6 nodes up on 3 sites" */
export function networkWords(nodes) {
	const up = nodes.filter((node) => node.health === "up").length, sites = new Set(nodes.map((node) => node.site)).size;
	return `${up} of ${plural(nodes.length, "node")} up on ${plural(sites, "site")}`;
}
