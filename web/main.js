// SPDX-License-Identifier: Apache-2.0
// Signs in, then shows the page that the URL names: #/ all models, #/model/NAME:TAG the map of one.
import {ApiError, json, signIn} from "./api.js";
import {html, set, setText} from "./dom.js";
import {Freshness} from "./freshness.js";
import {FlowMap} from "./map.js";
import {picture} from "./model.js";
import {networkWords, Overview} from "./overview.js";
import {follow} from "./stream.js";
import {Summary} from "./summary.js";
import {NodeTable} from "./table.js";
import {percent} from "./words.js";

const POLL_MS = 2000, POLL_AWAY_MS = 5000;
const main = document.getElementById("main"), network = document.getElementById("network");
const freshness = new Freshness(document.getElementById("freshness"));

/** Calls `look` now and again, until the returned function is called. While the page is hidden it rests. */
function repeat(look) {
	let stopped = false, looking = false, timer = null;
	async function turn() {
		let wait = POLL_MS;
		looking = true;
		if (!document.hidden) {
			try {
				await look();
			} catch (failure) {
				if (!(failure instanceof ApiError)) throw failure;
				wait = POLL_AWAY_MS;
				if (!stopped) away(failure, wait / 1000);
			}
		}
		looking = false;
		if (!stopped) timer = setTimeout(turn, wait);
	}
	const wake = () => {
		if (document.hidden || looking) return;
		clearTimeout(timer);
		turn();
	};
	document.addEventListener("visibilitychange", wake);
	turn();
	return () => {
		stopped = true;
		clearTimeout(timer);
		document.removeEventListener("visibilitychange", wake);
	};
}

function away(failure, seconds) {
	freshness.away(failure, seconds);
	if (failure.status === 401) signedOut(failure.message);
}

function signedOut(words) {
	leave();
	document.title = "MDN";
	main.replaceChildren(html("div", {class: "notice", role: "alert"}, html("h1", {}, "Not signed in"), html("p", {}, `${words}.`),
		html("p", {}, html("code", {}, "mdn console"))));
}

function overviewPage() {
	const overview = new Overview();
	document.title = "MDN";
	main.replaceChildren(overview.element);
	return repeat(async () => {
		const [{models}, {nodes}] = await Promise.all([json("/mdn/v1/models"), json("/mdn/v1/nodes")]);
		freshness.sign();
		overview.show(models);
		setText(network, networkWords(nodes));
	});
}

/** Map or table; kept for the next time. */
function viewSwitch(map, table) {
	const buttons = ["map", "table"].map((view) => html("button", {type: "button", "data-view": view}, view === "map" ? "Map" : "Table"));
	const choose = (view) => {
		for (const button of buttons) set(button, "aria-pressed", String(button.dataset.view === view));
		set(map.element, "hidden", view === "map" ? null : "");
		table.element.classList.toggle("unseen", view === "map");
		set(table.element, "tabindex", view === "map" ? null : 0);
		sessionStorage.setItem("view", view);
	};
	for (const button of buttons) button.addEventListener("click", () => choose(button.dataset.view));
	choose(sessionStorage.getItem("view") === "table" ? "table" : "map");
	return html("div", {class: "switch", role: "group", "aria-label": "View"}, ...buttons);
}

function modelPage(name) {
	const summary = new Summary(name), map = new FlowMap(), table = new NodeTable(), seen = new Set();
	const notice = html("p", {class: "notice", role: "alert", hidden: ""});
	let nodes = [], last = null;
	const draw = () => {
		if (!last) return;
		const view = picture(last, nodes, seen), share = last.total_bytes ? last.have_bytes / last.total_bytes : 0;
		const label = `${name} on its way: ${percent(share)} of ${last.nodes.length} nodes`;
		document.title = `${percent(share)} ${name} – MDN`;
		summary.show(last);
		map.show(view, label);
		table.show(view, label);
	};
	main.replaceChildren(html("nav", {class: "back"}, html("a", {href: "#/"}, "All models"), viewSwitch(map, table)), notice, summary.element, map.element, table.element);
	const stopNodes = repeat(async () => {
		({nodes} = await json("/mdn/v1/nodes"));
		setText(network, networkWords(nodes));
		draw();
	});
	const stopStream = follow(`/mdn/v1/events?model=${encodeURIComponent(name)}`, {
		onData: (data) => {
			last = data;
			set(notice, "hidden", "");
			draw();
		},
		onSign: () => freshness.sign(),
		onAway: (failure, seconds) => {
			if (failure.status === 404) {
				set(notice, "hidden", null);
				setText(notice, `${failure.message}.`);
			}
			away(failure, seconds);
		},
	});
	return () => {
		stopNodes();
		stopStream();
		map.stop();
	};
}

let leave = () => {};

function show() {
	leave();
	const model = location.hash.match(/^#\/model\/(.+)$/)?.[1];
	leave = model ? modelPage(decodeURIComponent(model)) : overviewPage();
}

try {
	await signIn();
	show();
} catch (failure) {
	signedOut(failure.message);
}
document.querySelector(".skip").addEventListener("click", (event) => {
	event.preventDefault(); // what is behind # names the page
	main.focus();
});
window.addEventListener("hashchange", async () => {
	try {
		await signIn();
		show();
	} catch (failure) {
		signedOut(failure.message);
	}
});
