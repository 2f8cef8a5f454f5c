/* SPDX-License-Identifier: Apache-2.0 */
/* limits.h - everything a peer can grow has its limit here, with the status that reaching it gives. */
#ifndef MDN_BASE_LIMITS_H
#define MDN_BASE_LIMITS_H

/* name, value, status on reaching it, what it bounds */
#define LIMITS_TABLE(X) \
	X(LIMIT_CONNS, 65536, 503, "connections on one listener") \
	X(LIMIT_HTTP_TARGET, 8192, 414, "bytes of a request target") \
	X(LIMIT_HTTP_HEADERS, 32768, 431, "bytes of all headers of a message") \
	X(LIMIT_HTTP_HEADER_COUNT, 100, 431, "headers of a message") \
	X(LIMIT_HTTP_IDLE_MS, 75000, 408, "milliseconds an idle connection is kept") \
	X(LIMIT_HTTP_HEAD_MS, 10000, 408, "milliseconds until a request head is complete") \
	X(LIMIT_HTTP_BODY_STALL_MS, 30000, 408, "milliseconds without a byte of a body") \
	X(LIMIT_HTTP_BODY_RATE, 500, 408, \
	  "bytes a second of a body that is collected, after the first LIMIT_HTTP_BODY_STALL_MS") \
	X(LIMIT_HTTP_AHEAD, 134217728, 503, \
	  "bytes of unfinished heads and requests to come, of all connections of one listener") \
	X(LIMIT_WRITE_BUFFER, 262144, 0, "bytes buffered towards a slow reader before producers wait") \
	X(LIMIT_WRITE_RATE, 100, 0, "bytes a second that a reader takes at least, while something waits for it") \
	X(LIMIT_HTTP_UNREAD, 536870912, 0, \
	  "bytes that slow readers have not taken, of one listener; who holds most is cut") \
	X(LIMIT_BODIES, 1073741824, 503, "bytes of request bodies held at once on one listener") \
	X(LIMIT_SMALL_BODY, 65536, 413, "bytes of a JSON request that only names something") \
	X(LIMIT_JSON_BODY, 16777216, 413, "bytes of a JSON request") \
	X(LIMIT_JSON_DEPTH, 64, 400, "nesting of a JSON request") \
	X(LIMIT_MESSAGES, 2048, 400, "messages of a chat request") \
	X(LIMIT_CHOICES, 16, 400, "n of a request") \
	X(LIMIT_STOPS, 16, 400, "stop sequences of a request") \
	X(LIMIT_STOP_LENGTH, 256, 400, "bytes of one stop sequence") \
	X(LIMIT_LOGPROBS, 20, 400, "top_logprobs of a request") \
	X(LIMIT_LOGIT_BIAS, 1024, 400, "tokens of a request's logit_bias") \
	X(LIMIT_CACHE_SALT, 256, 400, "bytes of a request's cache_salt") \
	X(LIMIT_SESSION, 512, 400, "bytes of what a request calls its session") \
	X(LIMIT_PROMPT_TOKENS, 1048576, 400, "token ids of a request's prompts") \
	X(LIMIT_TOOLS, 256, 400, "tools of a request") \
	X(LIMIT_INPUTS, 2048, 400, "texts of one embedding or rerank request") \
	X(LIMIT_SCHEDULERS, 16, 413, "schedulers one gateway follows") \
	X(LIMIT_MAP, 67108864, 413, "bytes of one map event") \
	X(LIMIT_SCHEMA, 65536, 413, "bytes of a response_format schema") \
	X(LIMIT_TOOLS_BYTES, 262144, 413, "bytes of the tools of a request") \
	X(LIMIT_QUEUE, 512, 429, "requests waiting for an engine slot on a node") \
	X(LIMIT_MODEL_WAITERS, 512, 503, "requests waiting for models to be loaded on a node") \
	X(LIMIT_MANIFEST, 4194304, 413, "bytes of an OCI manifest") \
	X(LIMIT_SIGNATURE, 16777216, 413, "bytes of a signature bundle") \
	X(LIMIT_UPLOADS, 256, 429, "open blob uploads") \
	X(LIMIT_NAME, 128, 400, "bytes of a model or node name") \
	X(LIMIT_NODES, 65536, 503, "nodes of one network") \
	X(LIMIT_ZONES, 1048576, 413, "client prefixes of the zone table") \
	X(LIMIT_COVERAGE, 134217728, 0, "bytes of a coverage-zone file") \
	X(LIMIT_DEMAND, 4096, 413, "client prefixes one edge tells the demand of") \
	X(LIMIT_DEMAND_PREFIXES, 262144, 0, "client prefixes a scheduler makes its map for") \
	X(LIMIT_STEERS, 4096, 429, "operators' words on sites and prefixes, on one scheduler") \
	X(LIMIT_NODE_MODELS, 256, 413, "models one node reports") \
	X(LIMIT_MODELS, 65536, 503, "model versions in one catalog") \
	X(LIMIT_CHUNKS, 262144, 413, "chunks of one file") \
	X(LIMIT_GGUF_KVS, 65536, 400, "metadata keys of a GGUF file") \
	X(LIMIT_GGUF_TENSORS, 262144, 400, "tensors of a GGUF file") \
	X(LIMIT_GGUF_HEADER, 268435456, 400, "bytes of a GGUF header") \
	X(LIMIT_SAFETENSORS_HEADER, 100000000, 400, "bytes of a safetensors header") \
	X(LIMIT_DNS_TCP_CONNS, 256, 0, "DNS connections over TCP") \
	X(LIMIT_CONTROL_DOCUMENT, 67108864, 0, "bytes of a roster, an assignment or a catalog") \
	X(LIMIT_JOIN_TOKENS, 4096, 429, "join tokens not yet used or expired") \
	X(LIMIT_API_KEYS, 65536, 429, "API keys of one network") \
	X(LIMIT_TEAMS, 4096, 429, "teams of one network") \
	X(LIMIT_PLACEMENT_RULES, 4096, 429, "placement rules of one network") \
	X(LIMIT_BANDWIDTH_LIMITS, 4096, 429, "bandwidth limits of one network") \
	X(LIMIT_FILE, 209715200, 413, "bytes of a file uploaded for a batch") \
	X(LIMIT_FILE_NAME, 255, 400, "bytes of its name") \
	X(LIMIT_FILE_UPLOADS, 16, 429, "such uploads at once on a node") \
	X(LIMIT_FILES, 1000, 429, "files of one tenant on a node") \
	X(LIMIT_FILES_BYTES, 1073741824, 413, "bytes of the files of one tenant on a node") \
	X(LIMIT_BATCHES, 1000, 429, "batches of one tenant on a node; those that are over make room") \
	X(LIMIT_BATCH_LINES, 50000, 400, "requests of a batch") \
	X(LIMIT_BATCH_LINE, 4194304, 400, "bytes of one of them") \
	X(LIMIT_BATCH_ANSWER, 67108864, 0, "bytes of an answer to one of them") \
	X(LIMIT_BATCH_ERRORS, 50, 0, "lines of a batch's input told as wrong") \
	X(LIMIT_CUSTOM_ID, 512, 400, "bytes of a custom_id") \
	X(LIMIT_SSE_WATCHERS, 4096, 503, "open event streams on one node")

enum limits {
#define X(name, value, status, what) name = (value),
	LIMITS_TABLE(X)
#undef X
};

#endif
