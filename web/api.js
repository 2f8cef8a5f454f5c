// SPDX-License-Identifier: Apache-2.0
// Calls to the node that served this page.

export class ApiError extends Error {
	constructor(status, words) {
		super(words);
		this.status = status; // 0: no answer
	}
}

async function wordsOf(answer) {
	try {
		return (await answer.json()).error.message;
	} catch {
		return `${answer.status} ${answer.statusText}`;
	}
}

/** fetch that throws an ApiError with the other side's words. */
export async function call(path, options = {}) {
	let answer;
	try {
		answer = await fetch(path, {cache: "no-store", ...options});
	} catch (failure) {
		if (failure.name === "AbortError") throw failure;
		throw new ApiError(0, "the center does not answer");
	}
	if (!answer.ok) throw new ApiError(answer.status, await wordsOf(answer));
	return answer;
}

export async function json(path) {
	const patience = new AbortController();
	const timer = setTimeout(() => patience.abort(), 8000);
	try {
		return await (await call(path, {signal: patience.signal})).json();
	} catch (failure) {
		throw failure instanceof ApiError ? failure : new ApiError(0, "the center does not answer");
	} finally {
		clearTimeout(timer);
	}
}

/** `mdn console` puts a ticket behind the URL's #, where no server and no log sees it; it is traded for a cookie. */
export async function signIn() {
	const ticket = location.hash.match(/^#ticket=([\w-]+)$/)?.[1];
	if (!ticket) return;
	history.replaceState(null, "", "#/");
	await call("/mdn/v1/console/login", {method: "POST", body: ticket});
}
