/* SPDX-License-Identifier: Apache-2.0 */
/* llama_cache.c - what is saved goes to memory at once and is ordered to disk at once; the disk's thread holds a
 * reference to the bytes, so neither waits for the other. A node with an order on its way is pinned by it. */
#include "engine/llama_cache.h"
#include "engine/llama_parts.h"

#include <stdlib.h>

enum {
	NODES_MAX = 1 << 16,
	SAVE_LEAST = 16,         /* tokens behind the state before; fewer are computed again as fast */
	DISK_BYTES_PER_US = 200, /* until measured */
};

struct cache {
	struct llama_core *core;
	struct prefix *tree;
	struct disk *disk; /* NULL: none */
	double disk_speed; /* bytes per microsecond, EWMA */
	bool closing;
};

struct disk_copy {
	char name[KV_FILE_NAME_SIZE];
	uint64_t bytes; /* of KV */
};

static void disk_forget(struct cache *cache, const char *name)
{
	struct disk_order *order = disk_order_new(DISK_REMOVE);

	memcpy(order->name, name, sizeof(order->name));
	disk_order(cache->disk, order);
}

static void on_drop(void *arg, enum prefix_tier tier, void *handle)
{
	struct cache *cache = arg;

	if (tier == PREFIX_MEMORY) {
		kv_blob_unref(handle);
		return;
	}
	struct disk_copy *copy = handle;
	if (!cache->closing)
		disk_forget(cache, copy->name);
	free(copy);
}

int cache_new(const struct cache_options *o, struct cache **ret_cache, struct error *err)
{
	struct cache *cache = NEW(struct cache);
	struct prefix_options options = {.block = CACHE_BLOCK,
	                                 .chained = llama_core_divisible(o->core),
	                                 .nodes_max = NODES_MAX,
	                                 .bytes_max = {o->memory_bytes, o->folder ? o->disk_bytes : 0},
	                                 .drop = on_drop,
	                                 .arg = cache};
	int rc = 0;

	cache->core = o->core;
	cache->disk_speed = DISK_BYTES_PER_US;
	cache->tree = prefix_new(&options);
	if (o->folder && o->disk_bytes)
		rc = disk_new(o->folder, o->model, &o->fingerprint, o->wake, o->arg, &cache->disk, err);
	*ret_cache = cache;
	return rc;
}

static void nobody_waits(void *arg, uint64_t ticket)
{
	(void)arg, (void)ticket;
}

void cache_free(struct cache *cache)
{
	if (!cache)
		return;
	if (cache->disk)
		disk_stop(cache->disk);
	cache_collect(cache, nobody_waits, NULL); /* what was written last counts, too */
	cache->closing = true;
	disk_free(cache->disk);
	prefix_free(cache->tree);
	free(cache);
}

struct prefix_match cache_find(const struct cache *cache, const struct prefix_salt *salt, const int32_t *tokens,
                               int32_t count)
{
	return count > 0 ? prefix_find(cache->tree, salt, tokens, count) : (struct prefix_match){0};
}

static bool node_has_copy(const struct prefix_node *node)
{
	return prefix_handle(node, PREFIX_MEMORY) || prefix_handle(node, PREFIX_DISK);
}

/* ---- saving ------------------------------------------------------------------------------------ */

static struct disk_order *order_for(enum disk_kind kind, struct prefix_node *node, int32_t begin)
{
	struct disk_order *order = disk_order_new(kind);
	int32_t count = prefix_end(node);

	order->file = (struct kv_file){.salt = *prefix_salt_of(node), .begin = begin, .count = count};
	order->file.tokens = mem_new((size_t)count * sizeof(int32_t));
	prefix_path(node, order->file.tokens);
	disk_name(&order->file, order->name);
	order->arg = node;
	return order;
}

static void node_write(struct cache *cache, struct prefix_node *node, int32_t begin, struct kv_blob *blob,
                       double cost_us)
{
	if (!cache->disk || cache_salt_in_memory_only(prefix_salt_of(node)))
		return;
	struct disk_order *order = order_for(DISK_WRITE, node, begin);
	order->file.cost_us = (uint64_t)cost_us;
	order->file.blob_size = blob->size;
	order->blob = blob;
	kv_blob_ref(blob);
	prefix_pin(cache->tree, node);
	if (!disk_order(cache->disk, order)) { /* the disk is behind: this one is not worth waiting for */
		prefix_unpin(cache->tree, node);
		disk_order_free(order);
	}
}

