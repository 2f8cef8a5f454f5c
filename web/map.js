// SPDX-License-Identifier: Apache-2.0
// The map of one distribution: sites, nodes in them, arrows from sources to receivers.
import {html, Keyed, set, setText, svg} from "./dom.js";
import {arrows} from "./flow.js";
import {layout} from "./layout.js";
import {makeEdge, updateEdge} from "./map_edge.js";
import {makeNode, updateNode} from "./map_node.js";
import {sentence, sitesOf} from "./model.js";
import * as words from "./words.js";

const LEAVES_MS = 600, LABELS_MAX = 14, MOVING_MAX = 60;

function makeSite() {
	return svg("g", {class: "site"}, svg("rect", {rx: 14}), svg("text", {class: "site-name", y: 25, x: 16}), svg("text", {class: "site-count", y: 25}));
}

function updateSite(element, site) {
	const [rect, name, count] = element.children;
	element.style.transform = `translate(${site.x}px, ${site.y}px)`;
	set(rect, "width", site.w);
	set(rect, "height", site.h);
	setText(name, site.name);
	set(count, "x", site.w - 16);
	setText(count, String(site.count));
}

/** A way that ended fades first. */
function fadeEdge(element) {
	element.classList.add("leaving");
	setTimeout(() => element.remove(), LEAVES_MS);
}

export class FlowMap {
	constructor() {
		const layers = ["sites", "edges", "nodes"].map((name) => svg("g", {class: name}));
		this.disc = svg("circle");
		this.tip = svg("marker", {id: "arrow", viewBox: "0 0 10 10", refX: 2, refY: 5, markerUnits: "userSpaceOnUse", orient: "auto"},
			svg("path", {class: "head", d: "M0 0.8 L10 5 L0 9.2 Z"}));
		this.root = svg("svg", {class: "map", role: "group"}, svg("defs", {}, svg("clipPath", {id: "disc"}, this.disc), this.tip), ...layers);
		this.detail = html("p", {class: "detail", id: "detail"});
		this.frameElement = html("div", {class: "map-frame"}, this.root);
		this.element = html("section", {class: "map-section", "aria-label": "Map"}, this.frameElement, this.detail);
		this.sites = new Keyed(layers[0], (site) => site.name, makeSite, updateSite);
		this.edges = new Keyed(layers[1], (arrow) => arrow.key, makeEdge, updateEdge, fadeEdge);
		this.nodes = new Keyed(layers[2], (node) => node.id, makeNode, (element, node) =>
			updateNode(element, node, this.frame, sentence(node, this.picture.nodes, words)));
		this.current = null; // the id of the node looked at
		this.watchPointer(layers[2]);
		this.resized = new ResizeObserver(() => this.picture && this.draw());
		this.resized.observe(this.frameElement);
	}

	stop() {
		this.resized.disconnect();
	}

	show(picture, label) {
		this.picture = picture;
		set(this.root, "aria-label", label);
		this.draw();
	}

	draw() {
		const width = Math.max(280, this.frameElement.clientWidth);
		const room = Math.max(300, window.innerHeight - this.frameElement.getBoundingClientRect().top - window.scrollY - 72);
		const frame = this.frame = this.place(sitesOf(this.picture.nodes), width, room);
		set(this.root, "viewBox", `0 0 ${frame.width} ${frame.height}`);
		set(this.root, "height", frame.height);
		set(this.disc, "r", frame.radius);
		for (const side of ["markerWidth", "markerHeight"]) set(this.tip, side, Math.min(12, Math.max(5, frame.radius / 2.6)));
		this.sites.show(frame.sites);
		this.nodes.show(this.picture.nodes);
		this.drawEdges(frame);
		this.roam();
		this.look();
	}

	/** Anew only when somebody comes or goes, or the window changes. */
	place(sites, width, room) {
		const key = JSON.stringify([width, room, sites.map((site) => [site.name, site.nodes.map((node) => node.id)])]);
		if (key !== this.placedKey) [this.placedKey, this.placed] = [key, layout(sites, width, room)];
		return this.placed;
	}

	drawEdges(frame) {
		const list = arrows(this.picture).filter(({from, to}) => this.end(from, frame) && this.end(to, frame));
		const most = Math.max(1, ...list.map((arrow) => arrow.rate)), thick = Math.max(2, frame.radius / 5.5);
		const name = (end) => end.site ?? this.picture.nodes.find((node) => node.id === end.node)?.name ?? end.node;
		set(this.root, "data-flows", list.length <= MOVING_MAX ? "moving" : "still");
		this.edges.show(list.map((arrow) => ({
			...arrow,
			a: this.end(arrow.from, frame),
			b: this.end(arrow.to, frame),
			share: arrow.rate / most,
			width: 1.2 + thick * Math.sqrt(arrow.rate / most),
			label: list.length <= LABELS_MAX && frame.width > 640,
			names: `${name(arrow.from)} to ${name(arrow.to)}`,
		})));
	}

	end({node, site}, frame) {
		if (node) return frame.at.has(node) ? {...frame.at.get(node), r: frame.radius} : null;
		const box = frame.sites.find((one) => one.name === site);
		return box && {x: box.x + box.w / 2, y: box.y + box.h / 2, r: Math.min(box.w, box.h) / 2};
	}

	// ---- looking at one node: by pointer, or by keys (one stop for Tab, arrows inside) ----

	watchPointer(layer) {
		const id = (event) => event.target.closest(".node")?.dataset.id ?? null;
		layer.addEventListener("pointerover", (event) => this.look(id(event)));
		layer.addEventListener("pointerout", () => this.look(document.activeElement?.closest?.(".node")?.dataset.id ?? null));
		layer.addEventListener("focusin", (event) => this.look(id(event)));
		layer.addEventListener("focusout", () => this.look(null));
		layer.addEventListener("keydown", (event) => this.walk(event));
	}

	roam() {
		const elements = [...this.nodes.elements.values()];
		const stop = elements.find((element) => element.dataset.id === this.current) ?? elements[0];
		for (const element of elements) set(element, "tabindex", element === stop ? 0 : -1);
	}

	walk(event) {
		const here = this.frame.at.get(this.current);
		const way = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
		if (!here || !way) return;
		event.preventDefault();
		let best = null, least = Infinity;
		for (const [id, {x, y}] of this.frame.at) {
			const along = (x - here.x) * way[0] + (y - here.y) * way[1], aside = Math.abs((x - here.x) * way[1]) + Math.abs((y - here.y) * way[0]);
			if (along > 1 && along + 2 * aside < least) [best, least] = [id, along + 2 * aside];
		}
		this.nodes.elements.get(best)?.focus();
	}

	look(id = this.current) {
		const node = this.picture?.nodes.find((one) => one.id === id);
		this.current = node ? id : null;
		set(this.root, "data-looking", node ? "" : null);
		const near = new Set([this.current]);
		for (const element of this.edges.elements.values()) {
			const touches = node && (element.dataset.from === id || element.dataset.to === id);
			set(element, "data-near", touches ? "" : null);
			if (touches) near.add(element.dataset.from).add(element.dataset.to);
		}
		for (const [key, element] of this.nodes.elements) set(element, "data-near", node && near.has(key) ? "" : null);
		setText(this.detail, node ? sentence(node, this.picture.nodes, words) : "");
	}
}
