// SPDX-License-Identifier: Apache-2.0
// The same as the map, as a table: for screen readers always, for everybody on request.
import {html, Keyed, set, setText} from "./dom.js";
import {bytes, left, percent, rate, STATES} from "./words.js";

const COLUMNS = ["Node", "Site", "State", "Progress", "Has", "Receives", "Left", "From", "Gives", "Says"];

function makeRow() {
	return html("tr", {}, html("th", {scope: "row"}), ...COLUMNS.slice(1).map(() => html("td")));
}

export class NodeTable {
	constructor() {
		this.caption = html("caption");
		const body = html("tbody");
		this.element = html("div", {class: "table-frame", tabindex: 0, role: "region", "aria-label": "Nodes"},
			html("table", {}, this.caption, html("thead", {}, html("tr", {}, ...COLUMNS.map((name) => html("th", {scope: "col"}, name)))), body));
		this.rows = new Keyed(body, (node) => node.id, makeRow, (row, node) => this.update(row, node));
	}

	show(picture, label) {
		this.names = new Map(picture.nodes.map((node) => [node.id, node.name]));
		setText(this.caption, label);
		this.rows.showOrdered(picture.nodes);
	}

	update(row, node) {
		const from = node.sources.map((source) => `${this.names.get(source.id) ?? source.id} ${rate(source.rate)}`).join(", ");
		const state = node.old ? `${STATES[node.state]}, old version` : STATES[node.state] ?? node.state;
		const texts = [node.name, node.site, state, node.origin ? "" : percent(node.share), node.origin ? "" : bytes(node.have),
			node.rate >= 1 ? rate(node.rate) : "", left(node.left), from, node.gives >= 1 ? rate(node.gives) : "", node.error];
		set(row, "data-state", node.state);
		texts.forEach((text, index) => setText(row.children[index], text));
	}
}
