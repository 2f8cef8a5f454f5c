// SPDX-License-Identifier: Apache-2.0
// How old what is shown is: a mark in the corner, and a page that fades while nothing new comes.
import {setText} from "./dom.js";
import {duration} from "./words.js";

const LIVE_MS = 5000;

export class Freshness {
	constructor(element) {
		this.element = element;
		this.heard = 0; // when the center was last heard; 0: never
		this.failure = null;
		setInterval(() => this.show(), 1000);
	}

	sign() {
		this.heard = Date.now();
		this.failure = null;
		this.show();
	}

	away(failure, retrySeconds) {
		this.failure = failure;
		this.retryAt = Date.now() + retrySeconds * 1000;
		this.show();
	}

	words() {
		const age = this.heard ? duration((Date.now() - this.heard) / 1000) : null;
		if (this.failure?.status === 401) return ["out", "signed out"];
		if (!this.failure && this.heard && Date.now() - this.heard < LIVE_MS) return ["live", "live"];
		if (!this.failure) return this.heard ? ["stale", `stale: ${age} old`] : ["stale", "connecting"];
		const again = Math.max(0, Math.ceil((this.retryAt - Date.now()) / 1000));
		const next = again > 1 ? `, next try in ${again} s` : "";
		return ["away", age ? `center away: this is ${age} old${next}` : `center away${next}`];
	}

	show() {
		const [state, words] = this.words();
		this.element.dataset.state = state;
		document.documentElement.dataset.freshness = state;
		setText(this.element, words);
	}
}