static bool node_save(struct cache *cache, struct prefix_node *node, int32_t seq, int32_t begin, double cost_us)
{
	size_t size;
	uint8_t *bytes = llama_core_export(cache->core, seq, begin, prefix_end(node), &size);

	if (!bytes)
		return false;
	struct kv_blob *blob = kv_blob_new(bytes, size);
	if (!prefix_put(cache->tree, node, PREFIX_MEMORY, blob, size, cost_us)) {
		kv_blob_unref(blob);
		return false;
	}
	node_write(cache, node, begin, blob, cost_us);
	return true;
}

static int save_whole(struct cache *cache, int32_t seq, struct prefix_node *node, double us_per_token)
{
	struct prefix_node *before = prefix_parent(node);

	if (node_has_copy(node))
		return 0;
	while (before && !node_has_copy(before))
		before = prefix_parent(before);
	int32_t tokens = prefix_end(node) - (before ? prefix_end(before) : 0);
	return tokens >= SAVE_LEAST && node_save(cache, node, seq, 0, tokens * us_per_token) ? 0 : E_LIMIT;
}

static int save_blocks(struct cache *cache, int32_t seq, struct prefix_node *last, double us_per_token, int32_t blocks)
{
	int32_t most = prefix_end(last) / CACHE_BLOCK + 1, saved = 0;
	struct prefix_node **nodes = mem_new((size_t)most * sizeof(struct prefix_node *));
	int32_t count = cache_path(cache, last, 0, nodes, most);
	int rc = 0;

	for (int32_t i = 0; i < count && rc == 0; i++) {
		int32_t begin = prefix_begin(nodes[i]), tokens = prefix_end(nodes[i]) - begin;
		if (node_has_copy(nodes[i]))
			continue;
		if (blocks && saved++ == blocks)
			rc = 1;
		else if (!node_save(cache, nodes[i], seq, begin, tokens * us_per_token))
			rc = E_LIMIT;
	}
	free(nodes);
	return rc;
}

int cache_save(struct cache *cache, int32_t seq, const struct prefix_salt *salt, const int32_t *tokens, int32_t count,
               double us_per_token, int32_t blocks)
{
	struct prefix_node *node;

	if (count < SAVE_LEAST || prefix_add(cache->tree, salt, tokens, count, &node) < 0)
		return E_LIMIT;
	int rc = llama_core_divisible(cache->core) ? save_blocks(cache, seq, node, us_per_token, blocks)
	                                           : save_whole(cache, seq, node, us_per_token);
	prefix_unpin(cache->tree, node);
	return rc;
}

/* ---- finding again ----------------------------------------------------------------------------- */

int32_t cache_path(const struct cache *cache, struct prefix_node *node, int32_t past, struct prefix_node **ret_nodes,
                   int32_t most)
{
	int32_t count = 0;

	if (!llama_core_divisible(cache->core)) {
		ret_nodes[0] = node;
		return 1;
	}
	for (struct prefix_node *n = node; n && prefix_end(n) > past; n = prefix_parent(n))
		count++;
	struct prefix_node *n = node;
	for (int32_t i = count; i-- > 0; n = prefix_parent(n))
		if (i < most)
			ret_nodes[i] = n;
	return count < most ? count : most;
}

const struct kv_blob *cache_blob(const struct prefix_node *node)
{
	return prefix_handle(node, PREFIX_MEMORY);
}

void cache_hit(struct cache *cache, struct prefix_node *node)
{
	prefix_hit(cache->tree, node);
}

void cache_hold(struct cache *cache, struct prefix_node *node, bool hold)
{
	if (hold)
		prefix_pin(cache->tree, node);
	else
		prefix_unpin(cache->tree, node);
}

void cache_spoiled(struct cache *cache, struct prefix_node *node)
{
	prefix_pin(cache->tree, node);
	prefix_lose(cache->tree, node, PREFIX_MEMORY);
	prefix_lose(cache->tree, node, PREFIX_DISK);
	prefix_unpin(cache->tree, node);
}

