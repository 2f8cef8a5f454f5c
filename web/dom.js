// SPDX-License-Identifier: Apache-2.0
// Elements from code. Text always goes in as text: nothing a node says becomes markup.

function fill(element, attributes, children) {
	for (const [name, value] of Object.entries(attributes)) set(element, name, value);
	element.append(...children.filter((child) => child !== null && child !== undefined));
	return element;
}

/** An attribute when it changed: what stays as it is costs nothing. null and false take it away. */
export function set(element, name, value) {
	if (value === null || value === undefined || value === false) element.removeAttribute(name);
	else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

export function html(name, attributes = {}, ...children) {
	return fill(document.createElement(name), attributes, children);
}

export function svg(name, attributes = {}, ...children) {
	return fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

export function setText(element, text) {
	if (element.textContent !== text) element.textContent = text;
}

/** Elements by key, made once and kept: `make(item)` for new ones, `update(element, item)` for all, others leave. */
export class Keyed {
	constructor(parent, key, make, update, leave = (element) => element.remove()) {
		Object.assign(this, {parent, key, make, update, leave, elements: new Map()});
	}

	show(items) {
		const before = this.elements;
		this.elements = new Map();
		for (const item of items) {
			const key = this.key(item);
			let element = before.get(key);
			before.delete(key);
			if (!element) this.parent.append(element = this.make(item));
			this.elements.set(key, element);
			this.update(element, item);
		}
		for (const element of before.values()) this.leave(element);
	}

	/** The same, in this order. */
	showOrdered(items) {
		this.show(items);
		let place = this.parent.firstElementChild;
		for (const element of this.elements.values()) {
			if (element === place) place = place.nextElementSibling;
			else this.parent.insertBefore(element, place);
		}
	}
}
