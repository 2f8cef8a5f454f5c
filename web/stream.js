// SPDX-License-Identifier: Apache-2.0
// Server-sent events that never give up. EventSource hides the center's heartbeat, a comment every two seconds; here it
// is what tells a quiet stream from a dead one.
import {ApiError, call} from "./api.js";

const SILENCE_MS = 6000, FIRST_WAIT_MS = 500, LONGEST_WAIT_MS = 15000;

/** Blocks of `text` that are complete, and the rest. */
function cut(text) {
	const blocks = text.split("\n\n");
	return [blocks.slice(0, -1), blocks.at(-1)];
}

function dataOf(block) {
	return block.split("\n").filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trimStart()).join("\n");
}

async function read(path, abort, {onData, onSign}) {
	let silence = setTimeout(() => abort.abort(), SILENCE_MS), rest = "", blocks;
	const alive = () => {
		clearTimeout(silence);
		silence = setTimeout(() => abort.abort(), SILENCE_MS);
		onSign();
	};
	try {
		const answer = await call(path, {signal: abort.signal});
		const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
		for (alive();; alive()) {
			const {value, done} = await reader.read();
			if (done) return;
			[blocks, rest] = cut(rest + value.replaceAll("\r\n", "\n"));
			for (const text of blocks.map(dataOf)) if (text) onData(JSON.parse(text));
		}
	} finally {
		clearTimeout(silence);
	}
}

/** Follows a stream until the returned function is called. onAway(error, seconds until the next try). */
export function follow(path, {onData, onSign, onAway}) {
	let stopped = false, abort = null, timer = null, wait = FIRST_WAIT_MS;
	const good = () => {
		wait = FIRST_WAIT_MS;
		onSign();
	};
	async function go() {
		let failure = new ApiError(0, "the center went away");
		abort = new AbortController();
		try {
			await read(path, abort, {onData, onSign: good});
		} catch (error) {
			if (error instanceof ApiError) failure = error;
		}
		if (stopped) return;
		const after = wait * (0.75 + Math.random() / 2);
		wait = Math.min(wait * 2, LONGEST_WAIT_MS);
		timer = setTimeout(go, after);
		onAway(failure, after / 1000);
	}
	go();
	return () => {
		stopped = true;
		abort?.abort();
		clearTimeout(timer);
	};
}
