// SPDX-License-Identifier: Apache-2.0
// Numbers and states as people read them; the same units as the command line.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

export function bytes(count) {
	let unit = 0, value = count;
	while (value >= 1000 && unit < UNITS.length - 1) {
		value /= 1024;
		unit++;
	}
	return `${unit && value < 100 ? value.toFixed(1) : Math.round(value)} ${UNITS[unit]}`;
}

export function rate(perSecond) {
	return `${bytes(perSecond)}/s`;
}

/** The same as links are measured. */
export function bits(perSecond) {
	const units = ["kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"];
	let unit = 0, value = perSecond * 8 / 1000;
	while (value >= 1000 && unit < units.length - 1) {
		value /= 1000;
		unit++;
	}
	return `${value < 100 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

export function percent(share) {
	return `${Math.floor(share * 100 + 1e-9)} %`;
}

export function duration(seconds) {
	if (seconds < 60) return `${Math.max(0, Math.round(seconds))} s`;
	const minutes = Math.round(seconds / 60);
	if (minutes < 60) return `${minutes} min`;
	if (minutes < 48 * 60) return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
	return `${Math.round(minutes / 1440)} days`;
}

export function clock(us) {
	const at = new Date(us / 1000), today = new Date().toDateString() === at.toDateString();
	const time = at.toLocaleTimeString([], {hour: "2-digit", minute: "2-digit"});
	return today ? time : `${at.toLocaleDateString([], {month: "short", day: "numeric"})} ${time}`;
}

/** What is left until `us`: a time of the center; 0 it is there, -1 nobody can know. */
export function left(us) {
	if (us === 0) return "";
	return us < 0 ? "not known" : duration(us / 1e6 - Date.now() / 1000);
}

export function plural(count, one, many = `${one}s`) {
	return `${count} ${count === 1 ? one : many}`;
}

export const STATES = {
	waiting: "waiting",
	fetching: "fetching",
	loading: "loading",
	ready: "ready",
	failed: "failed",
	cached: "on disk",
	paused: "paused",
	origin: "origin",
	away: "away",
};

export const PHASES = {
	moving: "nodes change to the new version",
	soaking: "being watched",
	halted: "halted",
	returning: "going back",
	returned: "went back",
	done: "done",
};
