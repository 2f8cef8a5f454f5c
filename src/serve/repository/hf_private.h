/* SPDX-License-Identifier: Apache-2.0 */
/* hf_private.h - what the files of the Hugging Face door share.
 *
 * A request becomes an hf_task: the loop reads what it asks for, a job finds the snapshot and fills `body` (or opens
 * the file), the loop answers. Source: the client, huggingface_hub 1.x and 2.x (hf_api.py, file_download.py).
 */
#ifndef MDN_SERVE_HF_PRIVATE_H
#define MDN_SERVE_HF_PRIVATE_H

#include "serve/repository/hf_path.h"
#include "serve/repository/repository_private.h"
#include "serve/repository/snapshot.h"

#define HF_PAGE_MAX 1000

struct hf_task {
	struct task t; /* t.repo: our name */
	enum hf_ask ask;
	char id[REPO_NAME_SIZE]; /* as the client says it */
	char revision[160];
	char path[256]; /* HF_FILE: the file; HF_TREE: the folder, empty for all */
	char base[300]; /* how the client reaches us: "http://host:port" */
	bool head, recursive, blobs;
	bool filtered;                             /* HF_LIST */
	size_t limit, cursor;                      /* of HF_TREE */
	char search[129], author[129], after[129]; /* of HF_LIST */
	struct buf form;                           /* of HF_PATHS */

	const char *code; /* X-Error-Code for t.err */
	struct version version;
	char commit[COMMIT_SIZE];
	struct buf body, link;  /* link: what Link says */
	struct blob_file *blob; /* HF_FILE */
	uint64_t size;
	const struct version_file *file;
};

/* In the job; 0 or t.err and h->code. */
int hf_file_work(struct hf_task *h);
int hf_info_work(struct hf_task *h);
int hf_tree_work(struct hf_task *h);
int hf_paths_work(struct hf_task *h);
int hf_refs_work(struct hf_task *h);
int hf_commits_work(struct hf_task *h);
/* A list is made in three steps: names and tags into h->form, a line each (job); those that the caller may see, of one
 * page (loop); what there is to say of them (job). */
int hf_list_work(struct hf_task *h);
void hf_list_filter(struct hf_task *h);
int hf_list_format(struct hf_task *h);

void hf_file_answer(struct hf_task *h); /* takes over h->blob */
/* {"size","lfs"...} of one file, for trees and siblings. */
void hf_append_lfs(struct buf *out, const struct version_file *f);
void hf_error(struct http_exchange *x, int status, const char *code, const char *message);

#endif
