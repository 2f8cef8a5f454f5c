// SPDX-License-Identifier: Apache-2.0
// What the picture and the table show, from the center's documents: a model's progress and the list of nodes. Pure.

const HERE = new Set(["ready", "cached", "loading"]);

function shareOf(node) {
	if (HERE.has(node.state)) return 1;
	return node.total_bytes > 0 ? Math.min(1, node.have_bytes / node.total_bytes) : 0;
}

function receiver(node, known) {
	const away = known?.health === "down";
	return {
		id: node.id,
		name: node.name || node.id,
		site: node.site,
		state: away && node.state !== "failed" ? "away" : node.state,
		share: shareOf(node),
		have: HERE.has(node.state) ? node.total_bytes : node.have_bytes,
		total: node.total_bytes,
		rate: away ? 0 : node.fetch_rate,
		left: node.eta_us,
		error: node.error,
		old: node.want === "old",
		file: node.file ?? "",
		sources: away || node.state !== "fetching" ? [] : (node.sources ?? []).filter((source) => source.rate > 0),
		gives: 0,
		to: 0,
		origin: false,
	};
}

function origin(id, name, site, known) {
	return {id, name: name || id, site: site || "elsewhere", state: known?.health === "down" ? "away" : "origin", share: 1, have: 0,
		total: 0, rate: 0, left: 0, error: "", old: false, file: "", sources: [], gives: 0, to: 0, origin: true};
}

/**
 * {nodes, flows}: nodes sorted by site and name, origins first; flows {from, to, rate}.
 * Origins are the repositories that give something now or did before (`seen`, ids, kept by the caller); a network with
 * only one shows it always.
 */
export function picture(document, network, seen) {
	const known = new Map(network.map((node) => [node.id, node]));
	const nodes = new Map(document.nodes.map((node) => [node.id, receiver(node, known.get(node.id))]));
	const repositories = network.filter((node) => (node.roles ?? "").split(",").includes("repository"));
	if (repositories.length === 1) seen.add(repositories[0].id);
	const flows = [];
	for (const to of document.nodes) {
		for (const source of nodes.get(to.id).sources) {
			if (!nodes.has(source.id)) {
				seen.add(source.id);
				nodes.set(source.id, origin(source.id, source.name, source.site, known.get(source.id)));
			}
			flows.push({from: source.id, to: to.id, rate: source.rate});
		}
	}
	for (const id of seen) {
		const node = known.get(id);
		if (node && !nodes.has(id)) nodes.set(id, origin(id, node.name, node.site, node));
	}
	for (const {from, rate} of flows) {
		nodes.get(from).gives += rate;
		nodes.get(from).to++;
	}
	const order = (a, b) => b.origin - a.origin || a.site.localeCompare(b.site) || a.name.localeCompare(b.name, "en", {numeric: true});
	return {nodes: [...nodes.values()].sort(order), flows};
}

/** [{name, origin, nodes}]: sites with an origin first, then by name. */
export function sitesOf(nodes) {
	const sites = new Map();
	for (const node of nodes) {
		if (!sites.has(node.site)) sites.set(node.site, {name: node.site, origin: false, nodes: []});
		const site = sites.get(node.site);
		site.nodes.push(node);
		site.origin ||= node.origin;
	}
	return [...sites.values()].sort((a, b) => b.origin - a.origin || a.name.localeCompare(b.name, "en", {numeric: true}));
}

/** What one node does, in a sentence. */
export function sentence(node, nodes, {STATES, bytes, rate, percent, left, plural}) {
	const parts = [`${node.name} on ${node.site}: ${STATES[node.state] ?? node.state}`];
	if (!node.origin && node.share < 1) parts.push(`${percent(node.share)}, ${bytes(node.have)} of ${bytes(node.total)}`);
	if (node.old) parts.push("keeps the old version for now");
	if (node.rate >= 1) parts.push(`receives ${rate(node.rate)}`);
	if (node.sources.length) {
		const name = (id) => nodes.find((other) => other.id === id)?.name ?? id;
		parts.push(`from ${node.sources.map((source) => `${name(source.id)} (${rate(source.rate)})`).join(", ")}`);
	}
	if (node.to) parts.push(`gives ${rate(node.gives)} to ${plural(node.to, "node")}`);
	if (node.left > 0) parts.push(`done in ${left(node.left)}`);
	if (node.error) parts.push(node.error);
	return parts.join("; ");
}