/* ---- disk -------------------------------------------------------------------------------------- */

static struct prefix_node *next_up(const struct cache *cache, struct prefix_node *node, int32_t past)
{
	struct prefix_node *up = llama_core_divisible(cache->core) ? prefix_parent(node) : NULL;

	return up && prefix_end(up) > past ? up : NULL;
}

uint64_t cache_on_disk(const struct cache *cache, struct prefix_node *node, int32_t past, double *ret_us)
{
	uint64_t bytes = 0;

	for (; node; node = next_up(cache, node, past)) {
		const struct disk_copy *copy = prefix_handle(node, PREFIX_DISK);
		if (copy && !cache_blob(node))
			bytes += copy->bytes;
	}
	*ret_us = (double)bytes / cache->disk_speed;
	return bytes;
}

int32_t cache_fetch(struct cache *cache, struct prefix_node *node, int32_t past, uint64_t ticket)
{
	int32_t count = 0;

	for (; node; node = next_up(cache, node, past)) {
		if (cache_blob(node) || !prefix_handle(node, PREFIX_DISK))
			continue;
		int32_t begin = llama_core_divisible(cache->core) ? prefix_begin(node) : 0;
		struct disk_order *order = order_for(DISK_READ, node, begin);
		order->number = ticket;
		prefix_pin(cache->tree, node);
		disk_order(cache->disk, order);
		count++;
	}
	return count;
}

static void disk_copy_put(struct cache *cache, struct prefix_node *node, const struct disk_order *order)
{
	uint64_t file_size = KV_FILE_HEAD + (uint64_t)order->file.count * sizeof(int32_t) + order->file.blob_size;

	if (prefix_handle(node, PREFIX_DISK))
		return; /* the scan met what was just written */
	struct disk_copy *copy = NEW(struct disk_copy);
	memcpy(copy->name, order->name, sizeof(copy->name));
	copy->bytes = order->file.blob_size;
	if (!prefix_put(cache->tree, node, PREFIX_DISK, copy, file_size, (double)order->file.cost_us)) {
		disk_forget(cache, copy->name);
		free(copy);
	}
}

static void on_found(struct cache *cache, struct disk_order *order)
{
	const struct kv_file *file = &order->file;
	struct prefix_node *node;

	if (prefix_add(cache->tree, &file->salt, file->tokens, file->count, &node) < 0) {
		disk_forget(cache, order->name);
		return;
	}
	int32_t begin = llama_core_divisible(cache->core) ? prefix_begin(node) : 0;
	if (prefix_end(node) == file->count && begin == file->begin)
		disk_copy_put(cache, node, order);
	else
		disk_forget(cache, order->name);
	prefix_unpin(cache->tree, node);
}

static void on_read(struct cache *cache, struct disk_order *order)
{
	struct prefix_node *node = order->arg;

	if (!order->good) {
		prefix_lose(cache->tree, node, PREFIX_DISK);
	} else {
		double speed = (double)order->blob->size / (double)(order->took_us > 0 ? order->took_us : 1);
		cache->disk_speed += 0.2 * (speed - cache->disk_speed);
		if (!cache_blob(node) && prefix_put(cache->tree, node, PREFIX_MEMORY, order->blob, order->blob->size,
		                                    (double)order->file.cost_us))
			kv_blob_ref(order->blob);
	}
}

void cache_collect(struct cache *cache, cache_fetched *fetched, void *arg)
{
	if (!cache || !cache->disk)
		return;
	for (struct disk_order *order = disk_take(cache->disk), *next; order; order = next) {
		next = order->next;
		if (order->kind == DISK_FOUND) {
			on_found(cache, order);
		} else if (order->kind == DISK_READ) {
			on_read(cache, order);
			fetched(arg, order->number);
			prefix_unpin(cache->tree, order->arg);
		} else if (order->kind == DISK_WRITE) {
			if (order->good)
				disk_copy_put(cache, order->arg, order);
			prefix_unpin(cache->tree, order->arg);
		}
		disk_order_free(order);
	}
}

struct prefix_numbers cache_numbers(const struct cache *cache)
{
	return cache ? prefix_numbers(cache->tree) : (struct prefix_numbers){0};
}
