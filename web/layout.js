// SPDX-License-Identifier: Apache-2.0
// Where sites and nodes stand: sites with an origin in the first row, the others in rows below. The largest size of node
// that fits the window is taken; where none fits, the page scrolls. Pure.

const SIZES = [[136, 36], [116, 30], [100, 25], [84, 20], [64, 16], [44, 13], [32, 10], [24, 7], [16, 5]];
const NAMES_FROM = 20, HEAD = 40, PAD = 14, GAP = 28, LETTER = 8;

function siteBox(site, [cell, radius], width) {
	const count = site.nodes.length, named = radius >= NAMES_FROM;
	const most = Math.max(1, Math.floor((width - 2 * PAD) / cell));
	const columns = Math.min(count, most, Math.ceil(Math.sqrt(count * 2.2)));
	const rows = Math.ceil(count / columns), line = named ? cell + 14 : cell;
	const w = Math.max(columns * cell, Math.min(site.name.length * LETTER + 64, width - 2 * PAD)) + 2 * PAD;
	return {site, columns, line, w, h: rows * line + HEAD + PAD};
}

function rowsOf(boxes, width) {
	const rows = [];
	let row = null;
	for (const box of boxes) {
		if (!row || row.origin !== box.site.origin || row.w + GAP + box.w > width) {
			rows.push(row = {origin: box.site.origin, boxes: [], w: -GAP, h: 0});
		}
		row.boxes.push(box);
		row.w += GAP + box.w;
		row.h = Math.max(row.h, box.h);
	}
	return rows;
}

function place(sites, size, width) {
	const [cell, radius] = size, boxes = sites.map((site) => siteBox(site, size, width));
	const rows = rowsOf(boxes, width), at = new Map(), placed = [];
	const gap = Math.max(34, radius * 2);
	let y = 4;
	for (const row of rows) {
		let x = (width - row.w) / 2;
		for (const box of row.boxes) {
			placed.push({name: box.site.name, count: box.site.nodes.length, x, y, w: box.w, h: box.h});
			const inset = (box.w - box.columns * cell) / 2;
			box.site.nodes.forEach((node, index) => at.set(node.id, {
				x: x + inset + (index % box.columns + 0.5) * cell,
				y: y + HEAD + Math.floor(index / box.columns) * box.line + cell / 2 - 4,
			}));
			x += box.w + GAP;
		}
		y += row.h + gap;
	}
	return {sites: placed, at, radius, cell, named: radius >= NAMES_FROM, width, height: y - gap + 4, fits: rows.every((row) => row.w <= width + 1)};
}

/** {sites: [{name, count, x, y, w, h}], at: id -> {x, y}, radius, cell, named, width, height} */
export function layout(sites, width, height) {
	let scrolls = null;
	for (const size of SIZES) {
		const frame = place(sites, size, width);
		if (frame.fits && frame.height <= height) return frame;
		if (frame.fits && size[0] <= 100) scrolls ??= frame;
	}
	return scrolls ?? place(sites, SIZES.at(-1), width);
}
