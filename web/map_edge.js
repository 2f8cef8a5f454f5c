// SPDX-License-Identifier: Apache-2.0
// An arrow from a source to who receives from it: as wide as the rate, with dashes that travel the way bytes do.
import {set, setText, svg} from "./dom.js";
import {plural, rate} from "./words.js";

export function makeEdge() {
	return svg("g", {class: "edge"}, svg("title"), svg("path", {class: "line", "marker-end": "url(#arrow)"}), svg("path", {class: "flow"}),
		svg("text", {class: "rate"}));
}

function toward(from, to, distance) {
	const length = Math.hypot(to.x - from.x, to.y - from.y) || 1;
	return {x: from.x + (to.x - from.x) / length * distance, y: from.y + (to.y - from.y) / length * distance};
}

/** Control points: an S between rows and columns, an arc above or below within a row, so that both ways are told apart. */
function bend(a, b) {
	const dx = b.x - a.x, dy = b.y - a.y;
	if (Math.abs(dy) < a.r * 1.5) {
		const wide = Math.min(Math.abs(dx), 700), lift = dx > 0 ? -(a.r * 0.7 + wide * 0.2) : a.r * 1.5 + wide * 0.16;
		return [{x: a.x + dx * 0.3, y: a.y + dy * 0.3 + lift}, {x: b.x - dx * 0.3, y: b.y - dy * 0.3 + lift}];
	}
	if (Math.abs(dx) > Math.abs(dy) * 1.8) {
		const side = dx > 0 ? -6 : 6;
		return [{x: a.x + dx * 0.5, y: a.y + dy * 0.1 + side}, {x: b.x - dx * 0.5, y: b.y - dy * 0.1 + side}];
	}
	const side = dy > 0 ? 7 : -7;
	return [{x: a.x + dx * 0.12 + side, y: a.y + dy * 0.5}, {x: b.x - dx * 0.12 + side, y: b.y - dy * 0.5}];
}

function at(t, p) {
	const u = 1 - t, w = [u * u * u, 3 * u * u * t, 3 * u * t * t, t * t * t];
	return {x: p.reduce((sum, q, i) => sum + q.x * w[i], 0), y: p.reduce((sum, q, i) => sum + q.y * w[i], 0)};
}

const round = (value) => Math.round(value * 10) / 10;

/** arrow: {rate, count, a: {x, y, r}, b: {x, y, r}, share (of the largest), width, label, names} */
export function updateEdge(element, arrow) {
	const [title, line, flow, text] = element.children, {a, b} = arrow;
	const [c, d] = bend(a, b), start = toward(a, c, a.r + 3), end = toward(b, d, b.r + 2 + Math.min(10, b.r / 2.6));
	const path = `M${round(start.x)} ${round(start.y)}C${round(c.x)} ${round(c.y)} ${round(d.x)} ${round(d.y)} ${round(end.x)} ${round(end.y)}`;
	set(line, "d", path);
	set(flow, "d", path);
	line.style.strokeWidth = `${arrow.width}px`;
	element.style.setProperty("--share", Math.sqrt(arrow.share).toFixed(2));
	set(element, "data-thin", arrow.share < 0.12 ? "" : null);
	flow.style.strokeWidth = `${Math.max(1.2, arrow.width * 0.55)}px`;
	flow.style.animationDuration = `${round(3.2 - 2 * Math.sqrt(arrow.share))}s`;
	set(element, "data-from", arrow.from.node ?? arrow.from.site);
	set(element, "data-to", arrow.to.node ?? arrow.to.site);
	const middle = at(0.5, [start, c, d, end]);
	set(text, "x", round(middle.x));
	set(text, "y", round(middle.y + 4));
	setText(text, arrow.label && Math.hypot(end.x - start.x, end.y - start.y) > 64 ? rate(arrow.rate) : "");
	setText(title, `${arrow.names}: ${rate(arrow.rate)}${arrow.count > 1 ? ` in ${plural(arrow.count, "flow")}` : ""}`);
}
