/* SPDX-License-Identifier: Apache-2.0 */
/* remote_load.h - what other servers tell of their load: metrics in Prometheus' text format, and the ORCA header.
 *
 * Pure. The names are those of vLLM (`vllm:*`, which ours are, too), SGLang (`sglang:*`), llama-server (`llamacpp:*`)
 * and TensorRT-LLM (`trtllm_*`). Sources: the servers' own pages of metrics; Prometheus, "Exposition formats"; ORCA,
 * xDS "OrcaLoadReport" and the header `endpoint-load-metrics` as vLLM writes it: "TEXT name=value, ..." or "JSON
 * {...}".
 */
#ifndef MDN_ENGINE_REMOTE_LOAD_H
#define MDN_ENGINE_REMOTE_LOAD_H

#include "base/str.h"

#include <stdbool.h>
#include <stdint.h>

struct remote_told {
	bool has_running, has_waiting, has_kv;
	double running, waiting; /* requests of all its clients */
	double kv_usage;         /* 0..1, the fullest of its engines */
};

/* Sums over the samples of `model`; when none names it, over all: servers know models by several names. False: nothing
 * of use was told. Any bytes. */
bool remote_metrics_parse(struct str text, struct str model, struct remote_told *ret_told);
bool remote_orca_parse(struct str header, struct remote_told *ret_told);

#endif
