// SPDX-License-Identifier: Apache-2.0
// Where sites and nodes stand: sites with an origin at the top or at the left, the others in rows. Of all ways that fit
// the window the one with the largest nodes and gaps is taken, and of those the one shaped most like the window; where
// none fits, the page scrolls. Pure.

const SIZES = [[150, 38], [128, 33], [108, 27], [90, 22], [66, 16], [44, 13], [32, 10], [24, 7], [16, 5]];
const NAMES_FROM = 20, SCROLLS_FROM = 108, NARROW = 600, SCREENS = 4;
const HEAD = 34, PAD = 12, LETTER = 8, GAP = 34;
const ROOMS = [2.6, 2, 1.5, 1], SHARES = [1, 0.8, 0.6, 0.45, 0.34];

function siteBox(site, [cell], width) {
	const count = site.nodes.length;
	const most = Math.max(1, Math.floor((width - 2 * PAD) / cell));
	const columns = Math.ceil(count / Math.ceil(count / Math.min(most, Math.ceil(Math.sqrt(count * 2.2)))));
	const w = Math.max(columns * cell, Math.min(site.name.length * LETTER + 64, width - 2 * PAD)) + 2 * PAD;
	return {site, columns, w, h: Math.ceil(count / columns) * cell + HEAD + PAD};
}

/** Boxes side by side, as many as go into the width, row after row; {boxes, w, h} with x and y in each. */
function flow(boxes, width, {across, along}) {
	const rows = [];
	let row = null;
	for (const box of boxes) {
		if (!row || row.w + across + box.w > width) rows.push(row = {boxes: [], w: -across, h: 0});
		row.boxes.push(box);
		row.w += across + box.w;
		row.h = Math.max(row.h, box.h);
	}
	const w = Math.max(0, ...rows.map((one) => one.w)), placed = [];
	let y = 0;
	for (const one of rows) {
		let x = (w - one.w) / 2;
		for (const box of one.boxes) {
			placed.push({...box, x, y: y + (one.h - box.h) / 2});
			x += box.w + across;
		}
		y += one.h + along;
	}
	return {boxes: placed, w, h: Math.max(0, y - along)};
}

function shifted(block, dx, dy) {
	return block.boxes.map((box) => ({...box, x: box.x + dx, y: box.y + dy}));
}

function down(origins, others, width, share, gaps) {
	const top = flow(origins, width, gaps), rest = flow(others, width * share, gaps), lead = top.h ? top.h + gaps.along : 0;
	return {w: Math.max(top.w, rest.w), h: lead + rest.h,
		boxes: [...shifted(top, (width - top.w) / 2, 0), ...shifted(rest, (width - rest.w) / 2, lead)]};
}

function right(origins, others, width, share, gaps) {
	const left = flow(origins, Math.max(0, ...origins.map((box) => box.w)), gaps), lead = left.w ? left.w + gaps.along * 1.5 : 0;
	const rest = flow(others, (width - lead) * share, gaps), w = lead + rest.w, h = Math.max(left.h, rest.h), x = (width - w) / 2;
	return {w, h, boxes: [...shifted(left, x, (h - left.h) / 2), ...shifted(rest, x + lead, (h - rest.h) / 2)]};
}

/** {block, off}: the arrangement that fits and is shaped most like the window, and how far from it; null: none fits. */
function arrange(sites, size, room, width, height) {
	const gaps = {across: GAP * room, along: Math.max(40, size[1] * 1.8) * room};
	const boxes = sites.map((site) => siteBox(site, size, width)), ways = width < NARROW ? [down] : [right, down];
	const origins = boxes.filter((box) => box.site.origin), others = boxes.filter((box) => !box.site.origin);
	const off = (block) => Math.abs(Math.log(block.w / Math.max(1, block.h) * Math.min(height, 2 * width) / width));
	let best = null;
	for (const way of ways) {
		for (const share of SHARES) {
			const block = way(origins, others, width, share, gaps);
			if (block.w <= width + 1 && block.h <= height && (!best || off(block) < best.off)) best = {block, off: off(block)};
		}
	}
	return best;
}

/** Large nodes, room between them, and a shape like the window's are worth something; the best of all that fits. */
function choose(sites, width, height) {
	const narrow = width < NARROW;
	let best = null;
	for (const size of SIZES) {
		for (const room of ROOMS) {
			if (narrow && (room > 1 || size[0] > SCROLLS_FROM)) continue;
			const found = arrange(sites, size, room, width, narrow ? SCREENS * height : height);
			const worth = found && size[0] * room ** 0.3 * Math.exp(-found.off / 2);
			if (found && (!best || worth > best.worth)) best = {size, block: found.block, worth};
		}
		if (narrow && best) return best;
	}
	return best ?? scrolling(sites, width, height);
}

function scrolling(sites, width, height) {
	for (const size of SIZES.filter(([cell]) => cell <= SCROLLS_FROM)) {
		const found = arrange(sites, size, 1, width, SCREENS * height);
		if (found) return {size, block: found.block};
	}
	const size = SIZES.at(-1);
	return {size, block: down([], sites.map((site) => siteBox(site, size, width)), width, 1, {across: GAP, along: GAP})};
}

/** {sites: [{name, count, x, y, w, h}], at: id -> {x, y}, radius, cell, named, width, height} */
export function layout(sites, width, height) {
	const {size: [cell, radius], block} = choose(sites, width, height), named = radius >= NAMES_FROM, at = new Map();
	const free = width < NARROW ? 0 : Math.min(Math.max(0, height - block.h) / 2, 60);
	for (const box of block.boxes) {
		const inset = (box.w - box.columns * cell) / 2;
		box.site.nodes.forEach((node, index) => at.set(node.id, {
			x: box.x + inset + (index % box.columns + 0.5) * cell,
			y: box.y + free + 2 + HEAD + (Math.floor(index / box.columns) + 0.5) * cell - (named ? 9 : 0),
		}));
	}
	return {
		sites: block.boxes.map((box) => ({name: box.site.name, count: box.site.nodes.length, x: box.x, y: box.y + free + 2, w: box.w, h: box.h})),
		at, radius, cell, named, width, height: block.h + 2 * free + 4,
	};
}
