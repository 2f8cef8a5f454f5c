// SPDX-License-Identifier: Apache-2.0
// A node: a disc that fills as the model comes, a ring with the same share, and a sign for its state.
import {set, setText, svg} from "./dom.js";
import {percent} from "./words.js";

const SIGNS = {
	ready: "M-8 0 L-2.5 6 L8.5 -6",
	cached: "M-7 -5 H7 V6 H-7 Z M-3 -5 V-1 H3 V-5",
	failed: "M0 -8 V2 M0 7.2 V7.4",
	paused: "M-4 -7 V7 M4 -7 V7",
	loading: "M0 -7 V7 M-6 1 L0 7 L6 1",
	away: "M-6 -6 L6 6 M6 -6 L-6 6",
	origin: "M-8 -6 C-8 -10 8 -10 8 -6 C8 -2 -8 -2 -8 -6 V6 C-8 10 8 10 8 6 V-6 M-8 0 C-8 4 8 4 8 0",
};

export function makeNode() {
	return svg("g", {class: "node", tabindex: -1, role: "img"},
		svg("circle", {class: "disc"}),
		svg("g", {"clip-path": "url(#disc)"}, svg("rect", {class: "fill"})),
		svg("circle", {class: "ring", pathLength: 100, transform: "rotate(-90)"}),
		svg("path", {class: "sign"}),
		svg("text", {class: "share", y: 5}),
		svg("text", {class: "name"}));
}

function shorten(text, letters) {
	return text.length <= letters ? text : `${text.slice(0, letters - 1)}…`;
}

/** frame: the layout's; words: the node in a sentence. */
export function updateNode(element, node, frame, words) {
	const {x, y} = frame.at.get(node.id), r = frame.radius;
	const [disc, clip, ring, sign, share, name] = element.children, fill = clip.firstElementChild;
	element.style.transform = `translate(${x}px, ${y}px)`;
	set(element, "data-id", node.id);
	set(element, "data-name", node.name);
	set(element, "data-state", node.state);
	set(element, "data-share", Math.floor(node.share * 100));
	set(element, "data-old", node.old ? "" : null);
	set(element, "aria-label", words);
	set(disc, "r", r);
	set(ring, "r", r);
	set(ring, "stroke-dasharray", `${node.origin ? 100 : Math.round(node.share * 1000) / 10} 200`);
	for (const [key, value] of [["x", -r], ["y", -r], ["width", 2 * r], ["height", 2 * r]]) set(fill, key, value);
	fill.style.transform = `translateY(${(1 - node.share) * 2 * r}px)`;
	const path = SIGNS[node.state] ?? "", counts = !path && r >= 16;
	set(sign, "d", path);
	set(sign, "transform", `scale(${r / 27})`);
	set(share, "font-size", Math.max(10, r * 0.46));
	setText(share, counts ? percent(node.share) : "");
	set(name, "y", r + 20);
	setText(name, frame.named ? shorten(node.name, Math.floor(frame.cell / 7)) : "");
}
