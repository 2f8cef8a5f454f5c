// SPDX-License-Identifier: Apache-2.0
// Which arrows are drawn: each flow while they can be told apart, else one for all flows between two sites. Pure.

const FLOWS_MAX = 160;

/** [{key, from, to, rate, count}]: from and to are {node: id} or {site: name}. */
export function arrows({nodes, flows}) {
	if (flows.length <= FLOWS_MAX) {
		return flows.map(({from, to, rate}) => ({key: `${from} ${to}`, from: {node: from}, to: {node: to}, rate, count: 1}));
	}
	const site = new Map(nodes.map((node) => [node.id, node.site])), bundles = new Map();
	for (const flow of flows) {
		const from = site.get(flow.from), to = site.get(flow.to), key = JSON.stringify([from, to]);
		if (from === to) continue;
		if (!bundles.has(key)) bundles.set(key, {key, from: {site: from}, to: {site: to}, rate: 0, count: 0});
		bundles.get(key).rate += flow.rate;
		bundles.get(key).count++;
	}
	return [...bundles.values()];
}
